"""SVG pictures of the surviving patches. The page holds the photograph only once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape

from visipruner.render import palette
from visipruner.render.overlay import edges_of, panels
from visipruner.render.values import picture_uri
from visipruner.sheets import Sheet
from visipruner.trace import PruningTrace

_SIZE = 420  # line widths assume a picture of this size


def definitions(sheets: Sequence[Sheet]) -> str:
    """The pictures and their hatching; the page must contain them before `stages`."""
    return (
        '<svg width="0" height="0" aria-hidden="true" style="position:absolute"><defs>'
        f"{''.join(_definition(sheet, number) for number, sheet in enumerate(sheets))}"
        "</defs></svg>"
    )


def _definition(sheet: Sheet, number: int) -> str:
    width, height = sheet.picture.size
    step = 12 * max(sheet.picture.size) / _SIZE
    return (
        f'<image id="vp-seen{number}" width="{width}" height="{height}" '
        f'href="{picture_uri(sheet.picture)}"/>'
        f'<pattern id="vp-gone{number}" width="{step:.2f}" height="{step:.2f}" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<line y2="{step:.2f}" stroke="{palette.NEUTRAL}" stroke-width="{step / 5:.2f}"/>'
        "</pattern>"
    )


def stages(trace: PruningTrace, sheets: Sequence[Sheet]) -> str:
    """Every stage of a run: kept patches framed, the others dark and hatched."""
    drawn = "".join(_stage(sheets, name, set(kept)) for name, kept in panels(trace)[1:])
    return f'<div class="stages">{drawn}</div>'


def _stage(sheets: Sequence[Sheet], name: str, kept: Collection[int]) -> str:
    drawn = "".join(_picture(sheet, number, name, kept) for number, sheet in enumerate(sheets))
    return f"<figure>{drawn}<figcaption>{escape(name)}</figcaption></figure>"


def _picture(sheet: Sheet, number: int, name: str, kept: Collection[int]) -> str:
    width, height = sheet.picture.size
    label = f"{name}: {sheet.name}" if sheet.name else name
    whole = all(token in kept for token in sheet.placed)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<use href="#vp-seen{number}"/>{"" if whole else _veil(sheet, number, kept)}</svg>'
    )


def _veil(sheet: Sheet, number: int, kept: Collection[int]) -> str:
    boxes, unit = sheet.scaled(sheet.picture.size), max(sheet.picture.size) / _SIZE
    gone = _joined(box for token, box in boxes.items() if token not in kept)
    veil = "".join(f"M{left} {top}H{right}V{bottom}H{left}z" for left, top, right, bottom in gone)
    lines = edges_of([boxes[token] for token in kept if token in boxes])
    edges = "".join(f"M{a} {b}L{c} {d}" for a, b, c, d in lines)
    return (
        f'<path d="{veil}" fill="{palette.INK}" opacity="0.66"/>'
        f'<path d="{veil}" fill="url(#vp-gone{number})" opacity="0.5"/>'
        f'<path d="{edges}" stroke="{palette.INK}" stroke-width="{5 * unit:.2f}"/>'
        f'<path d="{edges}" stroke="{palette.KEPT}" stroke-width="{3 * unit:.2f}"/>'
    )


def _joined(boxes: Iterable[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    """The same area in fewer boxes: boxes that touch left and right are joined."""
    found: list[tuple[int, int, int, int]] = []
    for left, top, right, bottom in boxes:
        if found and found[-1][1:] == (top, left, bottom):
            left = found.pop()[0]
        found.append((left, top, right, bottom))
    return found
