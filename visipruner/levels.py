"""How hard to prune: a level (a number or a word) and its budget in tokens.

A *budget* is the mean number of visual tokens per layer of the language model. This file knows no
method: each method translates a level or a budget into its own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from visipruner.errors import Refused, quoted
from visipruner.inputs import check_number

PRESETS = {"gentle": 0.25, "balanced": 0.5, "aggressive": 0.75}
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Share of the visual tokens that stays at each of these five levels.
KEEP = (1.0, 0.5, 0.25, 0.1, 0.0)
PUBLISHED_LAYERS = 32  # most methods were published for models with 32 layers


@dataclass(frozen=True)
class Facts:
    """The facts about a model and a prompt that translate a level into settings."""

    num_visual: int
    layers: int
    presets: Mapping | None = None  # the checkpoint's own settings, by method semantics
    grids: tuple[tuple[int, int], ...] = ()  # (rows, columns) of patches, one per picture
    renumbers: bool = True  # may methods renumber what stays?

    def scaled(self, layer: int, of: int = PUBLISHED_LAYERS) -> int:
        """A layer published for a model of `of` layers, scaled to this model."""
        return layer if self.layers == of else max(1, round(layer * self.layers / of))

    def scaled_all(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Several scaled layers, kept distinct and ascending."""
        found: list[int] = []
        for layer in layers:
            found.append(max(self.scaled(layer), found[-1] + 1 if found else 0))
        return tuple(found)


def level_number(level: float | str) -> float:
    """A preset's name or a number as a level from 0 (keep everything) to 1 (the hardest).

    Raises:
        Refused: one sentence with the value and what is allowed.
    """
    if isinstance(level, str) and level in PRESETS:
        return PRESETS[level]
    try:
        number = float(level) if isinstance(level, str) else level
    except ValueError:
        raise Refused(
            f"The level must be {', '.join(PRESETS)} or a number from 0 to 1, not {quoted(level)}."
        ) from None
    return float(check_number("level", number, 0, 1))


def share(level: float) -> float:
    """The share of the visual tokens that stays at a level."""
    return between(KEEP, level)


def budget(level: float, facts: Facts) -> float:
    """Mean visual tokens per layer at a level."""
    return share(level) * facts.num_visual


def nearest(values, level: float):
    """The value at the nearest tabulated level."""
    return values[min(range(len(STEPS)), key=lambda step: abs(STEPS[step] - level))]


def between(values, level: float) -> float:
    """The linear interpolation between the values at the five tabulated levels."""
    for step in range(len(STEPS) - 1):
        low, high = STEPS[step], STEPS[step + 1]
        if level <= high:
            part = (level - low) / (high - low)
            return values[step] + part * (values[step + 1] - values[step])
    return values[-1]


def nearest_to(values: Iterable[float], wish: float) -> float:
    """The value that is nearest to the wish; of two equally near, the first."""
    return min(values, key=lambda value: abs(value - wish))


def least_for(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least number for which `holds` is true, by halving.

    Args:
        holds: false up to some number between low and high, and true from there on.
    """
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
