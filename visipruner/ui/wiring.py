"""Which click causes what. Only `/compare` is public."""

from __future__ import annotations

import gradio as gr

from visipruner.inputs import open_picture
from visipruner.models.catalogue import MODELS
from visipruner.recorded.runs import Run
from visipruner.ui import (
    api,
    choosing,
    downloads,
    handlers,
    opening,
    run_state,
    running,
    share,
    teaching,
    text,
    views,
)
from visipruner.ui.page import MODEL_TURN, PRIVATE, SMALL, UNQUEUED, plainly
from visipruner.world import sources


def connect(page, models, model_line, chosen, results, tools, opened):
    """Connect all events of the page."""
    fetched, run = running.connect(models, model_line, chosen, results)
    long = [fetched, run, *_teaching(models, chosen, results, tools)]
    stop = _stopping(chosen, results, long)
    shown = opening.connect(model_line, chosen, results, opened, stop)
    chosen.reset.click(None, js="() => vp.reset()", **PRIVATE)
    choosing.connect(page, models, model_line, chosen, results, run)
    _saving(results)
    _sharing(chosen, tools, results, run, shown)
    gr.api(
        plainly(api.endpoint(models)),
        api_name="compare",
        concurrency_limit=1,
        concurrency_id="model",
    )


def _stopping(chosen, results, long: list) -> dict:
    """Connect Stop. Returns the event that stops what runs, for those that begin something else."""

    def on_stop(state):
        """Mark as stopped only what was running."""
        if state not in run_state.BUSY:
            return gr.skip(), gr.skip()
        return views.says(text.STOPPED), run_state.STOPPED

    stood = [results.status, results.state]
    stopped = {"fn": on_stop, "inputs": results.state, "outputs": stood, **PRIVATE}
    stop = {**stopped, "js": "(state) => vp.stop(state)", "cancels": long, "queue": False}
    pressed = chosen.stop.click(**stop)
    pressed.then(**stopped, show_progress="hidden", queue=False)  # after late updates
    return stop


# -- tools for teaching

PAUSE = 0.25  # seconds between two updates of a search, a sweep or a measurement


def _teaching(models, chosen, results, tools) -> list:
    c, r = chosen, results
    clocked = [r.medians, r.verdict, *r.cards, r.small, r.result]
    found = [tools.found, c.picture, c.scene, c.seed, c.question]
    begun = []
    tasks = [
        (tools.find, _finding(models, c), [c.seed, *c.inputs], found),
        (tools.sweep, _sweeping(models, c), c.inputs, [tools.table]),
        (r.measure, _measuring(r), [r.result], clocked),
    ]
    if tools.own:
        asked, own = [tools.place, *c.inputs], [*found, tools.place]
        tasks.append((tools.find_own, _finding_own(models, c, tools.own), asked, own))
    for button, answer, inputs, outputs in tasks:
        box = outputs[0]
        lit = f'vp.lesson("{box.elem_id}", "{run_state.SHOWN}", values)'
        ends = f'() => vp.lesson("{box.elem_id}", "{run_state.UNFINISHED}")'
        begins = f"(...values) => vp.rested({lit}, {ends})"
        event = button.click(
            answer, inputs, outputs, js=begins, show_progress_on=[box], **MODEL_TURN
        )
        event.failure(None, js=ends, **PRIVATE)
        begun.append(event)
    return begun


def _finding(models, chosen):
    @plainly
    def on_find(seed, *values):
        form, _ = chosen.read(values)
        for state in _paced(teaching.search(models, form, seed)):
            shown = teaching.search_html(state)
            yield shown, gr.skip(), gr.skip(), gr.skip(), gr.skip()
        # The next search goes on from the last scene, found or not.
        yield shown, sources.picture(state.seed), state.seed, state.seed, state.question

    return on_find


def _finding_own(models, chosen, own):
    @plainly
    def on_find_own(place, *values):
        form, _ = chosen.read(values)
        for state in _paced(teaching.search_own(models, form, own, place)):
            shown = teaching.search_html(state)
            yield shown, *[gr.skip()] * 5
        place = str(state.seed)  # the next search goes on from here
        if not state.found:
            yield shown, *[gr.skip()] * 4, place
            return
        yield shown, open_picture(state.line.picture), None, None, state.question, place

    return on_find_own


def _sweeping(models, chosen):
    @plainly
    def on_sweep(*values):
        job = running.job_of(models, *chosen.read(values))
        for state in _paced(teaching.sweep(job)):
            yield teaching.sweep_html(state, job)

    return on_sweep


def _measuring(results):
    @plainly
    def on_measure(key):
        result, shown = results.kept.find(key), [gr.skip()] * (3 + len(results.cards))
        opening.check_live(result)
        job, names = result.job, views.names_of_sides(result.comparison)
        yield teaching.rounds_html([[] for _ in names], names), *shown
        for samples in teaching.rounds(job):
            yield teaching.rounds_html(samples, names), *shown
        # The repeats improve the run's times, so everything that shows one is drawn again.
        comparison = result.comparison.clocked(samples)
        cards = views.cards(comparison, job.truth, len(results.cards))
        verdict = views.verdict(comparison, job.truth, views.asked(job))
        small = views.counters(comparison)
        results.kept.drop(key)
        measured = results.kept.put(downloads.Result(job, comparison))
        yield teaching.rounds_html(samples, names), verdict, *cards, small, measured

    return on_measure


def _paced(states):
    return handlers.paced(states, lambda _: PAUSE)


# -- saving and sharing


def _saving(results):
    makers = {
        "png": downloads.png_file,
        "json": downloads.json_file,
        "html": downloads.html_file,
    }
    saves = results.saves, makers
    running.connect_saves(*saves, results.kept, results.result, results.payload)


def _sharing(chosen, tools, results, run, opened):
    @plainly
    def on_repeat(key, *values):
        """The code for the last run, even if the form has changed since."""
        found = results.kept.find(key) if key else None
        if isinstance(found, Run):
            return opening.repeated()
        job = found.job if found else None
        form, scene = (job.form, job.scene) if job else chosen.read(values)
        local = form.model not in MODELS
        return (
            share.query(form, scene),
            share.python(form, scene, local),
            share.command_line(form, scene, local),
            share.client(form, local),
        )

    outputs = [tools.link, tools.python, tools.command, tools.client]
    here = [tools.link, tools.client]  # what names this page's address
    # Before a run the form may be wrong, and what is wrong is said by the queue alone.
    ends = (run.success, UNQUEUED), (opened.success, UNQUEUED)
    for event, how in ((tools.repeat.expand, SMALL), *ends):
        shown = event(on_repeat, [results.result, *chosen.inputs], outputs, **how)
        shown.success(None, here, here, js="(...words) => vp.here(...words)", **PRIVATE)
    tools.copy.click(None, tools.link, None, js="(link) => vp.copy(link)", **PRIVATE)
