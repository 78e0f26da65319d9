"""What the buttons of "Look inside" do, from a press to the last analysis, and its files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import gradio as gr

from visipruner.analyses.base import Analysis, Step
from visipruner.errors import Refused
from visipruner.inputs import open_picture
from visipruner.prompt import Prompt
from visipruner.render import inside as drawing
from visipruner.ui import controls, handlers, inside, running, text, views
from visipruner.ui import inside_words as words
from visipruner.ui.downloads import file_of
from visipruner.ui.page import MODEL_TURN, PRIVATE, UNQUEUED, plainly
from visipruner.ui.running import Frame

PAUSE = 0.1  # seconds between two lines of progress


@dataclass
class Looked:
    """A run of analyses; it grows, and a stopped one keeps what has finished.

    Args:
        asked: the question and the model, in words.
        found: each finished analysis with its result. drawn: the same as the page draws it.
    """

    prompt: Prompt
    asked: str
    found: list[tuple[Analysis, object]] = field(default_factory=list)
    drawn: list[dict] = field(default_factory=list)


def connect(models, model_line, chosen, shown, results):
    """Connect the view; its forms and results are kept with those of the other views."""
    fetched = shown.run.click(
        _fetching(models, chosen, shown, results),
        [*chosen.inputs, *shown.inputs],
        [shown.status, shown.asked],
        js='(...values) => { vp.show("#vp-view-inside .vp-statusbox"); return values; }',
        concurrency_limit=None,
        **PRIVATE,
    )
    run = fetched.success(
        _looking(models, model_line, shown, results),
        [shown.result, shown.asked],
        _outputs(model_line, shown),
        show_progress_on=[shown.status],
        **MODEL_TURN,
    )
    stopped = {"fn": _on_stop, "inputs": None, "outputs": [shown.status]}
    shown.stop.click(**stopped, cancels=[fetched, run], queue=False, **PRIVATE)
    shown.names.change(_grouping(shown), shown.names, list(shown.groups.values()), **UNQUEUED)
    for kind, button in shown.saves.items():
        made = button.click(
            _saving(results, kind),
            shown.result,
            shown.payload,
            show_progress="hidden",
            **PRIVATE,
        )
        made.success(None, shown.payload, None, js="(file) => vp.save(file)", **PRIVATE)


@plainly
def _on_stop():
    return views.says(text.STOPPED)


def _grouping(shown):
    @plainly
    def on_names(names):
        return [gr.update(visible=name in (names or [])) for name in shown.groups]

    return on_names


def _fetching(models, chosen, shown, results):
    count = len(chosen.form)

    @plainly
    def on_inside_fetch(*values):
        """Read the form, and download the model if necessary."""
        try:
            given = dict(zip(chosen.form, values[:count], strict=True))
            names, answer, *typed = values[count:]
            form, scene = controls.asked_of(given), given["scene"]
            handlers.check_input(form, scene)
            analyses = inside.chosen(names, dict(zip(shown.fields, typed, strict=True)))
            if scene is None and models.is_missing(form.model):
                open_picture(form.picture)  # a broken picture must not cost a long download
            key = results.forms.put((form, scene, analyses, bool(answer)))
            yield views.says(text.WAITING, "waiting"), key
            with closing(models.fetch(form.model, form.precision)) as sentences:
                for sentence in sentences:
                    yield views.says(sentence, text.FETCHING), gr.skip()
        except Refused as error:  # the status line stays longer than the pop-up
            yield views.says(str(error)), None
            raise

    return on_inside_fetch


def _looking(models, model_line, shown, results):
    @plainly
    def on_inside(before, key):
        """Run the submitted form.

        Args:
            before: the key of the result on the page. key: of the form.
        """
        frame = Frame(_outputs(model_line, shown))
        try:
            form, scene, analyses, answer = results.forms.take(key)
            if not models.is_ready(form.model, form.backend, form.precision):
                frame.set(shown.status, views.says(text.LOADING, text.LOADING))
                yield frame.take()
            form = replace(form, methods=("none",), semantics="paper", fields={})
            job = running.job_of(models, form, scene)
            results.kept.drop(before)
            frame.set(model_line, views.model_line(models, form.model))
            yield from _stream(job, analyses, answer, shown, frame, results)
        except Refused as error:
            frame.set(shown.status, views.says(str(error)))
            yield frame.take()
            raise

    return on_inside


def _stream(job, analyses, answer: bool, shown, frame: Frame, results) -> Iterator[list]:
    """Each analysis appears as soon as it has finished."""
    title = job.models.titles[job.form.model]
    made = Looked(job.prompt, words.ASKED.format(question=job.prompt.question, model=title))
    layers = len(job.vlm.parts.layers)
    frame.set(shown.result, results.kept.put(made))
    frame.set(shown.intro, gr.update(visible=False))
    frame.set(shown.board, drawing.board_value([], made.asked, layers, False))
    frame.set(shown.status, views.says(words.ENCODING, words.ENCODING))
    yield frame.take()
    told = 0.0
    with closing(job.look(analyses, answer)) as events:
        for event in events:
            if isinstance(event, Step):
                if time.monotonic() - told < PAUSE:
                    continue
                told, left = time.monotonic(), analyses[min(len(made.found), len(analyses) - 1)]
                line = words.STEP.format(title=left.title, done=event.done, total=event.total)
                frame.set(shown.status, views.says(line, words.LOOKING))
            else:
                made.found.append(event)
                made.drawn.append(drawing.one(*event, made.prompt.sheets))
                done = len(made.found) == len(analyses)
                board = drawing.board_value(made.drawn, made.asked, layers, done)
                frame.set(shown.board, board)
                for button in shown.saves.values():
                    frame.set(button, gr.update(interactive=True))
            yield frame.take()
    frame.set(shown.status, views.says(words.DONE, kind="done"))
    yield frame.take()


def _outputs(model_line, shown) -> list:
    return [shown.status, shown.intro, shown.board, shown.result, model_line, *shown.saves.values()]


def _saving(results, kind: str):
    @plainly
    def on_inside_save(key):
        made = results.kept.find(key)
        if kind == "json":
            content = drawing.as_json(made.found, {"asked": made.asked})
            return file_of("visipruner-inside.json", "application/json", content.encode())
        page = drawing.as_html(made.found, made.prompt.sheets, made.asked)
        return file_of("visipruner-inside.html", "text/html", page.encode())

    return on_inside_save
