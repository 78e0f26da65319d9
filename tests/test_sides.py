"""A baseline and up to four others: in the runner, in results, command, endpoint and report."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import page_server
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from visitors import Visitor

from visipruner.__main__ import main
from visipruner.choice import MOST_CONTESTANTS, parse_sides, sides_at
from visipruner.errors import Refused
from visipruner.methods import METHODS
from visipruner.render import charts, counters
from visipruner.render.report import report_html
from visipruner.render.values import viewer_value
from visipruner.render.words import (
    describe_agreement,
    describe_speed,
    describe_tokens,
    kept,
    verdict,
)
from visipruner.running import runner
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.trace import PruningTrace
from visipruner.ui import (
    controls,
    downloads,
    fields,
    handlers,
    running,
    share,
    teaching,
    text,
    views,
    zerogpu,
)

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
    """Answer, counts and trace: vision work that only another side needs is not its cost."""
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
    silent = zerogpu.seconds(None, None, [None] * 5, Options(40, clock_rounds=0))
    assert silent < asked[-1]  # each side's repeats take time too


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
        (("--methods", "none", "fastv", "--set", "random.keep=2"), "it is METHOD.FIELD=VALUE"),
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
    assert page.count('href="data:image') == 1  # the picture of all patches, once


def test_the_report_draws_the_patches_that_each_side_kept(five):
    """Every framed patch has a border on a side whose neighbour was dropped."""
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


# -- the page

MANY = ("visipruner", "fastv", "visionzip+visipruner")


def filled(**own):
    """The page's values, by names."""
    usual = {"picture": None, "scene": 3, "question": "what?", "model": "tiny", "level": 0.5}
    usual |= {"method": MANY[0], "others": list(MANY[1:]), "semantics": "paper"}
    usual |= {"picture_mode": "pad", "backend": "sdpa", "precision": "auto", "draw_seed": 0}
    return {**usual, "max_new_tokens": 3, "temperature": 0, **own}


@pytest.fixture(scope="module")
def models(mini_path):
    return page_server.models(mini_path)


@pytest.fixture(scope="module")
def shown(models):
    """(job, progress) of a run of the page with three contestants."""
    form, scene = controls.form_of(filled(model=models.default, **{"fastv.keep": "5"}))
    job = running.job_of(models, form, scene)
    job = replace(job, options=replace(job.options, clock_rounds=0))
    *_, progress = handlers.follow(job)
    return job, progress


def test_the_form_names_every_side_and_keeps_two_as_they_were():
    form, _ = controls.form_of(filled(others=[]))
    assert (form.sides, form.methods) == (("none", "visipruner"), ())
    form, _ = controls.form_of(filled(others=None, **{"visipruner.shallow_layers": "3"}))
    assert form.fields == {"shallow_layers": 3}
    given = {"visipruner.shallow_layers": "3", "fastv.keep": "7", "random.keep": "9"}
    form, _ = controls.form_of(filled(**given))
    assert form.sides == ("none", *MANY)
    assert form.fields == {"visipruner.shallow_layers": 3, "fastv.keep": 7}


@pytest.mark.parametrize(
    ("method", "others", "said"),
    [
        ("fastv", ["random", "fastv"], "FastV is chosen twice"),
        ("fastv", ["random", "random"], "is chosen twice"),
        ("fastv", ["none", "random", "visipruner", "visionzip"], "5 words at most, not 6"),
        ("fastv", ["magic"], "method must be one of"),
        (None, ["fastv"], "method must be one of"),
    ],
)
def test_sides_that_the_page_cannot_compare_are_refused(method, others, said):
    with pytest.raises(Refused, match=said):
        controls.form_of(filled(method=method, others=others))


def test_each_contestant_gets_its_own_settings_and_is_named_where_one_is_wrong(models, shown):
    job, _ = shown
    _, visipruner, fastv, stack = job.methods
    assert (fastv.keep, visipruner) == (5, job.at(0.5))
    assert [method.name for method in stack] == ["visionzip", "visipruner"]
    keep = fields.setting("fastv", "keep").words
    for typed in ("-1", "2.5"):
        form, scene = controls.form_of(filled(model=models.default, **{"fastv.keep": typed}))
        with pytest.raises(Refused) as caught:
            running.job_of(models, form, scene)
        assert str(caught.value).startswith(f"FastV: “{keep}” must be a whole number")


def test_a_method_that_refuses_a_picture_is_named(mini, prompt, monkeypatch):
    def select(self, view):
        raise Refused("This picture is too odd.")

    monkeypatch.setattr(METHODS["fastv"], "select", select)
    for words, said in (
        (("none", "random", "fastv"), "FastV: This picture is too odd."),
        (("none", "fastv"), "This picture is too odd."),
    ):
        with pytest.raises(Refused) as caught:
            compared(mini, prompt, words)
        assert str(caught.value) == said


def test_the_page_shows_every_side(shown):
    job, progress = shown
    comparison = progress.comparison
    titles = ["All patches", "VisiPruner", "FastV", "VisionZip, then VisiPruner"]
    assert views.names_of_sides(comparison) == titles
    verdict = views.verdict(comparison, job.truth, views.asked(job))
    lines = re.findall(r'<li class="(\w+)"><h3>(.*?)</h3><b class="vp-said">(.*?)</b>', verdict)
    assert lines == [
        ("same" if pair.same else "different", title, describe_agreement(pair))
        for title, pair in zip(titles[1:], comparison.pairs, strict=True)
    ]
    same = sum(pair.same for pair in comparison.pairs)
    assert text.SAME_OF_MANY.format(same=same, count=3) in verdict
    assert "VisiPruner, FastV, VisionZip + VisiPruner, balanced (level 0.5)" in verdict
    table = views.counters(comparison)
    assert re.findall(r'<th scope="col">(.*?)</th>', table) == titles
    assert {row.count("<td>") for row in re.findall(r"<tr><th.*?</tr>", table)} == {4}
    cards = views.cards(comparison, None, 5)
    assert [bool(card) for card in cards] == [True] * 4 + [False]
    for side, (card, title) in enumerate(zip(cards, titles, strict=False)):
        live = views.column(handlers.Progress(8, progress.shape, job.names), side)
        assert f"<h3>{title} " in card and f"<h3>{title}<" in live
        assert text.STOPPED_CARD in live and text.STOPPED_CARD not in card
    named = views.named(comparison)
    for draw in (charts.tokens_chart, charts.flops_chart):
        assert [line.name for line in draw(named).data] == titles
    assert charts.influence_chart(named).data


def test_the_viewer_gets_each_run_and_the_shared_things_once(shown):
    job, progress = shown
    notes = ["", "about FastV", ""]
    value = viewer_value(views.named(progress.comparison), None, notes)
    assert [run["name"] for run in value["runs"]] == views.names(job.names)[1:]
    assert [run.get("note", "") for run in value["runs"]] == notes
    pairs = progress.comparison.pairs
    for run, pair in zip(value["runs"], pairs, strict=True):
        alone = viewer_value(replace(progress.comparison, answers=list(pair.answers)))
        for name in ("steps", "first", "why"):
            assert run[name] == alone[name]
        packed = [value["masks"][layer["mask"]] for layer in run["layers"]]
        assert packed == [alone["masks"][layer["mask"]] for layer in alone["layers"]]
    assert value["layers"] == [] and len(value["probe"]) == 8
    assert len(set(value["masks"])) == len(value["masks"])


def test_files_of_several_sides(shown):
    job, progress = shown
    result = downloads.Result(job, replace(progress.comparison, words=job.form.methods))
    data = downloads.as_json(result)
    assert data["settings"]["methods"] == ["none", *MANY]
    assert [answer["name"] for answer in data["answers"]] == ["none", *MANY]
    assert data["settings"]["fields"]["fastv"]["keep"] == 5
    assert len([note for note in data["notes"] if note.startswith("fastv: ")]) == 1
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(downloads.png_file(one)["data"]))).height
        for one in (
            result,
            *(
                replace(result, comparison=replace(result.comparison, answers=list(pair.answers)))
                for pair in progress.comparison.pairs
            ),
        )
    ]
    assert sizes[0] == sum(sizes[1:])


def test_links_and_commands_carry_every_side(models, shown, mini_path, capsys):
    form = replace(shown[0].form, precision="auto")
    query = dict(httpx.QueryParams(share.query(form, 3)))
    assert query["method"] == ",".join(MANY)
    found, notes = share.read(query, models)
    assert found["method"] == list(MANY) and not notes
    assert share.read({"method": "fastv"}, models)[0]["method"] == ["fastv"]
    for wrong in ("fastv,fastv", "fastv,magic", ",", ",".join(MANY * 2)):
        assert share.read({"method": wrong}, models)[0] == {}
    words = shlex.split(share.command_line(form, 3, local=True))[3:]
    words[words.index("DIR")], words[words.index("out.json")] = str(mini_path), "-"
    assert main(words) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [answer["name"] for answer in answers] == ["none", *MANY]
    assert answers[2]["trace"]["stories"][0]["settings"]["keep"] == 5
    exec(share.python(form, 3, True).replace('"DIR"  # your checkpoint', repr(str(mini_path))), {})
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_several_sides_run_are_measured_again_and_saved(mini_path, monkeypatch):
    monkeypatch.setattr(teaching, "ROUNDS", 1)
    visitor = Visitor(page_server.address(mini_path))
    own = {"Longest answer (tokens)": 2, text.METHOD: "fastv", text.OTHERS: ["random", "none"]}
    own[text.QUESTION] = "what?"
    assert visitor.run(own, scene=3)["success"]
    assert visitor.send(visitor.event("on_measure"), [visitor.key])["success"]
    job = page_server.page(mini_path).kept.find(visitor.key).job
    assert job.names == ["none", "fastv", "random", "none"]
    saved = visitor.send(visitor.event("on_save", 1), [visitor.key])["output"]["data"][0]
    data = json.loads(base64.b64decode(saved["data"]))
    assert [answer["times"]["rounds"] for answer in data["answers"]] == [1] * 4
    assert len(data["pairs"]) == 3
    for others, said in (("fastv", "must be a list"), ([["fastv"]], "one of"), (["no"], "one of")):
        answer = visitor.run({**own, text.OTHERS: others}, scene=3)
        assert f"“{text.OTHERS}” must be" in answer["output"]["error"]
        assert said in answer["output"]["error"]
    visitor.http.close()


def test_a_search_ends_where_any_side_differs(models, monkeypatch):
    monkeypatch.setattr(teaching, "MOST_SCENES", 2)
    form, _ = controls.form_of(filled(model=models.default, method="none", others=["random"]))
    form = replace(form, level=1.0)
    *_, state = teaching.search(models, form, 0)
    assert state.names[:2] == (text.FULL, text.AGAIN) and len(state.answers) == 3
    assert state.found == (len({answer.casefold() for answer in state.answers}) > 1)
    assert teaching.search_html(replace(state, found=True)).count("<p>") == 4


# -- one table


def test_page_and_report_read_one_table_of_counters(mini, prompt):
    two = compared(mini, prompt, ("none", "fastv"))
    page, report = views.counters(two), report_html(two, {})
    for row in counters.ROWS[:-1]:  # the last one is for GPUs
        for shown in (page, report):
            assert row.words.replace("'", "&#x27;") in shown
            assert all(f"<td>{row.read(answer)}</td>" in shown for answer in two.answers)
