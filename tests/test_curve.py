"""The page's curve: its file, its drawing, points as forms, points measured again, its files."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import re
import threading
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import curve_file
import pytest

from visipruner import Refused
from visipruner.choice import settings_of_side
from visipruner.evaluation import recompute
from visipruner.evaluation.evaluate import UNPRUNED
from visipruner.evaluation.interview import asked_one_by_one, by_skill, in_turn, interview
from visipruner.evaluation.recompute import Standing
from visipruner.methods import FastV, PruningMethod, VisionZip
from visipruner.models.catalogue import load_vlm
from visipruner.render.curve import (
    ALL,
    MAIN,
    Measured,
    Share,
    describe_curve,
    describe_point,
    describe_source,
    group_of,
    read_curve,
    side_of,
)
from visipruner.render.curve_chart import SHAPES, STAR, curve_chart, style_of
from visipruner.render.curve_svg import HIGH, TOP, curve_svg
from visipruner.ui import controls, curve, curve_parts, curve_words, fields, keeping, text
from visipruner.world.questions import SKILLS


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return curve_file.written(tmp_path_factory.mktemp("curve"))


@pytest.fixture(scope="module")
def recorded(path):
    return read_curve(path)


@pytest.fixture(scope="module")
def bundled():
    return load_vlm("tiny", device="cpu")


class Server:
    """What `measure` needs of the page's models."""

    paths = {"tiny": "tiny"}

    def __init__(self, vlm):
        self.vlm = vlm

    def get(self, *key):
        assert key == ("tiny", "sdpa", "auto")
        return self.vlm

    def asked(self, key, columns, asking):
        return asked_one_by_one(self.get(*key), columns, asking)


# -- the file


def test_the_reader_understands_what_the_command_writes(recorded):
    given = curve_file.body()
    assert [point.name for point in recorded.points] == [one["point"] for one in given["points"]]
    first, told = recorded.points[0], given["points"][0]
    assert first.shares[ALL].right == told["right"] and first.flops_cut == told["flops_cut"]
    assert first.final.shares[ALL].questions == 3900 and recorded.points[1].final is None
    assert recorded.skills == [ALL, *SKILLS]
    assert {p.side for p in recorded.points if p.untrained} == {"visionzip", "visionzip+visipruner"}
    rival = next(point for point in recorded.points if point.name == "random@96").rival
    assert rival is None  # pooling was not measured at this budget
    zipped = next(p for p in recorded.points if p.name == "visionzip@64")
    rival = next(one for one in given["points"] if one["point"] == "visionzip@64")
    rival = rival["where_rival_fails"]
    assert zipped.rival == (rival["right"], rival["questions"]) and rival["questions"] > 0
    assert recorded.series[0] == MAIN
    assert recorded.of("pool, places kept")[0][1].name == "places kept, pool@64"
    [(_, asked)] = recorded.of("visipruner, by the question")
    assert asked.settings["semantics"] == "question"
    assert asked.title == "VisiPruner, by the question"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda body: body.pop("machine"), "'machine' is missing"),
        (lambda body: body["points"][2].pop("tokens"), "'tokens' is missing"),
        (lambda body: body["points"].clear(), "no points"),
        (lambda body: body["points"][0].update(side="magic"), "method must be one of"),
        (lambda body: body["points"][0].update(settings=[1]), "settings must be an object"),
        (lambda body: body["points"][0].update(right=1.5), "right must be a number"),
        (lambda body: body["points"][0].update(low=0.99, right=0.5), "its own mean"),
        (lambda body: body["points"][0].update(low=0, right=0.5, high=0.4), "its own mean"),
        (lambda body: body["points"][0].update(skills=[]), "another form"),
        (lambda body: body["points"][0]["skills"].pop("place"), "different skills"),
        (lambda body: body.update(points=7), "another form"),
        (lambda body: body["points"][0].update(difference=[0, 1]), "another form"),
        (lambda body: body["points"][0].update(flops_cut=float("nan")), "flops_cut must be"),
        (lambda body: body["points"][0].update(untrained="no"), "untrained must be"),
        (lambda body: body["points"][0].update(places_kept=1), "places_kept must be"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path, spoil, why):
    body = copy.deepcopy(curve_file.body(1))
    spoil(body)
    place = tmp_path / "a" / "curve.json"
    place.parent.mkdir()
    place.write_text(json.dumps(body))
    with pytest.raises(Refused, match=r"The curve .curve\.json. is damaged") as caught:
        read_curve(place)
    assert why in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_file_of_a_million_brackets_is_refused(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 1_000_000)
    with pytest.raises(Refused, match="another form"):
        read_curve(tmp_path / "deep.json")


def test_a_line_runs_from_the_smallest_cut_whatever_the_files_order(recorded):
    turned = replace(recorded, points=recorded.points[::-1])
    cuts = [point.flops_cut for _, point in turned.of("fastv")]
    assert cuts == sorted(cuts) and len(cuts) == 2
    said = describe_curve(turned, ["fastv"])
    first, last = (int(cut) for cut in re.findall(r"with (\d+)% cut", said))
    assert first < last
    assert f"Unpruned: {recorded.unpruned[ALL].right:.1%}" in said
    full = recorded.unpruned["count"]
    assert f"Unpruned: {full.right:.1%}" in describe_curve(recorded, ["fastv"], "count")


def test_only_the_curves_own_skills_may_be_asked_for(recorded):
    assert recorded.skill("count") == "count"
    for given in ("magic", None, ["count"]):
        with pytest.raises(Refused, match="The curve's questions"):
            recorded.skill(given)


def test_a_missing_or_foreign_file_is_refused_and_the_page_says_so(tmp_path):
    for place in (tmp_path / "none.json", tmp_path / "list.json", tmp_path / "bytes.json"):
        with pytest.raises(Refused, match="The curve '") as caught:
            read_curve(place)
        assert str(tmp_path) not in str(caught.value)
        (tmp_path / "list.json").write_text("[1, 2]")
        (tmp_path / "bytes.json").write_bytes(b"\xff\xfe{}")
    import gradio as gr

    with gr.Blocks() as page:
        assert curve.build(tmp_path / "none.json") is None
        curve.connect(None, None, None)  # nothing to connect
    [said] = page.blocks.values() if len(page.blocks) == 1 else list(page.blocks.values())[-1:]
    assert "none.json" in said.value and curve_words.NO_CURVE[:20] in said.value


# -- drawing


def test_every_series_has_its_own_colour_and_shape_or_dash(recorded):
    styles = {series: style_of(recorded, series) for series in recorded.series}
    assert len({(style.colour, style.dash) for style in styles.values()}) == len(styles)
    variants = {"pool, places kept": "pool", "visipruner, by the question": "visipruner"}
    for variant, usual in variants.items():
        found, same = styles.pop(variant), styles[usual]
        assert (found.colour, found.symbol) == (same.colour, same.symbol)
    assert len({style.symbol for style in styles.values()}) == len(styles)
    assert len({symbol for symbol, _ in SHAPES}) == len({path for _, path in SHAPES}) == 18


def test_the_chart_holds_the_recorded_numbers(recorded):
    chart = curve_chart(recorded, ["fastv", "visionzip"], followed="fastv")
    lines = {line.name: line for line in chart.data}
    fastv = lines["FastV"]
    points = [point for _, point in recorded.of("fastv")]
    assert list(fastv.x) == [100 * point.flops_cut for point in points]
    assert list(fastv.y) == [100 * point.shares[ALL].right for point in points]
    high = [100 * (p.shares[ALL].high - p.shares[ALL].right) for p in points]
    assert list(fastv.error_y.array) == pytest.approx(high)
    other = lines["VisionZip, score untrained"]
    assert other.error_y.array is None and all("-open" in one for one in other.marker.symbol)
    assert not any("-open" in one for one in fastv.marker.symbol)
    assert chart.layout.shapes[0].y0 == 100 * recorded.unpruned[ALL].right
    # A click needs the point's number.
    assert [recorded.points[one[0]].side for one in fastv.customdata] == ["fastv"] * 2


def test_the_chart_shows_both_ends_of_intervals_and_the_followed_line_on_top(recorded):
    share = Share(10, 0.5, 0.2, 0.6)
    here = [Measured(None, "unpruned", share, 0.0, None)]
    number = recorded.of("random")[0][0]
    here.append(Measured(number, "one", share, 0.3, None))
    chart = curve_chart(recorded, ["fastv", "random"], followed="fastv", measured=here)
    assert [line.name for line in chart.data[:2]] == ["Random patches", "FastV"]
    fastv = [point.shares[ALL] for _, point in recorded.of("fastv")]
    below = [100 * (one.right - one.low) for one in fastv]
    assert list(chart.data[1].error_y.arrayminus) == pytest.approx(below)
    stars = chart.data[2]
    assert list(stars.error_y.array) == pytest.approx([10, 10])
    assert list(stars.error_y.arrayminus) == pytest.approx([30, 30])
    assert stars.marker.color[1] == style_of(recorded, "random").colour
    assert [one[0] for one in stars.customdata] == [None, number]
    assert "50.0% right (20.0% to 60.0%) of 10, 30.0%" in stars.customdata[1][1]
    assert chart.layout.xaxis.range[1] > 100 * max(p.flops_cut for p in recorded.points)
    full = recorded.unpruned[ALL]
    assert chart.layout.annotations[0].text == f"unpruned {full.right:.1%}"


def test_our_own_rules_are_explained_where_they_are_shown(recorded):
    own = "visipruner, by the question"
    assert "own rules" in curve_parts.told_html(recorded, [MAIN, own])
    assert "own rules" not in curve_parts.told_html(recorded, [MAIN])


def test_one_skill_has_its_own_numbers(recorded):
    chart = curve_chart(recorded, ["random"], "count")
    shares = [point.shares["count"] for _, point in recorded.of("random")]
    assert list(chart.data[0].y) == [100 * share.right for share in shares]
    assert "count" in chart.layout.title.text
    assert chart.layout.shapes[0].y0 == 100 * recorded.unpruned["count"].right
    assert "count" in describe_curve(recorded, ["random"], "count")


def test_groups_hold_what_they_say_and_always_the_followed_series(recorded):
    def group(name, followed=""):
        return set(curve_parts.shown(recorded, name, followed))

    assert group("all") == set(recorded.series)
    assert group("stacks") == {"visionzip+visipruner", "pool+visipruner"}
    assert group("before") == {"visionzip", "pool"} and "fastv" in group("inside")
    assert group("placed") == {"pool, places kept", "random"}
    kinds = [group(name) for name in ("before", "placed", "inside", "stacks")]
    assert set.union(*kinds) == group("all") and sum(map(len, kinds)) == len(group("all"))
    assert MAIN in group("few") and len(group("few")) <= 6
    assert group("stacks", "fastv") == group("stacks") | {"fastv"}


def test_the_svg_is_xml_with_every_point_and_hollow_marks(recorded):
    drawn = ElementTree.fromstring(curve_svg(recorded, recorded.series, followed=MAIN))
    marks = [mark for mark in drawn.iter() if "transform" in mark.attrib]
    assert len(marks) == len(recorded.points) + len(recorded.series)  # and the legend's
    hollow = [mark for mark in marks if mark.attrib["fill"] == "#fff"]
    untrained = [point for point in recorded.points if point.untrained]
    assert len(hollow) == len(untrained) + len({point.side for point in untrained})
    assert "94" not in drawn.attrib["aria-label"] or "right" in drawn.attrib["aria-label"]


def places_of(svg: str, path: str) -> list[tuple[float, float]]:
    """Where the marks with this path stand in the picture."""
    found = re.findall(rf'translate\(([\d.]+) ([\d.]+)\)" d="{re.escape(path)}"', svg)
    return [(float(x), float(y)) for x, y in found]


def test_the_svg_puts_every_mark_where_its_numbers_say(recorded):
    """The numbers on the axes tell the same as the places of the marks."""
    here = [Measured(0, "now", Share(10, 0.5, 0.2, 0.6), 0.3, None)]
    svg = curve_svg(recorded, ["fastv"], "count", "fastv", here)
    words = r'<text x="(\d+)" y="(\d+)" text-anchor="{}"[^>]*>(-?\d+)</text>'
    heights = {int(n): int(y) - 5 for _, y, n in re.findall(words.format("end"), svg)}
    across = {int(n): int(x) for x, _, n in re.findall(words.format("middle"), svg)}
    points = [point for _, point in recorded.of("fastv")]
    numbers = [(p.flops_cut, p.shares["count"].right) for p in points]
    marks = places_of(svg, style_of(recorded, "fastv").path)[: len(points)]  # then the legend's
    stars = places_of(svg, STAR[1])
    assert len(stars) == 2  # one of them in the legend
    top, left = max(heights), 0
    for (x, y), (cut, right) in zip([*marks, stars[0]], [*numbers, (0.3, 0.5)], strict=True):
        step = (heights[top - 10] - heights[top]) / 10
        assert y == pytest.approx(heights[top] + step * (top - 100 * right), abs=2)
        step = (across[10] - across[left]) / 10
        assert x == pytest.approx(across[left] + step * 100 * cut, abs=6)


def test_an_interval_in_the_svg_stays_within_the_plot(recorded):
    wide = Measured(0, "now", Share(1, 0.5, 0.0, 1.0), 0.3, None)
    svg = curve_svg(recorded, ["fastv"], measured=[wide])
    lines = re.findall(r'<path d="M[\d.]+ (-?[\d.]+)V(-?[\d.]+)"', svg)
    assert len(lines) == 1
    low, high = map(float, lines[0])
    assert TOP <= high < low <= HIGH


@pytest.mark.parametrize("skill", [ALL, *SKILLS])
def test_every_skill_has_its_marks_within_the_plot(recorded, skill):
    svg = curve_svg(recorded, ["fastv", "random"], skill)
    for series in ("fastv", "random"):
        marks = places_of(svg, style_of(recorded, series).path)[: len(recorded.of(series))]
        assert marks and all(TOP <= y <= HIGH for _, y in marks)


def test_the_svg_says_in_its_legend_which_score_is_untrained(recorded):
    words = [
        text.text for text in ElementTree.fromstring(curve_svg(recorded, ["visionzip"])).iter()
    ]
    assert "VisionZip, score untrained" in words


def test_words_of_a_file_are_text_in_the_svg_and_the_page(recorded):
    skills = {**recorded.unpruned, '<a> & "b"': recorded.unpruned["count"]}
    point = replace(recorded.points[0], name="<b>", shares=skills)
    odd = replace(recorded, machine="<i>", unpruned=skills, points=(point,))
    here = [Measured(0, "<u>", Share(2, 0.5, 0.0, 1.0), 0.3, None)]
    drawn = {"shown": odd.series, "skill": '<a> & "b"', "followed": MAIN}
    svg = ElementTree.fromstring(content(curve_parts.png_file(odd, here, **drawn)))
    assert '<a> & "b"' in svg.attrib["aria-label"]
    page = content(curve_parts.html_file(odd, here, **drawn))
    for tag in ("<a>", "<b>", "<i>", "<u>"):
        assert tag not in page and tag.replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<i>" not in curve_parts.head_html(odd)


def test_a_hover_text_says_accuracy_interval_cost_and_what_means_little(recorded):
    said = describe_point(recorded.points[0])
    share = recorded.points[0].shares[ALL]
    assert f"{share.right:.1%} right ({share.low:.1%} to {share.high:.1%})" in said
    assert "80.0% of 3,900" in said and "untrained" not in said
    assert "untrained" in describe_point(next(p for p in recorded.points if p.untrained))
    final = recorded.points[0].final.shares["count"]
    said = describe_point(recorded.points[0], "count")
    assert f"; {final.right:.1%} of {final.questions:,}" in said and "80.0%" not in said
    assert f"on {4 * len(SKILLS)} held-out questions" in describe_source(recorded)


# -- from a point to the form


def test_a_point_fills_the_form_with_exactly_its_settings(recorded):
    """What the form reads back makes the same method, though numbers went through text."""
    for point, (wish, side) in zip(
        recorded.points, list(curve_file.sides().items())[1:], strict=True
    ):
        assert point.name == wish
        values = curve.form_of(point)
        sides = controls.sides_of(values.pop("method"), [])
        semantics = values.pop("semantics", "paper")
        given = fields.overrides(sides[1:], values)
        vlm = type("Vlm", (), {"facts": lambda self, _: curve_file.FACTS})()
        made = curve.method_at(vlm, sides[1], 0.1, semantics, None, **given)
        assert settings_of_side(made) == settings_of_side(side)


def test_a_point_of_another_version_is_refused(recorded):
    point = next(point for point in recorded.points if point.side == "sparsevlm_plus")
    with pytest.raises(Refused, match="recycle"):
        curve.form_of(type(point)(**{**vars(point), "settings": {**point.settings, "recycle": 3}}))
    own = recorded.points[0]
    with pytest.raises(Refused, match="other choices"):
        curve.form_of(type(own)(**{**vars(own), "settings": {**own.settings, "stages": ["x"]}}))


@pytest.mark.parametrize("given", [None, "", "x", 99, -1, 1.5, True, [0], {"a": 1}, "٣"])
def test_a_point_that_is_not_there_is_refused(recorded, given):
    with pytest.raises(Refused, match="no such point"):
        recorded.number(given)
    last = len(recorded.points) - 1
    assert recorded.number(str(last)) == last
    with pytest.raises(Refused, match="no such point"):
        recorded.number(last + 1)


def test_one_to_four_points_are_measured(recorded):
    assert curve.picked(recorded, ["3", "1", "3"]) == [3, 1]
    answers = SimpleNamespace(close=lambda: None)
    server = SimpleNamespace(
        paths={"tiny": "tiny"},
        get=lambda *_: SimpleNamespace(facts=lambda _: curve_file.FACTS),
        asked=lambda key, columns, asking: answers,
    )
    assert next(curve.measure(server, recorded, [3, 1], 1)).columns == (UNPRUNED, "3", "1")
    for wrong in (None, [], [str(number) for number in range(5)]):
        with pytest.raises(Refused, match="one to 4 points"):
            curve.picked(recorded, wrong)


def test_a_server_without_the_bundled_model_says_so(recorded):
    point = recorded.points[0]
    assert curve.model_of(Server(None), [point]) == "tiny"
    with pytest.raises(Refused, match="model “tiny”, and this server does not offer it"):
        curve.model_of(SimpleNamespace(paths={"llava-1.5-7b": "llava-1.5-7b"}), [point])


def test_points_of_another_model_stand_beside(path, recorded, bundled):
    both = read_curve(path, {"tiny-aligned": path})
    count, name = len(recorded.points), "tiny-aligned"
    assert both.points[:count] == recorded.points
    whole, *others = both.points[count:]
    assert [replace(point, model="") for point in others] == list(recorded.points)
    assert whole.title == "tiny-aligned, unpruned" and whole.shares == both.unpruned_of(name)
    assert others[0].title == "tiny-aligned, VisiPruner" and both.unpruned_of("") == both.unpruned
    assert {group_of(point.series) for point in others} == {"model"}
    assert name in curve_parts.shown(both, "model", "")[0]
    assert side_of(others[0].series) == side_of(recorded.points[0].series)
    first, second = (style_of(both, point.series) for point in (recorded.points[0], others[0]))
    assert first.path == second.path and first.dash != second.dash
    assert f"{name} answered the same questions on 2026" in describe_source(both)
    assert name not in describe_source(recorded)
    assert both.source["models"][name] == recorded.source
    with pytest.raises(Refused, match="two models"):
        next(curve.measure(Server(bundled), both, [0, count], 1))
    rows = curve_parts.csv_rows(both)
    assert [row["model"] for row in rows].count(name) == len(curve_parts.csv_rows(recorded))


def test_another_models_curve_must_have_the_same_skills(path, tmp_path):
    body = curve_file.body()
    for one in (body["unpruned"], *body["points"], *body["final"]):
        one["skills"].pop("count", None)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(body))
    with pytest.raises(Refused, match="has other skills than"):
        read_curve(path, {"tiny-aligned": other})


# -- measured again


@pytest.mark.parametrize("count", [0, 131, 2.5, "13", None, True, float("nan")])
def test_the_number_of_questions_is_bounded(count):
    with pytest.raises(Refused, match="number of questions must be a whole number from 1 to 130"):
        recompute.asking(count)


def test_questions_come_one_of_each_skill_in_turn():
    assert len(recompute.asking(1)) == 13 and len(recompute.asking(14)) == 26
    asking = recompute.asking(26)
    assert [one.skill for one in asking] == [*SKILLS, *SKILLS]
    same = {(one.skill, one.number) for one in by_skill(("heldout",), 2)}
    assert {(one.skill, one.number) for one in asking} == same  # with these the records began


def test_answers_come_one_by_one_with_the_lock_free_between_them(bundled, monkeypatch, tmp_path):
    """Other runs come in between, nothing is written, and the answers are the command's."""
    monkeypatch.chdir(tmp_path)
    columns = {UNPRUNED: PruningMethod(), "few": FastV(keep=20)}
    asking = list(in_turn("validation", 1))[:2]
    rows, entered = [], []
    answers = asked_one_by_one(bundled, columns, asking)
    for _, row in answers:
        rows.append(row)
        other = threading.Thread(target=lambda: entered.append(bundled.lock.acquire(timeout=5)))
        other.start()
        other.join()
        bundled.lock.release()
    assert entered == [True] * 4 and list(tmp_path.iterdir()) == []
    monkeypatch.setattr("visipruner.evaluation.interview.SKILLS", list(SKILLS)[:2])
    stored = interview(bundled, columns, ("validation",), 1, tmp_path / "store.jsonl")
    assert stored == rows
    assert len((tmp_path / "store.jsonl").read_text().split()) > 4


def test_a_finished_answer_is_not_asked_again(bundled, monkeypatch):
    asking, done = list(in_turn("validation", 1))[:2], {}
    columns = {UNPRUNED: PruningMethod(), "zip": VisionZip(dominant=20, contextual=4)}
    rows = [row for _, row in asked_one_by_one(bundled, columns, asking, done)]
    layers = bundled.model.config.get_text_config().num_hidden_layers
    assert {len(row["tokens"]) for row in rows} == {layers} and len(done) == len(rows) == 4
    monkeypatch.setattr("visipruner.evaluation.interview.ask", lambda *_: pytest.fail("asked"))
    assert [row for _, row in asked_one_by_one(bundled, columns, asking, done)] == rows


def test_no_answer_is_made_without_the_lock(bundled, monkeypatch):
    """A question never runs beside another run: hooks are on the model."""
    from visipruner.evaluation import interview as room

    seen, ask, encode = [], room.ask, type(bundled).encode
    monkeypatch.setattr(
        room, "ask", lambda vlm, *more: seen.append(vlm.lock.locked()) or ask(vlm, *more)
    )
    monkeypatch.setattr(
        type(bundled),
        "encode",
        lambda vlm, *more: seen.append(vlm.lock.locked()) or encode(vlm, *more),
    )
    asking = list(in_turn("heldout", 1))[:1]
    assert len(list(asked_one_by_one(bundled, {UNPRUNED: PruningMethod()}, asking))) == 1
    assert seen == [True, True]


def test_a_measurement_grows_and_keeps_what_it_has_when_it_is_stopped(recorded, bundled):
    number = next(n for n, point in enumerate(recorded.points) if point.name == "fastv@96")
    states = curve.measure(Server(bundled), recorded, [number], 1)
    standing = next(states)
    assert standing.total == 13 and not standing.rows
    assert curve_parts.measured(recorded, standing, [number]) == []
    for _ in range(4):
        standing = next(states)
    states.close()
    assert not bundled.lock.locked() and len(standing.rows) == 4 and not standing.over
    full, own = curve_parts.measured(recorded, standing, [number])
    assert full.number is None and full.flops_cut == 0 and full.share.questions == 2
    assert own.number == number and 0.3 < own.flops_cut < 1
    table = curve_parts.standing_html(recorded, standing, [number])
    assert "4 of 26 answers" in table and curve_words.ENDED in table
    chart = curve_chart(recorded, ["fastv"], measured=[full, own])
    stars = chart.data[-1]
    assert stars.marker.symbol == "star" and list(stars.x) == [0, 100 * own.flops_cut]


def row(column, number, score, flops, skill="colour"):
    return {"column": column, "skill": skill, "number": number, "score": score, "flops": flops}


def test_a_tally_pairs_each_answer_with_the_same_question_unpruned():
    standing = Standing((UNPRUNED, "0"), 3)
    assert standing.tally("0").right is None
    standing.rows += [row(UNPRUNED, 0, 1.0, 100), row("0", 0, 0.0, 40)]
    assert standing.tally("0").difference is None  # one pair has no interval
    standing.rows += [row(UNPRUNED, 1, 1.0, 200), row("0", 1, 1.0, 80), row(UNPRUNED, 2, 0.0, 900)]
    own = standing.tally("0")
    assert (own.questions, own.right) == (2, 0.5) and own.flops_cut == pytest.approx(0.6)
    assert own.difference[0] == pytest.approx(-0.5)  # the third question has no partner yet
    assert 0 < own.low < 0.5 < own.high < 1
    assert not standing.over
    standing.rows.append(row("0", 2, 1.0, 100))
    assert standing.over and standing.tally("0").difference[0] == pytest.approx(0)
    assert "3 questions" in curve_words.MEASURED.format(questions=standing.total)


def test_a_tally_pairs_by_skill_and_number_whatever_the_order():
    full = [row(UNPRUNED, 0, 0.0, 100), row(UNPRUNED, 0, 1.0, 300, "count")]
    own = [row("0", 0, 1.0, 90, "count"), row("0", 1, 0.0, 30)]
    standing = Standing((UNPRUNED, "0"), 3, [*full, row(UNPRUNED, 1, 0.0, 100), *own])
    assert standing.tally("0").difference == pytest.approx((0, 0, 0))
    assert standing.tally("0").flops_cut == pytest.approx(1 - 120 / 400)


def test_the_table_of_points_is_of_the_chosen_skill(recorded):
    """Only for all skills together were differences and the rival's failures counted."""
    zipped = next(n for n, point in enumerate(recorded.points) if point.name == "visionzip@64")
    for skill in (ALL, "count"):
        rows = curve_parts.points_html(recorded, skill).split("<tr>")[1:]
        numbers = [int(re.search(r'data-point="(\d+)"', row)[1]) for row in rows if "data-" in row]
        assert sorted(numbers) == list(range(len(recorded.points)))
        line = next(row for row in rows if f'data-point="{zipped}"' in row)
        point = recorded.points[zipped]
        cells = re.findall("<td>(.*?)</td>", line)
        assert cells[1] == f"{point.flops_cut:.1%}"
        assert cells[2].startswith(f"{point.shares[skill].right:.1%}")
        mean, right, many = 100 * point.difference[0], *point.rival
        assert cells[3].startswith(f"{mean:+.1f} ") if skill == ALL else cells[3] == "–"
        assert cells[4] == (f"{right:.0%} of {many}" if skill == ALL else "–")


def test_the_table_of_a_measurement_has_the_recorded_numbers_beside_it(recorded):
    standing = Standing((UNPRUNED, "1"), 2, [row(UNPRUNED, 0, 1.0, 100), row("1", 0, 0.5, 30)])
    table = curve_parts.standing_html(recorded, standing, [1]).split("<tr>")[1:]
    for line, share in zip(
        table[-2:], (recorded.unpruned[ALL], recorded.points[1].shares[ALL]), strict=True
    ):
        assert f"<td>{share.right:.1%} of {share.questions}</td>" in line


def test_a_series_that_is_not_there_is_not_followed(recorded):
    with pytest.raises(Refused, match="The followed series"):
        curve_parts.shown(recorded, "few", "magic")


def test_hollow_marks_are_explained_where_they_are_shown(recorded):
    assert "Hollow marks" in curve_parts.told_html(recorded, ["visionzip"])
    assert "Hollow marks" not in curve_parts.told_html(recorded, ["fastv"])


def test_stars_are_drawn_for_all_skills_together_alone(recorded):
    standing = Standing((UNPRUNED, "1"), 1, [row(UNPRUNED, 0, 1.0, 100), row("1", 0, 0.5, 30)])
    view = SimpleNamespace(curve=recorded, kept=keeping.Kept())
    for skill, stars in ((ALL, 1), ("count", 0)):
        chart, _ = curve._draw(view, skill, "few", MAIN, (standing, [1]))
        assert [line.name for line in chart.data].count("measured here, now") == stars
    assert curve._kept(view, "gone") == (None, ())


def test_a_new_measurement_takes_the_place_of_the_one_before(recorded, bundled):
    view = SimpleNamespace(curve=recorded, kept=keeping.Kept(), drawing=[None, None])
    measuring, key = curve._measuring(Server(bundled), view), ""
    for _ in range(2):
        before = key
        running = measuring(["1"], 1, ALL, "few", MAIN, key)
        key = next(running)[1]
        running.close()
        assert view.kept.find(key)[1] == [1]
    with pytest.raises(Refused):
        view.kept.find(before)


def test_who_leaves_stops_the_questions(recorded, monkeypatch):
    """At once, though something else still holds the generator."""
    standing = Standing((UNPRUNED, "1"), 2, [])
    held = (("key", row(UNPRUNED, number, 1.0, 100)) for number in range(2))
    states = recompute.growing(standing, held)
    assert next(states) is next(states) is standing and len(standing.rows) == 1
    states.close()
    assert held.gi_frame is None

    held = (standing for _ in range(2))
    monkeypatch.setattr(curve, "measure", lambda *_: held)
    view = SimpleNamespace(curve=recorded, kept=keeping.Kept(), drawing=[None, None])
    running = curve._measuring(Server(None), view)(["1"], 1, ALL, "few", MAIN, "")
    next(running)
    running.close()
    assert held.gi_frame is None


# -- files


def content(file: dict) -> str:
    return base64.b64decode(file["data"]).decode()


@pytest.fixture
def here(recorded):
    standing = Standing((UNPRUNED, "1"), 2)
    for number in range(2):
        standing.rows += [row(UNPRUNED, number, 1.0, 100), row("1", number, 0.5, 30)]
    return curve_parts.measured(recorded, standing, [1])


def test_the_csv_has_one_line_per_measurement(recorded, here):
    lines = list(csv.DictReader(io.StringIO(content(curve_parts.csv_file(recorded, here)))))
    kinds = [line["measured"] for line in lines]
    assert kinds == ["recorded"] * (len(recorded.points) + 2) + ["here"] * 2
    own = next(line for line in lines if line["point"] == "pool@64")
    point = next(point for point in recorded.points if point.name == "pool@64")
    assert float(own["right"]) == point.shares[ALL].right
    assert float(own["right: count"]) == point.shares["count"].right
    assert json.loads(own["settings"]) == point.settings
    assert float(lines[-1]["flops_cut"]) == pytest.approx(0.7)
    assert float(lines[-1]["difference"]) == pytest.approx(-0.5)
    assert lines[-2]["difference"] == ""  # of the unpruned model from itself
    share = point.shares[ALL]
    assert (float(own["low"]), float(own["high"])) == (share.low, share.high)


def test_the_json_holds_the_recorded_file_and_what_was_measured_here(recorded, here, path):
    found = json.loads(content(curve_parts.json_file(recorded, here)))
    assert found["recorded"] == json.loads(path.read_text())
    assert [one["point"] for one in found["measured_here"]] == ["unpruned", "fastv@288"]


def test_the_html_stands_alone_and_the_picture_is_svg(recorded, here):
    drawn = {"shown": recorded.series, "skill": ALL, "followed": MAIN}
    page = content(curve_parts.html_file(recorded, here, **drawn))
    assert page.count("<svg") == 1 and "Measured on the page" in page
    assert "an invented machine" in page and "//" not in page.replace("http://www.w3.org", "")
    assert page.count("<tr>") == len(recorded.points) + 3  # head, unpruned, one measured twice
    file = curve_parts.png_file(recorded, here, **drawn)
    assert file["type"] == "image/svg+xml" and file["name"].endswith(".png")
    ElementTree.fromstring(content(file))


def test_an_interval_without_a_width_is_no_certainty():
    assert "the same in every question" in curve_parts.points_of((0.0, 0.0, 0.0))
    assert curve_parts.points_of((-0.05, -0.1, 0.0)) == "-5.0 <span>(-10.0 to +0.0)</span>"


def test_the_saved_picture_of_one_skill_has_no_stars_of_all(recorded):
    share = Share(13, 0.5, 0.4, 0.6)
    here = [Measured(None, text.FULL, share, 0.0, None)]
    drawn = {"shown": [MAIN], "followed": MAIN}
    for maker in (curve_parts.png_file, curve_parts.html_file):
        for skill, stars in ((ALL, True), ("count", False)):
            file = base64.b64decode(maker(recorded, here, skill=skill, **drawn)["data"]).decode()
            assert ("measured here</text>" in file) is stars
