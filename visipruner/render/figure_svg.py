"""A Figure of an analysis as one SVG picture; a saved one is dark on white and holds everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from visipruner.analyses.base import Figure, Series
from visipruner.render.curve_chart import COLOURS, SHAPES
from visipruner.render.grid_svg import PRINTED, Look, grid_parts

WIDE, HIGH = 900, 380  # the whole picture, and the plot with its top margin
LEFT, RIGHT, TOP = 76, 24, 70
LINE = 20  # pixels of a line of text
_PER_LINE = 118  # letters
_DASHES = ("", "9 5", "2 4", "9 4 2 4")
_TICKS = 6
_LETTER = 7.6  # pixels at most of an average letter


def figure_svg(figure: Figure, look: Look = PRINTED) -> str:
    """The title, the plot or the grid, a legend, and the words.

    Args:
        look: `ON_PAGE` follows the theme of the page that the picture is part of.
    """
    parts = [look.text(LEFT, 26, figure.title, "start", 'font-weight="bold" font-size="18"')]
    if figure.grid is not None:
        drawn, bottom = grid_parts(figure, WIDE, TOP - 20, look)
    else:
        drawn, bottom = _plot(figure, look)
    parts += drawn
    for line in _lines(figure.words):
        bottom += LINE
        parts.append(look.text(24, bottom, line, "start"))
    high, words = bottom + 16, escape(figure.words, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high:.0f}" width="{WIDE}" '
        f'height="{high:.0f}" role="img" aria-label="{words}" font-family="sans-serif" '
        f'font-size="14"><rect width="{WIDE}" height="{high:.0f}" fill="{look.paper}"/>'
        f"{''.join(parts)}</svg>\n"
    )


class _Axes:
    """From numbers to pixels, on axes that end at round numbers."""

    def __init__(self, figure: Figure):
        xs = [x for series in figure.series for x in series.x] + list(figure.marks.values())
        ys = [y for series in figure.series for y in series.y if y is not None]
        if any(series.kind == "bars" for series in figure.series):
            ys.append(0.0)
        whole = all(x == int(x) for x in xs)
        self.xs, self.ys = ticks(xs, whole), ticks(ys)
        points = [len(s.x) for s in figure.series if s.kind == "bars"]
        self.step = (WIDE - LEFT - RIGHT) / (max(points, default=1) + 1)
        # Bars need room at both ends.
        self.inset = self.step if points else 10

    def x(self, value: float) -> float:
        room = WIDE - LEFT - RIGHT - 2 * self.inset
        return LEFT + self.inset + room * (value - self.xs[0]) / (self.xs[-1] - self.xs[0])

    def y(self, value: float) -> float:
        return HIGH - (HIGH - TOP) * (value - self.ys[0]) / (self.ys[-1] - self.ys[0])

    def drawn(self, figure: Figure, look: Look) -> list[str]:
        parts = []
        for value in self.ys:
            y = self.y(value)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDE - RIGHT}" stroke="{look.line}"/>')
            parts.append(look.text(LEFT - 8, y + 5, f"{value:.6g}", "end"))
        for value in self.xs:
            parts.append(look.text(self.x(value), HIGH + 20, f"{value:.6g}"))
        parts.append(look.text((LEFT + WIDE - RIGHT) / 2, HIGH + 42, figure.x_title))
        parts.append(look.text(LEFT, TOP - 14, figure.y_title, "start"))
        return parts


def ticks(values: Sequence[float], whole: bool = False) -> list[float]:
    """About six even, round numbers from at most the least value to at least the greatest."""
    least, most = min(values, default=0.0), max(values, default=1.0)
    if most - least < 1e-9 * max(1.0, abs(most)):
        most = least + 1.0
    rough = (most - least) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * f for f in (1, 2, 2.5, 5, 10) if power * f >= rough)
    step = max(1.0, math.ceil(step)) if whole else step
    first = math.floor(least / step + 1e-9)
    last = math.ceil(most / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _plot(figure: Figure, look: Look) -> tuple[list[str], float]:
    """The axes with all series, and where they end."""
    axes = _Axes(figure)
    parts, dots = axes.drawn(figure, look), 0
    for number, series in enumerate(figure.series):
        parts += _series(axes, series, number, len(figure.series), look)
    parts += _places(axes, figure, look)
    bottom = HIGH + 48
    if len(figure.series) > 1:
        for number, series in enumerate(figure.series):
            row, column = divmod(number, 2)
            x, y = LEFT + 20 + column * (WIDE - LEFT) / 2, HIGH + 68 + 24 * row
            parts.append(_mark(x, y, number, series, look))
            parts.append(look.text(x + 18, y + 5, series.name, "start"))
            dots = max(dots, y)
        bottom = dots + 12
    return parts, bottom


def _places(axes: _Axes, figure: Figure, look: Look) -> list[str]:
    """A dashed line with its name at each mark; marks on one place share a line."""
    parts, marks = [], sorted(figure.marks.items(), key=lambda mark: mark[1])
    for number, (x, here) in enumerate(groupby(marks, lambda mark: mark[1])):
        name, place = ", ".join(name for name, _ in here), axes.x(x)
        dashed = 'stroke-width="2" stroke-dasharray="5 4"'
        parts.append(f'<path d="M{place:.1f} {TOP}V{HIGH}" stroke="{look.ink}" {dashed}/>')
        end = place > WIDE - LEFT - _LETTER * len(name)
        # A rim, so that no curve or line strikes the name through.
        rim = f'stroke="{look.ground}" stroke-width="5" paint-order="stroke"'
        y = TOP + 14 + LINE * number
        parts.append(look.text(place + (-6 if end else 6), y, name, "end" if end else "start", rim))
    return parts


def _series(axes: _Axes, series: Series, number: int, of: int, look: Look) -> list[str]:
    words = series.words or [""] * len(series.x)
    points = [
        (axes.x(x), axes.y(y), word)
        for x, y, word in zip(series.x, series.y, words, strict=True)
        if y is not None
    ]
    if series.kind == "bars":
        return _bars(axes, points, number, of, look)
    parts = [_line(axes, series, number)] if series.kind == "line" else []
    return parts + [_mark(x, y, number, series, look, word) for x, y, word in points]


def _line(axes: _Axes, series: Series, number: int) -> str:
    """One path with a gap at every missing value."""
    path, pen = "", "M"
    for x, y in zip(series.x, series.y, strict=True):
        if y is None:
            pen = "M"
            continue
        path += f"{pen}{axes.x(x):.1f} {axes.y(y):.1f}"
        pen = "L"
    dash = _DASHES[number % len(_DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="{path}" fill="none" stroke="{_colour(number)}" stroke-width="2.5"{dashed}/>'


def _bars(axes: _Axes, points, number: int, of: int, look: Look) -> list[str]:
    wide, floor = 0.8 * axes.step / of, axes.y(0)
    parts = []
    for x, y, word in points:
        left = x - 0.4 * axes.step + wide * number
        top, high = min(y, floor), abs(floor - y)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" '
            f'fill="{_colour(number)}" stroke="{look.ink}">{_hover(word)}</rect>'
        )
    return parts


def _mark(x: float, y: float, number: int, series: Series, look: Look, word: str = "") -> str:
    shape = SHAPES[number % len(SHAPES)][1]
    small = "scale(0.6)" if len(series.x) > 60 and series.kind == "dots" else ""
    return (
        f'<path transform="translate({x:.1f} {y:.1f}) {small}" d="{shape}" '
        f'fill="{_colour(number)}" stroke="{look.ground}" stroke-width="0.7">'
        f"{_hover(word)}</path>"
    )


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _hover(word: str) -> str:
    return f"<title>{escape(word)}</title>" if word else ""


def _lines(words: str) -> list[str]:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) > _PER_LINE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
