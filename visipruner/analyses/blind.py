"""Masking: in some layers, no text token sees the picture.

A file of its own: recorded answers are asked again when the file of their method changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from visipruner.attention import Span
from visipruner.errors import Refused
from visipruner.methods.base import PruningMethod
from visipruner.settings import INT, setting


@dataclass(frozen=True)
class Blind(PruningMethod):
    """No text token sees a visual token in layers `first` to `last` - 1, nor while decoding.

    The visual tokens themselves go on as usual (the masking of the paper's figure 3).

    Raises:
        Refused: `last` is below `first`.
    """

    name: ClassVar[str] = "blind"
    title: ClassVar[str] = "Masked: no text token sees the picture"
    rule: ClassVar[str] = "masks visual keys from text queries in a range of layers"

    first: int = setting(0, "First masked layer", INT, low=0, high=1000)
    last: int = setting(0, "First layer after the masked ones", INT, low=0, high=1000)

    def check(self):
        if self.last < self.first:
            raise Refused(f"last must be at least first, {self.first}, not {self.last}.")

    def attend(self, view):
        if not self.first <= view.layer < self.last:
            return None
        words, patches = view.text_ranges, view.visual_ranges
        seen = [Span(queries=((start, stop),), keys=((0, stop),)) for start, stop in patches]
        return (*seen, Span(queries=words, keys=words))

    def cached(self, layer, trace, memory):
        return [] if self.first <= layer < self.last else None
