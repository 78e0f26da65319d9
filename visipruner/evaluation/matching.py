"""When are two answers the same? Up to case, punctuation, articles and blanks.

The rule: Unicode's compatible forms are one; case does not matter; an apostrophe, and a comma
between digits, are left out; a point between digits and a minus before one stay; any other
punctuation is a blank; a, an and the are left out unless nothing else is there (an option "A").
Symbols such as + or € stay. Numbers in words are not numbers in digits, and no synonym is known.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

ARTICLES = {"a", "an", "the"}


def plain(answer: str) -> str:
    """An answer without all that does not matter."""
    text = unicodedata.normalize("NFKC", answer).casefold()
    text = re.sub(r"['’`]|(?<=\d),(?=\d)", "", text)
    letters = [_letter(text, place) for place in range(len(text))]
    words = "".join(letters).split()
    told = [word for word in words if word not in ARTICLES] or words
    return " ".join(told) or " ".join(text.split())  # nothing but punctuation is itself


def _letter(text: str, place: int) -> str:
    letter = text[place]
    if unicodedata.category(letter)[0] not in "PC":
        return letter
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    if letter == "." and before.isdigit() and after.isdigit():
        return letter
    if letter in "-−" and after.isdigit() and not before.isalnum():
        return "-"
    return " "


def same(first: str, second: str) -> bool:
    """Do both answers say the same by the rule?"""
    return plain(first) == plain(second)


def is_right(answer: str, known: Iterable[str]) -> bool:
    """Is this one of the right answers?"""
    said = plain(answer)
    return any(said == plain(one) for one in known)
