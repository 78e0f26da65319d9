"""A question in a checkpoint's own chat template, after the checkpoint's system sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator

from visipruner.errors import Refused

MOST_QUOTED = 80  # characters of a template's words in a sentence


def template_of(processor) -> str | None:
    """The processor's chat template, else its tokenizer's; None: neither has one."""
    for owner in (processor, getattr(processor, "tokenizer", None)):
        found = getattr(owner, "chat_template", None)
        if isinstance(found, dict):  # several templates by name
            found = found.get("default") or next(iter(found.values()), None)
        if found:
            return found
    return None


def given_sentence(processor, sentence: str) -> str:
    """A checkpoint's own system sentence (field `system` of its presets.json).

    Raises:
        Refused: the sentence holds the picture's word.
    """
    if picture_word(processor) in sentence:
        raise Refused("The field system of presets.json must not hold the picture's word.")
    return sentence.strip()


def prompt_text(processor, question: str, system: str) -> str:
    """The whole prompt, with exactly one picture word.

    Templates differ in what they take, so several forms of the same question are tried. If a
    template refuses a system message, or leaves it out, the sentence goes before the question.

    Args:
        question: without blanks around it.
        system: the system sentence, without blanks around it; empty: none.

    Raises:
        Refused: one sentence, if no form leads to a prompt.
    """
    word, template = picture_word(processor), template_of(processor)
    errors, counts = [], []
    for messages in _forms(question, system, word):
        try:
            text = processor.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=True
            )
        except Exception as error:  # a template is a program and may raise anything
            errors.append(error)
            continue
        content = messages[-1]["content"]
        if isinstance(content, list) and str(content) in text:
            continue  # it expects a string, and prints the list's repr()
        counts.append(text.count(word))
        if counts[-1] == 1 and question in text and system in text:
            return text
    # The error about the usual form without a system message says most.
    raise Refused(_why_not(counts) if counts else _why(errors[1 if system else 0]))


def picture_word(processor) -> str:
    return getattr(processor, "image_token", None) or "<image>"


def _forms(question: str, system: str, word: str) -> Iterator[list[dict]]:
    """The same question as messages, in the forms that templates take; the usual one first."""

    def contents(text: str) -> list:
        return [
            [{"type": "image"}, {"type": "text", "text": text}],
            f"{word}\n{text}",
            [{"type": "text", "text": f"{word}\n{text}"}],
            text,  # some templates print the picture's word themselves
        ]

    merged = contents(f"{system}\n\n{question}" if system else question)
    for content, whole in zip(contents(question), merged, strict=True):
        user = {"role": "user", "content": content}
        if system:
            is_list = isinstance(content, list)
            said = [{"type": "text", "text": system}] if is_list else system
            yield [{"role": "system", "content": said}, user]
        yield [{"role": "user", "content": whole}]


def one_blank(text: str, system: str) -> str:
    """Leave one blank: Vicuna's templates differ in it; LLaVA was trained with exactly one."""
    if not system:
        return text
    return re.sub(re.escape(system) + r"\s*(?=USER:)", lambda _: system + " ", text)


def _why_not(counts: list[int]) -> str:
    """Why no text of a template is a prompt. `counts`: picture words in each text."""
    wrong = next((count for count in counts if count != 1), None)
    if wrong is None:
        return "The chat template of this model leaves the question out."
    return (
        f"The chat template of this model prints the picture's word {wrong} times for one picture; "
        "it must print it once."
    )


def _why(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    reason = lines[0][:MOST_QUOTED].rstrip(".: ")
    # A template refuses a conversation with Jinja's base class; bugs raise its subclasses.
    if type(error).__name__ == "TemplateError":
        return f"The chat template of this model takes no single question ({reason})."
    return f"The chat template of this model is broken ({reason})."
