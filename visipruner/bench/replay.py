"""A second driver: prefill by replay. Same decisions, same trace, same caches as `prune()`.

Small layers wait for their launches: after the filtering layer, a GPU computes a layer faster than
Python can launch it. Here the stock layers run on buffers of fixed shape. So each layer can be
captured once as a CUDA graph and replayed with a single launch. Prompts are padded at the end to
the next length bucket. Causality hides the padding from every real token, and the influence test
masks it. Methods still decide between layers; a tested layer costs one read.

Without capture (on a CPU, in 4 bits) the same code calls the layers. The tests prove both equal to
the hooks, which stay the reference: on a GPU, and on a CPU with a stand-in that keeps a graph's
rules (tests/tape.py). NOTES.md says what it gains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from visipruner.attention import Plan, Watch, attention_row, clipped, influence
from visipruner.decoders import decoder_of, not_watched
from visipruner.engine import Run
from visipruner.errors import Refused
from visipruner.inputs import check_number
from visipruner.layout import TokenLayout
from visipruner.methods.base import PruningMethod
from visipruner.stock import attention_backend, cache_of, run_layer
from visipruner.trace import LayerRecord, PruningTrace
from visipruner.view import LayerInput, LayerView


class Replayer:
    """The captured layers of one model, kept from prompt to prompt.

    While this object lives, each bucket holds every layer's keys and values for that many rows. A
    bucket's first use costs time. The trace counts the prompt's tokens, not the padding.

    Args:
        model: as for `prune()`, on one device, in sdpa attention.
        bucket: rows are padded to the next multiple of this.
        capture: None: if the model is on a GPU and every matrix is a plain one.

    Raises:
        Refused: the model is on several devices, or the bucket is out of range.
    """

    def __init__(self, model: nn.Module, *, bucket: int = 32, capture: bool | None = None):
        check_number("bucket", bucket, 1, 4096, integer=True)
        if len({parameter.device for parameter in model.parameters()}) > 1:
            raise Refused("Replay needs a model that lies on one device.")
        self.model, self.decoder, self.bucket = model, decoder_of(model), bucket
        self.layers = list(self.decoder.layers)  # a run replaces them by a stand-in
        self.capture = can_capture(model) if capture is None else capture
        self.recorder = Recorder(model.device) if self.capture else None
        self.lanes: dict[int, _Lane] = {}

    @contextmanager
    def prune(
        self,
        method: PruningMethod | Sequence[PruningMethod],
        layout: TokenLayout,
        *,
        on_layer: Callable[[LayerRecord], None] | None = None,
        probe: bool = False,
    ) -> Iterator[PruningTrace]:
        """`visipruner.prune` by replay: the same arguments, promises and refusals.

        Raises:
            Refused: as `prune()`; also if the attention backend is not sdpa.
        """
        backend = attention_backend(self.decoder)
        if backend != "sdpa":
            raise Refused(f"Replay needs sdpa attention, not {backend}; prune() takes any.")
        methods = (method,) if isinstance(method, PruningMethod) else tuple(method)
        run = _ReplayedRun(self, methods, layout, on_layer, probe)
        try:
            run.install()
            yield run.trace
        finally:
            run.remove()
        run.check_ran()

    def lane(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> _Lane:
        """The buffers for the rows of `hidden`, filled with these tensors."""
        rows = -(-hidden.shape[1] // self.bucket) * self.bucket
        if rows not in self.lanes:
            self.lanes[rows] = _Lane(self, rows, hidden, cos)
        self.lanes[rows].load(hidden, cos, sin)
        return self.lanes[rows]


def can_capture(model: nn.Module) -> bool:
    """Is the model on a GPU, with plain layers only? A library's own might wait for the host."""
    linear = [m for m in decoder_of(model).modules() if isinstance(m, nn.Linear)]
    return all(type(m) is nn.Linear and m.weight.is_cuda for m in linear)


class Recorder:
    """Makes graphs that share memory, on one stream of one GPU.

    All use one stream: libraries keep a workspace per stream, and free it with the stream's graphs.
    """

    def __init__(self, device: torch.device):
        self.device = torch.device(device)
        with torch.cuda.device(self.device):
            self.pool, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def record(self, function: Callable[[], object]) -> tuple[Callable[[], None], object]:
        """Record the GPU work of `function`: (a replay with one launch, its output).

        The tensors that it reads must stay in place, and each replay overwrites the output. The
        function runs twice before capture, and its writes take effect.
        """
        # Use one mode, whatever the caller's: later captures must be able to use a graph's tensors.
        modes = torch.inference_mode(False), torch.no_grad()
        with torch.cuda.device(self.device), modes[0], modes[1]:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):  # libraries initialise themselves before capture
                for _ in range(2):
                    function()
            torch.cuda.current_stream().wait_stream(self.stream)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU during capture.
            shared = {"pool": self.pool, "stream": self.stream}
            with torch.cuda.graph(graph, **shared, capture_error_mode="thread_local"):
                output = function()
        return graph.replay, output


class _Lane:
    """Buffers for one number of rows, and the layers on them. Rows past the prompt are padding."""

    def __init__(self, replayer: Replayer, rows: int, hidden: Tensor, cos: Tensor):
        self.model, self.layers, self.rows = replayer.model, replayer.layers, rows
        self.recorder = replayer.recorder
        with torch.inference_mode(False):  # else they could only be written in inference mode
            self.hidden = hidden.new_zeros(1, rows, hidden.shape[-1])
            self.cos, self.sin = (cos.new_zeros(1, rows, cos.shape[-1]) for _ in range(2))
            self.last = torch.zeros(1, dtype=torch.long, device=hidden.device)
        self.recorded: dict = {}  # (what, layer, and its plan) -> (replay, output)
        self.kept: dict = {}  # captured layer -> output of step()
        self.scalings: dict[int, float] = {}  # layer -> factor of its scores

    def load(self, hidden: Tensor, cos: Tensor, sin: Tensor):
        """Copy these rows in. Padding is zero, so that it stays finite in every layer."""
        rows = hidden.shape[1]
        for buffer, values in ((self.hidden, hidden), (self.cos, cos), (self.sin, sin)):
            buffer[:, :rows] = values
            buffer[:, rows:] = 0
        self.last.fill_(rows - 1)

    def step(self, index: int, plan: Plan | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run a layer on `hidden`, in place.

        Returns:
            The prompt's last query, (1, heads, head width), and the layer's keys and values, (1, kv
            heads, rows, head width).
        """
        before = self.hidden.clone() if self._is_new("layer", index, plan) else None
        return self._run(("layer", index, plan), partial(self._layer, index, plan), before)

    def test(self, index: int, outputs: tuple) -> Tensor:
        """The influence test on every row: cosines, lengths and the norm, (2 * rows + 1,)."""
        function = partial(self._influence, self.scalings[index], *outputs)
        return self._run(("test", index), function)

    def _is_new(self, *key) -> bool:
        return self.recorder and key not in self.recorded

    def _run(self, key: tuple, function: Callable, before: Tensor | None = None):
        if not self.recorder:
            return function()
        if key not in self.recorded:
            self.recorded[key] = self.recorder.record(function)
            if before is not None:  # recording ran the layer, which overwrote its input
                self.hidden.copy_(before)
        replay, output = self.recorded[key]
        replay()
        return output

    def _layer(self, index: int, plan: Plan | None):
        layer, caught = self.layers[index], _Caught()
        watch = Watch(layer.self_attn, plan, self.last)
        try:
            turns = self.cos, self.sin
            hidden = run_layer(layer, self.hidden, turns, caught, attention_watch=watch)
        finally:
            watch.end()
        if watch.query is None:
            raise not_watched(self.model)
        self.scalings[index] = watch.scaling
        self.hidden.copy_(hidden)
        parts = watch.query, caught.keys, caught.values
        return self._keep(index, parts) if self.recorder else parts

    def _keep(self, index: int, parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Copy these out of the graphs' pool, where another layer's replay may overwrite them.

        Plans share one copy per layer: a prompt runs every layer once.
        """
        if index not in self.kept:  # made during warm-up, so the buffers are not in the pool
            with torch.inference_mode(False):
                self.kept[index] = tuple(torch.empty_like(part) for part in parts)
        for buffer, part in zip(self.kept[index], parts, strict=True):
            buffer.copy_(part)
        return self.kept[index]

    def _influence(self, scaling: float, query: Tensor, keys: Tensor, values: Tensor):
        visible = torch.arange(self.rows, device=self.last.device) <= self.last
        row = attention_row(query, scaling, keys, visible)
        cos, l2, norm = influence(row, values)
        return torch.cat([cos, l2, norm[None]])


NOT_REPLAYED = (
    "Replay serves neither late entry nor methods that ask for the next layer or for several "
    "queries; prune() does."
)
NOT_PLAIN = (
    "Replay takes models with plain positions that add nothing between their layers; prune() takes "
    "others too."
)


class _Caught:
    """A stand-in for a cache that keeps what the layer would cache."""

    def update(self, keys: Tensor, values: Tensor, *_, **__):
        self.keys, self.values = keys, values
        return keys, values


class _Prefill(nn.Module):
    """Replaces the decoder layers for one prefill: stock code calls it as its only layer."""

    def __init__(self, run: _ReplayedRun):
        super().__init__()
        self.run = run

    def forward(self, hidden_states, position_embeddings, **more):
        return self.run.prefill(hidden_states, position_embeddings, cache_of(more))


class _StandIn(nn.ModuleList):
    """Replaces a decoder's layers; a copy of the model gets copies of the real layers."""

    def __reduce__(self):
        return nn.ModuleList, (list(self[0].run.stock_layers),)


@dataclass(frozen=True)
class _ReplayView(LayerView):
    """A view whose influence test is replayed."""

    test: Callable[[], Tensor] | None = None

    def attention_rows(self):
        raise Refused(NOT_REPLAYED)

    def next_attention_row(self):
        raise Refused(NOT_REPLAYED)

    def _test(self) -> Tensor:
        # As in LayerView: three products with each head's keys or values; no padding.
        self.record.probe_flops += 6 * self.watch.query.numel() * len(self.tokens)
        return self.test()


class _ReplayedRun(Run):
    """One prompt by replay; decoding uses the engine's hooks."""

    def __init__(self, replayer: Replayer, methods, layout, on_layer, probe):
        super().__init__(replayer.model, replayer.decoder, methods, layout, None, on_layer, probe)
        self.replayer = replayer
        self.stock_layers: nn.ModuleList | None = None  # set while the stand-in replaces them
        self.outputs: list[tuple] = []  # per layer: last query, keys, values

    def _take_layers(self):
        self.stock_layers = self.decoder.layers
        self.decoder.layers = _StandIn([_Prefill(self)])

    def _give_back_layers(self):
        if self.stock_layers is not None:
            self.decoder.layers, self.stock_layers = self.stock_layers, None

    def _take_off(self):
        self._give_back_layers()
        self.outputs.clear()
        super()._take_off()

    @torch.no_grad()
    def prefill(self, hidden: Tensor, position_embeddings: tuple, cache) -> Tensor:
        """Run all layers on (1, tokens, width); returns the surviving rows."""
        self.cache = cache
        self._check_cache()
        if self.axes is not None or self.added is not None:
            raise Refused(NOT_PLAIN)
        given = {"position_embeddings": position_embeddings}
        hidden = self._apply_encode(hidden)
        if self.waiting:
            raise Refused(NOT_REPLAYED)
        lane = self.replayer.lane(hidden, *self._prefill_arguments(given)["position_embeddings"])
        for index in range(len(self.layers)):
            record = self._open_record(index)
            plan = self._padded_plan(index, record, lane)
            self.outputs.append(lane.step(index, plan))
            present = lane.hidden[:, : record.tokens]
            selections = self._selections(index, record, lane, present)
            is_last = index == len(self.layers) - 1
            left = self._go_on(selections, index, present, is_last)
            if left is not None and (left is not present or not self.fitted):
                turn = self._prefill_arguments(given)["position_embeddings"]
                lane = self.replayer.lane(left, *turn)
            if is_last:
                self._finish_prefill()
            if self.on_layer is not None:
                self.on_layer(record)
            self.turn.check()
        self._give_back_layers()
        return lane.hidden[:, : self.trace.layers[-1].tokens].clone()

    def _padded_plan(self, index: int, record: LayerRecord, lane: _Lane) -> Plan | None:
        """The layer's plan with padding as text after the prompt, the same for all lengths."""
        if not record.visual_tokens:
            self._count_pairs(record, None)
            return None
        padded, plans = self.rows.padded(lane.rows, self.layout.length), []
        for member in self.members:
            view = LayerInput(*self._view_fields(member, index, record))
            plans.append(member.method.attend(replace(view, rows=padded)))
        plan = self._plan(plans)
        self._count_pairs(record, plan and clipped(plan, record.tokens))
        return plan

    def _selections(self, index, record, lane, present) -> list[tuple]:
        """(member, its selection) of every method."""
        if not self._is_asked_after(record):
            return []
        query, keys, values = self.outputs[-1]
        watch, rows = SimpleNamespace(query=query, scaling=lane.scalings[index]), record.tokens
        given = {
            "hidden": present,
            "watch": watch if record.visual_tokens else None,
            "cache": SimpleNamespace(keys=keys[:, :, :rows], values=values[:, :, :rows]),
            "test": partial(lane.test, index, self.outputs[-1]),
        }
        views = [
            (m, _ReplayView(*self._view_fields(m, index, record), **given)) for m in self.members
        ]
        return [(member, self._decide(view, member)) for member, view in views]

    def _finish_prefill(self):
        """Copy the kept keys and values out of the buffers, which the next prompt overwrites."""
        device = self.outputs[0][1].device
        for index, record in enumerate(self.trace.layers):
            kept = self._cached_rows(index)
            self.changed = self.changed or kept is not None
            kept = slice(record.tokens) if kept is None else kept.to(device, non_blocking=True)
            keys, values = (part[:, :, kept] for part in self.outputs[index][1:])
            self.cache.update(keys, values, index)
            record.kv_tokens = self.cache.layers[index].get_seq_length()
        self._explain()
        self.outputs.clear()  # else padded keys and values would stay in memory during decoding
