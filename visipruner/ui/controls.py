"""The left side of the page: everything that can be chosen, and how it becomes a form."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from visipruner.choice import menu
from visipruner.levels import PRESETS
from visipruner.methods import METHODS
from visipruner.methods.visipruner import SEMANTICS
from visipruner.models.loading import PRECISIONS
from visipruner.render.compose import SceneComposer
from visipruner.ui import about, examples, fields, text
from visipruner.ui.handlers import Form
from visipruner.ui.page import browser_value, picture_input
from visipruner.ui.store import BACKENDS, Models
from visipruner.world import composed


@dataclass
class Controls:
    """The components, by name. `inputs` is what a run needs, in the order of `form`."""

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
    method: gr.Dropdown
    about: gr.HTML
    preset: gr.Radio
    level: gr.Slider
    advanced: Advanced

    @property
    def inputs(self) -> list:
        chosen = [self.picture, self.scene, self.question, self.model, self.method, self.level]
        return [*chosen, *self.advanced.choices, *self.advanced.fields]


@dataclass
class Advanced:
    """What is folded away."""

    semantics: gr.Radio
    picture_mode: gr.Radio
    max_new_tokens: gr.Slider
    temperature: gr.Slider
    draw_seed: gr.Number
    backend: gr.Radio
    precision: gr.Radio
    fields: list
    groups: list[gr.Group]
    prompt: gr.Textbox

    @property
    def choices(self) -> list:
        return [
            self.semantics,
            self.picture_mode,
            self.max_new_tokens,
            self.temperature,
            self.draw_seed,
            self.backend,
            self.precision,
        ]


def form(values) -> tuple[Form, int | dict | None]:
    """What the page sends, in the order of `Controls.inputs`, as a form and the scene's number."""
    picture, scene, question, model, method, level, *rest = values
    semantics, mode, longest, temperature, seed, backend, precision, *own = rest
    return Form(
        picture,
        question,
        model,
        method,
        level,
        semantics,
        mode,
        backend,
        precision,
        fields.overrides(method, own),
        {"max_new_tokens": longest, "temperature": temperature, "seed": seed},
    ), scene


def build(models: Models) -> Controls:
    """Place everything; the first screen of a phone ends with Run."""
    thumbnails = examples.strip()
    picture = picture_input(
        label=text.PICTURE,
        sources=["upload", "clipboard", "webcam"],
        height=260,
        buttons=[],
        format="png",  # without loss: it is what the model gets
        elem_classes="vp-picture",
    )
    # By the names of the browser's errors; page.js shows it.
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
        new_scene = gr.Button(text.SCENE, size="sm", min_width=80)
        another = gr.Button(text.ANOTHER_QUESTION, size="sm", min_width=100)
    question = gr.Textbox(
        label=text.QUESTION, placeholder=text.QUESTION_HINT, max_lines=3, elem_classes="vp-question"
    )
    one_word = gr.Checkbox(
        label=text.ONE_WORD, info=text.ONE_WORD_INFO, container=False, elem_classes="vp-oneword"
    )
    with gr.Row(elem_classes="vp-actions"):
        run = gr.Button(
            text.RUN, variant="primary", size="lg", scale=3, min_width=120, elem_id="vp-run"
        )
        stop = gr.Button(text.STOP, size="lg", min_width=80, elem_id="vp-stop")
        reset = gr.Button(text.RESET, size="lg", min_width=80)
    method = gr.Dropdown(
        menu(),
        value="visipruner",
        label=text.METHOD,
    )
    told = gr.HTML(about.of_names(["visipruner"], heading="h2"), elem_classes="vp-about")
    preset = gr.Radio(list(PRESETS), value="balanced", label=text.PRESET)
    level = gr.Slider(
        0, 1, PRESETS["balanced"], step=0.05, label=text.LEVEL, info=text.LEVEL_INFO, buttons=[]
    )
    model = gr.Dropdown(models.choices, value=models.default, label=text.MODEL)
    with gr.Accordion(text.ADVANCED, open=False):
        advanced = _advanced()
    with gr.Accordion(text.COMPOSE, open=False) as compose:
        composer = SceneComposer(composed.composer_props())
    scene = browser_value()
    return Controls(
        picture, scene, seed, new_scene, thumbnails, question, another, one_word, compose, composer,
        run, stop, reset, model, method, told, preset, level, advanced,
    )  # fmt: skip


def _advanced() -> Advanced:
    semantics = gr.Radio(
        list(SEMANTICS), value="paper", label=text.SEMANTICS, info=text.SEMANTICS_INFO
    )
    boxes, groups = [], []
    for method in METHODS:
        with gr.Group(visible=method == "visipruner") as group:
            if names := fields.of(method):
                gr.Markdown(text.FIELDS_HEAD, elem_classes="vp-fieldhead")
            boxes += [fields.widget(method, name) for name in names]
        groups.append(group)
    modes = [(title, name) for name, title in text.PICTURE_MODES.items()]
    mode = gr.Radio(modes, value="pad", label=text.PICTURE_MODE)
    longest = gr.Slider(1, 256, 96, step=1, label=text.MAX_NEW_TOKENS)
    temperature = gr.Slider(0, 2, 0, step=0.1, label=text.TEMPERATURE, info=text.TEMPERATURE_INFO)
    seed = gr.Number(0, label=text.SEED, precision=0, minimum=0)
    backend = gr.Radio(list(BACKENDS), value="sdpa", label=text.BACKEND)
    precision = gr.Radio(list(PRECISIONS), value="auto", label=text.PRECISION)
    prompt = gr.Textbox(
        label=text.PROMPT,
        placeholder=text.PROMPT_HINT,
        lines=4,
        interactive=False,
        buttons=["copy"],
    )
    return Advanced(
        semantics, mode, longest, temperature, seed, backend, precision, boxes, groups, prompt
    )


__all__ = ["Advanced", "Controls", "build", "form"]
