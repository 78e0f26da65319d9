"""One greedy answer under a method, with the distribution of its first word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visipruner.choice import Side
from visipruner.decoding import configuration, settled
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.stock import BaseStreamer
from visipruner.trace import PruningTrace


@dataclass(frozen=True)
class Said:
    """An answer.

    Args:
        first: (vocabulary,) float64 on the CPU: log-probabilities of the first word.
    """

    text: str
    first: Tensor = field(repr=False)
    trace: PruningTrace = field(repr=False)


@torch.inference_mode()
def ask(
    vlm, side: Side, prompt, features, tokens: int = 1, beat: Callable[[], None] = lambda: None
) -> Said:
    """The greedy answer under a method or a stack; the caller holds `vlm.lock`.

    Args:
        features: from `vlm.encode`.
        tokens: the most tokens of the answer.
        beat: called after every layer in prefill and every token; an exception that it raises stops
            the run.

    Raises:
        Refused: the method does not fit the prompt, or the model computed something that is not a
            number.
    """
    settings = configuration(vlm.model, tokens, 0.0)
    settings.update(return_dict_in_generate=True, output_logits=True)
    with (
        prune(
            vlm.model,
            vlm.stack(side),
            prompt.layout,
            tower=features.tower,
            on_layer=lambda _: beat(),
            renumbers=vlm.family.renumbers,
        ) as trace,
        settled(vlm.model, settings),
    ):
        run = vlm.model.generate(
            **{name: tensor.to(vlm.device) for name, tensor in prompt.asked.items()},
            **features.arguments,
            generation_config=settings,
            streamer=_Beats(beat),
        )
    said = run.sequences[0, prompt.layout.length :]
    text = vlm.processor.tokenizer.decode(said, skip_special_tokens=True).strip()
    return Said(text, log_shares(run.logits[0][0]), trace)


class _Beats(BaseStreamer):
    """Calls `beat` for every token of `generate`."""

    def __init__(self, beat: Callable[[], None]):
        self.beat = beat

    def put(self, value):
        self.beat()

    def end(self):
        pass


def log_shares(logits: Tensor) -> Tensor:
    """(vocabulary,) float64 on the CPU: log-probabilities of a model's logits.

    Raises:
        Refused: a logit is not a number.
    """
    found = logits.detach().cpu().double().log_softmax(-1)
    if bool(found.isnan().any()):
        raise Refused(
            "This model computed something that is not a number (NaN), so its answers cannot be "
            "compared: its weights are damaged, or too large for their precision."
        )
    return found


def divergence(usual: Tensor, other: Tensor) -> float:
    """KL divergence of `other` from `usual`, in nats: sum of p log(p / q), p of the usual run.

    Args:
        usual, other: (vocabulary,) log-probabilities.
    """
    return max(
        0.0, torch.nn.functional.kl_div(other, usual, reduction="sum", log_target=True).item()
    )
