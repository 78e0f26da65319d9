"""A baseline and up to four others: in the runner, in results, command, endpoint and report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import page_server
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from visipruner.__main__ import main
from visipruner.choice import MOST_CONTESTANTS, parse_sides, sides_at
from visipruner.errors import Refused
from visipruner.render import counters
from visipruner.render.report import report_html
from visipruner.render.words import describe_speed, describe_tokens, kept, verdict
from visipruner.running import runner
from visipruner.running.runner import Options, compare, last_event
from visipruner.trace import PruningTrace
from visipruner.ui import views, zerogpu

SAVED = Path(__file__).parent / "saved"
WORDS = ("none", "fastv:0.8", "visionzip+fastv@6", "random@25%", "none")
QUICK = Options(max_new_tokens=3, probe=False, clock_rounds=0)


@pytest.fixture(scope="module")
def prompt(mini, picture):
    return mini.prepare(picture, "what colour is the star?")


def compared(vlm, prompt, words, options=QUICK):
    sides = sides_at(vlm, words, "balanced", "paper", prompt.layout.num_visual)
    comparison = last_event(compare(vlm, prompt, sides, options)).comparison
    return replace(comparison, words=tuple(words))


@pytest.fixture(scope="module")
def five(mini, prompt):
    return compared(mini, prompt, WORDS, replace(QUICK, probe=True))


# -- running


def test_each_side_answers_as_it_does_alone(mini, prompt, five, monkeypatch):
    """Words, counts and trace: what another side needs of the vision tower is not its cost."""
    for word, answer in zip(WORDS, five.answers, strict=True):
        (alone,) = compared(mini, prompt, [word]).answers
        assert replace(alone, times=answer.times) == answer
    assert five.answers[0].counts.executed.probe == 0
    encoded, encode = [], type(mini).encode
    monkeypatch.setattr(
        type(mini), "encode", lambda *given: encoded.append(given) or encode(*given)
    )
    compared(mini, prompt, WORDS)
    assert len(encoded) == 1


def test_every_side_goes_first_once_in_as_many_comparisons(mini, prompt):
    sides = sides_at(mini, ("none", "random", "fastv"))
    orders = []
    for _ in sides:
        events = compare(mini, prompt, sides, replace(QUICK, max_new_tokens=1))
        orders.append([event.side for event in events if event.kind == "answer"])
    assert sorted(orders) == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize(("per_side", "rounds"), [(0.9, 5), (2.2, 3), (11.0, 0)])
def test_the_time_for_silent_rounds_grows_with_the_sides(monkeypatch, count, per_side, rounds):
    now = [0.0]

    def turn(vlm, prompt, methods, *_):
        now[0] += per_side * len(methods)
        return [SimpleNamespace(times="taken")] * len(methods)

    monkeypatch.setattr(runner, "CLOCK_SECONDS", 4.0)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(runner, "_in_turn", turn)
    monkeypatch.setattr(runner, "_encode", lambda *_: None)
    taken = runner._silent(None, None, [None] * count, Options(), lambda event: None)
    assert len(taken) == rounds


def test_zerogpu_is_asked_for_more_time_with_every_side():
    asked = [zerogpu.seconds(None, None, [None] * count, Options(40)) for count in range(2, 6)]
    assert asked == sorted(set(asked)) and asked[-1] < zerogpu.MOST_SECONDS


# -- results


def test_every_further_side_is_a_pair_with_the_baseline(five):
    assert five.names == [*WORDS[:-1], "none (2)"]
    assert [pair.name for pair in five.pairs] == five.names[1:]
    for pair, answer in zip(five.pairs, five.answers[1:], strict=True):
        assert pair.answers == (five.answers[0], answer)
        work = [side.counts.executed.prefill for side in pair.answers]
        assert pair.flops_ratio == work[0] / work[1]
        assert pair.same == answer.says_as(five.answers[0])
        said = " ".join(words for kind, words in pair.word_diff if kind != "full")
        assert said == answer.text
    last = five.pairs[-1]
    assert last.same and last.flops_ratio == 1 == five.flops_ratio and five.same
    assert five.word_diff == last.word_diff and five.conclusive is last.conclusive


def test_sentences_name_the_sides_that_they_compare(mini, prompt, five):
    assert [pair.called for pair in five.pairs[:2]] == [
        ("full", "fastv:0.8"),
        ("full", "visionzip+fastv@6"),
    ]
    two = compared(mini, prompt, ("none", "fastv"))
    assert two.called == ("full", "pruned")
    assert compared(mini, prompt, ("none", "none")).called == ("full", "second")
    other = compared(mini, prompt, ("random@25%", "fastv"))
    assert "random@25%, " in describe_speed(other)
    assert describe_tokens(other).endswith("the random@25% run has 4 in every layer.")
    assert replace(two, words=()).names == ["none", "fastv"]


def test_json_names_every_side_and_keeps_its_old_names(five):
    data = json.loads(json.dumps(five.to_json()))
    assert [answer["name"] for answer in data["answers"]] == five.names
    assert [pair["name"] for pair in data["pairs"]] == five.names[1:]
    last = data["pairs"][-1]
    for name in ("same_answer", "flops_ratio", "first_token_ratio"):
        assert data[name] == last[name]
    used = [answer["trace"]["mean_tokens"] for answer in data["answers"]]
    assert used == [answer.trace.mean_tokens for answer in five.answers] and used[3] == 4


def test_one_answer_alone_compares_with_itself(mini, prompt):
    alone = compared(mini, prompt, ["random"])
    assert alone.pairs == [] and alone.same and alone.to_json()["flops_ratio"] == 1


def trace_with(counts, num_visual=16):
    layers = [SimpleNamespace(visual_tokens=count) for count in counts]
    return SimpleNamespace(num_visual=num_visual, layers=layers)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([16, 16, 16], "16"),
        ([16, 16, 9, 9, 0], "16 -> 9 after 1 -> 0 after 3"),
        ([4, 4, 2], "16 -> 4 before layer 0 -> 2 after 1"),
        ([0, 0, 16, 16], "16 -> 0 before layer 0 -> 16 after 1"),  # they waited outside
        ([], "16"),  # stopped before the first layer ended
    ],
)
def test_what_was_kept_is_what_the_layers_ran_with(counts, words):
    assert kept(trace_with(counts)) == words
    assert kept(trace_with(counts), "→") == words.replace("->", "→")


def test_a_trace_saved_before_stacks_still_opens():
    saved = json.loads((SAVED / "trace_before_stacks.json").read_text())
    trace = PruningTrace.from_json(saved)
    assert trace.method == "visipruner" and trace.settings == saved["settings"]
    assert (trace.filtering_layer, trace.exit_layer, trace.attention_free_layers) == (1, 2, 1)
    assert trace.why == saved["why"] and trace.calm_layers == []
    assert kept(trace) == "4 -> 2 after 1 -> 0 after 2" and trace.mean_tokens == 2.5
    assert [cut.kept for cut in trace.drops] == [[1, 2], []]
    assert trace.layers[1].influence.lowest == 0.97
    again = json.loads(json.dumps(trace.to_json()))
    assert PruningTrace.from_json(again) == trace
    assert {name: again[name] for name in saved if name != "cuts"} == {
        name: value for name, value in saved.items() if name != "cuts"
    }


# -- words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none"], "a baseline and 1 to 4 others"),
        (["none"] * (2 + MOST_CONTESTANTS), "5 words at most, not 6"),
        ([], "not 0"),
        ("none fastv", "must be a list of words"),
        (["none", 7], "must be a list of words"),
        (None, "must be a list of words"),
        (["none", "fastv@many"], "must be a number, not 'many'"),
        (["none", "m" * 1000], "method must be one of"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused(words, said):
    with pytest.raises(Refused, match=said) as caught:
        parse_sides(words)
    assert str(caught.value).count("m" * 81) == 0


def test_a_level_is_for_the_sides_that_bring_none(mini):
    _, own, other = sides_at(mini, ("none", "random:0", "random"), 1)
    assert (own.keep, other.keep) == (16, 0)


# -- the command


@pytest.fixture(scope="module")
def picture_file(tmp_path_factory, picture):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    picture.save(path)
    return str(path)


def ask(capsys, picture_file, mini_path, *more):
    asked = ["ask", picture_file, "what?", "--model-path", str(mini_path), "--rounds", "2"]
    status = main([*asked, "--max-new-tokens", "2", *more])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_command_compares_several_methods(picture_file, mini_path, tmp_path, capsys):
    out = tmp_path / "out.json"
    words = ("none", "fastv+visipruner", "random@25%", "fastv:gentle")
    status, said, _ = ask(capsys, picture_file, mini_path, "--json", str(out), "--methods", *words)
    assert status == 0
    data = json.loads(out.read_text())
    assert [answer["name"] for answer in data["answers"]] == list(words)
    assert len(data["medians"]) == 4 and len(data["pairs"]) == 3
    assert re.findall(r"^(?:full|fast|random).*?(?=: )", said, re.MULTILINE) == [
        "full",
        *words[1:],
    ]
    assert re.findall(r"^verdict of (.*?): (?=Same|Diff)", said, re.MULTILINE) == list(words[1:])
    tokens = re.findall(r"^  tokens +(.*)", said, re.MULTILINE)
    assert tokens[0] == "16; mean 16.0 per layer"
    assert tokens[2] == "16 -> 4 before layer 0; mean 4.0 per layer"
    assert said.count("  executed   prefill ") == said.count("  measured   vision ") == 4


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--methods", "none"), "a baseline and 1 to 4 others"),
        (("--methods", "none", "magic"), "method must be one of"),
        (("--methods", "none", "fastv", "--set", "keep=2"), "--set replaces a setting of --method"),
        (("--methods", "none", "fastv@1"), "cannot use as few as 1 visual tokens"),
    ],
)
def test_the_command_refuses_in_a_sentence(more, words, picture_file, mini_path, capsys):
    status, said, error = ask(capsys, picture_file, mini_path, *more)
    assert status == 2 and not said and words in error and error.count("\n") == 1


# -- the endpoint


@pytest.fixture(scope="module")
def client(mini_path):
    return Client(page_server.address(mini_path), verbose=False)


def call(client, picture_file, **options):
    options = {"max_new_tokens": 2, "clock_rounds": 0, "probe": False, **options}
    return client.predict(handle_file(picture_file), "what?", options=options, api_name="/compare")


def test_the_endpoint_compares_several_methods(client, picture_file):
    words = ["none", "random@25%", "random+visipruner@8", "fastv:0.75"]
    result = call(client, picture_file, methods=words)
    assert [answer["name"] for answer in result["answers"]] == words
    assert result["settings"]["methods"] == words
    assert [pair["name"] for pair in result["pairs"]] == words[1:]
    assert result["answers"][2]["trace"]["method"] == "random+visipruner"
    assert result["same_answer"] == result["pairs"][-1]["same_answer"]
    old = call(client, picture_file)
    assert [answer["name"] for answer in old["answers"]] == ["none", "visipruner"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["none"] * 6}, "5 words at most, not 6"),
        ({"methods": "none"}, "must be a list of words"),
        ({"methods": ["none", {"name": "fastv"}]}, "must be a list of words"),
        ({"methods": ["none", "fastv"], "fields": {"keep": 1}}, "options.fields are of one method"),
    ],
)
def test_the_endpoint_refuses_in_a_sentence(options, words, client, picture_file):
    with pytest.raises(AppError, match=words):
        call(client, picture_file, **options)


# -- the report


def test_the_report_shows_every_side(five):
    page = report_html(five, {"model": "mini"})
    titles = ["All patches (none)", *WORDS[1:-1], "All patches (none (2))"]
    for title in titles:
        assert page.count(f"<h3>{title}</h3>") == 2  # its answer, and its patches
    for pair in five.pairs:
        assert f'<p class="verdict">{pair.name}: {verdict(pair)}' in page
        assert f"<h2>{pair.name} beside full, layer by layer</h2>" in page
    rows = re.findall(r"<tr><th scope='row'>(.*?)</th>(.*?)</tr>", page)
    assert [cells.count("<td>") for _, cells in rows] == [1 + len(WORDS)] * len(rows)
    table = dict(rows)["Visual tokens per layer, in the mean"]
    assert re.findall(r"<td>(.*?)</td>", table)[1:] == [
        f"{answer.trace.mean_tokens:.1f} of 16" for answer in five.answers
    ]
    for answer in five.answers:
        assert kept(answer.trace, "→") in page
    assert page.count('href="data:image') == 1  # the picture of all the patches stands there once


def test_the_report_draws_the_patches_that_each_side_kept(five):
    """Every framed patch has a border on a side where its neighbour has gone."""
    page = report_html(five, {})
    drawn = page.split('<div class="stages">')[1:]
    side = five.prompt.seen.size[0] // 4
    for answer, stages in zip(five.answers, drawn, strict=True):
        figures = stages.partition("</div>")[0].split("<figure>")[1:]
        cuts = [cut.kept for cut in answer.trace.drops]
        assert len(figures) == max(1, len(cuts))
        for figure, patches in zip(figures, cuts, strict=False):
            veil = re.search(r'<path d="([^"]*)"', figure)[1]
            spans = re.findall(r"M(\d+) (\d+)H(\d+)V", veil)
            gone = {
                int(top) // side * 4 + column
                for left, top, right in spans
                for column in range(int(left) // side, int(right) // side)
            }
            assert gone == set(range(16)) - set(patches)


# -- one table


def test_page_and_report_read_one_table_of_counters(mini, prompt):
    two = compared(mini, prompt, ("none", "fastv"))
    page, report = views.counters(two), report_html(two, {})
    for row in counters.ROWS[:-1]:  # the last one is of GPUs
        for shown in (page, report):
            assert row.words.replace("'", "&#x27;") in shown
            assert all(f"<td>{row.read(answer)}</td>" in shown for answer in two.answers)
