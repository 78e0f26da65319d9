"""Colours of everything drawn from a trace, and the words for stages; the viewer uses them too.

The categorical colours are Okabe and Ito's: people with any colour blindness can tell them apart.
Viridis shows numbers, because its lightness grows evenly. Colour alone never carries a meaning.
"""

from __future__ import annotations

from plotly.colors import sequential

FULL = "#3A8FC7"  # their blue, lightened: contrast 3 and more on white and on black
FULL_PALE = "rgba(58, 143, 199, 0.5)"  # behind the pruned run's bars
PRUNED = "#D55E00"
EXIT = "#CC79A7"
# Further sides: contrast of at least 3 on white and on black; each has its own dash.
OTHERS = ("#009E73", "#9467BD", "#B07A00")
DASHES = ("solid", "solid", "dash", "dashdot", "dot")
KEPT = "#F0E442"  # outlines on the picture, with a dark edge so that they show anywhere
INK = "#12151c"  # dark edge, veil over dropped patches
PAPER = "#ffffff"
NEUTRAL = "#7a7f87"  # text, axes and thresholds: readable on white and on black

STAGE_COLOURS = {
    "shallow": "#56B4E9",
    "search": "#0072B2",
    "filter": "#E69F00",
    "middle": "#009E73",
    "exit": EXIT,
    "text only": "#9a9a9a",
    "waiting": "#9a9a9a",
    "full": "#56B4E9",
    "reduced": "#009E73",
}

# For layers that no method labelled; a method has its own titles.
STAGE_TITLES = {
    "full": "All patches",
    "reduced": "Chosen patches",
    "text only": "Words only",
    "waiting": "Waiting outside",
}

HEAT = tuple(sequential.Viridis)  # at even steps


def heat(share: float) -> tuple[int, int, int]:
    """Red, green and blue of a share of the scale; below 0 and above 1 as at its ends."""
    place = min(max(share, 0.0), 1.0) * (len(HEAT) - 1)
    low = min(int(place), len(HEAT) - 2)
    ends = zip(_rgb(HEAT[low]), _rgb(HEAT[low + 1]), strict=True)
    return tuple(round(a + (b - a) * (place - low)) for a, b in ends)


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def on_heat(share: float) -> str:
    """The colour of words on `heat(share)`."""
    return INK if share > 0.55 else PAPER


def for_viewer() -> dict:
    """What the viewer's JavaScript needs."""
    return {
        "kept": KEPT,
        "ink": INK,
        "paper": PAPER,
        "stages": dict(STAGE_COLOURS),
        "heat": list(HEAT),
    }
