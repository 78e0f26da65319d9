"""VisPruner (ICCV 2025, arXiv 2412.01818): half by CLIP's class token, half the least redundant.

Source of the rule: Theia-4869/VisPruner aefa01ad. Everything comes from the tower's layer whose
output the projector reads. Important: the int(keep * important) patches that the class token
attends to most, mean over heads. Diverse: the other patches, in descending attention, are thinned
by rounds. A round splits the list into every other one; up to 8 of the first half, those most
similar to any patch of the second half by the cosine of the tower's features, are dropped. What is
left of the first half, in order of similarity, then the second half, is the next round's list. The
code stops with an error if the number of other patches is odd, or if a round should drop more than
half; here both are refused. All tokens are renumbered, as in a shorter prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from visipruner.errors import Refused
from visipruner.levels import nearest_to
from visipruner.methods.base import (
    BEFORE,
    PruningMethod,
    check_one_picture,
    explain_one_cut,
    renumbering,
)
from visipruner.settings import INT, NUMBER, setting

PER_ROUND = 8  # the most patches that a round drops


@dataclass(frozen=True)
class VisPruner(PruningMethod):
    """Keep patches that the vision tower's class token attends to, and patches unlike the others.

    Args:
        keep: visual tokens that stay; all, if the picture has no more.
        important: the share of them that is chosen by attention; published: 0.5.
        renumber: number the survivors 0, 1, 2, ... as published, or keep their places.
    """

    name: ClassVar[str] = "vispruner"
    title: ClassVar[str] = "VisPruner: half by attention, half by diversity"
    paper: ClassVar[str] = "arXiv 2412.01818 (ICCV 2025)"
    source: ClassVar[str] = "Theia-4869/VisPruner aefa01ad"
    rule: ClassVar[str] = "attention of CLIP's class token; then the patches least like the others"
    where: ClassVar[str] = BEFORE
    whole: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"tower"})
    stage_words: ClassVar[Mapping[str, str]] = {"vispruner": "Important, diverse"}

    keep: int = setting(64, "Patches that stay", INT, low=1, high=1_000_000)
    important: float = setting(0.5, "Share chosen by attention", NUMBER, low=0, high=1)
    renumber: bool = renumbering(True)

    @classmethod
    def for_budget(cls, tokens, facts):
        cls.check_budget(tokens, facts)
        return cls(int(nearest_to(cls.reachable(facts), tokens)))

    @classmethod
    def reachable(cls, facts):
        share = cls().important
        counts = range(1, facts.num_visual)
        able = [n for n in counts if not why_not(facts.num_visual, n, share)]
        return [*able, facts.num_visual]

    def check_for(self, facts):
        if reason := why_not(facts.num_visual, self.keep, self.important):
            raise Refused(reason)

    def encode(self, view):
        patches = len(view.visual_rows)
        if self.keep >= patches:
            return None
        tower = view.tower
        check_one_picture(view, "VisPruner", tower.cls_attention.shape[1])
        if reason := why_not(patches, self.keep, self.important):
            raise Refused(reason)
        score = tower.cls_attention.mean(0)
        order = score.argsort(descending=True)
        first = int(self.keep * self.important)
        features = F.normalize(tower.hidden[1:].float(), dim=-1)
        diverse, products = thin(features, order[first:], self.keep - first)
        view.spend(2 * products * features.shape[1])
        kept = torch.cat([order[:first], diverse]).sort().values.cpu()
        scores = tuple(score.tolist())
        return view.keep_visual(kept, "vispruner", scores=scores, compact=self.renumber)

    def explain(self, trace, memory):
        if not memory.cuts:
            return "", {}
        first = int(self.keep * self.important)
        how = f"{first} by attention and {self.keep - first} by diversity, before the first layer"
        return explain_one_cut(trace, memory, how), {}


def why_not(patches: int, keep: int, important: float) -> str:
    """Why the published rounds cannot keep this many of the patches; "" if they can."""
    diverse = keep - int(keep * important)
    left = patches - (keep - diverse)
    if keep >= patches or not diverse:
        return ""
    if left % 2:
        return (
            f"VisPruner cannot keep {keep} of {patches} patches: {left} are left after those "
            f"chosen by attention, and its rounds need an even number. Try {keep + 1} or "
            f"{keep + 2}."
        )
    while left > diverse:
        drop = min(PER_ROUND, left - diverse)
        if drop > left // 2:
            return (
                f"VisPruner cannot keep as few as {keep} of {patches} patches: its last rounds "
                "would drop more than half of what is left."
            )
        left -= drop
    return ""


def thin(features: Tensor, order: Tensor, count: int) -> tuple[Tensor, int]:
    """Drop the most redundant patches until `count` are left.

    Args:
        features: (patches, width), normalised.
        order: the patches to thin, in the order that decides the first split. `why_not` says
            which numbers of patches work.

    Returns:
        the list that is left, in its own order; how many inner products were computed.
    """
    products = 0
    if not count:
        return order[:0], products
    while len(order) > count:
        drop = min(PER_ROUND, len(order) - count)
        first, second = order[::2], order[1::2]
        nearest = (features[first] @ features[second].T).amax(1)
        products += len(first) * len(second)
        left = first[nearest.argsort(descending=True)[drop:]]
        order = torch.cat([left, second])
    return order, products
