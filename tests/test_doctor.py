"""python -m visipruner doctor: what it tells, what it keeps to itself, and its exit status."""

from __future__ import annotations

import getpass
import json
import shutil
from pathlib import Path

import pytest

from visipruner import doctor, versions
from visipruner.__main__ import main
from visipruner.models import hub
from visipruner.models.specs import MODELS


@pytest.fixture
def asked(capsys, monkeypatch):
    """Run the command: (status, output, errors). No model of the hub is on this machine."""
    monkeypatch.setattr(hub, "find", lambda repo: None)
    monkeypatch.delenv("VISIPRUNER_MODEL_DIR", raising=False)

    def run(*arguments):
        status = main(["doctor", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def test_about_ten_lines_for_a_bug_report(asked, machine, monkeypatch):
    machine(main=12)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", "/home/somebody/cache")
    status, text, err = asked()
    lines = text.splitlines()
    assert status == 0 and not err and 8 <= len(lines) <= 12
    for word in ("visipruner", "torch", "transformers", "cores", "12.0 GB free", "none that torch"):
        assert word in text
    assert "smolvlm-256m 1." in text and "no room     for " in text and "llava-1.5-13b" in text
    assert "settings" in text and "HF_TOKEN" in text
    for secret in ("hf_secret", "somebody", str(Path.home()), str(Path.cwd()), getpass.getuser()):
        assert secret not in text.replace("root ", "")


def test_json_holds_the_same(asked, machine, monkeypatch):
    machine(24, main=12)
    monkeypatch.setattr(doctor.torch.cuda, "get_device_name", lambda index: "Some GPU")
    status, text, _ = asked("--json", "smolvlm-500m")
    found = json.loads(text)
    assert status == 0 and set(found["models"]) == set(MODELS)
    assert found["gpus"][0]["free"] == 24 * 10**9
    assert found["model"]["precision"] == "bfloat16" and found["model"]["needs"] > 1e9
    assert "refused" in found["models"]["llava-1.5-13b"]


def test_a_model_that_has_no_place_is_said_and_ends_with_2(asked, machine):
    machine(main=4)
    status, text, _ = asked("qwen2.5-vl-3b")
    assert status == 2 and "would not load. Qwen2.5-VL 3B needs" in text
    assert "not for commercial use" in text and "7.5 GB to download" in text


def test_a_full_disk_is_no_place_for_a_download(asked, machine, monkeypatch):
    machine(main=64)
    monkeypatch.setattr(hub, "free_disk", lambda: 10**8)
    status, text, _ = asked("smolvlm-256m")
    assert status == 2 and "has 0.1 GB free" in text


def test_folders_are_checked_as_far_as_without_their_weights(asked, mini_path, tmp_path):
    status, text, _ = asked(mini_path)
    assert status == 0 and "from a folder: would load in float32 (it is small)" in text
    assert str(mini_path.parent) not in text
    status, text, _ = asked("tiny")
    assert status == 0 and "from this repository" in text
    broken = tmp_path / "broken"
    shutil.copytree(mini_path, broken)
    (broken / "tokenizer.json").write_text("{")
    status, text, _ = asked(broken)
    assert status == 2 and "would not load. The model in 'broken'" in text
    status, text, _ = asked("")
    assert status == 2 and "would not load" in text


def test_wrong_options_are_one_sentence(asked, machine):
    machine()
    for options in (("--device", "tpu"), ("--device", "cuda"), ("--precision", "8-bit")):
        status, text, err = asked(*options)
        assert status == 2 and not text and err.startswith("error: ")


def test_what_is_missing_or_untested_is_named(asked, monkeypatch):
    here = {"torch": "2.99", "transformers": "5.24.0", "pillow": "12.3.0", "accelerate": "1.10"}
    monkeypatch.setattr(versions, "installed", lambda: here)
    status, text, _ = asked()
    assert status == 2 and "torch 2.99 (not tested, >=2.8, <2.14)" in text
    assert "huggingface_hub (finding and downloading models, needed)" in text
    assert "gradio (the page)" in text and "bitsandbytes (4-bit)" in text
    assert "huggingface_hub" in versions.missing()
    assert set(versions.USES) == set(versions.TESTED)
    here["huggingface_hub"] = "2.4"
    assert versions.missing() is None and asked()[0] == 0  # the page's packages are no need


def test_a_driver_that_does_not_answer_is_no_end(machine, monkeypatch):
    machine(8)

    def fails(index):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(doctor.torch.cuda, "mem_get_info", fails)
    monkeypatch.setattr(doctor.torch.cuda, "get_device_name", lambda index: "Some GPU")
    text = "\n".join(doctor.told(doctor.facts()))
    assert "Some GPU, which does not answer" in text
    assert "--device cpu: " in text  # main memory is still there
