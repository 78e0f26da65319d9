"""The region of each visual token: boxes on one picture or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from PIL import Image


class Box(NamedTuple):
    """A rectangle on a sheet's picture, in its pixels; fractions are allowed."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Sheet:
    """A picture as the model sees it, with the boxes of its visual tokens.

    A token has a box on at most one sheet. A token without a region, such as a line end, has no
    box: it is counted but not drawn.

    Args:
        name: the page's name of this picture if the prompt has several ("whole picture").
        picture: exactly as the model sees it; not normalised.
        boxes: one per visual token of the prompt, in their order; None: not on this picture.

    Raises:
        ValueError: a box is empty or reaches beyond the picture.
    """

    name: str
    picture: Image.Image
    boxes: tuple[Box | None, ...]

    def __post_init__(self):
        width, height = self.picture.size
        for left, top, right, bottom in filter(None, self.boxes):
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise ValueError(f"{(left, top, right, bottom)} is no box on {width} x {height}.")

    @classmethod
    def of_grid(cls, picture: Image.Image, rows: int, columns: int, name: str = "") -> Sheet:
        """A picture whose visual tokens are its patches, row by row."""
        return cls(name, picture, grid_boxes(picture.size, rows, columns))

    @cached_property
    def placed(self) -> tuple[int, ...]:
        """The visual tokens that have a box here, ascending."""
        return tuple(token for token, box in enumerate(self.boxes) if box)

    def scaled(self, size: tuple[int, int]) -> dict[int, tuple[int, int, int, int]]:
        """Each placed token's box in whole pixels of the picture drawn at `size`."""
        ratios = [(new, old) for new, old in zip(size, self.picture.size, strict=True)] * 2
        return {
            token: tuple(
                round(edge * new / old)
                for edge, (new, old) in zip(self.boxes[token], ratios, strict=True)
            )
            for token in self.placed
        }

    @property
    def cell(self) -> float:
        """The median width of a box in pixels."""
        widths = sorted(box.right - box.left for box in filter(None, self.boxes))
        return widths[len(widths) // 2] if widths else self.picture.width


def grid_boxes(size: tuple[int, int], rows: int, columns: int) -> tuple[Box, ...]:
    """The boxes of a picture cut into equal patches, row by row.

    Args:
        size: width and height of the picture in pixels.
    """
    width, height = size
    xs = [column * width / columns for column in range(columns + 1)]
    ys = [row * height / rows for row in range(rows + 1)]
    return tuple(
        Box(xs[column], ys[row], xs[column + 1], ys[row + 1])
        for row in range(rows)
        for column in range(columns)
    )


def unplaced(sheets: Sequence[Sheet], num_visual: int) -> int:
    """The number of a prompt's visual tokens without a box on any sheet."""
    return num_visual - len({token for sheet in sheets for token in sheet.placed})
