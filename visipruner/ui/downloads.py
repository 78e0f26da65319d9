"""Files that are made on click and go straight to the browser: nothing is written on the server."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict, dataclass

from visipruner.choice import settings_of_side
from visipruner.render.overlay import draw_survivors
from visipruner.render.words import describe_agreement
from visipruner.running.results import Comparison
from visipruner.ui import scenes, text
from visipruner.ui.handlers import Job


@dataclass(frozen=True)
class Result:
    """The last comparison of one visit; keeping.py says how long it lives."""

    job: Job
    comparison: Comparison

    @property
    def settings(self) -> dict:
        form = self.job.form
        return {
            "model": form.model,
            "method": form.method,
            "methods": list(form.sides),
            "level": form.level,
            "semantics": form.semantics,
            "picture_mode": form.picture_mode,
            "fields": settings_of_side(self.job.methods[-1]),
            "options": asdict(self.job.options),
        }

    @property
    def stays(self) -> str:
        """What the patches that stay show, where it is known: in our own scenes."""
        job = self.job
        if job.scene is None:
            return ""
        return scenes.what_stays(job.scene, self.comparison, job.form.model == "tiny")

    @property
    def notes(self) -> list[str]:
        """What has to be said about the run, in words."""
        return [*self.job.notes, *filter(None, [self.stays])]


def as_json(result: Result) -> dict:
    """All answers, verdict, counters and traces with all settings and versions."""
    body = result.comparison.to_json()
    truth = result.job.truth
    body["truth"] = truth and {
        "answer": truth.answer,
        "right": [truth.fits(answer.text) for answer in result.comparison.answers],
    }
    return {"settings": result.settings, **body, "notes": result.notes}


def json_file(result: Result) -> dict:
    content = json.dumps(as_json(result), indent=1).encode()
    return _file("visipruner.json", "application/json", content)


def png_file(result: Result) -> dict:
    comparison, stream = result.comparison, io.BytesIO()
    small = "{model}, {dtype}, torch {torch}, transformers {transformers}"
    picture = draw_survivors(
        comparison.prompt.sheets,
        comparison.answers[-1].trace,
        small_print=small.format(**comparison.machine),
        asked=_asked(result),
    )
    picture.save(stream, "PNG")
    return _file("visipruner.png", "image/png", stream.getvalue())


def _asked(result: Result) -> str:
    """Question and answers, each on a line; the answer once if both are the same."""
    comparison = result.comparison
    said = [f"“{answer.text or text.EMPTY_ANSWER}”" for answer in comparison.answers]
    answers = f"{describe_agreement(comparison)}: {said[0]}"
    if not comparison.same:
        answers = f"{text.FULL}: {said[0]}\n{text.PRUNED}: {said[1]}"
    return f"“{comparison.prompt.question}”\n{answers}"


def html_file(result: Result) -> dict:
    from visipruner.render.report import report_html

    job = result.job
    truth = job.truth.answer if job.truth else ""
    page = report_html(result.comparison, result.settings, result.notes, truth)
    return _file("visipruner.html", "text/html", page.encode())


def _file(name: str, kind: str, content: bytes) -> dict:
    return {"name": name, "type": kind, "data": base64.b64encode(content).decode()}
