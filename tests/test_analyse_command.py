"""python -m visipruner analyse: its files, and one plain sentence on bad input; figures as SVG."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image, ImageDraw

from visipruner.__main__ import main
from visipruner.analyses.base import Analysis, Figure, Grid, PatchMap, Series, Step
from visipruner.analyses.lens import LogitLens
from visipruner.analyses.together import together
from visipruner.errors import Refused
from visipruner.render import palette
from visipruner.render.figure_svg import figure_svg, ticks
from visipruner.render.patch_map import draw_patch_map, layer_picture
from visipruner.sheets import Sheet

QUESTION = "what colour is the star?"


def run(capsys, *arguments):
    status = main(["analyse", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# -- files


def test_every_analysis_writes_its_files(picture_file, mini_path, tmp_path, capsys):
    folder = tmp_path / "made"
    status, text, _ = run(
        capsys,
        *("influence", "attention", "words", "lens", "tokens", "sinks", "heads"),
        *(picture_file, QUESTION, "--model-path", mini_path, "--out", folder),
        *("--set", "head=1", "token=-2", "words.layers=2,7", "tokens.layer=3", "lens.words=2"),
    )
    assert status == 0
    assert "Attention map: Attention of token" in text and "attention.json" in text
    names = {path.name for path in folder.iterdir()}
    assert names >= {"influence-00.png", "influence-01.svg", "tokens.svg", "sinks-07.svg"}
    assert {name for name in names if name.startswith("words")} == {
        *("words.json", "words.png", "words-layer-02.png", "words-layer-07.png")
    }
    for path in folder.iterdir():
        if path.suffix == ".svg":
            ElementTree.parse(path)
        elif path.suffix == ".png":
            with Image.open(path) as made:
                made.load()
    read = {
        name: json.loads((folder / f"{name}.json").read_text()) for name in ("attention", "lens")
    }
    assert read["attention"]["options"] == {"token": -2, "head": 1}
    assert read["attention"]["result"]["head"] == 1
    assert {len(row) for row in read["lens"]["result"]["words"]} == {2}
    assert (
        json.loads((folder / "tokens.json").read_text())["options"]["head"] == 1
    )  # it has one too


def test_the_answer_can_ask(picture_file, mini_path, tmp_path, capsys):
    asked = (picture_file, QUESTION, "--model-path", mini_path, "--out", tmp_path)
    tokens = []
    for more in ([], ["--answer"]):
        assert run(capsys, "attention", *asked, *more)[0] == 0
        data = json.loads((tmp_path / "attention.json").read_text())
        tokens.append(data["result"]["token"])
        assert data["answer_too"] == bool(more)
    assert tokens[1] > tokens[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["visions"], "every analysis must be one of"),
        (["lens", "--set", "words"], "--set wants OPTION=VALUE, not 'words'"),
        (["lens", "--set", "head=1"], "None of the analyses lens has an option 'head'"),
        (["lens", "--set", "words=many"], "must be a whole number, not “many”"),
        (["lens", "--set", "words=99"], "words must be a whole number from 1 to 50"),
        (["attention", "--set", "lens.words=2"], "has an option 'lens.words'"),
        (["lens", "--out", "/dev/null/x"], "cannot be made"),
        (["lens", "--picture-mode", "round"], "picture mode"),
    ],
)
def test_bad_input_is_found_before_a_model_is_loaded(change, words, picture_file, capsys, tmp_path):
    name, *more = change
    where = [] if "--out" in more else ["--out", tmp_path]
    model = ["--model-path", tmp_path / "none"]
    status, out, error = run(capsys, name, picture_file, QUESTION, *model, *where, *more)
    assert (status, out) == (2, "")
    assert words in error and error.count("\n") == 1


def test_what_the_model_lacks_is_said_before_it_runs(picture_file, mini_path, capsys, tmp_path):
    asked = (picture_file, QUESTION, "--model-path", mini_path, "--out", tmp_path)
    status, _, error = run(capsys, "lens", "attention", *asked, "--set", "head=7")
    assert status == 2 and "head must be from 0 to 3" in error
    assert not list(tmp_path.iterdir())


def test_an_analysis_with_runs_of_its_own_follows_and_is_checked_first(mini, picture):
    class Alone(Analysis):
        name, title = "alone", "Alone"

        def check(self, vlm, prompt):
            if prompt is None:
                raise Refused("planned")

        def run(self, vlm, prompt, features):
            yield Step(1, 1)
            yield "result"

    prompt = mini.prepare(picture, QUESTION)
    features, analyses = mini.encode(prompt), [LogitLens(), Alone()]
    events = together(mini, prompt, features, analyses)
    (lens, _), (alone, result) = (event for event in events if not isinstance(event, Step))
    assert (lens.name, alone.name, result) == ("lens", "alone", "result")
    with pytest.raises(Refused, match="planned"):  # before the lens, which would need a prompt
        next(together(mini, None, features, analyses))


def test_who_leaves_stops_an_analysis_with_runs_of_its_own(mini, picture):
    held = (Step(number, 3) for number in range(3))

    class Alone(Analysis):
        def run(self, vlm, prompt, features):
            return held

    events = together(mini, mini.prepare(picture, QUESTION), None, [Alone()])
    next(events)
    events.close()
    assert held.gi_frame is None


# -- drawings


def text_of(svg: str) -> list[str]:
    return ["".join(part.itertext()) for part in ElementTree.fromstring(svg).iter() if part.text]


def test_a_figure_shows_its_series_marks_and_words():
    series = (
        Series("a < b", (0, 1, 2, 3), (0.5, None, 0.25, 1.0), ("w0", "w1", "w2", "w3")),
        Series("bars", (0, 1, 2), (1, 2, 3), kind="bars"),
        Series("dots", (0.5,), (2.0,), kind="dots"),
    )
    svg = figure_svg(Figure("Title", "One & two.", "layer", "share", series, marks={"exit": 2}))
    found = text_of(svg)
    for words in ("Title", "One & two.", "layer", "share", "a < b", "exit", "w0", "w3"):
        assert words in found
    assert "w1" not in found  # a gap
    line = next(part for part in svg.split("<path ") if 'fill="none"' in part)
    assert line.count("M") == 2 and line.count("L") == 1


def test_a_grid_colours_its_cells_by_the_scale_and_leaves_gaps():
    grid = Grid(("r0", "r1"), ("c0", "c1"), ((0.0, None), (1.0, 1.0)), (0.0, 1.0))
    svg = figure_svg(Figure("Title", "Words.", grid=grid))
    cells = svg.split("<g ")[1].split("</g>")[0]
    low, high = (f"#{bytes(palette.heat(share)).hex()}" for share in (0, 1))
    assert (cells.count(low), cells.count(high), cells.count("<rect")) == (1, 2, 3)
    assert {"r0", "r1", "c0", "c1", "0.5"} <= set(text_of(svg))


def test_the_first_line_of_a_cells_words_stands_in_it():
    grid = Grid(("r",), ("c",), ((0.2,),), (0.0, 1.0), (("red 20%\nblue 10%",),))
    found = text_of(figure_svg(Figure("Title", "Words.", grid=grid)))
    assert "red 20%" in found and "red 20%\nblue 10%" in found  # and all of them on hover


def test_a_large_grid_is_a_small_file():
    names = [f"tokens {number}" for number in range(64)]
    values = [[float(column <= row) for column in range(64)] for row in range(64)]
    told = [["word"] * 64] * 64
    svg = figure_svg(Figure("Title", "Words.", grid=Grid(names, names, values, (0, 1), told)))
    assert len(svg) < 40_000  # equal neighbours are one rectangle
    assert "word" not in text_of(svg)


@pytest.mark.parametrize("values", [(), (3,), (0, 0.001), (-5.7, -0.3), (0, 31), (1e6, 2e6)])
def test_ticks_hold_all_values_between_round_numbers(values):
    found = ticks(values)
    assert 2 <= len(found) <= 9
    assert not values or found[0] <= min(values) <= max(values) <= found[-1]


def test_the_heat_is_viridis_from_end_to_end():
    assert (
        f"#{bytes(palette.heat(0)).hex()}" == f"#{bytes(palette.heat(-3)).hex()}" == palette.HEAT[0]
    )
    assert (
        f"#{bytes(palette.heat(1)).hex()}" == f"#{bytes(palette.heat(7)).hex()}" == palette.HEAT[-1]
    )


def test_a_map_lies_on_its_patches_and_a_missing_one_is_hatched():
    sheet = Sheet.of_grid(Image.new("RGB", (40, 40), "white"), 2, 2)
    values = ((0.0, 1.0, None, 1.0), (None,) * 4)
    made = draw_patch_map(PatchMap("Title", "unit", values, (0.0, 1.0), "Words."), [sheet])
    assert made.width > 3 * 220
    colours = {made.getpixel((x, 140)) for x in range(made.width)}
    high = palette.heat(1)
    assert any(all(abs(a - b) < 45 for a, b in zip(c, high, strict=True)) for c in colours)
    told = PatchMap("Title", "unit", values, (0.0, 1.0), "Words.", (("red",) * 4, ("",) * 4))
    one = draw_patch_map(told, [sheet], [0])
    assert one.width > 1100  # large enough for words


# -- drawings, in their places


def parts_of(svg: str, tag: str) -> list[ElementTree.Element]:
    return [part for part in ElementTree.fromstring(svg).iter() if part.tag.endswith("}" + tag)]


def numbers_of(part: ElementTree.Element, *names: str) -> list[float]:
    return [float(part.attrib[name]) for name in names]


def hover_of(part: ElementTree.Element) -> str:
    return "".join(part.itertext())


def test_bars_stand_on_zero_side_by_side_and_a_mark_between_them():
    series = (
        Series("a", (0, 1), (1.0, -2.0), kind="bars"),
        Series("b", (0, 1), (2.0, 1.0), ("<u>", "w"), kind="bars"),
    )
    svg = figure_svg(Figure("T", "W.", "layer", "share", series, marks={"exit": 1}))
    height = {
        float(hover_of(part)): float(part.attrib["y"]) - 5
        for part in parts_of(svg, "text")
        if part.attrib["text-anchor"] == "end" and hover_of(part) not in ("exit", "W.")
    }
    bars = parts_of(svg, "rect")[1:]  # the first one is the paper
    assert [hover_of(bar) for bar in bars] == ["", "", "<u>", "w"]
    for bar, value in zip(bars, (1, -2, 2, 1), strict=True):
        y, high = numbers_of(bar, "y", "height")
        assert y == pytest.approx(height[max(value, 0)], abs=0.2)
        assert y + high == pytest.approx(height[min(value, 0)], abs=0.2)
    (left, wide), (next_left, _) = (numbers_of(bars[n], "x", "width") for n in (1, 3))
    assert next_left == pytest.approx(left + wide, abs=0.2)
    assert f'd="M{next_left:.1f} ' in svg  # the mark stands at 1, in the middle of its bars
    below = [hover_of(part) for part in parts_of(svg, "text") if part.attrib["y"] == "400.0"]
    assert below == ["0", "1"]  # layers are whole numbers


def test_an_axis_of_bars_begins_at_zero():
    svg = figure_svg(Figure("T", "W.", series=[Series("a", (0, 1), (5.0, 6.0), kind="bars")]))
    assert all(sum(numbers_of(bar, "y", "height")) == 380 for bar in parts_of(svg, "rect")[1:])


def test_marks_on_one_place_share_a_line_and_names_stand_below_each_other():
    marks = {"late": 8, "filter": 5, "begins": 5, "ends": 6}
    svg = figure_svg(Figure("T", "W.", series=[Series("a", (0, 8), (0.0, 1.0))], marks=marks))
    lines = [part for part in parts_of(svg, "path") if "stroke-dasharray" in part.attrib]
    names = [part for part in parts_of(svg, "text") if "paint-order" in part.attrib]
    assert len(lines) == 3 and len({line.attrib["d"] for line in lines}) == 3
    assert [hover_of(name) for name in names] == ["filter, begins", "ends", "late"]
    heights = [float(name.attrib["y"]) for name in names]
    assert all(below - above >= 18 for above, below in itertools.pairwise(heights))
    for name, line in zip(names, lines, strict=True):
        place = float(line.attrib["d"][1:].split()[0])
        assert abs(float(name.attrib["x"]) - place) < 8
        assert (name.attrib["text-anchor"] == "end") == (place > 700)


def test_every_point_has_its_own_hover_text():
    series = [Series("a", (0, 1, 2), (1.0, 2.0, 0.0), ("w0", "w1", "w2"), "dots")]
    marks = parts_of(figure_svg(Figure("T", "W.", series=series)), "path")
    assert [hover_of(mark) for mark in marks if hover_of(mark)] == ["w0", "w1", "w2"]


def test_a_figures_words_are_whole_and_are_its_alt_text():
    words = f'He said "<b>" & {" ".join(f"word{number}" for number in range(60))}.'
    svg = figure_svg(Figure("T", words, series=[Series("a", (0, 1), (0.0, 1.0))]))
    assert ElementTree.fromstring(svg).attrib["aria-label"] == words
    assert words in " ".join(hover_of(part) for part in parts_of(svg, "text"))


def fill_of(share: float) -> str:
    return f"#{bytes(palette.heat(share)).hex()}"


def test_a_grids_cells_words_bar_and_names_lie_in_their_places():
    words = (("<p>", "q", "s"), ("t", "u", "v"))
    values = ((0.0, 0.0, 2.0), (1.0, None, 0.5))
    grid = Grid(("r0", "r1"), ("a", "b", "c"), values, (0.0, 2.0), words)
    svg = figure_svg(Figure("T", "W.", grid=grid))
    cells = {hover_of(part): part for part in parts_of(svg, "rect") if hover_of(part)}
    fills = {word: cell.attrib["fill"] for word, cell in cells.items()}
    shares = {"<p>": 0, "q": 0, "s": 1, "t": 0.5, "v": 0.25}
    assert fills == {word: fill_of(share) for word, share in shares.items()}
    assert numbers_of(cells["<p>"], "x") == numbers_of(cells["t"], "x")
    assert numbers_of(cells["s"], "x") > numbers_of(cells["q"], "x") > numbers_of(cells["<p>"], "x")
    texts = {hover_of(part): part for part in parts_of(svg, "text")}
    for name, cell in (("r0", "s"), ("r1", "v")):
        top, high = numbers_of(cells[cell], "y", "height")
        assert top < float(texts[name].attrib["y"]) < top + high
    for word, share in shares.items():
        assert texts[word].attrib["fill"] == palette.on_heat(share)
    bar = [part for part in parts_of(svg, "rect") if part.attrib["width"] == "16"]
    assert (bar[0].attrib["fill"], bar[-1].attrib["fill"]) == (fill_of(1), fill_of(0))
    beside = [float(texts[number].attrib["y"]) for number in ("2", "1.5", "1", "0.5", "0")]
    assert beside == sorted(beside)


def test_equal_neighbours_of_a_large_grid_keep_their_places():
    values = [[0.0] * 10 + [1.0] * 30] * 40
    names = [f"n{number}" for number in range(40)]
    svg = figure_svg(Figure("T", "W.", grid=Grid(names, names, values, (0.0, 1.0))))
    first, second = parts_of(svg.split("</g>")[0] + "</g></svg>", "rect")[1:3]
    (left, wide), (more, wider) = (numbers_of(part, "x", "width") for part in (first, second))
    assert more == pytest.approx(left + wide, abs=0.1) and wider == pytest.approx(3 * wide, abs=0.1)
    assert len([name for name in names if name in text_of(svg)]) == 20  # every second one


def test_words_that_do_not_fit_stand_in_the_hover_text_alone():
    told = [["a word that is much too long for so narrow a cell"] * 20]
    grid = Grid(("r",), tuple("abcdefghijklmnopqrst"), [[0.5] * 20], (0.0, 1.0), told)
    svg = figure_svg(Figure("T", "W.", grid=grid))
    assert told[0][0] in text_of(svg)
    assert told[0][0] not in [hover_of(part) for part in parts_of(svg, "text")]


SHEET = Sheet.of_grid(Image.new("RGB", (40, 40), "white"), 2, 2)


GROUND = 20 + round(0.45 * 255)  # white, as the maps' pictures are dimmed


def test_a_patch_has_its_colour_the_stronger_the_higher_and_a_missing_one_is_hatched():
    shown = PatchMap("T", "unit", ((0.0, 2.0, None, 1.0),), (0.0, 2.0), "W.")
    drawn = layer_picture(shown, [SHEET], 0, 200)
    side = drawn.width // 2
    middles = [(side // 2 + side * (n % 2), side // 2 + side * (n // 2)) for n in range(4)]
    for number, share, part in ((0, 0.0, 0.35), (1, 1.0, 0.88), (3, 0.5, 0.615)):
        mixed = [GROUND * (1 - part) + part * one for one in palette.heat(share)]
        assert drawn.getpixel(middles[number]) == pytest.approx(mixed, abs=3)
    gone = drawn.crop((10, side + 10, side - 10, 2 * side - 10))
    assert len(gone.getcolors()) > 1 and max(gone.getpixel((5, 5))) < 200


def test_a_map_says_its_layer_its_scale_and_the_words_that_fit(monkeypatch):
    seen, text = [], ImageDraw.ImageDraw.text

    def note(self, at, words, *more, **rest):
        seen.append((at[0], words))
        return text(self, at, words, *more, **rest)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    told = (("no",) * 4, ("red", "m" * 300, "gone", ""))
    values = ((None,) * 4, (0.0, 1.0, None, 0.5))
    shown = PatchMap("T", "unit", values, (0.0, 2.0), "W.", told)
    draw_patch_map(shown, [SHEET], [1])
    words = [word for _, word in seen]
    assert "layer 1" in " ".join(words) and "layer 2" not in " ".join(words)
    assert "red" in words and not {"no", "gone", ""} & set(words)
    [cut] = [word for word in words if word.startswith("mm")]
    assert cut.count("…") == 1 and cut.endswith("…") and len(cut) < 100
    scale = [word for _, word in sorted(seen) if word in ("0", "0.5", "1", "1.5", "2")]
    assert scale == ["0", "0.5", "1", "1.5", "2"]


def test_the_colour_bar_of_a_map_rises_from_left_to_right():
    shown = PatchMap("T", "unit", ((0.0,) * 4,), (0.0, 2.0), "W.")
    made = draw_patch_map(shown, [SHEET])
    for y in range(made.height):
        row = [made.getpixel((x, y)) for x in range(made.width)]
        if palette.heat(1) in row and palette.heat(0) in row:
            assert row.index(palette.heat(0)) < row.index(palette.heat(1))
            return
    pytest.fail("there is no bar")
