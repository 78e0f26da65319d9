"""The view "Cost and accuracy": the recorded curve, points that run, and points measured again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from visipruner.choice import Side, method_at
from visipruner.errors import Refused
from visipruner.evaluation import recompute
from visipruner.evaluation.recompute import MOST_PER_SKILL, Standing
from visipruner.methods import METHODS
from visipruner.render.curve import (
    ALL,
    MAIN,
    Curve,
    Point,
    read_curve,
    title_of,
)
from visipruner.render.curve_chart import curve_chart
from visipruner.ui import curve_parts as parts
from visipruner.ui import curve_words as words
from visipruner.ui import fields, keeping, run_state, views
from visipruner.ui.page import PRIVATE, SMALL, browser_value, plainly
from visipruner.ui.store import Models
from visipruner.world.questions import SKILLS
from visipruner.world.scenes import ASSETS

RECORDED = ASSETS / "tiny-llava" / "tradeoff.json"
OTHERS = {"tiny-aligned": ASSETS / "tiny-aligned" / "tradeoff.json"}
HOW = ("sdpa", "auto")  # attention and precision
MOST_PICKS = 4
REDRAW = 3  # seconds between two drawings of the plot while points are measured
# Not the turn of the runs: those come in between. One visitor measures at a time.
OWN_TURN = {**PRIVATE, "concurrency_limit": 1, "concurrency_id": "recompute"}

_ON_LOAD = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-point]");
  if (button) trigger("select", { point: Number(button.dataset.point) });
});
vpCurve.whenOpened(() => trigger("expand"));
"""


@dataclass
class Shown:
    """The components of the view.

    Args:
        curve: what the file holds.
        drawn: the inputs that decide what is drawn: skill, group, followed series, key.
        key: of the standing in `kept`: what this visitor measured here.
    """

    curve: Curve
    skill: gr.Dropdown
    group: gr.Radio
    follow: gr.Dropdown
    plot: gr.Plot
    told: gr.HTML
    points: gr.HTML
    saves: dict[str, gr.Button]
    payload: gr.JSON
    picks: gr.Dropdown
    count: gr.Slider
    again: gr.Button
    stop: gr.Button
    table: gr.HTML
    key: gr.HTML
    kept: keeping.Kept

    @property
    def drawn(self) -> list:
        return [self.skill, self.group, self.follow, self.key]

    @property
    def drawing(self) -> list:
        return [self.plot, self.told]


def build(path: Path | None = None) -> Shown | None:
    """Lay the view out; None if there is no curve to show, which the page then says."""
    try:
        curve = read_curve(path or RECORDED, OTHERS)
    except Refused as error:
        gr.HTML(views.told(words.NO_CURVE.format(why=error)))
        return None
    gr.HTML(parts.head_html(curve), elem_classes="vp-curvehead")
    placed = {**_plot(curve), **_saves(), **_again(curve)}
    return Shown(
        curve, **placed, payload=gr.JSON(visible="hidden"), key=browser_value(), kept=keeping.Kept()
    )


def _plot(curve: Curve) -> dict:
    group = gr.Radio(list(words.GROUPS), value="few", label=words.GROUP)
    # Of the class of all charts, because projector mode enlarges those.
    with gr.Column(elem_classes="vp-charts"):
        plot = gr.Plot(show_label=False, container=False, elem_id="vp-curve-plot")
    placed = {"group": group, "plot": plot, **_choices(curve)}
    told = gr.HTML()
    # Empty until the view is opened, as the plot is: most visitors never open it.
    points = gr.HTML(js_on_load=_ON_LOAD, apply_default_css=False)
    return {**placed, "told": told, "points": points}


def _choices(curve: Curve) -> dict:
    """Below the plot, because on a phone only little fits above it."""
    skills = [(words.ALL_SKILLS if skill == ALL else skill, skill) for skill in curve.skills]
    followed = MAIN if MAIN in curve.series else curve.series[0]
    titles = [(title_of(series), series) for series in curve.series]
    with gr.Row(elem_classes="vp-tight"):
        skill = gr.Dropdown(skills, value=ALL, label=words.SKILL, min_width=160)
        follow = gr.Dropdown(titles, value=followed, label=words.FOLLOW, min_width=240)
    return {"skill": skill, "follow": follow}


def _saves() -> dict:
    labels = {
        "csv": words.SAVE_CSV,
        "json": words.SAVE_JSON,
        "png": words.SAVE_PNG,
        "html": words.SAVE_HTML,
    }
    with gr.Row(elem_classes="vp-tight vp-saves"):
        saves = {kind: gr.Button(label, size="sm") for kind, label in labels.items()}
    return {"saves": saves}


def _again(curve: Curve) -> dict:
    gr.HTML(f"<h2>{words.RECOMPUTE}</h2><p>{words.RECOMPUTE_INFO}</p>", elem_classes="vp-curvehead")
    labels = [(point.label, str(number)) for number, point in enumerate(curve.points)]
    own = curve.of(MAIN)
    picks = gr.Dropdown(
        labels,
        value=[str(own[len(own) // 2][0])] if own else [],
        multiselect=True,
        max_choices=MOST_PICKS,
        label=words.PICKS.format(most=MOST_PICKS),
        info=words.PICKS_HINT,
        elem_classes="vp-picks",
    )
    per_turn = len(SKILLS)
    count = gr.Slider(
        per_turn,
        per_turn * MOST_PER_SKILL,
        per_turn,
        step=per_turn,
        label=words.COUNT,
        info=words.COUNT_INFO.format(skills=per_turn),
        buttons=[],
    )
    with gr.Row(elem_classes="vp-tight"):
        again = gr.Button(words.RECOMPUTE, variant="primary", elem_id="vp-recompute")
        stop = gr.Button(words.STOP, elem_id="vp-curve-stop")
    table = gr.HTML(elem_id="vp-recomputed")
    return {"picks": picks, "count": count, "again": again, "stop": stop, "table": table}


# -- what a point means


def model_of(models: Models, points: Sequence[Point]) -> str:
    """The model that the points are of.

    Raises:
        Refused: they are of two, or this server does not offer it.
    """
    names = {point.model or parts.BUNDLED for point in points}
    if len(names) > 1:
        raise Refused(words.TWO_MODELS)
    (name,) = names
    if name not in models.paths:
        raise Refused(words.NO_BUNDLED.format(name=name))
    return name


def form_of(point: Point) -> dict:
    """The form's values for a point: "method", "semantics" and every METHOD.FIELD.

    Raises:
        Refused: the curve was recorded with a choice that this version does not have.
    """
    values = {"method": point.side}
    for name, value in point.settings.items():
        owner, _, field = name.rpartition(".")
        owner = owner or point.side
        if field in fields.SHOWN_ELSEWHERE:
            values[field] = value
        elif (owner, field) in fields.ALL:
            values[f"{owner}.{field}"] = fields.typed(owner, field, value)
        elif getattr(METHODS[owner], field, None) != value:  # a constant of the method
            raise Refused(words.NO_SUCH_SETTING.format(name=field))
    return values


def side_of(vlm, point: Point) -> Side:
    """The method or stack with exactly the point's settings.

    Raises:
        Refused: a setting that this version does not have.
    """
    return method_at(vlm, point.side, "balanced", **point.settings)


# -- events


def connect(models: Models, chosen, shown: Shown | None):
    """Connect the view's events."""
    if shown is None:
        return
    drawn = {"inputs": shown.drawn, "outputs": [*shown.drawing, shown.points]}
    on_draw = _drawing(shown)
    changed = [shown.skill.input, shown.group.input, shown.follow.input, shown.points.expand]
    gr.on(changed, on_draw, **drawn, trigger_mode="always_last", **SMALL)
    _trying(models, chosen, shown)
    lit = f'vp.lesson("{shown.table.elem_id}", "{run_state.SHOWN}", values)'
    ends = f'() => vp.lesson("{shown.table.elem_id}", "{run_state.UNFINISHED}")'
    begins = f"(...values) => vp.rested({lit}, {ends})"
    measuring = shown.again.click(
        _measuring(models, shown),
        [shown.picks, shown.count, *shown.drawn],
        [shown.table, shown.key, *shown.drawing],
        js=begins,
        show_progress_on=[shown.table],
        # A late update after Stop leaves the event pending in gradio's eyes: "once" would then
        # ignore the next click.
        trigger_mode="multiple",
        **OWN_TURN,
    )
    measuring.failure(None, js=ends, **PRIVATE)
    stopped = shown.stop.click(None, cancels=[measuring], js=ends, queue=False, **PRIVATE)
    stopped.then(on_draw, **drawn, **SMALL)  # the last answers are not in the plot yet
    _saving(shown)


def _drawing(shown: Shown):
    @plainly
    def on_curve(skill, group, follow, key):
        drawn = _draw(shown, skill, group, follow, _kept(shown, key))
        return *drawn, parts.points_html(shown.curve, skill)

    return on_curve


def _kept(shown: Shown, key) -> tuple[Standing | None, Sequence[int]]:
    """What this visitor measured here; nothing if it is no longer kept."""
    with contextlib.suppress(Refused):
        return shown.kept.find(key)
    return None, ()


def _draw(shown: Shown, skill, group, follow, kept) -> tuple:
    skill = shown.curve.skill(skill)
    series = parts.shown(shown.curve, group, follow)
    here = parts.stars(parts.measured(shown.curve, *kept), skill)
    chart = curve_chart(shown.curve, series, skill, follow, here)
    return chart, parts.told_html(shown.curve, series, skill)


def _trying(models: Models, chosen, shown: Shown):
    names = list(chosen.advanced.fields)

    @plainly
    def on_try(picks, event: gr.EventData):
        """Put a point's settings into the form; the browser then presses Run."""
        data = event._data if isinstance(event._data, dict) else {}
        number = shown.curve.number(data.get("point"))
        point = shown.curve.points[number]
        model, values = model_of(models, [point]), form_of(point)
        gr.Info(words.TRIED, duration=8)
        alike = [
            n for n in picks or [] if shown.curve.points[shown.curve.number(n)].model == point.model
        ]
        picks = [*dict.fromkeys([*alike, str(number)])]
        return [
            model, values["method"], [], values.get("semantics", gr.skip()),
            *(values.get(name, gr.skip()) for name in names),
            picks if len(picks) <= MOST_PICKS else gr.skip(),
        ]  # fmt: skip

    c = chosen
    form = [c.model, c.method, c.others, c.advanced.semantics, *c.advanced.fields.values()]
    tried = shown.points.select(on_try, shown.picks, [*form, shown.picks], **SMALL)
    tried.success(None, js="() => vpCurve.run()", **PRIVATE)


def _measuring(models: Models, shown: Shown) -> Callable:
    @plainly
    def on_recompute(picks, count, skill, group, follow, before):
        numbers = picked(shown.curve, picks)
        shown.kept.drop(before)
        key, drawn = None, time.monotonic()
        with closing(measure(models, shown.curve, numbers, count)) as states:
            for standing in states:
                table = parts.standing_html(shown.curve, standing, numbers)
                kept = standing, numbers
                new = key is None
                key = key or shown.kept.put(kept)
                plot = [gr.skip()] * len(shown.drawing)
                if new or standing.over or time.monotonic() - drawn > REDRAW:
                    plot, drawn = _draw(shown, skill, group, follow, kept), time.monotonic()
                yield table, key if new else gr.skip(), *plot

    return on_recompute


def picked(curve: Curve, picks) -> list[int]:
    """The numbers of the points to measure.

    Raises:
        Refused: none, too many, or an unknown one.
    """
    numbers = list(dict.fromkeys(curve.number(pick) for pick in picks or []))
    if not 1 <= len(numbers) <= MOST_PICKS:
        raise Refused(words.NO_PICKS.format(most=MOST_PICKS))
    return numbers


def measure(models: Models, curve: Curve, numbers: Sequence[int], count) -> Iterator[Standing]:
    """Ask the points' model `count` questions with each of them; one growing standing.

    Raises:
        Refused: a wrong number of questions, points of two models, a model that is not offered, or
            a setting that this version does not have.
    """
    key = (model_of(models, [curve.points[number] for number in numbers]), *HOW)
    asking, vlm = recompute.asking(count), models.get(*key)
    sides = {str(number): side_of(vlm, curve.points[number]) for number in numbers}
    names = recompute.columns_of(list(sides))
    columns = {names[0]: method_at(vlm, "none"), **sides}
    standing = Standing(names, len(asking))
    return recompute.growing(standing, models.asked(key, columns, asking))


def _saving(shown: Shown):
    makers = {
        "csv": parts.csv_file,
        "json": parts.json_file,
        "png": parts.png_file,
        "html": parts.html_file,
    }

    def saving(maker):
        @plainly
        def on_curve_save(skill, group, follow, key):
            skill = shown.curve.skill(skill)
            series = parts.shown(shown.curve, group, follow)
            here = parts.measured(shown.curve, *_kept(shown, key))
            drawn = {"shown": series, "skill": skill, "followed": follow}
            return maker(shown.curve, here, **drawn)

        return on_curve_save

    for kind, button in shown.saves.items():
        made = button.click(saving(makers[kind]), shown.drawn, shown.payload, **SMALL)
        save = "vpCurve.savePicture(file)" if kind == "png" else "vp.save(file)"
        made.success(None, shown.payload, None, js=f"(file) => {save}", **PRIVATE)
