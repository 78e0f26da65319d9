"""Plotly figures of a comparison; words.py says the same in sentences."""

from __future__ import annotations

from textwrap import wrap

import plotly.graph_objects as go

from visipruner.render import palette
from visipruner.render.series import (
    flops_unit,
    influence_series,
    layer_spans,
    marks,
    second,
    settings_of,
    sides,
    thresholds_of,
)
from visipruner.render.words import (
    layers,
)

# Plotly writes colours into every text element. These rules let the page's theme win.
CHART_CSS = """
.js-plotly-plot .main-svg text { fill: var(--body-text-color) !important; }
.js-plotly-plot .hoverlayer .bg { fill: var(--background-fill-primary) !important; }
.js-plotly-plot .gridlayer path { stroke: var(--border-color-primary) !important; }
"""


_NARROW = 46  # letters of a subtitle that fit on a phone

# Each function takes a `results.Comparison`; each side is a line with the side's name.


def tokens_chart(comparison) -> go.Figure:
    """Visual tokens in each layer of every side."""
    tokens = [[r.visual_tokens for r in side.trace.layers] for side in comparison.answers]
    return _per_layer(comparison, tokens, "Visual tokens in each layer", "visual tokens")


def flops_chart(comparison) -> go.Figure:
    """FLOPs executed in each layer during prefill, for every side."""
    scale, unit = flops_unit(comparison)
    work = [[n / scale for n in side.counts.executed_per_layer] for side in comparison.answers]
    return _per_layer(comparison, work, "Executed FLOPs in each layer", unit)


def influence_chart(comparison) -> go.Figure:
    """The strongest patch of each layer by both measures, with the method's thresholds."""
    data = []
    for series, colour, symbol in _tested(comparison):
        data += [_curve(series, colour, symbol, row) for row in (1, 2)]
    one = len(comparison.pairs) <= 1  # each further method has its own thresholds and gaps
    data += _thresholds(comparison) if one else []
    shapes, untested = _untested(comparison) if one else ([], "")
    relative = settings_of(comparison).get("relative")
    log = {"type": "log", "exponentformat": "power", "nticks": 5}
    axes = {
        "xaxis": {"anchor": "y", "showticklabels": False, "matches": "x2"},
        "xaxis2": {"anchor": "y2", "title": {"text": "layer"}},
        "yaxis": {**log, "domain": [0.58, 1]},
        "yaxis2": {**log, "domain": [0, 0.42]},
    }
    above = {"yaxis": "1 − cosine", "yaxis2": "L2 ÷ ‖output‖" if relative else "L2"}
    annotations = [_above(axes[axis]["domain"][1], words) for axis, words in above.items()]
    title, note = "The strongest patch of each layer", "<br>".join(wrap(untested, _NARROW))
    more = {"shapes": shapes, "annotations": annotations, "height": 500}
    made = figure(data, title, axes, note, margin={"l": 56, "r": 16, "t": 120, "b": 64}, **more)
    # At the top, so that a second line of the subtitle has room.
    return made.update_layout(title={"y": 1, "yanchor": "top", "pad": {"l": 12, "t": 14}})


def _above(place: float, words: str) -> dict:
    """An axis title above its axis: beside it, two of them collide on a phone."""
    at = {"xref": "paper", "yref": "paper", "x": 0, "y": place, "xanchor": "left"}
    return {"text": words, "yanchor": "bottom", "yshift": 2, "showarrow": False, **at}


def _tested(comparison) -> list[tuple[dict, str, str]]:
    """(series, colour, symbol) of the full model and of every run that tested a layer."""
    _, probe = influence_series(comparison)
    found = [(probe, palette.FULL, "circle-open")]
    symbols = ("diamond", "square", "triangle-up", "cross")
    for pair, colour, symbol in zip(
        comparison.pairs, (palette.PRUNED, *palette.OTHERS), symbols, strict=False
    ):
        found.append((influence_series(pair)[0], colour, symbol))
    return [one for one in found if one[0] is not None and any(one[0]["change"])]


# -- parts. Figures are plain dictionaries, checked once: Plotly takes ten times as long to set
# their attributes one by one, while a visitor waits.


def figure(data: list, title: str, axes: dict, subtitle: str = "", **layout) -> go.Figure:
    """The common look of all charts: readable on white, on black and from the last row."""
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    for name, axis in axes.items():
        axis.update(grid)
        if name.startswith("x"):
            axis.update(tickformat="d")
            axis.setdefault("title", {})["standoff"] = 4
    layout = {
        "title": {
            "text": title,
            "subtitle": {"text": subtitle, "font": {"size": 13}},
            "x": 0,
            "pad": {"l": 12},
            "font": {"size": 17},
        },
        "height": 300,
        "margin": {"l": 64, "r": 16, "t": 84, "b": 64},
        "font": {"color": palette.NEUTRAL, "size": 14},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "x unified",
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "yref": "paper"},
        "modebar": {"remove": list(_NO_BUTTONS)},
        "dragmode": False,
        **axes,
        **layout,
    }
    return go.Figure({"data": data, "layout": layout})


_NO_BUTTONS = (
    "zoom", "pan", "select", "lasso", "zoomin", "zoomout", "autoscale", "resetscale",
)  # fmt: skip


def _per_layer(comparison, values: list[list], title: str, unit: str) -> go.Figure:
    if len(values) > 2:
        return _lines(comparison, values, title, unit)
    return _bars(comparison, values[0], values[-1], title, unit)


def _lines(comparison, values: list[list], title: str, unit: str) -> go.Figure:
    """A step line for every side, drawn over the baseline's; the dashes differ too."""
    colours = (palette.FULL, palette.PRUNED, *palette.OTHERS)
    data = [
        {
            "type": "scatter",
            "x": list(range(len(numbers))),
            "y": numbers,
            "name": name,
            "mode": "lines",
            "line": {"color": colour, "width": 3, "shape": "hvh", "dash": dash},
            "hovertemplate": "%{y:.4~g} " + unit,
        }
        for name, numbers, colour, dash in zip(
            comparison.names, values, colours, palette.DASHES, strict=False
        )
    ]
    axes = {
        "xaxis": {"title": {"text": "layer"}},
        "yaxis": {"title": {"text": unit}, "rangemode": "tozero"},
    }
    return figure(data, title, axes, height=300 + 22 * len(values))  # one legend line per side


def _bars(comparison, full: list, pruned: list, title: str, unit: str) -> go.Figure:
    """Two overlaid bars per layer: the pruned one is narrower, so both show without colour."""
    data = [
        {
            "type": "bar",
            "x": list(range(len(values))),
            "y": values,
            "name": name,
            "width": width,
            "marker": {"color": colour, "line": {"width": 0}},
            "hovertemplate": "%{y:.4~g} " + unit,
        }
        for name, values, colour, width in (
            ("full", full, palette.FULL_PALE, 0.9),
            (second(comparison), pruned, palette.PRUNED, 0.5),
        )
    ]
    axes = {
        "xaxis": {"title": {"text": "layer"}},
        "yaxis": {"title": {"text": unit}, "rangemode": "tozero"},
    }
    shapes, annotations = _marks(comparison, len(full))
    return figure(
        data, title, axes, barmode="overlay", bargap=0, shapes=shapes, annotations=annotations
    )


def _marks(comparison, count: int) -> tuple[list, list]:
    """Dashed lines where patches were dropped, and their labels."""
    shapes, annotations = [], []
    for number, (layer, text, colour) in enumerate(marks(sides(comparison)[1].trace)):
        place = {"xref": "x", "yref": "paper"}
        line = {"color": colour, "width": 2, "dash": "dash"}
        at = layer + 0.5
        shapes.append({"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": line, **place})
        annotations.append(
            {
                "text": text,
                "x": at,
                "y": 1,
                "yanchor": "bottom",
                "xanchor": "left" if layer < count * 0.6 else "right",
                "yshift": 18 * number,  # the next mark may be only one layer away
                "showarrow": False,
                **place,
            }
        )
    return shapes, annotations


def _curve(series: dict, colour: str, symbol: str, row: int) -> dict:
    return {
        "type": "scatter",
        "x": series["layers"],
        "y": series["change" if row == 1 else "l2"],
        "name": series["name"],
        "mode": "lines+markers",
        "connectgaps": False,
        "line": {"color": colour, "width": 3},
        "marker": {"size": 9, "symbol": symbol},
        "customdata": [None if c is None else 1 - c for c in series["change"]],
        "hovertemplate": "cosine %{customdata:.5f}" if row == 1 else "L2 %{y:.3g}",
        "legendgroup": series["name"],
        "showlegend": row == 1,
        **_row(row),
    }


def _row(row: int) -> dict:
    return {"xaxis": "x", "yaxis": "y"} if row == 1 else {"xaxis": "x2", "yaxis": "y2"}


def _thresholds(comparison) -> list[dict]:
    """Threshold lines, named in the legend so that their labels cannot overlap."""
    settings = thresholds_of(settings_of(comparison))
    last = len(sides(comparison)[1].trace.layers) - 0.5
    lines = (
        (1, "layer_threshold", "filter: cosine below {:g}", palette.NEUTRAL, "dash"),
        (1, "exit_threshold", "calm: cosine from {:g}", palette.EXIT, "dot"),
        (2, "tokens_threshold", "stays: L2 from {:g}", palette.NEUTRAL, "dashdot"),
    )
    found = []
    for row, name, text, colour, dash in lines:
        value = settings.get(name)
        height = value if row == 2 or value is None else 1 - value
        if not height or height <= 0:
            continue
        found.append(
            {
                "type": "scatter",
                "x": [-0.5, last],
                "y": [height, height],
                "name": text.format(value),
                "mode": "lines",
                "line": {"color": colour, "width": 2, "dash": dash},
                "hoverinfo": "skip",
                **_row(row),
            }
        )
    return found


def _untested(comparison) -> tuple[list[dict], str]:
    """Shade layers without values, so that no gap looks like zero; also return it as words."""
    pruned, _ = influence_series(comparison)
    spans = [
        (first, last)
        for first, last, empty in layer_spans([change is None for change in pruned["change"]])
        if empty
    ]
    shapes = [
        {
            "type": "rect",
            "x0": first - 0.5,
            "x1": last + 0.5,
            "y0": 0,
            "y1": 1,
            "xref": axis,
            "yref": f"{axis.replace('x', 'y')} domain",
            "line": {"width": 0},
            "fillcolor": palette.NEUTRAL,
            "opacity": 0.15,
        }
        for first, last in spans
        for axis in ("x", "x2")
    ]
    if not spans:
        return [], ""
    where = ", ".join(layers(*span) for span in spans)
    return shapes, f"Grey: not tested in the {second(comparison)} run ({where})"
