"""What the picture and the words of a prompt cost: tokens, computing and cache."""

from __future__ import annotations

from dataclasses import dataclass

from visipruner.flops import ModelShape
from visipruner.render.numbers import flops, in_bytes
from visipruner.running.results import Answer

LLAVA_7B = ModelShape(32, 4096, 4096, 4096, 11008, 32064)
CACHED = 2  # bytes of a number in LLaVA-1.5-7B's cache, which is float16


@dataclass(frozen=True)
class Bar:
    """One sum, and the picture's share of it, 0 to 1."""

    name: str
    share: float
    words: str


@dataclass(frozen=True)
class Bill:
    """The bars of one model."""

    title: str
    bars: tuple[Bar, ...]


def prefill_flops(shape: ModelShape, tokens: int) -> int:
    """FLOPs of an unpruned prefill that computes one row of logits, as `flops.executed` counts."""
    layer = tokens * shape.token_macs() + tokens * tokens * shape.pair_macs()
    return 2 * (shape.layers * layer + shape.width * shape.vocabulary)


def bills(vlm, full: Answer) -> tuple[Bill, ...]:
    """The model's own bill, and LLaVA-1.5-7B's for the same prompt, by formula.

    The picture's share of the computing is what a prompt without the picture saves.

    Args:
        full: the full model's answer.
    """
    shape = ModelShape.of(vlm.model.config)
    text = full.trace.length - full.trace.num_visual
    own = _bill(f"{vlm.spec.title}, executed", shape, full.trace, full.counts.kv_bytes)
    if shape == LLAVA_7B:
        return (own,)
    cache = 2 * LLAVA_7B.kv_width * CACHED * LLAVA_7B.layers * (text + full.trace.num_visual)
    return own, _bill("LLaVA-1.5-7B, by formula", LLAVA_7B, full.trace, cache)


def _bill(title: str, shape: ModelShape, trace, cache: int) -> Bill:
    visual, text = trace.num_visual, trace.length - trace.num_visual
    whole = prefill_flops(shape, trace.length)
    seen = visual / trace.length
    bars = (
        Bar("Tokens", seen, f"{visual} + {text}"),
        Bar("Computing", 1 - prefill_flops(shape, text) / whole, flops(whole)),
        Bar("Cache", seen, in_bytes(cache)),
    )
    return Bill(title, bars)
