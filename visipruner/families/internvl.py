"""InternVL 2.5, 3 and 3.5 in the format of transformers: tiles row by row, then a thumbnail."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from transformers import InternVLForConditionalGeneration, InternVLProcessor

from visipruner.families.costs import grid_of, two_layers_macs, vit_macs
from visipruner.families.llava import blank
from visipruner.families.native import TILES, WHOLE, Grid, Native, in_order, tile_boxes
from visipruner.sheets import grid_boxes
from visipruner.stock import open_without_video

TYPICAL = 4 * 3 + 1  # tiles of a picture of 4 to 3 with the published settings


class InternVL(Native):
    """InternVL with a Qwen2, Qwen3 or Llama language model."""

    title = "InternVL"
    kinds = {"internvl": InternVLForConditionalGeneration}
    processor = InternVLProcessor
    offers = frozenset({"grid"})
    lacks = {"tower": "its tower sees several tiles, each with a class token of its own"}

    def open_processor(self, path: Path) -> InternVLProcessor:
        return open_without_video(InternVLProcessor, path)

    def fit(self, path: Path, processor: InternVLProcessor, model):
        processor.image_seq_length = math.prod(square(model.config))
        super().fit(path, processor, model)

    def tokens(self, config) -> int:
        """Of a picture of 4 to 3."""
        return TYPICAL * math.prod(square(config))

    def sample(self, config, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixel_values": blank(config, TYPICAL)}

    def grids(self, config, tokens: int) -> tuple[Grid, ...]:
        tiles, rest = divmod(tokens, math.prod(square(config)))
        return () if rest else (square(config),) * tiles

    def places(self, config, processor, picture: Image.Image, inputs: Mapping):
        count, grid, size = len(inputs["pixel_values"]), square(config), picture.size
        parts = [(WHOLE, grid_boxes(size, *grid))]
        if count > 1:
            parts.insert(0, (TILES, tile_boxes(size, best_tiles(size, count - 1), grid)))
        return in_order(picture, parts), (grid,) * count

    def tower_flops(self, config, prompt) -> int:
        vision, width = config.vision_config, config.get_text_config().hidden_size
        tokens = math.prod(square(config))
        merged = round(vision.hidden_size / config.downsample_ratio**2)
        projector = two_layers_macs(tokens, merged, width, width)
        return 2 * (vit_macs(vision) + projector) * len(prompt.inputs["pixel_values"])


def square(config) -> Grid:
    """Visual tokens (rows, columns) of a tile."""
    rows, columns = grid_of(config.vision_config)
    return round(rows * config.downsample_ratio), round(columns * config.downsample_ratio)


def best_tiles(size: tuple[int, int], count: int) -> Grid:
    """(rows, columns) of this many tiles whose ratio is nearest to the picture's.

    Args:
        size: width and height of the picture.
    """
    width, height = size
    grids = [(count // across, across) for across in range(1, count + 1) if count % across == 0]
    return min(grids, key=lambda grid: abs(width / height - grid[1] / grid[0]))
