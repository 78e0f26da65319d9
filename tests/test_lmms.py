"""Benchmarks by lmms-eval: sessions and tables here, whole runs where lmms-eval is installed."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import lmms_sets
import pytest

from visipruner.__main__ import main
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.evaluation import lmms, lmms_session, lmms_table
from visipruner.evaluation.answers import Answers
from visipruner.evaluation.lmms_session import Session, cut, options_of
from visipruner.models.catalogue import load_vlm
from visipruner.models.checkpoint import fingerprint
from visipruner.training.config import FOLDER
from visipruner.world.drawing import render
from visipruner.world.scenes import make_scene

ROOT = Path(lmms.__file__).parents[2]
PICTURE = render(make_scene(3, "heldout"))
ASKED = "how many shapes are there?\nAnswer the question using a single word or phrase."
GREEDY = {"max_new_tokens": 8, "do_sample": False, "temperature": 0, "num_beams": 1}
NAMES = ["none", "visipruner:gentle"]


@pytest.fixture(scope="module")
def tiny():
    return load_vlm(FOLDER, device="cpu")


def session(tiny, folder) -> Session:
    return Session(tiny, NAMES, Answers(folder / "answers.db"), fingerprint(FOLDER))


def test_a_row_is_what_the_engine_says_of_the_verbatim_prompt(tiny, tmp_path):
    asked = session(tiny, tmp_path)
    row = asked.answer(0, [PICTURE], ASKED, GREEDY)
    prompt = tiny.prepare(PICTURE, "x", reword=lambda _: ASKED)
    assert "there?\nAnswer the" in prompt.text
    stock = tiny.model.generate(**prompt.inputs, max_new_tokens=8, do_sample=False)
    said = tiny.processor.decode(stock[0, prompt.layout.length :], skip_special_tokens=True)
    assert row["text"].strip() == said.strip()
    assert row["visual_tokens"] == [576] * 12 and row["exit_layer"] is None
    pruned = asked.answer(1, [PICTURE], ASKED, GREEDY)
    assert pruned["prefill_flops"] < row["prefill_flops"]
    from visipruner.choice import method_at

    with prune(tiny.model, method_at(tiny, "visipruner:gentle"), prompt.layout) as trace:
        tiny.model.generate(**prompt.inputs, max_new_tokens=8, do_sample=False)
    assert pruned["visual_tokens"] == [record.visual_tokens for record in trace.layers]
    assert pruned["filtering_layer"] == trace.filtering_layer


def test_a_second_run_finds_every_answer_and_computes_none(tiny, tmp_path, monkeypatch):
    first = [session(tiny, tmp_path).answer(c, [PICTURE], ASKED, GREEDY) for c in (0, 1)]
    monkeypatch.setattr(lmms_session, "compare", lambda *_: pytest.fail("asked again"))
    again = session(tiny, tmp_path)
    assert [again.answer(c, [PICTURE], ASKED, GREEDY) for c in (0, 1)] == first
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        again.answer(0, [PICTURE], ASKED, GREEDY | {"max_new_tokens": 9})


def test_a_full_disk_is_said_and_loses_nothing(tiny, tmp_path):
    asked = session(tiny, tmp_path)
    asked.answer(0, [PICTURE], ASKED, GREEDY)
    kept = list(asked.store)
    asked.store._file.execute("PRAGMA max_page_count = 1")  # SQLite then says that it is full
    long = GREEDY | {"max_new_tokens": 60}
    with pytest.raises(Refused, match=r"disk is full: the last answer .* same command goes on"):
        for number in range(40):
            asked.answer(0, [PICTURE], f"describe the picture. {number} " + "again " * 90, long)
    assert set(kept) <= set(session(tiny, tmp_path).store)


@pytest.mark.parametrize(
    ("pictures", "context", "settings", "says"),
    [
        ([], ASKED, GREEDY, "it shows 0 pictures"),
        ([PICTURE] * 2, ASKED, GREEDY, "it shows 2 pictures"),
        ([PICTURE], " \n", GREEDY, "it asks nothing"),
        ([PICTURE], ASKED, GREEDY | {"num_beams": 3}, "beam search"),
        ([PICTURE], ASKED, GREEDY | {"do_sample": True, "temperature": 9}, "temperature"),
    ],
)
def test_what_cannot_be_served_is_refused(tiny, tmp_path, pictures, context, settings, says):
    with pytest.raises(Refused, match=says):
        session(tiny, tmp_path).answer(0, pictures, context, settings)
    assert not session(tiny, tmp_path).store


def test_generation_settings_are_read_as_tasks_write_them():
    assert options_of({}).max_new_tokens == lmms_session.DEFAULT_TOKENS
    assert options_of({"max_new_tokens": 16}).max_new_tokens == 16
    assert options_of({"max_new_tokens": 99_999}).max_new_tokens == lmms_session.MOST_TOKENS
    assert options_of({"temperature": 0.7, "do_sample": False}).temperature == 0
    assert options_of({"temperature": 0.7, "do_sample": True}).temperature == 0.7
    assert cut("Red. ASSISTANT: more", ["ASSISTANT:"]) == "Red. "
    assert cut("Red.\n\nmore", "\n\n") == "Red."
    assert cut("Red.", None) == cut("Red.", [""]) == "Red."


def sample(number, score, flops, tokens, exit_layer=None, text="a"):
    row = {"text": text, "prefill_flops": flops, "visual_tokens": tokens, "prefill_ms": 2.0}
    row |= {"exit_layer": exit_layer, "request_ms": 4.0}
    return {"doc_id": number, "exact_match": score, "token_counts": [row]}


def test_tables_pair_the_questions_and_count_what_ran():
    def results(value):
        metrics = {"exact_match,none": value, "exact_match_stderr,none": 0.1, "alias": "toy"}
        return {
            "results": {"toy": metrics},
            "configs": {"toy": {"metric_list": [{"metric": "exact_match"}]}},
        }

    full = [sample(n, 1.0, 4e9, [8, 8]) for n in range(4)]
    less = [sample(n, float(n != 2), 1e9, [8, 0], 0 if n else None, "b") for n in (3, 2, 1, 0)]
    found = lmms_table.tables(
        {"none": (results(1.0), {"toy": full}), "half": (results(0.75), {"toy": less})}
    )
    first, second = found["toy"]
    assert first["flops_cut"] == 0 and first["difference"][0] == 0 and first["exit_layer"] is None
    assert second["flops_cut"] == 0.75 and second["tokens"] == 4 and second["exits"] == 0.75
    assert second["difference"][0] == -0.25 and second["same_answer"] == 0
    assert second["metrics"] == {"exact_match": 0.75}
    text = lmms_table.as_markdown(found)
    assert "| half | 4 | 0.75 | -0.2500 (" in text and "0.0 (75% of answers)" in text
    assert json.loads(lmms_table.as_json(found, {"model": "m"}))["tasks"]["toy"][1]["exits"] == 0.75
    del less[0]["exact_match"]
    found = lmms_table.tables(
        {"none": (results(1.0), {"toy": full}), "half": (results(0.75), {"toy": less})}
    )
    assert lmms_table.NO_SCORE in lmms_table.as_markdown(found)


def test_one_question_gives_no_interval_and_no_number_that_json_lacks():
    metrics = {"exact_match,none": float("nan"), "right,none": 1.0}
    results = {
        "results": {"toy": metrics},
        "configs": {"toy": {"metric_list": [{"metric": "exact_match"}]}},
    }
    found = lmms_table.tables({"none": (results, {"toy": [sample(0, 1.0, 4e9, [8])]})})
    assert "+0.0000 (no interval: one question)" in lmms_table.as_markdown(found)
    text = lmms_table.as_json(found, {})
    (line,) = json.loads(text, parse_constant=pytest.fail)["tasks"]["toy"]
    assert line["difference"] == [0, None, None] and line["metrics"] == {"right": 1.0}


def test_tables_are_saved_before_they_are_printed(tmp_path, monkeypatch):
    """And in the folder that --out names."""
    results = {
        "results": {"toy": {}},
        "configs": {"toy": {"metric_list": []}},
    }
    samples = {"toy": [sample(0, 1.0, 4e9, [8])]}
    monkeypatch.setattr(lmms.metadata, "version", lambda _: lmms.PINNED)
    monkeypatch.setattr(lmms, "_one", lambda *_: (results, samples))
    model = SimpleNamespace(register=lambda: None, serving=lambda session: nullcontext())
    monkeypatch.setitem(sys.modules, "visipruner.evaluation.lmms_model", model)

    def closed(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=closed, fileno=lambda: 99))
    monkeypatch.setattr("visipruner.files._print_no_more", lambda: None)
    out = tmp_path / "mine"
    assert main(["evaluate", "--tasks", "toy", "--out", str(out), "--device", "cpu"]) == 2
    assert (out / "visipruner.md").read_text().startswith("**toy**")
    assert json.loads((out / "visipruner.json").read_text())["tasks"].keys() == {"toy"}


@pytest.mark.skipif(find_spec("lmms_eval") is not None, reason="lmms-eval is installed")
def test_without_lmms_eval_one_sentence_says_how_to_get_it(capsys):
    assert main(["evaluate", "--tasks", "pope"]) == 2
    assert "in an environment of its own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--methods", "nonsense"], "nonsense"),
        (["--jsonl", "x.jsonl"], "two evaluations"),
        (["--use_cache", "x"], "--use_cache is not taken here"),
        (["--model_args=a=b"], "--model_args is not taken here"),
    ],
)
def test_wrong_flags_are_one_sentence(monkeypatch, capsys, words, says):
    monkeypatch.setattr(lmms.metadata, "version", lambda _: lmms.PINNED)
    assert main(["evaluate", "--tasks", "pope", *words]) == 2
    assert says in capsys.readouterr().err


def test_another_release_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(lmms.metadata, "version", lambda _: "9.9")
    assert main(["evaluate", "--tasks", "pope"]) == 2
    assert "lmms-eval 9.9 is installed" in capsys.readouterr().err


def test_unknown_flags_are_still_wrong_without_tasks(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--quick", "--limit", "3"])
    assert ended.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err


# -- whole runs: pytest -m slow in an environment with lmms-eval

whole = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed"),
]
LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1"
LAUNCH += " --mixed_precision no --dynamo_backend no"


def evaluate(folder, *words, launch=(), also=None):
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join(str(part) for part in (ROOT, also) if part)
    found = {"PYTHONPATH": path, "HF_HOME": str(folder / "cache")}
    return subprocess.run(
        [sys.executable, *launch, "-m", "visipruner", "evaluate", *words],
        cwd=folder,
        env=os.environ | offline | found | ({"ACCELERATE_USE_CPU": "true"} if launch else {}),
        capture_output=True,
        text=True,
        timeout=600,
    )


def untimed(folder) -> dict:
    """The saved tables without milliseconds."""
    tasks = json.loads((folder / "visipruner.json").read_text())["tasks"]
    return {
        task: [{k: v for k, v in line.items() if not k.endswith("_ms")} for line in lines]
        for task, lines in tasks.items()
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    if find_spec("lmms_eval"):
        lmms_sets.write(folder, 7)
    return folder


class TestWhole:
    pytestmark = whole

    def test_six_stock_tasks_run_and_run_on(self, drawn):
        tasks = ",".join(lmms_sets.SETS)
        words = ["--methods", "none", "visipruner:gentle", "divprune@96", "--tasks", tasks]
        done = evaluate(drawn, *words, "--limit", "4", "--output_path", "six")
        assert done.returncode == 0, done.stderr[-3000:]
        found = untimed(drawn / "six")
        assert set(found) == set(lmms_sets.SETS)
        for task, (full, gentle, few) in found.items():
            assert full["questions"] == 4 and full["flops_cut"] == 0 and full["tokens"] == 576
            assert 0 < gentle["flops_cut"] < few["flops_cut"], task
            assert full["metrics"], task
        assert found["pope"][0]["metrics"]["pope_accuracy"] == 1.0
        assert found["gqa"][0]["metrics"]["exact_match"] == 1.0
        samples = list((drawn / "six").rglob("*samples_pope.jsonl"))
        line = json.loads(samples[0].read_text().splitlines()[0])
        assert len(samples) == 3 and len(line["token_counts"][0]["visual_tokens"]) == 12
        kept = dict(Answers(drawn / "six" / "answers.db"))
        again = evaluate(drawn, *words, "--limit", "4", "--output_path", "six")
        assert again.returncode == 0 and untimed(drawn / "six") == found
        assert dict(Answers(drawn / "six" / "answers.db")) == kept  # with their milliseconds

    def test_two_processes_say_what_one_says(self, drawn):
        words = ["--methods", "none", "visipruner:gentle", "--tasks", "pope,gqa", "--limit", "5"]
        one = evaluate(drawn, *words, "--output_path", "one")
        assert one.returncode == 0, one.stderr[-3000:]
        two = evaluate(drawn, *words, "--output_path", "two", launch=LAUNCH.split())
        assert two.returncode == 0, two.stderr[-3000:]
        assert untimed(drawn / "one") == untimed(drawn / "two")

    def test_a_failing_process_ends_all_with_status_1(self, drawn):
        words = ["--tasks", "pope", "--output_path", "broken", "--limit", "4"]
        fails = (
            "import os; from visipruner.evaluation import lmms_session as s; import visipruner\n"
        )
        fails += "def fail(*_): raise RuntimeError('rank 1 is broken')\n"
        fails += "if os.environ.get('RANK') == '1': s.Session.answer = fail\n"
        (drawn / "sitecustomize.py").write_text(fails)  # only the second process is broken
        done = evaluate(drawn, *words, launch=LAUNCH.split(), also=drawn)
        (drawn / "sitecustomize.py").unlink()
        assert done.returncode == 1
        assert "Something went wrong" in done.stdout + done.stderr
        assert not (drawn / "broken" / "visipruner.json").exists()

    def test_an_unknown_task_is_one_sentence(self, drawn):
        done = evaluate(drawn, "--tasks", "pope,nonsense")
        assert done.returncode == 2
        assert "error: Tasks not found: nonsense" in done.stderr
