"""Several analyses of one prompt: all that only watch share one run, the others run in turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing

import torch

from visipruner.analyses.answered import with_answer
from visipruner.analyses.base import Analysis, Step
from visipruner.analyses.observed import Observed, observe
from visipruner.errors import Refused
from visipruner.running.stream import stream


def together(
    vlm, prompt, features, analyses: Sequence[Analysis]
) -> Iterator[Step | tuple[Analysis, object]]:
    """Yield steps, and (analysis, result) of each as it is finished.

    Closing the generator stops the run and leaves nothing on the model.

    Args:
        prompt: from `vlm.prepare`. features: from `vlm.encode`.

    Raises:
        Refused: one of them does not fit the model or the prompt; nothing has run then.
    """
    for analysis in analyses:
        try:
            analysis.check(vlm, prompt)
        except Refused as error:  # several may have a setting of this name
            raise Refused(f"{analysis.title}: {error}") from None
    watching = [one for one in analyses if isinstance(one, Observed)]
    if watching:
        with closing(observe(vlm, prompt, features, watching)) as events:
            for event in events:
                if isinstance(event, Step):
                    yield event
                else:
                    yield from zip(watching, event, strict=True)
    for analysis in analyses:
        if analysis not in watching:
            with closing(analysis.run(vlm, prompt, features)) as events:
                for event in events:
                    yield event if isinstance(event, Step) else (analysis, event)


def look(
    vlm, prompt, analyses: Sequence[Analysis], answered: bool = False, options=None
) -> Iterator[Step | tuple[Analysis, object]]:
    """As `together`, from the prompt alone.

    Args:
        answered: put the unpruned model's answer behind the prompt first. options: of this answer.
    """
    with vlm.lock, torch.inference_mode():
        features = vlm.encode(prompt)
    if answered:
        prompt = with_answer(vlm, prompt, features, options)
    yield from together(vlm, prompt, features, analyses)


def watched(
    vlm, prompt, analyses: Sequence[Analysis], answered: bool = False, options=None
) -> Iterator[Step | tuple[Analysis, object]]:
    """As `look`, in a thread of its own; after each second without news the last step again.

    Before the first step that is `Step(0, 0)`: the picture is being encoded.
    """

    def work(emit):
        with closing(look(vlm, prompt, analyses, answered, options)) as events:
            for event in events:
                emit(event)

    last, tick = Step(0, 0), object()
    # A lock of its own: `look` takes the model's.
    with closing(stream(work, threading.Lock(), last, tick)) as events:
        for event in events:
            last = event if isinstance(event, Step) else last
            yield last if event is tick else event
