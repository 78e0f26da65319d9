"""A Figure of an analysis as one SVG picture, dark on white; it holds everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from visipruner.analyses.base import Figure, Series
from visipruner.render import palette
from visipruner.render.curve_chart import COLOURS, SHAPES
from visipruner.render.grid_svg import grid_parts

WIDE, HIGH = 900, 380  # the whole picture, and the plot with its top margin
LEFT, RIGHT, TOP = 76, 24, 70
LINE = 20  # pixels of a line of text
_PER_LINE = 118  # letters
_DASHES = ("", "9 5", "2 4", "9 4 2 4")
_TICKS = 6


def figure_svg(figure: Figure) -> str:
    """The title, the plot or the grid, a legend, and the words."""
    parts = [_text(LEFT, 26, figure.title, "start", 'font-weight="bold" font-size="18"')]
    if figure.grid is not None:
        drawn, bottom = grid_parts(figure, WIDE, TOP - 20)
    else:
        drawn, bottom = _plot(figure)
    parts += drawn
    for line in _lines(figure.words):
        bottom += LINE
        parts.append(_text(24, bottom, line, "start"))
    high, words = bottom + 16, escape(figure.words, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {high:.0f}" width="{WIDE}" '
        f'height="{high:.0f}" role="img" aria-label="{words}" font-family="sans-serif" '
        f'font-size="14"><rect width="{WIDE}" height="{high:.0f}" fill="{palette.PAPER}"/>'
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

    def drawn(self, figure: Figure) -> list[str]:
        parts = []
        for value in self.ys:
            y = self.y(value)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDE - RIGHT}" stroke="#ddd"/>')
            parts.append(_text(LEFT - 8, y + 5, f"{value:.6g}", "end"))
        for value in self.xs:
            parts.append(_text(self.x(value), HIGH + 20, f"{value:.6g}"))
        parts.append(_text((LEFT + WIDE - RIGHT) / 2, HIGH + 42, figure.x_title))
        parts.append(_text(LEFT, TOP - 14, figure.y_title, "start"))
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


def _plot(figure: Figure) -> tuple[list[str], float]:
    """The axes with all series, and where they end."""
    axes = _Axes(figure)
    parts, dots = axes.drawn(figure), 0
    for number, series in enumerate(figure.series):
        parts += _series(axes, series, number, len(figure.series))
    for number, (name, x) in enumerate(figure.marks.items()):
        dashed = 'stroke-width="2" stroke-dasharray="5 4"'
        place, y = axes.x(x), TOP + 14 + LINE * number
        parts.append(f'<path d="M{place:.1f} {TOP}V{HIGH}" stroke="{palette.INK}" {dashed}/>')
        end = place > WIDE - 200
        parts.append(_text(place + (-6 if end else 6), y, name, "end" if end else "start"))
    bottom = HIGH + 48
    if len(figure.series) > 1:
        for number, series in enumerate(figure.series):
            row, column = divmod(number, 2)
            x, y = LEFT + 20 + column * (WIDE - LEFT) / 2, HIGH + 68 + 24 * row
            parts.append(_mark(x, y, number, series))
            parts.append(_text(x + 18, y + 5, series.name, "start"))
            dots = max(dots, y)
        bottom = dots + 12
    return parts, bottom


def _series(axes: _Axes, series: Series, number: int, of: int) -> list[str]:
    words = series.words or [""] * len(series.x)
    points = [
        (axes.x(x), axes.y(y), word)
        for x, y, word in zip(series.x, series.y, words, strict=True)
        if y is not None
    ]
    if series.kind == "bars":
        return _bars(axes, points, number, of)
    parts = [_line(axes, series, number)] if series.kind == "line" else []
    return parts + [_mark(x, y, number, series, word) for x, y, word in points]


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


def _bars(axes: _Axes, points, number: int, of: int) -> list[str]:
    wide, floor = 0.8 * axes.step / of, axes.y(0)
    parts = []
    for x, y, word in points:
        left = x - 0.4 * axes.step + wide * number
        top, high = min(y, floor), abs(floor - y)
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" '
            f'fill="{_colour(number)}" stroke="{palette.INK}">{_hover(word)}</rect>'
        )
    return parts


def _mark(x: float, y: float, number: int, series: Series, word: str = "") -> str:
    shape = SHAPES[number % len(SHAPES)][1]
    small = "scale(0.6)" if len(series.x) > 60 and series.kind == "dots" else ""
    return (
        f'<path transform="translate({x:.1f} {y:.1f}) {small}" d="{shape}" '
        f'fill="{_colour(number)}" stroke="{palette.PAPER}" stroke-width="0.7">'
        f"{_hover(word)}</path>"
    )


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _hover(word: str) -> str:
    return f"<title>{escape(word)}</title>" if word else ""


def _text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{palette.INK}" {more}>'
        f"{escape(words)}</text>"
    )


def _lines(words: str) -> list[str]:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) > _PER_LINE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
