"""The picture as the model saw it, in a saved run: written without loss, and read again."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image

from visipruner.errors import Refused
from visipruner.inputs import open_picture
from visipruner.layout import TokenLayout
from visipruner.prompt import Prompt
from visipruner.recorded.checked import Node, same_length
from visipruner.sheets import Box, Sheet, grid_boxes

NO_PICTURE = "The picture was not saved with this run, so the patches are drawn without it."
NO_PLACES = (
    "The picture was not saved with this run, nor where its patches lie, so none of them is drawn."
)
_PNG = "data:image/png;base64,"
_MOST_SHEETS = 200
_MOST_PIXELS = 10_000_000  # of all sheets; a large picture in tiles has half of it
_MOST_LETTERS = 60_000_000  # of a picture in base64
_BLANK, _PATCH = "#d3d7dd", 24  # a patch of a picture that was not saved: colour, pixels


def seen_json(prompt: Prompt) -> dict:
    """What the model saw, for a file: the prompt's words, and its pictures with their boxes."""
    sheets = [_sheet_json(sheet) for sheet in prompt.sheets]
    return {"prompt": prompt.text, "padding": list(prompt.padding), "sheets": sheets}


def _sheet_json(sheet: Sheet) -> dict:
    stream = io.BytesIO()
    sheet.picture.convert("RGB").save(stream, "PNG")
    picture = _PNG + base64.b64encode(stream.getvalue()).decode()
    boxes = [list(sheet.boxes[token]) for token in sheet.placed]
    placed = list(sheet.placed)
    return {"name": sheet.name, "picture": picture, "tokens": placed, "boxes": boxes}


def read_sheets(node: Node, num_visual: int) -> tuple[Sheet, ...]:
    """The sheets of a file.

    Args:
        node: the list of sheets.

    Raises:
        Refused: one sentence about the first wrong value.
    """
    sheets, placed, pixels = [], set(), 0
    for one in node.each(_MOST_SHEETS, least=1):
        sheet = _sheet(one, num_visual)
        pixels += sheet.picture.width * sheet.picture.height
        if pixels > _MOST_PIXELS:
            raise node.refuse(f"pictures of at most {_MOST_PIXELS:,} pixels in all")
        if placed.intersection(sheet.placed):
            raise node.refuse("sheets on which no token has two places")
        placed.update(sheet.placed)
        sheets.append(sheet)
    return tuple(sheets)


def _sheet(node: Node, num_visual: int) -> Sheet:
    tokens = node.get("tokens").wholes(0, num_visual - 1, num_visual)
    places = node.get("boxes").each(num_visual)
    same_length(places, tokens, node.get("boxes"))
    if len(set(tokens)) != len(tokens):
        raise node.get("tokens").refuse("a list without a token twice")
    boxes: list[Box | None] = [None] * num_visual
    for token, place in zip(tokens, places, strict=True):
        edges = place.numbers(0, 1e6, 4)
        same_length(edges, range(4), place)
        boxes[token] = Box(*edges)
    picture = _picture(node.get("picture"))
    try:
        return Sheet(node.get("name").words(100), picture, tuple(boxes))
    except Refused:
        raise
    except ValueError:  # a box beyond the picture
        raise node.get("boxes").refuse("boxes on the picture") from None


def _picture(node: Node) -> Image.Image:
    address = node.words(_MOST_LETTERS)
    if not address.startswith(_PNG):
        raise node.refuse("a PNG picture as a data address")
    try:
        content = base64.b64decode(address.removeprefix(_PNG), validate=True)
    except (binascii.Error, ValueError):
        raise node.refuse("a PNG picture in base64") from None
    return open_picture(content)


def blank_sheets(layout: TokenLayout) -> tuple[tuple[Sheet, ...], str]:
    """Grey pictures in place of those that were not saved, and the sentence that says so."""
    visual = layout.num_visual
    if not layout.grids:
        blank = Image.new("RGB", (_PATCH, _PATCH), _BLANK)
        return (Sheet("", blank, (None,) * visual),), NO_PLACES
    sheets, first = [], 0
    for number, (rows, columns) in enumerate(layout.grids, 1):
        name = f"picture {number}" if len(layout.grids) > 1 else ""
        sheets.append(_blank(name, rows, columns, first, visual))
        first += rows * columns
    return tuple(sheets), NO_PICTURE


def _blank(name: str, rows: int, columns: int, first: int, visual: int) -> Sheet:
    """One grid of patches, the first of which is the visual token `first`."""
    side = max(1, min(_PATCH, 2_000 // max(rows, columns)))
    size = columns * side, rows * side
    boxes = grid_boxes(size, rows, columns)
    after = visual - first - len(boxes)
    blank = Image.new("RGB", size, _BLANK)
    return Sheet(name, blank, (None,) * first + boxes + (None,) * after)
