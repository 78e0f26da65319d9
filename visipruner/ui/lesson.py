"""The view "Lesson": its board, and what a press on it does."""

from __future__ import annotations

import time
from dataclasses import dataclass

import gradio as gr

from visipruner.errors import Refused
from visipruner.inputs import check_number
from visipruner.lesson.draw import Drawing, LessonBoard
from visipruner.lesson.handout import page_of
from visipruner.lesson.plan import Plan, Step
from visipruner.lesson.play import Shown, play
from visipruner.levels import PRESETS
from visipruner.ui import handlers, running, text, views
from visipruner.ui.downloads import file_of
from visipruner.ui.handlers import Form, Job
from visipruner.ui.page import MODEL_TURN, PRIVATE, SMALL, UNQUEUED, plainly
from visipruner.world import sources

PAUSE = 0.4  # seconds between two drawings of a step: each sends its pictures again


@dataclass
class LessonView:
    """The view's components.

    Args:
        stop: pressed by the board, which shows its own.
    """

    plan: Plan
    board: gr.HTML
    stop: gr.Button
    save: gr.Button
    status: gr.HTML
    payload: gr.JSON


def build(plan: Plan) -> LessonView:
    """The view's column."""
    board = LessonBoard(plan, elem_id="vp-lesson")
    with gr.Row(elem_classes="vp-tight vp-saves"):
        save = gr.Button(text.LESSON_PRINT, size="sm", elem_id="vp-lesson-print")
    status = gr.HTML(elem_classes="vp-statusbox")
    stop = gr.Button(text.STOP, elem_id="vp-lesson-stop")
    return LessonView(plan, board, stop, save, status, gr.JSON(visible="hidden"))


def connect(models, chosen, looked, shown: LessonView):
    """Connect the board, and the button that prints.

    Args:
        chosen, looked: the free page's form, and the view "Look inside": a step can fill both.
    """
    board = shown.board
    # "multiple": else gradio drops a step that begins just as the one before has ended. The board
    # itself asks for one at a time.
    how = {**MODEL_TURN, "trigger_mode": "multiple"}
    run = board.select(_revealing(models, shown.plan), None, board, **how)
    # Not by the server: its answer could come when the next run has begun.
    run.failure(None, None, board, js='() => ({ state: "ended" })', **PRIVATE)
    printed = shown.save.click(
        _printing(models, shown.plan), None, [shown.status, shown.payload], **MODEL_TURN
    )
    printed.success(None, shown.payload, None, js="(file) => vp.save(file)", **PRIVATE)
    printed.failure(lambda: views.says(text.UNFINISHED), None, shown.status, **UNQUEUED)
    shown.stop.click(None, None, None, cancels=[run, printed], queue=False, **PRIVATE)
    c = chosen
    form = [c.picture, c.scene, c.seed, c.question, c.model, c.method, c.others, c.level, c.preset]
    board.submit(_applying(shown.plan), None, [*form, looked.names], **SMALL)


def job_of(models, plan: Plan, step: Step, question: str = "", model: str = "") -> Job:
    """A job of a step's picture and question.

    Args:
        question, model: other ones than the step's and the lesson's.

    Raises:
        Refused: the model is not here, or the question or picture does not fit it.
    """
    asked = question or step.question
    picture = None if step.scene is not None else step.image()
    form = Form(picture, asked, model or plan.model, "none")
    return running.job_of(models, form, step.scene)


def shown_of(models, plan: Plan, step: Step):
    """(job, growing `Shown`) of a step; closing the generator stops the model."""
    job = job_of(models, plan, step)
    for shown in play(job, step, lambda *other: job_of(models, plan, step, *other)):
        yield job, shown


def _step_of(plan: Plan, event: gr.EventData) -> int:
    data = event._data if isinstance(event._data, dict) else {}
    return check_number("The step", data.get("step"), 0, len(plan.steps) - 1, integer=True)


def _revealing(models, plan: Plan):
    @plainly
    def on_reveal(event: gr.EventData):
        """Run a step, and send what it has found so far."""
        number, drawing = _step_of(plan, event), None
        turn = event._data.get("turn")
        turn = turn if isinstance(turn, int) else 0
        try:
            for job, shown in handlers.paced(
                shown_of(models, plan, plan.steps[number]), lambda _: PAUSE
            ):
                drawing = drawing or Drawing(job.prompt.sheets)
                yield {**drawing.value(number, shown), "turn": turn}
        except Refused as error:  # the step says why, and the lesson goes on
            value = Drawing(()).value(number, Shown(str(error)))
            yield {**value, "state": "refused", "turn": turn}

    return on_reveal


def _printing(models, plan: Plan):
    @plainly
    def on_print():
        """Run every step, and write the lesson for paper."""
        found, start = [], time.monotonic()
        for number, step in enumerate(plan.steps, 1):
            line = text.LESSON_STEP.format(step=number, steps=len(plan.steps))
            yield views.says(line, line), None
            for job, shown in handlers.paced(shown_of(models, plan, step), lambda _: PAUSE):  # noqa: B007
                ticked = line + views.ticked(time.monotonic() - start)
                yield views.says(ticked, line), gr.skip()
            found.append((shown, job.prompt.sheets))
        title = models.titles[plan.model]
        content = page_of(plan, found, title).encode()
        file = file_of("visipruner-lesson.html", "text/html", content)
        yield views.says(text.LESSON_PRINTED, kind="done"), file

    return on_print


def _applying(plan: Plan):
    @plainly
    def on_apply(event: gr.EventData):
        """Put a step's picture, question and settings into the form of the free page."""
        step = plan.steps[_step_of(plan, event)]
        wish, scene = step.attempt, step.scene
        picture = step.image() if scene is None else sources.picture(scene)
        preset = next((name for name, value in PRESETS.items() if value == wish.level), None)
        names = list(wish.analyses) if wish.analyses else gr.skip()
        return [
            picture, scene, scene, step.question, wish.model or plan.model, wish.method,
            list(wish.others), wish.level, preset, names,
        ]  # fmt: skip

    return on_apply
