"""The recorded curve of accuracy against FLOPs: its file, its series, and what is said of a point.

`python -m visipruner tradeoff` writes the file. This module draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from visipruner.choice import brief_title, names_of
from visipruner.errors import Refused
from visipruner.files import shown as named
from visipruner.inputs import check_choice, check_number
from visipruner.methods import METHODS
from visipruner.methods.base import BEFORE

MAIN = "visipruner"  # the page's main method is the first series
PLACED = ", places kept"  # of a series: tokens keep the places that their method would renumber
BY_QUESTION = ", by the question"  # of a series: VisiPruner by this project's own rules
OF = ": "  # in a series of another model than the bundled one, between its name and the methods
ALL = "all"  # every skill together
UNPRUNED = "none"  # the side that prunes nothing; its point belongs to another model than the curve


@dataclass(frozen=True)
class Share:
    """Right answers: the number of questions, the share that is right, and its 95% interval."""

    questions: int
    right: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """One method or stack with fixed settings.

    Args:
        name: the wish that gives the same settings, as `choice.parse` reads it.
        side: the names of the methods, "one+another".
        placed: its methods keep the places of tokens, although they would renumber them.
        settings: every setting, named as by `choice.settings_of_side`.
        tokens: mean visual tokens per layer, as counted.
        flops_cut: share of the executed prefill FLOPs, against the unpruned model.
        shares: right answers by skill, and of `ALL`.
        difference: in share of right answers from the unpruned model, paired: mean and interval.
        rival: the share that is right among the questions that pooling to the same budget gets
            wrong, and their number; None if it was not counted.
        untrained: it scores by a class token that was never trained.
        final: the same point, measured on more questions; None if it was not.
        model: its name; empty: the bundled model, of which the curve is. `flops_cut` of another one
            is against all tokens in all its layers, `difference` against the same model unpruned.
    """

    name: str
    side: str
    settings: Mapping
    tokens: float
    flops_cut: float
    shares: Mapping[str, Share]
    difference: tuple[float, float, float]
    rival: tuple[float, int] | None = None
    untrained: bool = False
    final: Point | None = None
    placed: bool = False
    model: str = ""

    @property
    def series(self) -> str:
        """The line in the plot that holds the point."""
        return self.model + OF * bool(self.model) + series_of(self.side, self.placed, self.settings)

    @property
    def title(self) -> str:
        """The method or stack as the page calls it."""
        return title_of(self.series)

    @property
    def label(self) -> str:
        """The point in a menu."""
        return f"{self.title}: {self.tokens:.0f} tokens per layer, {self.flops_cut:.0%} cut"


@dataclass(frozen=True)
class Measured:
    """A point measured again while the page is open.

    Args:
        number: of the recorded point; None for the unpruned model.
        title: what the page calls it.
        difference: as in `Point`; None for fewer than two questions.
    """

    number: int | None
    title: str
    share: Share
    flops_cut: float
    difference: tuple[float, float, float] | None


@dataclass(frozen=True)
class Curve:
    """All points, and where and when they were measured."""

    machine: str
    date: str
    unpruned: Mapping[str, Share]
    points: tuple[Point, ...]  # other models' last
    source: Mapping = field(default_factory=dict)  # the file's whole content

    @property
    def series(self) -> list[str]:
        """Every series, the main method first; else in the file's order."""
        found = list(dict.fromkeys(point.series for point in self.points))
        return sorted(found, key=lambda series: series != MAIN)

    @property
    def skills(self) -> list[str]:
        """What the accuracy may be about: everything, or one skill."""
        return [ALL, *(skill for skill in self.points[0].shares if skill != ALL)]

    def of(self, series: str) -> list[tuple[int, Point]]:
        """(number, point) of one series, by the FLOPs it cuts."""
        found = [(n, point) for n, point in enumerate(self.points) if point.series == series]
        return sorted(found, key=lambda entry: entry[1].flops_cut)

    def unpruned_of(self, model: str) -> Mapping[str, Share]:
        """What a model gets right that nothing prunes, by skill."""
        own = (point for point in self.points if point.model == model and point.side == UNPRUNED)
        return next((point.shares for point in own), self.unpruned)

    def skill(self, given) -> str:
        """A skill, or `ALL`, as a browser sent it.

        Raises:
            Refused: there is no such skill.
        """
        return check_choice("The curve's questions", given, self.skills)

    def number(self, given) -> int:
        """The number of a point, as a browser sent it.

        Raises:
            Refused: there is no such point.
        """
        if str(given) not in map(str, range(len(self.points))):
            raise Refused("The curve has no such point: choose one of those that are shown.")
        return int(given)


def series_of(side: str, placed: bool, settings: Mapping) -> str:
    """The series of a point of the curve's own model."""
    by_question = settings.get("semantics") == "question"
    return side + PLACED * placed + BY_QUESTION * by_question


def side_of(series: str) -> str:
    """The methods of a series."""
    return series.rpartition(OF)[2].removesuffix(variant_of(series))


def variant_of(series: str) -> str:
    """What is different from the methods as they are usually; empty: nothing."""
    return next((one for one in (PLACED, BY_QUESTION) if series.endswith(one)), "")


def model_of(series: str) -> str:
    """The model of a series; empty: the bundled one."""
    return series.rpartition(OF)[0]


def title_of(series: str) -> str:
    """A series as the page calls it."""
    side = side_of(series)
    methods = "unpruned" if side == UNPRUNED else brief_title(side)
    model = f"{model_of(series)}, " if model_of(series) else ""
    return model + methods + variant_of(series)


def group_of(series: str) -> str:
    """A kind of series: another "model", "stacks", "inside" the language model, or before it.

    Before it, a series counts as "placed" if the tokens keep their places, and else as "before".
    """
    if model_of(series):
        return "model"
    if "+" in side_of(series):
        return "stacks"
    kind = METHODS[side_of(series)]
    if kind.where != BEFORE:
        return "inside"
    # VisionZip's class token has no place to keep, so it always renumbers.
    keeps = series.endswith(PLACED) or not getattr(kind, "renumber", True)
    return "placed" if keeps else "before"


# -- the file


def read_curve(path: Path, others: Mapping[str, Path] = MappingProxyType({})) -> Curve:
    """Read what `python -m visipruner tradeoff` wrote.

    Args:
        others: the same of other models, by name; their points follow.

    Raises:
        Refused: one sentence: there is no such file, or what is wrong in it.
    """
    curve = _read(path)
    for name, place in others.items():
        other = _read(place)
        if other.unpruned.keys() != curve.unpruned.keys():
            raise Refused(f"The curve {named(place)} has other skills than {named(path)}.")
        known = [replace(point, model=name) for point in (_whole(other), *other.points)]
        models = {**curve.source.get("models", {}), name: other.source}
        source = {**curve.source, "models": models}
        curve = replace(curve, points=(*curve.points, *known), source=source)
    return curve


def _whole(curve: Curve) -> Point:
    """The unpruned model as a point of its own."""
    line = curve.source["unpruned"]
    return _point({**line, "side": UNPRUNED, "settings": {}})


def _read(path: Path) -> Curve:
    try:
        return _curve(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise Refused(f"The curve {named(path)} cannot be read: {error.strerror}.") from None
    except KeyError as error:
        raise Refused(f"The curve {named(path)} is damaged: {error} is missing.") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        why = error if isinstance(error, Refused) else "it has another form than written."
        raise Refused(f"The curve {named(path)} is damaged: {why}") from None


def _curve(body: Mapping) -> Curve:
    final = {entry["point"]: entry for entry in body["final"]}
    points = tuple(_point(entry, final.get(entry["point"])) for entry in body["points"])
    if not points:
        raise Refused("it holds no points.")
    unpruned = _shares(body["unpruned"])
    if any(point.shares.keys() != unpruned.keys() for point in points):
        raise Refused("its points name different skills.")
    return Curve(_words(body["machine"]), _words(body["date"]), unpruned, points, body)


def _point(entry: Mapping, final: Mapping | None = None) -> Point:
    if not isinstance(entry["settings"], dict):
        raise Refused("settings must be an object of names and values.")
    names_of(entry["side"])
    if not isinstance(entry["untrained"], bool):
        raise Refused("untrained must be true or false.")
    if not isinstance(entry["places_kept"], bool):
        raise Refused("places_kept must be true or false.")
    mean, low, high = (check_number("difference", n, -3, 3) for n in entry["difference"])
    rival = entry["where_rival_fails"]
    return Point(
        name=_words(entry["point"]),
        side=entry["side"],
        settings=entry["settings"],
        tokens=check_number("tokens", entry["tokens"], 0, 1_000_000),
        flops_cut=check_number("flops_cut", entry["flops_cut"], -10, 1),
        shares=_shares(entry),
        difference=(mean, low, high),
        rival=_rival(rival) if rival and rival["questions"] else None,
        untrained=entry["untrained"],
        final=None if final is None else _point(final),
        placed=entry["places_kept"],
    )


def _rival(entry: Mapping) -> tuple[float, int]:
    share = _share(entry)
    return share.right, share.questions


def _shares(entry: Mapping) -> dict[str, Share]:
    return {ALL: _share(entry)} | {skill: _share(one) for skill, one in entry["skills"].items()}


def _share(entry: Mapping) -> Share:
    count = check_number("questions", entry["questions"], 1, 1_000_000, integer=True)
    # Rounding may leave an interval a hair outside 0 and 1.
    low, right, high = (
        check_number(name, entry[name], -1e-9, 1 + 1e-9) for name in ("low", "right", "high")
    )
    if not low <= right + 1e-9 or not right <= high + 1e-9:
        raise Refused("an interval does not hold its own mean.")
    return Share(count, right, low, high)


def _words(value) -> str:
    if not isinstance(value, str):
        raise Refused("a word is not text.")
    return value


# -- in words


def describe_point(point: Point, skill: str = ALL) -> str:
    """One point in a few words, for its hover text."""
    share = point.shares[skill]
    words = (
        f"{share.right:.1%} right ({share.low:.1%} to {share.high:.1%}) of {share.questions:,}, "
        f"{point.flops_cut:.1%} of the FLOPs cut, {point.tokens:.0f} tokens per layer"
    )
    if point.final:
        share = point.final.shares[skill]
        words += f"; {share.right:.1%} of {share.questions:,}"
    return f"{words}, score untrained" if point.untrained else words


def describe_measured(one: Measured) -> str:
    share = one.share
    return (
        f"{share.right:.1%} right ({share.low:.1%} to {share.high:.1%}) of {share.questions}, "
        f"{one.flops_cut:.1%} of the FLOPs cut"
    )


def describe_curve(curve: Curve, shown: list[str], skill: str = ALL) -> str:
    """The plot in sentences: the ends of every series that is shown."""
    about = "all skills" if skill == ALL else f"the skill “{skill}”"
    said = [f"Accuracy against FLOPs cut, {about}."]
    if full := curve.unpruned.get(skill):
        said.append(f"Unpruned: {full.right:.1%} right.")
    for series in shown:
        points = [point for _, point in curve.of(series)]
        ends = [
            f"{point.shares[skill].right:.1%} right with {point.flops_cut:.0%} cut"
            for point in (points if len(points) < 2 else (points[0], points[-1]))
        ]
        said.append(f"{title_of(series)}: from {' to '.join(ends)}.")
    return " ".join(said)


def describe_source(curve: Curve) -> str:
    """Where the points come from."""
    counts = sorted({point.shares[ALL].questions for point in curve.points})
    many = " or ".join(f"{count:,}" for count in counts)
    beside = "".join(
        f" {name} answered the same questions on {other['date']}: its FLOPs cut counts from all "
        f"tokens in all layers; “against unpruned” is against {name} that nothing else prunes."
        for name, other in curve.source.get("models", {}).items()
    )
    return (
        f"Recorded on {curve.date} ({curve.machine}), of the bundled model on {many} held-out "
        f"questions a point.{beside} Other models give other curves."
    )
