"""A fixed schedule: so many tokens after one layer, none after another; to measure and teach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from visipruner.inputs import set_whole
from visipruner.methods.base import PruningMethod, stayed, too_late


@dataclass(frozen=True)
class Schedule(PruningMethod):
    """Keep evenly spread patches by the clock, whatever the picture shows.

    Args:
        keep: visual tokens that stay after `keep_after`; all, if there are no more.
        keep_after: the layer after which the others are dropped; -1: before the language model.
        none_after: the layer after which no visual token is left; None: they stay to the end.
    """

    name: ClassVar[str] = "schedule"

    keep: int = 10
    keep_after: int = 14
    none_after: int | None = 23

    def __post_init__(self):
        set_whole(self, "keep", 0, 1_000_000)
        set_whole(self, "keep_after", -1, 999)  # one less, for none_after comes later
        if self.none_after is not None:
            set_whole(self, "none_after", self.keep_after + 1, 1000)

    def encode(self, view):
        return self._spread(view) if self.keep_after == -1 else None

    def select(self, view):
        if too_late(view, self.keep_after):
            return None
        if view.layer == self.keep_after:
            return self._spread(view)
        if view.layer == self.none_after and len(view.patches):
            return view.keep_patches(view.patches[:0], "exit")
        return None

    def _spread(self, view):
        last = view.num_layers - 1
        present, keep = len(view.patches), min(self.keep, len(view.patches))
        # The middles of `keep` equal parts.
        chosen = (torch.arange(keep, device="cpu") * 2 + 1) * present // max(1, 2 * keep)
        when = "before the first layer" if view.layer < 0 else f"after layer {view.layer}"
        view.trace.why = stayed(keep, f"evenly spread in reading order, {when}")
        if keep and self.none_after is not None and self.none_after < last:
            view.trace.why += f" None is left after layer {self.none_after}."
        return view.keep_patches(view.patches[chosen], "schedule")
