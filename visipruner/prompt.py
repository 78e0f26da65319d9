"""How a picture and a question become a model's input: system sentence, square, token layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image, ImageOps

from visipruner.errors import Refused
from visipruner.inputs import check_choice, clean_question, literal, open_picture
from visipruner.layout import TokenLayout
from visipruner.templates import SYSTEM, picture_word, prompt_text, system_sentence

PICTURE_MODES = ("pad", "crop")


@dataclass(frozen=True)
class Prompt:
    """One picture and one question, ready for the model; on the CPU, wherever the model is."""

    question: str
    text: str  # the whole prompt, as the tokenizer got it
    inputs: dict[str, torch.Tensor]  # input_ids (1, tokens), attention_mask, pixel_values
    layout: TokenLayout
    seen: Image.Image  # what the patches cover, exactly as the model sees it; not normalised
    padding: tuple[int, ...]  # patches that hold nothing but padding
    notes: tuple[str, ...] = ()  # sentences for the user
    outside: bool = False  # the model never learnt such pictures: every answer is a guess


def make_prompt(
    config,
    processor,
    picture,
    question: str,
    mode: str = "pad",
    system: str | None = None,
    reword: Callable[[str], str] = str,
) -> Prompt:
    """Turn a picture (path, bytes, PIL, array) and a question into a LLaVA's input.

    Args:
        config: the model's configuration, for the sizes of picture and patches.
        mode: "pad" to a square, as LLaVA-1.5 was trained, or "crop" its middle.
        system: the checkpoint's own system sentence; None: see `templates.system_sentence`.
        reword: what the model is asked, from the question as it was typed.

    Raises:
        Refused: one plain sentence about the picture or the question.
    """
    check_choice("picture mode", mode, PICTURE_MODES)
    picture = open_picture(picture)
    marks = marks_of(processor)
    question, notes = clean_question(question, marks)
    plain = literal(reword(question), marks)
    _check_plain(processor.tokenizer, plain)
    text = prompt_text(processor, plain, system_sentence(processor, system))
    side, seen, grid = config.vision_config.image_size, seen_side(config), patch_grid(config)
    square, padding_box = _square(picture, side, mode, processor.image_processor.image_mean)
    inputs = _encoded(processor, square, text)
    layout = TokenLayout.from_ids(inputs["input_ids"], config.image_token_id, grid)
    if seen < side:
        notes.append(
            f"This model's patches cover {seen} of {side} pixels a side; the rim at the right and "
            "at the bottom is neither seen nor shown."
        )
    padding = _padding_patches(padding_box, config.vision_config.patch_size, grid)
    shown = square.crop((0, 0, seen, seen))
    return Prompt(question, text, inputs, layout, shown, padding, tuple(notes))


def patch_grid(config) -> tuple[int, int]:
    """Patches (rows, columns) of a picture."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side, side


def seen_side(config) -> int:
    """Pixels of the square that the patches cover; a side that is no multiple of one has a rim."""
    return patch_grid(config)[0] * config.vision_config.patch_size


def marks_of(processor) -> list[str]:
    """Every token that the processor's tokenizer finds in a text before it reads the words."""
    tokenizer = processor.tokenizer
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    return list(dict.fromkeys([picture_word(processor), *tokenizer.all_special_tokens, *added]))


def _check_plain(tokenizer, question: str):
    """Some tokenizers find a token in another spelling too, say in capital letters.

    Raises:
        Refused: one sentence.
    """
    found = set(tokenizer(question, add_special_tokens=False)["input_ids"])
    added = tokenizer.added_tokens_decoder.items()
    marks = {number for number, token in added if len(token.content.strip()) > 1}
    if found & (marks - {tokenizer.unk_token_id}):
        raise Refused(
            "This question holds a mark that steers the model, in another spelling; leave it out."
        )


def _encoded(processor, square: Image.Image, text: str) -> dict[str, torch.Tensor]:
    """What the model takes. A template that prints the first token gets no second one."""
    first = processor.tokenizer.bos_token
    more = {"add_special_tokens": False} if first and text.startswith(first) else {}
    return dict(processor(images=square, text=text, return_tensors="pt", **more))


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


def _padding_patches(box: tuple, patch: int, grid: tuple[int, int]) -> tuple[int, ...]:
    """Patches that touch no pixel of the picture."""
    rows, columns = grid
    left, top, right, bottom = box
    return tuple(
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if (row + 1) * patch <= top
        or row * patch >= bottom
        or (column + 1) * patch <= left
        or column * patch >= right
    )


__all__ = [
    "PICTURE_MODES",
    "SYSTEM",
    "Prompt",
    "make_prompt",
    "marks_of",
    "patch_grid",
    "prompt_text",
    "seen_side",
    "system_sentence",
]
