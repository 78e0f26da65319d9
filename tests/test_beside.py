"""Two models on the same held-out questions; and one without the schedule of its training."""

import json
import shutil
from pathlib import Path

import pytest

from visipruner.__main__ import main
from visipruner.evaluation import interview
from visipruner.evaluation.evaluate import MARK_BESIDE, without_schedule
from visipruner.models.catalogue import MODELS, load_vlm
from visipruner.world.questions import SKILLS

FOLDER = Path(MODELS["tiny-aligned"].path)


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(interview, "CHECKPOINTS", tmp_path)

    def run(*more):
        status = main(["evaluate", "--quick", "--questions", "1", *map(str, more)])
        return status, capsys.readouterr()

    return run


def test_two_models_answer_the_same_questions(evaluate, tmp_path):
    folder = tmp_path / "tiny-aligned"
    shutil.copytree(FOLDER, folder)
    status, said = evaluate("--model", folder, "--beside", "tiny", "--write")
    assert status == 0
    # One question per skill has no interval, and JSON no infinity.
    lines = json.loads((folder / "beside.json").read_text(), parse_constant=pytest.fail)
    whole = {line["column"]: line for line in lines if line["skill"] == "all"}
    natural, aligned = (whole[name] for name in (Path(MODELS["tiny"].path).name, "tiny-aligned"))
    assert natural["questions"] == aligned["questions"] == len(SKILLS)
    assert "difference" not in natural and "flops_cut" not in natural  # it is the reference
    assert aligned["difference"][0] == pytest.approx(aligned["right"] - natural["right"])
    assert aligned["flops_cut"] == pytest.approx(0.72, abs=0.02)  # against all tokens everywhere
    card = (folder / "README.md").read_text().split(MARK_BESIDE)
    assert len(card) == 3 and card[1].strip() in said.out
    stores = [len(path.read_text().split()) > 0 for path in tmp_path.glob("answers-*.jsonl")]
    assert stores == [True, True]  # each model's answers are kept apart


def test_stock_use_computes_every_token_everywhere(evaluate):
    vlm = load_vlm(FOLDER, device="cpu")
    stock = without_schedule(vlm)
    assert stock.schedule is None and vlm.schedule is not None
    assert stock.presets["system"] == vlm.presets["system"] and stock.lock is vlm.lock
    status, said = evaluate("--model", "tiny-aligned", "--stock")
    assert status == 0 and "FLOPs cut" not in said.out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "tiny", "--stock"], "has no schedule of its own"),
        (["--model", "tiny", "--beside", "tiny"], "names the model itself"),
        (["--model", "tiny", "--beside", "nope"], "There is no model 'nope'"),
        (["--stock", "--beside", "tiny"], "name one"),
        (["--model", "tiny-aligned", "--stock", "--write"], "not with --stock"),
    ],
)
def test_what_cannot_be_compared_is_said(evaluate, more, says, tmp_path):
    status, said = evaluate(*more)
    assert status == 2 and says in said.err
    assert not list(tmp_path.glob("*.jsonl"))
