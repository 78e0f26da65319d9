"""How often the bundled model is right while a range of layers cannot see the picture.

The accuracies are recorded beside the weights, in masking.json, because they take hours.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from visipruner.analyses.base import Figure
from visipruner.analyses.blind import Blind
from visipruner.analyses.masking import block_of, layers_in_words, ranges_of, triangle
from visipruner.errors import Refused
from visipruner.evaluation.evaluate import UNPRUNED
from visipruner.evaluation.interview import interview
from visipruner.files import named
from visipruner.methods import PruningMethod
from visipruner.models.catalogue import VLM

FILE = "masking.json"


def accuracy(vlm: VLM, count: int, store: Path) -> dict:
    """The share of right answers under every mask of a range of layers, and without a mask.

    The masks also hold while the answer is written. Answers in `store` are not asked again.

    Args:
        count: held-out questions per skill.

    Returns:
        JSON: questions, layers, block (layers masked together), unmasked (share of right answers),
        ranges (a list of {first, last, right}, both layers included).
    """
    layers = len(vlm.parts.layers)
    block = block_of(layers)
    masks = {f"blind {a} to {b}": (a, b) for a, b in ranges_of(layers, block)}
    columns = {name: Blind(a, b + 1) for name, (a, b) in masks.items()}
    rows = interview(vlm, {UNPRUNED: PruningMethod()} | columns, ("heldout",), count, store)
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["column"], []).append(row["score"])
    right = {name: statistics.mean(mine) for name, mine in scores.items()}
    return {
        "questions": len(scores[UNPRUNED]),
        "layers": layers,
        "block": block,
        "unmasked": right[UNPRUNED],
        "ranges": [{"first": a, "last": b, "right": right[name]} for name, (a, b) in masks.items()],
    }


def recorded(folder: Path) -> dict | None:
    """What `accuracy` found for the weights in a folder; None: nothing was recorded.

    Raises:
        Refused: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        accuracy_figure(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Refused(f"In {named(folder)}, {FILE} is damaged: record it again.") from None
    return found


def accuracy_figure(found: Mapping) -> Figure:
    """The recorded accuracies as a triangle."""
    right = {(one["first"], one["last"]): float(one["right"]) for one in found["ranges"]}
    whole, unmasked = right[0, found["layers"] - 1], found["unmasked"]
    words = {
        one: f"{layers_in_words(*one)} masked: {share:.0%} right" for one, share in right.items()
    }
    return Figure(
        f"Recorded: right answers to {found['questions']} held-out questions, by masked layers",
        f"Right answers: {unmasked:.1%} unmasked, {whole:.1%} with the picture masked in all "
        f"layers. Each cell masks a range of layers.",
        "last masked layer",
        "first masked layer",
        grid=triangle(right, words, (0.0, 1.0)),
    )
