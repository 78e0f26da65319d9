"""Each chart in a sentence, for those who cannot see it."""

from __future__ import annotations

from visipruner.render.series import influence_series, layer_spans, second, sides
from visipruner.results import LEAST_ROUNDS, Times

SAME, DIFFERENT = "Same answer", "Different answers"
SAME_GUESS, DIFFERENT_GUESS = "Both guess, and say the same", "Both guess, and differ"


def describe_tokens(comparison) -> str:
    """Visual tokens per layer, in words."""
    trace = sides(comparison)[1].trace
    runs = layer_spans([record.visual_tokens for record in trace.layers])
    parts = [f"{count} in {layers(first, last)}" for first, last, count in runs]
    return (
        f"Visual tokens of the {second(comparison)} run: {', '.join(parts)}; the full run has "
        f"{trace.num_visual} in every layer."
    )


def describe_flops(comparison) -> str:
    """FLOPs of the layers on both sides, in words."""
    full, pruned = (sum(side.counts.executed_per_layer) for side in sides(comparison))
    if not full:
        return "No layer ran."
    return (
        f"Executed in the layers during prefill: {engineering(full, 'FLOPs')} in the full run, "
        f"{engineering(pruned, 'FLOPs')} in the {second(comparison)} run, "
        f"{100 * pruned / full:.0f} percent of that."
    )


def describe_influence(comparison) -> str:
    """The strongest patch and what the method made of it, in words."""
    pruned, probe = influence_series(comparison)
    series = pruned if any(pruned["change"]) else probe
    if series is None or not any(series["change"]):
        return "No layer was tested, so there is no influence to show."
    change, layer = max((c, i) for i, c in enumerate(series["change"]) if c is not None)
    return (
        f"The most influential patch was found in layer {layer} of the {series['name']}, "
        f"with cosine {1 - change:.5f}. {sides(comparison)[1].trace.why}"
    ).strip()


def describe_computing(comparison) -> str:
    """A method that drops nothing still pays for its test."""
    ratio = comparison.flops_ratio
    if f"{ratio:.2f}" == "1.00":
        return "as many FLOPs executed in the prefill"
    many, word = (ratio, "fewer") if ratio > 1 else (1 / ratio, "more")
    return f"{many:.2f} times {word} FLOPs executed in the prefill"


def describe_agreement(comparison) -> str:
    """Whether both said the same; of a picture that the model cannot know, both only guess."""
    if comparison.prompt.outside:
        return SAME_GUESS if comparison.same else DIFFERENT_GUESS
    return SAME if comparison.same else DIFFERENT


def describe_clocks(times: Times) -> str:
    """How an answer's clocks were read."""
    if times.whole:
        return f"medians of {times.rounds} silent whole answers"
    if not times.rounds:
        return "one run"
    return (
        f"one run, but vision, prefill and first token are medians of {times.rounds} silent ones, "
        "and the total begins with that first token"
    )


def describe_speed(comparison) -> str:
    """Which side's first word came sooner; a few runs, maybe disturbed, are no verdict."""
    full, other = (side.times for side in sides(comparison))
    if other.rounds < LEAST_ROUNDS:
        runs = f"{other.rounds} runs" if other.rounds > 1 else "one run"
        return (
            f"{full.first_token:.0f} ms full, {other.first_token:.0f} ms {second(comparison)} "
            f"({runs}, too few to call one faster)"
        )
    ratio = comparison.first_token_ratio
    if comparison.uneven:
        return f"times too uneven to call one faster ({ratio:.2f} times)"
    if comparison.faster is None:
        return f"no measurable difference ({ratio:.2f} times)"
    return f"{ratio:.2f} times faster" if comparison.faster else f"{1 / ratio:.2f} times slower"


def engineering(number: float, unit: str) -> str:
    """A number in thousands, millions, ...: 2_630_000_000 FLOP -> "2.63 GFLOP"."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= scale:
            return f"{number / scale:.4g} {prefix}{unit}"
    return f"{number:.4g} {unit}"


def layers(first: int, last: int) -> str:
    """ "layer 3" or "layers 3 to 5"."""
    return f"layer {first}" if first == last else f"layers {first} to {last}"
