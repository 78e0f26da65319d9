"""How a picture and a question become a model's input: system sentence, square, token layout."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps

from visipruner.errors import Refused
from visipruner.inputs import check_choice, clean_question, literal, open_picture
from visipruner.layout import TokenLayout

# LLaVA-1.5 was trained with this sentence, which its chat template leaves out unless given.
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
PICTURE_MODES = ("pad", "crop")


@dataclass(frozen=True)
class Prompt:
    """One picture and one question, ready for the model; on the CPU, wherever the model is."""

    question: str
    text: str  # the whole prompt, as the tokenizer got it
    inputs: dict[str, torch.Tensor]  # input_ids (1, tokens), attention_mask, pixel_values
    layout: TokenLayout
    seen: Image.Image  # the picture exactly as the model sees it, before normalisation
    padding: tuple[int, ...]  # patches that hold nothing but padding
    notes: tuple[str, ...] = ()  # sentences for the user
    outside: bool = False  # the model never learnt such pictures: every answer is a guess


def make_prompt(
    config,
    processor,
    picture,
    question: str,
    mode: str = "pad",
    reword: Callable[[str], str] = str,
) -> Prompt:
    """Turn a picture (path, bytes, PIL, array) and a question into a LLaVA's input.

    Args:
        config: the model's configuration, for the sizes of picture and patches.
        mode: "pad" to a square, as LLaVA-1.5 was trained, or "crop" its middle.
        reword: what the model is asked, from the question as it was typed.

    Raises:
        Refused: one plain sentence about the picture or the question.
    """
    check_choice("picture mode", mode, PICTURE_MODES)
    picture = open_picture(picture)
    question, notes = clean_question(question)
    text = prompt_text(processor, literal(reword(question), processor.tokenizer.all_special_tokens))
    side, grid = config.vision_config.image_size, patch_grid(config)
    square, padding_box = _square(picture, side, mode, processor.image_processor.image_mean)
    inputs = dict(processor(images=square, text=text, return_tensors="pt"))
    layout = TokenLayout.from_ids(inputs["input_ids"], config.image_token_id, grid)
    padding = _padding_patches(padding_box, side, grid)
    return Prompt(question, text, inputs, layout, square, padding, tuple(notes))


def patch_grid(config) -> tuple[int, int]:
    """Patches (rows, columns) of a picture."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side, side


def prompt_text(processor, question: str) -> str:
    """The question in the checkpoint's own chat template, after the system sentence.

    Raises:
        Refused: one sentence, for a broken template.
    """
    messages = [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
    ]
    try:
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
    except Exception as error:  # a template is a program, and may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise Refused(f"The chat template of this model is broken ({reason}).") from None
    # Vicuna's templates differ in the blanks that they add; LLaVA-1.5 was trained with exactly one.
    return re.sub(re.escape(SYSTEM) + r"\s*(?=USER:)", SYSTEM + " ", text)


def _square(picture: Image.Image, side: int, mode: str, mean) -> tuple[Image.Image, tuple]:
    """The square that the model sees, and the box (left, top, right, bottom) of the picture."""
    if mode == "crop":
        return ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC), (0, 0, side, side)
    scale = side / max(picture.size)
    width, height = (min(side, max(1, round(edge * scale))) for edge in picture.size)
    left, top = (side - width) // 2, (side - height) // 2
    square = Image.new("RGB", (side, side), tuple(round(255 * channel) for channel in mean))
    square.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    return square, (left, top, left + width, top + height)


def _padding_patches(box: tuple, side: int, grid: tuple[int, int]) -> tuple[int, ...]:
    """Patches that touch no pixel of the picture."""
    rows, columns = grid
    left, top, right, bottom = box
    high, wide = side / rows, side / columns
    return tuple(
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if (row + 1) * high <= top
        or row * high >= bottom
        or (column + 1) * wide <= left
        or column * wide >= right
    )
