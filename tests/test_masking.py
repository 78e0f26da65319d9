"""Range masking and interventions equal a stock model with additive masks, and nothing stays."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from support import Embedded, answer, eager, relative, state_of, two_pictures

from visipruner.analyses import ranges as room
from visipruner.analyses.asking import ask, divergence
from visipruner.analyses.base import PatchMap, Step
from visipruner.analyses.blind import Blind
from visipruner.analyses.interventions import Intervened
from visipruner.analyses.masking import Masked, RangeMasking
from visipruner.analyses.ranges import block_of, ranges_of, stages_of
from visipruner.analyses.recipes import (
    RECIPES,
    DropCache,
    Forget,
    Hide,
    KeepOrDrop,
    MaskLayers,
    Merge,
    NoSinks,
    SkipLayer,
    sinks_of,
)
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.layout import TokenLayout
from visipruner.models.catalogue import VLM
from visipruner.training.config import FOLDER

needs_weights = pytest.mark.skipif(not (FOLDER / "model.safetensors").exists(), reason="no weights")
LAYERS = 8


@pytest.fixture(scope="module")
def asked(mini, picture):
    prompt = mini.prepare(picture, "what colour is the star?")
    return prompt, mini.encode(prompt)


@pytest.fixture(scope="module")
def found(mini, asked) -> Masked:
    return last(RangeMasking().run(mini, *asked))


def last(steps):
    return list(steps)[-1]


# -- the reference: a stock eager model, and pairs of tokens with minus infinity


@torch.no_grad()
def reference(vlm, prompt, hidden, decoded=()):
    """(tokens, vocabulary) log-probabilities, and per layer (heads, tokens, tokens) attention.

    Args:
        hidden: layer -> (tokens, tokens) bool, the pairs of query and key that are masked.
    """

    def mask(pairs):
        def hook(_module, args, kwargs):
            seen = kwargs["attention_mask"].clone()
            seen[0, 0][pairs] = torch.finfo(seen.dtype).min
            return args, {**kwargs, "attention_mask": seen}

        return hook

    ids = torch.cat([prompt.inputs["input_ids"], torch.tensor([decoded], dtype=torch.long)], 1)
    assert not set(decoded) & {vlm.model.config.image_token_id}
    with eager(vlm.model):
        hooks = [
            layer.register_forward_pre_hook(mask(hidden(index)), with_kwargs=True)
            for index, layer in enumerate(vlm.model.model.language_model.layers)
        ]
        pixels = prompt.inputs["pixel_values"]
        out = vlm.model(input_ids=ids, pixel_values=pixels, output_attentions=True)
        for hook in hooks:
            hook.remove()
    return out.logits[0].double().log_softmax(-1), [one[0] for one in out.attentions]


def is_visual(prompt, more=0):
    visual = torch.zeros(prompt.layout.length + more, dtype=torch.bool)
    visual[list(prompt.layout.visual)] = True
    return visual


def text_to_visual(prompt, first, end):
    visual = is_visual(prompt)
    pairs = ~visual[:, None] & visual[None]
    return lambda layer: pairs & (first <= layer < end)


def first_word(vlm, prompt, hidden):
    return reference(vlm, prompt, hidden)[0][-1]


def kl(usual, other):
    return (usual.exp() * (usual - other)).sum().item()


# -- range masking


def test_ranges_equal_a_masked_model(mini, asked, found):
    prompt, _ = asked
    usual = first_word(mini, prompt, text_to_visual(prompt, 0, 0))
    assert found.ranges == tuple(itertools.combinations_with_replacement(range(LAYERS), 2))
    assert max(found.kl) > 0.01  # masking matters on these weights
    changes = 0
    rows = zip(found.ranges, found.kl, found.changed, found.words, strict=True)
    for (a, b), lost, changed, word in itertools.islice(rows, 0, None, 2):
        other = first_word(mini, prompt, text_to_visual(prompt, a, b + 1))
        assert lost == pytest.approx(kl(usual, other), rel=1e-3, abs=1e-7)
        assert changed == bool(usual.argmax() != other.argmax())
        assert word == mini.processor.decode([other.argmax()]).strip()
        changes += changed
    assert changes


def check_against_own_runs(vlm, prompt, features, found, ranges):
    """Compare a result with pruned runs of the whole prompt, one per range."""
    usual = ask(vlm, Blind(), prompt, features)
    for first, end in ranges:
        own = ask(vlm, Blind(first, end + 1), prompt, features)
        lost = pytest.approx(divergence(usual.first, own.first), rel=1e-3, abs=1e-7)
        assert found.cost[first, end] == lost


def test_ranges_equal_runs_of_their_own(mini, asked, found):
    check_against_own_runs(mini, *asked, found, found.ranges[::3])


def test_eager_attention_gives_the_same(mini, asked, found):
    with eager(mini.model):
        assert last(RangeMasking().run(mini, *asked)).kl == pytest.approx(found.kl, rel=1e-3)


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3"])
def test_relatives_are_masked_like_llama(mini, asked, name):
    model, inputs, layout = relative(name)
    vlm = VLM(mini.spec, model, mini.processor)
    prompt = replace(asked[0], inputs=inputs, layout=layout)
    features = vlm.encode(prompt)
    found = last(RangeMasking().run(vlm, prompt, features))
    assert max(found.kl) > 1e-3
    check_against_own_runs(vlm, prompt, features, found, [(0, 5), (1, 2), (4, 4)])


@torch.no_grad()
def test_masking_all_layers_equals_a_prompt_without_the_picture(mini, asked, found):
    prompt, _ = asked
    text = (~is_visual(prompt)).nonzero().flatten()[None]
    ids = prompt.inputs["input_ids"][:, text[0]]
    language = mini.model.model.language_model
    states = language(input_ids=ids, position_ids=text, attention_mask=None).last_hidden_state
    other = mini.model.lm_head(states)[0, -1].double().log_softmax(-1)
    usual = first_word(mini, prompt, text_to_visual(prompt, 0, 0))
    assert found.cost[0, LAYERS - 1] == pytest.approx(kl(usual, other), rel=1e-3)


def test_two_pictures_are_masked_as_one_by_one(mini, asked):
    """Text between pictures is masked too, and the second picture's tokens read that text."""
    prompt, _ = asked
    cut = two_pictures(mini, prompt)
    features = Embedded(mini, cut)
    found = last(RangeMasking().run(mini, cut, features))
    assert max(found.kl) > 0.01
    check_against_own_runs(mini, cut, features, found, [(0, 3), (2, 2), (0, LAYERS - 1)])


def test_large_models_are_masked_in_blocks(mini, asked, found, monkeypatch):
    assert [block_of(layers) for layers in (1, 12, 16, 17, 24, 32, 40, 80)] == [
        *(1, 1, 1, 2, 3, 4, 5, 9),
    ]
    for layers in range(17, 130):
        ranges = ranges_of(layers, block_of(layers))
        assert len(ranges) <= 45 and (0, layers - 1) in ranges
        rows = [one for one in ranges if one[0] == 0]
        assert [b - a for (_, a), (_, b) in itertools.pairwise(rows)][:-1] == [block_of(layers)] * (
            len(rows) - 2
        )
    monkeypatch.setattr(room, "ALL_RANGES", 4)
    monkeypatch.setattr(room, "MOST_RANGES", 6)  # three blocks of 3, 3 and 2 layers
    blocks = last(RangeMasking().run(mini, *asked))
    assert blocks.block == 3
    assert blocks.ranges == ((0, 2), (0, 5), (0, 7), (3, 5), (3, 7), (6, 7))
    assert blocks.kl == pytest.approx([found.cost[one] for one in blocks.ranges], rel=1e-3)
    assert "blocks of 3" in RangeMasking().figures(blocks)[0].words


def cost(layers, **given):
    """Invented costs: 0, but for ranges given as r2_4=1.5."""
    named = {tuple(map(int, name[1:].split("_"))): lost for name, lost in given.items()}
    return {one: named.get(one, 0.0) for one in ranges_of(layers)}


@pytest.mark.parametrize(
    ("costs", "stages"),
    [
        (
            cost(6, r0_5=1.0, r2_3=0.8, r1_3=0.9),
            {"shallow": (0, 1), "middle": (2, 3), "deep": (4, 5)},
        ),
        (
            cost(6, r0_5=1.0, r2_3=0.79, r1_3=0.9),
            {"shallow": (0, 0), "middle": (1, 3), "deep": (4, 5)},
        ),
        (cost(4, r0_3=1.0, r0_1=0.85, r2_3=0.95), {"shallow": (0, 1), "middle": (2, 3)}),
        (cost(4, r0_3=1.0, r0_0=3.0), {"middle": (0, 0), "deep": (1, 3)}),
        (cost(4, r0_3=1.0), {"middle": (0, 3)}),
        (cost(4, r0_3=0.021, r1_1=0.02), {"shallow": (0, 0), "middle": (1, 1), "deep": (2, 3)}),
        (cost(4, r0_3=0.019, r1_1=5.0), {}),
        (cost(4), {}),
    ],
)
def test_stages_are_named_by_what_masking_costs(costs, stages):
    assert stages_of(costs) == stages


def test_the_result_is_numbers_and_its_figures_are_drawn_from_them(found):
    again = Masked.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found and found.to_json()["stages"] == {
        name: list(one) for name, one in found.stages.items()
    }
    triangle, curves = RangeMasking().figures(again)
    cells = [(r, c) for r in range(LAYERS) for c in range(LAYERS) if r <= c]
    assert [triangle.grid.values[r][c] for r, c in cells] == list(found.kl)
    assert all(triangle.grid.values[r][c] is None for c, r in cells if c != r)
    below, onwards = curves.series
    assert below.y == [0.0, *(found.cost[0, k - 1] for k in range(1, LAYERS + 1))]
    assert onwards.y == [*(found.cost[k, LAYERS - 1] for k in range(LAYERS)), 0.0]
    middle = found.stages["middle"]
    assert (curves.marks["middle begins"], curves.marks["middle ends"]) == (
        middle[0],
        middle[1] + 1,
    )


def test_figures_say_when_no_stage_is_named_and_where_visipruner_acted(found):
    flat = replace(found, kl=(0.001,) * len(found.kl), filtering_layer=3, exit_layer=None)
    triangle, curves = RangeMasking().figures(flat)
    assert "No stage is named" in triangle.words and "did not exit" in curves.words
    assert curves.marks == {"filtering layer": 3.0}


@pytest.mark.parametrize("analysis", [RangeMasking(), *(kind() for kind in RECIPES.values())])
def test_leaving_at_any_step_leaves_nothing_on_the_model(mini, asked, analysis):
    before = state_of(mini.model)
    for number in (1, 12, 20):
        steps = analysis.run(mini, *asked)
        some = list(itertools.islice(steps, number))
        steps.close()
        assert all(isinstance(step, Step) and step.done < step.total for step in some)
        assert state_of(mini.model) == before and not mini.lock.locked()
    steps = list(analysis.run(mini, *asked))
    assert state_of(mini.model) == before and not mini.lock.locked()
    assert [step.done for step in steps[:-1]] == sorted(step.done for step in steps[:-1])
    assert steps[-2].done == steps[-2].total


# -- interventions


def run(mini, asked, analysis) -> Intervened:
    found = last(analysis.run(mini, *asked))
    assert Intervened.from_json(json.loads(json.dumps(found.to_json()))) == found
    maps = [one for one in analysis.figures(found) if isinstance(one, PatchMap)]
    assert [one.values for one in maps] == list(found.read)
    assert {len(one) for read in found.read for one in read} == {asked[0].layout.num_visual}
    assert {len(read) for read in found.read} == {LAYERS}
    return found


def columns_gone(prompt, patches, start):
    """From layer `start` on, these patches are seen by no token."""
    gone = torch.zeros(prompt.layout.length, dtype=torch.bool)
    gone[[prompt.layout.visual[patch] for patch in patches]] = True
    return lambda layer: gone[None].expand(len(gone), -1) & (layer >= start)


@pytest.mark.parametrize("act", ["keep", "drop"])
@pytest.mark.parametrize("end", ["top", "bottom"])
def test_keeping_or_dropping_by_attention_equals_masked_columns(mini, asked, act, end):
    prompt, _ = asked
    usual, attention = reference(mini, prompt, text_to_visual(prompt, 0, 0))
    order = attention[2][:, -1, list(prompt.layout.visual)].mean(0).argsort().tolist()
    order = order[::-1] if end == "top" else order
    gone = order[5:] if act == "keep" else order[:5]
    other = first_word(mini, prompt, columns_gone(prompt, gone, 3))
    found = run(mini, asked, KeepOrDrop(4, act, end, "attention", 5, 2))
    assert found.kl == (0, pytest.approx(kl(usual[-1], other), rel=1e-3))
    assert found.read[0][2] == (1.0,) * 16
    assert [patch for patch, value in enumerate(found.read[0][3]) if value is None] == sorted(gone)


def test_the_order_by_influence_is_the_tests(mini, asked):
    prompt, _ = asked
    with prune(mini.model, Blind(), prompt.layout, probe=True) as trace:
        answer(mini.model, 1, **{n: prompt.inputs[n] for n in ("input_ids", "pixel_values")})
    l2 = torch.tensor(trace.layers[2].influence.l2)
    found = run(mini, asked, KeepOrDrop(4, "keep", "top", "influence", 5, 2))
    kept = [patch for patch, value in enumerate(found.read[0][3]) if value]
    assert kept == sorted(l2.topk(5).indices.tolist())


def test_a_lot_draws_the_same_patches_in_every_layer(mini, asked):
    drawn = []
    for layer in (1, 3):
        found = run(mini, asked, KeepOrDrop(4, "keep", "top", "lot", 5, layer))
        assert found.names[1] == f"keep 5 by lot after layer {layer}"
        drawn.append([patch for patch, value in enumerate(found.read[0][5]) if value])
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 5
    assert drawn[0] != [0, 1, 2, 3, 4]


def test_masked_layers_are_both_ends_and_all_between(mini, asked):
    prompt, _ = asked
    usual = reference(mini, prompt, text_to_visual(prompt, 0, 0))[0]
    other = reference(mini, prompt, text_to_visual(prompt, 2, 5))[0]
    found = run(mini, asked, MaskLayers(4, 2, 4))
    assert found.names[1] == "masked in layers 2 to 4"
    assert found.kl == (0, pytest.approx(kl(usual[-1], other[-1]), rel=1e-3))
    assert [row[0] for row in found.read[0]] == [1, 1, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("act", ["keep", "drop"])
def test_a_count_above_the_pictures_is_all_of_it(mini, asked, act):
    found = run(mini, asked, KeepOrDrop(4, act, count=1000))
    assert found.names[1] == f"{act} the top 16 by influence after layer 4"
    assert found.read[0][5] == ((1.0 if act == "keep" else None),) * 16
    assert (found.kl[1] == 0) == (act == "keep")


@torch.no_grad()
def test_merging_equals_one_value_for_all(mini, asked):
    prompt, _ = asked
    visual, length = is_visual(prompt), prompt.layout.length
    carrier = prompt.layout.visual[6]

    def merged(layer):
        pairs = visual[:, None] & visual[None]
        if layer in (1, 2):
            pairs = visual[None].expand(length, -1)
        return pairs & (layer < 3)

    def one_value(_module, _args, values):
        values = values.clone()
        values[:, visual] = values[:, carrier : carrier + 1].clone()
        return values

    usual = first_word(mini, prompt, text_to_visual(prompt, 0, 0))
    values = mini.model.model.language_model.layers[0].self_attn.v_proj
    hook = values.register_forward_hook(one_value)
    into_one = first_word(mini, prompt, merged)
    hook.remove()
    blind = first_word(mini, prompt, text_to_visual(prompt, 0, 3))
    found = run(mini, asked, Merge(4, patch=6, layers=3))
    assert found.kl[1:] == pytest.approx((kl(usual, into_one), kl(usual, blind)), rel=1e-3)
    assert [sum(row) for row in found.read[0]] == [1, 0, 0, *[16] * 5] and found.read[0][0][6] == 1
    assert [sum(row) for row in found.read[1]] == [0, 0, 0, *[16] * 5]


def test_dropping_from_the_cache_equals_masked_columns_while_decoding(mini, asked):
    prompt, _ = asked
    inputs = {name: prompt.inputs[name] for name in ("input_ids", "pixel_values")}
    with prune(mini.model, Forget(2, 4), prompt.layout):
        said, logits = answer(mini.model, 4, **inputs)
    decoded = said[:-1].tolist()
    visual = is_visual(prompt, len(decoded))
    later = torch.arange(len(visual)) >= prompt.layout.length
    pairs = later[:, None] & visual[None]
    shares, _ = reference(mini, prompt, lambda layer: pairs & (2 <= layer <= 4), decoded)
    assert (logits.double().log_softmax(-1) - shares[-4:]).abs().max() < 1e-4
    plain, _ = reference(mini, prompt, lambda layer: pairs & False, decoded)
    assert (plain[-1] - shares[-1]).abs().max() > 1e-2  # the picture in the cache matters
    found = run(mini, asked, DropCache(4, first=2, last=4))
    assert found.kl == (0, 0) and found.words[0] == found.words[1]  # prefill is untouched
    assert found.answers[1] == mini.processor.decode(said, skip_special_tokens=True).strip()
    assert [sum(row) for row in found.read[0]] == [16, 16, 0, 0, 0, 16, 16, 16]


@pytest.mark.parametrize("layer", [0, 3])
def test_skipping_a_layer_and_leaving_equal_masks(mini, asked, layer):
    prompt, _ = asked
    usual = first_word(mini, prompt, text_to_visual(prompt, 0, 0))
    skipped = first_word(mini, prompt, text_to_visual(prompt, layer, layer + 1))
    left = first_word(mini, prompt, columns_gone(prompt, range(16), layer))
    found = run(mini, asked, SkipLayer(4, layer))
    assert found.kl[1:] == pytest.approx((kl(usual, skipped), kl(usual, left)), rel=1e-3)
    assert found.read[0][layer] == (0.0,) * 16
    assert found.read[1][layer:] == ((None,) * 16,) * (LAYERS - layer)


def test_without_sinks_equals_masked_columns_and_says_where_attention_goes(mini, asked):
    prompt, _ = asked
    usual, attention = reference(mini, prompt, text_to_visual(prompt, 0, 0))
    found = run(mini, asked, NoSinks(4, count=3))
    sinks = [patch for patch, value in enumerate(found.read[0][0]) if value == 0]
    assert len(sinks) == 3
    visual = is_visual(prompt)
    columns = columns_gone(prompt, sinks, 0)(0) & ~visual[:, None]
    other, masked_attention = reference(mini, prompt, lambda layer: columns)
    assert found.kl[1] == pytest.approx(kl(usual[-1], other[-1]), rel=1e-3)
    tokens = [prompt.layout.visual[patch] for patch in sinks]
    for run_of, maps in zip(found.attention, (attention, masked_attention), strict=True):
        shares = dict(zip(found.groups, run_of, strict=True))
        rows = [one[:, -1].mean(0) for one in maps]
        assert shares["the first token"] == pytest.approx([r[0].item() for r in rows], abs=1e-5)
        assert shares["the sinks"] == pytest.approx(
            [r[tokens].sum().item() for r in rows], abs=1e-5
        )
        whole = [sum(layer) for layer in zip(*run_of, strict=True)]
        assert whole == pytest.approx([1.0] * LAYERS, abs=1e-5)
    assert set(found.attention[1][found.groups.index("the sinks")]) == {0.0}
    cached = {record.kv_tokens for record in ask(mini, Hide(tuple(sinks)), *asked).trace.layers}
    assert cached == {prompt.layout.length - 3}  # nor does the answer see them


def test_sinks_have_much_attention_and_small_values():
    layout = TokenLayout(7, ((1, 6),))
    attention = torch.tensor([[0.2, 0.0, 0.3, 0.2, 0.1, 0.1, 0.1]] * 3)
    sizes = torch.tensor([[9.0, 1.0, 8.0, 1.0, 4.0, 6.0, 9.0]] * 3)
    assert sinks_of(attention, sizes, layout, 1) == (2,)  # patch 1 has more, but a large value
    assert sinks_of(attention, sizes, layout, 5) == (0, 2)  # only these have small values
    with pytest.raises(Refused, match="none is a sink"):
        sinks_of(attention, torch.ones(3, 7), layout, 1)


# -- refusals


def test_what_cannot_be_analysed_is_refused_in_a_sentence(mini, asked):
    prompt, features = asked
    blind = replace(prompt, layout=TokenLayout(prompt.layout.length))
    for analysis in (RangeMasking(), *(kind() for kind in RECIPES.values())):
        with pytest.raises(Refused, match="needs a picture"):
            next(analysis.run(mini, blind, features))
    ends = replace(prompt, layout=TokenLayout(20, ((4, 20),)))
    with pytest.raises(Refused, match="text token after the picture"):
        next(RangeMasking().run(mini, ends, features))
    for make, words in (
        (lambda: Blind(3, 2), "last must be at least first, 3, not 2"),
        (lambda: RangeMasking(level="brutal"), "level must be"),
        (lambda: KeepOrDrop(by="luck"), "by must be"),
    ):
        with pytest.raises(Refused, match=words):
            make()


@pytest.mark.parametrize(
    ("analysis", "words"),
    [
        (KeepOrDrop(layer=7, count=2), "layer must be a whole number from 0 to 6, not 7"),
        (Merge(patch=16), "patch must be a whole number from 0 to 15, not 16"),
        (Merge(layers=9), "layers must be a whole number from 1 to 8, not 9"),
        (DropCache(first=0, last=8), "last must be a whole number from 0 to 7, not 8"),
        (DropCache(first=3, last=1), "last must be at least first, 3, not 1"),
        (MaskLayers(first=8), "first must be a whole number from 0 to 7, not 8"),
        (MaskLayers(first=3, last=2), "last must be at least first, 3, not 2"),
        (SkipLayer(layer=8), "layer must be a whole number from 0 to 7, not 8"),
    ],
)
def test_what_a_model_does_not_have_is_refused(mini, asked, analysis, words):
    with pytest.raises(Refused, match=words):
        next(analysis.run(mini, *asked))
