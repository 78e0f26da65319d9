"""This project's rules reproduce the recorded decisions of other methods' published code."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from visipruner.methods import (
    cdpruner,
    dart,
    divprune,
    pyramiddrop,
    sparsevlm,
    visionzip,
    vispruner,
)

GOLDEN = Path(__file__).parent / "golden"
NUMBERS = (1, 3)


def case(method, number):
    folder = GOLDEN / method
    facts = json.loads((folder / f"case_{number}.json").read_text())
    return facts, load_file(folder / f"case_{number}.safetensors")


def close(ours, recorded, tolerance):
    torch.testing.assert_close(ours, recorded.to(ours.dtype), atol=tolerance, rtol=0)


@pytest.mark.parametrize("number", NUMBERS)
def test_pyramiddrop(number):
    facts, recorded = case("pyramiddrop", number)
    start, visual = facts["layout"]["prefix"], facts["layout"]["visual"]
    present = torch.arange(visual)
    for stage, ratio in enumerate(facts["hyper"]["image_token_ratio_list"][1:]):
        rows = start + torch.arange(len(present))
        score = pyramiddrop.score_of(recorded[f"mid.s{stage}.attn_row"], rows)
        close(score, recorded[f"out.s{stage}.score"], 1e-6)
        kept = pyramiddrop.stays(score, ratio, visual)
        assert torch.equal(kept, recorded[f"out.s{stage}.kept_local"])
        present = present[kept]
        assert torch.equal(present, recorded[f"out.s{stage}.kept_visual"])


@pytest.mark.parametrize("number", NUMBERS)
def test_sparsevlm(number):
    facts, recorded = case("sparsevlm", number)
    raters = sparsevlm.raters(recorded["in.embeds_visual"], recorded["in.embeds_text"])
    assert torch.equal(raters, recorded["out.raters"])
    for stage, count in enumerate(facts["hyper"]["keep_list"]):

        def value(name, stage=stage):
            return recorded[name.replace("s.", f"s{stage}.")]

        score = value("in.s.attn_text_visual")[:, raters].mean((0, 1))
        close(score, value("out.s.score"), 1e-6)
        kept = score.topk(count).indices.sort().values
        assert torch.equal(kept, value("out.s.kept_local"))
        again = sparsevlm.recycled(score, kept, 0.3)
        assert torch.equal(again, value("out.s.recycled_local"))
        vectors = value("in.s.hidden_visual")[again]
        centres, owner, merged = sparsevlm.cluster(vectors, value("in.s.noise01"))
        assert torch.equal(centres, value("out.s.center"))
        assert torch.equal(owner, value("out.s.owner"))
        close(merged, value("out.s.merged_tokens"), 1e-5)


@pytest.mark.parametrize("number", NUMBERS)
def test_sparsevlm_plus(number):
    facts, recorded = case("sparsevlm_plus", number)
    hyper, place = facts["hyper"], facts["layout"]
    raters, width = recorded["out.raters"], hyper["head_dim"]
    inverse = hyper["rope_theta"] ** (-torch.arange(0, width, 2) / width)
    visual = torch.arange(place["visual"])
    for stage, count in enumerate(hyper["keep_list"]):
        positions = recorded[f"in.s{stage}.position_ids"].float().flatten()
        angles = (positions[:, None] * inverse).repeat(1, 2)
        start = place["prefix"]
        keys = start + torch.arange(len(visual))
        queries = start + len(visual) + raters
        kernel = sparsevlm.place_kernel(angles.cos(), angles.sin(), queries, keys)
        assert bool((kernel > 0).all())
        rows = recorded[f"in.s{stage}.attn_text_visual"][:, raters]
        score = sparsevlm.corrected_score(rows, kernel, facts["hyper"].get("heads", 14))
        largest = recorded[f"out.s{stage}.score"].max().item()
        close(score, recorded[f"out.s{stage}.score"], 1e-5 * largest)
        kept = score.topk(count).indices.sort().values
        assert torch.equal(kept, recorded[f"out.s{stage}.kept_local"])
        visual = visual[kept]
        assert torch.equal(visual, recorded[f"out.s{stage}.kept_visual"])


@pytest.mark.parametrize("number", NUMBERS)
def test_visionzip(number):
    facts, recorded = case("visionzip", number)
    dominant = facts["hyper"]["dominant"]
    score = recorded["in.cls_attn"].sum(0)
    close(score, recorded["out.score"], 1e-6)
    kept = score.topk(dominant - 1).indices.sort().values
    assert torch.equal(kept, recorded["out.kept_visual"])
    keys = recorded["in.metric"][None]  # one head: the mean over heads was recorded
    targets, owner = visionzip.contextual_groups(keys, kept, facts["hyper"]["contextual"])
    assert torch.equal(targets, recorded["out.context_targets"])
    assert torch.equal(owner[0], recorded["out.merged_from"])
    assert torch.equal(owner[1], recorded["out.owner"])
    merged = visionzip.merge(recorded["in.hidden"][1:], targets, owner)
    close(merged, recorded["out.contextual_tokens"], 1e-5)


@pytest.mark.parametrize("number", [1, 3, 4])
def test_vispruner(number):
    facts, recorded = case("vispruner", number)
    keep, share = facts["hyper"]["visual_token_num"], facts["hyper"]["important_ratio"]
    score = recorded["in.cls_attn"].mean(0)
    close(score, recorded["out.score"], 1e-6)
    order, first = score.argsort(descending=True), int(keep * share)
    assert not vispruner.why_not(len(score), keep, share)
    assert torch.equal(order[:first], recorded["out.important_order"])
    assert torch.equal(order[first:], recorded["mid.residual_start"])
    features = F.normalize(recorded["in.features"], dim=-1)
    diverse, _ = vispruner.thin(features, order[first:], keep - first)
    assert torch.equal(diverse, recorded["out.diverse_order"])
    kept = torch.cat([order[:first], diverse]).sort().values
    assert torch.equal(kept, recorded["out.kept_visual"])


@pytest.mark.parametrize("number", NUMBERS)
def test_divprune(number):
    facts, recorded = case("divprune", number)
    distance = divprune.distances(recorded["in.features"])
    close(distance.kthvalue(2, dim=0).values, recorded["mid.first_score"], 1e-5)
    order, gaps = divprune.spread(distance, facts["hyper"]["n_keep"])
    assert torch.equal(order, recorded["out.order"])
    close(gaps, recorded["out.max_min_distance"], 1e-5)
    assert torch.equal(order.sort().values, recorded["out.kept_visual"])


@pytest.mark.parametrize("number", [1, 3, 5, 6])
def test_dart(number):
    facts, recorded = case("dart", number)
    hyper, place = facts["hyper"], facts["layout"]
    start, stop = place["prefix"], place["prefix"] + place["visual"]
    keys, states = recorded["in.k"], recorded["in.hidden"]
    norms = keys.abs().sum((0, 2))
    close(norms[start:stop], recorded["mid.k_l1_image"], 1e-5 * norms.max().item())
    visual, text = torch.arange(start, stop), torch.arange(stop, len(states))
    of_picture = dart.largest(norms, visual, hyper["pivot_image_token"])
    of_text = dart.largest(norms, text, hyper["pivot_text_token"])
    assert of_picture == recorded["out.pivot_image_abs"].tolist()
    assert of_text == recorded["out.pivot_text_abs"].tolist()
    pivots = dart.visit_order(of_picture, of_text)
    assert pivots == recorded["out.pivot_visit_order_abs"].tolist()
    normed = states * (states.pow(2).mean(-1, keepdim=True) + hyper["rms_eps"]).rsqrt()
    normed = normed * recorded["in.norm_weight"]
    taken = dart.take(normed, visual, of_picture, pivots, hyper["topk_per_pivot"])
    assert taken == recorded["out.picked_abs"].flatten().tolist()
    kept = sorted(row - start for row in {*of_picture, *taken})
    assert kept == recorded["out.kept_visual"].tolist()


@pytest.mark.parametrize("number", NUMBERS)
def test_cdpruner(number):
    facts, recorded = case("cdpruner", number)
    score = cdpruner.relevance(recorded["in.image_embeds"], recorded["in.text_embeds"])
    close(score, recorded["out.relevance"], 1e-5)
    kernel = cdpruner.kernel(recorded["in.projected"], score)
    close(kernel[0], recorded["mid.kernel_row0"], 1e-5)
    order, gains, share = cdpruner.picks(kernel, facts["hyper"]["visual_token_num"])
    assert torch.equal(order, recorded["out.order"])
    close(gains, recorded["out.gain"], 1e-4)
    assert torch.equal(order.sort().values, recorded["out.kept_visual"])
    cdpruner.check_rank(share)
