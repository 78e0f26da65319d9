"""Scenes by number or composed, their questions, and the true answers."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from PIL import Image

from visipruner.inputs import check_number
from visipruner.world.composed import scene_of
from visipruner.world.drawing import render
from visipruner.world.phrases import as_learnt
from visipruner.world.questions import SKILLS, Question, ask_about, asked_for, bare
from visipruner.world.scenes import Scene, make_scene
from visipruner.world.scoring import facts, is_correct

SPLIT = "heldout"  # a split without training pictures
MAX_SEED = 9_999_999


@dataclass(frozen=True)
class Truth:
    """A question about a scene, with its true answer."""

    question: Question
    scene: Scene

    @property
    def answer(self) -> str:
        return self.question.answer

    def facts(self, answer: str) -> tuple[int, int]:
        """Right facts and all facts: many in a description, one in any other answer."""
        if self.question.skill == "describe":
            return facts(self.scene, answer)
        return int(is_correct(self.question, answer)), 1

    def fits(self, answer: str) -> bool:
        right, total = self.facts(answer)
        return right == total


def plain(text: str) -> str:
    """The text without case and punctuation, to compare questions."""
    return " ".join(re.findall(r"[\w-]+", text.casefold()))


def scene(source) -> Scene:
    """A scene by its held-out number, or from a composer's value.

    Raises:
        Refused: neither a whole number in range nor a valid composer's value.
    """
    if isinstance(source, dict):
        return scene_of(source)
    number = check_number("The scene's number", source, 0, MAX_SEED, integer=True)
    return make_scene(number, SPLIT)


def picture(source) -> Image.Image:
    return render(scene(source))


def questions(source) -> list[Question]:
    """One question for every skill that suits the scene; always the same for a scene."""
    shown = scene(source)
    rng = random.Random(f"page {shown.seed} {len(shown.things)}")
    found = [ask_about(shown, skill, rng) for skill in SKILLS]
    found = [replace(asked, text=as_learnt(asked.text)) for asked in found if asked]
    rng.shuffle(found)
    return found


def truth(source, question: str) -> Truth | None:
    """The true answer, if this is one of the scene's questions.

    Each question may ask for one word or for a sentence.
    """
    asked, one_word = bare(as_learnt(question or ""))
    for known in questions(source):
        if plain(bare(known.text)[0]) == plain(asked):
            known = asked_for(known, one_word)
            return Truth(known, scene(source)) if known.short == one_word else None
    return None


def first_question(source, like: str | None) -> str:
    """A scene's first question; it asks for one word or a sentence, as `like` does."""
    return _in_form(source, bare(like or "")[1])[0].text


def next_question(source, question: str | None) -> Question:
    """The next question in the scene's list, which repeats; the first, if this one is not in it.

    If this question asks for one word, so does the next.
    """
    asked, one_word = bare(as_learnt(question or ""))
    found = _in_form(source, one_word)
    texts = [bare(known.text)[0] for known in found]
    return found[(texts.index(asked) + 1) % len(found) if asked in texts else 0]


def _in_form(source, one_word: bool) -> list[Question]:
    found = [asked_for(known, one_word) for known in questions(source)]
    return [known for known in found if known.short == one_word]  # a description cannot be one word
