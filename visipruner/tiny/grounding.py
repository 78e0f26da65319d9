"""What each noun of a question means in its scene: a second lesson for the language model.

Finding the red thing and then telling its shape are two look-ups, one behind the other; learnt from
answers alone, the first gets no praise until the second works. So half-way up the layers, every
noun is asked for the words of the thing that it names. "Same or different?" is a third step behind
two look-ups; so further up, the end of such a question is asked for what is to be compared.
"""

from __future__ import annotations

from visipruner.tiny.phrases import THING_WORDS, plural, words
from visipruner.tiny.questions import fits, place
from visipruner.tiny.scenes import COLOURS, DIGIT, SHAPES, SIZES, Scene

NOUNS = {noun: noun for noun in (*SHAPES, *THING_WORDS)}
PLURALS = {plural(noun): noun for noun in NOUNS}


def meanings(scene: Scene, text: str) -> list[tuple[int, list[str]]]:
    """For each noun of a question: which word it is, and the words that it stands for.

    One thing gives its size, colour, shape and place, none gives "none", a plural gives its number.
    """
    found, cut = [], words(text)
    for index, word in enumerate(cut):
        if word in (DIGIT, plural(DIGIT)):
            found.append((index, [str(thing.digit) for thing in scene.digits] or ["none"]))
        elif word in NOUNS or word in PLURALS:
            adjectives = _adjectives(cut[:index])
            if word in THING_WORDS and not adjectives:
                continue  # "what shape is": the word asks, it does not name
            name = " ".join([*adjectives, NOUNS.get(word) or PLURALS[word]])
            named = [thing for thing in scene.shapes if fits(thing, name)]
            if word in PLURALS:
                found.append((index, [str(len(named))]))
            elif len(named) == 1:
                (one,) = named
                found.append((index, [one.size, one.colour, one.shape, place(one, scene)]))
            elif not named:
                found.append((index, ["none"]))
    return found


def compared(scene: Scene, text: str) -> list[tuple[int, list[str]]]:
    """For "same or different?": where the question ends, and the one or two values to compare."""
    cut = words(text)
    if "same" not in cut:
        return []
    what = next((word for word in ("colour", "size") if word in cut), "shape")
    named = [
        thing
        for index, word in enumerate(cut)
        if word in NOUNS and (word not in THING_WORDS or _adjectives(cut[:index]))
        for thing in scene.shapes
        if fits(thing, " ".join([*_adjectives(cut[:index]), word]))
    ]
    return [(cut.index("?"), sorted({getattr(thing, what) for thing in named}))]


def _adjectives(before: list[str]) -> list[str]:
    """The sizes and colours that stand directly before a noun."""
    start = len(before)
    while start and before[start - 1] in (*SIZES, *COLOURS):
        start -= 1
    return before[start:]
