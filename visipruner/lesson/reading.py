"""Read a lesson from a JSON file, and refuse whatever the page could not play."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from visipruner.analyses import ANALYSES
from visipruner.analyses.base import Analysis
from visipruner.analyses.recipes import RECIPES
from visipruner.choice import names_of, parse
from visipruner.errors import Refused, quoted
from visipruner.files import shown
from visipruner.inputs import check_choice, check_number, clean_question
from visipruner.lesson.plan import Contestant, Plan, Prediction, Show, Slider, Step, Try
from visipruner.levels import level_number
from visipruner.methods import METHODS
from visipruner.settings import settings_of
from visipruner.world import sources

BUNDLED = Path(__file__).parent / "lesson.json"
MOST_BYTES = 1_000_000
MOST_STEPS, MOST_QUIZ, MOST_CHOICES = 20, 10, 6
MOST_SIDES = 4  # beside the full model
MOST_PLACES = 40  # of a slider
MOST_LETTERS = 1_000  # of one text
VIEWS = ("compare", "inside", "arena", "curve")
_ASKED = ("ask", "choices", "right")
_WISH = ("method", "others", "level", "analyses", "model")
_SIDE = ("name", "method", "recipe", "set", "model")
_STEP = ("title", "minutes", "question", "say", "predict", "show", "told", "try", "notes")


def read(path: str | Path = BUNDLED) -> Plan:
    """Read a lesson and check it; nothing runs.

    Raises:
        Refused: one sentence that names the step and the field.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Refused(f"The lesson {shown(path)} is larger than {MOST_BYTES:,} bytes.")
        data = json.loads(path.read_text(encoding="utf-8"))
    except Refused:  # a ValueError too
        raise
    except OSError as error:
        raise Refused(f"The lesson {shown(path)} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError):
        raise Refused(f"The lesson {shown(path)} is not a JSON file.") from None
    return plan_of(data, path.parent)


def plan_of(data, folder: Path) -> Plan:
    """A lesson from parsed JSON.

    Args:
        folder: where the pictures that it names lie.

    Raises:
        Refused: as `read`.
    """
    part = _Part("", data, ("title", "about", "steps"), ("model", "quiz"))
    steps = part.many("steps", 1, MOST_STEPS)
    quiz = part.many("quiz", 0, MOST_QUIZ)
    return Plan(
        part.text("title"),
        part.text("about"),
        part.text("model") or "tiny",
        tuple(_step(number, one, folder) for number, one in enumerate(steps, 1)),
        tuple(
            _prediction(_Part(f"quiz question {n}", one, _ASKED, ("why",)))
            for n, one in enumerate(quiz, 1)
        ),
    )


def _step(number: int, data, folder: Path) -> Step:
    part = _Part(f"step {number}", data, _STEP, ("scene", "picture", "paper"))
    scene, picture = part.data.get("scene"), part.text("picture")
    if (scene is None) == (not picture):
        raise part.wrong("needs either a scene or a picture")
    question, _ = part.asking(lambda: clean_question(part.text("question")))
    return Step(
        part.text("title"),
        part.number("minutes", 0, 120),
        question,
        part.text("say"),
        _prediction(part.part("predict", _ASKED, ("why",))),
        _show(part.part("show", (), ("sides", "slider", "maps", "at", "bill", "longer"))),
        tuple(part.texts("told", 1, 6)),
        _attempt(part.part("try", ("say", "view"), _WISH)),
        part.text("notes"),
        part.text("paper"),
        None if scene is None else part.asking(lambda: sources.scene(scene)) and scene,
        _inside(part, folder, picture) if picture else None,
    )


def _inside(part: _Part, folder: Path, name: str) -> Path:
    """A picture beside the lesson's file. A lesson from elsewhere must not open other files."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise part.wrong(f"names the picture {quoted(name)}, which is not in the lesson's folder")
    return path


def _prediction(part: _Part) -> Prediction:
    choices = part.texts("choices", 2, MOST_CHOICES)
    right = part.number("right", 0, len(choices) - 1, integer=True)
    return Prediction(part.text("ask"), tuple(choices), right, part.text("why"))


def _show(part: _Part) -> Show:
    sides = [
        _contestant(_Part(f"{part.where}, side {n}", one, (), _SIDE))
        for n, one in enumerate(part.many("sides", 0, MOST_SIDES), 1)
    ]
    slider = maps = None
    if "slider" in part.data:
        slider = _slider(part.part("slider", ("setting", "values", "label"), ()), sides)
    if "maps" in part.data:
        maps = _maps(part)
    if slider and any(side.model for side in sides):
        raise part.wrong("has a slider and another model; only the lesson's own model is varied")
    if slider and maps:
        raise part.wrong("has a slider and maps; one slider is what an audience can follow")
    show = Show(
        tuple(sides),
        slider,
        tuple(maps or ()),
        part.number("at", 0, 1000, integer=True) if "at" in part.data else None,
        part.flag("bill"),
        part.text("longer"),
    )
    if not (sides or maps or show.bill):
        raise part.wrong("reveals nothing: it needs sides, maps or a bill")
    return show


def _contestant(part: _Part) -> Contestant:
    method, recipe = part.text("method"), part.text("recipe")
    if bool(method) == bool(recipe):
        raise part.wrong("needs either a method or a recipe")
    given = part.data.get("set", {})
    if not isinstance(given, dict):
        raise part.wrong("has a “set” that is no object")
    if method:
        part.asking(lambda: parse(method))
        known = settings_of(METHODS[names_of(method)[0]]) if "+" not in method else given
    else:
        part.asking(lambda: check_choice("recipe", recipe, RECIPES))
        known = settings_of(RECIPES[recipe])
    for name in given:
        if name not in known:
            raise part.wrong(f"has no setting {quoted(name)}; it has {', '.join(known) or 'none'}")
    model = part.text("model")
    if model and recipe:
        raise part.wrong("has a recipe and another model; a recipe runs on the lesson's model")
    one = Contestant(part.text("name"), method, recipe, dict(given), model)
    part.asking(lambda: recipe and one.made())
    return one


def _slider(part: _Part, sides: Sequence[Contestant]) -> Slider:
    values = part.data["values"]
    if not isinstance(values, list) or not 2 <= len(values) <= MOST_PLACES:
        raise part.wrong(f"needs 2 to {MOST_PLACES} values")
    values = [
        part.asking(lambda value=value: check_number("each value", value, -1, 1000, integer=True))
        for value in values
    ]
    name = part.text("setting")
    if not sides:
        raise part.wrong("varies nothing: the step has no sides")
    for side in sides:
        kind = RECIPES.get(side.recipe) or METHODS[names_of(side.method)[0]]
        if name not in settings_of(kind) or (side.method and "+" in side.method):
            raise part.wrong(f"varies {quoted(name)}, which {kind.name} does not have")
    return Slider(name, tuple(values), part.text("label"))


def _maps(part: _Part) -> list[Analysis]:
    given = part.data["maps"]
    if not isinstance(given, dict) or not 1 <= len(given) <= 2:
        raise part.wrong("needs one or two maps, by the names of their analyses")
    found = []
    for name, values in given.items():
        part.asking(lambda name=name: check_choice("map", name, ANALYSES))
        known = settings_of(ANALYSES[name])
        if not isinstance(values, dict) or set(values) - set(known):
            raise part.wrong(f"gives {name} other settings than {', '.join(known) or 'none'}")
        kind, kinds = ANALYSES[name], values
        found.append(part.asking(lambda kind=kind, kinds=kinds: kind(**kinds)))
    return found


def _attempt(part: _Part) -> Try:
    part.asking(lambda: check_choice("view", part.data["view"], VIEWS))
    method = part.text("method") or "visipruner"
    others = part.texts("others", 0, 3)
    for name in (method, *others):
        part.asking(lambda name=name: names_of(name))
    analyses = part.texts("analyses", 0, len(ANALYSES))
    for name in analyses:
        part.asking(lambda name=name: check_choice("analysis", name, ANALYSES))
    level = part.asking(lambda: level_number(part.data.get("level", 0.5)))
    view, model = part.data["view"], part.text("model")
    return Try(part.text("say"), view, method, tuple(others), level, tuple(analyses), model)


class _Part:
    """An object of the file, and where it stands: every refusal names that."""

    def __init__(self, where: str, data, required: Sequence[str], optional: Sequence[str]):
        self.where, self.data = where, data
        if not isinstance(data, dict):
            raise self.wrong("is not an object with fields")
        known = (*required, *optional)
        for name in data:
            if name not in known:
                raise self.wrong(f"has an unknown field {quoted(name)}; it may have {_list(known)}")
        for name in required:
            if name not in data:
                raise self.wrong(f"lacks the field “{name}”")

    def wrong(self, what: str) -> Refused:
        return Refused(f"The lesson{self._place()} {what}.")

    def _place(self) -> str:
        return f", {self.where}," if self.where else ""

    def part(self, name: str, required: Sequence[str], optional: Sequence[str]) -> _Part:
        return _Part(
            f"{self.where}, “{name}”".removeprefix(", "), self.data[name], required, optional
        )

    def asking(self, check):
        """The result of a check whose refusal gets this place in front."""
        try:
            return check()
        except Refused as error:
            raise Refused(f"The lesson{self._place()[:-1]}: {error}") from None

    def text(self, name: str) -> str:
        """A text, "" if it is missing; one that is required is never empty."""
        value = self.data.get(name, "")
        if not isinstance(value, str) or (name in self.data and not value.strip()):
            raise self.wrong(f"needs words in “{name}”")
        if len(value) > MOST_LETTERS:
            raise self.wrong(f"has more than {MOST_LETTERS:,} characters in “{name}”")
        return " ".join(value.split())

    def texts(self, name: str, least: int, most: int) -> list[str]:
        values = self.many(name, least, most)
        one = [
            _Part(f"{self.where}, “{name}”".removeprefix(", "), {"words": value}, (), ("words",))
            for value in values
        ]
        return [part.text("words") for part in one]

    def many(self, name: str, least: int, most: int) -> list:
        values = self.data.get(name, [])
        if not isinstance(values, list) or not least <= len(values) <= most:
            raise self.wrong(f"needs a list of {least} to {most} in “{name}”")
        return values

    def number(self, name: str, low: float, high: float, integer: bool = False):
        return self.asking(lambda: check_number(name, self.data[name], low, high, integer=integer))

    def flag(self, name: str) -> bool:
        value = self.data.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(f"needs true or false in “{name}”")
        return value


def _list(names: Sequence[str]) -> str:
    return ", ".join(f"“{name}”" for name in names)
