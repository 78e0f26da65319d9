"""A picture and a question, ready for a model; and the question handling of all families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image

from visipruner.errors import Refused
from visipruner.inputs import clean_question, literal
from visipruner.layout import TokenLayout
from visipruner.sheets import Sheet
from visipruner.stock import TOWER_INPUTS
from visipruner.templates import picture_word


@dataclass(frozen=True)
class Prompt:
    """One picture and one question, ready for the model; on the CPU, wherever the model is."""

    question: str
    text: str  # the whole prompt, as given to the tokenizer
    inputs: dict[str, torch.Tensor]  # input_ids (1, tokens), attention_mask, pixel_values, ...
    layout: TokenLayout
    sheets: tuple[Sheet, ...]  # the picture as the model sees it, with its tokens' boxes
    padding: tuple[int, ...] = ()  # visual tokens that see only padding
    notes: tuple[str, ...] = ()  # sentences for the user
    outside: bool = False  # the model was not trained on such pictures: every answer is a guess

    @property
    def seen(self) -> Image.Image:
        """The picture as the model sees it; the first if it sees several."""
        return self.sheets[0].picture

    @property
    def asked(self) -> dict[str, torch.Tensor]:
        """The inputs that go to `generate`; those for the vision tower alone are left out."""
        return {name: tensor for name, tensor in self.inputs.items() if name not in TOWER_INPUTS}


def read_question(
    processor, question: str, reword: Callable[[str], str] = str
) -> tuple[str, str, list[str]]:
    """(the question as asked, the question for the model, sentences for the user).

    Args:
        reword: turns the typed question into the question for the model.

    Raises:
        Refused: one plain sentence about the question.
    """
    marks = marks_of(processor)
    question, notes = clean_question(question, marks)
    plain = literal(reword(question), marks)
    _check_plain(processor.tokenizer, plain)
    return question, plain, notes


def marks_of(processor) -> list[str]:
    """Every token that the tokenizer matches in a text before it splits the words."""
    tokenizer = processor.tokenizer
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    return list(dict.fromkeys([picture_word(processor), *tokenizer.all_special_tokens, *added]))


def _check_plain(tokenizer, question: str):
    """Refuse tokens in other spellings, such as capital letters, which some tokenizers match.

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


def encoded(processor, picture: Image.Image, text: str) -> dict[str, torch.Tensor]:
    """The model's inputs. If the template prints the first token, no second one is added."""
    first = processor.tokenizer.bos_token
    more = {"add_special_tokens": False} if first and text.startswith(first) else {}
    return dict(processor(images=[picture], text=text, return_tensors="pt", **more))
