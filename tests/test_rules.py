"""Methods on a whole model: their inputs, positions, impossible settings; pooling and quotas."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from support import asked_of, clip_for, eager, embeds_for, run_pruned

from visipruner import METHODS, PruningMethod, Refused, TokenLayout, prune
from visipruner.choice import make, parse
from visipruner.levels import Facts
from visipruner.methods import DART, DivPrune, HoloV, Pool, VisPruner, dart, divprune, holov
from visipruner.methods import vispruner as rounds

# -- what the rules are given, as transformers itself returns it


@pytest.fixture(scope="module")
def stock(mini, picture):
    """The prompt, and what its tower and its language model compute, without any hook."""
    inputs, layout = asked_of(mini, picture)
    model, shown = mini.model, {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad(), eager(model):
        tower = model.model.vision_tower(inputs["pixel_values"], **shown)
        whole = model(**inputs, output_hidden_states=True, use_cache=True)
    visual = list(layout.visual)
    return {
        "inputs": inputs,
        "layout": layout,
        "features": tower.hidden_states[-1][0, 1:],
        "attention": tower.attentions[-1][0, :, 0, 1:].mean(0),
        "embeds": whole.hidden_states[0][0, visual],
        "hidden": whole.hidden_states[2][0],  # of layer 1, before K = 2
        "keys": whole.past_key_values.layers[1].keys[0],
    }


def kept_by(mini, stock, method) -> list[int]:
    with torch.no_grad(), prune(mini.model, method, stock["layout"]) as trace:
        mini.model(**stock["inputs"])
    return trace.cuts[0].kept


def test_vispruner_reads_the_towers_features_and_class_token(mini, stock):
    order = stock["attention"].argsort(descending=True)
    features = F.normalize(stock["features"], dim=-1)
    rest = rounds.thin(features, order[6:], 6)[0]
    expected = sorted([*order[:6].tolist(), *rest.tolist()])
    assert kept_by(mini, stock, VisPruner(12)) == expected


def test_divprune_reads_the_projected_features(mini, stock):
    order = divprune.spread(divprune.distances(stock["embeds"]), 7)[0]
    assert kept_by(mini, stock, DivPrune(7)) == sorted(order.tolist())


def test_holov_reads_projected_features_and_the_class_token(mini, stock):
    runs = holov.lengths(16, 4)
    expected = holov.choose(stock["embeds"], stock["attention"], runs, 7, 0.09)
    assert sorted(kept_by(mini, stock, HoloV(7, crops=4))) == sorted(expected.tolist())


def test_dart_reads_the_layer_before_its_cut(mini, stock):
    norms = stock["keys"].abs().sum((0, 2))
    visual = torch.tensor(stock["layout"].visual)
    text = torch.arange(int(visual[-1]) + 1, stock["layout"].length)
    of_picture, of_text = dart.largest(norms, visual, 2), dart.largest(norms, text, 2)
    norm = mini.model.model.language_model.norm  # final: none of the layers before depends on it
    plain = norm.weight.data.clone()
    norm.weight.data.copy_(torch.linspace(-3, 3, len(plain)))  # turns vectors, as trained ones do
    try:
        pivots = dart.visit_order(of_picture, of_text)
        taken = dart.take(norm(stock["hidden"]), visual, of_picture, pivots, 2)
        start = int(visual[0])
        expected = sorted(row - start for row in {*of_picture, *taken})
        assert kept_by(mini, stock, DART(2, visual_pivots=2, text_pivots=2)) == expected
    finally:
        norm.weight.data.copy_(plain)


# -- positions, and settings that cannot be


SELECTING = [name for name, kind in METHODS.items() if "renumber" in {f.name for f in fields(kind)}]


@pytest.mark.parametrize("renumber", [False, True])
@pytest.mark.parametrize("name", SELECTING)
def test_survivors_keep_their_places_or_are_renumbered(name, renumber, mini, picture):
    """The same tokens stay either way; the decoded tokens' places tell the two apart."""
    inputs, layout = asked_of(mini, picture)
    facts = mini.facts()
    kind = METHODS[name]
    usual = kind.for_budget(max(8.0, kind.least(facts)), facts)
    rows = []

    class Spied(kind):
        def select(self, view):
            rows.append((view.tokens.tolist(), view.places.tolist()))
            return super().select(view)

    values = {field.name: getattr(usual, field.name) for field in fields(kind)}
    spied = Spied(**{**values, "renumber": renumber})
    clip = clip_for([spied], layout.num_visual)
    with torch.no_grad(), prune(mini.model, spied, layout, clip=clip):
        mini.model(**inputs)
    tokens, places = rows[-1]
    assert len(tokens) < layout.length
    assert sorted(tokens) == tokens or kind.name == "holov"  # HoloV's own order goes with numbers
    assert places == (list(range(len(tokens))) if renumber else tokens)


@pytest.mark.parametrize(
    ("keep", "words"),
    [(58, "an even number"), (100, ""), (102, "an even number"), (8, "more than half")],
)
def test_vispruner_refuses_what_its_rounds_cannot_do(keep, words):
    facts = Facts(576, 32)
    if not words:
        VisPruner(keep).check_for(facts)
        return
    with pytest.raises(Refused, match=words):
        make(parse("vispruner"), facts, {"keep": keep})


def test_vispruners_budgets_can_all_be_done():
    facts = Facts(576, 32)
    for tokens in (*range(20, 576, 7), 576):
        method = VisPruner.for_budget(tokens, facts)
        method.check_for(facts)
        assert abs(method.keep - tokens) <= 1


@pytest.mark.parametrize("stack", ["fastv+pool", "random+vispruner", "divprune+divprune"])
def test_a_stack_that_contradicts_itself_is_refused_before_it_runs(stack):
    with pytest.raises(Refused, match=r"comes first|stands twice"):
        make(parse(stack), Facts(576, 32, grids=((24, 24),)))


# -- pooling


@pytest.mark.parametrize(("grid", "side", "tokens"), [((4, 4), 2, 4), ((5, 7), 3, 6)])
def test_pooling_is_the_model_on_the_pooled_picture(grid, side, tokens, llama):
    """Two pictures; a grid that the block does not divide has smaller blocks at its edge."""
    rows, columns = grid
    count, model = rows * columns, llama()
    layout = TokenLayout(2 * count + 12, ((4, 4 + count), (6 + count, 6 + 2 * count)), (grid, grid))
    embeds = embeds_for(layout, 64)
    logits, trace = run_pruned(model, Pool(side), layout, embeds)[1::2]
    parts = [embeds[0, :4]]
    for start, stop in layout.spans:
        whole = embeds[0, start:stop].view(rows, columns, -1)
        parts += [
            whole[r : r + side, c : c + side].flatten(0, 1).mean(0, keepdim=True)
            for r in range(0, rows, side)
            for c in range(0, columns, side)
        ]
        parts.append(embeds[0, stop : 6 + count] if start == 4 else embeds[0, stop:])
    short = torch.cat(parts)[None]
    plain = run_pruned(model, PruningMethod(), TokenLayout(short.shape[1]), short)[1]
    torch.testing.assert_close(logits, plain, atol=1e-4, rtol=1e-4)
    assert trace.layers[0].visual_tokens == 2 * tokens
    assert ("fewer patches" in trace.why) == bool(rows % side or columns % side)


def test_a_pooled_patch_says_which_token_carries_it(llama):
    layout = TokenLayout(24, ((4, 20),), ((4, 4),))
    trace = run_pruned(llama(), Pool(2), layout, embeds_for(layout, 64))[3]
    (cut,) = trace.cuts
    assert cut.kept == [0, 2, 8, 10]
    assert [cut.owner[patch] - 4 for patch in (0, 1, 4, 5, 15)] == [0, 0, 0, 0, 10]


def test_pooling_needs_to_know_the_grid(llama):
    layout = TokenLayout(24, ((4, 20),))
    with pytest.raises(Refused, match="rows and columns"):
        run_pruned(llama(), Pool(2), layout, embeds_for(layout, 64))


# -- HoloV's quotas, by hand


def test_holovs_quotas_follow_the_scores():
    assert holov.quotas(torch.tensor([1.0, 2.0, 5.0]), 8) == [1, 2, 5]
    # What is left goes to the highest score, not to the largest remainder.
    assert holov.quotas(torch.tensor([1.0, 2.0, 4.6]), 5) == [0, 1, 4]
    assert holov.quotas(torch.tensor([1.0, 1.0, 1.0]), 4) in ([2, 1, 1], [1, 2, 1], [1, 1, 2])
    assert holov.lengths(10, 4) == [3, 3, 2, 2]


def test_a_runs_score_by_loops():
    """The published sums, one patch at a time; a patch itself counts as a zero in the squares."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(5, 8, generator=generator)
    attention = torch.rand(5, generator=generator)
    spreads = []
    for one in range(5):
        cosines = [
            0.0 if one == other else F.cosine_similarity(features[one], features[other], dim=0)
            for other in range(5)
        ]
        mean = sum(cosines) / 4
        spreads.append(sum((cosine - mean) ** 2 for cosine in cosines) / 4)
    weight = 1000 * attention.mean() / (sum(spreads) / 5)
    scores = [1000 * a + 0.09 * weight * s for a, s in zip(attention, spreads, strict=True)]
    score = holov.run_score(features, attention, 0.09)
    torch.testing.assert_close(score, sum(scores) / 5, rtol=1e-4, atol=0)
    # The scaling makes the variety cancel.
    torch.testing.assert_close(score, 1090 * attention.mean(), rtol=1e-4, atol=0)


def test_a_run_that_is_given_more_than_it_has_keeps_all():
    attention = torch.tensor([9.0, 8.0, 0.1, 0.2, 0.1, 0.1])
    features = torch.eye(6)
    kept = holov.choose(features, attention, holov.lengths(6, 3), 4, 0.0)
    assert kept.tolist()[:2] == [0, 1] and len(kept) < 4
