"""FastV (ECCV 2024, arXiv 2403.06764): keep what the last prompt token attends to early on.

Source of the rule: pkunlp-icler/FastV d1659729. The score is the last prompt token's attention row
in layer index K - 1, mean over heads (the paper speaks of average attention; the code uses this
row). The rest is dropped once, at the input of layer index K. Positions stay. The code's "mask
mode" makes the same decision but hides the tokens instead of dropping them. That gives the same
answer and saves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from visipruner.errors import Refused
from visipruner.levels import budget
from visipruner.methods.base import PruningMethod, explain_one_cut, renumbering
from visipruner.settings import INT, setting
from visipruner.trace import Selection


@dataclass(frozen=True)
class FastV(PruningMethod):
    """Keep the `keep` visual tokens with the most attention.

    Args:
        keep: visual tokens that stay; all, if the picture has no more.
        before_layer: K, the first layer that runs without the rest; at least 1.
        start_shift: 1 reproduces the published scripts, whose visual range starts one token late:
            the first visual token always stays and the first text token after the picture competes.
        renumber: number the survivors 0, 1, 2, ... or keep their places, as published.
    """

    name: ClassVar[str] = "fastv"
    title: ClassVar[str] = "FastV: by attention in an early layer"
    paper: ClassVar[str] = "arXiv 2403.06764 (ECCV 2024)"
    source: ClassVar[str] = "pkunlp-icler/FastV d1659729"
    rule: ClassVar[str] = "attention of the last prompt token in layer K - 1, once"
    stage_words: ClassVar[Mapping[str, str]] = {"fastv": "Most attended"}

    keep: int = setting(144, "Patches that stay", INT, low=0, high=1_000_000)
    before_layer: int = setting(2, "First layer that runs without the rest", INT, low=1, high=1000)
    start_shift: int = setting(
        0, "Shift by one token, as the published scripts (1)", INT, low=0, high=1
    )
    renumber: bool = renumbering(False)

    @classmethod
    def at_level(cls, level, facts, given):
        return cls(round(budget(level, facts)))

    @classmethod
    def for_budget(cls, tokens, facts):
        cls.check_budget(tokens, facts)
        full = facts.early(cls().before_layer)
        left = tokens * facts.layers - full * facts.num_visual
        return cls(round(left / max(1, facts.layers - full)), full)

    @classmethod
    def least(cls, facts):
        return facts.early(cls().before_layer) * facts.num_visual / facts.layers

    @property
    def cuts_after(self):
        return (self.before_layer - 1,)

    def within(self, facts):
        first = facts.inside.early(type(self)().before_layer)
        return replace(self, before_layer=facts.enter + first)

    def select(self, view):
        if view.layer != self.before_layer - 1 or view.layer == view.num_layers - 1:
            return None
        # The competing rows: the visual ones, or each shifted by one.
        competing = view.visual_rows + self.start_shift
        if len(competing) and competing[-1] >= len(view.tokens):
            raise Refused("FastV's published range (start_shift) needs text after the picture.")
        score = view.attention_row().mean(0).cpu()[competing]
        chosen = torch.zeros(len(view.tokens), dtype=torch.bool, device="cpu")
        chosen[competing[top(score, self.keep)]] = True
        stays = torch.ones_like(chosen)
        stays[competing] = False
        stays |= chosen
        keep = view.tokens[stays].tolist()
        scores = tuple(score.tolist())
        return Selection(tuple(keep), "fastv", scores, compact=self.renumber)

    def explain(self, trace, memory):
        how = f"by the attention in layer {self.before_layer - 1}"
        return explain_one_cut(trace, memory, how), {}


def top(score: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` highest scores, ascending."""
    return score.topk(min(keep, len(score))).indices.sort().values
