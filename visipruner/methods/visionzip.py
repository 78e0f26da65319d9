"""VisionZip (CVPR 2025, arXiv 2412.04467): keep what CLIP's class token attends to, merge the rest.

Source of the rule: dvlab-research/VisionZip 3151f6df. Everything comes from the tower's layer whose
output the projector reads. Dominant: the class token itself and the dominant - 1 patches that it
attends to most, summed over heads. Contextual: of the other patches, every step-th is a target. The
others go to the target whose keys, averaged over heads, are nearest by cosine. A target becomes
itself plus the mean of its group. The language model gets the class token, dominant patches in
spatial order, then contextual ones, all renumbered. The code's number of dominant tokens includes
the class token; the paper's does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from visipruner.errors import Refused
from visipruner.methods.base import BEFORE, PruningMethod, check_one_picture, stayed
from visipruner.settings import INT, setting
from visipruner.trace import Selection


@dataclass(frozen=True)
class VisionZip(PruningMethod):
    """Keep what the vision tower's class token attends to, and merge the rest into a few tokens.

    Args:
        dominant: tokens that stay unchanged, class token included. If it exceeds the picture's
            tokens and `contextual` is 0, nothing is pruned.
        contextual: tokens that all others are merged into.
    """

    name: ClassVar[str] = "visionzip"
    title: ClassVar[str] = "VisionZip: by the vision tower's class token, the rest merged"
    paper: ClassVar[str] = "arXiv 2412.04467 (CVPR 2025)"
    source: ClassVar[str] = "dvlab-research/VisionZip 3151f6df"
    rule: ClassVar[str] = (
        "attention of CLIP's class token; the rest merged into a few by their keys"
    )
    where: ClassVar[str] = BEFORE
    whole: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"tower", "places"})
    stage_words: ClassVar[Mapping[str, str]] = {"visionzip": "Kept and merged"}

    dominant: int = setting(54, "Dominant tokens, CLS among them", INT, low=1, high=1_000_000)
    contextual: int = setting(10, "Contextual tokens", INT, low=0, high=1_000_000)

    @classmethod
    def for_budget(cls, tokens, facts):
        total, usual = round(tokens), cls()
        cls.check_budget(total, facts)
        if total >= facts.num_visual:
            return cls(facts.num_visual + 1, 0)
        merged = usual.contextual / (usual.contextual + usual.dominant)
        contextual = max(1, round(total * merged))
        return cls(total - contextual, contextual)

    @classmethod
    def least(cls, facts):
        return 2.0

    def check_for(self, facts):
        if not self._keeps_all(facts.num_visual):
            self._check_room(facts.num_visual)

    def _keeps_all(self, patches: int) -> bool:
        return self.dominant > patches and not self.contextual

    def _check_room(self, patches: int):
        if patches - (self.dominant - 1) < self.contextual:
            raise Refused(
                f"VisionZip with {self.dominant} dominant and {self.contextual} contextual tokens "
                f"needs more than the picture's {patches} patches."
            )

    def encode(self, view):
        if self._keeps_all(len(view.visual_rows)):
            return None
        tower, patches = view.tower, len(view.visual_rows)
        check_one_picture(view, "VisionZip", tower.cls_attention.shape[1])
        self._check_room(patches)
        left = patches - (self.dominant - 1)
        score = tower.cls_attention.sum(0)
        dominant = score.topk(self.dominant - 1).indices.sort().values
        targets, owner = contextual_groups(tower.keys, dominant, self.contextual)
        merged = merge(tower.hidden[1:], targets, owner)
        macs = tower.keys.shape[-1] * len(targets) * (left - len(targets))
        view.spend(2 * macs)
        return self._selection(view, dominant.cpu(), targets.cpu(), owner.cpu(), merged, score)

    def _selection(self, view, dominant, targets, owner, merged, score):
        token = view.visual_tokens
        start, stop = view.visual_ranges[0]
        class_token = view.free_token
        block = [class_token, *token[dominant].tolist(), *token[targets].tolist()]
        keep = (*view.tokens[:start].tolist(), *block, *view.tokens[stop:].tolist())
        made = view.project(torch.cat([view.tower.hidden[:1], merged]).to(view.hidden.dtype))
        states = view.hidden[0]
        hidden = torch.cat(
            [states[:start], made[:1], states[start + dominant], made[1:], states[stop:]]
        )
        into = {}
        for patch, target in zip(owner[0].tolist(), owner[1].tolist(), strict=True):
            into[int(token[patch])] = int(token[targets[target]])
        scores = tuple(score.tolist())
        return Selection(keep, "visionzip", scores, hidden[None], into, compact=True)

    def explain(self, trace, memory):
        if not memory.cuts:
            return "", {}
        how = f"{self.contextual} of them merged from the rest, before the first layer"
        return stayed(len(memory.cuts[0].visual), how), {}


def contextual_groups(keys: Tensor, dominant: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose the target patches, and assign every other patch to a target.

    Args:
        keys: (heads, 1 + patches, head width), of the class token first.
        dominant: dominant patches, which are neither.

    Returns:
        targets (count,), patches in spatial order; owners (2, others): patch, index of its target.
    """
    metric = F.normalize(keys.float().mean(0)[1:], dim=-1)
    rest = torch.ones(len(metric), dtype=torch.bool, device=metric.device)
    rest[dominant] = False
    rest = rest.nonzero().flatten()
    step = max(1, len(rest) // max(count, 1))
    chosen = torch.arange(count, device=rest.device) * step
    targets = rest[chosen]
    other = torch.ones(len(rest), dtype=torch.bool, device=rest.device)
    other[chosen] = False
    others = rest[other]
    if not count:
        return targets, torch.empty(2, 0, dtype=torch.long, device=rest.device)
    nearest = (metric[others] @ metric[targets].T).argmax(1)
    return targets, torch.stack([others, nearest])


def merge(hidden: Tensor, targets: Tensor, owner: Tensor) -> Tensor:
    """(targets, width): each target plus the mean of its group; unchanged if the group is empty.

    Args:
        hidden: (patches, width); targets and owner: as `contextual_groups` returns them.
    """
    hidden = hidden.float()
    sums = torch.zeros(len(targets), hidden.shape[1], device=hidden.device)
    sums.index_add_(0, owner[1], hidden[owner[0]])
    counts = torch.bincount(owner[1], minlength=len(targets)).clamp_min(1)
    return hidden[targets] + sums / counts[:, None]
