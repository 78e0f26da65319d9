"""The page's work without gradio: check the form, run the model, count as events come."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from visipruner import choice
from visipruner.analyses.base import Analysis
from visipruner.choice import method_at, methods_of, sides_at
from visipruner.errors import Refused
from visipruner.flops import ModelShape, layer_flops
from visipruner.inputs import clean_question, open_picture
from visipruner.levels import PRESETS
from visipruner.methods import PruningMethod
from visipruner.models import clip
from visipruner.models.catalogue import VLM, ModelSpec, check_served
from visipruner.models.presets import uncalibrated
from visipruner.prompt import Prompt
from visipruner.running.results import Comparison, Options, Times
from visipruner.running.runner import Event
from visipruner.tower import needs_clip
from visipruner.trace import LayerRecord
from visipruner.ui import scenes, text
from visipruner.ui.store import Models
from visipruner.world import sources
from visipruner.world.questions import bare
from visipruner.world.sources import Truth

# Least seconds since the last yield, by the kind of the next event. A browser that gets updates
# faster than it can draw lags behind.
PAUSES = {"warming": 0.1, "layer": 0.1, "probed": 0.1, "token": 0.04, "clocked": 0.3}


@dataclass(frozen=True)
class Form:
    """All values from the page or the API, unchecked."""

    picture: object = None
    question: object = None
    model: object = "tiny"
    method: object = "visipruner"
    level: object = "balanced"
    semantics: object = "paper"
    picture_mode: object = "pad"
    backend: object = "sdpa"
    precision: object = "auto"
    fields: dict = field(default_factory=dict)  # settings that replace the level's
    options: dict = field(default_factory=dict)  # of results.Options; api.py lists the names
    methods: tuple[str, ...] = ()  # every side, the baseline first; empty: `method` alone

    @property
    def sides(self) -> tuple:
        """Every side as text."""
        return self.methods or ("none", self.method)

    @property
    def kinds(self) -> list[type[PruningMethod]]:
        """The method of every side, or the methods of its stack.

        Raises:
            Refused: an unknown name.
        """
        return choice.kinds_of(self.sides)


@dataclass(frozen=True)
class Job:
    """A checked form: everything that `compare` needs."""

    models: Models
    prompt: Prompt
    methods: list[choice.Side]
    options: Options
    form: Form
    truth: Truth | None = None
    notes: tuple[str, ...] = ()
    scene: int | dict | None = None  # the picture's scene, if it is of the bundled model's world

    @property
    def key(self) -> tuple:
        return self.form.model, self.form.backend, self.form.precision

    @property
    def vlm(self) -> VLM:
        """Looked up on each use: a kept result must not keep a model in memory."""
        return self.models.get(*self.key)

    def run(self) -> Iterator[Event]:
        return self.compare(self.methods, self.options)

    def compare(self, methods: list[choice.Side], options: Options) -> Iterator[Event]:
        return self.models.compare(self.key, self.prompt, methods, options)

    def look(self, analyses: Sequence[Analysis], answered: bool) -> Iterator:
        """Analyses of the job's prompt: steps and results, as `analyses.together.look`."""
        return self.models.look(self.key, self.prompt, analyses, answered, self.options)

    def measure(self, turn: int) -> list[list[Times]]:
        """One silent whole answer of each side; `turn` alternates which side runs first."""
        return self.models.measure(self.key, self.prompt, self.methods, self.options, 1, turn)

    @property
    def names(self) -> list[str]:
        """The method or stack of every side, the baseline first."""
        return [choice.name_of(side) for side in self.methods]

    def at(self, level: float | str) -> choice.Side:
        """The form's own method at another level."""
        form, visual = self.form, self.prompt.layout.num_visual
        own = choice.fields_of(form.method, form.fields) if form.methods else form.fields
        return method_at(self.vlm, form.method, level, form.semantics, visual, **own)

    def preset_of(self, method: choice.Side) -> str | None:
        """The preset with the settings of this method, if exactly one has them."""
        same = [name for name in PRESETS if self.at(name) == method]
        return same[0] if len(same) == 1 else None  # a method without levels equals all of them


@dataclass
class Side:
    """One column while it runs."""

    records: list[LayerRecord] = field(default_factory=list)
    text: str = ""
    answer: object = None
    flops: int = 0


@dataclass
class Progress:
    """What has happened so far, for drawing; `news` is the last event."""

    layers: int
    shape: ModelShape
    methods: Sequence[str]  # of every side, the baseline first
    sides: list[Side] = field(default_factory=list)
    news: str = "waiting"
    now: int = 0  # index of the side that runs
    probed: int = 0
    comparison: Comparison | None = None
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self):
        self.sides = self.sides or [Side() for _ in self.methods]

    def take(self, event: Event):
        """Record one event."""
        if event.kind == "tick":
            return
        self.news = event.kind
        if event.comparison:
            self.comparison = event.comparison
            for side, answer in zip(self.sides, event.comparison.answers, strict=True):
                side.answer = answer  # a repeat may have improved its times
        if event.kind == "probed":
            self.probed += 1
        if event.side < 0:
            return
        side, self.now = self.sides[event.side], event.side
        if event.kind == "layer":
            side.records.append(event.record)
            side.flops += layer_flops(self.shape, event.record)
        elif event.kind == "token":
            side.text = event.text
        elif event.kind == "answer":
            side.answer, side.text = event.answer, event.answer.text


def check_input(form: Form, scene: int | dict | None = None):
    """Check what costs nothing to check, before a model is downloaded or loaded.

    Of an upload, check only that the file exists: it is decoded once, for the prompt.

    Raises:
        Refused: one plain sentence: no question or no picture.
    """
    question, _ = clean_question(form.question)
    if not bare(question)[0].strip():
        raise Refused(text.ONLY_A_PLEA)
    if scene is not None:
        sources.scene(scene)
        return
    if form.picture is None:
        open_picture(None)
    if isinstance(form.picture, str) and not os.path.exists(form.picture):
        raise Refused(text.PICTURE_GONE)  # see KEEP_FILES in layout.py


def check(
    models: Models, form: Form, truth: Truth | None = None, scene: int | dict | None = None
) -> Job:
    """Turn a form into a job.

    Args:
        scene: number or composition, if the picture is a scene of the bundled model's world.

    Raises:
        Refused: one plain sentence about the first wrong value.
    """
    vlm = models.get(form.model, form.backend, form.precision)
    check_served(vlm, form.kinds)
    if needs_clip(form.kinds):
        clip.found()
    options = Options(**form.options)
    asked = form.picture, form.question, form.picture_mode
    drawn = vlm.spec.drawn
    prompt = scenes.prepare(vlm, *asked, scene is not None) if drawn else vlm.prepare(*asked)
    visual = prompt.layout.num_visual
    methods = sides_at(vlm, form.sides, form.level, form.semantics, visual, **form.fields)
    notes = [*prompt.notes, *untrained(vlm.spec, methods), *_uncalibrated(vlm, methods)]
    return Job(models, prompt, methods, options, form, truth, tuple(notes), scene)


def untrained(spec: ModelSpec, sides: Sequence[choice.Side]) -> list[str]:
    """A sentence about the methods whose score was never trained in this model; else nothing."""
    names = spec.untrained(method for side in sides for method in methods_of(side))
    return [text.UNTRAINED.format(names=", ".join(names))] if names else []


def _uncalibrated(vlm: VLM, sides: Sequence[choice.Side]) -> list[str]:
    said = uncalibrated(vlm, sides)
    return [said] if said else []


def follow(job: Job) -> Iterator[Progress]:
    """Run a job; yields one growing Progress object at a pace that a browser can draw.

    Closing this generator stops the model at its next layer or token, or after a silent repeat.
    """
    return paced(_followed(job), lambda progress: PAUSES.get(progress.news, 0))


def _followed(job: Job) -> Iterator[Progress]:
    config = job.vlm.model.config
    layers = config.get_text_config().num_hidden_layers
    progress = Progress(layers, ModelShape.of(config), job.names)
    yield progress
    with contextlib.closing(job.run()) as events:
        for event in events:
            progress.take(event)
            yield progress


def paced(states: Iterator, pause: Callable[[object], float]) -> Iterator:
    """The states that are worth drawing, and always the last state.

    Args:
        states: a generator; closing this one closes it too.
        pause: state -> the least seconds since the last state that was drawn.
    """
    drawn, skipped = -math.inf, False
    with contextlib.closing(states):
        for state in states:
            skipped = time.monotonic() - drawn < pause(state)
            if not skipped:
                yield state
                drawn = time.monotonic()
        if skipped:
            yield state
