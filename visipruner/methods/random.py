"""Random tokens: the baseline that every method must beat, and often hardly does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from visipruner.inputs import set_whole
from visipruner.methods.base import PruningMethod, explain_one_cut


@dataclass(frozen=True)
class Random(PruningMethod):
    """Keep `keep` visual tokens drawn by `seed`.

    Args:
        keep: visual tokens that stay; all, if there are no more.
        after_layer: the cut is made after this layer; -1: before the language model.
        seed: the same seed draws the same patches.
    """

    name: ClassVar[str] = "random"

    keep: int = 144
    after_layer: int = -1
    seed: int = 0

    def __post_init__(self):
        set_whole(self, "keep", 0, 1_000_000)
        set_whole(self, "after_layer", -1, 1000)
        set_whole(self, "seed", 0, 2**63 - 1)

    def encode(self, view):
        return self._draw(view) if self.after_layer == -1 else None

    def select(self, view):
        if view.layer != self.after_layer or view.layer == view.num_layers - 1:
            return None
        return self._draw(view)

    def _draw(self, view):
        generator = torch.Generator("cpu").manual_seed(self.seed)
        drawn = torch.randperm(len(view.patches), generator=generator, device="cpu")[: self.keep]
        return view.keep_visual(drawn.sort().values, "random")

    def explain(self, trace, memory):
        return explain_one_cut(trace, memory, f"drawn by seed {self.seed}"), {}
