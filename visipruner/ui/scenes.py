"""The bundled model's world on the page: scenes, fitting questions, and their true answers."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace

from PIL import Image

from visipruner.errors import short
from visipruner.inputs import check_number
from visipruner.models import VLM, Prompt
from visipruner.render.compose import scene_of
from visipruner.results import Comparison
from visipruner.tiny.data import (
    SKILLS,
    Question,
    Scene,
    ask_about,
    asked_for,
    bare,
    facts,
    is_correct,
    looks_unlike_training,
    make_scene,
    render,
    unknown_words,
)
from visipruner.tiny.drawing import BACKGROUND, thing_of_patches
from visipruner.tiny.phrases import ASK, as_learnt, respelt
from visipruner.ui import text

SPLIT = "heldout"  # the page never shows a picture that the model was trained on
MAX_SEED = 9_999_999
MOSTLY_READ = 4  # what it is asked about, the bundled model sees mostly up to here (dynamics.py)


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


def _plain(text: str) -> str:
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
        if _plain(bare(known.text)[0]) == _plain(asked):
            known = asked_for(known, one_word)
            return Truth(known, scene(source)) if known.short == one_word else None
    return None


def what_stays(source, comparison: Comparison, bundled: bool, side: int = -1) -> str:
    """How many patches of the first pruned set show a thing, against all.

    "" if none or all of them stayed, or if the model's patches do not divide the scene.

    Args:
        bundled: whether the bundled model was asked; what its layers do is known.
        side: of which answer.
    """
    shown, answer = scene(source), comparison.answers[side]
    trace = answer.trace
    cut = next(iter(trace.drops), None)
    grid = next(iter(comparison.prompt.layout.grids), None)
    if cut is None or not cut.kept or grid is None or shown.side % grid[0]:
        return ""
    on = thing_of_patches(shown, shown.side // grid[0]) != BACKGROUND
    there, everywhere = int(on[cut.kept].sum()), int(on.sum())
    of_all = {"every": everywhere, "all": len(on)}
    note = text.STAYS.format(on=there, kept=len(cut.kept), **of_all)
    if len(cut.kept) == 1:
        note = text.STAYS_ONE.format(what=text.STAYS_WHAT[there], **of_all)
    if 2 * there >= len(cut.kept):
        return note
    if trace.filtering_layer is None:
        return note  # nothing was measured, so nothing can be said of what matters
    if word := _first_word(source, comparison.prompt.question, answer.text):
        note += " " + text.STAYS_SENTENCE.format(word=word)
    elif bundled and cut.after_layer >= MOSTLY_READ:
        note += " " + text.STAYS_LATE
    return note


def _first_word(source, question: str, said: str) -> str:
    """The pruned answer's first word, if it is not the answer but one word could have been."""
    known, words = truth(source, question), said.split()
    if known is None or known.question.short or not known.question.other or not words:
        return ""
    word = words[0].strip(",.")
    return "" if word.casefold() == known.question.other.casefold() else word


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


def prepare(vlm: VLM, picture, question, mode: str = "pad", drawn: bool = False) -> Prompt:
    """A prompt for the bundled model: in the spelling that it learnt, with its limits as notes.

    Args:
        drawn: the picture is one of its own scenes.

    Raises:
        Refused: one plain sentence about the picture or the question.
    """
    prompt = vlm.prepare(picture, question, mode, as_learnt)
    outside = not drawn and looks_unlike_training(prompt.seen)
    notes = [*prompt.notes, *limits(prompt.question), *([text.OUTSIDE] if outside else [])]
    return replace(prompt, notes=tuple(notes), outside=outside)


def limits(question: str) -> list[str]:
    """Sentences about what the bundled model never learnt to read."""
    notes = []
    asked, one_word = bare(question)
    if one_word and _plain(asked) in map(_plain, ASK["describe"]):
        notes.append(text.ONE_WORD_PICTURE)
    if pairs := respelt(question):
        words = ", ".join(f"“{word}” as “{learnt}”" for word, learnt in pairs.items())
        notes.append(text.RESPELT.format(words=words))
    if strange := unknown_words(as_learnt(question)):
        form = text.UNKNOWN_WORDS if len(strange) == 1 else text.UNKNOWN_MANY
        notes.append(form.format(words=short(", ".join(strange[:6]))))
    return notes
