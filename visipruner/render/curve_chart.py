"""The curve of accuracy against FLOPs as a Plotly figure; curve_svg.py draws the same as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from visipruner.render import palette
from visipruner.render.charts import figure
from visipruner.render.curve import (
    ALL,
    UNPRUNED,
    Curve,
    Measured,
    describe_measured,
    describe_point,
    model_of,
    side_of,
    title_of,
    variant_of,
)

X_TITLE = "% of prefill FLOPs cut, as executed"  # of the language model
UNTRAINED = ", score untrained"
COLOURS = (palette.PRUNED, palette.FULL, palette.OTHERS[0], palette.EXIT, *palette.OTHERS[1:])
DASHES, VARIANT_DASH, OTHER_DASH = ("solid", "dash", "dashdot"), "longdash", "dot"
# Plotly's name of a shape, and the same as an SVG path: each series has one of its own.
SHAPES = (
    ("circle", "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z"),
    ("square", "M-5-5h10v10h-10z"),
    ("diamond", "M0-7l7 7-7 7-7-7z"),
    ("triangle-up", "M0-7l7 12h-14z"),
    ("triangle-down", "M0 7l7-12h-14z"),
    ("cross", "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z"),
    ("x", "M-6-3l3-3 3 3 3-3 3 3-3 3 3 3-3 3-3-3-3 3-3-3 3-3z"),
    ("pentagon", "M0-6.5l6.2 4.5-2.4 7.3h-7.6l-2.4-7.3z"),
    ("hourglass", "M-6-6h12l-12 12h12z"),
    ("triangle-left", "M-7 0l12-7v14z"),
    ("triangle-right", "M7 0l-12-7v14z"),
    ("bowtie", "M-6-6v12l12-12v12z"),
    ("hexagram", "M0-7l6 10.5h-12zM0 7l6-10.5h-12z"),
    ("diamond-tall", "M0-8l4.5 8-4.5 8-4.5-8z"),
    ("diamond-wide", "M-8 0l8-4.5 8 4.5-8 4.5z"),
    ("star-square", "M-6-6l6 3 6-3-3 6 3 6-6-3-6 3 3-6z"),
    ("star-triangle-up", "M0-8l2.2 5.3 5.2 7.2-7.4-1.6-7.4 1.6 5.2-7.2z"),
    ("hexagon", "M0-6.5l5.6 3.2v6.5l-5.6 3.3-5.6-3.3v-6.5z"),
)
STAR = (
    "star",
    "M0-8l2 5.2 5.6.3-4.4 3.5 1.5 5.4-4.7-3.1-4.7 3.1 1.5-5.4-4.4-3.5 5.6-.3z",
)  # of what was measured on this page


@dataclass(frozen=True)
class Style:
    """How a series looks: the colour alone never tells two apart."""

    colour: str
    dash: str
    symbol: str
    path: str


def style_of(curve: Curve, series: str) -> Style:
    """The same style whatever else is shown."""
    if side_of(series) == UNPRUNED:
        return Style(palette.NEUTRAL, OTHER_DASH, *SHAPES[0])
    # Kept places, other rules and another model change a method's dashes, not its colour and shape.
    place = list(dict.fromkeys(map(side_of, curve.series))).index(side_of(series))
    symbol, path = SHAPES[place % len(SHAPES)]
    dash = DASHES[place // len(COLOURS) % len(DASHES)]
    dash = VARIANT_DASH if variant_of(series) else dash
    dash = OTHER_DASH if model_of(series) else dash
    return Style(COLOURS[place % len(COLOURS)], dash, symbol, path)


def curve_chart(
    curve: Curve,
    shown: Sequence[str],
    skill: str = ALL,
    followed: str = "",
    measured: Sequence[Measured] = (),
) -> go.Figure:
    """One line per method or stack.

    Args:
        shown: the series to draw.
        followed: the series that is drawn thicker, with its 95% intervals.
        measured: points of all skills that were measured on this page, drawn as stars.
    """
    order = [series for series in shown if series != followed]  # the followed one lies on top
    order += [series for series in shown if series == followed]
    data = [_line(curve, series, skill, series == followed) for series in order]
    if measured:
        data.append(_stars(curve, measured))
    about = "all skills" if skill == ALL else f"only “{skill}”"
    full = curve.unpruned.get(skill)
    cuts = [0.0, *(point.flops_cut for point in curve.points)]  # a method may cost more
    least, most = min(cuts), max(cuts)
    axes = {
        "xaxis": {"title": {"text": X_TITLE}, "range": [100 * least - 3, 100 * most + 3]},
        "yaxis": {"title": {"text": "% right"}},
    }
    return figure(
        data,
        f"Accuracy against FLOPs cut, {about}",
        axes,
        "Click a point to run it on your picture",
        height=440 + 14 * len(data),
        hovermode="closest",
        # Lower than in other charts: this one is higher, and a projector's letters are larger.
        legend={"orientation": "h", "x": 0, "y": -0.3, "yanchor": "top", "yref": "paper"},
        shapes=_unpruned_line(full),
        annotations=_unpruned_words(full),
    )


def _line(curve: Curve, series: str, skill: str, followed: bool) -> dict:
    style, points = style_of(curve, series), curve.of(series)
    shares = [point.shares[skill] for _, point in points]
    untrained = any(point.untrained for _, point in points)
    line = {
        "type": "scatter",
        "x": [100 * point.flops_cut for _, point in points],
        "y": [100 * share.right for share in shares],
        "name": title_of(series) + UNTRAINED * untrained,
        "mode": "lines+markers",
        "line": {"color": style.colour, "width": 4 if followed else 2, "dash": style.dash},
        "marker": {
            "size": 13 if followed else 11,
            "symbol": [style.symbol + "-open" * point.untrained for _, point in points],
            "color": style.colour,
            "line": {"width": 2, "color": style.colour} if untrained else {"width": 0},
        },
        "customdata": [[number, describe_point(point, skill)] for number, point in points],
        "hovertemplate": "<b>%{fullData.name}</b><br>%{customdata[1]}<extra></extra>",
    }
    if followed:
        line["error_y"] = _bars([(s.low, s.right, s.high) for s in shares], style.colour)
    return line


def _stars(curve: Curve, measured: Sequence[Measured]) -> dict:
    """Points measured here, each in the colour of its series."""
    colours = [
        palette.NEUTRAL if one.number is None
        else style_of(curve, curve.points[one.number].series).colour
        for one in measured
    ]  # fmt: skip
    intervals = [(one.share.low, one.share.right, one.share.high) for one in measured]
    return {
        "type": "scatter",
        "x": [100 * one.flops_cut for one in measured],
        "y": [100 * one.share.right for one in measured],
        "name": "measured here, now",
        "mode": "markers",
        "marker": {
            "size": 18,
            "symbol": STAR[0],
            "color": colours,
            "line": {"width": 1.5, "color": palette.NEUTRAL},
        },
        "error_y": _bars(intervals, palette.NEUTRAL),
        "customdata": [[one.number, f"{one.title}: {describe_measured(one)}"] for one in measured],
        "hovertemplate": "<b>measured here, now</b><br>%{customdata[1]}<extra></extra>",
    }


def _bars(intervals: Sequence[tuple[float, float, float]], colour: str) -> dict:
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (high - mean) for _, mean, high in intervals],
        "arrayminus": [100 * (mean - low) for low, mean, _ in intervals],
        "color": colour,
        "thickness": 1.5,
    }


def _unpruned_line(full) -> list[dict]:
    if full is None:
        return []
    height, line = 100 * full.right, {"color": palette.NEUTRAL, "width": 2, "dash": "dash"}
    place = {"xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": height, "y1": height}
    return [{"type": "line", "line": line, "layer": "below", **place}]


def _unpruned_words(full) -> list[dict]:
    if full is None:
        return []
    return [
        {
            "text": f"unpruned {full.right:.1%}",
            "xref": "paper",
            "x": 1,
            "xanchor": "right",
            "y": 100 * full.right,
            "yanchor": "bottom",
            "yshift": 2,
            "showarrow": False,
        }
    ]
