"""prune(): keeping all changes nothing, dropping is masking, misuse is refused, all is undone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pytest
import torch
from reference import forward, softmax
from support import (
    DROPPING,
    KEEP_ALL,
    LAYOUTS,
    MergeAtTheDoor,
    RenumberLater,
    embeds_for,
    greedy,
    other_kind,
    present_positions,
    run_pruned,
    state_of,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    CohereConfig,
    Gemma2Config,
    GlmConfig,
    HeliumConfig,
    Lfm2Config,
    MixtralConfig,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
)

from visipruner import (
    METHODS,
    FastV,
    PruningMethod,
    Random,
    Schedule,
    TokenLayout,
    VisiPruner,
    prune,
)
from visipruner.attention import Span
from visipruner.render.stages import steps
from visipruner.stock import output_cache, with_cache
from visipruner.trace import PruningTrace, Selection

LAYOUT = LAYOUTS["one picture"]


def test_every_method_is_in_the_matrix():
    merging = {"sparsevlm", "pool"}  # they equal no mask: see test_peers.py and test_rules.py
    # These models have no vision tower: see test_matrix.py and test_rules.py.
    merging |= {name for name, kind in METHODS.items() if kind.needs & {"tower", "clip_text"}}
    for table in (KEEP_ALL, DROPPING):
        covered = {method.name for method in table.values()}
        assert covered >= METHODS.keys() - {"none"} - merging


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", KEEP_ALL)
def test_keeping_all_is_the_untouched_model_bit_for_bit(name, attention, llama):
    model, embeds = llama(attention), embeds_for(LAYOUT, 64)
    ids, logits = greedy(model, embeds)
    pruned_ids, pruned_logits, _, trace = run_pruned(model, KEEP_ALL[name], LAYOUT, embeds)
    assert torch.equal(pruned_ids, ids) and torch.equal(pruned_logits, logits)
    assert all(record.visual_tokens == LAYOUT.num_visual for record in trace.layers)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layout", ["one picture", "text between"])
@pytest.mark.parametrize(
    "name", [name for name in DROPPING if "visipruner" not in name and "late entry" not in name]
)
def test_dropping_equals_masking(name, layout, attention, llama):
    """The same decision on the unpruned model, with the dropped columns masked instead."""
    layout = LAYOUTS[layout]
    model, embeds = llama(attention), embeds_for(layout, 64)
    ids, logits, hidden, trace = run_pruned(model, DROPPING[name], layout, embeds)
    assert min(record.visual_tokens for record in trace.layers) < layout.num_visual or (
        name == "fastv late"
    )
    decoded = torch.cat([embeds[0], model.model.embed_tokens(ids[:-1])])

    def present(layer, tokens):
        columns = torch.ones(tokens, dtype=torch.bool)
        columns[list(layout.visual)] = False
        columns[present_positions(trace, layout, layer)] = True
        return columns.repeat(tokens, 1)

    masked = forward(model, decoded, lambda _l, scores, seen: softmax(scores, seen), present)
    expected = masked.logits[layout.length - 1 :]
    assert (logits - expected).abs().max() < 1e-5 * masked.logits.abs().max()
    for layer, states in enumerate(hidden):
        rows = masked.hidden[layer][present_positions(trace, layout, layer)]
        assert (states - rows).abs().max() < 1e-5 * rows.abs().max()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", DROPPING)
def test_a_bare_loop_equals_generate(name, attention, llama):
    model, embeds, method = llama(attention), embeds_for(LAYOUT, 64), DROPPING[name]
    ids, logits, _, trace = run_pruned(model, method, LAYOUT, embeds)
    steps = []
    with torch.no_grad(), prune(model, method, LAYOUT) as bare:
        output = model(inputs_embeds=embeds)
        steps.append(output.logits[:, -1])
        for token in ids[:-1]:
            output = model(token.view(1, 1), **with_cache(model, output_cache(output)))
            steps.append(output.logits[:, -1])
    torch.testing.assert_close(torch.cat(steps), logits, atol=1e-5, rtol=1e-5)
    assert bare.decode_positions == trace.decode_positions == [60, 61, 62]
    assert bare.decode_kv == trace.decode_kv


def test_later_layers_compute_less_and_cache_less(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    seen = []
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1]))
        for layer in model.model.layers
    ]
    with torch.no_grad(), prune(model, Schedule(5, 2, 4), LAYOUT) as trace:
        cache = output_cache(model(inputs_embeds=embeds))
    for handle in handles:
        handle.remove()
    assert seen == [60, 60, 60, 25, 25, 20, 20, 20] == [r.tokens for r in trace.layers]
    assert [layer.get_seq_length() for layer in cache.layers] == seen


def test_decoding_is_right_when_the_first_layers_cache_is_the_shortest(llama):
    """Paper semantics leave only text in layer 0; stock code counts positions in its cache."""
    method = VisiPruner(shallow_layers=2, stages=("shallow",))
    for attention in ("sdpa", "eager"):
        trace = run_pruned(llama(attention), method, LAYOUT, embeds_for(LAYOUT, 64))[3]
        kv = [record.kv_tokens for record in trace.layers]
        assert kv[0] == LAYOUT.length - LAYOUT.num_visual < kv[-1] == LAYOUT.length
        assert trace.decode_positions == [60, 61, 62]


def test_random_draws_the_same_patches_by_seed(llama):
    runs = [
        run_pruned(llama(), Random(9, seed=seed), LAYOUT, embeds_for(LAYOUT, 64))[3].cuts[0].kept
        for seed in (4, 4, 5)
    ]
    assert runs[0] == runs[1] != runs[2]


@dataclass(frozen=True)
class KeepsWhatItIsTold(PruningMethod):
    name: ClassVar[str] = "told"
    keep: tuple[int, ...] = ()

    def encode(self, view):
        return Selection(tuple(range(0, view.layout.length - 1, 2)) + self.last, "first")

    @property
    def last(self):
        return (LAYOUT.length - 1,)

    def select(self, view):
        return Selection(self.keep + self.last, "told")


@pytest.mark.parametrize("keep", [(2, 3), (2, 2), (4, 2), (2, 70), (2, LAYOUT.length - 1, 4)])
def test_tokens_that_are_gone_or_not_in_order_are_refused(keep, llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    with (
        pytest.raises(ValueError, match=r"told (must|made)") as error,
        torch.no_grad(),
        prune(model, KeepsWhatItIsTold(keep), LAYOUT),
    ):
        model(inputs_embeds=embeds)
    assert error.type is ValueError  # an error in the method, whose message no visitor sees


def test_the_last_token_cannot_be_dropped(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)

    @dataclass(frozen=True)
    class DropsTheLast(PruningMethod):
        def encode(self, view):
            return Selection((0, 1, 2), "short")

    with (
        pytest.raises(ValueError, match="must keep the last prompt token") as error,
        torch.no_grad(),
        prune(model, DropsTheLast(), LAYOUT),
    ):
        model(inputs_embeds=embeds)
    assert error.type is ValueError


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_method_that_merges_and_renumbers_equals_the_short_prompt(attention, llama):
    """Merging before the language model equals giving it the merged prompt."""
    model, embeds = llama(attention), embeds_for(LAYOUT, 64)
    ids, logits, _, trace = run_pruned(model, MergeAtTheDoor(), LAYOUT, embeds)
    start, stop = LAYOUT.spans[0]
    merged = torch.stack([part.mean(0) for part in embeds[0, start:stop].chunk(4)])
    short = torch.cat([embeds[0, :start], merged, embeds[0, stop:]])[None]
    short_ids, short_logits = greedy(model, short)
    assert torch.equal(ids, short_ids)
    torch.testing.assert_close(logits, short_logits, atol=1e-5, rtol=1e-5)
    assert len(set(trace.cuts[0].owner)) == 4 and -1 not in trace.cuts[0].owner


@dataclass(frozen=True)
class Compact(Schedule):
    """Renumbers with every cut."""

    name: ClassVar[str] = "compact"

    def select(self, view):
        selection = super().select(view)
        return selection and Selection(selection.keep, "compact", compact=True)


def test_layers_may_be_renumbered_in_the_middle(llama):
    """Compact positions from a middle layer on: each layer decodes at its own next position."""
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    seen = {}
    handles = [
        # Registered after the engine's own hook, to see what that one changed.
        layer.self_attn.register_forward_hook(
            lambda _m, _a, kw, _o, i=i: seen.setdefault(i, []).append(kw["position_ids"][0, -1]),
            with_kwargs=True,
        )
        for i, layer in enumerate(model.model.layers)
    ]
    run_pruned(model, Compact(5, 2, 4), LAYOUT, embeds)
    for handle in handles:
        handle.remove()
    assert seen[0] == seen[2] == [59, 60, 61, 62]
    assert seen[3] == [24, 25, 26, 27] and seen[5] == [19, 20, 21, 22]


def test_renumbering_without_a_cut_starts_with_the_next_layer(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    turns = []

    def note(_module, _args, kwargs, _output):
        turns.append(kwargs["position_embeddings"][0][0])

    stock = model.model.rotary_emb(embeds, torch.arange(60)[None])[0][0]
    handles = [
        layer.self_attn.register_forward_hook(note, with_kwargs=True)
        for layer in model.model.layers
    ]
    with torch.no_grad(), prune(model, RenumberLater(5, 2, 5), LAYOUT) as trace:
        model(inputs_embeds=embeds)
    for handle in handles:
        handle.remove()
    rows = trace.layers[4].tokens
    assert rows == trace.layers[5].tokens < 60
    assert not torch.equal(turns[4], stock[:rows]) and torch.equal(turns[5], stock[:rows])


@pytest.mark.parametrize(
    "method",
    [
        PruningMethod(),
        Schedule(5, 2, 4),
        Compact(5, 2, 4),
        RenumberLater(5, 2, 5),
        MergeAtTheDoor(),
    ],
    ids=lambda method: method.name,
)
def test_the_attention_row_is_the_models_own_in_every_layer(method, llama):
    model, embeds = llama("eager"), embeds_for(LAYOUT, 64)
    rows, own = [], []

    class Noting(type(method)):
        def select(self, view):
            if len(view.patches):
                rows.append(view.attention_row())
            else:
                with pytest.raises(ValueError, match="while visual tokens are there") as error:
                    view.attention_row()
                assert error.type is ValueError
                rows.append(None)
            return super().select(view)

    def note(_module, _args, output):
        own.append(output[1][0, :, -1])

    handles = [layer.self_attn.register_forward_hook(note) for layer in model.model.layers]
    with torch.no_grad(), prune(model, Noting(**method.__dict__), LAYOUT):
        model(inputs_embeds=embeds)
    for handle in handles:
        handle.remove()
    assert len(rows) == len(own) == len(model.model.layers)
    assert sum(row is not None for row in rows) > 2
    for row, expected in zip(rows, own, strict=True):
        if row is not None:
            torch.testing.assert_close(row, expected, atol=1e-6, rtol=1e-5)


# -- sampling, streamers, LLaVA


def test_sampling_with_a_seed_gives_the_same_tokens_twice(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)

    def sample(method):
        torch.manual_seed(7)
        with torch.no_grad(), prune(model, method, LAYOUT):
            return model.generate(inputs_embeds=embeds, max_new_tokens=8, do_sample=True)[
                0
            ].tolist()

    torch.manual_seed(7)
    plain = model.generate(inputs_embeds=embeds, max_new_tokens=8, do_sample=True)[0].tolist()
    assert sample(PruningMethod()) == plain
    assert sample(DROPPING["fastv"]) == sample(DROPPING["fastv"])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", DROPPING)
def test_llava_with_pixels_equals_llava_with_ready_features(name, attention, mini, picture):
    prompt = mini.prepare(picture, "what colour is the star?")
    model = mini.model
    model.set_attn_implementation(attention)
    try:
        results = []
        features = mini.encode(prompt)
        ready = {"mm_encoder_outputs": {"image": features.outputs}}
        for extra in ({"pixel_values": prompt.inputs["pixel_values"]}, ready):
            with torch.no_grad(), prune(model, DROPPING[name], prompt.layout) as trace:
                run = model.generate(
                    input_ids=prompt.inputs["input_ids"],
                    attention_mask=prompt.inputs["attention_mask"],
                    max_new_tokens=4,
                    do_sample=False,
                    **extra,
                )
            results.append((run.tolist(), trace.to_json()))
        assert results[0] == results[1]
        assert trace.num_visual == 16 and trace.complete
    finally:
        model.set_attn_implementation("sdpa")


# -- misuse


def test_what_cannot_be_exact_is_refused_with_a_sentence(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    mask = torch.ones(1, 60, dtype=torch.long)
    mask[0, 0] = 0
    with torch.no_grad():
        cache = output_cache(model(inputs_embeds=embeds[:, :3]))
    cases = {
        "batch": {"inputs_embeds": embeds.repeat(2, 1, 1)},
        "pieces": {"inputs_embeds": embeds[:, :30]},
        "padding": {"inputs_embeds": embeds, "attention_mask": mask},
        "use_cache=True": {"inputs_embeds": embeds, "use_cache": False},
        "not empty": {"inputs_embeds": embeds, **with_cache(model, cache)},
    }
    for words, arguments in cases.items():
        with torch.no_grad(), pytest.raises(ValueError, match=words):
            with prune(model, FastV(), LAYOUT):
                model(**arguments)


def test_flex_attention_is_refused_before_anything_is_touched(llama):
    model = llama(max_position_embeddings=447)  # a model of its own: its backend changes
    model.config._attn_implementation = "flex_attention"
    before = state_of(model)
    with pytest.raises(ValueError, match="sdpa or eager"), prune(model, FastV(), LAYOUT):
        pass
    assert state_of(model) == before


def test_generate_options_that_cannot_be_exact_are_refused(llama):
    model, ids = llama(), torch.arange(60)[None]
    for options, words in (
        ({"num_beams": 2}, "batch"),
        ({"num_return_sequences": 2, "do_sample": True}, "batch"),
        ({"prefill_chunk_size": 16}, "pieces"),
        ({"cache_implementation": "static"}, "DynamicCache"),
        ({"use_cache": False}, "cache"),
    ):
        with pytest.raises(ValueError, match=words), prune(model, FastV(), LAYOUT):
            model.generate(ids, max_new_tokens=3, **options)


@pytest.mark.skipif(
    torch.version.cuda is not None and not torch.cuda.is_available(),
    reason="transformers asks a torch for CUDA for a stream, which needs a GPU",
)
def test_an_offloaded_cache_is_refused(llama):
    with pytest.raises(ValueError, match="offloading"), prune(llama(), FastV(), LAYOUT):
        llama().generate(torch.arange(60)[None], max_new_tokens=3, cache_implementation="offloaded")


def test_one_with_is_one_prompt(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    with torch.no_grad(), prune(model, FastV(keep=5), LAYOUT):
        model(inputs_embeds=embeds)
        with pytest.raises(ValueError, match="one prompt"):
            model(inputs_embeds=embeds)
        with pytest.raises(ValueError, match="one prompt"):
            model(torch.zeros(1, 1, dtype=torch.long))


def test_nesting_on_one_model_is_refused_and_the_outer_goes_on(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    alone = run_pruned(model, FastV(keep=5), LAYOUT, embeds)[1]
    with torch.no_grad(), prune(model, FastV(keep=5), LAYOUT):
        with pytest.raises(ValueError, match="already"), prune(model, FastV(), LAYOUT):
            pass
        run = model.generate(
            inputs_embeds=embeds,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert torch.equal(torch.cat(run.logits), alone)


def test_models_that_are_not_llama_like_are_refused():
    with (
        pytest.raises(ValueError, match="not a Llama-like"),
        prune(torch.nn.Linear(2, 2), FastV(), LAYOUT),
    ):
        pass


def test_the_test_is_as_exact_within_autocast(llama):
    """Half precision would round most cosines to 1. The model's own query is less exact there."""
    model, embeds = llama(), embeds_for(LAYOUT, 64)

    def tested(within: bool):
        found = []

        class Noting(PruningMethod):
            def select(self, view):
                with torch.autocast("cpu", torch.bfloat16, enabled=within):
                    found.append((view.attention_row(), view.influence()))

        with torch.no_grad(), prune(model, Noting(), LAYOUT):
            model(inputs_embeds=embeds)
        assert len(found) == 8
        return found

    for (row, test), (other_row, other) in zip(tested(True), tested(False), strict=True):
        assert row.dtype == torch.float32 and torch.equal(row, other_row) and test == other


@pytest.mark.parametrize("method", DROPPING.values(), ids=DROPPING)
def test_another_default_device_changes_nothing(method, llama):
    """CPU tensors name their device. "meta" stands for a GPU: mixing it with a CPU raises."""
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    given = {"inputs_embeds": embeds, "position_ids": torch.arange(LAYOUT.length)[None]}
    ran = []
    for device in ("cpu", "meta"):
        with torch.no_grad(), torch.device(device):
            layout = TokenLayout(LAYOUT.length, LAYOUT.spans, LAYOUT.grids)
            with prune(model, method, layout) as trace:
                ran.append((model(**given).logits, trace.to_json()))
    assert torch.equal(ran[0][0], ran[1][0]) and ran[0][1] == ran[1][1]


@pytest.mark.parametrize(
    ("config", "more"),
    [
        (CohereConfig, {}),
        (StableLmConfig, {}),
        (SmolLM3Config, {"no_rope_layers": [1, 0, 1, 0]}),
        (Qwen3Config, {"head_dim": 16}),
        (HeliumConfig, {"head_dim": 16}),
    ],
    ids=["turns by pairs", "turns a part", "turns in some layers", "norms queries", "helium"],
)
def test_models_that_make_their_queries_otherwise(config, more):
    """The row is the model's own, keeping all changes nothing, a plan of all changes nothing."""
    model, embeds = other_kind(config, **more), embeds_for(LAYOUT, 64)
    own, rows = [], []

    class Noting(PruningMethod):
        def select(self, view):
            rows.append(view.attention_row())

    class Planned(PruningMethod):
        def attend(self, view):
            return (Span(queries=((0, LAYOUT.length),), keys=((0, LAYOUT.length),)),)

    def note(_module, _args, output):
        own.append(output[1][0, :, -1])

    with torch.no_grad():
        plain = model(inputs_embeds=embeds).logits
        with prune(model, PruningMethod(), LAYOUT):
            assert torch.equal(model(inputs_embeds=embeds).logits, plain)
        with prune(model, Planned(), LAYOUT):
            torch.testing.assert_close(
                model(inputs_embeds=embeds).logits, plain, rtol=1e-4, atol=1e-4
            )
        model.set_attn_implementation("eager")
        handles = [layer.self_attn.register_forward_hook(note) for layer in model.model.layers]
        with prune(model, Noting(), LAYOUT):
            model(inputs_embeds=embeds)
    for handle in handles:
        handle.remove()
    assert len(rows) == 4
    for row, expected in zip(rows, own, strict=True):
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "more", "words"),
    [
        (GlmConfig, {"head_dim": 16}, "without mlp.gate_proj"),
        (MixtralConfig, {}, "without mlp.gate_proj"),
        (Lfm2Config, {"layer_types": ["conv", "full_attention"] * 2}, "without self_attn"),
        (Gemma2Config, {"head_dim": 16, "layer_types": ["full_attention"] * 4}, "softcap"),
        (Gemma2Config, {"head_dim": 16, "sliding_window": 8}, "sliding windows"),
    ],
    ids=["one matrix for two", "experts", "convolutions", "softcap", "sliding window"],
)
def test_models_of_another_kind_are_refused_with_a_sentence(config, more, words):
    model = other_kind(config, **more)
    before = state_of(model)
    with pytest.raises(ValueError, match=words), prune(model, FastV(), LAYOUT):
        model(inputs_embeds=embeds_for(LAYOUT, 64))
    assert state_of(model) == before


def test_one_odd_layer_among_others_is_refused(llama):
    model = llama(max_position_embeddings=442)  # a model of its own: one layer changes
    model.model.layers[2].mlp = torch.nn.Identity()
    with pytest.raises(ValueError, match="without mlp"), prune(model, FastV(), LAYOUT):
        pass


def test_an_error_before_attention_is_called_leaves_no_config_behind(llama):
    model = llama(max_position_embeddings=443)  # a model of its own: it gets a hook
    before = state_of(model)

    def fail(*_):
        raise ArithmeticError("planned")

    hook = model.model.layers[2].self_attn.k_proj.register_forward_hook(fail)
    with pytest.raises(ArithmeticError, match="planned"), prune(model, FastV(), LAYOUT):
        model(inputs_embeds=embeds_for(LAYOUT, 64))
    hook.remove()
    assert state_of(model) == before


def test_attention_that_does_not_ask_transformers_is_refused(llama):
    model = llama(max_position_embeddings=441)  # a model of its own: its attention changes
    attention = model.model.layers[1].self_attn
    own = attention.forward

    def without_asking(*args, attention_watch=None, **kwargs):
        attention_watch.end()
        return own(*args, **kwargs)

    attention.forward = without_asking
    with pytest.raises(ValueError, match="cannot be watched"), torch.no_grad():
        with prune(model, FastV(), LAYOUT):
            model(inputs_embeds=embeds_for(LAYOUT, 64))


WHOLE, SHORT = ((0, 60),), ((0, 59),)


@pytest.mark.parametrize(
    "plan",
    [
        (Span(SHORT, WHOLE),),
        (Span(WHOLE, WHOLE), Span(((3, 4),), WHOLE)),
        (Span(((0, 61),), WHOLE),),
        (Span(WHOLE, ((0, 61),)),),
        (Span(WHOLE, WHOLE, merged=((3, 4),), merge_into=60),),
    ],
    ids=["a row left out", "a row twice", "a row too many", "a key too many", "a carrier too far"],
)
def test_plans_for_other_rows_are_refused(plan, llama):
    class Wrong(PruningMethod):
        def attend(self, view):
            return plan

    with pytest.raises(ValueError, match="plan for other rows") as error, torch.no_grad():
        with prune(llama(), Wrong(), LAYOUT):
            llama()(inputs_embeds=embeds_for(LAYOUT, 64))
    assert error.type is ValueError


@pytest.mark.parametrize("semantics", ["paper", "official"])
def test_shallow_plans_follow_a_cut_between_them(semantics, llama):
    """Another method cuts between two shallow layers: a new plan covers the surviving tokens."""

    class Stacked(VisiPruner):
        def select(self, view):
            half = torch.arange(0, len(view.patches), 2)
            return view.keep_visual(half, "half") if view.layer == 2 else None

    class Anew(Stacked):
        def attend(self, view):
            view.memory.made_for = None
            return super().attend(view)

    embeds = embeds_for(LAYOUT, 64)
    ran = [
        run_pruned(llama(), kind(semantics=semantics, shallow_layers=5), LAYOUT, embeds)
        for kind in (Stacked, Anew)
    ]
    assert torch.equal(ran[0][1], ran[1][1])
    pairs = [[record.pairs for record in run[3].layers] for run in ran]
    assert pairs[0] == pairs[1] and pairs[0][3] < pairs[0][2]


def test_a_prompt_without_pictures_runs_untouched(llama):
    model, layout = llama(), TokenLayout(60)
    embeds = embeds_for(LAYOUT, 64)
    ids, logits = greedy(model, embeds)
    for method in DROPPING.values():
        pruned = run_pruned(model, method, layout, embeds)
        assert torch.equal(pruned[0], ids) and torch.equal(pruned[1], logits)
        assert not pruned[3].cuts


# -- everything is undone


@pytest.mark.parametrize("where", ["layer 2", "plan", "select", "after prefill", "before"])
def test_after_an_exception_the_model_is_as_before(where, llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    before, plain = state_of(model), greedy(model, embeds)

    @dataclass(frozen=True)
    class Breaks(VisiPruner):
        def attend(self, view):
            if where == "plan" and view.layer == 1:
                raise ArithmeticError(where)
            return super().attend(view)

        def select(self, view):
            if where == "select" and view.layer == 3:
                raise ArithmeticError(where)
            return super().select(view)

    def on_layer(record):
        if where == f"layer {record.layer}":
            raise ArithmeticError(where)

    with pytest.raises(ArithmeticError, match=where), torch.no_grad():
        with prune(model, Breaks(shallow_layers=2), LAYOUT, on_layer=on_layer):
            if where == "before":
                raise ArithmeticError(where)
            model(inputs_embeds=embeds)
            if where == "after prefill":
                raise ArithmeticError(where)
    assert state_of(model) == before
    after = greedy(model, embeds)
    assert torch.equal(after[0], plain[0]) and torch.equal(after[1], plain[1])


def test_a_crash_inside_attention_leaves_no_config_behind(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    before = state_of(model)
    handle = model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(
        lambda *_: (_ for _ in ()).throw(MemoryError("planned"))
    )
    with (
        pytest.raises(MemoryError),
        torch.no_grad(),
        prune(model, VisiPruner(shallow_layers=3), LAYOUT),
    ):
        model(inputs_embeds=embeds)
    handle.remove()
    assert state_of(model) == before


def test_an_abandoned_generator_leaves_nothing(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    before = state_of(model)

    def tokens():
        with torch.no_grad(), prune(model, DROPPING["visipruner"], LAYOUT):
            output = model(inputs_embeds=embeds)
            while True:
                token = output.logits[:, -1].argmax(-1, keepdim=True)
                yield token
                output = model(token, **with_cache(model, output_cache(output)))

    stream = tokens()
    next(stream), next(stream)
    stream.close()
    assert state_of(model) == before


# -- the trace


def test_traces_survive_json_and_are_plain(llama):
    import json

    for name, method in DROPPING.items():
        trace = run_pruned(llama(), method, LAYOUT, embeds_for(LAYOUT, 64))[3]
        copy = PruningTrace.from_json(json.loads(json.dumps(trace.to_json())))
        assert copy.to_json() == trace.to_json() and copy.layers == trace.layers, name


def test_the_trace_says_who_survived_and_who_carries_whom(llama):
    trace = run_pruned(llama(), DROPPING["schedule"], LAYOUT, embeds_for(LAYOUT, 64))[3]
    kept = trace.patches_at(3)
    assert len(kept) == 5 and trace.patches_at(2) == list(range(40)) and trace.patches_at(5) == []
    owner = trace.cuts[0].owner
    assert [patch for patch, carrier in enumerate(owner) if carrier != -1] == kept
    assert [owner[patch] for patch in kept] == [LAYOUT.visual[patch] for patch in kept]
    assert trace.patches_at(4) == kept


def test_probe_measures_every_layer_and_changes_nothing(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    plain = greedy(model, embeds)[1]
    with torch.no_grad(), prune(model, PruningMethod(), LAYOUT, probe=True) as trace:
        run = model.generate(
            inputs_embeds=embeds,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert torch.equal(torch.cat(run.logits), plain)
    assert all(len(record.influence.cos) == 40 for record in trace.layers)


def test_a_loop_with_gradients_keeps_no_graph(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    with prune(model, PruningMethod(), LAYOUT, probe=True) as trace:
        output = model(inputs_embeds=embeds.requires_grad_())
    assert output.logits.requires_grad
    assert PruningTrace.from_json(trace.to_json()).layers == trace.layers
    held = [tensor for record in trace.layers for tensor in record.influence._found]
    assert not any(tensor.requires_grad for tensor in held)


def test_a_cut_after_the_last_layer_drops_nothing(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    last = len(model.model.layers) - 1

    class Late(PruningMethod):
        def select(self, view):
            return view.keep_visual(view.visual_rows[:0], "late") if view.layer == last else None

    trace = run_pruned(model, Late(), LAYOUT, embeds)[3]
    assert trace.cuts and not trace.drops
    assert [record.visual_tokens for record in trace.layers] == [40] * (last + 1)


@pytest.mark.parametrize(("threshold", "kept"), [(0, 40), (9, 0)])
def test_a_filter_in_the_last_layer_promises_nothing(threshold, kept, llama):
    model = llama()
    method = VisiPruner(shallow_layers=7, layer_threshold=0.99999, tokens_threshold=threshold)
    trace = run_pruned(model, method, LAYOUT, embeds_for(LAYOUT, 64))[3]
    assert trace.filtering_layer == 7 and not trace.drops
    assert trace.why.startswith("Nothing was dropped: only layer 7, the last one")
    assert trace.why.endswith(f"kept {kept}.")
    assert "nothing is left to save" in steps(trace)[-1]["sentence"]


def test_fastv_as_published_needs_text_after_the_picture(llama):
    layout = TokenLayout(60, ((20, 60),))
    with pytest.raises(ValueError, match="text after the picture"):
        run_pruned(llama(), FastV(keep=3, start_shift=1), layout, embeds_for(LAYOUT, 64))


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (Random(keep=3), "3 visual tokens stayed, drawn by seed 0."),
        (Random(keep=1, after_layer=1), "1 visual token stayed, drawn by seed 0."),
        (Random(keep=0), "No visual token stayed."),
        (Random(keep=3, after_layer=7), "Nothing was dropped: the cut comes after the last layer"),
        (FastV(keep=10, start_shift=1), "11 visual tokens stayed, by the attention in layer 1."),
        (FastV(keep=0), "No visual token stayed."),
        (FastV(keep=3, before_layer=8), "Nothing was dropped: the cut comes after the last layer"),
        (
            Schedule(2, -1, 3),
            "in reading order, before the first layer. None is left after layer 3.",
        ),
        (
            Schedule(2, 1, 20),
            "2 visual tokens stayed, evenly spread in reading order, after layer 1.",
        ),
        (Schedule(0, 1, 3), "No visual token stayed."),
        (Schedule(keep_after=None, none_after=5), "No visual token is left after layer 5."),
        (Random(keep=3, after_layer=50), "Nothing was dropped: the cut comes after the last layer"),
        (FastV(keep=3, before_layer=50), "Nothing was dropped: the cut comes after the last layer"),
        (Schedule(2, 50, 60), "Nothing was dropped: the cut comes after the last layer"),
        (Schedule(2, 7, 8), "Nothing was dropped: the cut comes after the last layer"),
    ],
)
def test_a_trace_says_what_really_stayed(llama, method, why):
    model = llama()
    assert len(model.model.layers) == 8
    trace = run_pruned(model, method, LAYOUT, embeds_for(LAYOUT, 64))[3]
    assert why in trace.why
    kept = {len(cut.kept) for cut in trace.drops}
    assert not kept or trace.why.startswith(f"{max(kept)} ") or trace.why.startswith("No ")
    assert len(trace.drops) == len(kept), "a cut of nothing is none"


def test_positions_of_ones_own_are_refused(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    places = torch.arange(LAYOUT.length)[None]
    with torch.no_grad(), prune(model, PruningMethod(), LAYOUT):
        model(inputs_embeds=embeds, position_ids=places)
    with (
        pytest.raises(ValueError, match="from 0"),
        torch.no_grad(),
        prune(model, PruningMethod(), LAYOUT),
    ):
        model(inputs_embeds=embeds, position_ids=places + 5)


# -- what it costs


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("semantics", ["paper", "official"])
def test_no_tensor_grows_with_the_square_of_the_tokens(semantics, kv_heads, llama):
    if kv_heads < 4 and torch.__version__ < (2, 9):
        pytest.skip("this torch's own sdpa makes whole matrices of grouped heads on a CPU")
    llama = partial(llama, num_key_value_heads=kv_heads)
    layout = TokenLayout(1500, ((6, 1480),))
    method = VisiPruner(semantics, shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.1)
    with torch.no_grad(), LargestTensor() as seen, prune(llama(), method, layout) as trace:
        llama()(inputs_embeds=embeds_for(layout, 64), logits_to_keep=1)
    assert trace.filtering_layer is not None
    assert seen.elements < 1500 * 1500 / 10


def test_influence_is_computed_in_float32_whatever_the_model(llama):
    model = llama(max_position_embeddings=333)  # a model of its own: it is cast
    model.to(torch.bfloat16)
    embeds = embeds_for(LAYOUT, 64).bfloat16()
    with torch.no_grad(), prune(model, PruningMethod(), LAYOUT, probe=True) as trace:
        model(inputs_embeds=embeds)
    cos = torch.tensor(trace.layers[3].influence.cos)
    # bfloat16 has no number between 0.996 and 1; float32 results lie between them.
    assert ((cos > 0.997) & (cos < 0.9999)).any()
