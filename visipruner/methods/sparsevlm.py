"""SparseVLM (ICML 2025, arXiv 2410.04417): text tokens that fit the picture rate its tokens.

Source of the rule: Gumpest/SparseVLMs 26a5f488, default mode; its "2_0" mode is `SparseVLMPlus`.
Raters are chosen once, before layer 0: text tokens after the picture whose share of softmax(V T^T),
mean over visual tokens, is above the mean. After layers 2, 6 and 15, the raters' mean attention in
that layer scores the visual tokens. The paper sets each layer's ratio by the rank of its attention;
the code has a table. Of n dropped tokens, the best int(0.3 n) + 1 are recycled: density peak
clustering merges them into a few tokens, which follow the kept ones. All tokens are renumbered.
Layers count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from visipruner.errors import Refused
from visipruner.levels import Facts, least_for
from visipruner.methods.base import TOO_LATE, PruningMethod, check_stages, stages_within
from visipruner.settings import INT, INTS, NUMBER, setting
from visipruner.trace import Selection

CLUSTER_OF = 10  # recycled tokens per centre


@dataclass(frozen=True)
class SparseVLM(PruningMethod):
    """Keep the visual tokens that the raters attend to most, and recycle the best of the rest.

    Args:
        layers: cut after each of these.
        keep: visual tokens that stay after each, not counting merged tokens.
        recycle: the share of the dropped tokens that is recycled; published: 0.3. 0: none.
        seed: seed of the noise that breaks ties between densities. The published code draws it from
            torch's global generator.
    """

    name: ClassVar[str] = "sparsevlm"
    title: ClassVar[str] = "SparseVLM: by the words that look at the picture"
    paper: ClassVar[str] = "arXiv 2410.04417 (ICML 2025)"
    source: ClassVar[str] = "Gumpest/SparseVLMs 26a5f488"
    rule: ClassVar[str] = (
        "attention of the words that rate, after three layers; dropped ones merged"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"places"})
    stage_words: ClassVar[Mapping[str, str]] = {"sparsevlm": "Kept and merged"}
    # Tokens of 576 that stay after each layer, at the published budgets.
    table: ClassVar[tuple] = (
        (576, 576, 576),
        (300, 200, 110),
        (303, 110, 36),
        (238, 48, 26),
        (66, 30, 17),
        (0, 0, 0),
    )

    layers: tuple[int, ...] = setting((2, 6, 15), "Cut after layers", INTS, low=0, high=1000)
    keep: tuple[int, ...] = setting(
        (300, 200, 110), "Tokens that stay after each", INTS, low=0, high=1_000_000
    )
    recycle: float = setting(0.3, "Share of the dropped that is recycled", NUMBER, low=0, high=1)
    seed: int = setting(0, "Seed", INT, low=0, high=2**31)

    @classmethod
    def for_budget(cls, tokens, facts):
        layers = facts.scaled_after(cls().layers)
        if tokens >= facts.num_visual:
            return cls((), ())
        cls.check_budget(tokens, facts)

        def few(at: float) -> bool:  # rows of the table are interpolated linearly
            return cls._mean(cls._row(at, facts), layers, facts) <= tokens

        return cls(layers, cls._row(least_for(few, 0.0, len(cls.table) - 1.0), facts))

    @classmethod
    def least(cls, facts):
        layers = facts.scaled_after(cls().layers)
        return cls._mean(cls._row(len(cls.table) - 1, facts), layers, facts)

    @classmethod
    def _row(cls, at: float, facts: Facts) -> tuple[int, ...]:
        step = min(int(at), len(cls.table) - 2)
        scale = facts.num_visual / cls.table[0][0]
        pairs = zip(cls.table[step], cls.table[step + 1], strict=True)
        return tuple(round(scale * (a + (b - a) * (at - step))) for a, b in pairs)

    @classmethod
    def _mean(cls, keep, layers, facts: Facts) -> float:
        """Mean visual tokens per layer for these settings, merged tokens included."""
        present, whole, start = facts.num_visual, 0, 0
        for layer, count in zip(layers, keep, strict=True):
            whole += (min(layer, facts.layers - 1) + 1 - start) * present
            start = min(layer, facts.layers - 1) + 1
            kept = min(count, present - 1)
            present = kept + merged_count(present - kept, cls().recycle)
        return (whole + (facts.layers - start) * present) / facts.layers

    @property
    def cuts_after(self):
        return self.layers

    def within(self, facts):
        layers, keep = stages_within(self.layers, self.keep, facts, facts.last - 1)
        return replace(self, layers=layers, keep=keep)

    def check(self):
        check_stages(self.layers, "keep", self.keep)

    def encode(self, view):
        if not len(view.visual_rows):
            view.memory.raters = view.tokens[:0]
            return
        stop = int(view.visual_rows[-1]) + 1
        visual = view.hidden[0].index_select(0, view.visual_rows.to(view.hidden.device))
        text = view.hidden[0, stop:]
        if not len(text):
            raise Refused("SparseVLM needs text after the picture.")
        view.spend(2 * visual.numel() * len(text))
        view.memory.raters = view.tokens[stop:][raters(visual, text).cpu()]

    def queries(self, view):
        if view.layer not in self.layers or view.layer == view.num_layers - 1:
            return None
        if not len(view.memory.raters):
            raise Refused(
                "SparseVLM found no text token that rates the picture; in a stack it comes before "
                "late entry."
            )
        return torch.isin(view.tokens, view.memory.raters).nonzero().flatten()

    def select(self, view):
        if view.layer not in self.layers or view.layer == view.num_layers - 1:
            return None
        if not len(view.visual_rows):
            return None
        rows = view.attention_rows()[:, :, view.visual_rows.to(view.hidden.device)]
        return self._choose(view, self._score(view, rows), self.layers.index(view.layer))

    def _score(self, view, rows: Tensor) -> Tensor:
        """(visual tokens,) from the raters' attention (heads, raters, visual tokens)."""
        return rows.mean((0, 1)).cpu()

    def _choose(self, view, score: Tensor, stage: int) -> Selection:
        count = min(self.keep[stage], len(score) - 1)
        kept = score.topk(count).indices.sort().values
        again = recycled(score, kept, self.recycle)
        block = view.hidden[0, view.visual_rows.to(view.hidden.device)]
        vectors = block[again.to(block.device)]
        noise = view.noise(self.seed + view.layer, len(again))
        centres, owner, merged = cluster(vectors, noise)
        token = view.visual_tokens
        ids = token[again[centres]].tolist()
        into = {int(token[a]): ids[o] for a, o in zip(again.tolist(), owner.tolist(), strict=True)}
        # Merged tokens follow the last visual token.
        stop = int(view.visual_rows[-1]) + 1
        stays = view.rows.is_text.clone()
        stays[view.visual_rows[kept]] = True
        before, after = stays[:stop].nonzero().flatten(), torch.arange(stop, len(view.tokens))
        states = view.hidden[0]
        hidden = torch.cat(
            [states[before.to(states.device)], merged.to(states.dtype), states[stop:]]
        )
        return Selection(
            (*view.tokens[before].tolist(), *ids, *view.tokens[after].tolist()),
            self.name,
            tuple(score.tolist()),
            hidden[None],
            into,
            compact=True,
        )

    def explain(self, trace, memory):
        if not trace.num_visual:
            return "", {}
        left = [f"{len(cut.visual)} after layer {cut.after_layer}" for cut in memory.cuts]
        if not left:
            return TOO_LATE, {}
        return f"{len(memory.raters)} words rated. Tokens that went on: {', '.join(left)}.", {}


@dataclass(frozen=True)
class SparseVLMPlus(SparseVLM):
    """SparseVLM+: position-corrected attention of the strongest heads; places kept, no merging.

    Attention is divided by the rotary score of a query of ones and a key of ones at that distance.
    Only the `heads` with the largest sums over raters and visual tokens count.

    Args:
        heads: how many heads count; published: 14 for every model.
    """

    name: ClassVar[str] = "sparsevlm_plus"
    title: ClassVar[str] = "SparseVLM+: the same, freed of place, without merging"
    rule: ClassVar[str] = "as SparseVLM, its attention freed of place, the strongest heads alone"
    needs: ClassVar[frozenset[str]] = frozenset()
    stage_words: ClassVar[Mapping[str, str]] = {"sparsevlm_plus": "Highest rated"}
    table: ClassVar[tuple] = (
        (576, 576, 576),
        (300, 200, 118),
        (238, 108, 60),
        (246, 54, 28),
        (66, 34, 20),
        (0, 0, 0),
    )

    keep: tuple[int, ...] = setting(
        (300, 200, 118), "Tokens that stay after each", INTS, low=0, high=1_000_000
    )
    recycle: float = 0.0
    heads: int = setting(14, "Heads that count", INT, low=1, high=1000)

    def _score(self, view, rows):
        cos, sin = (part[0] for part in view.turns)
        raters = torch.isin(view.tokens, view.memory.raters).nonzero().flatten()
        kernel = place_kernel(cos, sin, raters, view.visual_rows)
        view.spend(4 * kernel.numel() * cos.shape[1])
        if bool((kernel <= 0).any()):
            raise Refused(
                "SparseVLM+ cannot free this prompt's attention of its places: its kernel is not "
                "positive at these distances."
            )
        return corrected_score(rows, kernel, self.heads).cpu()

    def _choose(self, view, score, stage):
        count = min(self.keep[stage], len(score) - 1)
        kept = score.topk(count).indices.sort().values
        return view.keep_visual(kept, self.name, scores=tuple(score.tolist()))


def raters(visual: Tensor, text: Tensor) -> Tensor:
    """Ascending indices of the text tokens that rate.

    Args:
        visual: (visual tokens, width); text: (text tokens, width), embeddings before layer 0.
    """
    score = (visual.float() @ text.float().T).softmax(-1).mean(0)
    return (score > score.mean()).nonzero().flatten()


def merged_count(dropped: int, share: float) -> int:
    """The number of merged tokens when `dropped` tokens are dropped and `share` is recycled."""
    if not share or dropped < 1:
        return 0
    return int(min(int(share * dropped) + 1, dropped) / CLUSTER_OF) + 1


def recycled(score: Tensor, kept: Tensor, share: float) -> Tensor:
    """The best int(share * n) + 1 of the n tokens that are not kept, best first."""
    gone = torch.ones(len(score), dtype=torch.bool)
    gone[kept] = False
    gone = gone.nonzero().flatten()
    if not share:
        return gone[:0]
    count = min(int(share * len(gone)) + 1, len(gone))
    return gone[score[gone].topk(count).indices]


def cluster(vectors: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Density peak clustering (kNN), as published.

    Args:
        vectors: (n, width); noise: (n,) in [0, 1).

    Returns:
        centres (c,) indices, largest first; owner (n,) each vector's centre; means (c, width).
    """
    vectors, n = vectors.float(), len(vectors)
    if not n:
        empty = torch.empty(0, dtype=torch.long)
        return empty, empty, vectors
    count = int(n / CLUSTER_OF) + 1
    distance = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance / vectors.shape[1] ** 0.5
    nearest = distance.topk(count, largest=False).values
    density = (-(nearest**2).mean(-1)).exp() + 1e-6 * noise.to(vectors.device)
    denser = density[None] > density[:, None]  # (token, other)
    parent = torch.where(denser, distance, distance.max()).min(-1).values
    centres = (density * parent).topk(count).indices
    owner = distance[:, centres].argmin(1)
    owner[centres] = torch.arange(count, device=owner.device)
    sums = torch.zeros(count, vectors.shape[1], device=vectors.device)
    sums.index_add_(0, owner, vectors)
    means = sums / (torch.bincount(owner, minlength=count)[:, None] + 1e-6)
    return centres.cpu(), owner.cpu(), means


def place_kernel(cos: Tensor, sin: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """(queries, keys): rotary scores of a query and a key of ones, over sqrt(head width).

    Args:
        cos, sin: (rows, head width), of the rows' places; queries, keys: rows.
    """
    cos, sin = cos.float(), sin.float()
    queries, keys = queries.to(cos.device), keys.to(cos.device)
    turned = cos[queries] @ cos[keys].T + sin[queries] @ sin[keys].T
    return turned / cos.shape[1] ** 0.5


def corrected_score(rows: Tensor, kernel: Tensor, heads: int) -> Tensor:
    """(visual tokens,) from the strongest heads of attention (heads, raters, visual tokens)."""
    rows = rows / kernel
    strongest = rows.sum((1, 2)).topk(min(heads, len(rows))).indices
    return rows[strongest].mean(0).mean(0)
