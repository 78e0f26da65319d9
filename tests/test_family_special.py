"""What Qwen-VL adds to a Llama: positions of three dimensions, and features between layers."""

from __future__ import annotations

import pytest
import torch
from family_parts import picture_of
from family_ready import STEPS

from visipruner import DivPrune, FastV, Pool, PruningMethod, Schedule, TokenLayout, prune
from visipruner.bench.replay import Replayer
from visipruner.choice import method_at
from visipruner.errors import Refused
from visipruner.special import Axes
from visipruner.stock import output_cache, with_cache

QWENS = ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"]
ANY = Schedule(keep=7, keep_after=2, none_after=4)


def run(here, method, layout=None):
    """One bare forward pass of the prompt."""
    given = {**here.prompt.asked, **here.vlm.encode(here.prompt).arguments}
    with torch.no_grad(), prune(here.vlm.model, method, layout or here.layout):
        return here.vlm.model(**given)


@pytest.mark.parametrize("name", QWENS)
def test_a_bare_loop_counts_like_generate(name, ready):
    """generate() hands the decoder four rows of positions, a bare forward three or none."""
    here = ready(name)
    ids, logits, _ = here.answer(ANY)
    model = here.vlm.model
    given = {**here.prompt.asked, **here.vlm.encode(here.prompt).arguments}
    with torch.no_grad(), prune(model, ANY, here.layout) as trace:
        output = model(**given)
        found = [output.logits[0, -1]]
        for token in ids[:-1]:
            output = model(token[None, None], **with_cache(model, output_cache(output)))
            found.append(output.logits[0, -1])
    assert trace.decode_positions == [here.layout.length + step for step in range(STEPS - 1)]
    assert torch.allclose(torch.stack(found), logits, rtol=1e-4, atol=1e-5)


def test_positions_of_other_shapes_or_with_gaps_are_refused():
    rows = torch.arange(5).repeat(4, 1, 1)
    assert Axes.of(rows, 5) == Axes(4, 5) and Axes.of(rows[1:], 5) == Axes(3, 5)
    assert Axes.of(rows - torch.tensor([0, 2, 1, 2])[:, None, None], 5).after == 4
    gap = rows.clone()
    gap[0, 0, 3] = 9
    for wrong in (gap, rows[:2], rows[..., :4], rows.repeat(1, 2, 1), rows + 1):
        with pytest.raises(Refused, match="counts positions itself"):
            Axes.of(wrong, 5)
    assert Axes(4, 9).of_step(2, 30, "cpu").flatten().tolist() == [30, 11, 11, 11]
    assert Axes(3, 9).of_step(0, 30, "cpu").flatten().tolist() == [9, 9, 9]


@pytest.mark.parametrize("name", QWENS)
def test_renumbering_is_left_out_or_refused(name, ready):
    here = ready(name)
    assert method_at(here.vlm, "divprune").renumber is False
    asked = method_at(here.vlm, "divprune@5", renumber=True)
    with pytest.raises(Refused, match="divprune renumbers tokens, which this model cannot take"):
        here.answer(asked)
    with pytest.raises(Refused, match="divprune renumbers tokens"):  # also without a family
        run(here, DivPrune(5))
    assert here.answer(DivPrune(5, renumber=False))[2].complete


def test_features_between_layers_are_added_to_the_tokens_that_are_left(ready):
    """And what would mix tokens before all their features arrived is refused."""
    here = ready("qwen3-vl")
    for method in (
        Pool(2, renumber=False),
        Schedule(keep_after=None, none_after=None, enter=2),
    ):
        with pytest.raises(Refused, match="adds features to each of them after its first layers"):
            run(here, method)
    ((start, stop),) = here.layout.spans
    with pytest.raises(Refused, match="adds features to other tokens"):
        run(here, PruningMethod(), TokenLayout(here.layout.length, ((start, stop - 1),)))
    later = run(here, Schedule(keep=0, keep_after=-1, none_after=None))  # none is left to get them
    assert later.logits.isfinite().all()


def test_mixing_is_allowed_where_nothing_is_added(ready):
    here = ready("qwen2.5-vl")
    for method in (Pool(2, renumber=False), Schedule(keep_after=None, none_after=None, enter=2)):
        assert run(here, method).logits.isfinite().all()


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen3-vl"])
def test_replay_refuses_them(name, ready):
    here = ready(name)
    replayer = Replayer(here.vlm.model)
    given = {**here.prompt.asked, **here.vlm.encode(here.prompt).arguments}
    with (
        pytest.raises(Refused, match="Replay takes models with plain positions"),
        torch.no_grad(),
        replayer.prune(FastV(keep=5), here.layout),
    ):
        here.vlm.model(**given)


def test_a_picture_that_is_too_narrow_is_refused(ready):
    for name in QWENS:
        with pytest.raises(Refused, match=r"at most 200 times .* not 402 x 2 pixels"):
            ready(name).vlm.prepare(picture_of(402, 2), "what?")
        assert ready(name).vlm.prepare(picture_of(400, 2), "what?").layout.num_visual
