"""One run on the page: which part changes when, from Run to the last plot."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import gradio as gr

from visipruner.errors import Refused
from visipruner.render import charts
from visipruner.render.viewer import viewer_live, viewer_start, viewer_value
from visipruner.ui import controls, fields, handlers, text, views
from visipruner.ui.downloads import Result
from visipruner.ui.handlers import FULL, PRUNED, Job, Progress
from visipruner.ui.page import MODEL_TURN, PRIVATE, UNQUEUED, plainly
from visipruner.world import sources


def _run_outputs(model_line, chosen, results) -> list:
    r = results
    return [
        r.status, r.notes, r.intro, r.body, r.verdict, r.full, r.pruned, r.viewer,
        r.charts, *r.plots, *r.told, r.small, r.medians, r.result, model_line,
        chosen.advanced.prompt, *_buttons(r),
    ]  # fmt: skip


def _buttons(results) -> list:
    """What can be done with a finished result."""
    return [results.measure, *results.saves.values()]


class Frame:
    """One yield of a run: everything is skipped but what is set."""

    def __init__(self, outputs: list):
        self.outputs = outputs
        self.values: dict = {}

    def set(self, component, value):
        self.values[component] = value

    def take(self) -> list:
        values = [self.values.get(component, gr.skip()) for component in self.outputs]
        self.values = {}
        return values


def stream(models, model_line, chosen, results, job: Job):
    """Everything that a run shows, while it runs and when it is done."""
    frame = Frame(_run_outputs(model_line, chosen, results))
    layers = job.vlm.model.config.get_text_config().num_hidden_layers
    start = viewer_start(job.prompt, layers)
    asked = views.asked(job)
    _open(frame, models, model_line, chosen, results, job, start, asked)
    shown = None
    for progress in handlers.follow(job):
        frame.set(results.status, views.status(progress))
        frame.set(results.full, views.column(progress, FULL, job.truth))
        frame.set(results.pruned, views.column(progress, PRUNED, job.truth))
        stage = _stage(progress)
        if stage != shown and progress.sides[PRUNED].records and not progress.probed:
            shown = stage
            records, name = progress.sides[PRUNED].records, views.names(progress.method)[PRUNED]
            frame.set(results.viewer, viewer_live(start, records, name))
        if progress.comparison:
            frame.set(results.verdict, views.verdict(progress.comparison, job.truth, asked))
            result = Result(job, progress.comparison)
            story = viewer_value(progress.comparison, start=start)
            frame.set(results.viewer, {**story, "note": result.stays})
            frame.set(results.small, views.counters(progress.comparison))
            frame.set(results.result, results.kept.put(result))
            for button in _buttons(results):
                frame.set(button, gr.update(interactive=True))
        yield frame.take()
    yield _drawn(frame, results, progress.comparison)


def _open(frame, models, model_line, chosen, results, job, start, asked):
    frame.set(results.notes, views.notes(job.notes))
    frame.set(results.intro, gr.update(visible=False))
    frame.set(results.body, gr.update(visible=True))
    frame.set(results.charts, gr.update(visible=False))
    frame.set(results.verdict, views.verdict_waits(text.VERDICT_WAITS, asked))
    frame.set(results.viewer, start)
    frame.set(results.small, "")
    frame.set(results.medians, "")
    frame.set(results.result, None)
    for button in _buttons(results):
        frame.set(button, gr.update(interactive=False))
    frame.set(model_line, views.model_line(models, job.form.model))
    frame.set(chosen.advanced.prompt, job.prompt.text)


def _stage(progress: Progress) -> tuple:
    records = progress.sides[PRUNED].records
    return (records[-1].stage, records[-1].visual_tokens) if records else ()


def _drawn(frame, results, comparison) -> list:
    """The plots come last: they are the only thing that takes time to draw."""
    frame.set(results.charts, gr.update(visible=True))
    drawings = (charts.tokens_chart, charts.flops_chart, charts.influence_chart)
    words = (charts.describe_tokens, charts.describe_flops, charts.describe_influence)
    for plot, told, draw, describe in zip(
        results.plots, results.told, drawings, words, strict=True
    ):
        frame.set(plot, draw(comparison))
        frame.set(told, views.told(describe(comparison)))
    return frame.take()


def job_of(models, values) -> Job:
    form, scene = controls.form(values)
    known = None
    if scene is not None:
        form = replace(form, picture=sources.picture(scene))
        known = sources.truth(scene, form.question)
    try:
        return handlers.check(models, form, known, scene)
    except Refused as error:
        raise Refused(fields.in_words(str(error), form.method, form.fields)) from None


def connect(models, model_line, chosen, results) -> tuple:
    """The events of a run, one after the other."""
    outputs = _run_outputs(model_line, chosen, results)

    @plainly
    def on_fetch(*values):
        """Download a model if need be; Stop ends it. Others go on asking theirs meanwhile."""
        try:
            form, scene = controls.form(values)
            handlers.check_input(form, scene)
            yield views.says(text.WAITING, "waiting")
            with closing(models.fetch(form.model, form.precision)) as sentences:
                for sentence in sentences:
                    yield views.says(sentence, text.FETCHING)
        except Refused as error:
            yield views.says(str(error))  # lasts longer than the message that comes with it
            raise

    @plainly
    def on_run(key, *values):
        form, _ = controls.form(values)
        frame = Frame(outputs)
        if not models.is_ready(form.model, form.backend, form.precision):
            frame.set(results.status, views.says(text.LOADING, text.LOADING))
            yield frame.take()
        try:
            job = job_of(models, values)
            results.kept.drop(key)  # a visit has one result at most
            yield from stream(models, model_line, chosen, results, job)
        except Refused as error:
            frame.set(results.status, views.says(str(error)))
            yield frame.take()
            raise

    fetched = gr.on(
        [chosen.run.click, chosen.question.submit],
        on_fetch,
        chosen.inputs,
        results.status,
        js="(...values) => { vp.started(values); return values; }",
        concurrency_limit=None,
        **PRIVATE,
    )
    run = fetched.success(
        on_run,
        [results.result, *chosen.inputs],
        outputs,
        show_progress_on=[results.status],
        **MODEL_TURN,
    )

    @plainly
    def on_unfinished(key, status, verdict, *cards):
        """Stopped, or failed: nothing may go on promising an answer."""
        status = status or ""  # before anything was said, the page sends nothing
        stopped = status == text.STOPPED
        said = views.says(text.STOPPED if stopped else text.UNFINISHED)
        if status and not stopped and not views.is_busy(status):
            said = gr.skip()  # refused, and it says why
        if key:  # of the run before, and still on the page
            return said, *[gr.skip()] * 3
        words = text.STOPPED_CARD if stopped else text.UNFINISHED_CARD
        return said, views.verdict_stopped(verdict), *(views.card_stopped(c, words) for c in cards)

    words = f"{text.STOPPED!r}, {text.VERDICT_WAITS!r}"
    shown = [results.verdict, results.full, results.pruned]
    for event in (fetched, run):
        event.failure(
            on_unfinished,
            [results.result, results.status, *shown],
            [results.status, *shown],
            js=f"(...given) => vp.unfinished({words}, ...given)",
            **UNQUEUED,
        )
    form = "(...values) => vp.changed(values)"
    changes = [component.change for component in chosen.inputs if hasattr(component, "change")]
    gr.on(changes, None, chosen.inputs, None, js=form, **PRIVATE)
    return fetched, run
