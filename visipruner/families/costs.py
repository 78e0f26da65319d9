"""Multiply-adds of vision towers and projectors, from their configurations."""

from __future__ import annotations

import math


def vit_macs(vision) -> int:
    """Multiply-adds of a CLIP-like or SigLIP-like tower for one square picture.

    SigLIP has no class token but may end in a pooling head. A rim outside the whole patches costs
    nothing.
    """
    patches, width = math.prod(grid_of(vision)), vision.hidden_size
    tokens = patches + class_tokens(vision)
    dense = 2 * width * vision.intermediate_size
    macs = patches * vision.num_channels * math.prod(pair(vision.patch_size)) * width
    layer = tokens * (4 * width**2 + dense) + 2 * tokens**2 * width
    macs += vision.num_hidden_layers * layer
    if getattr(vision, "vision_use_head", False):  # one query attends to all tokens
        macs += 2 * (tokens + 1) * width**2 + 2 * tokens * width + dense
    return macs


def class_tokens(vision) -> int:
    """The tower's tokens that are no patch."""
    return 1 if vision.model_type.startswith(("clip", "internvl")) else 0


def grid_of(vision) -> tuple[int, int]:
    """(rows, columns) of whole patches of a square picture."""
    sizes = zip(pair(vision.image_size), pair(vision.patch_size), strict=True)
    rows, columns = (image // patch for image, patch in sizes)
    return rows, columns


def pair(size) -> tuple[int, int]:
    """A size in a configuration, which is one number or two, as two."""
    return (size, size) if isinstance(size, int) else tuple(size)


def two_layers_macs(tokens: int, width: int, inner: int, out: int) -> int:
    """Multiply-adds of a projector of two matrices."""
    return tokens * (width * inner + inner * out)
