"""What the buttons of "Look inside" do, from a press to the last analysis, and its files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import gradio as gr

from visipruner.analyses.base import Analysis, Step
from visipruner.errors import Refused
from visipruner.prompt import Prompt
from visipruner.render import inside as drawing
from visipruner.ui import beside, controls, inside, run_state, running, text, views
from visipruner.ui import inside_words as words
from visipruner.ui.downloads import file_of
from visipruner.ui.page import UNQUEUED, plainly
from visipruner.ui.running import Frame

PAUSE = 0.1  # seconds between two lines of progress


@dataclass
class Looked:
    """A run of analyses; it grows, and a stopped one keeps what has finished.

    Args:
        asked: the question and the model, in words.
        facts: the same for the JSON file, and whether the answer stands behind the prompt.
        found: each finished analysis with its result.
    """

    prompt: Prompt
    asked: str
    facts: dict
    found: list[tuple[Analysis, object]] = field(default_factory=list)


def connect(models, model_line, chosen, shown, results):
    """Connect the view; its forms and results are kept with those of the other views."""
    events = beside.connect_run(
        shown.run,
        shown.place,
        _fetching(models, chosen, shown, results),
        [*chosen.inputs, *shown.inputs],
        _looking(models, model_line, shown, results),
        shown.result,
        _outputs(model_line, shown),
    )
    beside.connect_ends(shown.stop, shown.place, events)
    shown.names.change(_grouping(shown), shown.names, list(shown.groups.values()), **UNQUEUED)
    saves = shown.saves, {"json": _json_file, "html": _html_file}
    running.connect_saves(*saves, results.kept, shown.result, shown.payload)


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
            analyses = inside.chosen(names, dict(zip(shown.fields, typed, strict=True)))
            running.check_asked(models, form, scene, [])
            key = results.forms.put((form, scene, analyses, bool(answer)))
            yield from running.fetched(models, form, [], key)
        except Refused as error:  # the status line stays longer than the pop-up
            yield views.says(str(error)), run_state.REFUSED, None
            raise

    return on_inside_fetch


def _looking(models, model_line, shown, results):
    @plainly
    def on_inside(before, key):
        """Run the submitted form.

        Args:
            before: the key of the result on the page. key: of the form.
        """
        frame, ended = Frame(_outputs(model_line, shown)), run_state.REFUSED
        try:
            form, scene, analyses, answer = results.forms.take(key)
            for line in running.loading(models, form):
                frame.set(shown.place.status, line)
                yield frame.take()
            form = replace(form, methods=("none",), semantics="paper", fields={})
            job, ended = running.job_of(models, form, scene), run_state.FAILED
            results.kept.drop(before)
            frame.set(model_line, views.model_line(models, form.model))
            yield from _stream(job, analyses, answer, shown, frame, results)
        except Refused as error:
            frame.set(shown.place.status, views.says(str(error)))
            frame.set(shown.place.state, ended)
            yield frame.take()
            raise

    return on_inside


def _stream(job, analyses, answer: bool, shown, frame: Frame, results) -> Iterator[list]:
    """Each analysis appears as soon as it has finished, those of one run together."""
    title = job.models.titles[job.form.model]
    question = job.prompt.question
    facts = {"model": title, "question": question, "answer_too": answer}
    made = Looked(job.prompt, words.ASKED.format(question=question, model=title), facts)
    board = _Board(made, shown, frame, len(job.vlm.parts.layers))
    frame.set(shown.place.state, run_state.SHOWN)
    frame.set(shown.result, results.kept.put(made))
    frame.set(shown.intro, gr.update(visible=False))
    frame.set(shown.place.status, views.says(words.ENCODING, words.ENCODING))
    board.draw()
    yield frame.take()
    told, since = 0.0, time.monotonic()
    with closing(job.look(analyses, answer)) as events:
        for event in events:
            if not isinstance(event, Step):
                made.found.append(event)
            elif board.is_behind or time.monotonic() - told > PAUSE:
                told, left = time.monotonic(), analyses[min(len(made.found), len(analyses) - 1)]
                frame.set(shown.place.status, _status(event, left, told - since))
                board.draw()
                yield frame.take()
    board.draw()
    frame.set(shown.place.state, run_state.DONE)
    frame.set(shown.place.status, views.says(words.DONE, kind="done"))
    yield frame.take()


def _status(step: Step, left: Analysis, seconds: float) -> str:
    """The status line; a step of nothing is one of the picture's encoding."""
    line, stage = words.ENCODING, words.ENCODING
    if step.total:
        line = words.STEP.format(title=left.title, done=step.done, total=step.total)
        stage = words.LOOKING
    return views.says(line + views.ticked(seconds), stage)


class _Board:
    """What is drawn. Each result is drawn once, and a board is sent only if it holds more."""

    def __init__(self, made: Looked, shown, frame: Frame, layers: int):
        self.made, self.shown, self.frame, self.layers = made, shown, frame, layers
        self.drawn: list[dict] | None = None

    @property
    def is_behind(self) -> bool:
        return self.drawn is None or len(self.drawn) < len(self.made.found)

    def draw(self):
        if not self.is_behind:
            return
        self.drawn = self.drawn or []
        for event in self.made.found[len(self.drawn) :]:
            self.drawn.append(drawing.one(*event, self.made.prompt.sheets))
        value = drawing.board_value(self.drawn, self.made.asked, self.layers)
        self.frame.set(self.shown.board, value)
        for button in self.shown.saves.values():
            self.frame.set(button, gr.update(interactive=bool(self.drawn)))


def _outputs(model_line, shown) -> list:
    p = shown.place
    saves = shown.saves.values()
    return [p.status, p.state, shown.intro, shown.board, shown.result, model_line, *saves]


# -- files


def _check_found(made: Looked):
    if not made.found:
        raise Refused(text.NO_RESULT)


def _json_file(made: Looked) -> dict:
    _check_found(made)
    content = drawing.as_json(made.found, made.facts)
    return file_of("visipruner-inside.json", "application/json", content.encode())


def _html_file(made: Looked) -> dict:
    _check_found(made)
    page = drawing.as_html(made.found, made.prompt.sheets, made.asked)
    return file_of("visipruner-inside.html", "text/html", page.encode())
