"""DART (EMNLP 2025, arXiv 2502.11494): keep what is least like a few pivots.

Source of the rule: the first author's later repository ZichenWen1/EPIC b2ed9cdf, whose DART decoder
was run; of DART's own repository only the README could be had. Once, before layer K, from layer
K - 1: pivots are the visual tokens and the tokens after the picture whose rotated keys, all heads
joined, have the largest L1 norms. For each pivot in turn, the visual tokens not yet taken with the
lowest cosine to it are taken; vectors are that layer's output after the model's *final* norm. Text
pivots only vote. The code visits the pivots in the order of a Python set of their positions, which
is neither by norm nor ascending and changes 2 to 13% of the choice, so it is reproduced. Positions
stay. Of 576 tokens the code takes int((1 - R) * 576 / pivots) per pivot (15 for R = 0.778); the
README's own example would give 16, so the number is a setting. Layers count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from visipruner.errors import Refused
from visipruner.levels import nearest_to
from visipruner.methods.base import PruningMethod, explain_one_cut, renumbering
from visipruner.settings import INT, setting


@dataclass(frozen=True)
class DART(PruningMethod):
    """Keep a few pivots, and the visual tokens least like each of them.

    Args:
        per_pivot: visual tokens that each pivot takes.
        visual_pivots, text_pivots: the number of pivots. Visual pivots stay too.
        before_layer: K, the first layer that runs without the rest; at least 1.
        renumber: number the survivors 0, 1, 2, ... or keep their places, as published.
    """

    name: ClassVar[str] = "dart"
    title: ClassVar[str] = "DART: by unlikeness to a few pivots"
    paper: ClassVar[str] = "arXiv 2502.11494 (EMNLP 2025)"
    source: ClassVar[str] = "ZichenWen1/EPIC b2ed9cdf"
    rule: ClassVar[str] = "the tokens least like eight pivots of layer K - 1, once"
    stage_words: ClassVar[Mapping[str, str]] = {"dart": "Unlike the pivots"}

    per_pivot: int = setting(15, "Tokens that each pivot takes", INT, low=0, high=1_000_000)
    visual_pivots: int = setting(4, "Pivots in the picture", INT, low=0, high=1000)
    text_pivots: int = setting(4, "Pivots in the text", INT, low=0, high=1000)
    before_layer: int = setting(2, "First layer that runs without the rest", INT, low=1, high=1000)
    renumber: bool = renumbering(False)

    @classmethod
    def for_budget(cls, tokens, facts):
        cls.check_budget(tokens, facts)
        means = cls.reachable(facts)
        return cls(means.index(nearest_to(means, tokens)))

    @classmethod
    def reachable(cls, facts):
        usual, full = cls(), facts.early(cls().before_layer)
        means = []
        for each in range(facts.num_visual + 1):
            kept = min(usual._kept(each), facts.num_visual)
            mean = (full * facts.num_visual + (facts.layers - full) * kept) / facts.layers
            means.append(mean)
            if kept == facts.num_visual:
                break
        return means

    @property
    def cuts_after(self):
        return (self.before_layer - 1,)

    def within(self, facts):
        first = facts.inside.early(type(self)().before_layer)
        return replace(self, before_layer=facts.enter + first)

    def _kept(self, each: int) -> int:
        return self.visual_pivots + (self.visual_pivots + self.text_pivots) * each

    def select(self, view):
        if view.layer != self.before_layer - 1 or view.layer == view.num_layers - 1:
            return None
        present = len(view.visual_rows)
        if not present or self._kept(self.per_pivot) >= present:
            return None
        text = torch.arange(int(view.visual_rows[-1]) + 1, len(view.tokens), device="cpu")
        if len(text) < self.text_pivots:
            raise Refused(
                f"DART needs {self.text_pivots} tokens of text after the picture; "
                f"{len(text)} are there."
            )
        norms = view.keys[0].float().abs().sum((0, 2)).cpu()
        visual = view.visual_rows
        of_picture = largest(norms, visual, self.visual_pivots)
        of_text = largest(norms, text, self.text_pivots)
        states = view.final_norm(view.hidden)[0].float()
        pivots = visit_order(of_picture, of_text)
        taken = take(states, visual.to(states.device), of_picture, pivots, self.per_pivot)
        view.spend(2 * len(pivots) * present * states.shape[1])
        rows = torch.tensor([*of_picture, *taken], device="cpu")
        chosen = torch.isin(visual, rows).nonzero().flatten()
        scores = tuple(norms[visual].tolist())
        return view.keep_visual(chosen, "dart", scores=scores, compact=self.renumber)

    def explain(self, trace, memory):
        pivots = self.visual_pivots + self.text_pivots
        how = f"unlike {pivots} pivots of layer {self.before_layer - 1}"
        return explain_one_cut(trace, memory, how), {}


def largest(norms: Tensor, rows: Tensor, count: int) -> list[int]:
    """The `count` of these rows with the largest norms, best first."""
    return rows[norms[rows].topk(min(count, len(rows))).indices].tolist()


def visit_order(of_picture: list[int], of_text: list[int]) -> list[int]:
    """The pivots in the order in which the published code visits them: that of CPython's set."""
    return list(set(of_picture + of_text))


def take(states: Tensor, visual: Tensor, own: list[int], pivots: list[int], each: int) -> list[int]:
    """Rows that the pivots take, in turn, least similar first.

    Args:
        states: (rows, width) after the final norm.
        visual: (visual tokens,) their rows.
        own: the pivots among them, which are not taken.
        pivots: rows in the order of their turns.
        each: rows that each takes, or all that are left.
    """
    unit = F.normalize(states, dim=-1)
    similar = unit[torch.tensor(pivots, dtype=torch.long, device=unit.device)] @ unit[visual].T
    free = ~torch.isin(visual, torch.tensor(own, dtype=torch.long, device=visual.device))
    taken: list[int] = []
    for row in similar:
        open_ = free.nonzero().flatten()
        best = open_[row[open_].topk(min(each, len(open_)), largest=False).indices]
        free[best] = False
        taken += visual[best].tolist()
    return taken
