"""CDPruner's rule against slow ways to compute the same, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from support import LAYOUTS, asked_of, embeds_for, run_pruned

from visipruner import CDPruner, PruningMethod, Random, Refused, VisionZip, prune
from visipruner.levels import Facts
from visipruner.methods import cdpruner
from visipruner.tower import Clip

LAYOUT = LAYOUTS["text between"]  # two pictures


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip(patches=LAYOUT.num_visual, texts=2):
    return Clip(drawn(patches, 12), drawn(texts, 12, seed=2))


def run(model, method, embeds, clip, layout=LAYOUT):
    with torch.no_grad(), prune(model, method, layout, clip=clip) as trace:
        logits = model(inputs_embeds=embeds).logits[0, -1]
    return logits, trace


def test_a_patch_unlike_the_question_is_relevant():
    image, text = drawn(9, 5), drawn(3, 5, seed=2)
    away = [-sum(torch.cosine_similarity(p, t, dim=0) for t in text) / 3 for p in image]
    low, high = min(away), max(away)
    expected = torch.stack([(a - low + 1e-6) / (high - low) for a in away])
    score = cdpruner.relevance(7 * image, text / 3)  # lengths do not matter
    torch.testing.assert_close(score, expected, atol=1e-6, rtol=1e-5)


def test_picks_make_the_determinant_largest_one_by_one():
    kernel = cdpruner.kernel(drawn(14, 9), drawn(14, seed=3).abs()).double()
    order, gains, _ = cdpruner.picks(kernel, 7)
    chosen: list[int] = []
    for pick, gain in zip(order.tolist(), gains.tolist(), strict=True):
        before = torch.det(kernel[chosen][:, chosen])
        volumes = {}
        for other in set(range(14)) - set(chosen):
            with_it = [*chosen, other]
            volumes[other] = float(torch.det(kernel[with_it][:, with_it]) / before)
        assert pick == max(volumes, key=volumes.get)
        assert gain == pytest.approx(volumes[pick])
        chosen.append(pick)


@pytest.mark.parametrize("renumber", [True, False])
def test_it_equals_the_model_on_the_picked_rows(renumber, llama):
    model, embeds, given = llama(), embeds_for(LAYOUT, 64), clip()
    logits, trace = run(model, CDPruner(11, renumber), embeds, given)
    score = cdpruner.relevance(given.image, given.text)
    features = embeds[0, list(LAYOUT.visual)]
    order, _, _ = cdpruner.picks(cdpruner.kernel(features, score), 11)
    assert trace.cuts[0].kept == sorted(order.tolist())
    kept = [LAYOUT.visual[patch] for patch in sorted(order.tolist())]
    rows = sorted({*range(LAYOUT.length)} - {*LAYOUT.visual} | {*kept})
    places = torch.arange(len(rows)) if renumber else torch.tensor(rows)
    with torch.no_grad():
        expected = model(inputs_embeds=embeds[:, rows], position_ids=places[None]).logits[0, -1]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_in_a_stack_it_judges_what_is_left(llama):
    model, embeds, given = llama(), embeds_for(LAYOUT, 64), clip()
    _, trace = run(model, [Random(20), CDPruner(6)], embeds, given)
    left = trace.cuts[0].kept
    score = cdpruner.relevance(given.image[left], given.text)
    features = embeds[0, [LAYOUT.visual[patch] for patch in left]]
    order, _, _ = cdpruner.picks(cdpruner.kernel(features, score), 6)
    assert trace.cuts[1].kept == sorted(left[pick] for pick in order.tolist())


def test_the_cost_of_clip_counts_as_its_own(llama):
    model, embeds, given = llama(), embeds_for(LAYOUT, 64), clip()
    dear = Clip(given.image, given.text, flops=1234)
    costs = [run(model, CDPruner(4), embeds, one)[1].door_flops for one in (given, dear)]
    assert costs[1] - costs[0] == 1234
    assert run(model, PruningMethod(), embeds, dear)[1].door_flops == 0


@pytest.mark.parametrize(("rank", "wish"), [(5, 6), (5, 30), (12, 59)])
def test_more_picks_than_the_features_rank_are_refused(rank, wish, llama):
    embeds = embeds_for(LAYOUT, 64).clone()
    embeds[0, list(LAYOUT.visual)] = drawn(LAYOUT.num_visual, rank) @ drawn(rank, 64, seed=2)
    run(llama(), CDPruner(rank), embeds, clip())
    with pytest.raises(Refused, match=f"can pick {rank} patches of this picture, not {wish}: "):
        run(llama(), CDPruner(wish), embeds, clip())


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, None])
def test_embeddings_that_weigh_nothing_are_refused(odd, llama):
    given = clip()
    given.image[3 if odd is not None else slice(None)] = 1.0 if odd is None else odd
    with pytest.raises(Refused, match="cannot weigh these patches"):
        run(llama(), CDPruner(4), embeds_for(LAYOUT, 64), given)


def test_tokens_that_are_no_patch_are_refused(mini, picture):
    inputs, layout = asked_of(mini, picture)
    stack = [VisionZip(4, 2), CDPruner(3)]
    with (
        pytest.raises(Refused, match="In a stack it comes first"),
        torch.no_grad(),
        prune(mini.model, stack, layout, clip=clip(layout.num_visual)),
    ):
        mini.model(**inputs)


def test_budgets(llama):
    facts = Facts(LAYOUT.num_visual, 8)
    assert CDPruner.for_budget(64, Facts(576, 32)) == CDPruner()
    assert CDPruner.at_level(1, facts, {}) == CDPruner(1)
    with pytest.raises(Refused, match="its least is 1"):
        CDPruner.for_budget(0.4, facts)
    for keep in (LAYOUT.num_visual, 1000):
        trace = run_pruned(llama(), CDPruner(keep), LAYOUT, embeds_for(LAYOUT, 64))[3]
        assert not trace.cuts and not trace.why
