"""The benchmark measures what it says; nothing here is about how fast anything is."""

import pytest
import torch
from test_visipruner import LAYOUTS, embeds_for
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visipruner.bench.__main__ import contestants, markdown, run
from visipruner.bench.scenarios import Scenario, scenario, timetable
from visipruner.bench.timing import peak_bytes, quartiles
from visipruner.flops import ModelShape, executed


@pytest.fixture
def where(llama):
    model = llama(num_hidden_layers=8, max_position_embeddings=512)
    layout = LAYOUTS["one picture"]
    return Scenario("mini", model, layout, embeds_for(layout, 64))


def test_the_floor_has_the_matrix_products_of_the_run_but_for_the_test(where):
    shape = ModelShape.of(where.model.config)
    for contestant in contestants(where):
        contestant.learn()
        flops = executed(shape, contestant.trace)
        with (
            torch.inference_mode(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            contestant.floor()
        assert counter.get_total_flops() == flops.prefill - flops.probe, contestant.name


def test_a_timetable_is_kept_and_really_tests(where):
    for contestant in contestants(where)[1:]:
        contestant.learn()
        visual = [record.visual_tokens for record in contestant.trace.layers]
        full = sum(n == 40 for n in visual)
        assert full == contestant.method.filter_at + 1
        assert visual.index(0) == contestant.method.exit_at + 1 == 6
        assert set(visual[full:6]) == {10}
        first = contestant.method.first_tested
        tested = [r.layer for r in contestant.trace.layers if r.influence]
        assert tested == list(range(first, 6)), contestant.name


def test_timetables_scale_with_the_model():
    table = timetable(15, 32)
    assert (table.shallow_layers, table.filter_at, table.exit_at) == (7, 14, 23)
    table = timetable(15, 32, "official")
    assert (table.shallow_layers, table.first_tested) == (6, 7)
    table = timetable(8, 16)  # never more shallow layers than come before the filter
    assert (table.shallow_layers, table.filter_at, table.exit_at) == (3, 3, 11)


def test_every_contestant_is_measured_and_the_table_shows_it(where):
    results = run(where, rounds=2, tokens=3)
    assert results[0]["speedup"] == results[0]["flop_ratio"] == results[0]["floor_ratio"] == 1
    assert all(r["flop_ratio"] > 1 and r["kv_bytes"] > 0 for r in results[1:])
    report = {
        "machine": dict.fromkeys(
            ("device", "threads", "dtype", "torch", "transformers", "date", "command"), "x"
        ),
        "rounds": 2,
        "scenarios": [{"name": "mini", "visual": 40, "tokens": 60, "results": results}],
    }
    table = markdown(report)
    assert all(f"| {r['name']} |" in table for r in results)
    assert where.model.config._attn_implementation == "eager"  # the last one measured


def test_peaks_are_what_was_held_at_one_time():
    def run():
        for _ in range(3):
            torch.ones(1000).add(1)  # two of 4,000 bytes at a time

    assert 8000 <= peak_bytes(run, "cpu") <= 8200


def test_quartiles_of_one_and_of_many():
    assert quartiles([2.0]) == {"q1": 2.0, "median": 2.0, "q3": 2.0}
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == {"q1": 2.0, "median": 3.0, "q3": 4.0}


def test_unknown_scenarios_are_refused():
    with pytest.raises(ValueError, match=r"llama-0\.6b"):
        scenario("huge", 576, "cpu", torch.float32)
