"""LLaVA-1.5 and models built like it: one square picture, one visual token per patch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import (
    LlavaForConditionalGeneration,
    LlavaProcessor,
    VipLlavaForConditionalGeneration,
)

from visipruner.errors import Refused
from visipruner.families.base import CROP, PAD, Encoded, Family, Parts
from visipruner.families.costs import class_tokens, grid_of, pair, two_layers_macs, vit_macs
from visipruner.files import named
from visipruner.inputs import check_choice, open_picture
from visipruner.layout import TokenLayout
from visipruner.prompt import Prompt, encoded, read_question
from visipruner.sheets import Sheet
from visipruner.stock import feature_layers, projector_of, tower_of
from visipruner.templates import given_sentence, one_blank, prompt_text
from visipruner.tower import TowerWatch, noting

# LLaVA-1.5 was trained and evaluated with this sentence; its chat template lacks it.
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


class Llava(Family):
    """LLaVA-1.5."""

    title = "LLaVA-1.5"
    kinds = {"llava": LlavaForConditionalGeneration}
    processor = LlavaProcessor
    picture_modes = (PAD, CROP)  # LLaVA-1.5 was trained on padded squares
    offers = frozenset({"tower", "grid"})
    # Short names would match only lm_head, and the tower would be quantised without an error.
    not_in_4_bit = ("model.vision_tower", "model.multi_modal_projector", "lm_head")

    def fit(self, path: Path, processor: LlavaProcessor, model: LlavaForConditionalGeneration):
        _check_pictures(path, processor, model.config.vision_config.image_size)
        _set_visual_tokens(path, processor, model)

    def parts(self, model: LlavaForConditionalGeneration) -> Parts:
        decoder, head = model.model.language_model, model.lm_head
        return Parts(decoder, head, tower_of(model), projector_of(model))

    def tokens(self, config) -> int:
        return math.prod(patch_grid(config))

    def sample(self, config, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixel_values": blank(config, 1)}

    def grids(self, config, tokens: int) -> tuple[tuple[int, int], ...]:
        pictures, rest = divmod(tokens, self.tokens(config))
        return () if rest else (patch_grid(config),) * pictures

    def prepare(
        self,
        config,
        processor,
        picture,
        question: str,
        mode: str | None = None,
        system: str | None = None,
        reword: Callable[[str], str] = str,
    ) -> Prompt:
        mode = self.picture_modes[0] if mode is None else mode
        check_choice("picture mode", mode, self.picture_modes)
        picture = open_picture(picture)
        question, plain, notes = read_question(processor, question, reword)
        system = system_sentence(processor, system)
        text = one_blank(prompt_text(processor, plain, system), system)
        side, seen, grid = config.vision_config.image_size, seen_side(config), patch_grid(config)
        square, box = _square(picture, side, mode, processor.image_processor.image_mean)
        inputs = encoded(processor, square, text)
        layout = TokenLayout.from_ids(inputs["input_ids"], config.image_token_id, grid)
        if seen < side:
            notes.append(
                f"This model's patches cover {seen} of {side} pixels a side; the rim at the right "
                "and at the bottom is neither seen nor shown."
            )
        sheet = Sheet.of_grid(square.crop((0, 0, seen, seen)), *grid)
        padding = _outside(sheet, box)
        return Prompt(question, text, inputs, layout, (sheet,), padding, tuple(notes))

    def encode(
        self, model: LlavaForConditionalGeneration, prompt: Prompt, note_tower: bool = False
    ) -> Encoded:
        pixels = prompt.inputs["pixel_values"]
        if not note_tower:
            return Encoded(model.get_image_features(pixels, return_dict=True))
        with noting(TowerWatch.on(model)) as watch:
            outputs = model.get_image_features(pixels, return_dict=True)
        return Encoded(outputs, watch.tower)

    def tower_flops(self, config, prompt: Prompt) -> int:
        return vision_flops(config, len(prompt.inputs["pixel_values"]))


class VipLlava(Llava):
    """ViP-LLaVA: as LLaVA-1.5, but its projector reads five layers of the tower."""

    title = "ViP-LLaVA"
    kinds = {"vipllava": VipLlavaForConditionalGeneration}
    offers = frozenset({"grid"})
    lacks = {"tower": "its projector reads several layers of the tower"}


def system_sentence(processor, own: str | None) -> str:
    """The system sentence before the question; empty: none.

    Args:
        own: the checkpoint's own sentence (field `system` of its presets.json). None: LLaVA-1.5's
            sentence for a Vicuna template, and no sentence for any other. A Vicuna template is one
            whose text for a lone question holds both "USER:" and "ASSISTANT:".

    Raises:
        Refused: one sentence.
    """
    if own is not None:
        return given_sentence(processor, own)
    text = prompt_text(processor, "?", "")
    return SYSTEM if "USER:" in text and "ASSISTANT:" in text else ""


# -- the square and its patches


def patch_grid(config) -> tuple[int, int]:
    """Patches (rows, columns) of a picture."""
    return grid_of(config.vision_config)


def seen_side(config) -> int:
    """Side in pixels of the square that whole patches cover; a rim outside it may remain."""
    return patch_grid(config)[0] * config.vision_config.patch_size


def _square(picture: Image.Image, side: int, mode: str, mean) -> tuple[Image.Image, tuple]:
    """The square that the model sees, and the box (left, top, right, bottom) of the picture."""
    if mode == CROP:
        return ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC), (0, 0, side, side)
    scale = side / max(picture.size)
    width, height = (min(side, max(1, round(edge * scale))) for edge in picture.size)
    left, top = (side - width) // 2, (side - height) // 2
    square = Image.new("RGB", (side, side), tuple(round(255 * channel) for channel in mean))
    square.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return square, (left, top, left + width, top + height)


def _outside(sheet: Sheet, picture: tuple) -> tuple[int, ...]:
    """Patches that touch no pixel of the picture; `picture` is its box in the square."""
    left, top, right, bottom = picture
    return tuple(
        patch
        for patch, box in enumerate(sheet.boxes)
        if box.bottom <= top or box.top >= bottom or box.right <= left or box.left >= right
    )


def blank(config, *pictures: int) -> torch.Tensor:
    """Square pictures for the tower, on the meta device; the first dimensions are `pictures`."""
    height, width = pair(config.vision_config.image_size)
    return torch.empty(*pictures, config.vision_config.num_channels, height, width, device="meta")


# -- a checkpoint's image processor


def _check_pictures(path: Path, processor: LlavaProcessor, side: int):
    """Check that the image processor returns the square that the tower takes.

    Raises:
        Refused: one sentence that names the setting.
    """
    mean = processor.image_processor.image_mean
    if not isinstance(mean, list | tuple) or len(mean) != 3:
        raise Refused(
            f"In {named(path)}, the image processor's image_mean must be three numbers, one for "
            f"each of red, green and blue, not {str(mean)[:80]}."
        )
    made = processor.image_processor(Image.new("RGB", (side, side)), return_tensors="pt")
    pixels = made["pixel_values"]
    height, width = pixels.shape[-2:]
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
    """Make the processor count visual tokens as the model does.

    Folders saved before transformers 4.46, or incomplete ones, lack these settings or hold wrong
    ones. The model knows them all, so they are taken from the model.

    Raises:
        Refused: one sentence that names the setting and its file.
    """
    config = model.config
    patches = math.prod(patch_grid(config))
    visual = _count_visual(model)
    strategy = select_strategy(config)
    if visual != patches:
        raise Refused(
            f"The model in {named(path)} makes {visual} visual tokens of {patches} patches "
            f"(vision_feature_select_strategy is {strategy!r} in config.json), so they cannot be "
            "drawn on the picture."
        )
    count_like_model(processor, config)


def select_strategy(config) -> str:
    """ "default" leaves out the tower's first token; ViP-LLaVA knows nothing else."""
    return getattr(config, "vision_feature_select_strategy", "default")


def count_like_model(processor, config):
    """Make a processor count a picture's visual tokens by the model's configuration."""
    strategy = select_strategy(config)
    processor.patch_size = config.vision_config.patch_size
    processor.vision_feature_select_strategy = strategy
    # "default" leaves out the tower's first token, which is then no patch.
    processor.num_additional_image_tokens = int(strategy == "default")


@torch.no_grad()
def _count_visual(model: LlavaForConditionalGeneration) -> int:
    """Visual tokens that a model on the meta device makes of one picture."""
    vision = model.config.vision_config
    shape = (1, vision.num_channels, vision.image_size, vision.image_size)
    seen = model.get_image_features(torch.empty(shape, device="meta"), return_dict=True)
    return len(seen.pooler_output[0])


# -- what the tower costs


def vision_flops(config, pictures: int) -> int:
    """FLOPs of the vision tower and LLaVA's projector for a number of square pictures."""
    vision, text = config.vision_config, config.get_text_config()
    tokens = math.prod(patch_grid(config)) + class_tokens(vision)
    tokens -= select_strategy(config) == "default"
    width = vision.hidden_size * len(feature_layers(config))
    projector = two_layers_macs(tokens, width, text.hidden_size, text.hidden_size)
    return 2 * (vit_macs(vision) + projector) * pictures
