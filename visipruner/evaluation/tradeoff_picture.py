"""The README's figure of the trade-off curve, as one SVG with three panels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from visipruner.methods import METHODS
from visipruner.methods.base import BEFORE
from visipruner.render import palette
from visipruner.render.curve import PLACED, series_of
from visipruner.world.scenes import ASSETS

PICTURE = ASSETS / "tradeoff.svg"
WIDE, HIGH = 1400, 470
LEFT, RIGHT, TOP, BOTTOM = 60, 420, 60, 400  # of the first panel
ACROSS = 465  # from one panel to the next
# Colour and shape together tell the series of a panel apart.
COLOURS = (palette.PRUNED, palette.FULL, "#009E73", palette.EXIT, "#56B4E9", "#000000", "#E69F00")
DOTS = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "M-4.5-4.5h9v9h-9z",
    "M0-6l6 10h-12z",
    "M0-6l6 6l-6 6l-6-6z",
    "M0 6l6-10h-12z",
    "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",
    "M0-6l5 3v6l-5 3l-5-3v-6z",
)


PANELS = (
    "inside the language model",
    "before it, renumbered as published",
    "before it, places kept",
)


def picture(found: dict) -> str:
    """Three panels with a line per method or stack: see PANELS.

    Args:
        found: as tradeoff.json holds it.
    """
    full, points = found["unpruned"], found["points"]
    low = math.floor(10 * min(point["right"] for point in points)) / 10
    words = (
        f"Accuracy of the bundled model on {full['questions']} held-out questions against the "
        f"executed prefill FLOPs that each method saves. Left to right: {'; '.join(PANELS)}."
    )
    drawn = "".join(
        f'<g transform="translate({ACROSS * number} 0)">{_panel(full, points, low, title)}</g>'
        for number, title in enumerate(PANELS)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'font-family="sans-serif" font-size="13"><title>{words}</title>'
        f'<rect width="{WIDE}" height="{HIGH}" fill="#fff"/>{drawn}</svg>\n'
    )


def label(point: dict) -> str:
    """The name of a point's series."""
    return series_of(point["side"], point["places_kept"], point["settings"])


def panel_of(point: dict) -> str:
    """The panel of a point, by where its first method prunes and whether it renumbers."""
    first = METHODS[point["side"].partition("+")[0]]
    if first.where != BEFORE:
        return PANELS[0]
    # The class token of VisionZip has no place to keep, so it always renumbers.
    keeps = point["places_kept"] or not getattr(first, "renumber", True)
    return PANELS[2] if keeps else PANELS[1]


def _panel(full: dict, points: Sequence[dict], low: float, title: str) -> str:
    def place(cut: float, right: float) -> tuple[float, float]:
        return LEFT + (RIGHT - LEFT) * cut, BOTTOM - (BOTTOM - TOP) * (right - low) / (1 - low)

    parts = _axes(place, low, title)
    y = place(0, full["right"])[1]
    parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#333" stroke-dasharray="6 4"/>')
    parts.append(_text(RIGHT, y - 11, f"unpruned {full['right']:.1%}", "end"))
    shown = [point for point in points if panel_of(point) == title]
    names = dict.fromkeys(map(label, shown))
    for number, name in enumerate(names):
        again = number // len(COLOURS)  # a colour that comes again has another shape
        colour, dot = COLOURS[number % len(COLOURS)], DOTS[(number + again) % len(DOTS)]
        mine = sorted((p for p in shown if label(p) == name), key=lambda p: p["flops_cut"])
        at = [place(p["flops_cut"], p["right"]) for p in mine]
        hollow = mine[0]["untrained"]
        parts += _series(at, colour, dot, hollow, dashed="+" in name)
        # The legend stands in the empty corner at the lower left.
        row = BOTTOM - 18 * (len(names) - number)
        parts += _series([(LEFT + 16, row)], colour, dot, hollow, False)
        words = name if title == PANELS[0] else name.removesuffix(PLACED)
        words = words.replace("+", " + ")
        parts.append(_text(LEFT + 28, row, words, "start"))
    if any(point["untrained"] for point in shown):
        parts.append(_text(LEFT, BOTTOM + 58, "hollow: its score was never trained", "start"))
    return "".join(parts)


def _axes(place, low: float, title: str) -> list[str]:
    parts = [_text(LEFT, 24, title, "start", "bold")]
    for tenth in range(round(10 * low), 11):
        y = place(0, tenth / 10)[1]
        parts.append(f'<path d="M{LEFT} {y:.0f}H{RIGHT}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y, tenth * 10, "end"))
    parts += [_text(place(tenth / 10, 0)[0], BOTTOM + 18, tenth * 10) for tenth in range(0, 11, 2)]
    middle = (LEFT + RIGHT) / 2
    parts.append(_text(middle, BOTTOM + 38, "% of the prefill FLOPs saved, as executed"))
    parts.append(_text(LEFT, 44, "% right", "start"))
    return parts


def _series(at, colour: str, dot: str, hollow: bool, dashed: bool) -> list[str]:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    style = ' stroke-dasharray="3 3"' if dashed else ""
    fill = f'fill="#fff" stroke="{colour}" stroke-width="2"' if hollow else f'fill="{colour}"'
    drawn = [f'<path transform="translate({x:.1f} {y:.1f})" d="{dot}" {fill}/>' for x, y in at]
    path = f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{style}/>'
    return [path, *drawn]


def _text(x: float, y: float, text, anchor: str = "middle", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="#222">{text}</text>'
    )
