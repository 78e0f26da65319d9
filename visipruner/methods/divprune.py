"""DivPrune (CVPR 2025, arXiv 2503.02175): keep patches that are far from each other.

Source of the rule: vbdi/divprune 799e2d95. It runs before layer 0 on the projected features and
reads no text. Distance is 1 - cosine. The first pick is the patch that is farthest from its nearest
neighbour. Each further pick is the patch whose nearest pick is farthest. The code keeps
round(ratio * 576) patches (ratio 0.098: 56 patches) and renumbers all tokens. It picks from all
crops of a picture together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from visipruner.methods.base import BEFORE, PruningMethod, explain_one_cut, renumbering
from visipruner.settings import INT, setting


@dataclass(frozen=True)
class DivPrune(PruningMethod):
    """Keep the visual tokens that are farthest from each other.

    Args:
        keep: visual tokens that stay; all, if the picture has no more.
        renumber: number the survivors 0, 1, 2, ... as published, or keep their places.
    """

    name: ClassVar[str] = "divprune"
    title: ClassVar[str] = "DivPrune: patches unlike each other"
    paper: ClassVar[str] = "arXiv 2503.02175 (CVPR 2025)"
    source: ClassVar[str] = "vbdi/divprune 799e2d95"
    rule: ClassVar[str] = "the largest least distance between patches, picked one by one"
    where: ClassVar[str] = BEFORE
    stage_words: ClassVar[Mapping[str, str]] = {"divprune": "Most diverse"}

    keep: int = setting(56, "Patches that stay", INT, low=0, high=1_000_000)
    renumber: bool = renumbering(True)

    @classmethod
    def for_budget(cls, tokens, facts):
        return cls(round(tokens))

    def encode(self, view):
        present = len(view.visual_rows)
        if self.keep >= present:
            return None
        features = view.hidden[0].index_select(0, view.visual_rows.to(view.hidden.device))
        view.spend(2 * present * present * features.shape[1])
        order, gaps = spread(distances(features), self.keep)
        scores = torch.zeros(present, device="cpu")  # of a pick: its distance when it was picked
        scores[order.cpu()] = gaps.cpu()
        return view.keep_visual(
            order.cpu().sort().values,
            "divprune",
            scores=tuple(scores.tolist()),
            compact=self.renumber,
        )

    def explain(self, trace, memory):
        if not memory.cuts:
            return "", {}
        how = "far from each other, before the first layer"
        return explain_one_cut(trace, memory, how), {}


def distances(features: Tensor) -> Tensor:
    """(patches, patches) float32: 1 - cosine, from features (patches, width)."""
    unit = F.normalize(features.float(), dim=-1)
    return 1 - unit @ unit.T


def spread(distance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Pick `count` patches one by one.

    Args:
        distance: (patches, patches).

    Returns:
        the picks in order; the distance of each to the nearest pick before it, of the first to its
        nearest neighbour.
    """
    order, gaps = [], []
    # A patch is nearest to itself, so its nearest neighbour is the second.
    nearest = distance.kthvalue(2, dim=0).values if len(distance) > 1 else distance[0]
    for number in range(count):
        pick = nearest.argmax()
        order.append(pick)
        gaps.append(nearest[pick])
        nearest = distance[pick] if not number else torch.minimum(nearest, distance[pick])
        nearest = nearest.index_fill(0, pick, -torch.inf)
    if not order:
        empty = distance.new_empty(0)
        return empty.long(), empty
    return torch.stack(order), torch.stack(gaps)
