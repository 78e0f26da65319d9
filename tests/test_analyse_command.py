"""python -m visipruner analyse: its files, and one plain sentence on bad input; figures as SVG."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from visipruner.__main__ import main
from visipruner.analyses.base import Analysis, Figure, Grid, PatchMap, Series, Step
from visipruner.analyses.lens import LogitLens
from visipruner.analyses.together import together
from visipruner.errors import Refused
from visipruner.render import palette
from visipruner.render.figure_svg import figure_svg, ticks
from visipruner.render.patch_map import draw_patch_map
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
        name = "alone"

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
