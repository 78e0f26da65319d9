"""Analyses that watch one run: many share it, and each ends with a result of plain numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from visipruner.analyses.base import Analysis, Step
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.methods import PruningMethod
from visipruner.observing import Observer
from visipruner.running.results import Options
from visipruner.running.runner import generate
from visipruner.running.stream import stream
from visipruner.settings import check_settings


class Observed(Analysis):
    """An analysis by an observer. Its fields are made by `settings.setting`, and checked."""

    def __post_init__(self):
        check_settings(self)

    def observer(self, vlm, prompt) -> Observer:
        """A new observer for one run."""
        raise NotImplementedError

    def also(self, vlm, prompt) -> PruningMethod | None:
        """A method that runs after the shared run, because the result tells of it too."""
        return None

    def conclude(self, vlm, prompt, observer, trace) -> Result:
        """The result.

        Args:
            observer: from `observer`, after its run.
            trace: of the run of `also`, or None.
        """
        raise NotImplementedError

    def run(self, vlm, prompt, features) -> Iterator[Step | Result]:
        for event in observe(vlm, prompt, features, [self]):
            yield event if isinstance(event, Step) else event[0]


def observe(
    vlm, prompt, features, analyses: Sequence[Observed], method=None
) -> Iterator[Step | list[Result]]:
    """Many analyses of one run: yields a `Step` per layer, then the list of their results.

    Closing the generator stops the run at the next layer and leaves nothing on the model.

    Args:
        prompt: from `vlm.prepare`. features: from `vlm.encode`.
        method: a method or a stack that prunes the run. None: the unpruned model.

    Raises:
        Refused: an analysis does not fit the model or the prompt.
    """
    for analysis in analyses:
        analysis.check(vlm, prompt)
    observers = [analysis.observer(vlm, prompt) for analysis in analyses]
    others = [analysis.also(vlm, prompt) for analysis in analyses]
    layers = len(vlm.parts.layers)
    total, done, results = layers * (1 + sum(map(bool, others))), 0, []

    def work(emit):
        def prefill(method, observers=()):
            def on_layer(record):
                nonlocal done
                done += 1
                emit(Step(done, total))

            with prune(
                vlm.model,
                vlm.stack(method),
                prompt.layout,
                on_layer=on_layer,
                renumbers=vlm.family.renumbers,
                observers=observers,
            ) as trace:
                generate(vlm, prompt, features, Options(max_new_tokens=1))
            return trace

        with torch.inference_mode():
            prefill(method or PruningMethod(), observers)
            traces = [other and prefill(other) for other in others]
            concluded = zip(analyses, observers, traces, strict=True)
            results.extend(one.conclude(vlm, prompt, *rest) for one, *rest in concluded)

    yield from stream(work, vlm.lock, Step(0, total))
    yield results


class Result:
    """The base of results: frozen dataclasses of numbers, words, None, and tuples of these."""

    def to_json(self) -> dict:
        """Plain lists, numbers and strings; `from_json` gives the same result back."""
        return {
            field.name: _listed(getattr(self, field.name)) for field in dataclasses.fields(self)
        }

    @classmethod
    def from_json(cls, data: dict) -> Result:
        return cls(**{name: _tupled(value) for name, value in data.items()})


def _listed(value):
    return list(map(_listed, value)) if isinstance(value, tuple) else value


def _tupled(value):
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def numbers(tensor: Tensor) -> tuple:
    """A tensor as tuples of numbers."""
    return _tupled(tensor.detach().cpu().tolist())


def per_patch(view, values: Sequence, nothing=None) -> tuple:
    """One value per visual token of the prompt.

    Args:
        values: one per visual token present, in the order of `view.patches`.
        nothing: for a visual token that is not present.
    """
    found = [nothing] * view.layout.num_visual
    for patch, value in zip(view.patches.tolist(), values, strict=True):
        if patch >= 0:  # a method's own token is no patch
            found[patch] = value
    return tuple(found)


def top_words(vlm, logits: Tensor, count: int) -> tuple[tuple, tuple]:
    """The likeliest words and their probabilities, each (n, count) as tuples.

    Args:
        logits: (n, vocabulary).

    Raises:
        Refused: the logits are not numbers.
    """
    shares, ids = logits.float().softmax(-1).topk(min(count, logits.shape[-1]))
    if bool(shares.isnan().any()):  # a NaN among the logits makes every share of its row NaN
        raise Refused(
            "This model computed something that is not a number (NaN), so its layers have no words:"
            " its weights are damaged, or too large for their precision."
        )
    words = tuple(tuple(word_of(vlm, token) for token in row) for row in ids.tolist())
    return words, numbers(shares)


def word_of(vlm, token: int) -> str:
    """A token of the vocabulary as a word to show."""
    tokenizer = vlm.processor.tokenizer
    if token == tokenizer.unk_token_id:
        return "unknown word"
    word = tokenizer.decode([token]).strip()
    if word.isprintable() and word:
        return word
    return ascii(str(tokenizer.convert_ids_to_tokens(token)))[1:-1]  # a blank, or half a letter


def word_at(vlm, prompt, token: int) -> str:
    """A token of the prompt as words to show: its word, or the number of its patch."""
    layout = prompt.layout
    if token in layout.visual:
        return f"patch {layout.visual.index(token)}"
    number = int(prompt.inputs["input_ids"][0, token])
    typed = _typed(vlm, prompt, token) if number == vlm.processor.tokenizer.unk_token_id else ""
    return typed or word_of(vlm, number)


def _typed(vlm, prompt, token: int) -> str:
    """What the prompt's text says at a token that is not in the vocabulary; "": not found."""
    tokenizer, visual = vlm.processor.tokenizer, prompt.layout.visual
    first = tokenizer.bos_token
    added = not (first and prompt.text.startswith(first))
    read = tokenizer(prompt.text, add_special_tokens=added, return_offsets_mapping=True)
    ids = read["input_ids"]
    if visual and token > visual[-1]:  # in the text, the picture is one word
        pictures = [place for place, number in enumerate(ids) if number == _picture(vlm)]
        token = pictures[-1] + token - visual[-1] if pictures else len(ids)
    if token >= len(ids) or ids[token] != tokenizer.unk_token_id:
        return ""
    start, stop = read["offset_mapping"][token]
    return prompt.text[start:stop].strip()


def _picture(vlm) -> int:
    return vlm.model.config.image_token_id


def check_visual(prompt, title: str):
    """Refuse a prompt without visual tokens.

    Raises:
        Refused: one sentence.
    """
    if not prompt.layout.num_visual:
        raise Refused(f"{title} needs a picture, and this prompt holds no visual token.")


def check_number_of(name: str, value: int, count: int, what: str):
    """Refuse an index that a model or a prompt does not have.

    Args:
        what: of the things counted, such as "heads".

    Raises:
        Refused: one sentence.
    """
    if not 0 <= value < count:
        raise Refused(
            f"{name} must be from 0 to {count - 1}, because there are {count} {what}; "
            f"it is {value}."
        )
