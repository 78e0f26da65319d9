"""A saved file as plain values: JSON of a bounded size, whatever it was meant to be."""

from __future__ import annotations

import json
from pathlib import Path

from visipruner.errors import Refused
from visipruner.files import shown

MOST_BYTES = 100_000_000
MOST_VALUES = 6_000_000
MOST_PARTS = 300_000  # lists and objects: each costs far more memory than its two brackets


def read_file(path: Path) -> dict:
    """The object in a JSON file.

    Raises:
        Refused: one sentence: no file, too large, or no JSON object.
    """
    try:
        if path.is_dir():
            raise Refused(f"{shown(path)} is a folder; name the file of a saved run.")
        if not path.is_file():  # also keeps out devices and pipes, which may never end
            raise Refused(f"There is no file {shown(path)}.")
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
        if isinstance(error, Refused):
            raise
        reason = getattr(error, "strerror", None) or "its name is impossible"
        raise Refused(f"{shown(path)} cannot be read: {reason}.") from None
    return read(content)


def read(content: bytes) -> dict:
    """The object in the content of a JSON file.

    Raises:
        Refused: as `read_file`.
    """
    if len(content) > MOST_BYTES:
        raise Refused(f"This file has more than {MOST_BYTES // 10**6} MB, so it is no saved run.")
    if not content.strip():
        raise Refused("This file is empty.")
    parts = content.count(b"[") + content.count(b"{")
    if parts > MOST_PARTS or content.count(b",") > MOST_VALUES:
        raise Refused("This file holds more values than any saved run.")
    try:
        value = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse)
    except Refused:
        raise
    except (ValueError, RecursionError):  # also bytes that are no text, and endless numbers
        raise Refused(
            "This file is not JSON, or only a part of it: a saved run is what “Data (JSON)” or "
            "--json wrote."
        ) from None
    if not isinstance(value, dict):
        raise Refused("This file is JSON, but not a saved run.")
    return value


def _refuse(name: str):
    raise Refused(f"This saved run is damaged: it holds {name} in place of a number.")
