"""Ranges of layers: which are masked, what their costs name, and how a triangle shows them."""

from __future__ import annotations

from collections.abc import Mapping

from visipruner.analyses.base import Grid

ALL_RANGES = 16  # a model with at most so many layers runs every range
MOST_RANGES = 45  # of a model with more layers: those of nine blocks
SHARE = 0.8  # of what masking all layers costs
# Nats. Below it no stage is named: by Pinsker's inequality no probability of the first word moved
# by more than sqrt(0.02 / 2), which is 10 points, even with the picture masked in all layers.
FLOOR = 0.02


def stages_of(
    cost: Mapping[tuple[int, int], float], floor: float = FLOOR
) -> dict[str, tuple[int, int]]:
    """Name the stages by what masking costs: {"middle": (first, last), ...}.

    The middle stage is the shortest range whose masking costs at least `SHARE` of what masking all
    layers costs; of equally short ones, the one that costs most. Shallow layers come before it and
    deep ones after it; a stage without layers is not named. Empty: masking all layers costs less
    than `floor`, so the answer does not need the picture.

    Args:
        cost: per range (first, last) of layers, both included; among them that of all layers.
        floor: in the unit of the costs.
    """
    end = max(last for _, last in cost)
    whole = cost[0, end]
    if whole < floor:
        return {}
    enough = [one for one, lost in cost.items() if lost >= SHARE * whole]
    first, last = min(enough, key=lambda one: (one[1] - one[0], -cost[one]))
    found = {"shallow": (0, first - 1), "middle": (first, last), "deep": (last + 1, end)}
    return {name: one for name, one in found.items() if one[0] <= one[1]}


def block_of(layers: int) -> int:
    """How many layers are masked together, so that a large model has at most `MOST_RANGES`."""
    if layers <= ALL_RANGES:
        return 1
    blocks = 1
    while (blocks + 1) * (blocks + 2) // 2 <= MOST_RANGES:
        blocks += 1
    return -(-layers // blocks)


def ranges_of(layers: int, block: int = 1) -> list[tuple[int, int]]:
    """All ranges (first, last) of whole blocks, both included; the last block may be shorter."""
    starts = range(0, layers, block)
    return [(a, min(b + block, layers) - 1) for a in starts for b in starts if a <= b]


def triangle(values: Mapping, words: Mapping, scale: tuple[float, float]) -> Grid:
    """A grid of ranges: rows by the first masked layer, columns by the last one.

    Args:
        values, words: by (first, last).
    """
    firsts, lasts = (sorted({one[side] for one in values}) for side in (0, 1))
    return Grid(
        [str(first) for first in firsts],
        [str(last) for last in lasts],
        [[values.get((first, last)) for last in lasts] for first in firsts],
        scale,
        [[words.get((first, last), "") for last in lasts] for first in firsts],
    )


def layers_in_words(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def stages_in_words(stages: Mapping[str, tuple[int, int]]) -> str:
    return "; ".join(f"{name}, {layers_in_words(*one)}" for name, one in stages.items())
