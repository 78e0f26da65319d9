"""A lesson as data: its steps, predictions and quiz. reading.py reads it from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from visipruner.analyses.base import Analysis
from visipruner.analyses.interventions import Intervention
from visipruner.analyses.recipes import RECIPES
from visipruner.inputs import open_picture
from visipruner.world import sources


@dataclass(frozen=True)
class Prediction:
    """A question to the audience.

    Args:
        right: the index of the right choice.
        why: one sentence that explains it; empty: none.
    """

    ask: str
    choices: tuple[str, ...]
    right: int
    why: str = ""


@dataclass(frozen=True)
class Contestant:
    """What runs beside the full model: a method in words, or a recipe of the analyses.

    Args:
        name: on the page; empty: as the method or recipe says.
        method: as `--methods` takes it: "visipruner:balanced"; "": a recipe.
        recipe: a name of `RECIPES`; "": a method.
        set: settings of the method's or the recipe's own.
        model: another model than the lesson's, by its name in the menu; "": the lesson's.
    """

    name: str = ""
    method: str = ""
    recipe: str = ""
    set: Mapping = field(default_factory=dict)
    model: str = ""

    def made(self, **more) -> Intervention:
        """The recipe, with more settings.

        Raises:
            Refused: a value that a setting cannot have.
        """
        return RECIPES[self.recipe](**{**self.set, **more})


@dataclass(frozen=True)
class Slider:
    """One setting of the contestants that takes several values, each with a run of its own."""

    setting: str
    values: tuple[int, ...]
    label: str


@dataclass(frozen=True)
class Show:
    """What a step reveals.

    Args:
        sides: what runs beside the full model. slider: a setting that they vary.
        maps: analyses that draw patch maps; their slider is the layer.
        at: where the slider stands at first; None: in its middle.
        bill: what the picture and the words cost.
        longer: another question about the picture, for the costs of a longer answer; empty: none.
    """

    sides: tuple[Contestant, ...] = ()
    slider: Slider | None = None
    maps: tuple[Analysis, ...] = ()
    at: int | None = None
    bill: bool = False
    longer: str = ""


@dataclass(frozen=True)
class Try:
    """One thing to try on the free page.

    Args:
        say: what to do.
        view: of the page. method, others, level: of its form.
        analyses: that "Look inside" chooses; empty: those of the form.
        model: another model than the lesson's; "": the lesson's.
    """

    say: str
    view: str
    method: str = "visipruner"
    others: tuple[str, ...] = ()
    level: float = 0.5
    analyses: tuple[str, ...] = ()
    model: str = ""


@dataclass(frozen=True)
class Step:
    """One step of a lesson.

    Args:
        scene: a held-out scene's number; None: `picture` is a file.
        say: what the audience must know before it predicts.
        told: sentences that explain what was revealed.
        paper: figures of others, with their source; empty: none.
        notes: for the teacher.
    """

    title: str
    minutes: float
    question: str
    say: str
    predict: Prediction
    show: Show
    told: tuple[str, ...]
    attempt: Try
    notes: str
    paper: str = ""
    scene: int | None = None
    picture: Path | None = None

    def image(self) -> Image.Image:
        """The step's picture.

        Raises:
            Refused: the file is no picture.
        """
        if self.scene is not None:
            return sources.picture(self.scene)
        return open_picture(str(self.picture))


@dataclass(frozen=True)
class Plan:
    """A whole lesson.

    Args:
        model: the name of the model that runs.
    """

    title: str
    about: str
    model: str
    steps: tuple[Step, ...]
    quiz: tuple[Prediction, ...] = ()
