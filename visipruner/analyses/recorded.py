"""How often a model is right while a range of layers cannot see the picture, as recorded.

The file masking.json beside the weights holds it, because measuring takes minutes
(`python -m visipruner analyse masking --set heldout --write`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from visipruner.analyses.base import Figure
from visipruner.analyses.observed import Result
from visipruner.analyses.ranges import layers_in_words, stages_in_words, stages_of, triangle
from visipruner.errors import Refused
from visipruner.files import named
from visipruner.models.checkpoint import fingerprint

FILE = "masking.json"


@dataclass(frozen=True)
class Recorded(Result):
    """Shares of right answers to held-out questions; intervals are of 95%.

    Args:
        questions: how many, the same under every mask.
        layers, block: of the model; layers that are masked together.
        unmasked: (share, low, high) without a mask.
        ranges: (first, last) masked layer, both included.
        right: (share, low, high) per range.
        lost: (mean, low, high) per range: how much fewer are right than unmasked, paired.
        begins, ends: (low, high) of the middle stage's first and last layer, over resampled sets of
            questions; None: most of these sets name no stage.
    """

    questions: int
    layers: int
    block: int
    unmasked: tuple[float, float, float]
    ranges: tuple[tuple[int, int], ...]
    right: tuple[tuple[float, float, float], ...]
    lost: tuple[tuple[float, float, float], ...]
    begins: tuple[int, int] | None
    ends: tuple[int, int] | None

    @property
    def stages(self) -> dict[str, tuple[int, int]]:
        """The stages that the accuracies name; none, if masking all layers may cost nothing."""
        lost = dict(zip(self.ranges, self.lost, strict=True))
        if lost[0, self.layers - 1][1] <= 0:
            return {}
        return stages_of({one: mean for one, (mean, _, _) in lost.items()}, 0.0)


def recorded_of(vlm) -> Recorded | None:
    """What was recorded for a model's own weights; None: nothing.

    Raises:
        Refused: the file is damaged.
    """
    folder = Path(vlm.spec.path)
    if not (folder / FILE).is_file():
        return None
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        weights, recorded = found["weights"], Recorded.from_json(found["result"])
        recorded_figure(recorded)  # it can be drawn
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise Refused(f"In {named(folder)}, {FILE} is damaged: record it again.") from None
    return recorded if weights == fingerprint(folder) else None


def recorded_figure(found: Recorded) -> Figure:
    """The accuracies as a triangle."""
    words = {
        one: f"{layers_in_words(*one)} masked: {_share(share)} right"
        for one, share in zip(found.ranges, found.right, strict=True)
    }
    whole = found.right[found.ranges.index((0, found.layers - 1))]
    values = {one: share for one, (share, _, _) in zip(found.ranges, found.right, strict=True)}
    return Figure(
        f"Recorded: right answers to {found.questions:,} held-out questions, by masked layers",
        f"Recorded with this model, not on this picture: {_share(found.unmasked)} right unmasked, "
        f"{_share(whole)} with the picture masked in all layers. {_stages(found)}",
        "last masked layer",
        "first masked layer",
        grid=triangle(values, words, (0.0, 1.0)),
    )


def _share(share: tuple[float, float, float]) -> str:
    """A share with its interval."""
    right, low, high = (100 * value for value in share)
    return f"{right:.1f}% ({low:.0f} to {high:.0f})"


def _stages(found: Recorded) -> str:
    if not found.stages:
        return "No stage is named: masking the picture in all layers costs nothing that is certain."
    said = f"Stages: {stages_in_words(found.stages)}."
    if found.begins is None:
        return said
    return (
        f"{said} The middle begins in {_between(found.begins)} and ends in {_between(found.ends)} "
        "(95% of resampled sets of questions)."
    )


def _between(layers: tuple[int, int]) -> str:
    low, high = layers
    return f"layer {low}" if low == high else f"layer {low} to {high}"
