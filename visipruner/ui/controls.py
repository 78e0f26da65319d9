"""The left side of the page: every choice, and how the choices become a form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import gradio as gr

from visipruner.choice import MOST_CONTESTANTS, brief_title, menu, names_of, parse_sides
from visipruner.errors import Refused
from visipruner.levels import PRESETS
from visipruner.methods import METHODS
from visipruner.methods.visipruner import SEMANTICS
from visipruner.models.loading import PRECISIONS
from visipruner.render.compose import SceneComposer
from visipruner.ui import about, arena, examples, fields, inside, tabs, text
from visipruner.ui.handlers import Form
from visipruner.ui.page import browser_value, picture_input
from visipruner.ui.store import BACKENDS, Models
from visipruner.world import composed


@dataclass
class Controls:
    """The components, by name."""

    picture: gr.Component
    scene: gr.HTML
    seed: gr.Number
    new_scene: gr.Button
    examples: gr.HTML
    question: gr.Textbox
    another: gr.Button
    one_word: gr.Checkbox
    compose: gr.Accordion
    composer: gr.HTML
    run: gr.Button
    stop: gr.Button
    reset: gr.Button
    model: gr.Dropdown
    model_about: gr.HTML
    method: gr.Dropdown
    others: gr.Dropdown
    about: gr.HTML
    preset: gr.Radio
    level: gr.Slider
    advanced: Advanced
    arena: dict[str, gr.Button]
    inside: dict[str, gr.Button]

    @property
    def form(self) -> dict[str, gr.Component]:
        """All that a run needs, by the names that `form_of` reads; page.js needs the picture first.

        A method's setting is called METHOD.FIELD.
        """
        more, named = self.advanced, {}
        for name in ("picture", "scene", "question", "model", "method", "others", "level"):
            named[name] = getattr(self, name)
        for name in _ADVANCED:
            named[name] = getattr(more, name)
        return {**named, **more.fields}

    @property
    def inputs(self) -> list[gr.Component]:
        return list(self.form.values())

    def read(self, values) -> tuple[Form, int | dict | None]:
        """The form and the scene of its picture, from the values of `inputs`."""
        return form_of(dict(zip(self.form, values, strict=True)))


_ADVANCED = (
    "semantics", "picture_mode", "max_new_tokens", "temperature", "draw_seed", "backend",
    "precision",
)  # fmt: skip


@dataclass
class Advanced:
    """The settings that are folded away.

    Args:
        fields: an input for every setting of every method, by METHOD.FIELD.
        groups: the inputs of each method, by the method's name.
    """

    semantics: gr.Radio
    picture_mode: gr.Radio
    max_new_tokens: gr.Slider
    temperature: gr.Slider
    draw_seed: gr.Number
    backend: gr.Radio
    precision: gr.Radio
    fields: dict[str, gr.Component]
    groups: dict[str, gr.Group]
    prompt: gr.Textbox


def form_of(given: Mapping) -> tuple[Form, int | dict | None]:
    """Turn the page's values, by the names of `Controls.form`, into a form and the scene's source.

    Raises:
        Refused: a setting that cannot be parsed.
    """
    others = given["others"] or []
    sides = sides_of(given["method"], others)
    form = replace(
        asked_of(given),
        **{name: given[name] for name in ("method", "level", "semantics")},
        methods=sides if others else (),
        fields=fields.overrides(sides[1:], given),
    )
    return form, given["scene"]


def asked_of(given: Mapping) -> Form:
    """The part of the form that every view shares: all but the methods and how hard they prune."""
    same = ("picture", "question", "model", "picture_mode", "backend", "precision")
    options = {name: given[name] for name in ("max_new_tokens", "temperature")}
    return Form(
        **{name: given[name] for name in same}, options={**options, "seed": given["draw_seed"]}
    )


def sides_of(method: str, others: Sequence[str]) -> tuple[str, ...]:
    """Every side: the unpruned baseline, the menu's method, and the methods beside it.

    Raises:
        Refused: an unknown method, too many methods, or one method twice.
    """
    sides = ("none", method, *others)
    names_of(method)
    parse_sides(sides)
    for name in others:
        if sides[1:].count(name) > 1:
            raise Refused(text.CHOSEN_TWICE.format(method=brief_title(name)))
    return sides


def build(models: Models) -> Controls:
    """Lay out the controls; a phone's first screen ends with Run."""
    placed = {
        **_asking(),
        "arena": arena.buttons(),
        "inside": inside.buttons(),
        **_buttons(),
        **_methods(models),
    }
    with gr.Accordion(text.ADVANCED, open=False):
        placed["advanced"] = _advanced()
    with gr.Accordion(text.COMPOSE, open=False) as compose:
        placed["composer"] = SceneComposer(composed.composer_props())
    return Controls(**placed, compose=compose, scene=browser_value())


def _asking() -> dict[str, gr.Component]:
    """The picture and the question."""
    thumbnails = examples.strip()
    picture = picture_input(
        label=text.PICTURE,
        sources=["upload", "clipboard", "webcam"],
        height=260,
        buttons=[],
        format="png",  # lossless: the model gets these pixels
        elem_classes="vp-picture",
    )
    # Keyed by the names of the browser's errors; watching.js shows the sentence.
    words = f'data-notfounderror="{text.NO_DEVICE}" data-notallowederror="{text.NOT_ALLOWED}"'
    gr.HTML(f'<p id="vp-device" {words} hidden></p>')
    with gr.Row(elem_classes="vp-tight vp-scene"):
        seed = gr.Number(
            None,
            label=text.SCENE_SEED,
            placeholder=text.NO_NUMBER,
            precision=0,
            min_width=90,
            container=False,
        )
        new = gr.Button(text.SCENE, size="sm", min_width=80)
        another = gr.Button(text.ANOTHER_QUESTION, size="sm", min_width=100)
    question = gr.Textbox(
        label=text.QUESTION, placeholder=text.QUESTION_HINT, max_lines=3, elem_classes="vp-question"
    )
    one_word = gr.Checkbox(
        label=text.ONE_WORD, info=text.ONE_WORD_INFO, container=False, elem_classes="vp-oneword"
    )
    found = {"examples": thumbnails, "picture": picture, "seed": seed, "new_scene": new}
    return {**found, "another": another, "question": question, "one_word": one_word}


def _buttons() -> dict[str, gr.Component]:
    with gr.Row(elem_classes=["vp-actions", tabs.ONLY_COMPARE]):
        run = gr.Button(
            text.RUN, variant="primary", size="lg", scale=3, min_width=120, elem_id="vp-run"
        )
        stop = gr.Button(text.STOP, size="lg", min_width=80, elem_id="vp-stop")
        reset = gr.Button(text.RESET, size="lg", min_width=80)
    return {"run": run, "stop": stop, "reset": reset}


def _methods(models: Models) -> dict[str, gr.Component]:
    """The model, the methods and the level."""
    method = gr.Dropdown(
        [(about.menu_title(title, name), name) for title, name in menu()],
        value="visipruner",
        label=text.METHOD,
        elem_classes=tabs.ONLY_COMPARE,
    )
    others = gr.Dropdown(
        [(brief_title(name), name) for _, name in menu()],
        value=[],
        multiselect=True,
        max_choices=MOST_CONTESTANTS - 1,
        label=text.OTHERS,
        elem_classes=["vp-others", tabs.ONLY_COMPARE],
    )
    told = gr.HTML(
        about.of_names(["visipruner"], heading="h2"), elem_classes=["vp-about", tabs.ONLY_COMPARE]
    )
    preset = gr.Radio(
        list(PRESETS), value="balanced", label=text.PRESET, elem_classes=tabs.ONLY_COMPARE
    )
    level = gr.Slider(
        0,
        1,
        PRESETS["balanced"],
        step=0.05,
        label=text.LEVEL,
        info=text.LEVEL_INFO,
        buttons=[],
        elem_classes=tabs.ONLY_COMPARE,
    )
    model = gr.Dropdown(models.choices, value=models.default, label=text.MODEL)
    model_about = gr.HTML(about.of_model(models, models.default), elem_classes="vp-modelbox")
    found = {"method": method, "others": others, "about": told, "model_about": model_about}
    return {**found, "preset": preset, "level": level, "model": model}


def _advanced() -> Advanced:
    semantics = gr.Radio(
        list(SEMANTICS),
        value="paper",
        label=text.SEMANTICS,
        info=text.SEMANTICS_INFO,
        elem_classes=tabs.ONLY_COMPARE,
    )
    boxes, groups = {}, {}
    for method in METHODS:
        with gr.Group(visible=method == "visipruner", elem_classes=tabs.ONLY_COMPARE) as groups[
            method
        ]:
            if names := fields.of(method):
                gr.Markdown(text.FIELDS_HEAD, elem_classes="vp-fieldhead")
            for name in names:
                boxes[f"{method}.{name}"] = fields.widget(method, name)
    modes = [(title, name) for name, title in text.PICTURE_MODES.items()]
    return Advanced(
        semantics=semantics,
        fields=boxes,
        groups=groups,
        picture_mode=gr.Radio(modes, value="pad", label=text.PICTURE_MODE),
        max_new_tokens=gr.Slider(1, 256, 96, step=1, label=text.MAX_NEW_TOKENS),
        temperature=gr.Slider(
            0, 2, 0, step=0.1, label=text.TEMPERATURE, info=text.TEMPERATURE_INFO
        ),
        draw_seed=gr.Number(0, label=text.SEED, precision=0, minimum=0),
        backend=gr.Radio(list(BACKENDS), value="sdpa", label=text.BACKEND),
        precision=gr.Radio(list(PRECISIONS), value="auto", label=text.PRECISION),
        prompt=gr.Textbox(
            label=text.PROMPT,
            placeholder=text.PROMPT_HINT,
            lines=4,
            interactive=False,
            buttons=["copy"],
        ),
    )
