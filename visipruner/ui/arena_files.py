"""The arena's files: a table, the data, the pictures side by side, and a report."""

from __future__ import annotations

import io
import json

from visipruner.choice import settings_of_side
from visipruner.errors import Refused
from visipruner.recorded.runs import with_picture
from visipruner.render import arena
from visipruner.render.arena_files import arena_report, side_by_side
from visipruner.render.values import viewer_start
from visipruner.running.results import Comparison
from visipruner.ui import text
from visipruner.ui.contest import Contest
from visipruner.ui.downloads import file_of


def settings(made: Contest) -> dict:
    """What was wished, and the settings that each method made of it."""
    form = made.job.form
    return {
        "model": form.model,
        "budget": {"mean_tokens_per_layer": made.tokens},
        "methods": [entry.words for entry in made.entries],
        "fields": {e.words: settings_of_side(e.side) for e in made.entries if e.side},
        "picture_mode": form.picture_mode,
        "options": form.options,
    }


def as_json(made: Contest) -> dict:
    """All that has finished: as `Comparison.to_json`, with the arena's own table and overlaps.

    A run that was stopped before the baseline finished compares nothing, and has no pairs.
    """
    done, truth = _finished(made), made.job.truth
    comparison = made.comparison or Comparison(
        made.job.prompt,
        [entry.answer for entry in done],
        None,
        {},
        tuple(entry.words for entry in done),
    )
    body = comparison.to_json()
    if made.entries[0].answer is None:
        for name in ("same_answer", "flops_ratio", "first_token_ratio"):
            del body[name]
        body["pairs"] = []
    body["truth"] = truth and {
        "answer": truth.answer,
        "right": [truth.fits(entry.answer.text) for entry in done],
        "facts": [list(truth.facts(entry.answer.text)) for entry in done],
    }
    for answer, entry in zip(body["answers"], done, strict=True):
        trace = entry.answer.trace
        answer |= {"presence": trace.presence(), "last_kept": arena.last_kept(trace)}
    names = [entry.words for entry in made.entries]
    overlaps = [
        pair | {"first": names[pair["first"]], "second": names[pair["second"]]}
        for pair in made.pairs
    ]
    table = {"complete": made.comparison is not None, "table": arena.table(made.shown)}
    return {"settings": settings(made), **body, "arena": {**table, "overlaps": overlaps}}


def csv_file(made: Contest) -> dict:
    _finished(made)
    return file_of("arena.csv", "text/csv", arena.csv_text(made.shown).encode())


def json_file(made: Contest) -> dict:
    body = with_picture(as_json(made), made.job.prompt)
    content = json.dumps(body, indent=1).encode()
    return file_of("arena.json", "application/json", content)


def png_file(made: Contest) -> dict:
    _finished(made)
    stream = io.BytesIO()
    asked = made.asked
    head = f"{asked['question']}\n{asked['words']}. {asked['truth']}"
    side_by_side(made.job.prompt.sheets, made.shown, head).save(stream, "PNG")
    return file_of("arena.png", "image/png", stream.getvalue())


def html_file(made: Contest) -> dict:
    done = _finished(made)
    trace = done[0].answer.trace
    start = viewer_start(made.job.prompt, len(trace.layers))
    value = arena.board_value(start, made.shown, made.asked, made.pairs, True)
    machine = made.comparison.machine if made.comparison else {}
    page = arena_report(value, made.shown, settings(made), machine)
    return file_of("arena.html", "text/html", page.encode())


def _finished(made: Contest) -> list:
    if not made.finished:
        raise Refused(text.NO_RESULT)
    return made.finished


MAKERS = {"csv": csv_file, "json": json_file, "png": png_file, "html": html_file}
