"""Analysis 2: which tokens look at which, pooled into blocks; no N x N weights are ever kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from visipruner.analyses.base import Figure, Grid
from visipruner.analyses.observed import Observed, Result, check_number_of, numbers
from visipruner.layout import Range, gaps
from visipruner.observing import Observer
from visipruner.settings import INT, setting

MOST_BLOCKS = 64
QUERIES = 64  # whose weights are in memory at a time
SCALE = (-4.0, 0.0)  # powers of ten of a share of attention


@dataclass(frozen=True)
class TokenMaps(Result):
    """Attention between blocks of tokens, per layer."""

    blocks: tuple  # (blocks,) of (first token, last + 1)
    visual: tuple  # (blocks,) whether a block holds visual tokens; no block holds both kinds
    head: int | None  # None: the mean over heads
    layers: tuple  # (maps,) which layers the maps are of
    # (maps, blocks, blocks): the share of attention that an average token of the block in this
    # row gives to all tokens of the block in this column; a row adds up to 1. None: not there.
    shares: tuple


@dataclass(frozen=True)
class TokenMap(Observed):
    """The whole attention matrix, pooled."""

    name: ClassVar[str] = "tokens"
    title: ClassVar[str] = "Token-by-token attention"
    question: ClassVar[str] = "Which tokens look at which?"
    source: ClassVar[str] = "VisiPruner, section 3: attention maps"

    layer: int | None = setting(None, "Layer; none is every layer", INT, high=10_000, optional=True)
    head: int | None = setting(None, "Head; none is the mean", INT, high=10_000, optional=True)

    def check(self, vlm, prompt):
        config = vlm.model.config.get_text_config()
        if self.layer is not None:
            check_number_of("layer", self.layer, config.num_hidden_layers, "layers")
        if self.head is not None:
            check_number_of("head", self.head, config.num_attention_heads, "heads")

    def observer(self, vlm, prompt):
        return _Pooling(blocks_of(prompt.layout), self.layer, self.head)

    def conclude(self, vlm, prompt, observer, trace) -> TokenMaps:
        spans = prompt.layout.spans
        visual = [any(a <= start < b for a, b in spans) for start, _ in observer.blocks]
        layers, shares = zip(*observer.found, strict=True)
        return TokenMaps(tuple(observer.blocks), tuple(visual), self.head, layers, shares)

    def figures(self, result: TokenMaps) -> list[Figure]:
        pairs = zip(result.blocks, result.visual, strict=True)
        names = [_name(block, visual) for block, visual in pairs]
        return [
            _figure(result, names, layer, shares)
            for layer, shares in zip(result.layers, result.shares, strict=True)
        ]


def blocks_of(layout) -> list[Range]:
    """Ranges of tokens, none of which mixes text and visual tokens; about MOST_BLOCKS at most."""
    ranges = sorted((*layout.spans, *gaps(layout.spans, layout.length)))
    size = 1
    while size < layout.length and _count(ranges, size) > MOST_BLOCKS:
        size += 1
    return [
        (first, min(first + size, stop))
        for start, stop in ranges
        for first in range(start, stop, size)
    ]


def _count(ranges: Sequence[Range], size: int) -> int:
    return sum(math.ceil((stop - start) / size) for start, stop in ranges)


class _Pooling(Observer):
    """Keeps (layer, shares) of the layers asked for."""

    def __init__(self, blocks: list[Range], layer: int | None, head: int | None):
        self.blocks, self.layer, self.head, self.found = blocks, layer, head, []

    def queries(self, view):
        return torch.arange(len(view.tokens)) if self.layer in (None, view.layer) else None

    def observe(self, view):
        if self.layer in (None, view.layer):
            self.found.append((view.layer, self._pooled(view)))

    def _pooled(self, view) -> tuple:
        block, count = self._block_of_rows(view), len(self.blocks)
        sums = torch.zeros(count, count, device=view.keys.device)
        columns = block.to(sums.device)
        for rows, weights in view.attention_blocks(QUERIES):
            weights = weights.mean(0) if self.head is None else weights[self.head]
            per_key = weights.new_zeros(len(rows), count).index_add_(1, columns, weights)
            sums.index_add_(0, columns[rows.to(sums.device)], per_key)
        members = torch.bincount(block, minlength=count)
        shares = numbers(sums.cpu() / members[:, None])
        there = (members > 0).tolist()
        return tuple(
            tuple(
                share if there[row] and there[column] and column <= row else None
                for column, share in enumerate(line)
            )
            for row, line in enumerate(shares)
        )

    def _block_of_rows(self, view) -> Tensor:
        """(rows,) the block of each row."""
        starts = torch.tensor([start for start, _ in self.blocks])
        # A token that a method made stands in the place of others, so its place tells its block.
        tokens = torch.where(view.tokens < view.layout.length, view.tokens, view.places)
        return torch.searchsorted(starts, tokens, right=True) - 1


def _name(block: Range, visual: bool) -> str:
    first, last = block[0], block[1] - 1
    kind = "visual token" if visual else "text token"
    return f"{kind} {first}" if first == last else f"{kind}s {first} to {last}"


def _figure(result: TokenMaps, names: Sequence[str], layer: int, shares) -> Figure:
    logs = [[s if s is None else math.log10(max(s, 10 ** SCALE[0])) for s in row] for row in shares]
    told = [
        [
            "" if share is None else f"{names[row]} to {names[column]}: {share:.2%}"
            for column, share in enumerate(line)
        ]
        for row, line in enumerate(shares)
    ]
    head = "the mean over heads" if result.head is None else f"head {result.head}"
    visual = sum(
        share
        for kind, share in zip(result.visual, shares[-1], strict=True)
        if kind and share is not None
    )
    words = (
        f"Attention in layer {layer}, {head}: the average token of each block, from the top, and "
        "the share of its attention that all tokens of each block, from the left, receive. The "
        f"last tokens give {visual:.0%} to visual tokens and {shares[-1][0] or 0:.0%} to the first "
        "tokens of the prompt."
    )
    grid = Grid(names, names, logs, SCALE, told)
    return Figure(
        f"Who looks at whom in layer {layer}",
        words,
        "looked at",
        "looking; colours: log10 of the share of attention",
        grid=grid,
        layer=layer,
    )
