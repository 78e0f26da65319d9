"""Files made on click and sent straight to the browser: the server writes nothing to disk."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict, dataclass

from PIL import Image

from visipruner.choice import settings_of_side
from visipruner.models.catalogue import MODELS, drawn
from visipruner.recorded import runs
from visipruner.render.overlay import draw_survivors
from visipruner.render.words import describe_agreement
from visipruner.running.results import Answer, Comparison, Pair
from visipruner.ui import scenes, text
from visipruner.ui.handlers import Job
from visipruner.world.sources import Truth


@dataclass(frozen=True)
class Result:
    """A visitor's last comparison; keeping.py says how long the server keeps it."""

    job: Job
    comparison: Comparison
    label = ""  # a result from a file says so here (recorded/runs.py)

    @property
    def truth(self) -> Truth | None:
        return self.job.truth

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
            "fields": self._fields,
            "options": asdict(self.job.options),
        }

    @property
    def _fields(self) -> dict:
        """The settings of the method; with several methods, each one's settings by its name."""
        pairs, sides = self.comparison.pairs, self.job.methods[1:]
        if len(sides) == 1:
            return settings_of_side(sides[0])
        return {pair.name: settings_of_side(side) for pair, side in zip(pairs, sides, strict=True)}

    @property
    def stays(self) -> list[str]:
        """For each side but the baseline, what the surviving patches show; "" if unknown.

        Only scenes of the drawn world tell.
        """
        job, sides = self.job, range(1, len(self.comparison.answers))
        if job.scene is None:
            return [""] * len(sides)
        read = drawn(job.form.model) and MODELS[job.form.model].reads_by
        return [scenes.what_stays(job.scene, self.comparison, read, side) for side in sides]

    @property
    def notes(self) -> list[str]:
        """The run's notes as sentences."""
        pairs, stays = self.comparison.pairs, self.stays
        if len(pairs) > 1:
            named = zip(pairs, stays, strict=True)
            stays = [f"{pair.name}: {said}" for pair, said in named if said]
        return [*self.job.notes, *filter(None, stays)]


def as_json(result: Result | runs.Run) -> dict:
    """All answers, the verdict, counters and traces, with all settings and versions."""
    return runs.file_of(result)


def json_file(result: Result | runs.Run) -> dict:
    """The data and the picture: recorded/ opens it again without the model."""
    body = runs.with_picture(as_json(result), result.comparison.prompt)
    return file_of("visipruner.json", "application/json", runs.as_text(body).encode())


def png_file(result: Result | runs.Run) -> dict:
    return file_of("visipruner.png", "image/png", png_of(result))


def png_of(result: Result | runs.Run) -> bytes:
    """The overlays of every side but the baseline, one below the other."""
    comparison, stream = result.comparison, io.BytesIO()
    small = "{model}, {dtype}, torch {torch}, transformers {transformers}"
    small = "\n".join(filter(None, [small.format(**comparison.machine), result.label]))
    drawn = [
        draw_survivors(
            comparison.prompt.sheets,
            answer.trace,
            small_print=small,
            asked=_asked(comparison, answer),
        )
        for answer in comparison.answers[1:]
    ]
    _below_each_other(drawn).save(stream, "PNG")
    return stream.getvalue()


def _below_each_other(pictures: list[Image.Image]) -> Image.Image:
    size = max(one.width for one in pictures), sum(one.height for one in pictures)
    sheet, top = Image.new("RGB", size, "white"), 0
    for one in pictures:
        sheet.paste(one, (0, top))
        top += one.height
    return sheet


def _asked(comparison: Comparison, answer: Answer) -> str:
    """Question and answers, one per line; a single line if both answers are the same."""
    pair = Pair(comparison.answers[0], answer, outside=comparison.outside)
    said = [f"“{one.text or text.EMPTY_ANSWER}”" for one in pair.answers]
    answers = f"{describe_agreement(pair)}: {said[0]}"
    if not pair.same:
        answers = f"{text.FULL}: {said[0]}\n{text.PRUNED}: {said[1]}"
    return f"“{comparison.prompt.question}”\n{answers}"


def html_file(result: Result | runs.Run) -> dict:
    return file_of("visipruner.html", "text/html", html_of(result).encode())


def html_of(result: Result | runs.Run) -> str:
    """The report."""
    from visipruner.render.report import report_html

    truth = result.truth.answer if result.truth else ""
    given = result.settings, result.notes, truth, result.label
    return report_html(result.comparison, *given)


def file_of(name: str, kind: str, content: bytes) -> dict:
    """A file as page.js saves it."""
    return {"name": name, "type": kind, "data": base64.b64encode(content).decode()}
