"""What an interview asks, and whom: questions about pictures, and sides by their words."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from visipruner.choice import Side, kinds_of, method_at, methods_of
from visipruner.methods import PruningMethod
from visipruner.models.catalogue import VLM
from visipruner.models.checkpoint import fingerprint, manner
from visipruner.prompt import Prompt


class Item(Protocol):
    """A question about a picture, wherever it comes from."""

    key: list  # names it in a store: plain values
    facts: dict  # said of it in every row

    def prompt(self, vlm: VLM) -> Prompt:
        """Ready for the model; `Refused` if the picture cannot be read."""

    def judge(self, answer: str) -> float | None:
        """From 0, wrong, to 1, right; None: no right answer is known."""


@dataclass(frozen=True)
class Wished:
    """A side in words, made for each prompt: not every picture has as many visual tokens."""

    words: str

    def made(self, vlm: VLM, visual: int | None = None) -> Side:
        """The side for a prompt with this many visual tokens; None: for a typical one."""
        return method_at(vlm, self.words, "balanced", "paper", visual)


Column = Side | Wished


def key_of(vlm: VLM) -> str:
    """A name for all of a model that its answers depend on, but its precision and presets."""
    folder, system = Path(vlm.spec.path), (vlm.presets or {}).get("system")
    said = "" if system is None else f" {hashlib.sha256(system.encode()).hexdigest()[:8]}"
    return f"{fingerprint(folder)} {manner(folder)}{said}"


def kinds_in(columns: Mapping[str, Column]) -> list[type[PruningMethod]]:
    """The classes of all columns' methods, those of stacks one by one."""
    found = []
    for side in columns.values():
        wished = isinstance(side, Wished)
        found += kinds_of([side.words]) if wished else map(type, methods_of(side))
    return found
