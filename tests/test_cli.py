"""python -m visipruner ask: both answers, an exit status, and one plain sentence on bad input."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from visipruner.__main__ import main
from visipruner.errors import Refused
from visipruner.render.words import describe_clocks, describe_speed
from visipruner.running.results import Times

ROOT = Path(__file__).resolve().parent.parent


def run(capsys, *arguments):
    status = main(["ask", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_ask_answers_both_ways_and_writes_json(picture_file, mini_path, tmp_path, capsys):
    out = tmp_path / "out.json"
    status, text, _ = run(
        capsys,
        *(picture_file, "what colour is the star?", "--model-path", mini_path),
        *("--level", "aggressive", "--max-new-tokens", 4, "--rounds", 2, "--json", out),
        *("--set", "shallow_layers=2"),
    )
    assert status == 0
    for word in (
        "full:",
        "visipruner:",
        "executed",
        "formula",
        "measured",
        "medians of 2",
        "verdict:",
    ):
        assert word in text
    data = json.loads(out.read_text())
    assert data["answers"][1]["trace"]["settings"]["shallow_layers"] == 2
    assert len(data["medians"]) == 2


def test_with_rounds_verdict_and_times_are_of_these_medians(mini_path, tmp_path, capsys):
    """The runner's own clock would add nothing and does not even run."""

    def slow_then_quick(vlm, prompt, methods, options, rounds):
        assert options.clock_rounds == 0
        firsts = ((300.0, 310.0, 320.0, 330.0), (100.0, 110.0, 120.0, 130.0))
        return [[Times(10.0, 20.0, first, 7.0, 900.0) for first in side] for side in firsts]

    out, asked = tmp_path / "out.json", ("scene:6", "is it green?", "--model-path", mini_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visipruner.running.runner.measure", slow_then_quick)
        status, said, _ = run(capsys, *asked, "--rounds", 4, "--json", out)
    assert status == 0 and said.endswith("first token: 2.74 times faster.\n")
    assert said.count("total 900 ms (medians of 4 silent whole answers)") == 2
    data = json.loads(out.read_text())
    assert data["first_token_ratio"] == 315 / 115
    assert [answer["times"]["first_token"] for answer in data["answers"]] == [315, 115]
    assert data["medians"] == [answer["times"] for answer in data["answers"]]


def test_a_fault_of_the_program_is_one_line_and_a_report(mini_path, tmp_path, capsys, monkeypatch):
    def broken(self, view):
        raise ValueError("a word of the inside\nthat is for no visitor")

    monkeypatch.setattr("visipruner.methods.FastV.select", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asked = ("scene:4", "what?", "--model-path", mini_path, "--method", "fastv")
    status, said, error = run(capsys, *asked)
    assert status == 1 and not said
    name = re.fullmatch(r"Something went wrong; a report lies in (.+/visipruner-\S+)\.\n", error)[1]
    told = Path(name).read_text()
    assert "in broken" in told and "a word of the inside" in told and "transformers " in told
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no folder"))
    status, _, error = run(capsys, *asked)
    assert status == 1 and error.count("\n") == 1 and "ValueError: a word of the inside" in error


def test_control_c_ends_a_run_without_words(mini_path, capsys, monkeypatch):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("visipruner.models.catalogue.load_vlm", pressed)
    status, said, error = run(capsys, "scene:4", "what?", "--model-path", mini_path)
    assert (status, said, error) == (130, "", "")


@pytest.mark.parametrize(
    "change",
    [
        ("--set", "Q"),
        ("--set", "Q=" + "[" * 100_000),
        ("--set", "stages=Q"),
        ("--set", "relative=Q"),
        ("--level", "Q"),
        ("--device", "Q"),
        ("--json", "Q/out.json"),
        ("--model-path", "Q"),
        ("--seed", "Q"),
        ("--attention", "Q'\""),
        ("--unknown", "Q"),
    ],
)
def test_sentences_quote_a_part_of_what_is_long(change, mini_path, capsys):
    words = [word.replace("Q", "Q" * 1000) for word in change]
    model = () if "--model-path" in words else ("--model-path", mini_path)
    with contextlib.suppress(SystemExit):  # argparse refuses some values itself
        assert main(["ask", "scene:4", "what?", *map(str, model), *words]) == 2
    error = capsys.readouterr().err
    assert 1 <= error.count("Q") <= 80


def test_the_bundled_model_is_asked_in_the_spelling_that_it_learnt(capsys, monkeypatch):
    prompts = []

    def asked(vlm, prompt, methods, options):
        prompts.append(prompt)
        raise Refused("That is enough.")

    monkeypatch.setattr("visipruner.running.runner.compare", asked)
    run(capsys, "scene:49", "what is the Color of the large thing?")
    run(capsys, "scene:49", "what is the colour of the large thing?")
    american, british = prompts
    assert american.question == "what is the Color of the large thing?"
    assert american.inputs["input_ids"].equal(british.inputs["input_ids"])
    assert [("“color” as “colour”" in note) for note in american.notes] == [True]
    assert not british.notes


def test_of_a_photograph_the_bundled_model_only_guesses(tmp_path, capsys):
    photograph = tmp_path / "photograph.png"
    Image.effect_noise((200, 120), 80).convert("RGB").save(photograph)
    asked, out = "how many shapes are there? answer in one word.", tmp_path / "out.json"
    said = run(capsys, photograph, asked, "--rounds", 2, "--json", out)[1]
    data = json.loads(out.read_text())
    assert data["guesses"] and any("is a guess" in note for note in data["notes"])
    assert "verdict: Both guess, and " in said and "verdict: Same answer" not in said


def test_json_to_standard_output_is_only_json(picture_file, mini_path, capsys):
    arguments = ("scene:3", "what?", "--model-path", mini_path, "--max-new-tokens", 2)
    # 1e1 is a whole number too.
    own = ("--method", "fastv", "--set", "keep=1e1")
    status, text, _ = run(capsys, *arguments, *own, "--json", "-")
    assert status == 0 and json.loads(text)["answers"][1]["trace"]["method"] == "fastv"


def test_vision_exit_alone_by_its_settings(mini_path, capsys):
    arguments = ("scene:3", "what?", "--model-path", mini_path, "--max-new-tokens", 2)
    own = ("--method", "schedule", "--set", "keep_after=none", "--set", "none_after=4")
    said = run(capsys, *arguments, *own, "--rounds", 1)[1]
    assert "No visual token is left after layer 4." in said
    # All 16 patches in layers 0 to 4 of 8.
    assert "16 -> 0 after 4; mean 10.0 per layer" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("nothing.png", "what?"), "no picture file"),
        (("PICTURE", "   "), "question is empty"),
        (("PICTURE", "x" * 10_000), "10,000 characters"),
        (("PICTURE", "what?", "--level", "nan"), "level must be"),
        (("PICTURE", "what?", "--level", "2"), "from 0 to 1"),
        (("PICTURE", "what?", "--method", "magic"), "method must be one of"),
        (("PICTURE", "what?", "--semantics", "both"), "semantics must be one of"),
        (("PICTURE", "what?", "--set", "layer_threshold=7"), "layer_threshold must be"),
        (("PICTURE", "what?", "--set", "nonsense"), "FIELD=VALUE"),
        (("PICTURE", "what?", "--set", "colour=1"), "colour"),
        (("PICTURE", "what?", "--set", "level=1"), "field of visipruner"),
        (("PICTURE", "what?", "--set", "keep=" + "[" * 100_000), "keep are nested too deeply"),
        (
            ("PICTURE", "what?", "--set", "colour=1", "--method", "fastv"),
            "field of fastv must be one of keep, before_layer, start_shift, renumber, not",
        ),
        (
            ("PICTURE", "what?", "--set", "keep=1", "--method", "none"),
            "none has no fields that could be set",
        ),
        (
            ("PICTURE", "what?", "--set", "keep_after=1000", "--method", "schedule"),
            "keep_after must be a whole number from -1 to 999",
        ),
        ((".", "what?"), "“.” is a folder"),
        (("scene:" + "9" * 5000, "what?"), "The scene's number must be"),
        (("PICTURE", "what?", "--max-new-tokens", "0"), "max_new_tokens"),
        (("PICTURE", "what?", "--picture-mode", "stretch"), "one of pad, crop"),
        (("PICTURE", "what?", "--json", "/no/such/folder/out.json"), "no folder"),
        (("PICTURE", "what?", "--json", "/dev/null"), "no ordinary file"),
        (("PICTURE", "what?", "--json", "x" * 300), "cannot be written: File name too long."),
        (("PICTURE", "what?", "--json", "x" * 300 + "/out.json"), "cannot be written"),
        (("PICTURE", "what?", "--model-path", "x" * 300), "There is no model"),
        (("x" * 300, "what?"), "cannot be opened"),
        (("PICTURE", "what?", "--json", "PICTURE"), "names the picture itself"),
        (("PICTURE", "what?", "--rounds", "0"), "--rounds must be"),
        (("scene:many", "what?"), "The scene's number must be"),
        (("PICTURE", "what?", "--model-path", "/no/such/model"), "no model"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(change, words, picture_file, mini_path, capsys):
    arguments = [picture_file if part == "PICTURE" else part for part in change]
    if "--model-path" not in arguments:
        arguments += ["--model-path", mini_path]
    status, text, error = run(capsys, *arguments)
    assert status == 2 and not text
    assert words in error and error.count("\n") == 1 and "Traceback" not in error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({0: "nothing.png"}, "no picture file"),
        ({1: " "}, "question is empty"),
        ({3: "2"}, "from 0 to 1"),
        ({5: "magic"}, "method must be one of"),
        ({7: "both"}, "semantics must be one of"),
        ({9: "stretch"}, "one of pad, crop"),
    ],
)
def test_bad_input_is_found_before_a_model_is_loaded(change, words, picture_file, capsys):
    words_in_order = [picture_file, "what?", "--level", "1", "--method", "none", "--semantics"]
    words_in_order += ["paper", "--picture-mode", "pad", "--model", "no such model"]
    changed = [change.get(place, word) for place, word in enumerate(words_in_order)]
    assert words in run(capsys, *changed)[2]


def test_a_question_may_begin_with_a_dash(mini_path, capsys):
    arguments = ("--model-path", mini_path, "--max-new-tokens", 2, "--", "scene:1", "-what?")
    assert run(capsys, *arguments)[0] == 0


@pytest.mark.parametrize(
    ("clocks", "words"),
    [
        ({}, "one run"),
        ({"rounds": 3}, "first token are medians of 3 silent ones"),
        ({"rounds": 4, "whole": True}, "medians of 4 silent whole answers"),
    ],
)
def test_clocks_are_named_as_they_were_read(clocks, words):
    assert words in describe_clocks(Times(1, 2, 3, None, 4, **clocks))


PRINT = """
import sys
from visipruner.files import print_whole
try:
    print_whole({text!r})
except ValueError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(
    ("text", "redirected", "encoding", "words"),
    [
        ("x" * 10**6, "| head -c 1", "utf-8", ""),
        ("x", "> /dev/full", "utf-8", "could not be printed: No space left"),
        ("a ★", "> /dev/null", "ascii", "ascii, has no '\\u2605': set PYTHONIOENCODING"),
    ],
    ids=["closed", "full", "letters"],  # pytest puts these into the child's environment
)
def test_what_cannot_be_printed_is_said_in_a_sentence(text, redirected, encoding, words):
    run = subprocess.run(
        ["bash", "-c", f"{sys.executable} - {redirected}"],
        input=PRINT.format(text=text),
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert words in run.stderr and run.stderr.count("\n") == bool(words)


def test_the_file_is_there_before_anything_is_printed(mini_path, tmp_path, monkeypatch):
    def full(text):
        raise Refused("The result could not be printed: No space left on device.")

    monkeypatch.setattr("visipruner.ask.print_whole", full)
    out = tmp_path / "out.json"
    arguments = ["--model-path", str(mini_path), "--max-new-tokens", "2", "--json", str(out)]
    assert main(["ask", "scene:3", "what?", *arguments]) == 2
    assert json.loads(out.read_text())["answers"]


def test_help_is_complete(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ask", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--model", "--method", "--level", "--semantics", "--json", "--set", "--rounds"):
        assert option in text


@pytest.mark.parametrize(
    ("full", "pruned", "faster", "rounds", "words"),
    [
        (90, 100, False, 3, "1.11 times slower"),
        (104, 100, None, 3, "no measurable difference (1.04 times)"),
        (150, 100, True, 3, "1.50 times faster"),
        (150, 100, None, 3, "times too uneven to call one faster (1.50 times)"),
        (150, 100, True, 0, "150 ms full, 100 ms pruned (one run, too few to call one faster)"),
        (150, 100, True, 2, "150 ms full, 100 ms pruned (2 runs, too few to call one faster)"),
    ],
)
def test_speed_is_named_so_that_noise_is_not_progress(full, pruned, faster, rounds, words):
    times = (SimpleNamespace(first_token=time, rounds=rounds) for time in (full, pruned))
    answers = [SimpleNamespace(times=one) for one in times]
    comparison = SimpleNamespace(
        answers=[*answers],
        called=("full", "pruned"),
        first_token_ratio=full / pruned,
        faster=faster,
        uneven=faster is None and full / pruned > 1.4,
    )
    assert describe_speed(comparison) == words
