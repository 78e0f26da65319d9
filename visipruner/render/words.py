"""What a run did and how two runs compare, in sentences; each chart too, for screen readers.

A function that takes a pair also takes a `results.Comparison`, and describes its last pair.
"""

from __future__ import annotations

from collections.abc import Sequence

from visipruner.render.numbers import duration, flops
from visipruner.render.series import influence_series, layer_spans, sides
from visipruner.running.results import LEAST_ROUNDS, Times
from visipruner.sheets import Sheet, unplaced
from visipruner.trace import PruningTrace

SAME, DIFFERENT = "Same answer", "Different answers"
SAME_GUESS, DIFFERENT_GUESS = "Both guess, and say the same", "Both guess, and differ"


def kept(trace: PruningTrace, arrow: str = "->") -> str:
    """How many visual tokens each layer ran with: "576 -> 300 after 2 -> 0 after 23".

    Each number after "after" is the layer, counted from 0, after which the count changed. A cut
    after the last layer is left out: it changes no layer's count.
    """
    parts = [str(trace.num_visual)]
    runs = layer_spans([record.visual_tokens for record in trace.layers])
    for first, _, count in runs:
        if first:
            parts.append(f"{count} after {first - 1}")
        elif count != trace.num_visual:
            parts.append(f"{count} before layer 0")
    return f" {arrow} ".join(parts)


def describe_all(describe, comparison) -> str:
    """What `describe` says about every pair."""
    return " ".join(dict.fromkeys(map(describe, comparison.pairs)))


def describe_tokens(pair) -> str:
    """Visual tokens per layer, in words."""
    full, pruned = (_in_layers(answer.trace) for answer in sides(pair))
    first, other = pair.called
    return f"Visual tokens of the {other} run: {pruned}; the {first} run has {full}."


def _in_layers(trace: PruningTrace) -> str:
    runs = layer_spans([record.visual_tokens for record in trace.layers])
    if len(runs) == 1:
        return f"{runs[0][2]} in every layer"
    return ", ".join(f"{count} in {layers(first, last)}" for first, last, count in runs)


def describe_flops(pair) -> str:
    """FLOPs of the layers on both sides, in words."""
    full, pruned = (sum(side.counts.executed_per_layer) for side in sides(pair))
    if not full:
        return "No layer ran."
    first, other = pair.called
    return (
        f"Executed in the layers during prefill: {flops(full)} in the {first} run, "
        f"{flops(pruned)} in the {other} run, {100 * pruned / full:.0f} percent of that."
    )


def describe_influence(pair) -> str:
    """The strongest patch and the method's decision about it, in words."""
    pruned, probe = influence_series(pair)
    series = pruned if any(pruned["change"]) else probe
    if series is None or not any(series["change"]):
        return "No layer was tested, so there is no influence to show."
    change, layer = max((c, i) for i, c in enumerate(series["change"]) if c is not None)
    return (
        f"The most influential patch was found in layer {layer} of the {series['name']}, "
        f"with cosine {1 - change:.5f}. {sides(pair)[1].trace.why}"
    ).strip()


def verdict(pair) -> str:
    """Whether both answers agree, and how much less was computed."""
    return f"{describe_agreement(pair)}, {describe_computing(pair)}"


def describe_computing(pair) -> str:
    """Compare FLOPs. A method that drops nothing still pays for its test."""
    ratio = pair.flops_ratio
    if f"{ratio:.2f}" == "1.00":
        return "as many FLOPs executed in the prefill"
    many, word = (ratio, "fewer") if ratio > 1 else (1 / ratio, "more")
    than = " than by all tokens in all layers" if sides(pair)[0].trace.trained else ""
    return f"{many:.2f} times {word} FLOPs executed in the prefill{than}"


def describe_agreement(pair) -> str:
    """Whether both answers agree; both only guess about a picture that the model cannot know."""
    if pair.outside:
        return SAME_GUESS if pair.same else DIFFERENT_GUESS
    return SAME if pair.same else DIFFERENT


def describe_clocks(times: Times) -> str:
    """How an answer's times were measured."""
    if times.whole:
        return f"medians of {times.rounds} silent whole answers"
    if not times.rounds:
        return "one run"
    return (
        f"one run, but vision, prefill and first token are medians of {times.rounds} silent ones, "
        "and the total begins with that first token"
    )


def describe_speed(pair) -> str:
    """Which side's first token came sooner; a few runs, possibly disturbed, give no verdict."""
    times = [side.times for side in sides(pair)]
    rounds = times[1].rounds
    if rounds < LEAST_ROUNDS:
        runs = f"{rounds} runs" if rounds > 1 else "one run"
        firsts = [
            f"{duration(t.first_token)} {name}" for t, name in zip(times, pair.called, strict=True)
        ]
        return f"{', '.join(firsts)} ({runs}, too few to call one faster)"
    ratio = pair.first_token_ratio
    if pair.uneven:
        return f"times too uneven to call one faster ({ratio:.2f} times)"
    if pair.faster is None:
        return f"no measurable difference ({ratio:.2f} times)"
    return f"{ratio:.2f} times faster" if pair.faster else f"{1 / ratio:.2f} times slower"


def describe_unplaced(sheets: Sequence[Sheet], num_visual: int) -> str:
    """Which visual tokens no picture shows, and why; "" if each has its place."""
    missing = unplaced(sheets, num_visual)
    if not num_visual:
        return "This prompt holds no visual tokens."
    if missing == num_visual:
        return "It is not known where this model's visual tokens look, so none of them is drawn."
    if not missing:
        return ""
    return (
        f"{missing} of {num_visual} visual tokens look{'s' if missing == 1 else ''} at no place of "
        f"the picture, such as a line end: counted, but not drawn."
    )


def layers(first: int, last: int) -> str:
    """ "layer 3" or "layers 3 to 5"."""
    return f"layer {first}" if first == last else f"layers {first} to {last}"
