"""prune(): hooks on a stock model.

Only this file and bench/replay.py know transformers' layers and masks, and change its caches. (The
benchmark's floor runs the same layers without a method.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from visipruner.attention import Plan, Watch, is_for_rows, visible_visual_pairs
from visipruner.block import (
    CACHE_IS_PRUNED,
    LEFT_EARLY,
    NOT_THROUGH,
    NOTHING_RAN,
    Turn,
    check_call,
    check_not_compiled,
    check_outputs,
)
from visipruner.cutting import Carried, Owners, Waiting, both, carry_out
from visipruner.decoders import (
    RunHook,
    check_free,
    decoder_of,
    not_understood,
    not_watched,
    parts_of,
)
from visipruner.errors import Refused
from visipruner.layout import Rows, TokenLayout
from visipruner.methods.base import PruningMethod
from visipruner.observing import Audience, Observer, all_rows
from visipruner.special import COUNTED_HERE, Added, Axes
from visipruner.stock import (
    attention_backend,
    cache_of,
    close_cache,
    is_growing,
)
from visipruner.tower import Clip, Tower, TowerWatch, check_clip, needs_clip, needs_tower
from visipruner.trace import Cut, LayerRecord, MethodStory, PruningTrace, Selection
from visipruner.view import LayerInput, LayerView


@contextmanager
def prune(
    model: nn.Module,
    method: PruningMethod | Sequence[PruningMethod],
    layout: TokenLayout,
    *,
    tower: Tower | None = None,
    clip: Clip | None = None,
    on_layer: Callable[[LayerRecord], None] | None = None,
    probe: bool = False,
    renumbers: bool = True,
    observers: Sequence[Observer] = (),
) -> Iterator[PruningTrace]:
    """Prune one prompt while it runs through `model`, by `generate()` or a bare forward loop.

    Hidden states are cut between layers, caches become shorter, positions stay true. When the block
    ends, also by an exception, the model is as before. One thread runs the prompt: the one that
    opens the block, or one that is started in it and ends before it. The output is shorter than
    usual: logits cover only the surviving tokens. The cache cannot be used after the block.

    Args:
        model: a loaded Llama-like causal LM or LLaVA of transformers, with sdpa, eager or
            flash attention.
        method: which tokens to drop; `PruningMethod()` drops none and only keeps the trace. Several
            methods make a stack. Before layer 0, each sees the tokens that the previous one kept.
            After a layer, all see the same tokens, and only tokens that all keep go on.
        layout: the layout of this prompt.
        tower: what the vision tower computed, for methods that need it. Give it if the tower does
            not run inside the block.
        clip: CLIP's embeddings of picture and question, for methods that need them.
        on_layer: called after every layer in prefill; an exception that it raises stops the run.
        probe: run the influence test after every layer, whatever the method does.
        renumbers: whether the model's positions are plain numbers, so that a method may renumber.
        observers: watch every layer in prefill, also after the visual tokens left, and change
            nothing: neither the answer nor the trace, and their FLOPs are not counted. In each
            layer they come after the methods' decision, before anything is cut.

    Raises:
        Refused: the prompt cannot be pruned exactly: a batch, left padding, a prompt in pieces, a
            second prompt, another `prune` on the same model, a cache that cannot be shortened, a
            compiled model, another thread's prompt, labels, attentions and hidden states. Also if
            the block ends without an error before the prompt ran to its first token.
        ValueError: the method returned an impossible decision.
    """
    decoder = decoder_of(model)
    methods = (method,) if isinstance(method, PruningMethod) else tuple(method)
    run = Run(model, decoder, methods, layout, tower, on_layer, probe, renumbers, clip, observers)
    try:
        run.install()
        yield run.trace
    finally:
        run.remove()
    run.check_ran()  # not reached after an error, which says more


@dataclass
class _Member:
    """One method of a run's stack, with its memory."""

    number: int
    method: PruningMethod
    memory: SimpleNamespace
    rows: Tensor | None = None  # whose attention it reads in the running layer; None: the last's

    @classmethod
    def of(cls, number: int, method: PruningMethod) -> _Member:
        # entered: visual tokens when the method was first called; cuts: its own executed cuts.
        return cls(number, method, SimpleNamespace(entered=0, cuts=[]))


class Run:
    """One prompt from start to end: install hooks, prefill, decode, remove hooks."""

    def __init__(
        self,
        model,
        decoder,
        methods,
        layout,
        tower,
        on_layer,
        probe=False,
        renumbers=True,
        clip=None,
        observers=(),
    ):
        check_clip(methods, clip, layout.num_visual)
        self.model, self.decoder, self.layout = model, decoder, layout
        self.layers = list(decoder.layers)
        self.members = [_Member.of(number, method) for number, method in enumerate(methods)]
        self.parts = parts_of(model, decoder)
        self.tower, self.clip = tower, clip
        self.tower_watch = None  # set if a method needs the tower and `tower` was not given
        if tower is None and needs_tower(methods):
            self.tower_watch = TowerWatch.on(model)
        self.on_layer, self.probe, self.renumbers = on_layer, probe, renumbers
        self.audience = Audience(observers, layout.num_visual)
        stories = [MethodStory(method.name, method.settings) for method in methods]
        self.trace = PruningTrace.begin(stories, layout)
        self.handles: list = []
        self.prefill_handles: list = []
        self.watch: Watch | None = None  # of the running layer's attention
        self.turns: tuple | None = None  # the running layer's rotary cosines and sines
        self.cache = None  # the Cache object of this prompt
        self.turn = Turn()
        self.started = False
        self.left_early = False  # was another thread inside the model when the block ended?
        self.changed = False  # whether the cache differs from the unpruned model's
        self.axes: Axes | None = None  # None: positions are plain numbers
        self.added: Added | None = None  # features that the model adds between layers
        self.steps = 0
        self.computed: list[Rows] = []  # per layer
        self.waiting: dict[int, Waiting] = {}  # layer -> tokens that enter before it
        self.cached_rows: dict = {}  # results of _cached_rows, shared by layers with equal rows
        self.whole = Rows.of(layout)
        self.owners = Owners(self.whole)
        self._go_on_with(self.whole)

    def _go_on_with(self, rows: Rows):
        """Set the rows for the next layer and clear per-row caches."""
        self.rows = rows
        for member in self.members:
            member.rows = None
        self.fitted: dict = {}  # device -> prefill arguments, cut once for all layers on it
        self.planned_pairs: dict = {}  # plan -> (pairs scored, pairs with a visual token)

    # -- hooks in and out

    def install(self):
        check_free(self.decoder)
        check_not_compiled(self.model, self.decoder)
        if self.tower_watch is not None:
            self.tower_watch.install()
        self._hook(self.handles, self.decoder.register_forward_pre_hook, self.before_forward)
        after = self.decoder.register_forward_hook
        self._hook(self.handles, after, self.after_forward, always_call=True)
        if self.model is not self.decoder:
            before = self.model.register_forward_pre_hook
            self._hook(self.prefill_handles, before, self.before_model)
        self._take_layers()
        lm_head = self.model.get_output_embeddings() if self.model is not self.decoder else None
        if lm_head is not None:
            self._hook(self.handles, lm_head.register_forward_pre_hook, self.before_lm_head)

    def _take_layers(self):
        for index, layer in enumerate(self.layers):
            for register, function in (
                (layer.self_attn.register_forward_pre_hook, self.before_attention),
                (layer.register_forward_hook, self.after_layer),
            ):
                self._hook(self.prefill_handles, register, function, index)
        at_the_door = self.layers[0].register_forward_pre_hook
        self._hook(self.prefill_handles, at_the_door, self.before_layers)

    def _hook(self, handles, register, function, index=None, **more):
        handles.append(register(RunHook(function, index), with_kwargs=True, **more))

    def _change_to_decoding(self):
        """Decoding needs fewer hooks, and each hook costs time for every token."""
        self._remove(self.prefill_handles)
        own_masks = attention_backend(self.decoder) == "eager"
        if own_masks or any(rows.next_place != self.layout.length for rows in self.computed):
            for index, layer in enumerate(self.layers):
                register = layer.register_forward_pre_hook
                self._hook(self.handles, register, self.before_decode_layer, index)

    @staticmethod
    def _remove(handles):
        for handle in handles:
            handle.remove()
        handles.clear()

    def remove(self):
        """End the block. A thread that is still inside the model removes the hooks itself."""
        self.left_early = not self.turn.close()
        if not self.left_early:
            self._take_off()

    def _take_off(self):
        self._remove(self.prefill_handles)
        self._remove(self.handles)
        self._end_watch()
        if self.tower_watch is not None:
            self.tower_watch.remove()
        self.fitted.clear()
        self.waiting.clear()
        self.added = None
        if self.changed and self.cache is not None:
            close_cache(self.cache, CACHE_IS_PRUNED)
        self.cache = None

    def check_ran(self):
        """After the block: check that the prompt ran.

        Raises:
            Refused: nothing ran in the block, or prefill did not finish.
        """
        if self.left_early:
            raise Refused(LEFT_EARLY)
        if not self.started:
            raise Refused(NOTHING_RAN)
        if not self.trace.complete:
            raise Refused(NOT_THROUGH)

    # -- the whole stack

    def before_model(self, _index, _model, args, kwargs):
        self.turn.admit()
        if not self.started:
            check_call(self.model, self.layout, args, kwargs)

    def before_forward(self, _index, _decoder, args, kwargs):
        self.turn.admit()
        check_outputs(self.decoder.config, kwargs)
        tokens = kwargs.get("inputs_embeds")
        if tokens is None:
            tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        batch, length = tokens.shape[:2]
        if batch != 1:
            raise Refused(
                f"prune() runs one prompt at a time, not a batch of {batch} (beam search "
                "and several return sequences make batches too)."
            )
        if not self.started:
            if self.model is self.decoder:
                check_call(self.model, self.layout, args, kwargs)
            self._check_prompt(length, kwargs)
            kwargs, self.added = Added.out_of(kwargs, self.layout)
            self.turn.begin()
            self.started = True
            return args, kwargs
        if length != 1 or not self.trace.complete or cache_of(kwargs) is not self.cache:
            raise Refused(
                "One `with prune(...)` is for one prompt: after its prefill, only one token "
                "at a time with the same cache can follow. Open a new one for the next prompt."
            )
        self.turn.begin()
        if not self.steps:
            self._change_to_decoding()
        # Stock code counts from layer 0's cache, which may be shorter than the prompt.
        position = self.layout.length + self.steps
        if self.axes is None:
            position_ids = torch.full((1, 1), position, device=tokens.device)
        else:
            position_ids = self.axes.of_step(self.steps, position, tokens.device)
        self.trace.decode_positions.append(position)
        self.steps += 1
        return args, {**kwargs, "position_ids": position_ids, "attention_mask": None}

    def _check_prompt(self, length: int, kwargs: dict):
        cache, mask = cache_of(kwargs), kwargs.get("attention_mask")
        if cache is not None and cache.get_seq_length() > 0:
            raise Refused(
                "prune() must see the prompt from its first token: the cache is not empty."
            )
        if cache is None and kwargs.get("use_cache", self.decoder.config.use_cache) is False:
            raise Refused("prune() needs the key-value cache: call the model with use_cache=True.")
        if length != self.layout.length:
            raise Refused(
                f"The layout is for a prompt of {self.layout.length} tokens, but {length} arrived; "
                "a prompt cannot be given in pieces."
            )
        if isinstance(mask, Tensor) and (mask.dim() != 2 or not bool(mask.all())):
            raise Refused("prune() needs a prompt without padding and without a mask of its own.")
        places = kwargs.get("position_ids")
        if isinstance(places, Tensor) and places.dim() == 3:
            self.axes = Axes.of(places, length)
        elif isinstance(places, Tensor) and places.tolist() != [list(range(length))]:
            raise Refused(COUNTED_HERE)

    def after_forward(self, _index, _decoder, _args, _kwargs, output):
        """Also called after a failed pass; `output` may then be None."""
        if not self.turn.is_mine:  # the pass was refused, or began before the block
            return
        if self.steps and output is not None:
            self.trace.decode_kv.append([layer.get_seq_length() for layer in self.cache.layers])
        if self.turn.end():
            self._take_off()

    def before_lm_head(self, _index, _module, args, _kwargs):
        # Methods and observers may ask for logits between layers; those are not the answer's.
        if self.turn.is_mine and self.trace.complete and not self.steps:
            self.trace.prefill_logits += args[0].shape[1]

    # -- one layer

    def before_layers(self, _index, _layer, args, kwargs):
        """Before layer 0: cut the hidden states. `before_attention` cuts the other arguments."""
        self.turn.check()
        self.cache = cache_of(kwargs)
        self._check_cache()
        hidden = self._apply_encode(args[0] if args else kwargs["hidden_states"])
        if args:
            return (hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def _open_record(self, index: int) -> LayerRecord:
        rows, visual = len(self.rows), len(self.rows.patches)
        record = LayerRecord(index, rows, visual, _plain_stage(visual, self.layout))
        self.trace.layers.append(record)
        self.computed.append(self.rows)
        return record

    def _check_cache(self):
        if self.cache is None:
            raise not_understood(self.model, "its layers are given no cache by a name known here")
        if not is_growing(self.cache):
            raise Refused(
                "prune() needs a DynamicCache without sliding windows and offloading "
                "(transformers' default): its layers are shortened one by one."
            )

    def _apply_encode(self, hidden: Tensor) -> Tensor:
        if not self.layout.num_visual:
            return hidden
        noted = self._noted_tower()
        if needs_clip(member.method for member in self.members):
            self.trace.door_flops += self.clip.flops
        for member in self.members:
            outside = sum(len(waiting.rows) for waiting in self.waiting.values())
            member.memory.entered = len(self.rows.visual) + outside
            fields = self._view_fields(member, -1, None)
            view = LayerView(*fields, hidden=hidden, noted=noted, given_clip=self.clip)
            selection = member.method.encode(view)
            if selection is not None:
                hidden = self._cut(member, selection, -1, hidden)
        return hidden

    def _noted_tower(self) -> Tower | None:
        if self.tower_watch is not None and self.tower_watch.tower is None:
            raise Refused(
                f"{self.trace.method} needs the vision tower: let it run within the block, or hand "
                "in what it computed as `tower=`."
            )
        noted = self.tower if self.tower_watch is None else self.tower_watch.tower
        if noted is not None:
            self.trace.door_flops += noted.flops
        return noted

    def _prefill_arguments(self, kwargs: dict) -> dict:
        """Cut masks, rotary tables and position ids to the surviving rows."""
        if self.rows is self.whole:
            return kwargs
        cos, sin = kwargs["position_embeddings"]
        if cos.device not in self.fitted:  # each device of a model needs its own copy
            place = self.rows.place.to(cos.device, non_blocking=True)  # else the host would wait
            if self.rows.next_place > cos.shape[-2]:  # the method made tokens
                turns = self.decoder.rotary_emb(cos, place[None])
            else:
                turns = cos.index_select(-2, place), sin.index_select(-2, place)
            fitted = {"position_embeddings": turns, "position_ids": place[None]}
            fitted["attention_mask"] = _causal(kwargs.get("attention_mask"), len(place))
            self.fitted[cos.device] = fitted
        return {**kwargs, **self.fitted[cos.device]}

    def before_decode_layer(self, index, _layer, args, kwargs):
        """A new token attends to this layer's whole cache, so it needs no mask."""
        self.turn.check()
        hidden = args[0] if args else kwargs["hidden_states"]
        step = self.steps - 1
        kwargs = {**kwargs, "attention_mask": None}
        position = self.computed[index].next_place + step
        if position != self.layout.length + step:  # this layer's tokens were renumbered
            position_ids = torch.full((1, 1), position, device=hidden.device)
            kwargs["position_ids"] = position_ids
            kwargs["position_embeddings"] = self.decoder.rotary_emb(hidden, position_ids)
        return args, kwargs

    def before_attention(self, index, attention, args, kwargs):
        if "attention_watch" in kwargs:  # a method peeks at this layer's query and keys
            return None
        self.turn.check()
        kwargs = self._prefill_arguments(kwargs)
        record, plan = self._open_record(index), None
        self.turns = kwargs["position_embeddings"]
        if record.visual_tokens:
            plan = self._ask_methods(index, record)
        self._count_pairs(record, plan)
        if not record.visual_tokens and not self.audience:
            return args, kwargs
        rows = _united([member.rows for member in self.members])
        if self.audience:
            rows = all_rows([rows, *self.audience.queries(self._view_fields, index, record)])
        self.watch = Watch(attention, plan, query_rows=rows)
        return args, {**kwargs, "attention_watch": self.watch}

    def _ask_methods(self, index: int, record: LayerRecord) -> Plan | None:
        """Note which rows each method will ask for; the layer's plan, or None."""
        views = [(m, LayerInput(*self._view_fields(m, index, record))) for m in self.members]
        plan = self._plan([member.method.attend(view) for member, view in views])
        for member, view in views:
            member.rows = member.method.queries(view)
        return plan

    @staticmethod
    def _plan(plans: list[Plan | None]) -> Plan | None:
        plans = [plan for plan in plans if plan is not None]
        if len(plans) > 1:
            raise Refused("Two methods of this stack edit the attention of the same layer.")
        return plans[0] if plans else None

    def _is_asked_after(self, record: LayerRecord) -> bool:
        """Whether the methods' `select` runs: the layer has visual tokens, or cuts dropped them."""
        return bool(record.visual_tokens or self.trace.cuts)

    def _count_pairs(self, record: LayerRecord, plan: Plan | None):
        if plan is None:
            record.pairs, record.visual_pairs = record.tokens**2, self.rows.visual_pairs
            return
        self.changed = True
        if plan not in self.planned_pairs:  # most layers with a plan have the same one
            if not is_for_rows(plan, record.tokens):
                raise ValueError(
                    f"{self.trace.method} made a plan for other rows than the {record.tokens} that "
                    f"layer {record.layer} computes."
                )
            visual = visible_visual_pairs(plan, self.rows.visual_ranges)
            self.planned_pairs[plan] = sum(span.scored_pairs for span in plan), visual
        record.pairs, record.visual_pairs = self.planned_pairs[plan]

    def _end_watch(self):
        if self.watch is not None:
            self.watch.end()
            self.watch = None

    def after_layer(self, index, _layer, _args, _kwargs, hidden):
        self.turn.check()
        if len(self.trace.layers) != index + 1:  # the layer did not call its attention module
            raise not_watched(self.model)
        record, watch = self.trace.layers[-1], self.watch
        self._end_watch()
        if watch is not None and watch.query is None:
            raise not_watched(self.model)
        selections, given_hidden = [], hidden
        if self.added is not None:
            hidden = self.added.after(index, hidden, self.rows)
        given = {"hidden": hidden, "turns": self.turns, "cache": self.cache.layers[index]}
        if self._is_asked_after(record):
            for member in self.members:
                noted = self._noted(watch, member, record)
                view = LayerView(*self._view_fields(member, index, record), watch=noted, **given)
                selections.append((member, self._decide(view, member)))
        if self.audience:
            self.audience.observe(self._view_fields, index, record, watch, **given)
        is_last = index == len(self.layers) - 1
        output = self._go_on(selections, index, hidden, is_last)
        if output is None and hidden is not given_hidden:
            output = hidden
        if is_last:
            self._finish_prefill()
        if self.on_layer is not None:
            self.on_layer(record)
        return output

    # -- decisions

    def _noted(self, watch: Watch | None, member: _Member, record: LayerRecord):
        """What a method may see of the watch: what it would see without observers."""
        if not self.audience:
            return watch
        return watch.only(member.rows) if record.visual_tokens else None

    def _decide(self, view: LayerView, member: _Member) -> Selection | None:
        if self.probe and view.record.visual_tokens:
            view.influence()
        return member.method.select(view)

    def _view_fields(self, member: _Member, index: int, record: LayerRecord | None) -> tuple:
        return (
            index,
            len(self.layers),
            self.layout,
            self.rows,
            member.memory,
            self.trace,
            record,
            self.parts,
        )

    def _go_on(self, selections, index: int, hidden: Tensor, is_last: bool) -> Tensor | None:
        """Carry out the methods' selections and let waiting tokens in; None: states unchanged."""
        selections = [(member, choice) for member, choice in selections if choice is not None]
        if sum(choice.hidden is not None for _, choice in selections) > 1:
            raise Refused("Two methods of this stack merge tokens after the same layer.")
        before, output, carried = self.rows, None, None
        for member, choice in selections:
            if carried is not None:
                choice = both(carried, choice, before)
            # After the last layer a cut saves nothing: the logits keep all their rows.
            carried, states = self._carry(member, choice, index, None if is_last else hidden)
            if states is not None:
                hidden = output = states
        if index + 1 in self.waiting:
            output = self._let_in(index, self.waiting.pop(index + 1), hidden)
        return output

    def _cut(self, member: _Member, selection: Selection, index: int, hidden: Tensor) -> Tensor:
        return self._carry(member, selection, index, hidden)[1]

    def _carry(self, member, selection, after_layer, hidden) -> tuple[Carried, Tensor | None]:
        """Note the decision, and return the hidden states of the tokens that go on.

        Args:
            hidden: None after the last layer, where rows stay as they are.
        """
        self._check_selection(selection, after_layer, member.method.name)
        carried = carry_out(selection, self.rows, self.layout, member.method.name)
        before = self.owners.owner
        owner = self.owners.follow(selection, carried.rows)
        scores = _numbers(selection.scores, member.method.name)
        self._note(member, after_layer, selection.stage, carried.rows, owner, scores)
        if hidden is None:
            return carried, None
        if self.waiting and selection.compact:
            raise Refused(f"{member.method.name} renumbers while tokens wait to enter.")
        if selection.enter is not None:
            self.waiting[selection.enter] = Waiting.left_by(
                carried, self.rows, hidden, before, member
            )
        if selection.hidden is not None:
            hidden = selection.hidden
        elif carried.changed:
            index = carried.index.to(hidden.device, non_blocking=True)
            hidden = hidden.index_select(1, index)
        self.changed = self.changed or carried.changed or selection.hidden is not None
        if carried.changed:
            self._go_on_with(carried.rows)
        return carried, hidden

    def _check_selection(self, selection: Selection, after_layer: int, name: str):
        if selection.compact and (not self.renumbers or self.axes is not None):
            raise Refused(f"{name} renumbers tokens, which this model cannot take.")
        mixes = selection.hidden is not None or selection.enter is not None
        if mixes and self.added is not None and self.added.after_more_than(after_layer):
            raise Refused(
                f"{name} merges visual tokens or lets them enter late, but this model adds "
                "features to each of them after its first layers."
            )

    def _note(self, member, after_layer, stage, rows: Rows, owner, scores=None):
        patches = rows.patches[rows.patches >= 0].tolist()
        visual = rows.tokens.index_select(0, rows.visual).tolist()
        cut = Cut(after_layer, stage, patches, owner, scores, member.number, visual)
        self.trace.cuts.append(cut)
        member.memory.cuts.append(cut)

    def _let_in(self, after_layer: int, waiting: Waiting, hidden: Tensor) -> Tensor:
        rows, hidden = waiting.enter(self.rows, hidden)
        owner = self.owners.enter(waiting)
        self._note(waiting.member, after_layer, "enter", rows, owner)
        self._go_on_with(rows)
        return hidden

    # -- when prefill ends

    def _finish_prefill(self):
        """Drop the keys and values that no method keeps from each layer's cache."""
        for index, record in enumerate(self.trace.layers):
            layer, kept = self.cache.layers[index], self._cached_rows(index)
            if kept is not None:
                self.changed = True
                kept = kept.to(layer.keys.device, non_blocking=True)
                layer.keys = layer.keys.index_select(2, kept)
                layer.values = layer.values.index_select(2, kept)
            record.kv_tokens = layer.get_seq_length()
        self._explain()

    def _explain(self):
        for member, story in zip(self.members, self.trace.stories, strict=True):
            story.why, story.notes = member.method.explain(self.trace, member.memory)

    def _cached_rows(self, index: int) -> Tensor | None:
        """The rows of a layer that stay in its cache; None: all."""
        rows = self.computed[index]
        wanted = [m.method.cached(index, self.trace, m.memory) for m in self.members]
        wanted = [frozenset(tokens) for tokens in wanted if tokens is not None]
        if not wanted:
            return None
        tokens = frozenset.intersection(*wanted)
        key = (id(rows), tokens)  # layers between the same cuts share their rows
        if key not in self.cached_rows:
            named = torch.tensor(sorted(tokens), dtype=torch.long, device="cpu")
            keep = (rows.is_text | torch.isin(rows.tokens, named)).nonzero().flatten()
            self.cached_rows[key] = None if len(keep) == len(rows) else keep
        return self.cached_rows[key]


def _causal(mask: Tensor | None, rows: int) -> Tensor | None:
    """Eager's mask, which is purely causal, for fewer or more rows."""
    if mask is None or mask.shape[-1] >= rows:
        return None if mask is None else mask[:, :, :rows, :rows]
    shape = (1, 1, rows, rows)
    if mask.dtype == torch.bool:
        return torch.ones(shape, dtype=torch.bool, device=mask.device).tril()
    lowest = torch.finfo(mask.dtype).min
    return torch.full(shape, lowest, dtype=mask.dtype, device=mask.device).triu(1)


def _united(wanted: list[Tensor | None]) -> Tensor | None:
    """The rows that the methods asked for; two methods must ask for the same rows."""
    wanted = [rows for rows in wanted if rows is not None]
    if any(not torch.equal(rows, wanted[0]) for rows in wanted[1:]):
        raise Refused("Two methods of this stack ask for the queries of different tokens.")
    return wanted[0] if wanted else None


def _numbers(scores, name: str) -> list[float] | None:
    """Scores as a list.

    Args:
        scores: a tensor, any other sequence of numbers, or None.

    Raises:
        Refused: one of them is not a number.
    """
    if scores is None:
        return None
    scores = scores.tolist() if isinstance(scores, Tensor) else list(scores)
    if any(map(math.isnan, scores)):
        raise Refused(
            f"The scores by which {name} chooses tokens are not numbers (NaN): the model's weights "
            "are damaged, or too large for their precision."
        )
    return scores


def _plain_stage(visual: int, layout: TokenLayout) -> str:
    if visual == layout.num_visual:
        return "full"
    return "reduced" if visual else "text only"
