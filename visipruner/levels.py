"""How hard to prune: a level (a number or a word) and its budget in tokens.

A *budget* is the mean number of visual tokens per layer of the language model. This file knows no
method: each method translates a level or a budget into its own settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

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
    enter: int = 0  # the first layer that computes visual tokens
    leave: int | None = None  # the last one; None: the last layer of all
    of: int | None = None  # if `layers` are a part of the model: its layers

    @property
    def last(self) -> int:
        """The last layer that computes visual tokens."""
        return self.layers - 1 if self.leave is None else self.leave

    @property
    def scheduled(self) -> bool:
        """Has the model a schedule of its own, so that some layers compute no visual token?"""
        return (self.enter, self.last) != (0, self.layers - 1)

    @property
    def span(self) -> int:
        """How many layers compute visual tokens."""
        return self.last + 1 - self.enter

    @property
    def most(self) -> float:
        """Mean visual tokens per layer of the model if nothing is pruned."""
        return self.num_visual * self.span / self.layers

    @property
    def inside(self) -> Facts:
        """These layers as a model of their own: levels and published layers are scaled to them."""
        if not self.scheduled:
            return self
        return replace(self, layers=self.span, enter=0, leave=None, of=self.layers)

    def over_all(self, tokens: float) -> float:
        """A mean over `layers` as a mean over all layers of the model."""
        return tokens if self.of is None else tokens * self.layers / self.of

    def scaled(self, layer: int, of: int = PUBLISHED_LAYERS) -> int:
        """A layer published for a model of `of` layers, scaled to this model."""
        return layer if self.layers == of else max(1, round(layer * self.layers / of))

    def early(self, layer: int) -> int:
        """A layer that is published for models of all depths; scaled in a part of a model."""
        return min(layer, self.layers) if self.of is None else self.scaled(layer)

    def scaled_after(self, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Scaled layers after which a method cuts; in a part of a model its first may be one."""
        if self.of is None:
            return self.scaled_all(layers)
        return tuple(layer - 1 for layer in self.scaled_all(tuple(n + 1 for n in layers)))

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
