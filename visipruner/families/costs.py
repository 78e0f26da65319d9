"""Multiply-adds of vision towers and projectors, from their configurations."""

from __future__ import annotations


def vit_macs(vision) -> int:
    """Multiply-adds of a CLIP-like or SigLIP-like tower for one square picture.

    SigLIP has no class token but may end in a pooling head. A rim outside the whole patches costs
    nothing.
    """
    patches, width = (vision.image_size // vision.patch_size) ** 2, vision.hidden_size
    tokens = patches + class_tokens(vision)
    dense = 2 * width * vision.intermediate_size
    macs = patches * vision.num_channels * vision.patch_size**2 * width
    layer = tokens * (4 * width**2 + dense) + 2 * tokens**2 * width
    macs += vision.num_hidden_layers * layer
    if getattr(vision, "vision_use_head", False):  # one query attends to all tokens
        macs += 2 * (tokens + 1) * width**2 + 2 * tokens * width + dense
    return macs


def class_tokens(vision) -> int:
    """The tower's tokens that are no patch."""
    return 1 if vision.model_type.startswith("clip") else 0


def two_layers_macs(tokens: int, width: int, inner: int, out: int) -> int:
    """Multiply-adds of a projector of two matrices."""
    return tokens * (width * inner + inner * out)
