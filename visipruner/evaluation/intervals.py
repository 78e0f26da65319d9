"""95% intervals: of a share, and of a paired difference; also while answers still come."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

Z = 1.96  # for 95%


def wilson(right: float, count: int) -> tuple[float, float]:
    """95% interval of a share; conservative for shares of facts."""
    share, z2 = right / count, Z**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count)) / (1 + z2)
    # Rounding may leave a hair below 0, which would be printed as -0.0%.
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Mean of second - first over the same questions, and its 95% interval."""
    before, after = (torch.tensor(side, dtype=torch.float64) for side in (first, second))
    differences = after - before
    deviation = differences.std().item() if len(first) > 1 else 0.0
    return around(differences.mean().item(), deviation, len(first))


def around(mean: float, deviation: float, count: int) -> tuple[float, float, float]:
    """A mean and its 95% interval; of a single number, the interval is endless.

    Args:
        deviation: the sample's standard deviation.
    """
    half = Z * deviation / math.sqrt(count) if count > 1 else math.inf
    return mean, mean - half, mean + half


@dataclass
class Differences:
    """Paired differences that come one by one and are not kept (Welford's algorithm)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances to the mean

    def add(self, first: float, second: float):
        self.count += 1
        difference = second - first
        away = difference - self.mean
        self.mean += away / self.count
        self.squares += away * (difference - self.mean)

    @property
    def interval(self) -> tuple[float, float, float]:
        """As `paired_difference` of all numbers added so far."""
        deviation = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return around(self.mean, deviation, self.count)


def finite(number: float) -> float | None:
    """A number, or None for an interval without an end, for which JSON has no word."""
    return number if math.isfinite(number) else None
