"""A checkpoint's processor (tokenizer, chat template, image processor), made to fit its model."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from visipruner.errors import Refused
from visipruner.families import Family
from visipruner.files import named
from visipruner.models.checkpoint import why
from visipruner.templates import template_of


def load_processor(path: Path, model: PreTrainedModel, family: Family) -> ProcessorMixin:
    """Tokenizer, chat template and image processor of a folder.

    Args:
        model: the folder's model; one on the meta device is enough.

    Raises:
        Refused: one sentence.
    """
    try:
        processor = family.open_processor(path)
    except Exception as error:
        raise why(path, error) from None
    if not isinstance(processor, family.processor):
        raise Refused(
            f"The files of {named(path)} give a {type(processor).__name__} where a "
            f"{family.processor.__name__} is needed: one with a tokenizer and an image processor."
        )
    if template_of(processor) is None:
        raise Refused(f"{named(path)} has no chat template, so it cannot be asked a question.")
    _check_tokens(path, processor, model)
    try:
        family.fit(path, processor, model)
    except Refused:
        raise
    except Exception as error:
        raise why(path, error) from None
    return processor


def _check_tokens(path: Path, processor: ProcessorMixin, model: PreTrainedModel):
    """Check that every token of a question has an embedding; without one, IndexError would follow.

    Raises:
        Refused: one sentence with the token and both numbers.
    """
    rows = model.get_input_embeddings().num_embeddings
    numbers = processor.tokenizer.get_vocab()  # includes all added tokens
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


def try_prompt(path: Path, vlm):
    """Make one prompt: only that shows broken templates and sizes before a visitor asks.

    Raises:
        Refused: one sentence.
    """
    try:
        prompt = vlm.prepare(Image.new("RGB", (8, 8)), "what?")
        counts = {len(sheet.boxes) for sheet in prompt.sheets}
        if counts != {prompt.layout.num_visual}:  # transformers 5.20 does not raise here
            raise Refused("its chat template does not put one picture into a question")
    except Exception as error:
        raise why(path, error) from None
