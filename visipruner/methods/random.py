"""Random tokens: the baseline that every method must beat, and often hardly does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from visipruner.methods.base import BEFORE, PruningMethod, explain_one_cut, renumbering
from visipruner.settings import INT, setting


@dataclass(frozen=True)
class Random(PruningMethod):
    """Keep `keep` visual tokens drawn by `seed`.

    Args:
        keep: visual tokens that stay; all, if the picture has no more.
        after_layer: cut after this layer; -1: before the language model.
        seed: the same seed draws the same patches.
        renumber: number the survivors 0, 1, 2, ... or keep their places.
    """

    name: ClassVar[str] = "random"
    title: ClassVar[str] = "Random patches"
    rule: ClassVar[str] = "a seeded draw, before the language model or after a layer"
    where: ClassVar[str] = BEFORE
    stage_words: ClassVar[Mapping[str, str]] = {"random": "Drawn by lot"}

    keep: int = setting(144, "Patches that stay", INT, low=0, high=1_000_000)
    after_layer: int = setting(
        -1, "Cut after this layer (-1: before the first)", INT, low=-1, high=1000
    )
    seed: int = setting(0, "Seed that draws the patches", INT, low=0, high=2**63 - 1)
    renumber: bool = renumbering(False)

    @classmethod
    def for_budget(cls, tokens, facts):
        return cls(round(tokens))

    @property
    def cuts_after(self):
        return (self.after_layer,)

    def encode(self, view):
        return self._draw(view) if self.after_layer == -1 else None

    def select(self, view):
        if view.layer != self.after_layer or view.layer == view.num_layers - 1:
            return None
        return self._draw(view)

    def _draw(self, view):
        generator = torch.Generator("cpu").manual_seed(self.seed)
        drawn = torch.randperm(len(view.patches), generator=generator, device="cpu")[: self.keep]
        return view.keep_visual(drawn.sort().values, "random", compact=self.renumber)

    def explain(self, trace, memory):
        return explain_one_cut(trace, memory, f"drawn by seed {self.seed}"), {}
