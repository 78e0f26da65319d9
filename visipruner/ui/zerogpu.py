"""ZeroGPU Spaces: GPU work runs through `spaces.GPU`; elsewhere nothing changes.

On such a Space the wrapped functions run in a forked child, which alone has the GPU. So arguments
and results are plain picklable data, the models are those loaded when the parent started, and only
`gr.Error` keeps its words. Which side runs first alternates within one child only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from visipruner.analyses.together import watched
from visipruner.evaluation.interview import asked_one_by_one
from visipruner.running.results import Times
from visipruner.running.runner import CLOCK_SECONDS, Event, compare, measure
from visipruner.ui.page import plainly

MOST_SECONDS = 110  # a visitor without an account has two minutes a day


def active() -> bool:
    """Is this a ZeroGPU Space?"""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def prepare():
    """Call before a model is loaded: loading must stay in the one thread that imitates CUDA."""
    if active():
        os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")


def runs(models) -> tuple[Callable, Callable, Callable, Callable]:
    """`compare`, `measure`, `asked_one_by_one` and `look` for a model given by its key (name,
    backend, precision)."""

    def compare_on(key, prompt, methods, options) -> Iterator[Event]:
        yield from compare(models.get(*key), prompt, methods, options, ticks=True)

    def measure_on(key, prompt, methods, options, rounds, turn) -> list[list[Times]]:
        return measure(models.get(*key), prompt, methods, options, rounds, turn)

    def asked_on(key, columns, asking) -> Iterator[tuple[str, dict]]:
        yield from asked_one_by_one(models.get(*key), columns, asking)

    def look_on(key, prompt, analyses, answered, options) -> Iterator:
        yield from watched(models.get(*key), prompt, analyses, answered, options)

    if not active():
        return compare_on, measure_on, asked_on, look_on
    import spaces

    on_gpu = spaces.GPU(duration=seconds)
    asked_on_gpu = spaces.GPU(duration=asked_seconds)(plainly(asked_on))
    look_on_gpu = spaces.GPU(duration=look_seconds)(plainly(look_on))
    return on_gpu(plainly(compare_on)), on_gpu(plainly(measure_on)), asked_on_gpu, look_on_gpu


def seconds(_key, _prompt, methods, options, rounds: int = 1, _turn: int = 0) -> int:
    """The GPU time to request: a long request uses up more quota and waits longer.

    Counted: moving a 7B model onto the GPU; then for each side a prefill, about 20 tokens a second
    at worst, and its silent repeats, first of whole answers and then of first tokens.
    """
    answer = 1 + options.max_new_tokens / 20 + (2 * CLOCK_SECONDS if options.clock_rounds else 0)
    return round(min(MOST_SECONDS, 8 + rounds * len(methods) * answer))


def asked_seconds(_key, columns, asking) -> int:
    """The same for questions to the bundled model, whose answers take a tenth of a second."""
    return round(min(MOST_SECONDS, 8 + 0.2 * len(columns) * len(asking)))


def look_seconds(_key, _prompt, analyses, _answered, _options) -> int:
    """The same for analyses. Masking runs most: some forty times a part of the layers."""
    return round(min(MOST_SECONDS, 10 + 8 * len(analyses)))
