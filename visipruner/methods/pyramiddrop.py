"""PyramidDrop (CVPR 2025, arXiv 2410.17247): fewer visual tokens in steps, ranked one layer ahead.

Source of the rule: Cooperx521/PyramidDrop 6444f304. The output of layer r - 1 is ranked with the
projections of layer r: the last prompt token's attention, mean over heads. A stage keeps
int(original count * ratio) of the present tokens, so stages are nested. Survivors are renumbered at
every stage, and each layer numbers a decoded token by its own cache. Layers count from 0. The
published code's first ratio, 1.0, applies before the first stage and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from visipruner.levels import Facts, least_for
from visipruner.methods.base import (
    TOO_LATE,
    PruningMethod,
    check_stages,
    renumbering,
    stages_within,
)
from visipruner.settings import INTS, NUMBERS, setting


@dataclass(frozen=True)
class PyramidDrop(PruningMethod):
    """Keep, stage by stage, the visual tokens that the next layer's last query attends to most.

    Args:
        layers: the first layers that run with fewer tokens.
        ratios: the share of the original count that stays at each.
        renumber: number the survivors 0, 1, 2, ... as published, or keep their places.
    """

    name: ClassVar[str] = "pyramiddrop"
    title: ClassVar[str] = "PyramidDrop: by attention, in steps"
    paper: ClassVar[str] = "arXiv 2410.17247 (CVPR 2025)"
    source: ClassVar[str] = "Cooperx521/PyramidDrop 6444f304"
    rule: ClassVar[str] = "the next layer's attention, in three steps"
    stage_words: ClassVar[Mapping[str, str]] = {"pyramiddrop": "Most attended"}

    layers: tuple[int, ...] = setting(
        (8, 16, 24), "First layers that run with fewer tokens", INTS, low=1, high=1000
    )
    ratios: tuple[float, ...] = setting(
        (0.5, 0.25, 0.125), "Share that stays, of the original count", NUMBERS, low=0, high=1
    )
    renumber: bool = renumbering(True)

    @classmethod
    def for_budget(cls, tokens, facts):
        layers = facts.scaled_all(cls().layers)
        if tokens >= facts.num_visual:
            return cls((), ())
        cls.check_budget(tokens, facts)

        def enough(ratio: float) -> bool:  # each stage keeps the same share of the one before
            return _mean(_powers(ratio, len(layers)), layers, facts) >= tokens

        return cls(layers, _powers(round(least_for(enough, 0.0, 1.0), 6), len(layers)))

    @classmethod
    def least(cls, facts):
        return facts.scaled_all(cls().layers)[0] * facts.num_visual / facts.layers

    @property
    def cuts_after(self):
        return tuple(layer - 1 for layer in self.layers)

    def within(self, facts):
        layers, ratios = stages_within(self.layers, self.ratios, facts, facts.last)
        return replace(self, layers=layers, ratios=ratios)

    def check(self):
        check_stages(self.layers, "ratios", self.ratios)

    def select(self, view):
        if view.layer + 1 not in self.layers or view.layer == view.num_layers - 1:
            return None
        if not len(view.visual_rows):
            return None
        stage = self.layers.index(view.layer + 1)
        score = score_of(view.next_attention_row().cpu(), view.visual_rows)
        chosen = stays(score, self.ratios[stage], view.entered)
        return view.keep_visual(
            chosen, "pyramiddrop", scores=tuple(score.tolist()), compact=self.renumber
        )

    def explain(self, trace, memory):
        if not trace.num_visual:
            return "", {}
        left = [f"{len(cut.visual)} after layer {cut.after_layer}" for cut in memory.cuts]
        return f"Visual tokens that stayed: {', '.join(left)}." if left else TOO_LATE, {}


def _powers(ratio: float, count: int) -> tuple[float, ...]:
    return tuple(ratio**stage for stage in range(1, count + 1))


def _mean(ratios, layers, facts: Facts) -> float:
    """Mean visual tokens per layer, if these shares stay from these layers on."""
    ends = [*layers[1:], facts.layers]
    spans = [max(0, end - start) for start, end in zip(layers, ends, strict=True)]
    kept = [int(facts.num_visual * ratio) for ratio in ratios]
    whole = layers[0] * facts.num_visual + sum(n * k for n, k in zip(spans, kept, strict=True))
    return whole / facts.layers


def score_of(row: Tensor, visual_rows: Tensor) -> Tensor:
    """(visual tokens,) mean over heads, from attention weights (heads, rows)."""
    return row.mean(0)[visual_rows]


def stays(score: Tensor, ratio: float, original: int) -> Tensor:
    """Ascending indices of the int(original * ratio) highest scores."""
    return score.topk(min(int(original * ratio), len(score))).indices.sort().values
