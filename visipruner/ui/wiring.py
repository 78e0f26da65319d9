"""What happens on which click. Every event is private but `/compare`."""

from __future__ import annotations

import time

import gradio as gr

from visipruner.models.catalogue import MODELS
from visipruner.ui import (
    api,
    choosing,
    controls,
    downloads,
    running,
    share,
    teaching,
    text,
    views,
)
from visipruner.ui.page import MODEL_TURN, PRIVATE, SMALL, UNQUEUED, plainly
from visipruner.world import sources


def connect(page, models, model_line, chosen, results, lesson):
    """All events of the page."""
    fetched, run = running.connect(models, model_line, chosen, results)
    long = [fetched, run, *_lessons(models, chosen, results, lesson)]

    def on_stop(status):
        """Only what was busy is stopped."""
        return views.says(text.STOPPED) if views.is_busy(status or "") else gr.skip()

    stopped = {"fn": on_stop, "inputs": results.status, "outputs": results.status, **PRIVATE}
    pressed = chosen.stop.click(
        **stopped, js="(status) => vp.stop(status)", cancels=long, queue=False
    )
    pressed.then(**stopped, show_progress="hidden", queue=False)  # over what was still on its way
    chosen.reset.click(None, js="() => vp.reset()", **PRIVATE)
    choosing.connect(page, models, model_line, chosen, results, run)
    _saving(results)
    _sharing(chosen, lesson, results, run)
    gr.api(
        plainly(api.endpoint(models)),
        api_name="compare",
        concurrency_limit=1,
        concurrency_id="model",
    )


# -- lessons


def _lessons(models, chosen, results, lesson) -> list:
    @plainly
    def on_find(seed, *values):
        form, _ = controls.form(values)
        for state in _throttled(teaching.search(models, form, seed)):
            shown = teaching.search_html(state)
            yield shown, gr.skip(), gr.skip(), gr.skip(), gr.skip()
        # Found or not: the next search goes on from the last scene.
        yield shown, sources.picture(state.seed), state.seed, state.seed, state.question

    @plainly
    def on_sweep(*values):
        job = running.job_of(models, values)
        for state in _throttled(teaching.sweep(job)):
            yield teaching.sweep_html(state, job)

    @plainly
    def on_measure(key):
        result, shown = results.kept.find(key), [gr.skip()] * 5
        job = result.job
        method = job.methods[-1].name
        yield teaching.rounds_html([[], []], method), *shown
        for samples in teaching.rounds(job):
            yield teaching.rounds_html(samples, method), *shown
        # Better clocks than those of the run: everything that names one is drawn anew.
        comparison = result.comparison.clocked(samples)
        cards = [
            views.card(answer, side, name, job.truth)
            for side, (answer, name) in enumerate(
                zip(comparison.answers, views.names(method), strict=True)
            )
        ]
        verdict = views.verdict(comparison, job.truth, views.asked(job))
        small = views.counters(comparison)
        results.kept.drop(key)
        measured = results.kept.put(downloads.Result(job, comparison))
        yield teaching.rounds_html(samples, method), verdict, *cards, small, measured

    c = chosen
    find = lesson.find.click(
        on_find,
        [c.seed, *c.inputs],
        [lesson.found, c.picture, c.scene, c.seed, c.question],
        show_progress_on=[lesson.found],
        **MODEL_TURN,
    )
    sweep = lesson.sweep.click(on_sweep, c.inputs, lesson.table, **MODEL_TURN)
    r = results
    clocked = [r.medians, r.verdict, r.full, r.pruned, r.small, r.result]
    measure = r.measure.click(
        on_measure, r.result, clocked, show_progress_on=[r.medians], **MODEL_TURN
    )
    ends = plainly(teaching.ended)
    for event, box in ((find, lesson.found), (sweep, lesson.table), (measure, results.medians)):
        event.failure(ends, box, box, **UNQUEUED)
    return [find, sweep, measure]


def _throttled(states, pause: float = 0.25):
    """The states that are worth drawing: a few per second, and always the last."""
    drawn = 0.0
    for state in states:
        if time.monotonic() - drawn >= pause:
            yield state
            drawn = time.monotonic()
    yield state


# -- saving and sharing


def _saving(results):
    makers = {
        "png": downloads.png_file,
        "json": downloads.json_file,
        "html": downloads.html_file,
    }

    def saving(maker):
        @plainly
        def on_save(key):
            return maker(results.kept.find(key))

        return on_save

    for kind, button in results.saves.items():
        made = button.click(
            saving(makers[kind]),
            results.result,
            results.payload,
            **PRIVATE,
            show_progress="hidden",
        )
        made.success(None, results.payload, None, js="(file) => vp.save(file)", **PRIVATE)


def _sharing(chosen, lesson, results, run):
    @plainly
    def on_repeat(key, *values):
        """What the last run did, whatever the form shows by now."""
        job = results.kept.find(key).job if key else None
        form, scene = (job.form, job.scene) if job else controls.form(values)
        local = form.model not in MODELS
        return (
            share.query(form, scene),
            share.python(form, scene, local),
            share.command_line(form, scene, local),
        )

    outputs = [lesson.link, lesson.python, lesson.command]
    # Before a run the form may be wrong, and what is wrong is said by the queue alone.
    for event, how in ((lesson.repeat.expand, SMALL), (run.success, UNQUEUED)):
        shown = event(on_repeat, [results.result, *chosen.inputs], outputs, **how)
        shown.success(None, lesson.link, lesson.link, js="(query) => vp.link(query)", **PRIVATE)
    lesson.copy.click(None, lesson.link, None, js="(link) => vp.copy(link)", **PRIVATE)
