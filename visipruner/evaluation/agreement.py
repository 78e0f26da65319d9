"""How far methods agree: which patches they keep, and in how many layers.

A run is compared by `PruningTrace.presence`: per patch, the share of layers that computed its own
token. If two methods cut once before layer 0, their overlap is the Jaccard index of the kept sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _pair(first: Sequence[float], second: Sequence[float]) -> tuple[Tensor, Tensor]:
    return tuple(torch.as_tensor(part, dtype=torch.float64) for part in (first, second))


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """The sum of the lesser presence over the sum of the greater; 1: both keep the same.

    Args:
        first, second: (patches,) presence, from 0 to 1. Two empty ones overlap fully.
    """
    a, b = _pair(first, second)
    most = torch.maximum(a, b).sum().item()
    return torch.minimum(a, b).sum().item() / most if most else 1.0


def chance(first: Sequence[float], second: Sequence[float]) -> float:
    """The overlap that is expected if the second's patches were shuffled (a ratio of means)."""
    a, b = _pair(first, second)
    most = torch.maximum(a[:, None], b).sum().item()
    return torch.minimum(a[:, None], b).sum().item() / most if most else 1.0
