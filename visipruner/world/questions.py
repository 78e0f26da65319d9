"""Questions with exactly one right answer in a scene, and the answers."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from visipruner.world.phrases import (
    ANSWER,
    ASK,
    HOLDERS,
    LLAVA_SHORT,
    OPPOSITE,
    SHORT,
    SIDES,
    THING_WORDS,
    plural,
    with_article,
)
from visipruner.world.scenes import COLOURS, PLACES, SHAPES, SIZES, Scene, Thing

CLEAR = 40  # pixels between two centres, at least, for "left of" and similar words
MARGIN = 10  # pixels between a centre and the border of two places, at least
LINE = 14  # pixels: centres on one line are read from left to right
STEP = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True)
class Question:
    """The question, the answer to train on, and whether the question asks for one word.

    Args:
        other: the answer to the same question asked the other way; "" if it has one way only.
    """

    skill: str
    text: str
    answer: str
    short: bool = False
    other: str = ""


def place(thing: Thing, scene: Scene) -> str:
    """The word for the ninth of the picture that contains the centre."""
    row, column = (min(int(3 * v / scene.side), 2) for v in (thing.y, thing.x))
    return PLACES[row][column]


def clearly_placed(thing: Thing, scene: Scene) -> bool:
    borders = (scene.side / 3, 2 * scene.side / 3)
    return all(abs(v - border) >= MARGIN for v in (thing.x, thing.y) for border in borders)


def kind(thing: Thing) -> str:
    return (
        f"digit {thing.digit}" if thing.is_digit else f"{thing.size} {thing.colour} {thing.shape}"
    )


def fits(thing: Thing, name: str) -> bool:
    """Does a name like "large star" fit the thing? "shape" and similar words fit any."""
    own = (thing.size, thing.colour, thing.shape, *THING_WORDS)
    return all(word in own for word in name.split())


def names(scene: Scene, thing: Thing, hide: str = "") -> list[str]:
    """Names that fit only this thing and do not say its `hide` attribute."""
    sizes = ("",) if hide == "size" else ("", thing.size)
    colours = ("",) if hide == "colour" else ("", thing.colour)
    nouns = THING_WORDS if hide == "shape" else (thing.shape, *THING_WORDS)
    found = [
        f"{size} {colour} {noun}".split()
        for size in sizes
        for colour in colours
        for noun in nouns
        if size or colour or noun == thing.shape
    ]
    found = [" ".join(parts) for parts in found]
    return [name for name in found if sum(fits(other, name) for other in scene.shapes) == 1]


def some_name(scene: Scene, thing: Thing, rng: random.Random, hide: str = "") -> str | None:
    """One of the thing's names, preferably a short one."""
    found = names(scene, thing, hide)
    weights = [1 / len(name.split()) ** 2 for name in found]
    return rng.choices(found, weights)[0] if found else None


def absent_name(scene: Scene, rng: random.Random, hide: str = "") -> str:
    """A name that fits nothing in the scene."""
    while True:
        size = rng.choice(tuple(SIZES)) if hide != "size" and rng.random() < 0.2 else ""
        must = hide == "shape"  # "the shape" alone would fit everything
        colour = rng.choice(tuple(COLOURS)) if must or rng.random() < 0.5 else ""
        colour = "" if hide == "colour" else colour
        noun = rng.choice(THING_WORDS if hide == "shape" else SHAPES)
        name = " ".join(f"{size} {colour} {noun}".split())
        if not any(fits(thing, name) for thing in scene.shapes):
            return name


def _question(rng, skill: str, form: str, brief: str, sentence: str, **parts: str) -> Question:
    text = rng.choice(ASK[form]).format(holder=rng.choice(HOLDERS), **parts)
    if rng.random() < 0.5:
        return Question(skill, f"{text} {rng.choice(SHORT)}", brief, True, sentence)
    return Question(skill, text, sentence, False, brief)


def bare(text: str) -> tuple[str, bool]:
    """The question without its request for one word, and whether it had one."""
    rest = text
    while found := _PLEA.search(rest):
        rest = rest[: found.start()]
    return rest, rest != text


_PLEAS = "|".join(plea.rstrip(".") for plea in (*SHORT, LLAVA_SHORT))
_PLEA = re.compile(rf"(^|[\s,;:]+)({_PLEAS})\W*$", re.IGNORECASE)


def asked_for(question: Question, one_word: bool) -> Question:
    """The same question, asking for one word or a sentence; unchanged if it has one way only."""
    if question.short == one_word or not question.other:
        return question
    text, _ = bare(question.text)
    text = f"{text} {SHORT[0]}" if one_word else text
    return Question(question.skill, text, question.other, one_word, question.answer)


def _attribute(skill: str) -> Callable[[Scene, random.Random], Question | None]:
    """A kind of question about one attribute of one thing, which may be absent."""

    def ask(scene: Scene, rng: random.Random) -> Question | None:
        if rng.random() < 0.12:
            name = absent_name(scene, rng, hide=skill)
            sentence = ANSWER["absent"].format(name=name)
            return _question(rng, skill, skill, "none", sentence, name=name)
        things = [t for t in scene.shapes if skill != "place" or clearly_placed(t, scene)]
        for thing in rng.sample(things, len(things)):
            name = some_name(scene, thing, rng, hide=skill)
            if name:
                value = place(thing, scene) if skill == "place" else getattr(thing, skill)
                sentence = ANSWER[skill].format(name=name, value=value)
                return _question(rng, skill, skill, value, sentence, name=name)
        return None

    return ask


def there_are(n: int, name: str) -> str:
    if n == 0:
        return ANSWER["zero"].format(name=plural(name))
    return ANSWER["one" if n == 1 else "many"].format(n=n, name=name if n == 1 else plural(name))


def _count(scene: Scene, rng: random.Random) -> Question:
    n = len(scene.shapes)  # "objects" could include the digit cards, so it asks for "shapes"
    return _question(rng, "count", "count", str(n), there_are(n, "shape"), name="shapes")


def _count_kind(scene: Scene, rng: random.Random) -> Question:
    if scene.shapes and rng.random() < 0.8:
        thing = rng.choice(scene.shapes)
        name = rng.choice(_kinds(thing))
    else:
        name = absent_name(scene, rng)
    n = sum(fits(thing, name) for thing in scene.shapes)
    return _question(rng, "count_kind", "count", str(n), there_are(n, name), name=plural(name))


def _kinds(thing: Thing) -> list[str]:
    """Names that several things may share."""
    pairs = [f"{thing.colour} {thing.shape}", f"{thing.size} {thing.shape}"]
    return [thing.shape, f"{thing.colour} shape", f"{thing.size} shape", *pairs]


def _exists(scene: Scene, rng: random.Random) -> Question:
    there = bool(scene.shapes) and rng.random() < 0.5
    if there:
        name = rng.choice(_kinds(rng.choice(scene.shapes)))
        sentence = ANSWER["there"].format(name=with_article(name))
    else:
        name = absent_name(scene, rng, hide=rng.choice(("", "size", "shape")))
        sentence = ANSWER["not_there"].format(name=name)
    word = "yes" if there else "no"
    return _question(rng, "exists", "exists", word, sentence, name=with_article(name))


def _pair(scene: Scene, rng: random.Random, fit: Callable, **hide: str) -> tuple | None:
    """Two things that fit each other, and a name for each."""
    things = scene.shapes
    pairs = [(a, b) for a in things for b in things if a is not b and fit(a, b)]
    for a, b in rng.sample(pairs, min(len(pairs), 6)):
        first, second = some_name(scene, a, rng, **hide), some_name(scene, b, rng, **hide)
        if first and second:
            return a, b, first, second
    return None


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    side = rng.choice(tuple(SIDES))
    right, down = STEP[side]
    sign = rng.choice((1, -1))
    found = _pair(
        scene, rng, lambda a, b: sign * ((a.x - b.x) * right + (a.y - b.y) * down) >= CLEAR
    )
    if not found:
        return None
    parts = {"first": found[2], "second": found[3]}
    if rng.random() < 0.3:
        true = side if sign > 0 else OPPOSITE[side]
        one, other = SIDES[side], SIDES[OPPOSITE[side]]
        sentence = ANSWER["which_side"].format(side=SIDES[true], **parts)
        return _question(
            rng, "relation", "which_side", true, sentence, one=one, other=other, **parts
        )
    parts["side"] = SIDES[side]
    sentence = ANSWER["right" if sign > 0 else "wrong"].format(**parts)
    return _question(rng, "relation", "relation", "yes" if sign > 0 else "no", sentence, **parts)


def _same(scene: Scene, rng: random.Random) -> Question | None:
    what = rng.choice(("colour", "size", "shape"))
    same = rng.random() < 0.5
    found = _pair(
        scene, rng, lambda a, b: (getattr(a, what) == getattr(b, what)) == same, hide=what
    )
    if not found:
        return None
    word = "same" if same else "different"
    sentence = ANSWER[word].format(what=what if same else plural(what))
    return _question(
        rng, "same", "same", word, sentence, first=found[2], second=found[3], what=what
    )


def _larger(scene: Scene, rng: random.Random) -> Question | None:
    found = _pair(scene, rng, lambda a, b: a.size != b.size and a.shape != b.shape, hide="size")
    if not found:
        return None
    a, b, first, second = found
    order = list(SIZES)
    word = rng.choice(("larger", "larger", "smaller"))
    a_wins = (order.index(a.size) > order.index(b.size)) == (word == "larger")
    winner, name = (a, first) if a_wins else (b, second)
    sentence = ANSWER["larger"].format(name=name, word=word)
    return _question(
        rng, "larger", "larger", winner.shape, sentence, first=first, second=second, word=word
    )


def _digit(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.digits) > 1 or (not scene.digits and rng.random() < 0.9):
        return None
    if not scene.digits:
        return _question(rng, "digit", "digit", "none", ANSWER["absent"].format(name="digit"))
    value = str(scene.digits[0].digit)
    return _question(rng, "digit", "digit", value, ANSWER["digit"].format(value=value))


def _two_digits(scene: Scene, rng: random.Random) -> Question | None:
    if len(scene.digits) != 2:
        return None
    form = rng.choice(("sum", "most"))
    values = [thing.digit for thing in scene.digits]
    value = str(sum(values) if form == "sum" else max(values))
    return _question(rng, "two_digits", form, value, ANSWER[form].format(value=value))


def in_reading_order(scene: Scene) -> list[Thing]:
    """Line by line from the top, left to right: the order of the patches' tokens."""
    return sorted(scene.things, key=lambda thing: (thing.y // LINE, thing.x))


def _describe(scene: Scene, rng: random.Random) -> Question:
    """The number of shapes, then everything in reading order, one sentence each."""
    sentences = [there_are(len(scene.shapes), "shape")]
    for thing in in_reading_order(scene):
        sentences.append(ANSWER["described"].format(name=kind(thing), value=place(thing, scene)))
    return Question("describe", rng.choice(ASK["describe"]), " ".join(sentences))


SKILLS: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "colour": _attribute("colour"),
    "shape": _attribute("shape"),
    "size": _attribute("size"),
    "place": _attribute("place"),
    "count": _count,
    "count_kind": _count_kind,
    "exists": _exists,
    "relation": _relation,
    "same": _same,
    "larger": _larger,
    "digit": _digit,
    "two_digits": _two_digits,
    "describe": _describe,
}


def ask_about(scene: Scene, skill: str, rng: random.Random) -> Question | None:
    """A question of this skill with exactly one right answer in the scene, or None."""
    if skill not in SKILLS:
        raise ValueError(f"no skill {skill!r}: one of {', '.join(SKILLS)}")
    return SKILLS[skill](scene, rng)
