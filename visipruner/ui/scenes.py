"""Sentences about the drawn world: which patches show a thing, and its limits."""

from __future__ import annotations

from dataclasses import replace

from visipruner.errors import short
from visipruner.models.catalogue import VLM
from visipruner.prompt import Prompt
from visipruner.render.stages import dropping
from visipruner.running.results import Comparison
from visipruner.trace import NOBODY
from visipruner.ui import text
from visipruner.world import sources
from visipruner.world.drawing import BACKGROUND, thing_of_patches
from visipruner.world.outside import looks_unlike_training
from visipruner.world.phrases import ASK, as_learnt, respelt, unknown_words
from visipruner.world.questions import bare


def what_stays(source, comparison: Comparison, reads_by: int | None = None, side: int = -1) -> str:
    """How many patches of the first pruned set show a thing, out of all that show one.

    "" if none or all of them stayed, if some were merged into others, or if the model's patches do
    not align with the scene.

    Args:
        reads_by: by this layer the model has read most of a scene; None: that was not measured.
        side: index of the answer.
    """
    shown, answer = sources.scene(source), comparison.answers[side]
    trace = answer.trace
    cut = next(iter(dropping(trace)), None)
    layout = comparison.prompt.layout
    grid = layout.grids[0] if len(layout.grids) == 1 else (0, 1)  # several: no patch by patch map
    if cut is None or not cut.kept or grid[0] != grid[1] or shown.side % grid[0]:
        return ""
    carried = {patch for patch, owner in enumerate(cut.owner) if owner != NOBODY}
    if carried - set(cut.kept):
        return ""  # what was merged stays in a way
    on = thing_of_patches(shown, shown.side // grid[0]) != BACKGROUND
    there, everywhere = int(on[cut.kept].sum()), int(on.sum())
    of_all = {"every": everywhere, "all": len(on)}
    show = "shows" if there == 1 else "show"
    note = text.STAYS.format(on=there, show=show, kept=len(cut.kept), **of_all)
    if len(cut.kept) == 1:
        note = text.STAYS_ONE.format(what=text.STAYS_WHAT[there], **of_all)
    if 2 * there >= len(cut.kept):
        return note
    if trace.filtering_layer is None:
        return note  # nothing was measured, so the page says nothing about what matters
    if word := _first_word(source, comparison.prompt.question, answer.text):
        note += " " + text.STAYS_SENTENCE.format(word=word)
    elif reads_by is not None and cut.after_layer >= reads_by:
        note += " " + text.STAYS_LATE
    return note


def _first_word(source, question: str, said: str) -> str:
    """The pruned answer's first word, if it is wrong and the right answer could be one word."""
    known, words = sources.truth(source, question), said.split()
    if known is None or known.question.short or not known.question.other or not words:
        return ""
    word = words[0].strip(",.")
    return "" if word.casefold() == known.question.other.casefold() else word


def prepare(vlm: VLM, picture, question, mode: str = "pad", drawn: bool = False) -> Prompt:
    """A prompt for the bundled model: in the wording that it learnt, with its limits as notes.

    Args:
        drawn: whether the picture is a scene of the bundled model's world.

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
    if one_word and sources.plain(asked) in map(sources.plain, ASK["describe"]):
        notes.append(text.ONE_WORD_PICTURE)
    if pairs := respelt(question):
        words = ", ".join(f"“{word}” as “{learnt}”" for word, learnt in pairs.items())
        notes.append(text.RESPELT.format(words=words))
    if strange := unknown_words(as_learnt(question)):
        form = text.UNKNOWN_WORDS if len(strange) == 1 else text.UNKNOWN_MANY
        notes.append(form.format(words=short(", ".join(strange[:6]))))
    return notes
