"""The one public endpoint. It checks everything that it receives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from gradio import FileData
from gradio_client.utils import is_file_obj_with_meta

from visipruner.choice import parse_sides
from visipruner.errors import Refused
from visipruner.ui import text
from visipruner.ui.downloads import Result, as_json
from visipruner.ui.handlers import Form, check, check_input
from visipruner.ui.store import Models

RUN_OPTIONS = ("max_new_tokens", "temperature", "seed", "probe", "clock_rounds")
FORM_OPTIONS = ("semantics", "picture_mode", "backend", "precision", "fields", "methods")
# Gradio can end a call (cancelled, or the client has left) only where the call yields.
BEAT_SECONDS = 0.25


def endpoint(models: Models):
    """Make `/compare` for these models."""

    def compare(
        picture: FileData | None = None,
        question: str | None = None,
        model: str | None = None,
        method: str = "visipruner",
        level: str | float = "balanced",
        options: dict | None = None,
    ) -> Iterator[dict | None]:
        """Answer a question about a picture with the full and the pruned model.

        The stream yields null while the model runs. The last value is the result.

        Args:
            picture: an uploaded picture file: gradio_client.handle_file("picture.png").
            question: 1 to 1000 characters.
            model: a model of this server's menu; null: the model that the page selects at first.
            method: a name, such as visipruner, fastv or none. ONE+OTHER is a stack. METHOD:LEVEL
                sets a level. METHOD@TOKENS and METHOD@25% set a budget: mean visual tokens per
                layer.
            level: gentle, balanced, aggressive, or a number from 0 (keep all) to 1.
            options: semantics, picture_mode, backend, precision, fields {name: value},
                max_new_tokens, temperature, seed, probe, clock_rounds. Also methods [words], which
                replaces method: the baseline, then up to four methods, each written like method.

        Returns:
            settings; answers with name, text, times, counts and trace; pairs of the first answer
            and each other answer, with same_answer and ratios (the last pair's fields also at the
            top level); machine.
        """
        model = models.default if model is None else model
        yield from _answer(models, read(picture, question, model, method, level, options))

    return compare


def _answer(models: Models, form: Form) -> Iterator[dict | None]:
    check_input(form)  # an empty request loads no model
    yield None  # if the client has already left, the call ends here
    job = check(models, form)
    said = time.monotonic()
    with closing(job.run()) as events:
        for event in events:
            comparison = event.comparison
            if time.monotonic() - said > BEAT_SECONDS:
                yield None
                said = time.monotonic()
    yield as_json(Result(job, replace(comparison, words=form.methods)))


def read(picture, question, model, method, level, options) -> Form:
    """Make a form from a caller's values.

    Raises:
        Refused: one sentence about the first value of the wrong kind.
    """
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise Refused(text.OPTIONS_KIND)
    known = (*RUN_OPTIONS, *FORM_OPTIONS)
    if not set(options) <= set(known):
        raise Refused(text.OPTIONS_UNKNOWN.format(known=", ".join(known)))
    run = {name: options[name] for name in RUN_OPTIONS if name in options}
    if not isinstance(run.get("probe", True), bool):
        raise Refused(text.PROBE_KIND)
    more = {name: options[name] for name in FORM_OPTIONS if name in options}
    if not isinstance(more.get("fields", {}), dict):
        raise Refused(text.FIELDS_KIND)
    if "methods" in more and more.get("fields"):
        raise Refused(text.FIELDS_OF_MANY)
    if "methods" in more:
        parse_sides(more["methods"])
        more["methods"] = tuple(more["methods"])
    return Form(_path(picture), question, model, method, level, **more, options=run)


def _path(picture) -> str | None:
    """The file of an upload. Gradio has checked only such a file to lie in the upload folder."""
    if picture is None:
        return None
    if not is_file_obj_with_meta(picture):
        raise Refused(text.PICTURE_KIND)
    return picture["path"]
