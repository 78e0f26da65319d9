"""LLaVA-NeXT (LLaVA-1.6): the whole picture, then a larger grid of crops with ends of lines.

The grid's rows and columns that hold only padding are dropped, and each row of it ends with one
token that looks at no place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

from visipruner.errors import Refused
from visipruner.families.llava import (
    blank,
    count_like_model,
    patch_grid,
    system_sentence,
    vision_flops,
)
from visipruner.families.native import TILES, WHOLE, Native, in_order
from visipruner.files import named
from visipruner.sheets import Box
from visipruner.stock import best_canvas
from visipruner.templates import one_blank, prompt_text

TYPICAL = (640, 480)  # width and height of a picture


class LlavaNext(Native):
    """LLaVA-NeXT with a Vicuna, Mistral or other Llama-like language model."""

    title = "LLaVA-NeXT"
    kinds = {"llava_next": LlavaNextForConditionalGeneration}
    processor = LlavaNextProcessor
    lacks = {
        "tower": "its tower sees several crops, each with a class token of its own",
        "grid": "its visual tokens are rows of patches with an end each, after the whole picture",
    }

    def fit(self, path: Path, processor: LlavaNextProcessor, model):
        count_like_model(processor, model.config)
        check_canvases(path, processor, model.config)
        super().fit(path, processor, model)

    def tokens(self, config) -> int:
        """Of a picture of TYPICAL size."""
        return sum(len(boxes) for _, boxes in self.pieces(config, TYPICAL))

    def sample(self, config, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        size, side = TYPICAL[::-1], config.vision_config.image_size
        crops = 1 + math.prod(best_canvas(size, config.image_grid_pinpoints)) // side**2
        return {"pixel_values": blank(config, 1, crops), "image_sizes": torch.tensor([size])}

    def system(self, processor, own: str | None) -> str:
        return system_sentence(processor, own)

    def text(self, processor, question: str, system: str) -> str:
        return one_blank(prompt_text(processor, question, system), system)

    def places(self, config, processor, picture: Image.Image, inputs: Mapping):
        return in_order(picture, self.pieces(config, picture.size)), ()

    def pieces(self, config, size: tuple[int, int]) -> list[tuple[str, list[Box | None]]]:
        """The names and boxes of the visual tokens of a picture of this width and height."""
        patches = patch_grid(config)[0]
        lines = canvas_lines(config, size, patches, self.most_crops(config))
        tiles = [box for line in lines for box in (*line, None)]
        return [(WHOLE, whole_boxes(config, size, patches)), (TILES, tiles)]

    def most_crops(self, config) -> int | None:
        """Crops whose patches are not resampled; None: any number."""
        return None

    def tower_flops(self, config, prompt) -> int:
        return vision_flops(config, prompt.inputs["pixel_values"].shape[1])


def check_canvases(path: Path, processor, config):
    """Check that processor and model choose among the same sizes for the crops.

    Raises:
        Refused: one sentence.
    """
    sizes = [list(size) for size in processor.image_processor.image_grid_pinpoints]
    if sizes != [list(size) for size in config.image_grid_pinpoints]:
        raise Refused(
            f"In {named(path)}, the image_grid_pinpoints of the image processor and of config.json "
            "differ, so the model would cut pictures otherwise than they are prepared."
        )


def whole_boxes(config, size: tuple[int, int], patches: int) -> list[Box]:
    """The boxes of a picture that was squeezed into one crop, whose rim no patch may cover."""
    lines, side = [(patch, patch + 1) for patch in range(patches)], config.vision_config.image_size
    xs, ys = (_edges(lines, patches, config.vision_config, (side, side, edge)) for edge in size)
    return [Box(x[0], y[0], x[1], y[1]) for y in ys for x in xs]


def canvas_lines(
    config, size: tuple[int, int], patches: int, most: int | None = None
) -> list[list[Box | None]]:
    """The boxes of the crops' patches, line by line, without the lines that the model drops.

    Args:
        size: width and height of the picture.
        patches: per side of a crop.
        most: crops whose patches stay; more are resampled to about as many. None: all stay.

    Returns:
        None instead of a box: the patch holds only padding.
    """
    width, height = size
    canvas = best_canvas((height, width), config.image_grid_pinpoints)
    inner = size_on_canvas((height, width), canvas)
    vision = config.vision_config
    rows, columns = (edge // vision.image_size * patches for edge in canvas)
    above = left = 0  # lines of padding that are dropped at both ends, in one direction
    if width / height > columns / rows:
        above = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        left = (columns - int(round(width * (rows / height), 7))) // 2
    down, across = rows - 2 * above, columns - 2 * left
    ratio = math.sqrt(down * across / (most * patches**2)) if most else 1.0
    ratio = ratio if ratio > 1.1 else 1.0
    ys = _edges(_parts(above, down, ratio), patches, vision, (canvas[0], inner[0], height))
    xs = _edges(_parts(left, across, ratio), patches, vision, (canvas[1], inner[1], width))
    return [[box_of(x, y) for x in xs] for y in ys]


def _parts(first: int, count: int, ratio: float) -> list[tuple[float, float]]:
    """(start, end) of each visual token, in patches: `ratio` times fewer than patches."""
    parts = int(count // ratio)
    return [(first + i * count / parts, first + (i + 1) * count / parts) for i in range(parts)]


def _edges(parts, patches: int, vision, sizes: tuple[int, int, int]) -> list[tuple[float, float]]:
    """(start, end) of each part in the picture's pixels; equal: only padding.

    Args:
        parts: (start, end) in patches.
        sizes: pixels of the canvas, of the picture on it, and of the picture itself.
    """
    canvas, inner, size = sizes
    before, found = (canvas - inner) // 2, []
    for start, end in parts:
        tile = math.floor(start / patches)
        last = math.ceil(end / patches) - 1  # an end may be the rim of a crop
        pixels = (
            one * vision.image_size + (edge - one * patches) * vision.patch_size - before
            for one, edge in ((tile, start), (last, end))
        )
        found.append(tuple(min(max(edge, 0), inner) * size / inner for edge in pixels))
    return found


def box_of(x: tuple[float, float], y: tuple[float, float]) -> Box | None:
    """The box between these edges; None if it is empty."""
    return Box(x[0], y[0], x[1], y[1]) if x[0] < x[1] and y[0] < y[1] else None


def size_on_canvas(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture that keeps its ratio on a canvas; both in this order."""
    (height, width), (high, wide) = size, canvas
    if wide / width < high / height:
        return min(math.ceil(height * wide / width), high), wide
    return high, min(math.ceil(width * high / height), wide)
