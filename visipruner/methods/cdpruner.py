"""CDPruner (NeurIPS 2025, arXiv 2506.10967): diverse patches, weighted by the question.

Source of the rule: Theia-4869/CDPruner 9541616c. It is applied once, before layer 0 (layers count
from 0), to the projected features. The similarity of two patches is their cosine. The relevance of
a patch is *minus* the cosine of CLIP's embeddings of patch and question, mean over the question's
segments of 77 tokens, scaled to 0..1. The kernel multiplies similarities by both relevances. Greedy
MAP inference of its determinantal point process picks the patches. Survivors stay in order and are
renumbered.

Where code and paper differ: the paper has no minus; the author confirmed that it is intended, and
seen only with CLIP as LLaVA uses it. The paper's weight of relevance, theta, is only a comment in
the code. The code normalises in the model's precision; here all is float32. If more patches are
asked for than the features' rank allows, the code picks by rounding noise, and some patches twice;
here that is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from visipruner.errors import Refused
from visipruner.layout import NO_PATCH
from visipruner.methods.base import BEFORE, PruningMethod, renumbering, stayed
from visipruner.settings import INT, setting

# A gain's least share of what its pick would have gained as the first. Beyond the rank of random
# features, rounding in float32 reaches 1e-5.
NOISE = 3e-5


@dataclass(frozen=True)
class CDPruner(PruningMethod):
    """Keep patches that differ from each other, weighted by their relevance to the question.

    Args:
        keep: visual tokens that stay; all, if the picture has no more.
        renumber: number the survivors 0, 1, 2, ... as published, or keep their places.
    """

    name: ClassVar[str] = "cdpruner"
    title: ClassVar[str] = "CDPruner: diverse, weighted by the question"
    paper: ClassVar[str] = "arXiv 2506.10967 (NeurIPS 2025)"
    source: ClassVar[str] = "Theia-4869/CDPruner 9541616c"
    rule: ClassVar[str] = "diverse patches, weighted by minus CLIP's cosine with the question"
    where: ClassVar[str] = BEFORE
    needs: ClassVar[frozenset[str]] = frozenset({"clip_text"})
    stage_words: ClassVar[Mapping[str, str]] = {"cdpruner": "Diverse patches"}

    keep: int = setting(64, "Patches that stay", INT, low=1, high=1_000_000)
    renumber: bool = renumbering(True)

    @classmethod
    def for_budget(cls, tokens, facts):
        cls.check_budget(round(tokens), facts)
        return cls(round(tokens))

    @classmethod
    def least(cls, facts):
        return 1.0

    def encode(self, view):
        rows, patches = view.visual_rows, view.patches
        if self.keep >= len(rows):
            return None
        if bool((patches == NO_PATCH).any()):
            raise Refused(
                "CDPruner needs patches of the picture, and another method has made tokens that "
                "are none. In a stack it comes first."
            )
        features = view.hidden[0, rows]
        image = view.clip.image.to(features.device)[patches]
        text = view.clip.text.to(features.device)
        score = relevance(image, text)
        if not bool(score.isfinite().all()):
            raise Refused(
                "CDPruner cannot weigh these patches: CLIP's embeddings are not finite, or all "
                "patches are equally near to the question."
            )
        order, _, share = picks(kernel(features, score), self.keep)
        view.spend(2 * len(rows) * (text.numel() + features[0].numel() * len(rows)))
        view.spend(len(rows) * self.keep * (self.keep - 1))  # 2 per row and earlier pick
        check_rank(share)
        return view.keep_visual(
            order.sort().values.cpu(),
            "cdpruner",
            scores=tuple(score.tolist()),
            compact=self.renumber,
        )

    def explain(self, trace, memory):
        if not memory.cuts:
            return "", {}
        how = "picked before the first layer to be diverse, and weighted by CLIP's relevance"
        return stayed(len(memory.cuts[0].visual), how), {}


def relevance(image: Tensor, text: Tensor) -> Tensor:
    """(patches,) float32, about 0 to 1: how little CLIP sees the question in each patch.

    Not finite if all patches are equally near to the question.

    Args:
        image: (patches, width); text: (segments, width): CLIP's embeddings, of any length.
    """
    cosines = F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
    away = -cosines.mean(1)
    return (away - away.min() + 1e-6) / (away.max() - away.min())


def kernel(features: Tensor, score: Tensor) -> Tensor:
    """(patches, patches) float32: cosines of (patches, width) features, times both relevances."""
    unit = F.normalize(features.float(), dim=-1)
    return score[:, None] * (unit @ unit.T) * score


def picks(kernel: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy MAP inference of a determinantal point process, in the way of a Cholesky factor.

    Returns:
        (count,) each: indices, best first; their gains; and each gain as a share of what the pick
        would have gained as the first, which is rounding noise once the rank is used up.
    """
    alone = kernel.diagonal()
    gain, factor = alone.clone(), kernel.new_zeros(count, len(kernel))
    order, gains = [], []
    for step in range(count):
        best = gain.argmax().view(1)  # it stays on the device: no waiting for the host
        order.append(best)
        gains.append(gain[best])
        known = factor[:step, best].T @ factor[:step]
        row = (kernel[best] - known) / gains[-1].sqrt()
        factor[step] = row[0]
        gain = (gain - row[0].square()).index_fill(0, best, -torch.inf)
    order, gains = torch.cat(order), torch.cat(gains)
    return order, gains, gains / alone[order]


def check_rank(share: Tensor):
    """Refuse picks by rounding noise.

    Args:
        share: as `picks` returns it.

    Raises:
        Refused: one sentence with the number of patches that can be picked.
    """
    sound = (share > NOISE).tolist()  # NaN is not
    if not all(sound):
        most = sound.index(False)
        raise Refused(
            f"CDPruner can pick {most} patches of this picture, not {len(sound)}: then the rank of "
            "its features is used up."
        )
