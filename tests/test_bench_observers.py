"""The cost of watching is measured with every observer on all layers, and nothing stays."""

from __future__ import annotations

import json

import pytest
from support import state_of

from visipruner.analyses import ANALYSES
from visipruner.analyses.observed import Observed
from visipruner.bench import observers
from visipruner.bench.__main__ import main
from visipruner.bench.observers import ALL, WORDS, run_observers
from visipruner.bench.whole import Whole, noise_clip, noise_prompt, random_llava
from visipruner.training.config import FOLDER

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 90}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "image_size": 56}
OBSERVERS = [name for name, kind in ANALYSES.items() if issubclass(kind, Observed)]


@pytest.fixture
def where():
    text, vision = {"num_hidden_layers": 3, **TEXT}, {"num_hidden_layers": 2, **VISION}
    vlm = random_llava("mini", "cpu", "float32", text, vision | {"patch_size": 14})
    prompt = noise_prompt(vlm)
    return Whole("mini", vlm, prompt, noise_clip(vlm, prompt), True)


def test_every_observer_watches_every_layer_of_random_weights(where, monkeypatch):
    seen, usual = {}, observers.prune

    def noting(model, method, layout, observers):
        for one in observers:
            watch = one.observe
            one.observe = lambda view, one=one, watch=watch: (
                seen.setdefault(type(one).__name__, []).append(view.layer),
                watch(view),
            )
        return usual(model, method, layout, observers=observers)

    monkeypatch.setattr(observers, "prune", noting)
    before = state_of(where.vlm.model)
    found = run_observers(where, 1)
    assert state_of(where.vlm.model) == before and where.vlm.processor is WORDS
    names = [row["name"] for row in found["watched"]]
    assert names == ["stock", "no observer", *OBSERVERS, ALL]
    assert len(seen) == len(OBSERVERS) and set(map(tuple, seen.values())) == {(0, 1, 2) * 4}
    assert found["watched"][0]["over_plain"] == 1 and found["analyses"] == []
    assert all(row["prefill_s"]["median"] > 0 for row in found["watched"])


@pytest.mark.skipif(not (FOLDER / "model.safetensors").exists(), reason="no weights")
def test_the_bundled_models_analyses_are_timed_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(observers, "ANALYSES", {n: ANALYSES[n] for n in ("lens", "heads")})
    rates = {"matmul_flops_per_second": 1e9, "copy_bytes_per_second": 1e9}
    monkeypatch.setattr("visipruner.bench.__main__.roofline", lambda *_: rates)
    files = tmp_path / "found.json", tmp_path / "found.md"
    written = "--json", str(files[0]), "--markdown", str(files[1])
    assert main(["--observers", "--rounds", "1", *written]) == 0
    [found] = json.loads(files[0].read_text())["observers"]
    assert [row["name"] for row in found["analyses"]] == ["lens", "heads", ALL]
    assert all(row["seconds"]["median"] > 0 for row in found["analyses"])
    table = files[1].read_text()
    assert "**tiny**, watched on all layers, 576 visual of" in table
    for row in ("| stock |", "| no observer |", "| lens |", f"| {ALL} |", "| heads |"):
        assert row in table


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--methods"], "--methods and --observers are two measurements"),
        (["--visual", "64"], "--observers measures whole models on one picture: leave out"),
        (["--budget", "25%"], "--budget is for --methods"),
    ],
)
def test_what_does_not_fit_is_refused(more, words, capsys):
    assert main(["--observers", *more]) == 2
    assert words in capsys.readouterr().err
