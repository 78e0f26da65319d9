"""Idefics3 and the SmolVLMs built like it: tiles row by row, then the whole picture.

Text stands between the tiles and names the row and column of each. A tile becomes a square of
visual tokens, each of several patches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from transformers import Idefics3ForConditionalGeneration, Idefics3Processor

from visipruner.errors import Refused
from visipruner.families.costs import vit_macs
from visipruner.families.llava import blank
from visipruner.families.native import TILES, WHOLE, Grid, Native, in_order, tile_boxes
from visipruner.sheets import grid_boxes

TYPICAL = 4 * 3 + 1  # tiles of a picture of 4 to 3 with the published settings


class Idefics3(Native):
    """Idefics3-8B, SmolVLM-256M-Instruct and -500M-Instruct."""

    title = "Idefics3 and SmolVLM"
    kinds = {"idefics3": Idefics3ForConditionalGeneration}
    processor = Idefics3Processor
    offers = frozenset({"grid"})
    not_in_4_bit = ("model.vision_model", "model.connector", "lm_head")

    def fit(self, path: Path, processor: Idefics3Processor, model):
        processor.image_seq_len = math.prod(square(model.config))
        super().fit(path, processor, model)

    def tokens(self, config) -> int:
        """Of a picture of 4 to 3."""
        return TYPICAL * math.prod(square(config))

    def sample(self, config, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixel_values": blank(config, 1, TYPICAL)}

    def grids(self, config, tokens: int) -> tuple[Grid, ...]:
        tiles, rest = divmod(tokens, math.prod(square(config)))
        return () if rest else (square(config),) * tiles

    def count(self, model, prompt) -> int:
        """By the sizes: the model reads its pixels, because it leaves out tiles that are all 0."""
        tiles = prompt.inputs["pixel_values"].flatten(0, -4)
        per_side = model.config.vision_config.patch_size * model.config.scale_factor
        rows, columns = (edge // per_side for edge in tiles.shape[-2:])
        return rows * columns * int(tiles.flatten(1).any(1).sum())

    def places(self, config, processor, picture: Image.Image, inputs: Mapping):
        tiles, grid = rows_and_columns(processor, inputs["input_ids"]), square(config)
        parts = [(TILES, tile_boxes(picture.size, tiles, grid))] if tiles else []
        parts.append((WHOLE, grid_boxes(picture.size, *grid)))
        return in_order(picture, parts), (grid,) * (math.prod(tiles or (0,)) + 1)

    def tower_flops(self, config, prompt) -> int:
        vision, width = config.vision_config, config.get_text_config().hidden_size
        side = config.scale_factor
        tokens = (vision.image_size // vision.patch_size) ** 2 // side**2
        connector = tokens * vision.hidden_size * side**2 * width
        return 2 * (vit_macs(vision) + connector) * prompt.inputs["pixel_values"].shape[1]


def square(config) -> Grid:
    """Visual tokens (rows, columns) of a tile."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size // config.scale_factor
    return side, side


def rows_and_columns(processor, input_ids) -> Grid | None:
    """Rows and columns of tiles, by the tokens that name them; None: there is only one tile.

    Raises:
        Refused: the tokenizer has no such tokens, so it does not fit this family.
    """
    named = {}
    for token, number in processor.tokenizer.get_vocab().items():
        if found := re.fullmatch(r"<row_(\d+)_col_(\d+)>", token):
            named[number] = int(found[1]), int(found[2])
    if not named:
        raise Refused("The tokenizer of this model has no tokens that name the tiles of a picture.")
    places = [named[number] for number in input_ids.flatten().tolist() if number in named]
    return max(places, default=None)
