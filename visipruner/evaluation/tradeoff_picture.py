"""The README's figure of the trade-off curve, as one SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

from visipruner.methods import METHODS
from visipruner.methods.base import BEFORE
from visipruner.render import palette
from visipruner.world.scenes import ASSETS

PICTURE = ASSETS / "tradeoff.svg"
WIDE, HIGH = 980, 470
LEFT, RIGHT, TOP, BOTTOM = 60, 420, 60, 400  # of the first panel
ACROSS = 480  # from one panel to the next
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


def picture(found: dict) -> str:
    """Two panels, inside and before the language model, with a line per method or stack.

    Args:
        found: as tradeoff.json holds it.
    """
    full, points = found["unpruned"], found["points"]
    low = math.floor(10 * min(point["right"] for point in points)) / 10
    words = (
        f"Accuracy of the bundled model on {full['questions']} held-out questions against the "
        "executed prefill FLOPs that each method saves. Left: methods that prune inside the "
        "language model. Right: methods that prune before it, and stacks."
    )
    panels = [_panel(full, points, low, before) for before in (False, True)]
    drawn = "".join(
        f'<g transform="translate({ACROSS * n} 0)">{p}</g>' for n, p in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'font-family="sans-serif" font-size="13"><title>{words}</title>'
        f'<rect width="{WIDE}" height="{HIGH}" fill="#fff"/>{drawn}</svg>\n'
    )


def is_before(side: str) -> bool:
    """Does the first method of a side prune before the language model?"""
    return METHODS[side.partition("+")[0]].where == BEFORE


def _panel(full: dict, points: Sequence[dict], low: float, before: bool) -> str:
    def place(cut: float, right: float) -> tuple[float, float]:
        return LEFT + (RIGHT - LEFT) * cut, BOTTOM - (BOTTOM - TOP) * (right - low) / (1 - low)

    title = "before the language model, and stacks" if before else "inside the language model"
    parts = _axes(place, low, title)
    y = place(0, full["right"])[1]
    parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#333" stroke-dasharray="6 4"/>')
    parts.append(_text(RIGHT, y - 11, f"unpruned {full['right']:.1%}", "end"))
    sides = dict.fromkeys(p["side"] for p in points if is_before(p["side"]) == before)
    for number, side in enumerate(sides):
        colour, dot = COLOURS[number % len(COLOURS)], DOTS[number % len(DOTS)]
        mine = sorted(
            (p for p in points if p["side"] == side), key=lambda point: point["flops_cut"]
        )
        at = [place(p["flops_cut"], p["right"]) for p in mine]
        parts += _series(at, colour, dot, hollow=mine[0]["untrained"], dashed="+" in side)
        # The legend stands in the empty corner at the lower left.
        row = BOTTOM - 18 * (len(sides) - number)
        parts += _series([(LEFT + 16, row)], colour, dot, mine[0]["untrained"], False)
        parts.append(_text(LEFT + 28, row, side.replace("+", " + "), "start"))
    if before:
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
