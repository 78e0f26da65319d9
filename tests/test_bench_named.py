"""Seconds per model shape: on miniature configurations, since the true shapes take minutes."""

from __future__ import annotations

import json

import pytest
import torch

from visipruner.bench import named_models
from visipruner.bench.named_models import TOKENS, main, measured, random_model, row
from visipruner.models.specs import MODELS

KINDS = {
    "next-vicuna": "float32",
    "onevision": "bfloat16",
    "smolvlm": "bfloat16",
    "internvl": "float32",
    "qwen2.5-vl": "bfloat16",
}


@pytest.mark.parametrize(("kind", "precision"), KINDS.items())
def test_a_model_without_a_checkpoint_runs_whole_and_differs_only_by_its_weights(
    kind, precision, ready, monkeypatch
):
    small = ready(kind).vlm.model
    monkeypatch.setattr(named_models, "config_of", lambda name: small.config)
    made = random_model("smolvlm-256m", precision).model
    assert made.dtype == getattr(torch, precision)
    ours, true = dict(made.named_buffers()), dict(small.named_buffers())
    assert all(torch.equal(ours[name].float(), true[name].float()) for name in true)
    assert all(p.isfinite().all() and not p.is_meta for p in made.parameters())
    found = measured("smolvlm-256m", precision)
    full, less = found["unpruned"], found["scheduled"]
    assert full["tokens"] == less["tokens"] == TOKENS
    assert 0 < full["first_s"] < full["all_s"] and less["flops"] < full["flops"]
    assert found["comparison_s"] > found["tower_s"] > 0
    assert "one comparison" in row(found) and precision in row(found)


def test_what_does_not_fit_is_told_by_formula(machine, capsys, tmp_path):
    machine(main=1)
    out = tmp_path / "out.json"
    assert main(["llava-1.5-13b", "smolvlm-256m", "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "llava-1.5-13b: not run (LLaVA-1.5 13B needs" in text and "576 visual tokens" in text
    found = json.loads(out.read_text())
    assert [one["name"] for one in found["models"]] == ["llava-1.5-13b", "smolvlm-256m"]
    assert all(one["unpruned_flops"] > 0 for one in found["models"])


def test_large_models_run_only_by_name(machine, monkeypatch):
    machine(main=64)
    monkeypatch.setattr(named_models, "measured", lambda name, precision: {"ran": name})
    assert "name it to run it" in named_models.result("llava-1.5-7b", "bfloat16", False)["why"]
    assert named_models.result("llava-1.5-7b", "bfloat16", True) == {"ran": "llava-1.5-7b"}
    assert named_models.result("qwen3-vl-2b", "bfloat16", False) == {"ran": "qwen3-vl-2b"}
    assert MODELS["qwen3-vl-2b"].size < named_models.MOST


def test_wrong_words_are_one_sentence(capsys, tmp_path):
    assert main(["smolvlm"]) == 2
    assert "a model must be one of smolvlm-256m" in capsys.readouterr().err
    assert main(["smolvlm-256m", "--json", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
