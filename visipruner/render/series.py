"""Numbers per layer, ready for plotly or SVG. This module draws nothing."""

from __future__ import annotations

from collections.abc import Sequence

from visipruner.render import palette
from visipruner.render.stages import dropping
from visipruner.trace import PruningTrace


def sides(pair) -> tuple:
    """The baseline's answer and the other one (of a `results.Comparison`, the last one)."""
    return pair.answers[0], pair.answers[-1]


def second(pair) -> str:
    """The name of the other answer's run."""
    return pair.called[1]


def settings_of(pair) -> dict:
    return sides(pair)[1].trace.fields


def thresholds_of(settings: dict) -> dict:
    """The thresholds that a method with these settings uses, of the stages that are on."""
    stages = settings.get("stages", ())
    names = ("layer_threshold", "tokens_threshold") if "middle" in stages else ()
    names += ("exit_threshold",) if "deep" in stages else ()
    return {name: settings[name] for name in names if name in settings}


def layer_spans(values: Sequence) -> list[tuple[int, int, object]]:
    """Runs of equal values: [576, 576, 3] -> [(0, 1, 576), (2, 2, 3)]."""
    runs: list[tuple[int, int, object]] = []
    for index, value in enumerate(values):
        if runs and runs[-1][2] == value:
            runs[-1] = (runs[-1][0], index, value)
        else:
            runs.append((index, index, value))
    return runs


def marks(trace: PruningTrace) -> list[tuple[int, str, str]]:
    """Layers after which visual tokens were dropped: (layer, words, colour)."""
    found = []
    for cut in dropping(trace):
        before = trace.cut_before(cut.after_layer)
        present = trace.num_visual if before is None else len(before.kept)
        if len(cut.kept) == present:
            continue
        word = {"filter": "filtering", "exit": "exit", "enter": "entering"}.get(
            cut.stage, "dropping"
        )
        colour = palette.EXIT if not cut.kept else palette.NEUTRAL
        found.append((cut.after_layer, f"{word}: {present} → {len(cut.kept)}", colour))
    return found


def flops_unit(pair) -> tuple[float, str]:
    """A unit that keeps a layer's FLOPs short: (FLOPs per unit, the unit's name)."""
    most = max((n for side in sides(pair) for n in side.counts.executed_per_layer), default=0)
    for scale, unit in ((1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs")):
        if most >= scale:
            return scale, unit
    return 1.0, "FLOPs"


def influence_series(pair) -> tuple[dict, dict | None]:
    """Per layer the largest 1 - cosine and the largest L2, of the other run and of the full model.

    L2 is divided by the output's norm if the method does so. None where nothing was tested.
    """
    relative = bool(settings_of(pair).get("relative"))
    pruned = _strongest(sides(pair)[1].trace, f"{second(pair)} run", relative)
    probe = pair.probe
    return pruned, None if probe is None else _strongest(probe, "full model", relative)


def _strongest(trace: PruningTrace, name: str, relative: bool) -> dict:
    series: dict = {"name": name, "layers": [], "change": [], "l2": []}
    for record in trace.layers:
        tested = record.influence if record.influence and record.influence.cos else None
        series["layers"].append(record.layer)
        # At least 1e-9: a cosine may be 1, and the axes are logarithmic.
        series["change"].append(max(1 - min(tested.cos), 1e-9) if tested else None)
        unit = tested.norm if tested and relative and tested.norm else 1.0
        series["l2"].append(max(max(tested.l2) / unit, 1e-9) if tested else None)
    return series
