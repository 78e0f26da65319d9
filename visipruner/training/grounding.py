"""Further lessons: predict, part of the way up the layers, what words mean in their scene.

Finding the red thing and then telling its shape takes two look-ups in a row. From answers alone,
the first gets no gradient until the second works. So half-way up, every noun must predict the words
of the thing that it names, and every sentence of a description those of its thing. "Same or
different?" adds a third and a fourth step after two look-ups. So further up, the last word of such
a question must predict the values to compare, and later the verdict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from visipruner.world.phrases import ASSISTANT, THING_WORDS, plural, words
from visipruner.world.questions import Question, fits, in_reading_order, place
from visipruner.world.scenes import COLOURS, DIGIT, SHAPES, SIZES, Scene, Thing

Meanings = list[tuple[int, list[str]]]  # (index of the word, the words that it stands for)

Glances = list[tuple[int, list[Thing]]]  # (index of the question's word, what to look at)

NOUNS = {noun: noun for noun in (*SHAPES, *THING_WORDS)}
PLURALS = {plural(noun): noun for noun in NOUNS}


def named(scene: Scene, question: Question) -> Meanings:
    """For each noun of a question: the words that it stands for.

    One thing gives its size, colour, shape and place; no thing gives "none"; a plural, its number.
    """
    found, cut = [], words(question.text)
    for index, word in enumerate(cut):
        if word in (DIGIT, plural(DIGIT)):
            found.append((index, [str(thing.digit) for thing in scene.digits] or ["none"]))
        elif word in NOUNS or word in PLURALS:
            if word in THING_WORDS and not _adjectives(cut[:index]):
                continue  # "what shape is": this noun asks and does not name
            meant = _meant(scene, cut, index)
            if word in PLURALS:
                found.append((index, [str(len(meant))]))
            elif len(meant) == 1:
                found.append((index, _words_for(meant[0], scene)))
            elif not meant:
                found.append((index, ["none"]))
    return found


def told(scene: Scene, question: Question) -> Meanings:
    """For each sentence of a description: where it begins, and the words for its thing."""
    if question.skill != "describe":
        return []
    first = len(words(question.text)) + len(words(ASSISTANT))
    starts = [first + i for i, word in enumerate(words(question.answer)) if word == "a"]
    things = in_reading_order(scene)
    return [(at, _words_for(thing, scene)) for at, thing in zip(starts, things, strict=True)]


def mentioned(scene: Scene, question: Question) -> list[Thing]:
    """The things that the nouns of a question may mean, noun by noun."""
    cut = words(question.text)
    return [
        thing
        for index, word in enumerate(cut)
        if word in NOUNS and (word not in THING_WORDS or _adjectives(cut[:index]))
        for thing in _meant(scene, cut, index)
    ]


def compared(scene: Scene, question: Question) -> Meanings:
    """For "same or different?": where the question ends, and the one or two values to compare."""
    cut = words(question.text)
    if question.skill != "same":
        return []
    what = next((word for word in ("colour", "size") if word in cut), "shape")
    values = {getattr(thing, what) for thing in mentioned(scene, question)}
    return [(cut.index("?"), sorted(values))]


def verdict(scene: Scene, question: Question) -> Meanings:
    """For "same or different?": where the question ends, and which of the two is right."""
    return [
        (end, ["same" if len(values) == 1 else "different"])
        for end, values in compared(scene, question)
    ]


def counted(scene: Scene, question: Question) -> Glances:
    """The token that counts (a plural noun, or the last before a description), and the things."""
    cut = words(question.text)
    if question.skill == "describe":
        return [(len(cut) + len(words(ASSISTANT)) - 1, list(scene.shapes))]
    plurals = [index for index, word in enumerate(cut) if word in PLURALS]
    return [(index, _meant(scene, cut, index)) for index in plurals]


@dataclass(frozen=True)
class Lesson:
    """What some words must predict, after which share of the layers, and the loss's weight."""

    find: Callable[[Scene, Question], Meanings]
    depth: float
    weight: float


LESSONS = (
    Lesson(named, 1 / 2, 0.5),
    Lesson(told, 1 / 2, 0.3),
    Lesson(compared, 3 / 4, 0.2),
    Lesson(verdict, 5 / 6, 0.3),
)


def _words_for(thing: Thing, scene: Scene) -> list[str]:
    if thing.is_digit:
        return [DIGIT, str(thing.digit), place(thing, scene)]
    return [thing.size, thing.colour, thing.shape, place(thing, scene)]


def _meant(scene: Scene, cut: list[str], index: int) -> list[Thing]:
    """The shapes that the noun at `index` may mean with the adjectives before it."""
    noun = NOUNS.get(cut[index]) or PLURALS[cut[index]]
    name = " ".join([*_adjectives(cut[:index]), noun])
    return [thing for thing in scene.shapes if fits(thing, name)]


def _adjectives(before: list[str]) -> list[str]:
    """The sizes and colours directly before a noun."""
    start = len(before)
    while start and before[start - 1] in (*SIZES, *COLOURS):
        start -= 1
    return before[start:]
