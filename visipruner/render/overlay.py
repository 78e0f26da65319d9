"""The annotated picture for download: the stages, four in a row, and how to read them."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

from PIL import Image, ImageDraw, ImageFont, ImageOps

from visipruner.render import palette
from visipruner.render.stages import dropping
from visipruner.render.words import describe_unplaced
from visipruner.sheets import Sheet
from visipruner.trace import PruningTrace

_SIZE = 420  # pixels of a panel's longer side
_MARGIN, GAP = 24, 6
_PER_ROW = 4
_VEIL = 0.66  # share of ink over a dropped patch


def draw_survivors(
    sheets: Sequence[Sheet], trace: PruningTrace, small_print: str = "", asked: str = ""
) -> Image.Image:
    """Draw which patches survive where: one picture per stage, four in a row.

    Args:
        sheets: the prompt's sheets, drawn side by side in each stage.
        trace: the run.
        small_print: model and versions, at the bottom.
        asked: question and answers, at the top.
    """
    cells = [_panel(sheets, name, set(kept)) for name, kept in panels(trace)]
    per_row = max(1, _PER_ROW // len(sheets))
    rows = rows_of(cells, per_row)
    width = rows[0].width
    title = "\n".join(filter(None, [asked, _title(trace)]))
    head = text_block(title, width, _SIZE // 16, palette.INK)
    foot = _legend(trace, sheets, width)
    lines = "\n".join(filter(None, [_settings_line(trace), small_print]))
    small = text_block(lines, width, _SIZE // 30, "#4a4f57")
    parts = [head, *rows, foot, small]
    sheet = Image.new("RGB", (width, sum(part.height for part in parts) + _MARGIN), palette.PAPER)
    top = _MARGIN // 2
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def panels(trace: PruningTrace) -> list[tuple[str, list[int]]]:
    """Title and patches of each stage to draw: the input, then the result of every cut."""
    found = [(f"Input: {_patches(trace.num_visual)}", list(range(trace.num_visual)))]
    last = trace.num_visual
    for cut in dropping(trace):
        if len(cut.kept) == last:
            continue
        last = len(cut.kept)
        where = "Before layer 0" if cut.after_layer < 0 else f"After layer {cut.after_layer}"
        word = {"filter": "filtered", "exit": "vision leaves"}.get(cut.stage, "chosen")
        found.append((f"{where}, {word}: {_patches(last)}", list(cut.kept)))
    if len(found) == 1 and trace.layers:
        end = trace.layers[-1].layer
        found.append((f"Layer {end}, nothing dropped: {_patches(last)}", trace.patches_at(end)))
    return found


def _title(trace: PruningTrace) -> str:
    return f"{trace.method}. {trace.why}" if trace.why else f"{trace.method}: all patches stay."


def _settings_line(trace: PruningTrace) -> str:
    """Every setting of the method, as used in the run."""
    values = ", ".join(f"{name} = {_short(value)}" for name, value in trace.settings.items())
    return f"method {trace.method}" + (f" ({values})" if values else "")


def _patches(number: int) -> str:
    return f"{number} patch{'' if number == 1 else 'es'}"


def _short(value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# -- drawing


def _panel(sheets: Sequence[Sheet], name: str, kept: Collection[int]) -> Image.Image:
    drawn = beside([veiled(sheet, kept) for sheet in sheets])
    label = text_block(name, drawn.width + 2 * _MARGIN, _SIZE // 20, palette.INK)
    label = label.crop((_MARGIN, 0, drawn.width + _MARGIN, label.height))
    panel = Image.new("RGB", (drawn.width, label.height + drawn.height), palette.PAPER)
    panel.paste(label, (0, 0))
    panel.paste(drawn, (0, label.height))
    return panel


def beside(pictures: Sequence[Image.Image], clear: bool = False) -> Image.Image:
    """Several pictures in a row, with a narrow gap between them.

    Args:
        clear: what no picture covers is transparent, and not paper.
    """
    size = sum(p.width + GAP for p in pictures) - GAP, max(p.height for p in pictures)
    row = Image.new("RGBA", size) if clear else Image.new("RGB", size, palette.PAPER)
    for picture, left in zip(pictures, lefts(pictures), strict=True):
        row.paste(picture, (left, 0))
    return row


def lefts(pictures: Sequence[Image.Image]) -> list[int]:
    """Where each picture of `beside` begins, in pixels."""
    return [0, *accumulate(picture.width + GAP for picture in pictures[:-1])]


def veiled(sheet: Sheet, kept: Collection[int]) -> Image.Image:
    """A sheet's picture: boxes in `kept` are framed, all others pale, dark and hatched."""
    drawn = fitted(sheet)
    if all(token in kept for token in sheet.placed):
        return drawn
    boxes = sheet.scaled(drawn.size)
    mask = Image.new("L", drawn.size, 0)
    pen = ImageDraw.Draw(mask)
    for token, (left, top, right, bottom) in boxes.items():
        if token not in kept:
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=255)
    cell = sheet.cell * drawn.width / sheet.picture.width
    drawn.paste(veil(drawn, max(4, int(cell) // 2)), (0, 0), mask)
    frame(drawn, [boxes[token] for token in kept if token in boxes])
    return drawn


def fitted(sheet: Sheet) -> Image.Image:
    """A sheet's picture at the size of a panel."""
    picture = sheet.picture.convert("RGB")
    return ImageOps.contain(picture, (_SIZE, _SIZE), Image.Resampling.LANCZOS)


def veil(picture: Image.Image, step: int) -> Image.Image:
    """The picture pale, dark and hatched: where a patch is gone."""
    # Half the colour stays, so that dropped patches can still be recognised.
    pale = Image.blend(picture, ImageOps.grayscale(picture).convert("RGB"), 0.5)
    dark = Image.blend(pale, Image.new("RGB", picture.size, palette.INK), _VEIL)
    pen = ImageDraw.Draw(dark)
    for start in range(-picture.height, picture.width, step):
        pen.line((start, picture.height, start + picture.height, 0), fill="#565b64")
    return dark


def frame(drawn: Image.Image, boxes: Sequence[tuple[int, int, int, int]]):
    """Outline groups of kept boxes, light on dark, so that they show on any picture."""
    edges = edges_of(boxes)
    pen = ImageDraw.Draw(drawn)
    for colour, width in ((palette.INK, 5), (palette.KEPT, 3)):
        for line in edges:
            pen.line(line, fill=colour, width=width)


def edges_of(boxes: Iterable[tuple[int, int, int, int]]) -> list[tuple]:
    """The border lines (x, y, x, y) of groups of boxes; edges between two boxes are left out."""
    lines = [
        line
        for left, top, right, bottom in dict.fromkeys(boxes)
        for line in (
            (left, top, right, top),
            (left, bottom, right, bottom),
            (left, top, left, bottom),
            (right, top, right, bottom),
        )
    ]
    count = Counter(lines)
    return [line for line in lines if count[line] == 1]


def rows_of(cells: Sequence[Image.Image], per_row: int) -> list[Image.Image]:
    """The pictures in rows of one width, with margins."""
    rows = [cells[first : first + per_row] for first in range(0, len(cells), per_row)]
    widest = max(sum(cell.width + _MARGIN for cell in row) - _MARGIN for row in rows)
    width = max(2 * _SIZE, widest) + 2 * _MARGIN
    return [_row(row, width) for row in rows]


def _row(cells: Sequence[Image.Image], width: int) -> Image.Image:
    row = Image.new("RGB", (width, max(cell.height for cell in cells) + _MARGIN), palette.PAPER)
    bottom = row.height - _MARGIN
    left = _MARGIN
    for cell in cells:
        row.paste(cell, (left, bottom - cell.height))
        left += cell.width + _MARGIN
    return row


def _legend(trace: PruningTrace, sheets: Sequence[Sheet], width: int) -> Image.Image:
    text = describe_unplaced(sheets, trace.num_visual)
    if trace.drops:
        how = "Framed: the model still has this patch.   Dark and hatched: its token was dropped."
        text = f"{how} {text}".strip()
    return text_block(text, width, _SIZE // 24, palette.INK)


@functools.cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """A system font with letters of many languages; Pillow's own font covers only English."""
    for name in ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial.ttf"):
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def _wrapped(line: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines that fit the width; words longer than a line are split."""
    lines = [""]
    for word in line.split(" "):
        if font.getlength(f"{lines[-1]} {word}".lstrip()) <= width:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def text_block(text: str, width: int, size: int, colour: str, margin: int = _MARGIN) -> Image.Image:
    """Text wrapped to the width, on a strip of its own height."""
    font = font_of(size)
    lines = [
        part for line in text.splitlines() for part in _wrapped(line, font, width - 2 * margin)
    ]
    high = round(font.size * 1.35)
    block = Image.new("RGB", (width, high * len(lines) + 10), palette.PAPER)
    pen = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        pen.text((margin, 4 + number * high), line, font=font, fill=colour)
    return block
