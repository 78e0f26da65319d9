"""Observers share a run, read what methods read, and change nothing."""

from __future__ import annotations

import pytest
import torch
from support import DROPPING, LAYOUTS, embeds_for, greedy, run_pruned, state_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visipruner import PruningMethod, Schedule, TokenLayout, prune
from visipruner.flops import ModelShape, executed
from visipruner.observing import Observer

LAYOUT = LAYOUTS["one picture"]


class Reader(Observer):
    """Reads everything, of every third row."""

    def __init__(self, first: int = 0):
        self.first, self.seen = first, []

    def queries(self, view):
        view.label("watched")
        return torch.arange(self.first, len(view.tokens), 3)

    def observe(self, view):
        view.label("watched")
        row, rows = view.attention_row(), view.attention_rows()
        blocks = torch.cat([weights for _, weights in view.attention_blocks(5)], dim=1)
        assert torch.allclose(rows, blocks, atol=1e-6)
        assert rows.shape == (4, len(range(self.first, len(view.tokens), 3)), len(view.tokens))
        view.logits(view.hidden[0]), view.values.sum(), view.through_output(view.hidden[0])
        if len(view.visual_rows):
            view.influence()
        self.seen.append((view.layer, len(view.visual_rows), row, rows))


@pytest.mark.parametrize("name", ["none", *DROPPING])
def test_observers_change_neither_the_answer_nor_the_trace(name, llama):
    model, embeds = llama("sdpa"), embeds_for(LAYOUT, 64)
    method = PruningMethod() if name == "none" else DROPPING[name]
    ids, logits, _, alone = run_pruned(model, method, LAYOUT, embeds)
    before, readers = state_of(model), [Reader(), Reader(2)]
    with torch.no_grad(), prune(model, method, LAYOUT, observers=readers) as trace:
        watched = greedy(model, embeds)
    assert torch.equal(ids, watched[0]) and torch.equal(logits, watched[1])
    assert trace == alone
    assert state_of(model) == before
    for reader in readers:  # also of layers that hold no visual token
        visual = [record.visual_tokens for record in trace.layers]
        assert [count for _, count, *_ in reader.seen] == visual


def test_observers_read_a_prompt_without_a_picture(llama):
    layout, reader = TokenLayout(20), Reader()
    embeds = embeds_for(layout, 64)
    with torch.no_grad():
        full = llama("eager")(inputs_embeds=embeds, output_attentions=True)
    with torch.no_grad(), prune(llama("sdpa"), PruningMethod(), layout, observers=[reader]):
        greedy(llama("sdpa"), embeds)
    for (_, _, row, rows), whole in zip(reader.seen, full.attentions, strict=True):
        assert torch.allclose(row, whole[0, :, -1], atol=1e-5)
        assert torch.allclose(rows, whole[0, :, ::3], atol=1e-5)


class Talkative(PruningMethod):
    """A method that asks for logits, which count as its own."""

    def select(self, view):
        view.logits(view.hidden[0, -3:])
        return None


@pytest.mark.parametrize("observers", [[], [Reader()]])
def test_only_what_methods_compute_is_counted(observers, llama):
    model, embeds = llama("eager"), embeds_for(LAYOUT, 64)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        with prune(model, Talkative(), LAYOUT) as plain:
            model(inputs_embeds=embeds, logits_to_keep=1)
        counted = counter.get_total_flops()
        with prune(model, Talkative(), LAYOUT, observers=observers) as trace:
            model(inputs_embeds=embeds, logits_to_keep=1)
    shape = ModelShape.of(model.config)
    assert executed(shape, plain).prefill == executed(shape, trace).prefill == counted
    assert plain.prefill_logits == trace.prefill_logits == 1
    if observers:  # the counter saw the observer's products, the trace did not
        assert counter.get_total_flops() > 2 * counted


class Broken(Observer):
    def __init__(self, moment: str):
        self.moment = moment

    def queries(self, view):
        if self.moment == "before" and view.layer == 2:
            raise ArithmeticError("planned")

    def observe(self, view):
        if self.moment == "after" and view.layer == 2:
            raise ArithmeticError("planned")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_after_an_observers_error_nothing_is_left_on_the_model(moment, llama):
    model, embeds = llama("sdpa"), embeds_for(LAYOUT, 64)
    before, alone = state_of(model), greedy(model, embeds)
    with pytest.raises(ArithmeticError, match="planned"):
        with prune(model, PruningMethod(), LAYOUT, observers=[Reader(), Broken(moment)]):
            greedy(model, embeds)
    assert state_of(model) == before
    assert torch.equal(greedy(model, embeds)[1], alone[1])


class AsksThenDrops(Schedule):
    """Asks for the last rows while the picture is there; text-only layers have fewer rows."""

    def queries(self, view):
        return torch.arange(len(view.tokens) - 2, len(view.tokens))

    def select(self, view):
        if len(view.visual_rows):
            assert view.attention_rows().shape[1] == 2  # its own rows, not the observers'
        return super().select(view)


def test_a_methods_rows_are_its_own_and_end_with_the_picture(llama):
    method = AsksThenDrops(keep_after=None, none_after=2)
    model, embeds = llama("sdpa"), embeds_for(LAYOUT, 64)
    ids, logits, _, alone = run_pruned(model, method, LAYOUT, embeds)
    with torch.no_grad(), prune(model, method, LAYOUT, observers=[Reader()]) as trace:
        watched = greedy(model, embeds)
    assert torch.equal(ids, watched[0]) and torch.equal(logits, watched[1])
    assert trace == alone and trace.layers[-1].visual_tokens == 0
