"""Each chart in a sentence, for who cannot see it."""

from __future__ import annotations

from visipruner.render.series import influence_series, layer_spans, sides


def describe_tokens(comparison) -> str:
    """Visual tokens per layer, in words."""
    trace = sides(comparison)[1].trace
    runs = layer_spans([record.visual_tokens for record in trace.layers])
    parts = [f"{count} in {layers(first, last)}" for first, last, count in runs]
    return (
        f"Visual tokens of the pruned run: {', '.join(parts)}; the full run has {trace.num_visual} "
        "in every layer."
    )


def describe_flops(comparison) -> str:
    """FLOPs of the layers on both sides, in words."""
    full, pruned = (sum(side.counts.executed_per_layer) for side in sides(comparison))
    if not full:
        return "No layer ran."
    return (
        f"FLOPs executed in the layers during prefill: {full:.3g} in the full run, {pruned:.3g} in "
        f"the pruned run, {100 * pruned / full:.0f} percent of it."
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


def layers(first: int, last: int) -> str:
    """ "layer 3" or "layers 3 to 5"."""
    return f"layer {first}" if first == last else f"layers {first} to {last}"
