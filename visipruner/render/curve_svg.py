"""The curve as one SVG picture and as one HTML file: both hold everything and fetch nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from visipruner.render import palette
from visipruner.render.curve import (
    ALL,
    Curve,
    Measured,
    describe_curve,
    describe_measured,
    describe_source,
    title_of,
)
from visipruner.render.curve_chart import STAR, UNTRAINED, X_TITLE, style_of
from visipruner.render.report import POLICY

WIDE, HIGH, LEFT, RIGHT, TOP = 900, 420, 64, 24, 44  # pixels: the plot, and its margins
LEGEND = 24  # a line of the legend, two series in each
_STYLE = Path(__file__).with_name("report.css")
_FITTING = "svg { max-width: 100%; height: auto; }"
_DASHES = {"solid": "", "dash": "9 5", "dot": "2 4", "dashdot": "9 4 2 4", "longdash": "14 6"}


class _Axes:
    """From shares to pixels, on axes that end at round numbers."""

    def __init__(self, cuts: Sequence[float], rights: Sequence[float]):
        self.least = math.floor(10 * min(rights)) / 10
        self.most = max(math.ceil(10 * max(rights)) / 10, self.least + 0.1)
        self.across = max(math.ceil(10 * max(cuts)) / 10, 0.1)

    def place(self, cut: float, right: float) -> tuple[float, float]:
        x = LEFT + (WIDE - LEFT - RIGHT) * cut / self.across
        return x, TOP + (HIGH - TOP) * (self.most - right) / (self.most - self.least)

    def drawn(self) -> list[str]:
        parts = []
        for tenth in range(round(10 * self.least), round(10 * self.most) + 1):
            y = self.place(0, tenth / 10)[1]
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDE - RIGHT}" stroke="#ddd"/>')
            parts.append(_text(LEFT - 8, y + 5, f"{tenth * 10}", "end"))
        for tenth in range(round(10 * self.across) + 1):
            parts.append(_text(self.place(tenth / 10, 0)[0], HIGH + 20, f"{tenth * 10}"))
        parts.append(_text((LEFT + WIDE - RIGHT) / 2, HIGH + 44, X_TITLE))
        return parts


def curve_svg(
    curve: Curve,
    shown: Sequence[str],
    skill: str = ALL,
    followed: str = "",
    measured: Sequence[Measured] = (),
) -> str:
    """The same picture as `curve_chart`, dark on white."""
    points = [point for series in shown for _, point in curve.of(series)]
    shares = [point.shares[skill] for point in points]
    full = curve.unpruned.get(skill)
    cuts = [0.0, *(p.flops_cut for p in points), *(one.flops_cut for one in measured)]
    rights = [share.right for share in (*shares, *(one.share for one in measured))]
    rights += [full.right] if full else []
    axes = _Axes(cuts, rights or [0.0, 1.0])
    parts = axes.drawn()
    about = "all skills" if skill == ALL else f"only “{skill}”"
    parts.append(_text(LEFT, 24, f"% right, {about}", "start"))
    if full:
        y = axes.place(0, full.right)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDE - RIGHT}" {_stroke("#333", "7 5")}/>')
        parts.append(_text(WIDE - RIGHT, y - 6, f"unpruned {full.right:.1%}", "end"))
    for series in shown:
        parts += _series(curve, axes, series, skill, series == followed)
    for one in measured:
        colour = "#333" if one.number is None else _colour(curve, one.number)
        parts += _interval(axes, one.flops_cut, one.share, "#333")
        parts.append(_mark(axes.place(one.flops_cut, one.share.right), STAR[1], colour))
    parts += _legend(curve, shown, bool(measured))
    high = HIGH + 64 + LEGEND * math.ceil((len(shown) + bool(measured)) / 2)
    words = escape(describe_curve(curve, list(shown), skill), quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high}" width="{WIDE}" '
        f'height="{high}" role="img" aria-label="{words}" font-family="sans-serif" '
        f'font-size="15"><rect width="{WIDE}" height="{high}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _colour(curve: Curve, number: int) -> str:
    return style_of(curve, curve.points[number].series).colour


def _series(curve: Curve, axes: _Axes, series: str, skill: str, followed: bool) -> list[str]:
    style, points = style_of(curve, series), [point for _, point in curve.of(series)]
    places = [axes.place(point.flops_cut, point.shares[skill].right) for point in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    stroke = _stroke(style.colour, _DASHES[style.dash], 4 if followed else 2)
    parts = [f'<polyline points="{line}" fill="none" {stroke}/>']
    for point, place in zip(points, places, strict=True):
        if followed:
            parts += _interval(axes, point.flops_cut, point.shares[skill], style.colour)
        parts.append(_mark(place, style.path, style.colour, hollow=point.untrained))
    return parts


def _interval(axes: _Axes, cut: float, share, colour: str) -> list[str]:
    (x, low), (_, high) = axes.place(cut, share.low), axes.place(cut, share.high)
    # An interval may leave the plot, but must not run through its title or its axis.
    low, high = min(low, HIGH), max(high, TOP)
    return [f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" {_stroke(colour, width=1.5)}/>']


def _legend(curve: Curve, shown: Sequence[str], measured: bool) -> list[str]:
    entries = []
    for series in shown:
        hollow = any(point.untrained for _, point in curve.of(series))
        entries.append((title_of(series) + UNTRAINED * hollow, style_of(curve, series), hollow))
    parts = []
    for number, (name, style, hollow) in enumerate(entries):
        x, y = _entry_place(number)
        stroke = _stroke(style.colour, _DASHES[style.dash])
        parts.append(f'<path d="M{x - 18} {y}H{x + 18}" {stroke}/>')
        parts.append(_mark((x, y), style.path, style.colour, hollow))
        parts.append(_text(x + 26, y + 5, name, "start"))
    if measured:
        x, y = _entry_place(len(entries))
        parts.append(_mark((x, y), STAR[1], "#333"))
        parts.append(_text(x + 26, y + 5, "measured here", "start"))
    return parts


def _entry_place(number: int) -> tuple[float, float]:
    row, column = divmod(number, 2)
    return LEFT + 20 + column * (WIDE - LEFT) / 2, HIGH + 74 + LEGEND * row


def _mark(place: tuple[float, float], path: str, colour: str, hollow: bool = False) -> str:
    x, y = place
    return (
        f'<path transform="translate({x:.1f} {y:.1f})" d="{path}" '
        f'fill="{"#fff" if hollow else colour}" stroke="{colour}" stroke-width="1.5"/>'
    )


def _stroke(colour: str, dashes: str = "", width: float = 2) -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'stroke="{colour}" stroke-width="{width}"{dashed}'


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" fill="{palette.INK}">'
        f"{escape(words)}</text>"
    )


# -- the HTML file


def curve_html(
    curve: Curve, rows: Sequence[dict], svg: str, measured: Sequence[Measured] = ()
) -> str:
    """One file with the picture and a table of all points.

    Args:
        rows: one dictionary per point, all with the same keys, as in the CSV file.
        svg: from `curve_svg`.
    """
    title = "Accuracy of the bundled model against FLOPs cut"
    now = "".join(
        f"<li>{escape(one.title)}: {escape(describe_measured(one))}</li>" for one in measured
    )
    now = f"<h2>Measured on the page</h2><ul>{now}</ul>" if now else ""
    head = "".join(f'<th scope="col">{escape(name.replace("_", " "))}</th>' for name in rows[0])
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{title}</title><style>{_STYLE.read_text('utf-8')}\n{_FITTING}</style></head>"
        f"\n<body><h1>{title}</h1><p>{escape(describe_source(curve))}</p>{svg}{now}"
        f'<h2>All points</h2><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></body></html>\n"
    )


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
