"""Does a picture look like the small model's world? Cheap: colours and local contrast only.

The world is simple: a greyish ground of similar colours, eight paints, and white cards with ink,
each with little contrast. Photographs break these rules nearly everywhere.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from visipruner.world.scenes import COLOURS, SIDE

BLOCK = 4  # pixels; noise is averaged over square blocks of this side
GROUND_SPREAD = 45.0  # largest distance of ground colours from their median
PAINT_SPREAD = 42.0
PAINT_COLOURFUL = 60.0  # least difference between a paint's channels
GREY_SPREAD = 14.0  # largest difference between the channels of card and ink
CARD_PART = 0.22  # largest share of the picture that two digit cards cover
PAPER = 225.0  # a card without ink is brighter than this
CONTRAST = 15.0  # largest standard deviation inside a block
MOST_STRANGE = 0.12  # share of the blocks; 150 training scenes reach 0.094
MOST_THINGS = 0.45  # share of the blocks; 800 scenes reach 0.33
LEAST_THINGS = 0.006  # share of the blocks that show paint or paper; 100 scenes reach down to 0.011


def looks_unlike_training(image: Image.Image) -> bool:
    """Would the model only guess about this picture?"""
    strange, things = strange_parts(image)
    return strange > MOST_STRANGE or not LEAST_THINGS <= things <= MOST_THINGS


def strange_parts(image: Image.Image) -> tuple[float, float]:
    """Two shares of the picture: what nothing in the world explains, and what shows its things."""
    blocks = _blocks(image)
    mean, spread = blocks.mean(axis=1), blocks.std(axis=1).mean(axis=-1)
    colourful = mean.max(axis=1) - mean.min(axis=1)
    paints = np.array(list(COLOURS.values()), np.float32)
    painted = _distance(mean[:, None], paints[None]).min(axis=1) < PAINT_SPREAD
    painted &= colourful > PAINT_COLOURFUL
    ground_colour = np.median(mean[~painted], axis=0) if (~painted).any() else mean.mean(axis=0)
    ground = _distance(mean, ground_colour) < GROUND_SPREAD
    card = (colourful < GREY_SPREAD) & ~ground
    if card.mean() > CARD_PART:
        card[:] = False
    explained = ((painted | ground) & (spread < CONTRAST)) | card
    paper = card & (mean.min(axis=1) > PAPER)
    return 1 - float(explained.mean()), float((painted | paper).mean())


def _blocks(image: Image.Image) -> np.ndarray:
    """The middle square at the model's size, in blocks.  # (block, pixel, rgb)"""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.convert("RGB").crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
    pixels = np.asarray(square, np.float32)
    n = SIDE // BLOCK
    cells = pixels.reshape(n, BLOCK, n, BLOCK, 3).transpose(0, 2, 1, 3, 4)
    return cells.reshape(n * n, BLOCK * BLOCK, 3)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - b) ** 2).sum(axis=-1))
