"""The small model's world: coloured shapes and handwritten digits on a textured ground.

A scene is plain data made from a seed. drawing.py paints it; questions.py asks about it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ASSETS = Path(__file__).resolve().parents[2] / "assets"

COLOURS = {
    "red": (215, 35, 40),
    "orange": (245, 135, 25),
    "yellow": (245, 225, 55),
    "green": (45, 160, 65),
    "cyan": (60, 205, 215),
    "blue": (40, 70, 215),
    "purple": (130, 45, 175),
    "pink": (250, 145, 195),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
SIZES = {"small": 25.0, "medium": 38.0, "large": 57.0}  # radius in pixels
DIGIT = "digit"  # the shape of a card with a handwritten digit on it
DIGIT_RADIUS = 64.0  # half the diagonal of a card, which is 90 pixels wide
PLACES = (
    ("top-left", "top", "top-right"),
    ("left", "centre", "right"),
    ("bottom-left", "bottom", "bottom-right"),
)
SIDE = 336  # pixels; the picture is square
MAX_SHAPES = 8

# One pair for every colour and every shape: the model learns each word, but never the pair.
UNSEEN_PAIRS = tuple(zip(COLOURS, SHAPES[3:] + SHAPES[:3], strict=True))


@dataclass(frozen=True)
class Split:
    """A split's first seed, its digit images, and its colour-shape pairs."""

    first_seed: int
    digits: range
    unseen_pairs: bool | None = False  # None: both kinds


SPLITS = {
    "train": Split(0, range(0, 1200)),
    "validation": Split(1_000_000_000, range(1200, 1400)),
    "heldout": Split(1_100_000_000, range(1400, 1797)),
    # Read as words, never painted: the language model has read of things that the tower never saw.
    "written": Split(2_000_000_000, range(0, 1200), unseen_pairs=None),
    "unseen": Split(1_200_000_000, range(1400, 1797), unseen_pairs=True),
}


@dataclass(frozen=True)
class Thing:
    """One object: a coloured shape, or a digit card (shape "digit", no colour, an image index)."""

    shape: str
    colour: str
    size: str
    x: float  # centre in pixels, from the left
    y: float  # centre in pixels, from the top
    scale: float = 1.0  # times the size's radius
    angle: float = 0.0  # radians
    digit_index: int = -1

    @property
    def is_digit(self) -> bool:
        return self.shape == DIGIT

    @property
    def radius(self) -> float:
        return self.scale * (DIGIT_RADIUS if self.is_digit else SIZES[self.size])

    @property
    def digit(self) -> int:
        return int(digit_values()[self.digit_index]) if self.is_digit else -1


@dataclass(frozen=True)
class Scene:
    """Things in drawing order, and the seed of the ground.

    A motley scene is for training only: its shapes are striped or have colours without a name, so
    that the model learns a shape from its outline, not from its colours.
    """

    things: tuple[Thing, ...]
    seed: int
    side: int = SIDE
    motley: bool = False

    @property
    def shapes(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if not thing.is_digit)

    @property
    def digits(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if thing.is_digit)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(ASSETS / "digits.npz") as file:
        return file["images"], file["values"]


def digit_images() -> np.ndarray:
    """The handwritten digits, ink from 0 to 16.  # (image, row, column)"""
    return _digits()[0]


def digit_values() -> np.ndarray:
    """The digit that each image shows.  # (image,)"""
    return _digits()[1]


def compose(things, seed: int = 0) -> Scene:
    """A scene from explicit things. ValueError for a word or a place outside the world."""
    for thing in things:
        if thing.is_digit:
            if not 0 <= thing.digit_index < len(digit_values()):
                raise ValueError(f"digit_index {thing.digit_index}: 0 to {len(digit_values()) - 1}")
        elif thing.shape not in SHAPES or thing.colour not in COLOURS or thing.size not in SIZES:
            raise ValueError(f"no such thing: {thing.size} {thing.colour} {thing.shape}")
        if not (0 <= thing.x <= SIDE and 0 <= thing.y <= SIDE):
            raise ValueError(f"centre ({thing.x}, {thing.y}): 0 to {SIDE}")
    return Scene(tuple(things), seed)


def make_scene(
    seed: int,
    split: str = "train",
    most: int = MAX_SHAPES,
    side: int = SIDE,
    alike: bool = False,
) -> Scene:
    """Scene number `seed` of a split: 1 to `most` shapes and 0 to 2 digit cards.

    `alike` is for training only: two or three shapes and at most three colours, so that many things
    are of one kind and can be counted.
    """
    rules = SPLITS[split]
    seed += rules.first_seed
    rng = random.Random(seed)
    cards = rng.choices((0, 1, 2), weights=(5, 3, 3))[0]
    cards = min(cards, 1) if side < SIDE else cards
    wanted = [_digit_card(rng, rules) for _ in range(cards)]
    count = rng.randint(1, max(1, most - len(wanted)))
    # Few kinds in some scenes; otherwise the model would rarely need to count or compare.
    shapes = rng.sample(SHAPES, rng.randint(2, 3 if alike else len(SHAPES)))
    colours = rng.sample(tuple(COLOURS), rng.randint(1, 3)) if alike else tuple(COLOURS)
    wanted += [_shape(rng, rules, shapes, colours) for _ in range(count)]
    things = []
    for thing in wanted:
        placed = _place(rng, thing, things, side)
        if placed is not None:
            things.append(placed)
    return Scene(tuple(things), seed, side)


def _digit_card(rng: random.Random, rules: Split) -> Thing:
    scale = rng.uniform(0.93, 1.07)
    angle = rng.uniform(-0.12, 0.12)
    return Thing(DIGIT, "", "", 0, 0, scale, angle, digit_index=rng.choice(rules.digits))


def _shape(rng: random.Random, rules: Split, shapes: list[str], colours: Sequence[str]) -> Thing:
    pairs = [
        (colour, shape)
        for colour in colours
        for shape in shapes
        if rules.unseen_pairs in (None, (colour, shape) in UNSEEN_PAIRS)
    ]
    colour, shape = rng.choice(pairs)
    size = rng.choice(tuple(SIZES))
    return Thing(shape, colour, size, 0, 0, rng.uniform(0.92, 1.08), rng.uniform(-0.2, 0.2))


def _place(rng: random.Random, thing: Thing, others: list[Thing], side: int) -> Thing | None:
    """The thing at a free place; shapes may cover at most a tenth of each other."""
    sizes = [thing.size] if thing.is_digit else [thing.size, "medium", "small"]
    for size in sizes:
        thing = replace(thing, size=size)
        edge = thing.radius * 0.95
        for _ in range(25):
            x, y = rng.uniform(edge, side - edge), rng.uniform(edge, side - edge)
            if all(_apart(thing, other, x, y) for other in others):
                return replace(thing, x=round(x, 1), y=round(y, 1))
    return None


def _apart(thing: Thing, other: Thing, x: float, y: float) -> bool:
    # Digits must stay whole; two circles at 0.8 of touching hide a tenth of each other.
    near = 1.0 if thing.is_digit or other.is_digit else 0.8
    distance = ((x - other.x) ** 2 + (y - other.y) ** 2) ** 0.5
    return distance >= near * (thing.radius + other.radius)
