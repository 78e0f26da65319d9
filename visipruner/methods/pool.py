"""Pooling: the mean of square blocks of neighbouring patches, as if the picture were smaller.

The rival that every method should beat: in VTC-Bench (ACL 2026, arXiv 2510.07143) a smaller picture
beats many of them. VTC-Bench makes the picture itself smaller; here the projected features are
averaged before layer 0, so the vision tower sees every pixel. A grid that the block does not divide
gets smaller blocks at its right and bottom edge: 5 x 5 patches in blocks of 2 x 2 become 3 x 3
tokens. Each picture is pooled by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from visipruner.errors import Refused
from visipruner.levels import Facts, nearest_to
from visipruner.methods.base import BEFORE, PruningMethod, renumbering, stayed
from visipruner.settings import INT, setting
from visipruner.trace import Selection

SIDES = (1, 2, 3, 4, 6, 8)  # for a budget; all divide 24


@dataclass(frozen=True)
class Pool(PruningMethod):
    """Average square blocks of patches.

    Args:
        side: patches per side of a block; 1 keeps everything.
        renumber: number the tokens 0, 1, 2, ... as a smaller picture's, or give each block the
            place of its first patch.
    """

    name: ClassVar[str] = "pool"
    title: ClassVar[str] = "Pooling: a smaller picture"
    paper: ClassVar[str] = "the rival in VTC-Bench, arXiv 2510.07143 (ACL 2026)"
    rule: ClassVar[str] = "the mean of square blocks of patches, before the language model"
    where: ClassVar[str] = BEFORE
    whole: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"grid"})
    stage_words: ClassVar[Mapping[str, str]] = {"pool": "Averaged"}

    side: int = setting(3, "Patches per side of a block", INT, low=1, high=10_000)
    renumber: bool = renumbering(True)

    @classmethod
    def for_budget(cls, tokens, facts):
        cls.check_budget(tokens, facts)
        counts = cls.reachable(facts)
        return cls(SIDES[counts.index(nearest_to(counts, tokens))])

    @classmethod
    def reachable(cls, facts):
        grids = _grids(facts)
        return [sum(_tokens(grid, side) for grid in grids) for side in SIDES]

    def encode(self, view):
        if self.side == 1 or not len(view.visual_rows):
            return None
        grids = view.layout.grids
        if not grids:
            raise Refused("Pooling needs the picture's rows and columns of patches (TokenLayout).")
        if not torch.equal(view.visual_tokens, torch.tensor(view.layout.visual, device="cpu")):
            raise Refused("Pooling needs whole pictures. In a stack it comes first.")
        block = torch.cat(_blocks(grids, self.side))
        states = view.hidden[0]
        visual = view.visual_rows.to(states.device)
        means = average(states[visual], block.to(states.device))
        first = _firsts(block)
        token, stays = view.visual_tokens, view.rows.is_text.clone()
        stays[view.visual_rows[first]] = True
        made = states.clone()
        made[visual[first.to(states.device)]] = means.to(states.dtype)
        carrier = token[first[block]].tolist()
        into = {a: b for a, b in zip(token.tolist(), carrier, strict=True) if a != b}
        rows = stays.nonzero().flatten()
        return Selection(
            tuple(view.tokens[rows].tolist()),
            "pool",
            hidden=made[rows.to(made.device)][None],
            into=into,
            compact=self.renumber,
        )

    def explain(self, trace, memory):
        if not memory.cuts:
            return "", {}
        how = f"each the mean of {self.side} × {self.side} patches, before the first layer"
        said = stayed(len(memory.cuts[0].visual), how)
        if any(edge % self.side for grid in trace.grids for edge in grid):
            said += " Blocks at the right and bottom edge hold fewer patches."
        return said, {}


def _grids(facts: Facts) -> tuple[tuple[int, int], ...]:
    if facts.grids:
        return facts.grids
    side = math.isqrt(facts.num_visual)
    if side * side != facts.num_visual:
        raise Refused("Pooling needs the picture's rows and columns of patches.")
    return ((side, side),)


def _tokens(grid: tuple[int, int], side: int) -> int:
    return math.prod(-(-edge // side) for edge in grid)


def _blocks(grids, side: int) -> list[Tensor]:
    """For each picture: (patches,) the block of each patch, counted through all pictures."""
    found, start = [], 0
    for rows, columns in grids:
        row, column = (torch.arange(edge, device="cpu") // side for edge in (rows, columns))
        found.append(start + (row[:, None] * -(-columns // side) + column).flatten())
        start += _tokens((rows, columns), side)
    return found


def _firsts(block: Tensor) -> Tensor:
    """(blocks,) the first patch of each block."""
    order = torch.arange(len(block), device="cpu").flip(0)
    return torch.empty_like(order[: int(block.max()) + 1]).scatter_(0, block[order], order)


def average(features: Tensor, block: Tensor) -> Tensor:
    """(blocks, width) float32: the mean of the features (patches, width) of each block."""
    count = torch.bincount(block)
    sums = torch.zeros(len(count), features.shape[1], device=features.device)
    return sums.index_add_(0, block, features.float()) / count[:, None]
