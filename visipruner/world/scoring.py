"""Is an answer right? For a description: how many of its facts are right?"""

from __future__ import annotations

import re

from visipruner.world.phrases import NUMBERS, SHORT_ANSWERS, THING_WORDS, words
from visipruner.world.questions import MARGIN, Question, kind, place
from visipruner.world.scenes import COLOURS, DIGIT, PLACES, SHAPES, SIDE, SIZES, Scene, Thing

PLACE_WORDS = tuple(word for row in PLACES for word in row)
CONTENT = {*COLOURS, *SHAPES, *SIZES, *PLACE_WORDS, *NUMBERS, *SHORT_ANSWERS, DIGIT, *THING_WORDS}


def content(text: str) -> list[str]:
    """The words of an answer that carry meaning, in order."""
    return [word for word in words(text) if word in CONTENT or _single(word) in CONTENT]


def _single(word: str) -> str:
    return re.sub(r"(?<=ss)es$|s$", "", word)


def is_correct(question: Question, answer: str) -> bool:
    """Is this the trained answer? Articles and punctuation do not matter."""
    return content(answer) == content(question.answer)


def score(question: Question, answer: str, scene: Scene) -> float:
    """1 or 0 for a single answer; for a description, the share of right facts."""
    if question.skill == "describe":
        right, total = facts(scene, answer)
        return right / total
    return float(is_correct(question, answer))


def facts(scene: Scene, answer: str) -> tuple[int, int]:
    """Right facts and all facts: the number of shapes, and each thing's size, colour, shape (or
    digit) and place. Invented facts count as wrong."""
    count = re.search(r"there (?:is|are) (\w+)", answer.lower())
    stated = {"no": 0}.get(count[1], count[1]) if count else None
    right, total = int(str(stated) == str(len(scene.shapes))), 1
    told = re.findall(r"a ([\w ]+?) is at the ([\w-]+)", answer.lower())
    truth = list(scene.things)
    total += sum(len(kind(thing).split()) - thing.is_digit + 1 for thing in truth)
    pairs = sorted(
        ((_agreement(thing, scene, *one), i, k) for i, thing in enumerate(truth)
         for k, one in enumerate(told)),
        reverse=True,
    )  # fmt: skip
    used_things, used_told = set(), set()
    for agreed, i, k in pairs:
        if i not in used_things and k not in used_told:
            used_things.add(i)
            used_told.add(k)
            right += agreed
    invented = [one for k, one in enumerate(told) if k not in used_told]
    total += sum(2 if DIGIT in name else 4 for name, _ in invented)
    return right, total


def _agreement(thing: Thing, scene: Scene, name: str, where: str) -> int:
    """How many facts of one sentence fit one thing."""
    said, true = name.split(), kind(thing).split()
    if (DIGIT in said) != thing.is_digit:
        return 0
    same = sum(a == b for a, b in zip(said, true, strict=False)) - thing.is_digit
    return same + (where in _places(thing, scene))


def _places(thing: Thing, scene: Scene) -> set[str]:
    """The places that fit: two or more for a centre near a border."""
    found = {place(thing, scene)}
    for dx in (-MARGIN, MARGIN):
        for dy in (-MARGIN, MARGIN):
            x, y = (min(max(v, 0), SIDE - 1) for v in (thing.x + dx, thing.y + dy))
            found.add(PLACES[int(3 * y / scene.side)][int(3 * x / scene.side)])
    return found
