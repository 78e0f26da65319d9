"""Events of the form: examples, scenes, links, and settings that change together."""

from __future__ import annotations

import json

import gradio as gr

from visipruner.choice import names_of
from visipruner.errors import Refused
from visipruner.inputs import check_choice, open_picture
from visipruner.levels import PRESETS
from visipruner.methods import METHODS
from visipruner.models.catalogue import MODELS, drawn
from visipruner.ui import about, examples, fields, share, text, views
from visipruner.ui.page import PRIVATE, SMALL, UNQUEUED, as_written, plainly
from visipruner.world import sources
from visipruner.world.composed import composer_value
from visipruner.world.phrases import LLAVA_SHORT, SHORT


def connect(page, models, model_line, chosen, results, run):
    c = chosen
    shown = [*_scenes(c), _composing(c)]
    _pictures(c)
    filled = [c.model, c.method, c.others, c.level, c.preset, c.advanced.semantics]
    told = [results.notes, model_line, c.model_about]
    loaded = page.load(_loading(models), None, [*_scene_parts(c), *filled, *told], **UNQUEUED)

    @plainly
    def on_model(name):
        check_choice("model", name, models.paths)
        return views.model_line(models, name), about.of_model(models, name)

    # Not `input`: a lesson or a point of the curve may choose the model, too.
    c.model.change(on_model, c.model, [model_line, c.model_about], **UNQUEUED)

    @plainly
    def on_done(name):
        """The run has downloaded and loaded its model, and the menu shows that."""
        check_choice("model", name, models.paths)
        return gr.update(choices=models.choices), about.of_model(models, name)

    run.success(on_done, c.model, [c.model, c.model_about], **UNQUEUED)
    _levels(c)
    _one_word(c, shown)
    _fields(loaded, run, models, c)


# -- the picture and its question


def _scene_parts(c) -> list:
    """The components that change with the scene."""
    return [c.picture, c.scene, c.seed, c.question]


def numbered_scene(seed, question) -> tuple:
    asked = sources.first_question(seed, question)
    return sources.picture(seed), int(seed), int(seed), asked


@plainly
def on_example(event: gr.EventData):
    data = event._data if isinstance(event._data, dict) else {}
    known = examples.chosen()
    number = data.get("number")
    if not isinstance(number, int | str) or str(number) not in map(str, range(len(known))):
        raise Refused(text.NO_EXAMPLE)
    seed, question = known[int(number)]
    return sources.picture(seed), seed, seed, question


@plainly
def on_seed(seed, question, scene):
    try:
        return numbered_scene(seed, question)
    except Refused as error:
        gr.Warning(as_written(str(error)), duration=12)
        # The box shows which scene the picture is.
        return gr.skip(), gr.skip(), scene if isinstance(scene, int) else None, gr.skip()


@plainly
def on_seed_left(seed, question, scene):
    """Accept a number without Enter; do nothing if the picture already shows this scene."""
    return gr.skip() if seed is None or seed == scene else on_seed(seed, question, scene)


@plainly
def on_new(seed, question):
    return numbered_scene(((seed or 0) + 1) % (sources.MAX_SEED + 1), question)


@plainly
def on_another(scene, question):
    if scene is None:
        raise Refused(text.NO_SCENE)
    return sources.next_question(scene, question).text


def _scenes(c) -> list:
    """Events that put a scene's question into the form, in the bundled model's wording."""
    parts, numbered = _scene_parts(c), [c.seed, c.question, c.scene]
    taken = c.examples.select(on_example, None, parts, **SMALL)
    new = c.new_scene.click(on_new, [c.seed, c.question], parts, **SMALL)
    entered = c.seed.submit(on_seed, numbered, parts, **SMALL)
    # A visitor who only tabs through the box must not lose their own picture.
    c.seed.focus(None, c.seed, None, js="(seed) => vp.enterSeed(seed)", **PRIVATE)
    change = "(seed, ...others) => [vp.leaveSeed(seed), ...others]"
    left = c.seed.blur(on_seed_left, numbered, parts, js=change, **SMALL)
    another = c.another.click(on_another, [c.scene, c.question], c.question, **SMALL)
    return [taken, new, entered, left, another]


@plainly
def on_compose(source, filled):
    """Keep the composer's changes when it is opened again with the same scene."""
    if source is None or source == filled:
        return gr.skip(), gr.skip()
    return composer_value(sources.scene(source)), source


@plainly
def on_composed(value, question):
    value = value if isinstance(value, dict) else {}  # `sources.scene` reports what is missing
    source = {"things": value.get("things"), "seed": value.get("seed")}
    asked = sources.first_question(source, question)
    return sources.picture(source), source, None, asked


def _composing(c):
    """The event that puts a composed scene into the form."""
    filled = gr.State(None)  # the scene that the composer started with
    c.compose.expand(on_compose, [c.scene, filled], [c.composer, filled], **SMALL)
    used = c.composer.submit(on_composed, [c.composer, c.question], _scene_parts(c), **SMALL)
    used.success(None, js="() => vp.show('.vp-picture')", **PRIVATE)
    return used


@plainly
def on_upload(path):
    try:
        return open_picture(path), None, None
    except Refused as error:
        # Not an error: the event must also remove the broken file from the page.
        gr.Warning(as_written(str(error)), duration=12)
        return None, None, None


def _pictures(c):
    """The number names the scene of the picture shown, or is empty."""
    c.picture.upload(on_upload, c.picture, [c.picture, c.scene, c.seed], **SMALL)
    c.picture.clear(lambda: (None, None), None, [c.scene, c.seed], **SMALL)


def _loading(models):
    @plainly
    def on_load(request: gr.Request):
        """Fill the form from a link."""
        found, unread = share.read(dict(request.query_params), models)
        seed, question = examples.chosen()[0]
        if "seed" in found:
            seed = found["seed"]
            question = sources.first_question(seed, question)
        elif "question" in found and "seed" not in request.query_params:
            # The linked run used its owner's picture, which a link never contains.
            seed = None
            unread.append(text.NO_PICTURE_IN_LINK)
        method, *others = found.get("method", ["visipruner"])
        level = found.get("level", PRESETS["balanced"])
        name = next((name for name, value in PRESETS.items() if value == level), None)
        model = found.get("model", models.default)
        return [
            None if seed is None else sources.picture(seed), seed, seed,
            found.get("question", question), gr.update(choices=models.choices, value=model),
            method, others, level, name, found.get("semantics", "paper"),
            views.notes(unread), views.model_line(models, model),
            about.of_model(models, model),
        ]  # fmt: skip

    return on_load


# -- settings


def _levels(c):
    """Preset and slider change together in the browser, without asking the server."""
    by_name = ", ".join(f"{name}: {value}" for name, value in PRESETS.items())
    c.preset.input(None, c.preset, c.level, js=f"(name) => ({{{by_name}}})[name]", **PRIVATE)
    js = f"(v) => Object.entries({{{by_name}}}).find((e) => e[1] === v)?.[0] ?? null"
    c.level.input(None, c.level, c.preset, js=js, **PRIVATE)


def _one_word(c, asked: list):
    """The question asks for one word exactly when the box is ticked.

    Args:
        asked: events that put a scene's question into the form, as the bundled model words it.
    """
    learnt = {name: SHORT[0] for name in MODELS if drawn(name)}
    pleas, own = [*SHORT, LLAVA_SHORT], {**learnt, "": LLAVA_SHORT}
    words = f"{json.dumps(pleas)}, {json.dumps(own)}"
    given, both = [c.one_word, c.question, c.model], [c.question, c.one_word]
    ask = f"(on, question, model) => vp.oneWord(on, question, model, {words})"
    c.one_word.input(None, given, both, js=ask, **PRIVATE)
    # Gradio counts leaving the menu as input, even when the visitor chose nothing.
    c.model.focus(None, c.model, None, js="(model) => vp.enterModel(model)", **PRIVATE)
    ask = f"(on, question, model) => vp.newModel(on, question, model, {words})"
    c.model.input(None, given, both, js=ask, **PRIVATE)
    translate = f"(question, model) => vp.inOwnWords(question, model, {words})"
    for event in asked:
        event.success(None, [c.question, c.model], c.question, js=translate, **PRIVATE)
    asks = f"(question) => vp.asksOneWord(question, {json.dumps(pleas)})"
    c.question.change(None, c.question, c.one_word, js=asks, **PRIVATE)


def _fields(loaded, run, models, c):
    """Advanced shows the settings of the chosen methods, and the level's value for each."""
    triggers = [
        c.model.change,
        c.method.change,
        c.others.change,
        c.level.change,  # changed by mouse, keys or preset
        c.advanced.semantics.input,
    ]
    chosen = [c.model, c.method, c.others, c.level, c.advanced.semantics]
    shown = [c.about, *c.advanced.groups.values(), *c.advanced.fields.values(), c.preset, c.level]
    on_choice = _explaining(models)
    # Gradio would answer a level outside the slider with a server error.
    within = "(model, one, others, level, rules) => [model, one, others, vp.within(level), rules]"
    gr.on(triggers, on_choice, chosen, shown, js=within, trigger_mode="always_last", **UNQUEUED)
    loaded.success(on_choice, chosen, shown, **UNQUEUED)  # a link may have changed the form
    run.success(on_choice, chosen, shown, **UNQUEUED)  # the run has loaded its model


def _explaining(models):
    @plainly
    def on_choice(model, method, others, level, semantics):
        sides = [method, *(others or [])]
        names = list(dict.fromkeys(name for side in sides for name in names_of(side)))
        groups = [gr.update(visible=name in names) for name in METHODS]
        hints = {}
        if vlm := models.peek(model):
            for side in reversed(sides):  # the first side's hint wins
                hints |= fields.hints(vlm, side, level, semantics)
        boxes = [
            _hinted(owner, name, hints.get((owner, name), "")) if owner in names else gr.skip()
            for owner, name in fields.ALL
        ]
        leveled = gr.update(interactive=names != ["none"])
        return [about.of_names(names, hints, "h2"), *groups, *boxes, leveled, leveled]

    return on_choice


def _hinted(method: str, name: str, hint: str) -> dict:
    """Show the level's value as the first choice of a dropdown, which has no placeholder.

    Without a hint (the model is not loaded), both inputs only say that the level sets the value.
    """
    one = fields.setting(method, name)
    if fields.options(one):
        return gr.update(choices=fields.choices(one, hint))
    return gr.update(placeholder=hint or text.FROM_LEVEL)
