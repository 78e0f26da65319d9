"""Answers to benchmark questions by several methods, kept in a store, so that a run resumes.

The first column that asks a question answers it for all columns: the picture is encoded once, and
the methods' clocks stand under the same load. The others find their answers in the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, MutableMapping

import torch
from PIL import Image

from visipruner.choice import Side, methods_of, name_of, settings_of_side, sides_at
from visipruner.errors import Refused
from visipruner.evaluation.interview import rule_hash
from visipruner.models.catalogue import VLM
from visipruner.prompt import Prompt
from visipruner.running.results import Answer, Options
from visipruner.running.runner import compare, last_event

DEFAULT_TOKENS = 128  # for tasks that name no limit, such as TextVQA
MOST_TOKENS = 1024


class Session:
    """A model, the methods to compare, and the answers so far.

    Args:
        words: methods or stacks as on the command line, `none` first.
        store: key -> row; every process of a run may write to it.
        model: its name in the store (`items.key_of`).
    """

    def __init__(self, vlm: VLM, words: list[str], store: MutableMapping[str, dict], model: str):
        self.vlm, self.names, self.store, self.model = vlm, words, store, model

    @property
    def device(self) -> torch.device:
        return self.vlm.device

    def answer(self, column: int, pictures: list, context: str, settings: Mapping) -> dict:
        """The row of one answer: text, tokens, FLOPs, visual tokens per layer, milliseconds.

        Args:
            context: the benchmark's prompt, verbatim: its line ends reach the model.
            settings: the task's `generation_kwargs`.

        Raises:
            Refused: no picture or several, settings that pruning cannot serve, or a full disk.
        """
        if len(pictures) != 1:
            raise Refused(f"it shows {len(pictures)} pictures; exactly one is served.")
        picture = pictures[0].convert("RGB")
        options = options_of(settings)
        prompt = self._prompt(picture, context)
        sides = sides_at(self.vlm, self.names, "balanced", "paper", prompt.layout.num_visual)
        keys = [self._key(side, picture, context, options) for side in sides]
        row = self.store.get(keys[column])
        if row is None:
            compared = compare(self.vlm, prompt, sides, options)
            answers = last_event(compared).comparison.answers
            rows = dict(zip(keys, map(row_of, answers), strict=True))
            self.store.update(rows)
            row = rows[keys[column]]
        return row | {"text": cut(row["text"], settings.get("until"))}

    def _prompt(self, picture: Image.Image, context: str) -> Prompt:
        if not context.strip():
            raise Refused("it asks nothing.")
        # The page's cleaning is for typing people; a benchmark's text stays as it is.
        return self.vlm.prepare(picture, "benchmark question", reword=lambda _: context)

    def _key(self, side: Side, picture: Image.Image, context: str, options: Options) -> str:
        """All that an answer depends on, except the engine."""
        seen = hashlib.sha256(picture.tobytes()).hexdigest()[:16]
        rules = [rule_hash(type(one)) for one in methods_of(side)]
        method = [name_of(side), settings_of_side(side), rules]
        asked = [seen, picture.size, context, options.max_new_tokens, options.temperature]
        return json.dumps([self.model, self.vlm.precision, *method, *asked])


def options_of(settings: Mapping) -> Options:
    """The runner's options for a task's `generation_kwargs`.

    Raises:
        Refused: beams, or a number out of range.
    """
    if int(settings.get("num_beams") or 1) != 1:
        raise Refused("it asks for beam search, which pruning cannot serve.")
    asked = settings.get("max_new_tokens") or settings.get("max_gen_toks") or DEFAULT_TOKENS
    sampled = settings.get("do_sample", True) and settings.get("temperature")
    return Options(
        max_new_tokens=min(int(asked), MOST_TOKENS),
        temperature=float(sampled or 0),
        probe=False,
        clock_rounds=0,
    )


def row_of(answer: Answer) -> dict:
    """What the store and the saved samples hold of an answer."""
    trace = answer.trace
    return {
        "text": answer.text,
        "tokens": len(answer.tokens),
        "prefill_flops": answer.counts.executed.prefill,
        "visual_tokens": [record.visual_tokens for record in trace.layers],
        "filtering_layer": trace.filtering_layer,
        "exit_layer": trace.exit_layer,
        "prefill_ms": round(answer.times.prefill, 3),
        "request_ms": round(answer.times.total, 3),
    }


def cut(text: str, until) -> str:
    """The text before the first of a task's stop words."""
    stops = [until] if isinstance(until, str) else until or []
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text
