"""Plotly figures of a comparison, and one sentence for each that says the same to who cannot see it."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from visipruner.render import palette
from visipruner.render.series import influence_series, layer_spans, marks, settings_of, sides

# Plotly writes colours into every text element. This lets the page's theme win, light or dark.
CHART_CSS = """
.js-plotly-plot .main-svg text { fill: var(--body-text-color) !important; }
.js-plotly-plot .gridlayer path { stroke: var(--border-color-primary) !important; }
"""


def tokens_chart(comparison) -> go.Figure:
    """Visual tokens in each layer, full and pruned."""
    figure = _bars(
        comparison,
        [record.visual_tokens for record in sides(comparison)[0].trace.layers],
        [record.visual_tokens for record in sides(comparison)[1].trace.layers],
        "tokens",
    )
    _mark_layers(figure, comparison)
    return _finish(figure, "Visual tokens in each layer", "visual tokens")


def flops_chart(comparison) -> go.Figure:
    """FLOPs that ran in each layer in prefill, full and pruned."""
    scale, unit = _flops_unit(comparison)
    full, pruned = (
        [n / scale for n in side.counts.executed_per_layer] for side in sides(comparison)
    )
    figure = _bars(comparison, full, pruned, unit)
    _mark_layers(figure, comparison)
    return _finish(figure, f"{unit} executed in each layer (prefill)", unit)


def influence_chart(comparison) -> go.Figure:
    """The strongest patch of each layer by both measures, with the thresholds of the method."""
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.12)
    pruned, probe = influence_series(comparison)
    colours = ((probe, palette.FULL, "circle-open"), (pruned, palette.PRUNED, "diamond"))
    for series, colour, symbol in colours:
        if series is None:
            continue
        for row, name in ((1, "change"), (2, "l2")):
            figure.add_scatter(
                x=series["layers"],
                y=series[name],
                name=series["name"],
                mode="lines+markers",
                connectgaps=False,
                line={"color": colour, "width": 3},
                marker={"size": 9, "symbol": symbol},
                customdata=[None if c is None else 1 - c for c in series["change"]],
                hovertemplate="cosine %{customdata:.5f}" if row == 1 else "L2 %{y:.3g}",
                legendgroup=series["name"],
                showlegend=row == 1,
                row=row,
                col=1,
            )
    _thresholds(figure, comparison)
    _untested(figure, comparison)
    figure.update_yaxes(type="log", exponentformat="power", nticks=5)
    figure.update_yaxes(title_text="1 − cosine", row=1)
    relative = settings_of(comparison).get("relative")
    figure.update_yaxes(title_text="L2 ÷ ‖output‖" if relative else "L2", row=2)
    figure.update_xaxes(title_text="layer", row=2)
    figure = _finish(figure, "The most influential patch of each layer", None)
    return figure.update_layout(height=460)


# -- the same in words


def describe_tokens(comparison) -> str:
    trace = sides(comparison)[1].trace
    runs = layer_spans([record.visual_tokens for record in trace.layers])
    parts = [f"{count} in {_layers(first, last)}" for first, last, count in runs]
    return f"Visual tokens of the pruned run: {', '.join(parts)}; the full run has {trace.num_visual} in all."


def describe_flops(comparison) -> str:
    full, pruned = (sum(side.counts.executed_per_layer) for side in sides(comparison))
    if not full:
        return "No layer ran."
    return (
        f"FLOPs executed in the layers during prefill: {full:.3g} in the full run, {pruned:.3g} in the "
        f"pruned run, {100 * pruned / full:.0f} percent of it."
    )


def describe_influence(comparison) -> str:
    pruned, probe = influence_series(comparison)
    series = pruned if pruned and any(c is not None for c in pruned["change"]) else probe
    if series is None or all(c is None for c in series["change"]):
        return "No layer was tested, so there is no influence to show."
    change, layer = max((c, i) for i, c in enumerate(series["change"]) if c is not None)
    return (
        f"The most influential patch was found in layer {layer} of the {series['name']}, "
        f"with cosine {1 - change:.5f}. {sides(comparison)[1].trace.why}"
    ).strip()


# -- parts


def _bars(comparison, full: list, pruned: list, unit: str) -> go.Figure:
    """Two overlaid bars per layer: the pruned one is narrower, so both are seen without colour."""
    figure = go.Figure()
    names = ("full", "pruned")
    for name, values, colour, width in zip(
        names, (full, pruned), (palette.FULL, palette.PRUNED), (0.9, 0.5), strict=True
    ):
        figure.add_bar(
            x=list(range(len(values))),
            y=values,
            name=name,
            width=width,
            marker={
                "color": colour,
                "opacity": 0.45 if name == "full" else 1,
                "line": {"width": 0},
            },
            hovertemplate="%{y:.4~g} " + unit,
        )
    return figure.update_layout(barmode="overlay", bargap=0)


def _mark_layers(figure: go.Figure, comparison):
    for layer, text, colour in marks(sides(comparison)[1].trace):
        figure.add_vline(
            x=layer + 0.5,
            line={"color": colour, "width": 2, "dash": "dash"},
            annotation_text=text,
            annotation_position="top right" if layer < len(figure.data[0].x) * 0.7 else "top left",
        )


def _thresholds(figure: go.Figure, comparison):
    settings = settings_of(comparison)
    lines = (
        (1, settings.get("layer_threshold"), "filter below cosine {:g}", palette.THRESHOLD, "dash"),
        (1, settings.get("exit_threshold"), "calm from cosine {:g}", palette.EXIT, "dot"),
        (2, settings.get("tokens_threshold"), "stays from L2 {:g}", palette.THRESHOLD, "dash"),
    )
    for row, value, text, colour, dash in lines:
        height = value if row == 2 or value is None else 1 - value
        if not height or height <= 0:
            continue
        figure.add_hline(
            y=height,
            row=row,
            col=1,
            line={"color": colour, "width": 2, "dash": dash},
            annotation_text=text.format(value),
            annotation_position="top left",
        )


def _untested(figure: go.Figure, comparison):
    """Say where the pruned run has no values, instead of leaving a hole that looks like zero."""
    pruned, _ = influence_series(comparison)
    empty = [layer for layer, change in enumerate(pruned["change"]) if change is None]
    for first, last, is_empty in layer_spans([layer in empty for layer in pruned["layers"]]):
        if is_empty:
            figure.add_vrect(
                x0=first - 0.5,
                x1=last + 0.5,
                row="all",
                col=1,
                line_width=0,
                fillcolor=palette.NEUTRAL,
                opacity=0.13,
            )
            figure.add_annotation(
                x=(first + last) / 2,
                y=0,
                yref="y2 domain",
                yanchor="bottom",
                showarrow=False,
                text="not tested<br>in the pruned run" if last > first else "not<br>tested",
            )


def _finish(figure: go.Figure, title: str, unit: str | None) -> go.Figure:
    """The one look that all charts share: readable on white, on black and from the last row."""
    figure.update_layout(
        title={"text": title, "x": 0, "xanchor": "left", "xref": "paper", "font": {"size": 18}},
        height=340,
        margin={"l": 64, "r": 16, "t": 64, "b": 76},
        font={"color": palette.NEUTRAL, "size": 14},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="x unified",
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "yref": "paper"},
        modebar={
            "remove": [
                "zoom",
                "pan",
                "select",
                "lasso",
                "zoomin",
                "zoomout",
                "autoscale",
                "resetscale",
            ]
        },
        dragmode=False,
    )
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    figure.update_xaxes(title_standoff=4, tickformat="d", **grid)
    figure.update_yaxes(**grid)
    if unit:
        figure.update_xaxes(title_text="layer")
        figure.update_yaxes(title_text=unit, rangemode="tozero")
    return figure


def _flops_unit(comparison) -> tuple[float, str]:
    most = max((n for side in sides(comparison) for n in side.counts.executed_per_layer), default=0)
    for scale, unit in ((1e12, "TFLOPs"), (1e9, "GFLOPs"), (1e6, "MFLOPs")):
        if most >= scale:
            return scale, unit
    return 1.0, "FLOPs"


def _layers(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first} to {last}"
