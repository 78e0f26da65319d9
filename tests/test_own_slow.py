"""Questions of one's own in numbers: memory over ten thousand, and levels that hold elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from visipruner.__main__ import main
from visipruner.choice import method_at
from visipruner.evaluation.answers import Answers
from visipruner.evaluation.intervals import Differences
from visipruner.evaluation.interview import in_turn
from visipruner.evaluation.own import Asking
from visipruner.evaluation.tallies import Table
from visipruner.levels import PRESETS
from visipruner.methods import PruningMethod
from visipruner.models.catalogue import load_vlm
from visipruner.training.config import FOLDER
from visipruner.world.drawing import render
from visipruner.world.questions import asked_for

pytestmark = pytest.mark.slow

# A process of its own, because the tests' own memory has grown before.
MEASURED = """
import resource, sys
from visipruner.__main__ import main
from visipruner.evaluation import own_command

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024

class Progress(own_command.Progress):
    def step(self, asked=True):
        super().step(asked)
        if self.done in (500, 1000, 2000, 5000, 10000):
            print(f"rss {self.done} {rss()}", flush=True)

own_command.Progress = Progress
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
def test_memory_does_not_grow_over_ten_thousand_questions(mini_path, tmp_path):
    for number in range(40):
        drawn = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1 + number / 9), 60)
        drawn.convert("RGB").save(tmp_path / f"{number}.png")
    with open(tmp_path / "many.jsonl", "w") as file:
        for number in range(10_000):
            asked = {"picture": f"{number % 40}.png", "question": f"what colour is star {number}?"}
            file.write(json.dumps(asked | {"answer": "red", "tags": [str(number % 30)]}) + "\n")
    options = ["--jsonl", "many.jsonl", "--model", str(mini_path), "--methods", "random@50%"]
    told = subprocess.run(
        [sys.executable, "-c", MEASURED, "evaluate", *options, "--max-new-tokens", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    kilobytes = {int(n): int(kb) for n, kb in re.findall(r"rss (\d+) (\d+)", told.stdout)}
    print(kilobytes)  # noqa: T201 - the figures are the result
    # SQLite keeps pages up to 2 MB, and the gallery up to 120 questions.
    assert kilobytes[10_000] - kilobytes[1000] < 6_000


def drawn_questions(folder: Path, split: str, per_skill: int) -> Path:
    """Questions about drawn scenes that one word answers, with their answers."""
    folder.mkdir()
    with open(folder / "questions.jsonl", "w") as file:
        for one in in_turn(split, per_skill):
            if one.question.other is None:
                continue
            render(one.scene).save(folder / f"{one.number}.png")
            asked = asked_for(one.question, True)
            line = {"picture": f"{one.number}.png", "question": asked.text}
            file.write(json.dumps(line | {"answer": asked.answer, "tags": [one.skill]}) + "\n")
    return folder / "questions.jsonl"


def test_calibrated_levels_are_no_worse_than_the_shipped_ones_elsewhere(tmp_path, monkeypatch):
    """By agreement on validation scenes, judged by labels on held-out ones."""
    monkeypatch.chdir(tmp_path)
    known = drawn_questions(tmp_path / "known", "validation", 10)
    held = drawn_questions(tmp_path / "held", "heldout", 20)
    usual = ["--questions", "24", "--final", "120", "--max-new-tokens", "8", "--out", "own.json"]
    assert main(["calibrate", "tiny", "--jsonl", str(known), *usual]) == 0
    shipped, own = load_vlm("tiny"), load_vlm("tiny", presets=Path("own.json"))
    columns = {"none": PruningMethod()}
    for level in PRESETS:
        columns[f"shipped {level}"] = method_at(shipped, "visipruner", level)
        columns[f"own {level}"] = method_at(own, "visipruner", level)
    table, against = Table(columns, ()), {level: Differences() for level in PRESETS}
    for told in Asking(shipped, columns, held, Answers(tmp_path / "answers.db"), 8).told():
        table.add(told.rows, ())
        for level, differences in against.items():
            pair = (told.rows[f"{whose} {level}"]["score"] for whose in ("shipped", "own"))
            differences.add(*pair)
    cut = {line["method"]: line["flops_cut"] for line in table.lines()}
    for level, differences in against.items():
        mean, low, high = differences.interval
        print(level, cut[f"shipped {level}"], cut[f"own {level}"], mean, low, high)  # noqa: T201
        # Not surely less often right; or, where it is, it saves more.
        assert high >= 0 or cut[f"own {level}"] > cut[f"shipped {level}"]
