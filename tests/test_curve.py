"""The page's curve: its file, its drawing, points as forms, points measured again, its files."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import threading
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
from visipruner.methods import FastV, PruningMethod
from visipruner.models.catalogue import load_vlm
from visipruner.render.curve import ALL, MAIN, describe_curve, describe_point, read_curve
from visipruner.render.curve_chart import SHAPES, curve_chart, style_of
from visipruner.render.curve_svg import curve_svg
from visipruner.ui import controls, curve, curve_parts, curve_words, fields
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
    assert next(p for p in recorded.points if p.name == "visionzip@64").rival[1] > 0
    assert recorded.series[0] == MAIN
    assert recorded.of("pool, places kept")[0][1].name == "places kept, pool@64"


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
    placed = styles.pop("pool, places kept")
    assert (placed.colour, placed.symbol) == (styles["pool"].colour, styles["pool"].symbol)
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


def test_a_hover_text_says_accuracy_interval_cost_and_what_means_little(recorded):
    said = describe_point(recorded.points[0])
    share = recorded.points[0].shares[ALL]
    assert f"{share.right:.1%} right ({share.low:.1%} to {share.high:.1%})" in said
    assert "80.0% of 3,900" in said and "untrained" not in said
    assert "untrained" in describe_point(next(p for p in recorded.points if p.untrained))


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


def test_one_to_four_points_are_measured(recorded):
    assert curve.picked(recorded, ["3", "1", "3"]) == [3, 1]
    for wrong in (None, [], [str(number) for number in range(5)]):
        with pytest.raises(Refused, match="one to 4 points"):
            curve.picked(recorded, wrong)


def test_a_server_without_the_bundled_model_says_so():
    curve.check_offered(Server(None))
    with pytest.raises(Refused, match="does not offer it: see VISIPRUNER_MODELS"):
        curve.check_offered(SimpleNamespace(paths={"llava-1.5-7b": "llava-1.5-7b"}))


# -- measured again


@pytest.mark.parametrize("count", [0, 131, 2.5, "13", None, True, float("nan")])
def test_the_number_of_questions_is_bounded(count):
    with pytest.raises(Refused, match="number of questions must be a whole number from 1 to 130"):
        recompute.asking(count)


def test_questions_come_one_of_each_skill_in_turn():
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
