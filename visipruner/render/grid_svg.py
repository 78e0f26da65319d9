"""The cells of a Grid as SVG: colours, names, a colour bar, and words where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from visipruner.analyses.base import Figure, Grid
from visipruner.render import palette

BAR = 74  # pixels for the colour bar and its numbers
LEAST_ROW, MOST_ROW = 8, 34
_LETTER = 7.6  # pixels at most of an average letter
_MOST_NAMES = 24  # beside rows, and below columns
_MOST_HOVERS = 1_500  # cells with a hover text each; a larger grid would become a large file


@dataclass(frozen=True)
class Look:
    """Colours of all that is no data.

    Args:
        ink: of words and edges. line: of the lines behind the data.
        paper: what the picture fills itself with. ground: what is seen behind the data.
    """

    ink: str
    line: str
    paper: str
    ground: str

    def text(
        self, x: float, y: float, words: str, anchor: str = "middle", more: str = "", fill: str = ""
    ) -> str:
        """Words in ink, or in another colour."""
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill or self.ink}" '
            f"{more}>{escape(words)}</text>"
        )


PRINTED = Look(palette.INK, "#ddd", palette.PAPER, palette.PAPER)
# The page's own colours; inside.css says what --ground and --line are.
ON_PAGE = Look("currentColor", "var(--line)", "none", "var(--ground)")


def grid_parts(figure: Figure, wide: int, top: float, look: Look) -> tuple[list[str], float]:
    """The elements of a grid that is `wide` pixels wide, and where they end."""
    grid = figure.grid
    longest = max((len(name) for name in _some(grid.rows).values()), default=0)
    left = 24 + (LINE if figure.y_title else 0) + _LETTER * longest
    cell = (wide - left - BAR - 16) / max(1, len(grid.columns))
    high = min(max(LEAST_ROW, cell), MOST_ROW)
    parts = _cells(grid, left, top, cell, high, look)
    bottom = top + high * len(grid.rows)
    parts += _row_names(grid, left, top, high, look)
    names, bottom = _column_names(grid, left, bottom, cell, look)
    parts += names
    parts += _bar(grid, wide - BAR, top, high * len(grid.rows), look)
    if figure.x_title:
        bottom += LINE
        parts.append(look.text(left + cell * len(grid.columns) / 2, bottom, figure.x_title))
    if figure.y_title:
        middle = top + high * len(grid.rows) / 2
        turn = f'transform="rotate(-90 18 {middle:.1f})"'
        parts.append(look.text(18, middle, figure.y_title, "middle", turn))
    return parts, bottom + 8


LINE = 18


def _some(names: Sequence[str]) -> dict[int, str]:
    """At most `_MOST_NAMES` of the names, at even distances."""
    every = -(-len(names) // _MOST_NAMES) or 1
    return {number: name for number, name in enumerate(names) if number % every == 0}


def _share(grid: Grid, value: float) -> float:
    low, high = grid.scale
    return (value - low) / (high - low) if high > low else 0.0


def _cells(grid: Grid, left: float, top: float, wide: float, high: float, look: Look) -> list[str]:
    """Equal neighbours become one rectangle, unless every cell has its own hover text."""
    few = len(grid.rows) * len(grid.columns) <= _MOST_HOVERS
    parts = ['<g shape-rendering="crispEdges">']
    for row, line in enumerate(grid.values):
        colours = [None if v is None else palette.heat(_share(grid, v)) for v in line]
        keyed = enumerate(colours)
        for key, run in groupby(keyed, lambda pair: (pair[1], pair[0] if few else 0)):
            if key[0] is None:
                continue
            columns = [column for column, _ in run]
            hover = grid.words[row][columns[0]] if grid.words and few else ""
            parts.append(
                f'<rect x="{left + wide * columns[0]:.2f}" y="{top + high * row:.2f}" '
                f'width="{wide * len(columns):.2f}" height="{high:.2f}" '
                f'fill="#{bytes(key[0]).hex()}">{_hover(hover)}</rect>'
            )
    parts.append("</g>")
    if few and grid.words and high >= 16:
        parts += _words(grid, left, top, wide, high, look)
    return parts


def _words(grid: Grid, left: float, top: float, wide: float, high: float, look: Look) -> list[str]:
    """The first line of each cell's words, if all of them fit."""
    first = [[word.partition("\n")[0] for word in row] for row in grid.words]
    if max((len(word) for row in first for word in row), default=0) * _LETTER > wide:
        return []
    return [
        look.text(
            left + wide * (column + 0.5),
            top + high * (row + 0.5) + 5,
            word,
            fill=palette.on_heat(_share(grid, grid.values[row][column])),
        )
        for row, line in enumerate(first)
        for column, word in enumerate(line)
        if word and grid.values[row][column] is not None
    ]


def _row_names(grid: Grid, left: float, top: float, high: float, look: Look) -> list[str]:
    return [
        look.text(left - 8, top + high * (row + 0.5) + 5, name, "end")
        for row, name in _some(grid.rows).items()
    ]


def _column_names(
    grid: Grid, left: float, top: float, wide: float, look: Look
) -> tuple[list[str], float]:
    names = _some(grid.columns)
    longest = _LETTER * max(map(len, names.values()), default=0)
    room = wide * (min(b for b in names if b) if len(names) > 1 else 1)
    middles = {column: left + wide * (column + 0.5) for column in names}
    if longest <= room:
        return [look.text(middles[c], top + LINE, name) for c, name in names.items()], top + LINE
    parts = []
    for column, name in names.items():
        x = middles[column] + 5
        turn = f'transform="rotate(-90 {x:.1f} {top + 6:.1f})"'
        parts.append(look.text(x, top + 6, name, "end", turn))
    return parts, top + longest + 6


def _bar(grid: Grid, left: float, top: float, high: float, look: Look) -> list[str]:
    """The colours from the highest value down, with five numbers."""
    steps, high = 40, max(high, 90)
    parts = [
        f'<rect x="{left:.1f}" y="{top + high * number / steps:.2f}" width="16" '
        f'height="{high / steps + 0.5:.2f}" '
        f'fill="#{bytes(palette.heat(1 - number / (steps - 1))).hex()}"/>'
        for number in range(steps)
    ]
    low, most = grid.scale
    for number in range(5):
        value = most + (low - most) * number / 4
        parts.append(look.text(left + 22, top + 5 + high * number / 4, f"{value:.3g}", "start"))
    return parts


def _hover(word: str) -> str:
    return f"<title>{escape(word)}</title>" if word else ""
