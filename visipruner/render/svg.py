"""Small inline SVG charts for the report, which must contain everything and fetch nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from visipruner.render import palette

_WIDE, _HIGH = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 46, 40  # margins around the plotting area


def bars(
    full: Sequence[float],
    pruned: Sequence[float],
    names: tuple[str, str],
    unit: str,
    marks,
    words: str,
) -> str:
    """Two overlaid bars per layer; `marks` are (layer, text, colour), drawn after their layer."""
    most = max([*full, *pruned, 1e-9])
    parts = [_axis_text(0, "0"), _axis_text(1, f"{most:.4g}"), _unit(unit)]
    for values, colour, share in ((full, palette.FULL_PALE, 0.9), (pruned, palette.PRUNED, 0.5)):
        for layer, value in enumerate(values):
            step = _area()[0] / max(1, len(values))
            high = _area()[1] * value / most
            left = _LEFT + step * (layer + (1 - share) / 2)
            parts.append(
                f'<rect x="{left:.1f}" y="{_floor() - high:.1f}" width="{step * share:.1f}" '
                f'height="{high:.1f}" fill="{colour}"/>'
            )
    parts += _marks(marks, len(full)) + _layer_numbers(len(full))
    colours = palette.FULL, palette.PRUNED
    return _chart(parts, list(zip(names, colours, strict=True)), words)


def lines(series: Sequence[tuple[str, str, Sequence]], limits, unit: str, words: str) -> str:
    """Lines on a logarithmic axis with gaps where a value is None; `limits`: (text, height)."""
    values = [value for _, _, line in series for value in line if value]
    values += [height for _, height in limits if height and height > 0]
    if not values:
        return f"<p>{escape(words)}</p>"
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    layers = max(len(line) for _, _, line in series)
    series = [entry for entry in series if any(entry[2])]
    parts = [_unit(unit)] + [
        _axis_text((decade - low) / (high - low), f"1e{decade}") for decade in range(low, high + 1)
    ]
    for text, height in limits:
        if height and height > 0:
            parts += _limit(text, (math.log10(height) - low) / (high - low))
    for number, (_, colour, line) in enumerate(series):
        for tested, run in groupby(enumerate(line), key=lambda entry: bool(entry[1])):
            if not tested:
                continue
            points = [
                (_middle(layer, layers), _height((math.log10(value) - low) / (high - low)))
                for layer, value in run
            ]
            parts += _line(points, colour, hollow=number == 0)
    parts += _layer_numbers(layers)
    return _chart(parts, [(name, colour) for name, colour, _ in series], words)


# -- parts


def _area() -> tuple[int, int]:
    return _WIDE - _LEFT - _RIGHT, _HIGH - _TOP - _BOTTOM


def _floor() -> int:
    return _HIGH - _BOTTOM


def _height(share: float) -> float:
    return _floor() - share * _area()[1]


def _middle(layer: int, layers: int) -> float:
    return _LEFT + _area()[0] * (layer + 0.5) / max(1, layers)


def _text(
    x: float, y: float, text: str, anchor: str = "middle", colour: str = "currentColor"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-size="13">{escape(text)}</text>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'
    )


def _axis_text(share: float, text: str) -> str:
    y = _height(share)
    grid = _rule(_LEFT, y, _WIDE - _RIGHT, y, palette.NEUTRAL, 'opacity="0.35"')
    return grid + _text(_LEFT - 6, y + 4, text, "end")


def _unit(unit: str) -> str:
    return _text(0, 13, unit, "start")


def _layer_numbers(layers: int) -> list[str]:
    every = max(1, math.ceil(layers / 12))
    numbers = range(0, layers, every)
    return [
        *(_text(_middle(layer, layers), _floor() + 16, str(layer)) for layer in numbers),
        _text(_LEFT + _area()[0] / 2, _HIGH - 6, "layer"),
    ]


def _marks(marks, layers: int) -> list[str]:
    parts = []
    for number, (layer, text, colour) in enumerate(marks):
        x = _LEFT + _area()[0] * (layer + 1) / max(1, layers)
        parts.append(
            _rule(x, _TOP - 4, x, _floor(), colour, 'stroke-width="2" stroke-dasharray="5 4"')
        )
        left_half = layer < layers * 0.6
        shift, anchor = (5, "start") if left_half else (-5, "end")
        parts.append(_text(x + shift, _TOP - 8 - 15 * (number % 2), text, anchor))
    return parts


def _limit(text: str, share: float) -> list[str]:
    y = _height(share)
    dashes = 'stroke-width="2" stroke-dasharray="7 4"'
    return [
        _rule(_LEFT, y, _WIDE - _RIGHT, y, palette.NEUTRAL, dashes),
        _text(_WIDE - _RIGHT - 4, y - 5, text, "end"),
    ]


def _line(points: list[tuple[float, float]], colour: str, hollow: bool) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    fill = "none" if hollow else colour
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{colour}" '
        'stroke-width="2"/>'
        for x, y in points
    ]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>', *dots]


def _chart(parts: list[str], legend: list[tuple[str, str]], words: str) -> str:
    names = " ".join(
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in legend
    )
    return (
        f'<figure><svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{escape(words)}">'
        f"{''.join(parts)}</svg><p class='legend'>{names}</p>"
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )
