"""One value of a saved file, with its place there, for sentences about what is wrong with it."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence

from visipruner.errors import Refused, short

MOST_WORDS = 100_000  # letters of a text
LARGEST = 2**80  # of whole numbers; FLOPs of a long answer are below
_MOST_DEEP = 12  # lists and objects inside each other, of settings
_MOST_SHOWN = 60  # letters of a wrong value in a sentence


class Node:
    """An unchecked value.

    Args:
        place: where it stands in the file: "answers[1].trace.layers".
    """

    def __init__(self, value, place: str = ""):
        self.value, self.place = value, place

    def refuse(self, must: str) -> Refused:
        """The error that says what this value must be."""
        return Refused(
            f"This saved run is damaged: {short(self.place or 'the file')} must be {must}, not "
            f"{_shown(self.value)}."
        )

    # -- parts

    def find(self, name: str) -> Node | None:
        """A part of an object; None: it is not there, or it is null."""
        if not isinstance(self.value, dict):
            raise self.refuse("an object")
        value = self.value.get(name)
        return None if value is None else Node(value, f"{self.place}.{name}".lstrip("."))

    def get(self, name: str) -> Node:
        """A part of an object that must be there."""
        found = self.find(name)
        if found is None:
            raise Refused(f"This saved run is damaged: {short(self.place or 'it')} lacks “{name}”.")
        return found

    def each(self, most: int, least: int = 0) -> list[Node]:
        """The parts of a list."""
        if not isinstance(self.value, list) or not least <= len(self.value) <= most:
            raise self.refuse(f"a list of {least} to {most:,} parts")
        return [Node(one, f"{self.place}[{number}]") for number, one in enumerate(self.value)]

    # -- single values; numbers keep their type, so that a file is given back as it was

    def whole(self, low: int = 0, high: int = LARGEST) -> int:
        if not _is_whole(self.value, low, high):
            raise self.refuse(f"a whole number {_range(low, high)}")
        return self.value

    def number(self, low: float = 0, high: float = 1e30) -> float:
        if not _is_number(self.value, low, high):
            raise self.refuse(f"a number {_range(low, high)}")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.refuse("true or false")
        return self.value

    def words(self, most: int = MOST_WORDS) -> str:
        """A text without control characters, which could steer a terminal."""
        if not isinstance(self.value, str) or len(self.value) > most:
            raise self.refuse(f"a text of at most {most:,} letters")
        return _clean(self.value)

    def plain(self):
        """Any value, such as settings: numbers finite, texts clean, not too deep."""
        return self._plain(self.value, _MOST_DEEP)

    def _plain(self, value, deep: int):
        if not deep:
            raise self.refuse(f"at most {_MOST_DEEP} lists deep")
        if isinstance(value, dict):
            return {_clean(name): self._plain(one, deep - 1) for name, one in value.items()}
        if isinstance(value, list):
            return [self._plain(one, deep - 1) for one in value]
        if isinstance(value, str):
            return _clean(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and not _is_number(value, -LARGEST, LARGEST):
            raise self.refuse("made of numbers of usual size")
        return value

    # -- lists of numbers, which are long

    def wholes(self, low: int, high: int, most: int) -> list[int]:
        return self._all(_is_whole, "whole numbers", low, high, most)

    def numbers(self, low: float, high: float, most: int) -> list[float]:
        return self._all(_is_number, "numbers", low, high, most)

    def _all(self, fits, what: str, low, high, most: int) -> list:
        value = self.value
        if not isinstance(value, list) or len(value) > most:
            raise self.refuse(f"a list of at most {most:,} {what}")
        for number, one in enumerate(value):
            if not fits(one, low, high):
                raise Node(one, f"{self.place}[{number}]").refuse(f"{what} {_range(low, high)}")
        return value


def same_length(one: Sequence, other: Sequence, node: Node):
    """Raise `Refused` if two lists that belong together differ in length."""
    if len(one) != len(other):
        raise node.refuse(f"a list of {len(other)} parts, as what belongs to it is")


def _is_whole(value, low, high) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value, low, high) -> bool:
    return type(value) in (int, float) and low <= value <= high and math.isfinite(value)


def _range(low, high) -> str:
    if high >= 1e9:
        return f"from {low:g} on, not too large" if low > -1e9 else "of usual size"
    return f"from {low:g} to {high:g}"


def _clean(words: str) -> str:
    """Without control characters but tabs and line ends, and without halves of letters."""
    if words.isascii() and words.isprintable():  # quick also for a picture
        return words
    kept = ("\n", "\t")
    return "".join(
        c if c in kept or unicodedata.category(c) not in ("Cc", "Cs") else "\ufffd" for c in words
    )


def _shown(value) -> str:
    if isinstance(value, list):
        return f"a list of {len(value):,} parts"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "a number that is far too large"
    words = json.dumps(value if not isinstance(value, str) else _clean(value[:_MOST_SHOWN]))
    return short(words)[:_MOST_SHOWN]
