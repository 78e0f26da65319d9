"""Stacks, merging, orders, tokens that are no patch, late entry: each equals a plain model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from reference import late_entry
from support import LAYOUTS, answer, asked_of, embeds_for, run_pruned
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visipruner import (
    PruningMethod,
    PyramidDrop,
    Random,
    Refused,
    Schedule,
    SparseVLM,
    TokenLayout,
    VisionZip,
    VisiPruner,
    prune,
)
from visipruner.flops import ModelShape, executed
from visipruner.methods.sparsevlm import cluster
from visipruner.stock import output_cache, with_cache
from visipruner.tower import Clip

LAYOUT = LAYOUTS["one picture"]
FILTERS = VisiPruner(shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.1)
MERGES = SparseVLM(layers=(1, 3, 5), keep=(20, 8, 3))
STEPS = 9


# -- VisionZip


def zipped_by_hand(model, inputs, layout, dominant, contextual):
    """The short prompt's embeddings, by VisionZip's rule written again as loops."""
    tower = model.model.vision_tower
    states = {}
    layer = tower.encoder.layers[-1]
    handles = [
        layer.self_attn.k_proj.register_forward_hook(lambda _m, _i, o: states.update(k=o[0])),
        layer.self_attn.q_proj.register_forward_hook(lambda _m, _i, o: states.update(q=o[0])),
        layer.register_forward_hook(lambda _m, _i, o: states.update(h=o[0])),
    ]
    with torch.no_grad():
        tower(inputs["pixel_values"])
    for handle in handles:
        handle.remove()
    hidden = states["h"] if states["h"].dim() == 2 else states["h"][0]
    heads = layer.self_attn.num_heads
    query = states["q"].view(len(hidden), heads, -1)
    key = states["k"].view(len(hidden), heads, -1)
    weights = torch.einsum("hd,khd->hk", query[0], key) / query.shape[-1] ** 0.5
    score = weights.softmax(-1).sum(0)[1:]
    best = sorted(score.topk(dominant - 1).indices.tolist())
    rest = [patch for patch in range(len(score)) if patch not in best]
    step = max(1, len(rest) // contextual)
    targets = rest[::step][:contextual]
    metric = key.mean(1)[1:]
    metric = metric / metric.norm(dim=-1, keepdim=True)
    groups = {target: [] for target in targets}
    for patch in rest:
        if patch not in groups:
            groups[max(targets, key=lambda t, p=patch: float(metric[t] @ metric[p]))].append(patch)
    patches = hidden[1:]
    merged = [
        patches[target] + (torch.stack([patches[p] for p in group]).mean(0) if group else 0)
        for target, group in groups.items()
    ]
    with torch.no_grad():
        made = model.model.multi_modal_projector(torch.stack([hidden[0], *patches[best], *merged]))
        embeds = model.get_input_embeddings()(inputs["input_ids"])[0]
    start, stop = layout.spans[0]
    short = torch.cat([embeds[:start], made, embeds[stop:]])[None]
    return short, TokenLayout(short.shape[1], ((start, start + len(made)),))


def test_visionzip_equals_the_short_prompt(mini, picture):
    inputs, layout = asked_of(mini, picture)
    with prune(mini.model, VisionZip(4, 3), layout) as trace:
        pruned = answer(mini.model, STEPS, **inputs)[1]
    short, _ = zipped_by_hand(mini.model, inputs, layout, 4, 3)
    expected = answer(mini.model, STEPS, inputs_embeds=short)[1]
    torch.testing.assert_close(pruned, expected, atol=1e-5, rtol=1e-5)
    (cut,) = trace.cuts
    assert len(cut.visual) == 7 and cut.visual[0] == layout.length and len(cut.kept) == 6
    assert -1 not in [cut.owner[patch] for patch in range(16) if patch not in cut.kept]
    assert all(cut.owner[patch] == layout.visual[patch] for patch in cut.kept)


def test_visionzip_then_visipruner_is_visipruner_on_the_short_prompt(mini, picture):
    inputs, layout = asked_of(mini, picture)
    with prune(mini.model, [VisionZip(4, 3), FILTERS], layout) as trace:
        pruned = answer(mini.model, STEPS, **inputs)[1]
    short, short_layout = zipped_by_hand(mini.model, inputs, layout, 4, 3)
    with prune(mini.model, FILTERS, short_layout) as alone:
        expected = answer(mini.model, STEPS, inputs_embeds=short)[1]
    torch.testing.assert_close(pruned, expected, atol=1e-5, rtol=1e-5)
    assert trace.method == "visionzip+visipruner"
    assert [r.tokens for r in trace.layers] == [r.tokens for r in alone.layers]
    assert [r.kv_tokens for r in trace.layers] == [r.kv_tokens for r in alone.layers]
    assert trace.filtering_layer == alone.filtering_layer is not None
    assert trace.stories[1].why == alone.why and trace.stories[0].why


def test_visionzip_says_what_it_needs(mini, picture, llama):
    inputs, layout = asked_of(mini, picture)
    with pytest.raises(Refused, match="more than the picture's 16 patches"):
        with prune(mini.model, VisionZip(15, 3), layout):
            answer(mini.model, STEPS, **inputs)[1]
    with pytest.raises(Refused, match="In a stack it comes first"):
        with prune(mini.model, [Random(keep=5), VisionZip(4, 3)], layout):
            answer(mini.model, STEPS, **inputs)[1]
    with pytest.raises(Refused, match="no vision tower"):
        with prune(llama(), VisionZip(4, 3), LAYOUT):
            pass


# -- PyramidDrop


def test_the_next_layers_row_is_the_one_that_it_computes(llama):
    """With nothing dropped, the row read ahead is the row of the next layer."""
    peeked, own = [], []

    class Peeks(PruningMethod):
        def select(self, view):
            own.append(view.attention_row())
            if view.layer < view.num_layers - 1:
                peeked.append(view.next_attention_row())

    model, embeds = llama(), embeds_for(LAYOUT, 64)
    with torch.no_grad(), prune(model, Peeks(), LAYOUT):
        looked_at = model(inputs_embeds=embeds).logits
    for ahead, row in zip(peeked, own[1:], strict=True):
        torch.testing.assert_close(ahead, row, atol=1e-6, rtol=1e-5)
    assert torch.equal(looked_at, model(inputs_embeds=embeds).logits)


def test_pyramiddrop_renumbers_at_every_stage(llama):
    method = PyramidDrop(layers=(2, 5), ratios=(0.5, 0.25))
    _, _, _, trace = run_pruned(llama(), method, LAYOUT, embeds_for(LAYOUT, 64))
    assert [r.visual_tokens for r in trace.layers] == [40] * 2 + [20] * 3 + [10] * 3
    assert set(trace.cuts[1].kept) < set(trace.cuts[0].kept)


# -- SparseVLM


def test_merging_in_the_middle_equals_a_model_that_goes_on_with_the_merged_rows(llama):
    """By hand: the same model's layers, on states that are merged between them."""
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    _, logits, _, trace = run_pruned(model, MERGES, LAYOUT, embeds)
    decoder, hidden, cuts = model.model, embeds, {cut.after_layer: cut for cut in trace.cuts}
    tokens = list(range(LAYOUT.length))
    for index, layer in enumerate(decoder.layers):
        places = torch.arange(hidden.shape[1])[None]
        with torch.no_grad():
            hidden = layer(hidden, position_embeddings=decoder.rotary_emb(hidden, places))
        if index not in cuts:
            continue
        cut = cuts[index]
        rows = {token: row for row, token in enumerate(tokens)}
        visual = [t for t in tokens if t in LAYOUT.visual]
        score = torch.tensor(cut.scores)
        stay = MERGES.keep[MERGES.layers.index(index)]
        kept, merged = cut.visual[:stay], cut.visual[stay:]
        best = score.topk(stay).indices.tolist()
        assert kept == [t for i, t in enumerate(visual) if i in best]
        gone = [t for t in visual if t not in kept]
        order = sorted(gone, key=lambda t: -float(score[visual.index(t)]))
        again = order[: int(0.3 * len(gone)) + 1]
        generator = torch.Generator().manual_seed(index)
        noise = torch.rand(len(again), generator=generator)
        centres, _, means = cluster(hidden[0, [rows[t] for t in again]], noise)
        assert [again[c] for c in centres.tolist()] == merged
        first = min(rows[t] for t in visual)
        head, tail = tokens[:first], tokens[max(rows[t] for t in visual) + 1 :]
        tokens = [*head, *kept, *merged, *tail]
        parts = [hidden[0, [rows[t] for t in part]] for part in ([*head, *kept], tail)]
        hidden = torch.cat([parts[0], means, parts[1]])[None]
    with torch.no_grad():
        expected = model.lm_head(decoder.norm(hidden[:, -1]))
    torch.testing.assert_close(logits[:1], expected, atol=2e-5, rtol=1e-5)


def test_owners_are_followed_through_merges(llama):
    trace = run_pruned(llama(), MERGES, LAYOUT, embeds_for(LAYOUT, 64))[3]
    for before, after in zip(trace.cuts, trace.cuts[1:], strict=False):
        gone = [p for p, token in enumerate(before.owner) if token == -1]
        assert all(after.owner[patch] == -1 for patch in gone)  # dropped patches stay dropped
    last = trace.cuts[-1]
    carried = [token for token in last.owner if token != -1]
    assert set(carried) == set(last.visual) and len(carried) > len(last.visual)


# -- stacks


@pytest.mark.parametrize(
    "method", [FILTERS, MERGES, PyramidDrop((2,), (0.5,))], ids=lambda m: m.name
)
def test_a_stack_with_one_that_keeps_all_is_the_other_alone(method, llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    alone = run_pruned(model, method, LAYOUT, embeds)
    for stack in ([PruningMethod(), method], [method, PruningMethod()]):
        both = run_pruned(model, stack, LAYOUT, embeds)
        assert torch.equal(both[1], alone[1])
        assert [r.kv_tokens for r in both[3].layers] == [r.kv_tokens for r in alone[3].layers]


def test_two_cuts_after_one_layer_keep_what_both_keep(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    cuts = [Random(keep=20, after_layer=2, seed=seed) for seed in (1, 2)]
    both = run_pruned(model, cuts, LAYOUT, embeds)[3]
    alone = [run_pruned(model, cut, LAYOUT, embeds)[3].cuts[0].kept for cut in cuts]
    assert both.cuts[-1].kept == sorted(set(alone[0]) & set(alone[1]))
    assert both.layers[3].visual_tokens == len(both.cuts[-1].kept)


def test_a_merge_and_a_cut_after_one_layer(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    merge, cut = SparseVLM(layers=(2,), keep=(15,)), Random(keep=25, after_layer=2)
    for stack in ([merge, cut], [cut, merge]):
        trace = run_pruned(model, stack, LAYOUT, embeds)[3]
        assert trace.layers[3].visual_tokens == len(trace.cuts[-1].visual) < 17


def test_stacks_that_contradict_each_other_are_refused(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    merge = SparseVLM(layers=(2,), keep=(15,))
    late = Schedule(keep_after=None, none_after=None, enter=4)
    for stack, words in (
        ([FILTERS, FILTERS], "edit the attention of the same layer"),
        ([merge, SparseVLM(layers=(2,), keep=(9,))], "merge tokens after the same layer"),
        ([late, PyramidDrop((2,), (0.5,))], None),
    ):
        if words is None:
            run_pruned(model, stack, LAYOUT, embeds)
            continue
        with pytest.raises(Refused, match=words):
            run_pruned(model, stack, LAYOUT, embeds)


# -- late entry


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layout", ["one picture", "text between"])
@pytest.mark.parametrize(("enter", "leave"), [(1, None), (3, 5), (7, None)])
@torch.no_grad()
def test_late_entry_equals_a_model_that_resets_and_masks(enter, leave, layout, attention, llama):
    layout, model = LAYOUTS[layout], llama(attention)
    embeds = embeds_for(layout, 64)
    method = Schedule(keep_after=None, none_after=leave, enter=enter)
    with prune(model, method, layout) as trace:
        output = model(inputs_embeds=embeds)
        steps, decoded = [output.logits[0, -1]], []
        for _ in range(STEPS - 1):
            decoded.append(steps[-1].argmax())
            given = with_cache(model, output_cache(output))
            output = model(decoded[-1].view(1, 1), **given)
            steps.append(output.logits[0, -1])
    everything = torch.cat([embeds[0], model.model.embed_tokens(torch.stack(decoded))])
    expected = late_entry(model, everything, layout, enter, leave)[layout.length - 1 :]
    assert (torch.stack(steps) - expected).abs().max() < 1e-5 * expected.abs().max()
    text = layout.length - layout.num_visual
    assert [r.kv_tokens for r in trace.layers[:enter]] == [text] * enter
    assert trace.patches_at(enter - 1) == [] and len(trace.patches_at(enter)) == layout.num_visual


def test_late_entry_and_visipruner_stack(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    late = Schedule(keep_after=None, none_after=None, enter=2)
    filters = VisiPruner("paper", ("middle", "deep"), 0, 0.9999, 0.1)
    trace = run_pruned(model, [late, filters], LAYOUT, embeds)[3]
    assert trace.filtering_layer >= 2 and trace.layers[0].visual_tokens == 0
    assert 0 < trace.layers[trace.filtering_layer + 1].visual_tokens < LAYOUT.num_visual


# -- counting


@pytest.mark.parametrize("name", ["sparsevlm", "stack", "late"])
def test_flops_equal_the_counter(name, llama):
    methods = {
        "sparsevlm": MERGES,
        "stack": [SparseVLM(layers=(1,), keep=(20,)), FILTERS],
        "late": [Schedule(keep_after=None, none_after=None, enter=2), PyramidDrop((4,), (0.5,))],
    }
    model, embeds = llama("eager"), embeds_for(LAYOUT, 64)
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        prune(model, methods[name], LAYOUT) as trace,
        FlopCounterMode(display=False) as counter,
    ):
        model(inputs_embeds=embeds, logits_to_keep=1)
    assert executed(ModelShape.of(model.config), trace).prefill == counter.get_total_flops()


def test_visionzips_own_flops_equal_the_counter(mini, picture):
    inputs, layout = asked_of(mini, picture)
    model = mini.model
    model.set_attn_implementation("eager")
    try:
        counts = []
        for method in (PruningMethod(), VisionZip(4, 3)):
            with (
                torch.no_grad(),
                sdpa_kernel(SDPBackend.MATH),
                prune(model, method, layout) as trace,
                FlopCounterMode(display=False) as counter,
            ):
                model(**inputs, logits_to_keep=1)
            shape = ModelShape.of(model.config)
            counts.append(counter.get_total_flops() - executed(shape, trace).prefill)
        assert counts[0] == counts[1]  # the rest is the vision tower, the same for both
    finally:
        model.set_attn_implementation("sdpa")


# -- CLIP's text embeddings


@dataclass(frozen=True)
class Relevant(PruningMethod):
    """Keeps the patches that are nearest to what is asked."""

    name: ClassVar[str] = "relevant"
    needs: ClassVar[frozenset[str]] = frozenset({"clip_text"})
    keep: int = 7

    def encode(self, view):
        near = (view.clip.image @ view.clip.text.mean(0)).topk(self.keep).indices
        return view.keep_visual(near.sort().values, "relevant")

    def select(self, view):
        with pytest.raises(ValueError, match="before layer 0"):
            view.clip  # noqa: B018 - reading it is the test


def test_a_method_reads_clips_text_embeddings(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(LAYOUT.num_visual, 12, generator=generator)
    clip = Clip(image, image[[3, 30]])
    with torch.no_grad(), prune(model, Relevant(), LAYOUT, clip=clip) as trace:
        model(inputs_embeds=embeds)
    best = (image @ image[[3, 30]].mean(0)).topk(7).indices.sort().values
    assert trace.cuts[0].kept == best.tolist() and {3, 30} <= set(trace.cuts[0].kept)
    for wrong, words in ((None, "hand them in as `clip=`"), (Clip(image[:5], image), "5 patches")):
        with pytest.raises(Refused, match=words), prune(model, Relevant(), LAYOUT, clip=wrong):
            pass
