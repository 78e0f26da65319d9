"""What a named model takes and may save, in a few sentences, before anything is downloaded."""

from __future__ import annotations

from visipruner.errors import Refused
from visipruner.models import loading, memory
from visipruner.models.memory import gigabytes
from visipruner.models.saving import saving_of
from visipruner.models.shapes import SHAPES
from visipruner.models.specs import ModelSpec

UNTRIED = "Not tried here: proved in miniature, on random weights."


def described(spec: ModelSpec, device: str | None = None) -> list[str]:
    """Sentences about a model of the hub.

    Args:
        device: where it would go; None: the GPUs if there are any.
    """
    there = "on this machine" if spec.find() else f"{spec.download_size} to download"
    told = [f"{there[0].upper()}{there[1:]}; {spec.licence}.", needs(spec, device)]
    if spec.name in SHAPES:
        told.append(saves(spec.name))
    return [*told, UNTRIED]


def needs(spec: ModelSpec, device: str | None = None) -> str:
    """The memory that it takes here and in which precision; or why it has no place."""
    try:
        placed = loading.place(spec.title, spec.size, device, "auto")
    except Refused as refusal:
        return str(refusal)
    need = gigabytes(memory.needed(spec.size, placed.precision))
    why = f" ({placed.why})" if placed.why else ""
    return f"It takes about {need} of memory here, in {placed.precision}{why}."


def saves(name: str) -> str:
    """What pruning can save at best, by formula."""
    found = saving_of(name)
    return (
        f"A picture is {found.visual:,} visual tokens: {found.language:.0%} of the language "
        f"model's work on a short question, {found.whole:.0%} with the vision tower's (by "
        "formula). Pruning cannot save more."
    )
