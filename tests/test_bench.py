"""The benchmark measures what it claims; these tests do not judge speed."""

import copy
import json
from pathlib import Path

import pytest
import torch
from support import LAYOUTS, embeds_for
from tape import TapeRecorder
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface

from visipruner.attention import PLANNED, planned_attention
from visipruner.bench import floor, replay
from visipruner.bench.__main__ import main, run
from visipruner.bench.clocks import noting_plans
from visipruner.bench.comparing import run_comparisons, run_presets
from visipruner.bench.contestants import NAMES, contestants
from visipruner.bench.published import edited_weights, full_matrices
from visipruner.bench.report import markdown
from visipruner.bench.scenarios import ALIGNED, Scenario, aligned, scenario, timetable, to_4_bit
from visipruner.bench.timing import peak_bytes, quartiles
from visipruner.choice import read_presets
from visipruner.engine import prune
from visipruner.files import write_whole
from visipruner.flops import ModelShape, executed
from visipruner.models.catalogue import MODELS
from visipruner.models.loading import keep_odd_layers_unpacked


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


def test_stock_layers_are_the_model_and_compute_what_dropping_tokens_leaves(where):
    shape = ModelShape.of(where.model.config)
    for contestant in contestants(where, ["paper-15", ALIGNED]):
        contestant.learn()
        for record in contestant.trace.layers:  # without a plan
            record.pairs, record.probe_flops = record.tokens**2, 0
        with (
            torch.inference_mode(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            logits = contestant.stock()
        assert counter.get_total_flops() == executed(shape, contestant.trace).prefill
        if contestant.method is None:
            with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
                whole = where.model(inputs_embeds=where.embeds, logits_to_keep=1).logits
            assert torch.equal(logits, whole)


def test_the_aligned_contestant_runs_the_shipped_models_schedule():
    schedule = aligned(12)
    shipped = read_presets(Path(MODELS["tiny-aligned"].path))["schedule"]
    assert {"enter": schedule.enter, "leave": schedule.none_after} == shipped
    assert (aligned(2).enter, aligned(2).none_after) == (1, 1)  # one layer at least


def test_a_timetable_is_kept_and_really_tests(where):
    for contestant in contestants(where):
        if not isinstance(contestant.method, tuple):
            continue  # no timetable
        contestant.learn()
        visual = [record.visual_tokens for record in contestant.trace.layers]
        full = sum(n == 40 for n in visual)
        cuts, tests, *_ = contestant.method
        assert full == cuts.keep_after + 1
        assert visual.index(0) == cuts.none_after + 1 == 6
        assert set(visual[full:6]) == {10}
        first = tests.first_tested
        tested = [r.layer for r in contestant.trace.layers if r.influence]
        assert tested == list(range(first, 6)), contestant.name


def test_a_timetable_caches_as_visipruner_does(where):
    """No visual token in shallow layers, then the kept ones; the published code caches all."""
    for contestant in contestants(where):
        if not isinstance(contestant.method, tuple):
            continue  # no timetable
        contestant.learn()
        tests = contestant.method[1]
        kept = [record.kv_tokens - 20 for record in contestant.trace.layers]  # 20 of text
        if tests.official:
            assert kept == [record.visual_tokens for record in contestant.trace.layers]
            continue
        shallow = tests.shallow_layers
        assert kept == [0] * shallow + [10] * (6 - shallow) + [0, 0], contestant.name


def test_timetables_scale_with_the_model():
    def layers(table):
        cuts, tests, *_ = table
        return tests.shallow_layers, tests.first_tested, cuts.keep_after, cuts.none_after

    assert layers(timetable(15, 32)) == (7, 7, 14, 23)
    assert layers(timetable(15, 32, "official")) == (6, 7, 14, 23)
    # Never more shallow layers than come before the filtering layer.
    assert layers(timetable(8, 16)) == (3, 3, 3, 11)


MACHINE = dict.fromkeys(
    (
        "device",
        "cores",
        "threads",
        "precision",
        "torch",
        "transformers",
        "python",
        "date",
        "command",
    ),
    "x",
)
ROOFLINE = {"matmul_flops_per_second": 1e9, "copy_bytes_per_second": 1e9}


def report_of(*entries):
    scenarios = [{"name": "mini", "visual": v, "tokens": v + 20, "results": r} for v, r in entries]
    return {
        "machine": MACHINE,
        "roofline": ROOFLINE,
        "rounds": 2,
        "request": 3,
        "scenarios": scenarios,
    }


def test_every_contestant_is_measured_and_the_table_shows_it(where):
    results = run(where, rounds=2, tokens=3)
    assert [r["name"] for r in results] == list(NAMES)
    assert results[0]["speedup"] == results[0]["flop_ratio"] == results[0]["floor_ratio"] == 1
    shares = [f"{name}_share_of_dense_prefill" for name in ("test", "between_layers")]
    assert not any(results[0][share] for share in shares)
    assert all(0 < r[shares[0]] < r[shares[1]] for r in results[1:] if "replayed" not in r["name"])
    pruned = [r for r in results if not r["name"].startswith("dense")]
    assert all(r["flop_ratio"] > 1 and r["kv_bytes"] > 0 for r in pruned)
    table = markdown(report_of((40, results), (80, results)))
    assert all(table.count(f"| {name} |") == 3 for name in NAMES)  # both times, and in the peaks
    assert where.model.config._attn_implementation == "sdpa"


def test_a_captured_benchmark_measures_the_same(where, monkeypatch):
    """As on a GPU: the floor is one recording, and replayed contestants replay their own."""
    plain = run(where, 1, ["paper-15-replayed"], ("prefill", "request", "memory"), tokens=3)
    for module in (replay, floor):
        monkeypatch.setattr(module, "Recorder", TapeRecorder)
        monkeypatch.setattr(module, "can_capture", lambda model: True)
    captured = run(where, 1, ["paper-15-replayed"], ("prefill", "request", "memory"), tokens=3)
    for ours, theirs in zip(captured, plain, strict=True):
        assert ours["floor_s"]["median"] > 0 and ours["request_s"]["median"] > 0
        for name in ("prefill_flops", "kv_bytes", "visual_tokens"):
            assert ours[name] == theirs[name]
    assert captured[1]["peak_bytes"] is None  # allocated before
    assert "| paper-15-replayed |" in markdown(report_of((40, captured)))


def test_a_piece_measures_what_was_asked_for_and_the_dense_model_always(where):
    results = run(where, 1, ["paper-8"], ("memory",), tokens=3)
    assert [r["name"] for r in results] == ["dense", "paper-8"]
    assert all(r["prefill_s"] is None and r["peak_bytes"] > 0 for r in results)
    assert "| paper-8 | - | - |" in markdown(report_of((40, results)))
    with pytest.raises(ValueError, match="paper-15"):
        contestants(where, ["paper-99"])


def test_the_published_way_decides_the_same_on_full_matrices(where):
    official, published = (
        next(c for c in contestants(where) if c.name == name)
        for name in ("official-15", "published-15")
    )
    for contestant in (official, published):
        contestant.learn()
    ours, theirs = ([record.influence for record in c.trace.layers] for c in (official, published))
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one:
            assert one.cos == pytest.approx(other.cos, abs=1e-4)
    tokens = [record.tokens for record in published.trace.layers]
    assert [record.pairs for record in published.trace.layers] == [n * n for n in tokens]


def test_edits_of_weights_are_what_plans_say(where):
    plans = {}
    method = noting_plans(timetable(15, 8, "official"), plans)
    with torch.no_grad(), prune(where.model, method, where.layout):
        where.model(inputs_embeds=where.embeds)
    query, key, value = torch.randn(1, 4, 60, 16), *torch.randn(2, 1, 2, 60, 16)
    mask = torch.full((60, 60), float("-inf")).triu(1)[None, None]
    assert len(plans) == 2
    for plan in plans.values():
        given = (None, query, key, value, mask, 0.25, plan)
        torch.testing.assert_close(edited_weights(*given)[0], planned_attention(*given)[0])


def test_full_matrices_are_left_behind(where):
    with full_matrices(where.model):
        assert where.model.config._attn_implementation == "eager"
    assert where.model.config._attn_implementation == "sdpa"
    assert AttentionInterface()[PLANNED] is planned_attention


def test_layers_become_4_bit_and_run(where):
    pytest.importorskip("bitsandbytes")
    model = copy.deepcopy(where.model)
    to_4_bit(model.model.layers)
    keep_odd_layers_unpacked(model)
    assert not any(module.training for module in model.modules())
    assert model.model.layers[0].mlp.up_proj.weight.quant_state.nested
    small = Scenario("mini", model, where.layout, where.embeds)
    assert run(small, 1, ["paper-15"], ("prefill",))[1]["speedup"] > 0


def test_the_command_writes_its_files(tmp_path, monkeypatch, where):
    monkeypatch.setattr("visipruner.bench.__main__.scenario", lambda *_: where)
    monkeypatch.setattr("visipruner.bench.__main__.run_presets", lambda *_: PRESETS)
    monkeypatch.setattr("visipruner.bench.__main__.run_comparisons", lambda *_: COMPARISONS)
    files = {"json": tmp_path / "a.json", "markdown": tmp_path / "a.md"}
    words = [w for name, path in files.items() for w in (f"--{name}", str(path))]
    # All names of a CPU mean the same device.
    assert (
        main(["--device", "cpu:0", "--compare", "--rounds", "1", "--measure", "test", *words]) == 0
    )
    found = json.loads(files["json"].read_text())
    assert found["machine"]["command"] and found["machine"]["date"]
    assert found["comparisons"] == COMPARISONS
    assert "| 1500.0 (1400-1600) | 100.0 | 8.0 |" in files["markdown"].read_text()
    assert "| gentle | 30.0 | 1.20 | 1.50 | 0.80 |" in files["markdown"].read_text()


PRESETS = [{"name": "gentle", "prefill_s": 0.03, "speedup": 1.2, "flop_ratio": 1.5}]
COMPARISONS = {
    "rounds": 1,
    "questions": 3,
    "words_per_answer": 5.0,
    "total_s": {"q1": 1.4, "median": 1.5, "q3": 1.6},
    "probe_s": {"q1": 0.1, "median": 0.1, "q3": 0.1},
    "not_model_share": {"q1": 0.08, "median": 0.08, "q3": 0.08},
    "streamed_prefill_s": {"q1": 0.1, "median": 0.1, "q3": 0.1},
    "silent_prefill_s": {"q1": 0.1, "median": 0.1, "q3": 0.1},
}


@pytest.mark.gpu
def test_the_command_runs_on_a_gpu(tmp_path):
    names = ["dense", "paper-15", "dense-replayed", "paper-15-replayed"]
    file = tmp_path / "gpu.json"
    assert (
        main(["--rounds", "1", "--device", "cuda", "--contestants", *names, "--json", str(file)])
        == 0
    )
    results = json.loads(file.read_text())["scenarios"][0]["results"]
    # Captured layers allocated their memory at capture, so no peak can show it.
    assert [r["peak_bytes"] is None for r in results] == [False, False, True, True]


def test_comparisons_on_the_bundled_model_add_up():
    found = run_comparisons(1, "cpu", "float32")
    assert found["words_per_answer"] > 1
    assert 0 < found["not_model_share"]["median"] < 1
    assert found["probe_s"]["median"] < found["total_s"]["median"]
    assert found.keys() == COMPARISONS.keys()


def test_presets_are_measured_as_shipped():
    rows = run_presets(1, "cpu", "float32")
    assert [row["name"] for row in rows] == ["dense", "gentle", "balanced", "aggressive"]
    assert rows[0]["speedup"] == rows[0]["flop_ratio"] == 1
    assert 1 < rows[1]["flop_ratio"] < rows[3]["flop_ratio"]
    assert all(row["prefill_s"] > 0 for row in rows)


def test_peaks_are_what_was_held_at_one_time():
    def run():
        for _ in range(3):
            torch.ones(1000).add(1)  # two results of 4,000 bytes

    assert 8000 <= peak_bytes(run, "cpu") <= 8200


def test_quartiles_of_one_and_of_many():
    assert quartiles([2.0]) == {"q1": 2.0, "median": 2.0, "q3": 2.0}
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == {"q1": 2.0, "median": 3.0, "q3": 4.0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--rounds", "0"), "--rounds must be"),
        (("--visual", "576", "0"), "--visual must be"),
        (("--device", "abacus"), "device"),
        (("--json", "/no/such/folder/out.json"), "no folder"),
        (("--markdown", "/"), "is a folder"),
        (("--json", "same.txt", "--markdown", "./same.txt"), "name the same file"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(change, words, capsys):
    assert main(["--device", "cpu", *change]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_a_scenario_needs_a_name(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--device", "cpu", "--scenario"])
    assert stop.value.code == 2 and "--scenario: expected" in capsys.readouterr().err


def test_an_interrupt_ends_quietly(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("visipruner.bench.__main__.measure", interrupt)
    assert main(["--device", "cpu"]) == 130 and not capsys.readouterr().err


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new, but \ud800")
    with pytest.raises(ValueError, match="no folder"):
        write_whole(tmp_path / "missing" / "results.json", "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_its_file_is_written(tmp_path):
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(file)
    for text in ("first", "second"):
        write_whole(link, text)
        assert link.is_symlink() and file.read_text() == text
    file.unlink()
    link.unlink()
    link.symlink_to(tmp_path / "missing" / "file")
    with pytest.raises(ValueError, match="no folder"):
        write_whole(link, "third")


def test_unknown_scenarios_are_refused():
    with pytest.raises(ValueError, match=r"llama-0\.6b"):
        scenario("huge", 576, "cpu", "float32")


def test_help_names_every_default(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "share (default: 25%)" in " ".join(capsys.readouterr().out.split())
