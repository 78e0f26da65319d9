"""A checkpoint's processor (tokenizer, chat template, image processor), made to fit its model."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from visipruner.errors import Refused
from visipruner.files import named
from visipruner.models.checkpoint import why
from visipruner.prompt import patch_grid
from visipruner.templates import template_of


def load_processor(path: Path, model: LlavaForConditionalGeneration):
    """Tokenizer, chat template and image processor of a folder.

    Args:
        model: the folder's, for what only it knows; one without memory will do.

    Raises:
        Refused: one sentence.
    """
    try:
        processor = AutoProcessor.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise why(path, error) from None
    if not isinstance(processor, LlavaProcessor):
        raise Refused(
            f"The files of {named(path)} give a {type(processor).__name__} where a LlavaProcessor "
            "is needed: one with a tokenizer and an image processor."
        )
    if template_of(processor) is None:
        raise Refused(f"{named(path)} has no chat template, so nobody knows how to ask this model.")
    _check_tokens(path, processor, model)
    _check_pictures(path, processor, model.config.vision_config.image_size)
    _set_visual_tokens(path, processor, model)
    return processor


def _check_tokens(path: Path, processor: LlavaProcessor, model: LlavaForConditionalGeneration):
    """Every token that a question can hold must have an embedding; else it would end in IndexError.

    Raises:
        Refused: one sentence with the token and both numbers.
    """
    rows = model.get_input_embeddings().num_embeddings
    numbers = processor.tokenizer.get_vocab()  # with all added tokens
    last = max(numbers, key=numbers.get, default="")
    if numbers.get(last, 0) >= rows:
        raise Refused(
            f"The tokenizer of {named(path)} does not fit its weights: token {last[:80]!r} has "
            f"number {numbers[last]:,}, but there are embeddings for 0 to {rows - 1:,} only."
        )
    image, wanted = processor.image_token_id, model.config.image_token_id
    if image != wanted:
        raise Refused(
            f"In {named(path)}, the token for pictures has number {wanted} by config.json, but "
            f"{processor.image_token[:80]!r} has number {image} by the tokenizer."
        )


def _check_pictures(path: Path, processor: LlavaProcessor, side: int):
    """The image processor must hand on a square as the tower takes it.

    Raises:
        Refused: one sentence that names the setting.
    """
    mean = processor.image_processor.image_mean
    if not isinstance(mean, list | tuple) or len(mean) != 3:
        raise Refused(
            f"In {named(path)}, the image processor's image_mean must be three numbers, one for "
            f"each of red, green and blue, not {str(mean)[:80]}."
        )
    try:
        made = processor.image_processor(Image.new("RGB", (side, side)), return_tensors="pt")
        pixels = made["pixel_values"]
        height, width = pixels.shape[-2:]
    except Exception as error:
        raise why(path, error) from None
    if (height, width) != (side, side):
        raise Refused(
            f"In {named(path)}, the image processor's settings make pictures of {width} x {height} "
            f"pixels, but the image_size of config.json is {side}."
        )
    if not pixels.isfinite().all():
        raise Refused(
            f"In {named(path)}, the image processor's image_mean and image_std make numbers that "
            "are infinite."
        )


def _set_visual_tokens(path: Path, processor: LlavaProcessor, model: LlavaForConditionalGeneration):
    """Let the processor count visual tokens as the model makes them.

    Folders saved before transformers 4.46, or in part, lack the settings for it or hold wrong
    ones. They say nothing that the model does not know, so they are taken from it.

    Raises:
        Refused: one sentence that names the setting and its file.
    """
    config = model.config
    patches = math.prod(patch_grid(config))
    try:
        visual = _count_visual(model)
    except Exception as error:
        raise why(path, error) from None
    strategy = config.vision_feature_select_strategy
    if visual != patches:
        raise Refused(
            f"The model in {named(path)} makes {visual} visual tokens of {patches} patches "
            f"(vision_feature_select_strategy is {strategy!r} in config.json), so they cannot be "
            "drawn on the picture."
        )
    processor.patch_size = config.vision_config.patch_size
    processor.vision_feature_select_strategy = strategy
    # "default" leaves out the first token of the tower, which then is no patch.
    processor.num_additional_image_tokens = int(strategy == "default")


@torch.no_grad()
def _count_visual(model: LlavaForConditionalGeneration) -> int:
    """Visual tokens that a model without memory makes of one picture."""
    vision = model.config.vision_config
    shape = (1, vision.num_channels, vision.image_size, vision.image_size)
    seen = model.get_image_features(torch.empty(shape, device="meta"), return_dict=True)
    return len(seen.pooler_output[0])


def try_prompt(path: Path, vlm):
    """Make one prompt: broken templates and sizes show in nothing else, and then to a visitor.

    Raises:
        Refused: one sentence.
    """
    try:
        prompt = vlm.prepare(Image.new("RGB", (8, 8)), "what?")
        if prompt.layout.num_visual != math.prod(vlm.grid):  # transformers 5.20 lets it pass
            raise Refused("its chat template does not put one picture into a question")
    except Exception as error:
        raise why(path, error) from None
