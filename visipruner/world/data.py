"""The small model's world in one place: scenes, pictures, questions, and the world's limits.

A question about a scene outside the training data:

    scene = make_scene(7, "heldout")
    picture = render(scene)
    question = ask_about(scene, "colour", random.Random(0))
"""

from __future__ import annotations

from visipruner.world.drawing import render
from visipruner.world.outside import looks_unlike_training
from visipruner.world.phrases import SYSTEM, vocabulary, words
from visipruner.world.questions import SKILLS, Question, ask_about, asked_for, bare
from visipruner.world.scenes import (
    COLOURS,
    MAX_SHAPES,
    SHAPES,
    SIDE,
    SIZES,
    SPLITS,
    UNSEEN_PAIRS,
    Scene,
    Thing,
    compose,
    make_scene,
)
from visipruner.world.scoring import facts, is_correct, score

__all__ = [
    "COLOURS",
    "MAX_SHAPES",
    "SHAPES",
    "SIDE",
    "SIZES",
    "SKILLS",
    "SPLITS",
    "UNSEEN_PAIRS",
    "Question",
    "Scene",
    "Thing",
    "ask_about",
    "asked_for",
    "bare",
    "compose",
    "facts",
    "is_correct",
    "known_words",
    "looks_unlike_training",
    "make_scene",
    "render",
    "score",
    "unknown_words",
]


def known_words() -> list[str]:
    """Every word that a question may use."""
    return [word for word in vocabulary(SYSTEM) if word == word.lower()]


def unknown_words(text: str) -> list[str]:
    """The words of a question that the model has never read, in order, without repeats."""
    known = set(known_words())
    return [word for word in dict.fromkeys(words(text)) if word not in known]
