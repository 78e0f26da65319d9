"""Spaces and containers, as far as a machine without either can test them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from visipruner.models.catalogue import MODELS
from visipruner.running.results import Options
from visipruner.ui import text, zerogpu

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HEAD = yaml.safe_load((ROOT / "README.md").read_text().split("---")[1])


def requirement(name: str) -> Requirement:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    found = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
    return next(r for r in found if r.name == name)


# -- a Gradio Space


def test_the_head_of_the_readme_describes_a_space():
    assert HEAD["sdk"] == "gradio" and HEAD["license"] == "apache-2.0"
    assert HEAD["python_version"] == "3.12"  # as a number, YAML would turn 3.10 into 3.1
    assert (ROOT / HEAD["app_file"]).is_file()
    assert len(HEAD["short_description"]) <= 60  # the hub refuses longer ones
    assert requirement("gradio").specifier.contains(HEAD["sdk_version"])
    repos = {spec.repo for spec in MODELS.values()}
    assert set(HEAD["models"]) <= repos and set(HEAD["preload_from_hub"]) <= repos


def test_zerogpu_finds_a_torch_in_the_requirements():
    """ZeroGPU offers certain versions; pinning the newest would match none."""
    offered = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
    assert all(requirement("torch").specifier.contains(version) for version in offered)
    assert "spaces" not in (ROOT / "requirements.txt").read_text()


def test_no_file_is_too_large_for_a_space_without_lfs():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    files = [ROOT / name for name in names] or list(ROOT.glob("assets/**/*"))
    assert all(file.stat().st_size < 10e6 for file in files if file.is_file())


# -- starting the page


@pytest.mark.parametrize(
    ("port", "variable", "words"),
    [
        (70000, {}, "--port must be a number from 1 to 65535, not 70000"),
        (-5, {}, "--port must be"),
        (None, {"GRADIO_SERVER_PORT": "9" * 5000}, "GRADIO_SERVER_PORT must be a number"),
        (None, {"GRADIO_NUM_PORTS": ""}, "GRADIO_NUM_PORTS must be a number"),
    ],
)
def test_ports_that_cannot_be_are_refused(port, variable, words, monkeypatch):
    import app

    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        app.check_numbers(port)


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ({"GRADIO_SERVER_PORT": "abc"}, "GRADIO_SERVER_PORT must be a number"),
        ({"GRADIO_TEMP_DIR": __file__}, "GRADIO_TEMP_DIR, .*File exists"),
    ],
)
def test_a_wrong_setting_ends_the_start_in_one_sentence(variable, words):
    """In a separate process: gradio reads its variables when it is imported."""
    run = subprocess.run(
        [sys.executable, ROOT / "app.py"],
        env={**os.environ, "VISIPRUNER_MODELS": "tiny", **variable},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert re.match(f"error: .*{words}", run.stderr)


# -- ZeroGPU


def test_the_time_asked_for_is_short_and_follows_the_work():
    def seconds(tokens, methods=2, rounds=1):
        return zerogpu.seconds(None, None, [None] * methods, Options(tokens), rounds)

    assert seconds(1) < seconds(96) < seconds(96, rounds=5) <= zerogpu.MOST_SECONDS < 120
    assert seconds(96) < 30 and seconds(1024, methods=11) == zerogpu.MOST_SECONDS
    asked = [zerogpu.asked_seconds(None, "ab", range(count)) for count in (13, 130, 10_000)]
    looked = [zerogpu.look_seconds(None, None, range(count), False, None) for count in (1, 4, 99)]
    for few, more, most in (asked, looked):
        assert few < more < most == zerogpu.MOST_SECONDS and few < 30


@pytest.mark.skipif(importlib.util.find_spec("spaces") is None, reason="spaces is not installed")
def test_runs_go_through_the_real_spaces_wrappers(mini_path):
    """In a separate process: importing `spaces` changes gradio and torch."""
    run = subprocess.run(
        [sys.executable, ROOT / "tests" / "zerogpu_server.py", mini_path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, run.stderr[-2000:]
    seen = json.loads(lines[0].removeprefix("RESULT "))
    assert seen["menu"] == ["mini"]  # offer only what is on disk
    assert seen["loaders"] == ["MainThread"]  # only this thread imitates CUDA
    assert seen["events"][-1] == "compared"
    assert seen["events"].count("layer") == 2 * 8 and "token" in seen["events"]
    assert seen["answers"] == seen["direct"]
    assert seen["rounds"] == [5, 5]
    assert "model must be one of mini" in seen["said"]  # the words of an error survive the fork
    assert seen["shown"] == text.BROKEN  # ... but only a refusal's
    assert "unforeseen ValueError" in run.stderr and "words of a fault" not in run.stderr
    workers = {query["pid"] for path, query in seen["calls"] if path == "/allow"}
    assert workers and str(seen["pid"]) not in workers
    asked = [query for path, query in seen["calls"] if path == "/schedule"]
    released = [query for path, query in seen["calls"] if path == "/release"]
    assert len(asked) == len(released) and all(int(q["durationSeconds"]) <= 30 for q in asked)


def test_elsewhere_nothing_is_wrapped(monkeypatch):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setitem(sys.modules, "spaces", None)  # importing it fails
    assert not zerogpu.active()
    names = [run.__name__ for run in zerogpu.runs(None)]
    assert names == ["compare_on", "measure_on", "asked_on", "look_on"]


# -- a container


def test_the_dockerfile_keeps_the_rules_of_docker_spaces():
    assert "ARG BASE=" in DOCKERFILE and "FROM ${BASE}" in DOCKERFILE
    assert re.search(r"^USER 1000$", DOCKERFILE, re.MULTILINE)
    assert "EXPOSE 7860" in DOCKERFILE and "HEALTHCHECK" in DOCKERFILE
    assert "GRADIO_SERVER_NAME=0.0.0.0" in DOCKERFILE
    steps = DOCKERFILE.index("COPY requirements.txt"), DOCKERFILE.index("COPY --chown=1000 . .")
    assert steps == tuple(sorted(steps))  # packages stay cached when only code changes


def test_the_dockerfile_repeats_the_range_of_torch():
    asked = Requirement(re.search(r'"(torch[^"]*)"', DOCKERFILE).group(1))
    assert asked.specifier == requirement("torch").specifier


def test_what_is_not_needed_stays_out_of_the_image():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "tests", "models"} <= set(ignored)
    assert not {"assets", "visipruner", "app.py", "requirements.txt"} & set(ignored)


@pytest.mark.skipif(
    shutil.which("hadolint", path=Path(sys.executable).parent) is None,
    reason="hadolint is not installed",
)
def test_hadolint_finds_nothing():
    tool = shutil.which("hadolint", path=Path(sys.executable).parent)
    run = subprocess.run([tool, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
