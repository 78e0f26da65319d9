"""Analysis 1b: where one token of the prompt looks, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from visipruner.analyses.base import Figure, PatchMap, Series
from visipruner.analyses.observed import (
    Observed,
    Result,
    check_number_of,
    check_visual,
    numbers,
    per_patch,
    word_at,
)
from visipruner.errors import Refused
from visipruner.observing import Observer
from visipruner.settings import INT, setting

LAST = -1
MOST_TOKENS = 1_000_000  # longer than any prompt


@dataclass(frozen=True)
class Attentions(Result):
    """One token's attention weights per layer."""

    token: int  # its index in the prompt
    word: str
    head: int | None  # None: the mean over heads
    weights: tuple  # (layers, visual tokens); None: not there
    visual: tuple  # (layers,) the sum over all visual tokens; None: the token is not there
    first: tuple  # (layers,) the weight on the prompt's first token

    @property
    def highest(self) -> float:
        return max((w for row in self.weights for w in row if w is not None), default=0.0)


@dataclass(frozen=True)
class AttentionMap(Observed):
    """Softmax weights of one asking token."""

    name: ClassVar[str] = "attention"
    title: ClassVar[str] = "Attention map"
    question: ClassVar[str] = "Which patches does a token of the prompt look at?"
    source: ClassVar[str] = "VisiPruner, section 3: attention of the last prompt token"

    token: int = setting(
        LAST, "Asking token; -1 is the last", INT, low=-MOST_TOKENS, high=MOST_TOKENS
    )
    head: int | None = setting(None, "Head; none is the mean", INT, high=10_000, optional=True)

    def check(self, vlm, prompt):
        check_visual(prompt, self.title)
        if self.head is not None:
            heads = vlm.model.config.get_text_config().num_attention_heads
            check_number_of("head", self.head, heads, "heads")
        token = asking(self.token, prompt)
        if token < prompt.layout.visual[0]:
            raise Refused(
                f"Token {token} stands before the picture and sees no patch: the first visual "
                f"token is {prompt.layout.visual[0]}."
            )

    def observer(self, vlm, prompt):
        return _Row(asking(self.token, prompt), self.head)

    def conclude(self, vlm, prompt, observer, trace) -> Attentions:
        token = asking(self.token, prompt)
        found = zip(*observer.found, strict=True)
        return Attentions(token, word_at(vlm, prompt, token), self.head, *found)

    def figures(self, result: Attentions) -> list[Figure | PatchMap]:
        head = "the mean over heads" if result.head is None else f"head {result.head}"
        who = f"token {result.token} (“{result.word}”)"
        words = f"Attention of {who} to each visual token, {head}. {_most(result)}"
        layers = range(len(result.visual))
        rest = [
            None if visual is None else 1 - visual - first
            for visual, first in zip(result.visual, result.first, strict=True)
        ]
        shares = (
            Series("visual tokens", layers, result.visual),
            Series("first token of the prompt", layers, result.first),
            Series("other text", layers, rest),
        )
        top = result.highest or 1.0
        return [
            PatchMap(f"Attention of {who}", "attention", result.weights, (0.0, top), words),
            Figure(f"Where {who} looks", words, "layer", "share of attention", shares),
        ]


def asking(token: int, prompt) -> int:
    """The index of the asking token, counted from the start.

    Raises:
        Refused: the prompt has no such token.
    """
    length = prompt.layout.length
    if not -length <= token < length:
        raise Refused(f"token must be from -{length} to {length - 1} for this prompt, not {token}.")
    return token % length


class _Row(Observer):
    """Keeps (weights per patch, their sum, weight on the first token) of each layer."""

    def __init__(self, token: int, head: int | None):
        self.token, self.head, self.found = token, head, []

    def queries(self, view):
        row = (view.tokens == self.token).nonzero().flatten()
        return row if len(row) else None

    def observe(self, view):
        if not (view.tokens == self.token).any():  # it was dropped
            self.found.append((per_patch(view, [None] * len(view.visual_rows)), None, None))
            return
        weights = view.attention_rows()[:, 0].cpu()
        row = weights.mean(0) if self.head is None else weights[self.head]
        visual = row[view.visual_rows]
        first = row[0].item() if view.tokens[0] == 0 else 0.0
        self.found.append((per_patch(view, numbers(visual)), visual.sum().item(), first))


def _most(result: Attentions) -> str:
    found = [(share, layer) for layer, share in enumerate(result.visual) if share is not None]
    if not found:
        return "The token is in no layer."
    share, layer = max(found)
    return f"Layer {layer} gives visual tokens most, {share:.0%} of its attention."
