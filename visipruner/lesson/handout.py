"""A whole lesson on paper: a sheet to predict on, what was found, and the teacher's pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from visipruner.lesson.draw import Drawing, picture_url
from visipruner.lesson.plan import Plan, Prediction, Step
from visipruner.lesson.play import Row, Shown, Table
from visipruner.render.report import document
from visipruner.sheets import Sheet

_LETTERS = "ABCDEF"
_STYLE = """
.step { break-inside: avoid; display: flow-root; margin: 0 0 1.6em; }
.asked { display: grid; grid-template-columns: 190px 1fr; gap: 1.2em; align-items: start; }
.asked img { width: 100%; } .asked h2 { margin-top: 0; }
.choices { list-style: none; padding: 0; } .choices li::before { content: "☐ "; font-size: 1.3em; }
.many { display: flex; flex-wrap: wrap; gap: .4em; clear: both; }
.many figure { margin: 0; width: 128px; text-align: center; font-size: .8em; }
.many img { width: 100%; }
.few figure { width: 250px; font-size: 1em; }
td, th { border: 1px solid #999; padding: .2em .5em; } table { border-collapse: collapse; }
.part { break-before: page; }
.right { color: #00664a; font-weight: 700; } .wrong { color: #9c2c2c; font-weight: 700; }
"""


def page_of(plan: Plan, found: Sequence[tuple[Shown, Sequence[Sheet]]], model: str) -> str:
    """The lesson as one HTML file that needs no network.

    Args:
        found: what each step revealed, and the sheets of its prompt.
        model: the title of the model that ran.
    """
    steps = list(zip(plan.steps, found, strict=True))
    minutes = round(sum(step.minutes for step in plan.steps))
    body = [
        f"<style>{_STYLE}</style><h1>{escape(plan.title)}</h1><p>{escape(plan.about)}</p>",
        f"<p>{minutes} minutes. Model: {escape(model)}. Name: ______________________</p>",
        *(_asking(number, step) for number, step in enumerate(plan.steps, 1)),
        *(["<h2>Three questions at the end</h2>"] if plan.quiz else []),
        *(f"<div class='step'>{_choices(one)}</div>" for one in plan.quiz),
        '<h1 class="part">What was found</h1>',
        *(_told(number, step, *seen) for number, (step, seen) in enumerate(steps, 1)),
        '<h1 class="part">For the teacher</h1>',
        *(_notes(f"{number}. {step.title}", step.predict, step.notes)
          for number, step in enumerate(plan.steps, 1)),
        *(_notes("Quiz", one, one.why) for one in plan.quiz),
    ]  # fmt: skip
    return document(plan.title, body)


def _asking(number: int, step: Step) -> str:
    url = picture_url(step.image())
    return (
        f'<div class="step asked"><img src="{url}" alt="The picture of this step."><div>'
        f"<h2>{number}. {escape(step.title)}</h2><p><b>“{escape(step.question)}”</b></p>"
        f"<p>{escape(step.say)}</p>{_choices(step.predict)}</div></div>"
    )


def _choices(one: Prediction) -> str:
    lines = "".join(
        f"<li>{letter}. {escape(words)}</li>"
        for letter, words in zip(_LETTERS, one.choices, strict=False)
    )
    return f'<p><b>{escape(one.ask)}</b></p><ul class="choices">{lines}</ul>'


def _told(number: int, step: Step, shown: Shown, sheets: Sequence[Sheet]) -> str:
    parts = [f"<h2>{number}. {escape(step.title)}</h2><p>“{escape(step.question)}”</p>"]
    if shown.rows:
        parts.append(f"<ul>{''.join(f'<li>{_answer(row)}</li>' for row in shown.rows)}</ul>")
    if shown.slider and any(frame.rows for frame in shown.frames):
        parts.append(_strip(shown))
    parts += [_bill(bill) for bill in shown.bills]
    parts += [_table(shown.table)] if shown.table else []
    parts.append(_pictures(shown, Drawing(sheets)))
    parts.append(f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in step.told)}</ul>")
    parts.append(f"<p><small>{escape(step.paper)}</small></p>" if step.paper else "")
    parts.append(f"<p><b>Try it.</b> {escape(step.attempt.say)}</p>")
    return f'<div class="step">{"".join(parts)}</div>'


def _answer(row: Row) -> str:
    stayed = f" <small>({escape(row.stayed)})</small>" if row.stayed else ""
    return f"{escape(row.name)}: <b>{escape(row.answer)}</b> {_verdict(row)}{stayed}"


def _verdict(row: Row) -> str:
    if row.right is not None:
        return (
            f'<span class="{"right" if row.right else "wrong"}">{"✓" if row.right else "✗"}</span>'
        )
    return "" if row.same is None else "(same)" if row.same else "(differs)"


def _strip(shown: Shown) -> str:
    labels = "".join(f"<th>{escape(frame.label)}</th>" for frame in shown.frames)
    lines = [f"<tr><th>{escape(shown.slider)}</th>{labels}</tr>"]
    for number, first in enumerate(shown.frames[0].rows):
        cells = "".join(
            f"<td>{escape(frame.rows[number].answer)} {_verdict(frame.rows[number])}</td>"
            for frame in shown.frames
        )
        lines.append(f"<tr><th>{escape(first.name)}</th>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _bill(bill) -> str:
    lines = "".join(
        f"<li>{escape(bar.name)}: <b>{bar.share:.0%}</b> for the picture ({escape(bar.words)})</li>"
        for bar in bill.bars
    )
    return f"<p><b>{escape(bill.title)}</b></p><ul>{lines}</ul>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(words)}</th>" for words in table.head)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(words)}</td>' for words in row)}</tr>" for row in table.rows
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _pictures(shown: Shown, drawing: Drawing) -> str:
    """Every place of the slider, small, a row for each side; a step without a slider, larger."""
    rows: dict[str, list[str]] = {}
    for frame in shown.frames:
        for one in frame.pictures:
            drawn = drawing.picture(one)
            where = f", {shown.slider.lower()} {frame.label}" if shown.slider else ""
            rows.setdefault(one.title, []).append(
                f'<figure><img src="{drawn["src"]}" alt="{escape(drawn["alt"], quote=True)}">'
                f"<figcaption>{escape(drawn['title'] + where)}</figcaption></figure>"
            )
    few = "" if shown.slider else " few"
    return "".join(f'<div class="many{few}">{"".join(row)}</div>' for row in rows.values())


def _notes(title: str, one: Prediction, notes: str) -> str:
    letter, words = _LETTERS[one.right], one.choices[one.right]
    return (
        f'<div class="step"><h3>{escape(title)}</h3><p>{escape(one.ask)} '
        f"<b>{letter}. {escape(words)}</b></p><p>{escape(notes)}</p></div>"
    )
