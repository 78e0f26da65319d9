"""The drawn parts of the view "Cost and accuracy", and its files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from html import escape

from visipruner.evaluation.recompute import FEW, Standing
from visipruner.inputs import check_choice
from visipruner.render.curve import (
    ALL,
    BY_QUESTION,
    Curve,
    Measured,
    Point,
    Share,
    describe_curve,
    describe_source,
    group_of,
    variant_of,
)
from visipruner.render.curve_svg import curve_html, curve_svg
from visipruner.ui import curve_words as words
from visipruner.ui import text, views
from visipruner.ui.downloads import file_of

MOST_FEW = 6
BUNDLED = "tiny"  # the model that the curve is of


def shown(curve: Curve, group: str, followed: str) -> list[str]:
    """The series of a group, and the followed one.

    Raises:
        Refused: there is no such group or series, so the page did not send it.
    """
    check_choice("The group", group, [name for _, name in words.GROUPS])
    if followed:
        check_choice("The followed series", followed, curve.series)
    few = [series for series in curve.series if series in FEW] or curve.series[:MOST_FEW]
    return [
        series
        for series in curve.series
        if group in ("all", group_of(series)) or (group == "few" and series in few)
        or series == followed
    ]  # fmt: skip


def measured(curve: Curve, standing: Standing | None, numbers: Sequence[int]) -> list[Measured]:
    """What a standing adds to the plot: every column that has an answer.

    Args:
        numbers: of the curve's points, in the order of the columns after the unpruned one.
    """
    found = []
    for column, number in zip(standing.columns if standing else (), (None, *numbers), strict=False):
        tally = standing.tally(column)
        if tally.questions:
            share = Share(tally.questions, tally.right, tally.low, tally.high)
            title = text.FULL if number is None else curve.points[number].label
            found.append(Measured(number, title, share, tally.flops_cut, tally.difference))
    return found


def stars(here: Sequence[Measured], skill: str) -> Sequence[Measured]:
    """What the plot of a skill shows of them: they were measured over all skills together."""
    return here if skill == ALL else ()


# -- HTML


def head_html(curve: Curve) -> str:
    return f"<h2>{words.HEADING}</h2><p>{escape(describe_source(curve))}</p>"


def told_html(curve: Curve, shown: Sequence[str], skill: str = ALL) -> str:
    """The plot in sentences, and what is not plain in it, such as hollow marks."""
    hollow = any(point.untrained and point.series in shown for point in curve.points)
    asked = any(variant_of(series) == BY_QUESTION for series in shown)
    notes = [words.HOLLOW] * hollow + [words.BY_QUESTION] * asked
    note = "".join(f'<p class="vp-small">{escape(note)}</p>' for note in notes)
    return note + views.told(describe_curve(curve, shown, skill))


def points_html(curve: Curve, skill: str = ALL) -> str:
    """Every point with a button: what a click in the plot does, from the keyboard."""
    rows = "".join(
        _point_row(number, point, skill)
        for series in curve.series
        for number, point in curve.of(series)
    )
    return (
        f'<details class="vp-more vp-points"><summary>{words.POINTS}</summary>'
        f"{_table(words.POINTS_HEAD, rows, words.POINTS)}</details>"
    )


def _point_row(number: int, point: Point, skill: str) -> str:
    label = escape(words.TRY_LONG.format(label=point.label), quote=True)
    # The paired difference is of all skills together.
    difference = points_of(point.difference) if skill == ALL else "–"
    rival, final = point.rival, ""
    if point.final:
        share = point.final.shares[skill]
        final = f"<br>{_share(share)} of {share.questions:,}"
    cells = (
        f"{point.tokens:.0f}",
        f"{point.flops_cut:.1%}",
        _share(point.shares[skill]) + final,
        difference,
        f"{rival[0]:.0%} of {rival[1]}" if rival and skill == ALL else "–",
    )
    name = point.title + ", score untrained" * point.untrained
    return (
        f'<tr><th scope="row">{escape(name)}</th>{_cells(cells)}<td><button type="button" '
        f'data-point="{number}" aria-label="{label}">{words.TRY}</button></td></tr>'
    )


def standing_html(curve: Curve, standing: Standing, numbers: Sequence[int]) -> str:
    """The table that grows while points are measured here."""
    done, total = len(standing.rows), standing.total * len(standing.columns)
    line, say = words.MEASURING.format(done=done, total=total), words.BEGINS
    bar = (
        f'<progress class="{views.RUNNING}" max="{total}" value="{done}" '
        f'aria-label="{words.BEGINS}"></progress>'
    )
    end = f'<p class="vp-small {views.UNFINISHED}" data-say="{words.ENDED}">{words.ENDED}</p>'
    if standing.over:
        line = say = words.MEASURED.format(questions=standing.total)
        bar = end = ""
    rows = "".join(
        _standing_row(curve, standing, column, number, curve.points[numbers[0]].model)
        for column, number in zip(standing.columns, (None, *numbers), strict=True)
    )
    return (
        f'<p data-say="{say}"><b>{line}</b></p>{bar}'
        f"{_table(words.MEASURED_HEAD, rows, words.RECOMPUTE)}{end}"
    )


def _standing_row(
    curve: Curve, standing: Standing, column: str, number: int | None, model: str
) -> str:
    recorded = (curve.unpruned_of(model) if number is None else curve.points[number].shares)[ALL]
    title = text.FULL if number is None else curve.points[number].label
    told = f"{recorded.right:.1%} of {recorded.questions:,}"
    tally, nothing = standing.tally(column), words.NOTHING_MEASURED
    if tally.questions:
        share = _share(Share(tally.questions, tally.right, tally.low, tally.high))
        pruned = number is not None
        cells = (
            f"{tally.questions} of {standing.total}",
            share,
            points_of(tally.difference) if pruned and tally.difference else nothing,
            f"{tally.flops_cut:.1%}" if pruned else nothing,
            told,
        )
    else:
        cells = (f"0 of {standing.total}", *[nothing] * 3, told)
    return f'<tr><th scope="row">{escape(title)}</th>{_cells(cells)}</tr>'


def _table(head: Sequence[str], rows: str, label: str) -> str:
    return (
        f'<div class="vp-scroll" tabindex="0" role="region" aria-label="{label}">'
        f'<table class="vp-table"><thead><tr>{views.table_head(*head)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cells(cells: Sequence[str]) -> str:
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _share(share: Share) -> str:
    return f"{share.right:.1%} <span>({share.low:.1%} to {share.high:.1%})</span>"


def points_of(difference: tuple[float, float, float]) -> str:
    """A difference of shares in percentage points, with its interval."""
    mean, low, high = (100 * value for value in difference)
    if low == high:  # few questions: an interval of no width would look like certainty
        return f"{mean:+.1f} <span>({words.ALIKE})</span>"
    return f"{mean:+.1f} <span>({low:+.1f} to {high:+.1f})</span>"


# -- files


def csv_rows(curve: Curve, here: Sequence[Measured] = ()) -> list[dict]:
    """One row per point and measurement, recorded ones first; every row has the same names."""
    full = curve.unpruned
    rows = [_row("recorded", "", "unpruned", "none", "", full, 0.0, None)]
    for point in curve.points:
        for one in filter(None, (point, point.final)):
            row = _row(
                "recorded", point.model, one.name, one.side, one.tokens, one.shares, one.flops_cut,
                one.difference,
            )  # fmt: skip
            rows.append(row | {"untrained": one.untrained, "settings": json.dumps(one.settings)})
    picks = [curve.points[one.number] for one in here if one.number is not None]
    model = picks[0].model if picks else ""  # all are of one
    for one in here:
        point = None if one.number is None else curve.points[one.number]
        name, side = (point.name, point.side) if point else ("unpruned", "none")
        difference = one.difference if point else None
        shares = {ALL: one.share}
        rows.append(_row("here", model, name, side, "", shares, one.flops_cut, difference))
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in names} for row in rows]


def _row(
    where: str, model: str, point: str, side: str, tokens, shares, cut: float, difference
) -> dict:
    share, (mean, low, high) = shares[ALL], difference or ("", "", "")
    return {
        "measured": where,
        "model": model or BUNDLED,
        "point": point,
        "method": side,
        "tokens_per_layer": tokens,
        "flops_cut": cut,
        "questions": share.questions,
        "right": share.right,
        "low": share.low,
        "high": share.high,
        "difference": mean,
        "difference_low": low,
        "difference_high": high,
        **{f"right: {skill}": one.right for skill, one in shares.items() if skill != ALL},
    }


def csv_file(curve: Curve, here: Sequence[Measured], **_) -> dict:
    stream, rows = io.StringIO(), csv_rows(curve, here)
    writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file_of("visipruner-curve.csv", "text/csv", stream.getvalue().encode())


def json_file(curve: Curve, here: Sequence[Measured], **_) -> dict:
    """The recorded file as it is, and beside it what was measured on the page."""
    now = [row for row in csv_rows(curve, here) if row["measured"] == "here"]
    content = json.dumps({"recorded": curve.source, "measured_here": now}, indent=1)
    return file_of("visipruner-curve.json", "application/json", content.encode())


def png_file(curve: Curve, here: Sequence[Measured], **drawn) -> dict:
    """An SVG, which page.js turns into a PNG: no drawing program is needed on the server."""
    svg = curve_svg(curve, measured=stars(here, drawn["skill"]), **drawn)
    return file_of("visipruner-curve.png", "image/svg+xml", svg.encode())


def html_file(curve: Curve, here: Sequence[Measured], **drawn) -> dict:
    svg = curve_svg(curve, measured=stars(here, drawn["skill"]), **drawn)
    rows = csv_rows(curve)
    page = curve_html(curve, rows, svg, here)
    return file_of("visipruner-curve.html", "text/html", page.encode())
