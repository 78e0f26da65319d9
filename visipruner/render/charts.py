"""Plotly figures of a comparison; `words` says the same without a picture."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from visipruner.render import palette
from visipruner.render.series import (
    flops_unit,
    influence_series,
    layer_spans,
    marks,
    settings_of,
    sides,
)
from visipruner.render.words import (
    describe_flops,
    describe_influence,
    describe_tokens,
    layers,
)

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
    scale, unit = flops_unit(comparison)
    full, pruned = (
        [n / scale for n in side.counts.executed_per_layer] for side in sides(comparison)
    )
    figure = _bars(comparison, full, pruned, unit)
    _mark_layers(figure, comparison)
    return _finish(figure, "Executed FLOPs in each layer", unit)


def influence_chart(comparison) -> go.Figure:
    """The strongest patch of each layer by both measures, with the thresholds of the method."""
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.12)
    pruned, probe = influence_series(comparison)
    colours = ((probe, palette.FULL, "circle-open"), (pruned, palette.PRUNED, "diamond"))
    for series, colour, symbol in colours:
        if series is None or not any(series["change"]):
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
    untested = _untested(figure, comparison)
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    figure.update_yaxes(title_text="1 − cosine", row=1)
    relative = settings_of(comparison).get("relative")
    figure.update_yaxes(title_text="L2 ÷ ‖output‖" if relative else "L2", row=2)
    figure.update_xaxes(title_text="layer", row=2)
    figure = _finish(figure, "The strongest patch of each layer", None, untested)
    return figure.update_layout(height=480)


# -- parts


def _bars(comparison, full: list, pruned: list, unit: str) -> go.Figure:
    """Two overlaid bars per layer: the pruned one is narrower, so both are seen without colour."""
    figure = go.Figure()
    for name, values, colour, width in (
        ("full", full, palette.FULL_PALE, 0.9),
        ("pruned", pruned, palette.PRUNED, 0.5),
    ):
        figure.add_bar(
            x=list(range(len(values))),
            y=values,
            name=name,
            width=width,
            marker={"color": colour, "line": {"width": 0}},
            hovertemplate="%{y:.4~g} " + unit,
        )
    return figure.update_layout(barmode="overlay", bargap=0)


def _mark_layers(figure: go.Figure, comparison):
    count = len(figure.data[0].x)
    for number, (layer, text, colour) in enumerate(marks(sides(comparison)[1].trace)):
        left_half = layer < count * 0.6
        figure.add_vline(
            x=layer + 0.5,
            line={"color": colour, "width": 2, "dash": "dash"},
            annotation={
                "text": text,
                "yanchor": "bottom",
                "xanchor": "left" if left_half else "right",
                "y": 1,
                "yshift": 18 * number,  # a second mark may be only a layer away
                "showarrow": False,
            },
        )


def _thresholds(figure: go.Figure, comparison):
    """Lines that are named in the legend, where they can never cover each other's words."""
    settings = settings_of(comparison)
    last = len(sides(comparison)[1].trace.layers) - 0.5
    lines = (
        (
            1,
            settings.get("layer_threshold"),
            "filter: cosine below {:g}",
            palette.NEUTRAL,
            "dash",
        ),
        (1, settings.get("exit_threshold"), "calm: cosine from {:g}", palette.EXIT, "dot"),
        (2, settings.get("tokens_threshold"), "stays: L2 from {:g}", palette.NEUTRAL, "dashdot"),
    )
    for row, value, text, colour, dash in lines:
        height = value if row == 2 or value is None else 1 - value
        if not height or height <= 0:
            continue
        figure.add_scatter(
            x=[-0.5, last],
            y=[height, height],
            name=text.format(value),
            mode="lines",
            line={"color": colour, "width": 2, "dash": dash},
            hoverinfo="skip",
            row=row,
            col=1,
        )


def _untested(figure: go.Figure, comparison) -> str:
    """Shade where the pruned run has no values, so that no hole looks like zero; in words too."""
    pruned, _ = influence_series(comparison)
    spans = [
        (first, last)
        for first, last, empty in layer_spans([change is None for change in pruned["change"]])
        if empty
    ]
    for first, last in spans:
        figure.add_vrect(
            x0=first - 0.5,
            x1=last + 0.5,
            row="all",
            col=1,
            line_width=0,
            fillcolor=palette.NEUTRAL,
            opacity=0.15,
        )
    if not spans:
        return ""
    return f"Grey: not tested in the pruned run ({', '.join(layers(*span) for span in spans)})"


def _finish(figure: go.Figure, title: str, unit: str | None, subtitle: str = "") -> go.Figure:
    """The one look that all charts share: readable on white, on black and from the last row."""
    figure.update_layout(
        title={
            "text": title,
            "subtitle": {"text": subtitle, "font": {"size": 13}},
            "x": 0,
            "pad": {"l": 12},
            "font": {"size": 17},
        },
        height=340,
        margin={"l": 64, "r": 16, "t": 92, "b": 76},
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


__all__ = [
    "CHART_CSS",
    "describe_flops",
    "describe_influence",
    "describe_tokens",
    "flops_chart",
    "influence_chart",
    "tokens_chart",
]
