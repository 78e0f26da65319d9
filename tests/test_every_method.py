"""The table of every method measures what it claims; these tests do not judge speed."""

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visipruner import FastV, PruningMethod, VisiPruner
from visipruner.bench import every_method, whole
from visipruner.bench.__main__ import main
from visipruner.bench.clocks import MOMENTS, clocked
from visipruner.bench.every_method import Entrant, every_name, run_methods, side_of, wishes
from visipruner.bench.scenarios import SHAPES
from visipruner.choice import make, methods_of
from visipruner.families.llava import patch_grid
from visipruner.methods import METHODS
from visipruner.tower import TowerWatch

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 112,
    "patch_size": 14,
    "projection_dim": 24,
}


def small_whole(name="small", device="cpu", precision="float32"):
    """A random LLaVA of 8 layers with 8 x 8 patches."""
    vlm = whole.random_llava(name, device, precision, TEXT, VISION)
    prompt = whole.noise_prompt(vlm)
    return whole.Whole(name, vlm, prompt, whole.noise_clip(vlm, prompt), True)


@pytest.fixture(scope="module")
def small():
    return small_whole()


def rows_of(where, names=(), budget="25%"):
    found = run_methods(where, wishes(list(names), budget), 1, budget)
    return {row["name"]: row for row in found["results"]}


def test_every_method_has_a_row(small):
    rows = rows_of(small, budget="40%")
    assert list(rows) == ["dense", *every_name()]
    refused = {name for name, row in rows.items() if "refused" in row}
    # SparseVLM+ needs wider heads; CDPruner's features have rank 24 here.
    assert refused <= {"sparsevlm_plus", "cdpruner"}
    rows = {name: row for name, row in rows.items() if name not in refused}
    assert "visionzip+visipruner" in rows
    dense, facts = rows.pop("dense"), small.vlm.facts()
    assert dense["speedup"] == dense["flop_ratio"] == 1 and dense["own_s"] is None
    for row in rows.values():
        assert row["flop_ratio"] > 1 and row["kv_bytes"] < dense["kv_bytes"], row["name"]
        assert 0 < row["own_share_of_prefill"] < 1 and row["speedup_with_tower"] > 0
        assert row["mean_tokens"] == sum(row["visual_tokens"]) / 8
        few = METHODS[row["name"].partition("+")[0]].reachable(facts)  # budgets; None: any
        close = 26 if few is None else min(few, key=lambda budget: abs(budget - 25.6))
        assert "+" in row["name"] or row["mean_tokens"] == pytest.approx(close, abs=1.5)


@pytest.mark.parametrize("name", ["fastv", "visionzip", "visipruner", "visionzip+visipruner"])
def test_a_row_counts_what_ran(name, small):
    (wish,) = wishes([name], "25%")
    entrant, dense = Entrant(name, small, *side_of(wish, small)), Entrant("dense", small)
    dense.learn()
    entrant.learn()
    for one in (entrant, dense):
        one.round()
    small.look(0)
    tower = small.encoded.tower.flops if "visionzip" in name else 0  # it ran before
    with (
        torch.inference_mode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        entrant.pruned(entrant.side),
    ):
        small.forward()
    row = entrant.result(dense)
    assert counter.get_total_flops() == row["prefill_flops"] - tower
    assert 0 < row["own_flops"] < row["prefill_flops"]
    assert row["kv_bytes"] == sum(r.kv_tokens for r in entrant.trace.layers) * 2 * 64 * 4


def test_on_random_weights_visipruner_follows_a_schedule_and_the_row_says_so(small):
    alone, stack = (wishes([name], "25%")[0] for name in ("visipruner", "random+visipruner"))
    entrants = [Entrant(wish.name, small, *side_of(wish, small)) for wish in (alone, stack)]
    for entrant in entrants:
        entrant.learn()
        assert "decisions mean nothing on random weights" in entrant.note
        assert any(record.influence for record in entrant.trace.layers)
    counts = [[record.visual_tokens for record in e.trace.layers] for e in entrants]
    assert counts == [[64] * 2 + [0] * 6, [16] * 4 + [10] * 2 + [0] * 2]


def test_on_a_trained_model_visipruner_decides(small):
    trained = SimpleNamespace(vlm=small.vlm, prompt=small.prompt, random=False)
    (wish,) = wishes(["random+visipruner"], "25%")
    side, note = side_of(wish, trained)
    assert side == make(wish, small.vlm.facts()) and isinstance(side[1], VisiPruner) and not note


def test_a_method_that_refuses_has_a_row_with_its_sentence(small, tmp_path, monkeypatch):
    rows = rows_of(small, ["pyramiddrop", "visionzip", "random"], "1")
    assert "its least is 16.0" in rows["pyramiddrop"]["refused"]
    assert "refused" in rows["visionzip"] and rows["random"]["mean_tokens"] == 1
    monkeypatch.setattr("visipruner.bench.__main__.whole", lambda *_: small)
    file, table = tmp_path / "a.json", tmp_path / "a.md"
    written = ("--json", str(file), "--markdown", str(table))
    asked = ("--methods", "pyramiddrop", "visipruner", "--budget", "12%", "--rounds", "1")
    assert main(["--device", "cpu", *asked, *written]) == 0
    found = json.loads(file.read_text())
    (entry,) = found["methods"]
    assert found["scenarios"] == [] and entry["visual"] == 64 and entry["tower_flops"] > 0
    lines = table.read_text()
    assert f"* pyramiddrop: {entry['results'][1]['refused']}\n" in lines
    assert "| pyramiddrop | - |" in lines and "| visipruner | 7.5 |" in lines
    assert "* visipruner: its decisions mean nothing" in lines
    assert "10 are left before the first layer, none after layer 5;" in lines


def test_the_tower_runs_plain_and_watched(small, monkeypatch):
    watched = []
    install = TowerWatch.install
    monkeypatch.setattr(TowerWatch, "install", lambda self: (watched.append(1), install(self)))
    before = len(small.towers), len(small.watched)
    for turn in range(2):
        small.look(turn)
    assert (len(small.towers), len(small.watched)) == (before[0] + 2, before[1] + 2)
    assert len(watched) == 2
    assert small.encoded.tower.cls_attention.shape == (4, 64)


def test_methods_that_need_clip_get_its_shapes(small):
    @dataclass(frozen=True)
    class Asks(PruningMethod):
        name: ClassVar[str] = "asks"
        needs: ClassVar[frozenset[str]] = frozenset({"clip_text"})

        def encode(self, view):
            shapes.append((view.clip.image.shape, view.clip.text.shape))

    shapes = []
    entrant = Entrant("asks", small, Asks())
    entrant.learn()
    assert shapes == [((64, 24), (1, 24))] and entrant.watches
    (row,) = (row for name, row in rows_of(small, ["cdpruner"], "10").items() if name != "dense")
    assert row["mean_tokens"] == 10 and "are handed in as noise" in row["note"]


def test_the_large_shape_has_the_vision_tower_of_llava():
    vlm = whole.random_llava("0.6b", "meta", "float32", SHAPES["llama-0.6b"], whole.CLIP_L)
    facts, config = vlm.facts(), vlm.model.config
    assert (facts.num_visual, facts.layers, facts.grids) == (576, 20, ((24, 24),))
    assert patch_grid(config) == (24, 24) and config.vision_feature_layer == -2
    size = sum(parameter.numel() for parameter in vlm.parts.tower.parameters())
    assert size == 303_507_456  # as in LLaVA-1.5
    prompt = whole.noise_prompt(vlm)
    assert prompt.layout.length == 651 and prompt.inputs["pixel_values"].shape[-1] == 336


def test_a_clock_changes_nothing_and_counts_every_question(small):
    starts, method, trace = [], FastV(keep=3), {}
    spent = SimpleNamespace(start=lambda: starts.append(1), stop=lambda: starts.append(0))
    for name, side in (("plain", method), ("clocked", clocked(method, MOMENTS, spent))):
        entrant = Entrant(name, small, side)
        entrant.learn()
        trace[name] = entrant.trace.to_json()
    assert trace["plain"] == trace["clocked"]
    assert starts == [1, 0] * (1 + 3 * 8)  # at the door, then three in each layer
    assert "select" not in vars(method) and methods_of(side)[0] == method


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--methods", "magic"), "method must be one of"),
        (("--methods", "fastv@3"), "takes names only"),
        (("--methods", "--budget", "many"), "must be a number"),
        (("--methods", "--budget", "101%"), "the share must be"),
        (("--methods", "--contestants", "dense"), "leave out --contestants"),
        (("--methods", "--measure", "test"), "leave out --measure"),
        (("--methods", "--visual", "9"), "leave out --visual"),
        (("--budget", "25%"), "--budget is for --methods"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(change, words, capsys):
    assert main(["--device", "cpu", *change]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_the_stacks_are_of_methods_that_are_there(monkeypatch):
    monkeypatch.setattr(every_method, "METHODS", {"none": PruningMethod, "pool": PruningMethod})
    assert every_name() == ["pool", "pool+visipruner"]
