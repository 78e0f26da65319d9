"""One run on the page: which part changes when, from Run to the last plot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import gradio as gr

from visipruner.errors import Refused
from visipruner.inputs import open_picture
from visipruner.render import charts
from visipruner.render.values import viewer_live, viewer_start, viewer_value
from visipruner.render.words import (
    describe_all,
    describe_flops,
    describe_influence,
    describe_tokens,
)
from visipruner.ui import fields, handlers, run_state, text, views
from visipruner.ui.downloads import Result
from visipruner.ui.handlers import Form, Job, Progress
from visipruner.ui.page import MODEL_TURN, PRIVATE, UNQUEUED, plainly
from visipruner.world import sources


class Frame:
    """One yield of a run: only the parts that are set change."""

    def __init__(self, outputs: list):
        self.outputs = outputs
        self.values: dict = {}

    def set(self, component, value):
        self.values[component] = value

    def take(self) -> list:
        values = [self.values.get(component, gr.skip()) for component in self.outputs]
        self.values = {}
        return values


class Showing:
    """Everything that one run shows, during the run and afterwards."""

    def __init__(self, models, model_line, chosen, results):
        self.models, self.model_line = models, model_line
        self.chosen, self.results = chosen, results
        self.frame = Frame(outputs_of(model_line, chosen, results))

    def stream(self, job: Job):
        frame, results = self.frame, self.results
        layers = job.vlm.model.config.get_text_config().num_hidden_layers
        start, asked = viewer_start(job.prompt, layers), views.asked(job)
        self._open(job, start, asked)
        shown, names = None, views.names(job.names)
        for progress in handlers.follow(job):
            frame.set(results.status, views.status(progress))
            for side, card in zip(range(len(job.methods)), results.cards, strict=False):
                frame.set(card, views.column(progress, side, job.truth))
            stage = _stage(progress)
            if stage and stage != shown and not progress.probed:
                shown = stage
                records, name = progress.sides[stage[0]].records, names[stage[0]]
                frame.set(results.viewer, viewer_live(start, records, name))
            if progress.comparison:
                self._end(job, progress.comparison, start, asked)
            yield frame.take()
        yield self._drawn(progress.comparison)

    def _open(self, job: Job, start: dict, asked: str):
        frame, results = self.frame, self.results
        frame.set(results.state, run_state.SHOWN)
        frame.set(results.notes, views.notes(job.notes))
        frame.set(results.intro, gr.update(visible=False))
        frame.set(results.body, gr.update(visible=True))
        frame.set(results.charts, gr.update(visible=False))
        frame.set(results.verdict, views.verdict_waits(asked))
        frame.set(results.viewer, start)
        for card in results.cards[len(job.methods) :]:
            frame.set(card, "")
        frame.set(results.small, "")
        frame.set(results.medians, "")
        frame.set(results.result, None)
        for button in buttons_of(results):
            frame.set(button, gr.update(interactive=False))
        frame.set(self.model_line, views.model_line(self.models, job.form.model))
        frame.set(self.chosen.advanced.prompt, job.prompt.text)

    def _end(self, job: Job, comparison, start: dict, asked: str):
        frame, results = self.frame, self.results
        result = Result(job, replace(comparison, words=job.form.methods))
        frame.set(results.state, run_state.DONE)
        frame.set(results.verdict, views.verdict(comparison, job.truth, asked))
        story = viewer_value(views.named(comparison), start, result.stays)
        frame.set(results.viewer, story)
        frame.set(results.small, views.counters(comparison))
        frame.set(results.result, results.kept.put(result))
        for button in buttons_of(results):
            frame.set(button, gr.update(interactive=True))

    def _drawn(self, comparison) -> list:
        """The plots come last, because only they take time to draw."""
        set_charts(self.frame, self.results, views.named(comparison))
        return self.frame.take()


def set_charts(frame: Frame, results, comparison):
    """Draw the charts and what they say to screen readers."""
    frame.set(results.charts, gr.update(visible=True))
    drawings = (charts.tokens_chart, charts.flops_chart, charts.influence_chart)
    sentences = (describe_tokens, describe_flops, describe_influence)
    for plot, told, draw, describe in zip(
        results.plots, results.told, drawings, sentences, strict=True
    ):
        frame.set(plot, draw(comparison))
        frame.set(told, views.told(describe_all(describe, comparison)))


def outputs_of(model_line, chosen, results) -> list:
    r = results
    return [
        r.status, r.state, r.notes, r.intro, r.body, r.verdict, *r.cards, r.viewer,
        r.charts, *r.plots, *r.told, r.small, r.medians, r.result, model_line,
        chosen.advanced.prompt, *buttons_of(r),
    ]  # fmt: skip


def buttons_of(results) -> list:
    """The buttons that work on a finished result."""
    return [results.measure, *results.saves.values()]


def _stage(progress: Progress) -> tuple:
    """(side, stage, visual tokens) for the viewer's picture: the baseline keeps all patches."""
    records = progress.sides[progress.now].records
    if not progress.now or not records:
        return ()
    return progress.now, records[-1].stage, records[-1].visual_tokens


def job_of(models, form: Form, scene: int | dict | None) -> Job:
    """Turn the page's form into a job; decode its picture or draw its scene.

    Raises:
        Refused: one sentence in the page's words.
    """
    known = None
    if scene is not None:
        form = replace(form, picture=sources.picture(scene))
        known = sources.truth(scene, form.question)
    try:
        return handlers.check(models, form, known, scene)
    except Refused as error:
        raise Refused(fields.in_words(str(error), form.sides[1:], form.fields)) from None


# -- events


def _fetching(models, chosen, results):
    @plainly
    def on_fetch(*values):
        """Read the form, and download the model if necessary; Stop cancels it.

        Other visitors can run their models meanwhile.
        """
        try:
            form, scene = chosen.read(values)
            check_asked(models, form, scene, form.kinds)
            yield from fetched(models, form, form.kinds, results.forms.put((form, scene)))
        except Refused as error:  # the status line stays longer than the pop-up
            yield views.says(str(error)), run_state.REFUSED, None
            raise

    return on_fetch


def check_asked(models, form: Form, scene, kinds):
    """Check what costs nothing to check, before anything is downloaded.

    Args:
        kinds: the methods that will run.
    """
    handlers.check_input(form, scene)
    if scene is None and models.is_missing(form.model, kinds):
        open_picture(form.picture)  # a broken picture must not cost a long download


def fetched(models, form: Form, kinds, key: str) -> Iterator[tuple]:
    """Download what is missing; yields the status line, the run's state and the form's key."""
    yield views.says(text.WAITING, "waiting"), run_state.WAITING, key
    with closing(models.fetch(form.model, form.precision, kinds)) as sentences:
        for sentence in sentences:
            yield views.says(sentence, text.FETCHING), gr.skip(), gr.skip()


def loading(models, form: Form) -> Iterator[str]:
    """Load the form's model; yields the status line, with the seconds that it takes."""
    for seconds in models.load(form.model, form.backend, form.precision):
        yield views.says(text.LOADING + views.ticked(seconds), text.LOADING)


def _answering(models, model_line, chosen, results):
    @plainly
    def on_run(before, key):
        """Run the submitted form.

        Args:
            before: the key of the result on the page: a visit has at most one.
            key: the key of the form.
        """
        showing, ended = Showing(models, model_line, chosen, results), run_state.REFUSED
        frame = showing.frame
        try:
            form, scene = results.forms.take(key)
            for line in loading(models, form):
                frame.set(results.status, line)
                yield frame.take()
            job, ended = job_of(models, form, scene), run_state.FAILED
            results.kept.drop(before)
            yield from showing.stream(job)
        except Refused as error:
            frame.set(results.status, views.says(str(error)))
            frame.set(results.state, ended)
            yield frame.take()
            raise

    return on_run


@plainly
def on_unfinished(state):
    """Handle a run that ended early; page.js says whether the visitor stopped it."""
    if state == run_state.STOPPED:
        return views.says(text.STOPPED), state
    if state in run_state.BUSY:
        return views.says(text.UNFINISHED), run_state.UNFINISHED
    return gr.skip(), gr.skip()  # the status line says why


def connect(models, model_line, chosen, results) -> tuple:
    """Connect the events of a run, one after the other."""
    stood = [results.status, results.state]
    fetched = gr.on(
        [chosen.run.click, chosen.question.submit],
        _fetching(models, chosen, results),
        chosen.inputs,
        [*stood, results.asked],
        js="(...values) => { vp.started(values); return vp.rested(values); }",
        concurrency_limit=None,
        **PRIVATE,
    )
    run = fetched.success(
        _answering(models, model_line, chosen, results),
        [results.result, results.asked],
        outputs_of(model_line, chosen, results),
        js="(...values) => vp.goesOn(values)",
        show_progress_on=[results.status],
        **MODEL_TURN,
    )
    for event in (fetched, run):
        event.failure(
            on_unfinished, results.state, stood, js="(state) => vp.unfinished(state)", **UNQUEUED
        )
    mirror = "(state) => vp.state(state)"
    results.state.change(None, results.state, None, js=mirror, **PRIVATE)
    form = "(...values) => vp.changed(values)"
    changes = [component.change for component in chosen.inputs if hasattr(component, "change")]
    gr.on(changes, None, chosen.inputs, None, js=form, **PRIVATE)
    return fetched, run


def connect_saves(buttons, makers, kept, result, payload):
    """Connect the buttons that save a kept result.

    Args:
        buttons, makers: by the kind of file; a maker turns a result into a file for page.js.
        kept: the results by key. result, payload: where the key is, and where a file goes.
    """

    def saving(maker):
        @plainly
        def on_save(key):
            return maker(kept.find(key))

        return on_save

    for kind, button in buttons.items():
        click = {"inputs": result, "outputs": payload, "show_progress": "hidden"}
        made = button.click(saving(makers[kind]), **click, **PRIVATE)
        made.success(None, payload, None, js="(file) => vp.save(file)", **PRIVATE)
