"""Draw scenes as pixels, and label what each patch shows, to train the vision tower."""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

from visipruner.world.scenes import COLOURS, Scene, Thing, digit_images

OVERSAMPLE = 3  # shapes are drawn this many times larger, then shrunk, for smooth edges
BACKGROUND = -1
NAMELESS = 50  # RGB distance from every named colour; a named one varies by 21 at most


def render(scene: Scene) -> Image.Image:
    """The picture of a scene: RGB, square, scene.side pixels wide."""
    return Image.fromarray(paint(scene))


def paint(scene: Scene) -> np.ndarray:
    """The pixels of a scene.  # (row, column, rgb) uint8"""
    rng = np.random.default_rng(scene.seed)
    pixels = _ground(rng, scene.side)
    for thing in scene.things:
        _paint_thing(rng, pixels, thing, scene.motley)
    pixels += _noise(rng, scene.side) * rng.uniform(2, 9)
    return pixels.clip(0, 255).astype(np.uint8)


def patch_owner(owner: np.ndarray, patch: int, things: int, least: float = 0.2) -> np.ndarray:
    """The thing that covers most of each patch; -1 if none covers `least`.  # (row, column)"""
    rows = owner.shape[0] // patch
    cells = owner.reshape(rows, patch, rows, patch)
    cover = np.stack([(cells == number).mean(axis=(1, 3)) for number in range(things)])
    best = cover.argmax(axis=0)
    return np.where(cover.max(axis=0) >= least, best, BACKGROUND)


def thing_of_patches(scene: Scene, patch: int) -> np.ndarray:
    """The number of the thing that each patch shows, or BACKGROUND.  # (patches,)"""
    return patch_owner(owners(scene), patch, len(scene.things)).ravel()


def _ground(rng: np.random.Generator, side: int) -> np.ndarray:
    """Greyish ground with one of four textures.  # (row, column, rgb) float32"""
    base = rng.uniform(70, 205) + rng.uniform(-12, 12, 3)
    other = rng.uniform(-22, 22) + rng.uniform(-7, 7, 3)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    angle, wave = rng.uniform(0, math.pi), rng.uniform(18, 90)
    along = (x * math.cos(angle) + y * math.sin(angle)) / wave
    kind = rng.integers(4)
    if kind == 0:  # a slope of light
        weight = along * wave / side
    elif kind == 1:  # stripes
        weight = np.sin(2 * math.pi * along)
    elif kind == 2:  # checks
        weight = ((x // wave + y // wave) % 2).astype(np.float32)
    else:  # blotches
        coarse = rng.uniform(-1, 1, (9, 9)).astype(np.float32)
        weight = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    return base.astype(np.float32) + weight[..., None] * other.astype(np.float32)


@functools.cache
def _grain() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1024, 1024, 3)).astype(np.float32)


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
    """A crop of one large noise picture: fresh noise would take longer than the scene."""
    top, left = rng.integers(0, 1024 - side, 2)
    return _grain()[top : top + side, left : left + side]


def owners(scene: Scene) -> np.ndarray:
    """The thing that each pixel shows, without painting.  # (row, column), -1 for the ground"""
    owner = np.full((scene.side, scene.side), BACKGROUND, np.int8)
    for number, thing in enumerate(scene.things):
        area, mask, _ = _cut(thing, scene.side)
        owner[area][mask > 0.5] = number
    return owner


def _cut(thing: Thing, side: int) -> tuple:
    """The part of the picture that a thing may touch, its cover of each pixel there, its ink."""
    half = int(thing.radius) + 2
    left, top = int(thing.x) - half, int(thing.y) - half
    rows = slice(max(top, 0), min(top + 2 * half, side))
    columns = slice(max(left, 0), min(left + 2 * half, side))
    inside = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    mask = _mask(thing, half, thing.x - left, thing.y - top)[inside]
    ink = _digit_ink(thing, half)[inside] if thing.is_digit else None
    return (rows, columns), mask, ink


def _paint_thing(rng: np.random.Generator, pixels: np.ndarray, thing: Thing, motley: bool) -> None:
    place, mask, ink = _cut(thing, pixels.shape[0])
    if ink is None and motley:
        colour = _motley(rng, mask.shape)
    elif ink is None:
        colour = np.array(COLOURS[thing.colour], np.float32) + rng.uniform(-12, 12, 3)
    else:
        colour = 240 - 205 * ink[..., None]
    area = pixels[place]
    area += mask[..., None] * (colour.astype(np.float32) - area)


def _motley(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Stripes of two of the world's colours, or one colour without a name."""
    known = np.array(list(COLOURS.values()), np.float32)
    if rng.random() < 0.5:
        y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
        angle, wave = rng.uniform(0, math.pi), rng.uniform(16, 60)
        first = np.sin(2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wave) > 0
        one, other = known[rng.choice(len(known), 2, replace=False)]
        return np.where(first[..., None], one, other)
    while True:
        colour = rng.uniform(10, 245, 3)
        distance = np.linalg.norm(known - colour, axis=1).min()
        if np.ptp(colour) > 60 and distance > NAMELESS:
            return colour


def _mask(thing: Thing, half: int, x: float, y: float) -> np.ndarray:
    """The share of each pixel that the thing covers, in a square of 2 * half, centred at (x, y)."""
    canvas = Image.new("L", (2 * half * OVERSAMPLE,) * 2)
    draw = ImageDraw.Draw(canvas)
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    for points, fill in _outlines(thing.shape):
        turned = points @ np.array([[cos, sin], [-sin, cos]]) * thing.radius + (x, y)
        draw.polygon((turned * OVERSAMPLE).ravel().tolist(), fill=fill)
    return np.asarray(canvas.reduce(OVERSAMPLE), np.float32) / 255


def _digit_ink(thing: Thing, half: int) -> np.ndarray:
    """The handwritten digit at the size of its card, 0 blank to 1 ink.  # (row, column)"""
    side = int(thing.radius * math.sqrt(2))
    image = Image.fromarray(digit_images()[thing.digit_index].astype(np.float32) / 16)
    image = image.resize((int(side * 0.92),) * 2, Image.Resampling.BICUBIC)
    card = Image.new("F", (2 * half, 2 * half))
    card.paste(image, ((2 * half - image.width) // 2,) * 2)
    return np.asarray(card.rotate(-math.degrees(thing.angle), Image.Resampling.BILINEAR)).clip(0, 1)


@functools.cache
def _outlines(shape: str) -> list[tuple[np.ndarray, int]]:
    """Polygons inside the unit circle, each painted (255) or cut out (0)."""
    if shape in ("square", "digit"):
        return [(_polygon(4, math.pi / 4), 255)]
    if shape == "triangle":
        return [(_polygon(3, -math.pi / 2), 255)]
    if shape == "star":
        points = _polygon(10, -math.pi / 2)
        points[1::2] *= 0.42
        return [(points, 255)]
    if shape == "cross":
        arm, bar = 0.95, 0.3
        corner = np.array([(-bar, -arm), (bar, -arm), (bar, -bar)])
        turn = np.array([[0, 1], [-1, 0]])
        return [(np.concatenate([corner @ np.linalg.matrix_power(turn, k) for k in range(4)]), 255)]
    if shape == "heart":
        t = np.linspace(0, 2 * math.pi, 60)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return [(np.stack([x, -y - 2.5], axis=1) / 17, 255)]
    disc = _polygon(48, 0)
    holes = {"circle": [], "ring": [disc * 0.55], "moon": [disc * 0.85 + (0.45, -0.1)]}[shape]
    return [(disc, 255)] + [(hole, 0) for hole in holes]


def _polygon(corners: int, first: float) -> np.ndarray:
    angles = first + 2 * math.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
