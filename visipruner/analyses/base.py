"""What every analysis is: a question about a model, answered by data, then drawn as figures.

An analysis watches one run (`observers`, so that many share it) or makes runs of its own (`runs`).
Either way it ends with a result that holds numbers only, and `figures` turns that into `Figure` and
`PatchMap`, which the page, the command line and the report draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Args:
        name: in the legend.
        x, y: the same number of values; a y of None is a gap.
        words: of each point, for its hover text; empty: none.
        kind: "line", "bars" or "dots".
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    words: Sequence[str] = ()
    kind: str = "line"


@dataclass(frozen=True)
class Grid:
    """A rectangle of numbers, drawn in colours: a triangle of masks, a token-by-token map.

    Args:
        rows, columns: their names, from the top and from the left.
        values: one sequence per row; None: nothing to show.
        scale: the lowest and the highest value of the colours.
        words: as `values`, the hover text of each cell; its first line may stand in the cell.
            Empty: none.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    scale: tuple[float, float]
    words: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Figure:
    """Axes with series on them, or a grid.

    Args:
        words: what the figure says, in sentences: its alt text.
        marks: places on the x axis with a name, such as VisiPruner's filtering layer.
        layer: the layer that it is of, if an analysis has a figure per layer; the page shows one.
    """

    title: str
    words: str
    x_title: str = ""
    y_title: str = ""
    series: Sequence[Series] = ()
    grid: Grid | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    layer: int | None = None


@dataclass(frozen=True)
class PatchMap:
    """A number per visual token and layer, drawn on the picture.

    Args:
        values: per layer, one number per visual token of the prompt; None: not there.
        scale: the lowest and the highest value of the colours, the same in all layers.
        unit: what the numbers are.
        words: what the map says, in a sentence: its alt text.
        told: per layer and visual token a word to show on the patch; empty: none.
    """

    title: str
    unit: str
    values: Sequence[Sequence[float | None]]
    scale: tuple[float, float]
    words: str
    told: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class Step:
    """Progress: `done` of `total` runs or layers."""

    done: int
    total: int


class Analysis:
    """One analysis. A subclass is a frozen dataclass whose fields are its options.

    name: in the command line and in links.
    title: on the page. question: what it answers, one sentence that ends with a question mark.
    source: the part of the paper that it repeats.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    source: ClassVar[str]

    def check(self, vlm, prompt):
        """Raise `Refused` if this model or prompt cannot be analysed so; nothing has run yet."""

    def run(self, vlm, prompt, features) -> Iterator[Step | object]:
        """Yield a `Step` now and then, and at last the result.

        Args:
            prompt: from `vlm.prepare`. features: from `vlm.encode`.

        Closing the generator stops it and leaves nothing on the model.
        """
        raise NotImplementedError

    def figures(self, result) -> list[Figure | PatchMap]:
        """What to draw: a pure function of the result."""
        raise NotImplementedError
