"""What "Look inside" shows: maps of patches that share one layer slider, then figures.

The value is plain data; inside_page.js draws it on the page.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from visipruner.analyses.base import Analysis, Figure, PatchMap
from visipruner.render import palette
from visipruner.render.figure_svg import figure_svg
from visipruner.render.grid_svg import ON_PAGE
from visipruner.render.patch_map import draw_patch_map, layer_boxes, layer_picture, told_of
from visipruner.render.report import document
from visipruner.sheets import Sheet

_HERE = Path(__file__).parent
EMPTY: dict = {"layers": 0, "maps": [], "figures": []}
TITLE = "Look inside"
SIDE = 360  # pixels of a map's longer side
_DIGITS = 4  # of a number that a patch shows
_STOPS = 9  # of the colour bar


def one(analysis: Analysis, result, sheets: Sequence[Sheet]) -> dict:
    """One finished analysis as the page draws it."""
    drawn = analysis.figures(result)
    head = {"analysis": analysis.title, "question": analysis.question}
    maps = [head | _map(part, sheets) for part in drawn if isinstance(part, PatchMap)]
    figures = [
        head | {"title": part.title, "layer": part.layer, "svg": figure_svg(part, ON_PAGE)}
        for part in drawn
        if isinstance(part, Figure)
    ]
    return {"maps": maps, "figures": figures}


def board_value(drawn: Sequence[dict], asked: str, layers: int) -> dict:
    """What the board shows.

    Args:
        drawn: from `one`, in the order of the page.
        asked: the question and the model, in words.
        layers: of the language model.
    """
    return {
        "layers": layers,
        "asked": asked,
        "maps": [part for analysis in drawn for part in analysis["maps"]],
        "figures": [part for analysis in drawn for part in analysis["figures"]],
    }


def _map(part: PatchMap, sheets: Sequence[Sheet]) -> dict:
    low, high = part.scale
    return {
        "title": part.title,
        "unit": part.unit,
        "words": told_of(part, sheets),
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "colours": [
            "#{:02x}{:02x}{:02x}".format(*palette.heat(stop / (_STOPS - 1)))
            for stop in range(_STOPS)
        ],
        "pictures": [
            _url(layer_picture(part, sheets, layer, SIDE)) for layer in range(len(part.values))
        ],
        "values": [
            [None if value is None else float(f"{value:.{_DIGITS}g}") for value in row]
            for row in part.values
        ],
        "told": [list(row) for row in part.told],
        "boxes": _boxes(sheets),
    }


def _boxes(sheets: Sequence[Sheet]) -> list:
    """Left, top, right, bottom of each placed token as shares of the drawn picture."""
    placed = layer_boxes(sheets, SIDE).items()
    return [[token, *(round(share, 5) for share in box)] for token, box in placed]


def _url(picture: Image.Image, kind: str = "WEBP") -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, quality=80, method=1)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(stream.getvalue()).decode()


# -- files


def as_json(found: Sequence[tuple[Analysis, object]], facts: dict) -> str:
    """All results: numbers and words, under the names of their analyses."""
    results = {
        analysis.name: {"settings": vars(analysis), "result": result.to_json()}
        for analysis, result in found
    }
    return json.dumps({**facts, "analyses": results}, indent=1)


def as_html(found: Sequence[tuple[Analysis, object]], sheets: Sequence[Sheet], asked: str) -> str:
    """A page of its own with every map, all layers at once, and every figure; no script."""
    parts = [f"<h1>{escape(TITLE)}</h1><p>{escape(asked)}</p>"]
    for analysis, result in found:
        parts.append(f"<h2>{escape(analysis.title)}</h2><p>{escape(analysis.question)}</p>")
        for part in analysis.figures(result):
            if isinstance(part, Figure):
                parts.append(f"<p>{figure_svg(part)}</p>")
                continue
            worded = [[layer] for layer, words in enumerate(part.told) if any(words)]
            for layers in (None, *worded):  # words have room on a layer of its own
                url = _url(draw_patch_map(part, sheets, layers))
                parts.append(f'<p><img src="{url}" alt="{escape(part.words, quote=True)}"></p>')
    return document(TITLE, parts)


# -- the component


def InsideBoard(**kwargs):
    """A `gr.HTML` whose value comes from `board_value`."""
    import gradio as gr  # the values and the files need no gradio

    parts = {
        "html_template": (_HERE / "inside.html").read_text("utf-8"),
        "css_template": (_HERE / "inside.css").read_text("utf-8"),
        "js_on_load": (_HERE / "inside_page.js").read_text("utf-8"),
    }
    arguments = {"value": EMPTY, "apply_default_css": False, "elem_classes": ["inside-board"]}
    return gr.HTML(**{**arguments, **parts, **kwargs})
