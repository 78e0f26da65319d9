"""The bundled model's world on the page: scenes by seed, fitting questions, and their true answers."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from PIL import Image

from visipruner.inputs import check_number
from visipruner.tiny.drawing import render
from visipruner.tiny.questions import SKILLS, Question, ask_about
from visipruner.tiny.scenes import Scene, make_scene

SPLIT = "heldout"  # the page never shows a picture that the model was trained on
MAX_SEED = 9_999_999


@dataclass(frozen=True)
class Truth:
    """What is right, said as the model was taught to say it."""

    question: str
    answer: str

    def fits(self, answer: str) -> bool:
        """Right means: the taught answer, but for case, blanks and a full stop."""
        return _plain(answer) == _plain(self.answer)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w-]+", text.casefold()))


def scene(seed) -> Scene:
    """Scene number `seed` of those that the model was not trained on.

    Raises:
        ValueError: for anything but a whole number in range.
    """
    return make_scene(check_number("seed", seed, 0, MAX_SEED, integer=True), SPLIT)


def picture(seed) -> Image.Image:
    return render(scene(seed))


def questions(seed) -> list[Question]:
    """One question of every skill that this scene has one for, always the same for a seed."""
    shown = scene(seed)
    rng = random.Random(f"page {int(seed)}")
    found = [ask_about(shown, skill, rng) for skill in SKILLS]
    found = [question for question in found if question]
    rng.shuffle(found)
    return found


def truth(seed, question: str) -> Truth | None:
    """The true answer, if this is one of the questions that belong to the scene."""
    asked = _plain(question or "")
    for known in questions(seed):
        if _plain(known.text) == asked:
            return Truth(known.text, known.answer)
    return None


def next_question(seed, question: str) -> Question:
    """The question after this one in the scene's list, round and round."""
    found = questions(seed)
    texts = [known.text for known in found]
    return found[(texts.index(question) + 1) % len(found) if question in texts else 0]


def limits(picture: Image.Image, question: str) -> list[str]:
    """Sentences about what the bundled model never learnt."""
    return []
