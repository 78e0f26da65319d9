"""Play one step of a lesson: run what it shows, and collect what there is to see."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from visipruner.analyses.base import PatchMap
from visipruner.analyses.base import Step as Progress
from visipruner.choice import Side, method_at, name_of, short_title
from visipruner.errors import Refused
from visipruner.lesson.bill import Bill, bills
from visipruner.lesson.plan import Contestant, Step
from visipruner.methods import METHODS
from visipruner.render.stages import dropping
from visipruner.running.results import Answer, Options, Pair, Times

FULL = "full model"
MOST_PICTURES = 2  # side by side; more are too small for a lecture hall
ROUNDS = 5  # of silent whole answers, for the clocks


@dataclass(frozen=True)
class Row:
    """One side's answer.

    Args:
        right: does it fit the true answer? None: that is not known.
        same: does it equal the full model's? None for the full model itself.
        stayed: which patches went on, in words; empty: all, or a recipe, whose name says it.
    """

    name: str
    answer: str
    right: bool | None
    same: bool | None
    stayed: str = ""


@dataclass(frozen=True)
class Survivors:
    """A picture whose dropped patches are dark."""

    title: str
    kept: tuple[int, ...]


@dataclass(frozen=True)
class MapOfLayer:
    """One layer of a patch map; the title is its analysis's."""

    title: str
    shown: PatchMap
    layer: int


@dataclass(frozen=True)
class Frame:
    """What belongs to one place of the slider, or to the whole step if it has no slider."""

    label: str
    rows: tuple[Row, ...] = ()
    pictures: tuple[Survivors | MapOfLayer, ...] = ()


@dataclass(frozen=True)
class Table:
    """The three numbers: a head, and rows that begin with a name."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass
class Shown:
    """What a step has revealed so far.

    Args:
        doing: what runs now; empty: the step is done.
        rows: answers that do not depend on the slider.
        frames: by place of the slider; at least one.
        slider: what it moves; empty: there is none.
        at: where it stands at first.
    """

    doing: str = "The model reads the picture"
    rows: list[Row] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    slider: str = ""
    at: int = 0
    bills: tuple[Bill, ...] = ()
    table: Table | None = None

    @property
    def done(self) -> bool:
        return not self.doing


def play(job, step: Step, again: Callable[..., object]) -> Iterator[Shown]:
    """Run a step; yields one growing `Shown`. Closing the generator stops the model.

    Args:
        job: of the step's picture and question, as `ui.handlers.check` makes it.
        again: (question, name of another model if there is one) -> a job with the same picture.

    Raises:
        Refused: the model cannot run one of the sides or maps.
    """
    shown = Shown()
    yield shown
    if step.show.maps:
        yield from _maps(job, step, shown)
    if step.show.sides or step.show.bill:
        full = yield from _sides(job, step, shown)
        yield from _other_models(step, shown, again, full)
    if step.show.longer:
        yield from _clocks(job, step, shown, again)
    shown.doing = ""
    yield shown


# -- maps


def _maps(job, step: Step, shown: Shown) -> Iterator[Shown]:
    drawn: dict[str, PatchMap] = {}
    with closing(job.look(step.show.maps, False)) as events:
        for event in events:
            if isinstance(event, Progress):
                yield shown
            else:
                analysis, result = event
                maps = [part for part in analysis.figures(result) if isinstance(part, PatchMap)]
                if maps:
                    drawn[analysis.title] = maps[0]
    if not drawn:
        raise Refused("None of the step's maps is one of patches.")
    shown.frames = [
        Frame(str(layer), (), tuple(MapOfLayer(*named, layer) for named in drawn.items()))
        for layer in range(min(len(one.values) for one in drawn.values()))
    ]
    shown.slider, shown.at = "Layer", _start(step, len(shown.frames))


def _start(step: Step, places: int) -> int:
    at = places // 2 if step.show.at is None else step.show.at
    return max(0, min(at, places - 1))


# -- sides


def sides_of(job, one: Contestant, **more) -> dict[str, Side]:
    """The sides of a contestant by name; a recipe may have two.

    Args:
        more: settings that replace its own.

    Raises:
        Refused: impossible for this model or prompt.
    """
    visual = job.prompt.layout.num_visual
    if one.recipe:
        recipe = one.made(**more)
        recipe.check(job.vlm, job.prompt)
        found = recipe.sides(recipe.untouched(), job.prompt.layout)
    else:
        side = method_at(job.vlm, one.method, "balanced", "paper", visual, **{**one.set, **more})
        found = {short_title(name_of(side)): side}
    return (
        dict(zip([one.name], found.values(), strict=True))
        if one.name and len(found) == 1
        else found
    )


def _sides(job, step: Step, shown: Shown) -> Generator[Shown, None, Answer]:
    """The full model, then every side; with a slider every side at each of its values.

    Returns:
        the full model's answer.
    """
    slider, places = step.show.slider, []
    for value in slider.values if slider else (None,):
        more = {} if value is None else {slider.setting: value}
        named = {}
        for one in step.show.sides:
            if not one.model:
                named |= sides_of(job, one, **more)
        places.append((value, named))
    full = method_at(job.vlm, "none", "balanced", "paper", job.prompt.layout.num_visual)
    runs = [full, *(side for _, named in places for side in named.values())]
    options = Options(max_new_tokens=job.options.max_new_tokens, probe=False, clock_rounds=0)
    answers: dict[int, Answer] = {}
    with closing(job.compare(runs, options)) as events:
        for event in events:
            if event.kind == "answer":
                answers[event.side] = event.answer
                shown.doing = f"{len(answers)} of {len(runs)} answers"
                _take(job, step, shown, places, answers)
                yield shown
            elif event.kind == "layer":
                yield shown  # the caller can close this generator here
    return answers[0]


def _other_models(step: Step, shown: Shown, again, full: Answer) -> Iterator[Shown]:
    """Sides of other models, each beside the lesson's full model and its cost."""
    for one in step.show.sides:
        if not one.model:
            continue
        job = again(step.question, one.model)
        shown.doing = f"{job.models.titles[one.model]} reads the picture"
        yield shown
        options = Options(max_new_tokens=job.options.max_new_tokens, probe=False, clock_rounds=0)
        ((name, side),) = sides_of(job, one).items()
        with closing(job.compare([side], options)) as events:
            for event in events:
                if event.kind == "answer":
                    saved = 1 - event.answer.counts.executed.prefill / full.counts.executed.prefill
                    row = _row(job, name, event.answer, full)
                    row = replace(row, stayed=f"{saved:.0%} less computing than the full model")
                    shown.rows.append(row)
                yield shown


def _take(job, step: Step, shown: Shown, places, answers: dict[int, Answer]):
    """Put the answers so far where they belong."""
    full, number, frames = answers.get(0), 1, []
    for value, named in places:
        rows, pictures = [], []
        for name in named:
            if number in answers:
                rows.append(_row(job, name, answers[number], full))
                pictures += _survivors(name, answers[number].trace, bool(step.show.slider))
            number += 1
        frames.append(Frame("" if value is None else str(value), tuple(rows), tuple(pictures)))
    frames = [replace(frame, pictures=frame.pictures[:MOST_PICTURES]) for frame in frames]
    shown.rows = [_row(job, FULL, full, None)] if full and step.show.sides else []
    if step.show.slider:
        shown.frames, shown.slider = frames, step.show.slider.label
        shown.at = _start(step, len(frames))
    else:
        shown.rows += frames[0].rows
        if not step.show.maps:
            shown.frames = [replace(frames[0], rows=())]
    if full and step.show.bill:
        shown.bills = bills(job.vlm, full)


def _row(job, name: str, answer: Answer, full: Answer | None) -> Row:
    right = None if job.truth is None else job.truth.fits(answer.text)
    same = answer.says_as(full) if full else None
    known = all(one.name in METHODS for one in answer.trace.chosen)
    return Row(name, answer.text, right, same, _stayed(answer.trace) if known else "")


def _stayed(trace) -> str:
    """How many patches go on where, in words."""
    told = [
        f"{len(cut.kept)} before layer 0"
        if cut.after_layer < 0
        else f"{len(cut.kept)} after layer {cut.after_layer}"
        for cut in dropping(trace)
    ]
    more = ", …" if len(told) > 3 else ""
    return f"of {trace.num_visual} patches go on: {', '.join(told[:3])}{more}" if told else ""


def _survivors(name: str, trace, even_none: bool) -> list[Survivors]:
    """The first cut; nothing if all patches stay.

    Args:
        even_none: also a picture that is all dark, which says something beside others on a slider.
    """
    cuts = dropping(trace)[:1]
    return [Survivors(name, tuple(cut.kept)) for cut in cuts if cut.kept or even_none]


# -- the three numbers


def _clocks(job, step: Step, shown: Shown, again) -> Iterator[Shown]:
    """Formula, executed and measured, for the step's question and for a longer answer."""
    columns = []
    for asked in (job, again(step.show.longer)):
        visual = asked.prompt.layout.num_visual
        full = method_at(asked.vlm, "none", "balanced", "paper", visual)
        named = sides_of(asked, step.show.sides[0]) if step.show.sides else {}
        if not named:
            raise Refused("A longer answer needs a side to compare with.")
        options = replace(asked.options, probe=False, clock_rounds=0)
        asked = replace(asked, methods=[full, *list(named.values())[:1]], options=options)
        shown.doing = "Measuring silent answers"
        found = None
        with closing(asked.run()) as events:
            for event in events:
                found = event.comparison or found
                yield shown
        samples: Sequence[list[Times]] = [[], []]
        for turn in range(ROUNDS):
            for side, times in zip(samples, asked.measure(turn), strict=True):
                side += times
            yield shown
        columns.append(found.clocked(samples))
    shown.table = _table(columns)


def _table(columns) -> Table:
    heads, rows = [""], [["formula"], ["executed"], ["measured: first word"], ["measured: all"]]
    for found in columns:
        full, pruned = found.answers
        words = len(pruned.text.split())
        heads.append("one word" if words == 1 else f"{words} words")
        ratios = (
            full.counts.paper_macs / max(1, pruned.counts.paper_macs),
            Pair(full, pruned).flops_ratio,
            full.times.first_token / pruned.times.first_token,
            full.times.total / pruned.times.total,
        )
        for row, ratio in zip(rows, ratios, strict=True):
            row.append(f"{ratio:.2f}×")
    return Table(tuple(heads), tuple(map(tuple, rows)))
