"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: one picture of nearly its own size and shape.

Squares of patches become one visual token each, row by row. A visual token's position in the
language model is its time, row and column, so methods cannot renumber what stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from visipruner.errors import Refused
from visipruner.families.costs import two_layers_macs
from visipruner.families.native import Grid, Native
from visipruner.files import named
from visipruner.sheets import Sheet
from visipruner.stock import open_without_video

MOST_RATIO = 200  # of the longer to the shorter side: the image processor takes no more


class Qwen2VL(Native):
    """Qwen2-VL."""

    title = "Qwen2-VL"
    kinds = {"qwen2_vl": Qwen2VLForConditionalGeneration}
    processor = Qwen2VLProcessor
    renumbers = False
    lacks = {
        "tower": "its tower has no class token",
        "grid": "a mean of several patches has no place of its own among its rows and columns",
        "places": "a visual token's position is its row and column",
    }
    not_in_4_bit = ("model.visual", "lm_head")

    def open_processor(self, path: Path):
        return open_without_video(self.processor, path)

    def fit(self, path: Path, processor, model):
        images, vision = processor.image_processor, model.config.vision_config
        pairs = {
            "patch_size": (images.patch_size, vision.patch_size),
            "merge_size": (images.merge_size, vision.spatial_merge_size),
            "temporal_patch_size": (images.temporal_patch_size, vision.temporal_patch_size),
        }
        for name, (found, wanted) in pairs.items():
            if found != wanted:
                raise Refused(
                    f"In {named(path)}, {name} of the image processor is {str(found)[:80]}, but by "
                    f"config.json it must be {str(wanted)[:80]}."
                )
        super().fit(path, processor, model)

    def count(self, model, prompt) -> int:
        return (
            len(prompt.inputs["pixel_values"]) // model.config.vision_config.spatial_merge_size**2
        )

    def tokens(self, config) -> int:
        """Of a picture of 640 x 480."""
        return math.prod(typical_grid(config.vision_config))

    def sample(self, config, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        vision = config.vision_config
        rows, columns = (edge * vision.spatial_merge_size for edge in typical_grid(vision))
        numbers = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values": torch.empty(rows * columns, numbers, device="meta"),
            "image_grid_thw": torch.tensor([[1, rows, columns]]),
            "mm_token_type_ids": (ids == config.image_token_id).int(),
        }

    def check_picture(self, picture: Image.Image):
        if max(picture.size) > MOST_RATIO * min(picture.size):
            raise Refused(
                f"{self.title} takes pictures whose longer side is at most {MOST_RATIO} times the "
                f"shorter one, not {picture.width} x {picture.height} pixels."
            )

    def places(self, config, processor, picture: Image.Image, inputs: Mapping):
        side = config.vision_config.spatial_merge_size
        rows, columns = (edge // side for edge in patches_of(inputs))
        return (Sheet.of_grid(picture, rows, columns),), ((rows, columns),)

    def tower_flops(self, config, prompt) -> int:
        return 2 * self.tower_macs(config.vision_config, patches_of(prompt.inputs))

    def tower_macs(self, vision, grid: Grid) -> int:
        """Multiply-adds of the tower with its merger for one picture of these patches."""
        patches, width, side = grid[0] * grid[1], vision.embed_dim, vision.spatial_merge_size
        layer = patches * (4 * width**2 + 2 * width * int(width * vision.mlp_ratio))
        layer += 2 * patches**2 * width
        return (
            embedding_macs(vision, patches, width)
            + vision.depth * layer
            + merger_macs(patches, width * side**2, side, vision.hidden_size)
        )


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL, whose tower attends within windows in most layers."""

    title = "Qwen2.5-VL"
    kinds = {"qwen2_5_vl": Qwen2_5_VLForConditionalGeneration}
    processor = Qwen2_5_VLProcessor

    def tower_macs(self, vision, grid: Grid) -> int:
        patches, width, side = grid[0] * grid[1], vision.hidden_size, vision.spatial_merge_size
        full = len(set(vision.fullatt_block_indexes) & set(range(vision.depth)))
        pairs = full * patches**2 + (vision.depth - full) * pairs_in_windows(vision, grid)
        layers = vision.depth * patches * (4 * width**2 + 3 * width * vision.intermediate_size)
        return (
            embedding_macs(vision, patches, width)
            + layers
            + 2 * pairs * width
            + merger_macs(patches, width * side**2, side, vision.out_hidden_size)
        )


class Qwen3VL(Qwen2VL):
    """Qwen3-VL, which adds features of earlier tower layers after its first layers."""

    title = "Qwen3-VL"
    kinds = {"qwen3_vl": Qwen3VLForConditionalGeneration}
    processor = Qwen3VLProcessor

    def tower_macs(self, vision, grid: Grid) -> int:
        patches, width, side = grid[0] * grid[1], vision.hidden_size, vision.spatial_merge_size
        layer = patches * (4 * width**2 + 2 * width * vision.intermediate_size)
        layer += 2 * patches**2 * width
        mergers = 1 + len(set(vision.deepstack_visual_indexes) & set(range(vision.depth)))
        return (
            embedding_macs(vision, patches, width)
            + vision.depth * layer
            + mergers * merger_macs(patches, width * side**2, side, vision.out_hidden_size)
        )


def typical_grid(vision) -> Grid:
    """(rows, columns) of the visual tokens of a picture of 640 x 480."""
    side = vision.patch_size * vision.spatial_merge_size
    return round(480 / side), round(640 / side)


def patches_of(inputs: Mapping) -> Grid:
    """(rows, columns) of the tower's patches."""
    _time, rows, columns = inputs["image_grid_thw"][0].tolist()
    return rows, columns


def embedding_macs(vision, patches: int, width: int) -> int:
    """Multiply-adds that turn pixels into the tower's first states."""
    numbers = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return patches * numbers * width


def merger_macs(patches: int, merged: int, side: int, out: int) -> int:
    """Multiply-adds of a merger of squares of patches, each of `merged` numbers."""
    return two_layers_macs(patches // side**2, merged, merged, out)


def pairs_in_windows(vision, grid: Grid) -> int:
    """Pairs of patches in the same window of attention."""
    side = vision.spatial_merge_size
    window = vision.window_size // side // vision.patch_size * side
    squares = 1
    for edge in grid:
        whole, rest = divmod(edge, window)
        squares *= whole * window**2 + rest**2
    return squares
