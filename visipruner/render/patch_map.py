"""A PatchMap on the picture: one small picture per layer in rows, a colour bar, and the words."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from visipruner.analyses.base import PatchMap
from visipruner.render import palette
from visipruner.render.overlay import beside, font_of, lefts, rows_of, text_block, veil
from visipruner.render.words import describe_unplaced
from visipruner.sheets import Sheet

SIZE, WORD_SIZE = 220, 1100  # pixels of a picture's longer side, without words and with them
PER_ROW = 6
_MARGIN = 24
_LEAST, _MOST = 0.35, 0.88  # share of the map's colour over the picture, at both ends of the scale


def draw_patch_map(
    shown: PatchMap, sheets: Sequence[Sheet], layers: Sequence[int] | None = None
) -> Image.Image:
    """All layers on one sheet of paper.

    Args:
        sheets: the prompt's sheets, side by side in each layer.
        layers: only these. With few, words are written on the patches if the map has any.
    """
    layers = range(len(shown.values)) if layers is None else layers
    told = bool(shown.told) and len(layers) == 1
    size, per_row = (WORD_SIZE, 2) if told else (SIZE, max(1, PER_ROW // len(sheets)))
    plain = beside([_fitted(sheet.picture, 2 * SIZE if told else SIZE) for sheet in sheets])
    cells = [_titled("the picture", plain)]
    cells += [_panel(shown, sheets, layer, size, told) for layer in layers]
    rows = rows_of(cells, per_row)
    width = rows[0].width
    head = text_block(shown.title, width, 26, palette.INK)
    foot = text_block(told_of(shown, sheets), width, 18, palette.INK)
    parts = [head, *rows, _bar(shown, width), foot]
    paper = Image.new("RGB", (width, sum(part.height for part in parts) + _MARGIN), palette.PAPER)
    top = _MARGIN // 2
    for part in parts:
        paper.paste(part, (0, top))
        top += part.height
    return paper


def told_of(shown: PatchMap, sheets: Sequence[Sheet]) -> str:
    """What the map says, and which of its numbers no picture can show."""
    count = len(shown.values[0]) if shown.values else 0
    return " ".join(filter(None, [shown.words, describe_unplaced(sheets, count)]))


def layer_picture(shown: PatchMap, sheets: Sequence[Sheet], layer: int, size: int) -> Image.Image:
    """One layer of a map, without words, every sheet `size` pixels long; clear between sheets."""
    drawn = [_coloured(shown, sheet, layer, size, None) for sheet in sheets]
    return beside(drawn, clear=True) if len(drawn) > 1 else drawn[0]


def layer_boxes(sheets: Sequence[Sheet], size: int) -> dict[int, tuple[float, ...]]:
    """Left, top, right and bottom of each placed token, as shares of `layer_picture`."""
    drawn = [_fitted(sheet.picture, size) for sheet in sheets]
    wide, high = beside(drawn).size
    found = {}
    for sheet, picture, start in zip(sheets, drawn, lefts(drawn), strict=True):
        ratio = picture.width / sheet.picture.width, picture.height / sheet.picture.height
        for token in sheet.placed:
            left, top, right, bottom = sheet.boxes[token]
            across = [(start + x * ratio[0]) / wide for x in (left, right)]
            down = [y * ratio[1] / high for y in (top, bottom)]
            found[token] = (across[0], down[0], across[1], down[1])
    return dict(sorted(found.items()))


def _panel(shown: PatchMap, sheets, layer: int, size: int, told: bool) -> Image.Image:
    words = shown.told[layer] if told else None
    drawn = beside([_coloured(shown, sheet, layer, size, words) for sheet in sheets])
    return _titled(f"layer {layer}", drawn)


def _titled(title: str, drawn: Image.Image) -> Image.Image:
    label = text_block(title, drawn.width, 18, palette.INK, margin=0)
    panel = Image.new("RGB", (drawn.width, label.height + drawn.height), palette.PAPER)
    panel.paste(label, (0, 0))
    panel.paste(drawn, (0, label.height))
    return panel


def _fitted(picture: Image.Image, size: int) -> Image.Image:
    return ImageOps.contain(picture.convert("RGB"), (size, size), Image.Resampling.LANCZOS)


def _coloured(shown: PatchMap, sheet: Sheet, layer: int, size: int, words) -> Image.Image:
    """A sheet's picture: every patch in its colour, hatched where it has no number."""
    picture = _fitted(_dim(sheet.picture), size)
    boxes, values = sheet.scaled(picture.size), shown.values[layer]
    colours, there = Image.new("RGB", picture.size), Image.new("L", picture.size, 0)
    gone = Image.new("L", picture.size, 0)
    for token, (left, top, right, bottom) in boxes.items():
        box = (left, top, max(left, right - 1), max(top, bottom - 1))
        if values[token] is None:
            ImageDraw.Draw(gone).rectangle(box, fill=255)
        else:
            share = _share(shown, values[token])
            ImageDraw.Draw(colours).rectangle(box, fill=palette.heat(share))
            part = 1.0 if words else _LEAST + (_MOST - _LEAST) * min(max(share, 0.0), 1.0)
            ImageDraw.Draw(there).rectangle(box, fill=round(255 * part))
    drawn = picture.copy()
    drawn.paste(colours, (0, 0), there)
    drawn.paste(veil(picture, 8), (0, 0), gone)
    if words:
        _write(drawn, boxes, words, [v if v is None else _share(shown, v) for v in values])
    return drawn


def _dim(picture: Image.Image) -> Image.Image:
    """In grey, because its colours would mix with the map's, and dark, so that those glow.

    Outlines are light: things of one brightness would merge with their ground.
    """
    picture = picture.convert("RGB")
    grey = ImageOps.autocontrast(ImageOps.grayscale(picture))
    dark = grey.point(lambda level: 20 + round(0.45 * level))
    smooth = picture.filter(ImageFilter.GaussianBlur(1.5))
    bands = smooth.filter(ImageFilter.FIND_EDGES).split()
    edges = functools.reduce(ImageChops.lighter, bands).point(lambda level: min(210, 4 * level))
    ImageDraw.Draw(edges).rectangle((0, 0, edges.width - 1, edges.height - 1), outline=0, width=3)
    return ImageChops.lighter(dark, edges)


def _write(drawn: Image.Image, boxes, words: Sequence[str], shares):
    pen = ImageDraw.Draw(drawn)
    for token, (left, top, right, bottom) in boxes.items():
        if not words[token] or shares[token] is None:
            continue
        font, word = font_of(max(8, (bottom - top) // 4)), words[token]
        while len(word) > 1 and font.getlength(word) > right - left - 2:
            word = word[:-2] + "…" if word.endswith("…") else word[:-1] + "…"
        middle = ((left + right) / 2, (top + bottom) / 2)
        pen.text(middle, word, font=font, fill=palette.on_heat(shares[token]), anchor="mm")


def _share(shown: PatchMap, value: float) -> float:
    low, high = shown.scale
    return (value - low) / (high - low) if high > low else 0.0


def _bar(shown: PatchMap, width: int) -> Image.Image:
    """The colours from the lowest value to the highest, with five numbers and the unit."""
    wide, high, size = min(520, width - 2 * _MARGIN), 18, 16
    block = Image.new("RGB", (width, high + 64), palette.PAPER)
    pen, font = ImageDraw.Draw(block), font_of(size)
    pen.text((_MARGIN, 2), shown.unit, font=font, fill=palette.INK)
    for x in range(wide):
        at = _MARGIN + x
        pen.line((at, 26, at, 26 + high), fill=palette.heat(x / (wide - 1)))
    low, most = shown.scale
    for number in range(5):
        at = _MARGIN + wide * number / 4
        anchor = ("la", "ma", "ma", "ma", "ra")[number]
        value = f"{low + (most - low) * number / 4:.3g}"
        pen.text((at, 30 + high), value, font=font, fill=palette.INK, anchor=anchor)
    return block
