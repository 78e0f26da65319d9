"""Choices as text: what a level, a budget and a stack mean for each method and model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support import LAYOUTS, embeds_for, run_pruned

from visipruner import METHODS, Refused, VisiPruner
from visipruner.choice import make, methods_of, name_of, parse
from visipruner.levels import Facts, nearest_to

LLAVA = Facts(576, 32)
MINI = Facts(40, 8, grids=((5, 8),))
# This file's models have no vision tower; test_matrix.py has one.
TOWERLESS = [name for name, kind in METHODS.items() if not kind.needs & {"tower", "clip_text"}]
BUDGETED = [name for name in TOWERLESS if name not in ("none", "visipruner")]
PICTURE = replace(LAYOUTS["one picture"], grids=MINI.grids)


def mean_tokens(trace) -> float:
    return sum(record.visual_tokens for record in trace.layers) / len(trace.layers)


@pytest.mark.parametrize("part", [0.7, 0.5, 0.35])
@pytest.mark.parametrize("name", BUDGETED)
def test_a_budget_is_what_the_trace_counts(name, part, llama):
    """Whole tokens and small models cause rounding: less than two tokens per layer."""
    method = METHODS[name].for_budget(part * MINI.num_visual, MINI)
    trace = run_pruned(llama(), method, PICTURE, embeds_for(PICTURE, 64))[3]
    few = METHODS[name].reachable(MINI) or [part * MINI.num_visual]
    assert mean_tokens(trace) == pytest.approx(nearest_to(few, part * MINI.num_visual), abs=2)


@pytest.mark.parametrize(("tokens", "published"), [(192, (300, 200, 110)), (64, (66, 30, 17))])
def test_sparsevlms_published_tables_lie_on_its_line(tokens, published):
    executed = {192: 206.5, 64: 82.3}[tokens]  # what its code computes per layer
    method = METHODS["sparsevlm"].for_budget(executed, LLAVA)
    assert method.layers == (2, 6, 15)
    assert method.keep == pytest.approx(published, abs=2)


def test_pyramiddrops_published_ratios_lie_on_its_line():
    method = METHODS["pyramiddrop"].for_budget(576 * (8 + 4 + 2 + 1) / 32, LLAVA)
    assert method.layers == (8, 16, 24)
    assert method.ratios == pytest.approx((0.5, 0.25, 0.125), abs=0.002)


def test_visionzips_published_split_is_its_usual_one():
    method = METHODS["visionzip"].for_budget(64, LLAVA)
    assert (method.dominant, method.contextual) == (54, 10)


@pytest.mark.parametrize("name", TOWERLESS)
def test_level_zero_keeps_everything(name, llama):
    model, embeds = llama(), embeds_for(PICTURE, 64)
    method = make(parse(f"{name}:0"), MINI)
    plain = run_pruned(model, METHODS["none"](), PICTURE, embeds)
    assert torch.equal(run_pruned(model, method, PICTURE, embeds)[1], plain[1])


def test_published_layers_are_scaled_and_stay_distinct():
    assert Facts(40, 12).scaled_all((2, 6, 15)) == (1, 2, 6)
    assert Facts(40, 4).scaled_all((2, 6, 15)) == (1, 2, 3)
    assert Facts(40, 32).scaled_all((2, 6, 15)) == (2, 6, 15)


@pytest.mark.parametrize(
    ("words", "tokens"), [("random@64", 64), ("random@25%", 144), ("random:balanced", 144)]
)
def test_wishes_are_read(words, tokens):
    assert make(parse(words), LLAVA).keep == tokens


def test_a_stack_gives_the_wish_to_its_first_method():
    zipped, pruner = make(parse("visionzip+visipruner@64"), LLAVA)
    assert zipped.dominant + zipped.contextual == 64
    assert pruner == VisiPruner()  # its balanced level, from the paper
    assert name_of((zipped, pruner)) == "visionzip+visipruner"
    assert methods_of(pruner) == (pruner,)


def test_settings_in_a_stack_name_their_method():
    stack = make(parse("visionzip+visipruner@64"), LLAVA, {"visipruner.layer_threshold": 0.9})
    assert stack[1].layer_threshold == 0.9
    with pytest.raises(Refused, match=r"METHOD\.FIELD"):
        make(parse("visionzip+visipruner@64"), LLAVA, {"layer_threshold": 0.9})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("magic", "method must be one of"),
        ("random+magic", "method must be one of"),
        ("random@many", "must be a number"),
        ("random@150%", "the share must be a number from 0 to 100"),
        ("random:2", "level must be a number from 0 to 1"),
        ("fastv@10", "its least is 36.0"),
        ("pyramiddrop@100", "its least is 144.0"),
        ("sparsevlm@20", "its least is"),
        ("visionzip@1", "its least is 2.0"),
        ("visipruner@64", "no budget was measured"),
    ],
)
def test_wishes_that_mean_nothing_are_refused(words, sentence):
    with pytest.raises(Refused, match=sentence):
        make(parse(words), LLAVA)


def test_visipruner_takes_the_measured_setting_that_is_nearest():
    table = {
        "shallow_layers": [2] * 5,
        "relative": True,
        "layer_threshold": [0.5, 0.99, 0.995, 0.998, 0.9999],
        "tokens_threshold": [0, 0.1, 0.2, 0.4, 1],
        "exit_threshold": [1, 0.99, 0.99, 0.99, 0.99],
        "tokens": [576, 300, 200, 100, 50],
    }
    facts = Facts(576, 32, {"paper": table, "official": table})
    assert make(parse("visipruner@210"), facts).tokens_threshold == 0.2
    assert make(parse("visipruner@60%"), facts).tokens_threshold == 0.1


def test_every_method_describes_itself():
    for name, kind in METHODS.items():
        assert kind.name == name and kind.title and kind.rule, name
        assert kind.__doc__ and kind.where, name
        assert not kind.paper or "arXiv" in kind.paper, name
        if kind.paper and name not in ("schedule", "pool"):  # rules without a code of their own
            assert kind.source, name
