"""What happens on which click. Every event is private but `/compare`."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace

import gradio as gr

from visipruner.levels import PRESETS
from visipruner.methods import METHODS
from visipruner.models import MODELS
from visipruner.render import charts
from visipruner.render.viewer import viewer_live, viewer_start, viewer_value
from visipruner.ui import (
    api,
    controls,
    downloads,
    examples,
    fields,
    handlers,
    scenes,
    share,
    teaching,
    text,
    views,
)
from visipruner.ui.downloads import Result
from visipruner.ui.handlers import FULL, PRUNED, Job, Progress
from visipruner.ui.page import plainly

PRIVATE = {"api_visibility": "private"}
MODEL_TURN = {**PRIVATE, "concurrency_limit": 1, "concurrency_id": "model"}
SMALL = {**PRIVATE, "show_progress": "hidden", "concurrency_limit": None}


def connect(page, models, model_line, chosen, results, lesson):
    """All events of the page."""
    run = _running(models, model_line, chosen, results)
    long = [run, *_lessons(models, chosen, results, lesson, run)]
    chosen.stop.click(
        lambda: views.says(text.STOPPED), None, results.status, cancels=long, **PRIVATE
    )
    chosen.reset.click(None, js="() => vp.reset()", **PRIVATE)
    _choosing(page, models, model_line, chosen, results)
    _saving(results)
    _sharing(models, chosen, lesson)
    gr.api(
        plainly(api.endpoint(models)),
        api_name="compare",
        concurrency_limit=1,
        concurrency_id="model",
    )


# -- running


def _run_outputs(model_line, chosen, results) -> list:
    r = results
    return [
        r.status, r.notes, r.intro, r.body, r.verdict, r.full, r.pruned, r.viewer,
        r.charts, *r.plots, *r.told, r.small, r.medians, r.result, model_line, chosen.advanced.prompt,
    ]  # fmt: skip


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
    _open(frame, models, model_line, chosen, results, job, start)
    shown = None
    for progress in handlers.follow(job):
        frame.set(results.status, views.status(progress))
        frame.set(results.full, views.column(progress, FULL, job.truth))
        frame.set(results.pruned, views.column(progress, PRUNED, job.truth))
        stage = _stage(progress)
        if stage != shown and progress.sides[PRUNED].records and not progress.probed:
            shown = stage
            records = progress.sides[PRUNED].records
            frame.set(results.viewer, viewer_live(start, records, text.PRUNED))
        if progress.comparison:
            frame.set(results.verdict, views.verdict(progress.comparison, job.truth))
            frame.set(results.viewer, viewer_value(progress.comparison))
            frame.set(results.small, views.counters(progress.comparison))
            frame.set(results.result, Result(job, progress.comparison))
        yield frame.take()
    yield _drawn(frame, results, progress.comparison)


def _open(frame, models, model_line, chosen, results, job, start):
    frame.set(results.notes, views.notes(job.notes))
    frame.set(results.intro, gr.update(visible=False))
    frame.set(results.body, gr.update(visible=True))
    frame.set(results.charts, gr.update(visible=False))
    frame.set(results.verdict, views.verdict_waits())
    frame.set(results.viewer, start)
    frame.set(results.small, "")
    frame.set(results.medians, "")
    frame.set(results.result, None)
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
    for plot, told, draw, describe in zip(results.plots, results.told, drawings, words):
        frame.set(plot, draw(comparison))
        frame.set(told, views.told(describe(comparison)))
    return frame.take()


def _job(models, values) -> Job:
    form, scene = controls.form(values)
    known = None
    if scene is not None:
        form = replace(form, picture=scenes.picture(scene))
        known = scenes.truth(scene, form.question)
    return handlers.check(models, form, known)


def _made_ready(models, outputs, results, values):
    """Say so while a model is downloaded and loaded; Stop ends the download."""
    frame, (form, _) = Frame(outputs), controls.form(values)
    with closing(models.fetch(form.model, form.precision)) as sentences:
        for sentence in sentences:
            frame.set(results.status, views.says(sentence, text.FETCHING))
            yield frame.take()
    if not models.is_loaded(form.model):
        frame.set(results.status, views.says(text.LOADING, text.LOADING))
        yield frame.take()


def _running(models, model_line, chosen, results):
    @plainly
    def on_run(*values):
        yield from _made_ready(models, _run_outputs(model_line, chosen, results), results, values)
        yield from stream(models, model_line, chosen, results, _job(models, values))

    return gr.on(
        [chosen.run.click, chosen.question.submit],
        on_run,
        chosen.inputs,
        _run_outputs(model_line, chosen, results),
        js="(...values) => { vp.started(); return values; }",
        show_progress_on=[results.status],
        **MODEL_TURN,
    )


# -- lessons


def _lessons(models, chosen, results, lesson, run) -> list:
    @plainly
    def on_find(seed, *values):
        form, _ = controls.form(values)
        for state in _throttled(teaching.search(models, form, seed)):
            shown = teaching.search_html(state)
            if not state.found:
                yield shown, gr.skip(), gr.skip(), gr.skip(), gr.skip()
        if state.found:
            yield shown, scenes.picture(state.seed), state.seed, state.seed, state.question

    @plainly
    def on_sweep(*values):
        job = _job(models, values)
        for state in _throttled(teaching.sweep(job)):
            yield teaching.sweep_html(state, job)

    @plainly
    def on_measure(result):
        job = downloads.there(result).job
        yield f"<p>{text.MEASURING}</p>"
        for samples in teaching.rounds(job):
            yield teaching.rounds_html(samples)

    c = chosen
    find = lesson.find.click(
        on_find,
        [c.seed, *c.inputs],
        [lesson.found, c.picture, c.scene, c.seed, c.question],
        show_progress_on=[lesson.found],
        **MODEL_TURN,
    )
    sweep = lesson.sweep.click(on_sweep, c.inputs, lesson.table, **MODEL_TURN)
    measure = results.measure.click(on_measure, results.result, results.medians, **MODEL_TURN)
    return [find, sweep, measure]


def _throttled(states, pause: float = 0.25):
    """The states that are worth drawing: a few per second, and always the last."""
    drawn = 0.0
    for state in states:
        if time.monotonic() - drawn >= pause:
            yield state
            drawn = time.monotonic()
    yield state


# -- choosing


def _choosing(page, models, model_line, chosen, results):
    c = chosen
    scene_parts = [c.picture, c.scene, c.seed, c.question]

    @plainly
    def on_example(event: gr.EventData):
        seed, question = examples.chosen()[int(event.number)]
        return scenes.picture(seed), seed, seed, question

    @plainly
    def on_seed(seed):
        return scenes.picture(seed), int(seed), int(seed), scenes.questions(seed)[0].text

    @plainly
    def on_new(seed):
        return on_seed((seed or 0) + 1)

    @plainly
    def on_another(scene, question):
        if scene is None:
            raise ValueError(text.NO_SCENE)
        return scenes.next_question(scene, question).text

    @plainly
    def on_load(request: gr.Request):
        found, notes = share.read(dict(request.query_params), models)
        seed, question = examples.chosen()[0]
        if "seed" in found:
            seed = found["seed"]
            question = scenes.questions(seed)[0].text
        level = found.get("level", PRESETS["balanced"])
        name = next((name for name, value in PRESETS.items() if value == level), None)
        model = found.get("model", models.default)
        return [
            scenes.picture(seed), seed, seed, found.get("question", question), model,
            found.get("method", "visipruner"), level, name, found.get("semantics", "paper"),
            views.notes(notes), views.model_line(models, model),
        ]  # fmt: skip

    c.examples.select(on_example, None, scene_parts, **SMALL)
    c.new_scene.click(on_new, c.seed, scene_parts, **SMALL)
    c.seed.submit(on_seed, c.seed, scene_parts, **SMALL)
    c.another.click(on_another, [c.scene, c.question], c.question, **SMALL)
    gr.on([c.picture.upload, c.picture.clear], lambda: None, None, c.scene, **SMALL)
    page.load(
        on_load,
        None,
        [*scene_parts, c.model, c.method, c.level, c.preset, c.advanced.semantics]
        + [results.notes, model_line],
        **SMALL,
    )
    _levels(c)
    _fields(models, c)


def _levels(c):
    """Presets and slider follow each other in the browser, without asking the server."""
    by_name = ", ".join(f"{name}: {value}" for name, value in PRESETS.items())
    c.preset.input(None, c.preset, c.level, js=f"(name) => ({{{by_name}}})[name]", **PRIVATE)
    js = f"(v) => Object.entries({{{by_name}}}).find((e) => e[1] === v)?.[0] ?? null"
    c.level.input(None, c.level, c.preset, js=js, **PRIVATE)


def _fields(models, c):
    """Advanced shows the fields of the chosen method, and what the level says for each."""

    @plainly
    def on_choice(model, method, level, semantics):
        groups = [gr.update(visible=name == method) for name in METHODS]
        hints = {}
        if models.is_loaded(model):
            hints = fields.hints(models.get(model), method, level, semantics)
        # Dropdowns have no placeholder, so their first choice says "from level".
        boxes = [
            gr.update(placeholder=hints[name])
            if owner == method and name in hints and name not in fields.CHOICES
            else gr.skip()
            for owner, name in fields.ALL
        ]
        return [*groups, *boxes]

    triggers = [c.method.change, c.level.release, c.preset.input, c.advanced.semantics.input]
    gr.on(
        triggers,
        on_choice,
        [c.model, c.method, c.level, c.advanced.semantics],
        [*c.advanced.groups, *c.advanced.fields],
        **SMALL,
    )


# -- saving and sharing


def _saving(results):
    makers = {
        "png": downloads.png_file,
        "json": downloads.json_file,
        "html": downloads.html_file,
    }
    for kind, button in results.saves.items():
        made = button.click(
            plainly(makers[kind]), results.result, results.payload, **PRIVATE, show_progress="hidden"
        )
        made.success(None, results.payload, None, js="(file) => vp.save(file)", **PRIVATE)


def _sharing(models, chosen, lesson):
    @plainly
    def on_repeat(*values):
        form, scene = controls.form(values)
        local = form.model not in MODELS
        return (
            share.query(form, scene),
            share.python(form, scene, local),
            share.command_line(form, local),
        )

    outputs = [lesson.link, lesson.python, lesson.command]
    shown = gr.on(
        [lesson.repeat.expand, chosen.run.click], on_repeat, chosen.inputs, outputs, **SMALL
    )
    shown.success(None, lesson.link, lesson.link, js="(query) => vp.link(query)", **PRIVATE)
    lesson.copy.click(None, lesson.link, None, js="(link) => vp.copy(link)", **PRIVATE)


__all__ = ["connect", "stream"]
