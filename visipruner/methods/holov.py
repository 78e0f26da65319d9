"""HoloV (NeurIPS 2025, arXiv 2510.02912): a share for every part of the picture.

Read for the rule, not run, and no recorded decision exists: obananas/HoloV ddcc937e (utils.py) and
07c159b8 (its LLaVA). It runs before layer 0 on the projected features. The patches, in reading
order, are cut into runs of equal length ("crops"). A patch's score is 1000 * a + beta * v. a is the
class token's attention, mean over heads, in the tower's layer that the projector reads. v is the
variance of its cosines to the other patches of its run, scaled so that its mean in the run equals
that of 1000 * a. A run's score is its mean, in which v therefore cancels but for rounding: it is
1000 * (1 + beta) times the run's mean attention. Runs get shares of `keep` in proportion to their
scores, rounded down; what is left goes one by one to the highest scores. Within a run, attention
alone decides. The paper's crops are regions; the code's are runs of patches in reading order, one
and a half rows for 16 crops of 24 x 24. A run whose share exceeds its length keeps all, and the
code fills up with vectors of zeros; here fewer tokens stay instead. The code feeds each run by
falling attention and renumbers; with places kept, the order is the picture's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from visipruner.methods.base import (
    BEFORE,
    PruningMethod,
    check_one_picture,
    explain_one_cut,
    renumbering,
)
from visipruner.settings import INT, NUMBER, setting
from visipruner.trace import Selection

SCALE = 1e3  # of attention, against the variance
TINY = 1e-6


@dataclass(frozen=True)
class HoloV(PruningMethod):
    """Keep a share of every part of the picture, by attention and variety.

    Args:
        keep: visual tokens that stay at most; all, if the picture has no more.
        crops: the number of runs of patches.
        beta: weight of the variance of similarities.
        renumber: number the survivors 0, 1, 2, ... as published, or keep their places.
    """

    name: ClassVar[str] = "holov"
    title: ClassVar[str] = "HoloV: a share for every part of the picture"
    paper: ClassVar[str] = "arXiv 2510.02912 (NeurIPS 2025)"
    source: ClassVar[str] = "obananas/HoloV ddcc937e, read"
    rule: ClassVar[str] = "a quota per run of patches; within it, attention of CLIP's class token"
    where: ClassVar[str] = BEFORE
    whole: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"tower", "places"})
    stage_words: ClassVar[Mapping[str, str]] = {"holov": "Kept by quota"}

    keep: int = setting(64, "Patches that stay", INT, low=0, high=1_000_000)
    crops: int = setting(16, "Runs of patches with a quota each", INT, low=1, high=1_000_000)
    beta: float = setting(0.09, "Weight of the variety", NUMBER, low=0, high=1000)
    renumber: bool = renumbering(True)

    @classmethod
    def for_budget(cls, tokens, facts):
        return cls(round(tokens))

    def encode(self, view):
        patches = len(view.visual_rows)
        if self.keep >= patches:
            return None
        attention = view.tower.cls_attention.mean(0)
        check_one_picture(view, "HoloV", len(attention))
        features = view.hidden[0].index_select(0, view.visual_rows.to(view.hidden.device))
        runs = lengths(patches, self.crops)
        view.spend(sum(2 * length**2 * features.shape[1] for length in runs if length > 1))
        order = choose(features, attention, runs, self.keep, self.beta).cpu()
        scores = tuple(attention.tolist())
        if not self.renumber:
            return view.keep_visual(order.sort().values, "holov", scores=scores)
        start, stop = view.visual_ranges[0]
        tokens, kept = view.tokens, view.visual_tokens[order]
        keep = (*tokens[:start].tolist(), *kept.tolist(), *tokens[stop:].tolist())
        return Selection(keep, "holov", scores, compact=True)

    def explain(self, trace, memory):
        if not memory.cuts:
            return "", {}
        how = f"at most {self.keep}, by a quota for each of {self.crops} runs"
        return explain_one_cut(trace, memory, how), {}


def lengths(patches: int, crops: int) -> list[int]:
    """Lengths of the runs in reading order; the first ones are one longer if they must differ."""
    size, more = divmod(patches, crops)
    found = (size + (number < more) for number in range(crops))
    return [length for length in found if length]


def choose(features: Tensor, attention: Tensor, runs: list[int], keep: int, beta: float) -> Tensor:
    """The kept patches, run by run, each by falling attention.

    Args:
        features: (patches, width); attention: (patches,).
        runs: the lengths of the runs.
    """
    parts = list(zip(features.split(runs), attention.split(runs), strict=True))
    shares = quotas(torch.stack([run_score(*part, beta) for part in parts]), keep)
    kept, start = [], 0
    for (_, mine), count in zip(parts, shares, strict=True):
        kept.append(start + mine.topk(min(count, len(mine))).indices)
        start += len(mine)
    return torch.cat(kept)


def run_score(features: Tensor, attention: Tensor, beta: float) -> Tensor:
    """A run's mean score, from its features (patches, width) and attention (patches,)."""
    count = len(features)
    if count == 1:
        return attention.mean()  # as published: not scaled
    unit = features.float()
    unit = unit / (unit.norm(dim=1, keepdim=True) + TINY)
    similar = unit @ unit.T
    similar = similar - similar.diag().diag()  # a patch is not compared with itself
    mean = similar.sum(1) / (count - 1)
    # As published, the zero on the diagonal counts in the sum of squares.
    variance = ((similar - mean[:, None]) ** 2).sum(1) / (count - 1)
    attention = attention * SCALE
    variance = variance * (attention.abs().mean() / (variance.abs().mean() + TINY))
    return (attention + beta * variance).mean()


def quotas(scores: Tensor, keep: int) -> list[int]:
    """How many patches each run keeps at most; together `keep`."""
    weights = scores / (scores.sum() + TINY)
    share = (weights * keep).floor().long()
    left = min(keep - int(share.sum()), len(weights))
    share[weights.topk(left).indices] += 1
    return share.tolist()
