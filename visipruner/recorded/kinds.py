"""Which kind of file this is, and how it is opened: one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from visipruner.errors import Refused
from visipruner.recorded.evaluations import read_evaluation
from visipruner.recorded.files import read, read_file
from visipruner.recorded.runs import Run, read_run

NOT_WHOLE = "This arena was stopped before its comparison was complete, so there is none to open."
NO_RUN = (
    "This file is {what}, which does not open here: a run of one question, an arena and the "
    "results of an evaluation do."
)
UNKNOWN = "This file is JSON, but not a saved run: it has no question with answers."


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Args:
        what: as a sentence calls it.
        is_it: data -> whether this is one.
        read: data -> the object that is shown; None: it is known, but does not open.
    """

    what: str
    is_it: Callable[[dict], bool]
    read: Callable[[dict], object] | None = None


def _arena(data: dict) -> Run:
    table = data["arena"]
    if not isinstance(table, dict) or not table.get("complete"):
        raise Refused(NOT_WHOLE)
    return read_run(data)


# The first that fits counts. A new kind is one line.
KINDS = (
    Kind("an arena", lambda data: "arena" in data and "answers" in data, _arena),
    Kind("a run", lambda data: "answers" in data and "question" in data, read_run),
    Kind("an evaluation", lambda data: "evaluation" in data and "table" in data, read_evaluation),
    Kind("a result of “Look inside”", lambda data: "analysis" in data or "analyses" in data),
    Kind("a measured curve", lambda data: "measured_here" in data),
)


def kind_of(data: dict) -> Kind:
    """The kind of a file by its content.

    Raises:
        Refused: it is none that is known.
    """
    for kind in KINDS:
        if kind.is_it(data):
            return kind
    raise Refused(UNKNOWN)


def opened(source: Path | bytes):
    """What a saved file holds, such as a `Run`.

    Args:
        source: a file, or its content.

    Raises:
        Refused: one sentence, whatever the file holds.
    """
    data = read(source) if isinstance(source, bytes) else read_file(source)
    kind = kind_of(data)
    if kind.read is None:
        raise Refused(NO_RUN.format(what=kind.what))
    return kind.read(data)
