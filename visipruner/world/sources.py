"""Scenes by number or as they were composed, the questions that fit them, and true answers."""

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

SPLIT = "heldout"  # nobody is shown a picture that the model was trained on
MAX_SEED = 9_999_999


@dataclass(frozen=True)
class Truth:
    """A question that belongs to a scene, with its true answer."""

    question: Question
    scene: Scene

    @property
    def answer(self) -> str:
        return self.question.answer

    def facts(self, answer: str) -> tuple[int, int]:
        """Right facts and facts in all: many in a description, one in any other answer."""
        if self.question.skill == "describe":
            return facts(self.scene, answer)
        return int(is_correct(self.question, answer)), 1

    def fits(self, answer: str) -> bool:
        right, total = self.facts(answer)
        return right == total


def plain(text: str) -> str:
    """Without case and signs: what two questions are compared by."""
    return " ".join(re.findall(r"[\w-]+", text.casefold()))


def scene(source) -> Scene:
    """A scene by its number, of those that the model was not trained on, or as it was composed.

    Raises:
        Refused: for anything but a whole number in range or a composer's value.
    """
    if isinstance(source, dict):
        return scene_of(source)
    number = check_number("The scene's number", source, 0, MAX_SEED, integer=True)
    return make_scene(number, SPLIT)


def picture(source) -> Image.Image:
    return render(scene(source))


def questions(source) -> list[Question]:
    """One question of every skill that this scene has one for, always the same for a scene."""
    shown = scene(source)
    rng = random.Random(f"page {shown.seed} {len(shown.things)}")
    found = [ask_about(shown, skill, rng) for skill in SKILLS]
    found = [replace(asked, text=as_learnt(asked.text)) for asked in found if asked]
    rng.shuffle(found)
    return found


def truth(source, question: str) -> Truth | None:
    """The true answer, if this is one of the questions that belong to the scene.

    Each may ask for one word, or for a sentence by not doing so.
    """
    asked, one_word = bare(as_learnt(question or ""))
    for known in questions(source):
        if plain(bare(known.text)[0]) == plain(asked):
            known = asked_for(known, one_word)
            return Truth(known, scene(source)) if known.short == one_word else None
    return None


def first_question(source, like: str | None) -> str:
    """A scene's first question, in the form of `like`: for one word or for a sentence."""
    return _in_form(source, bare(like or "")[1])[0].text


def next_question(source, question: str | None) -> Question:
    """The question after this one in the scene's list, round and round; else the first.

    All ask for one word if this one does, and else for a sentence.
    """
    asked, one_word = bare(as_learnt(question or ""))
    found = _in_form(source, one_word)
    texts = [bare(known.text)[0] for known in found]
    return found[(texts.index(asked) + 1) % len(found) if asked in texts else 0]


def _in_form(source, one_word: bool) -> list[Question]:
    found = [asked_for(known, one_word) for known in questions(source)]
    return [known for known in found if known.short == one_word]  # one word describes no picture
