"""Results written to files: the whole file or none."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from visipruner.errors import MOST_QUOTED, Refused

ROOT = Path(__file__).resolve().parent.parent  # of the project


class NotWritten(Refused):
    """A file could not be written, such as on a full disk."""


def check_place(path: Path):
    """Refuse a path that cannot be written, before the work begins.

    Raises:
        Refused: one sentence, naming the path.
    """
    place = _real(path)
    try:
        in_folder, is_folder = place.parent.is_dir(), place.is_dir()
        is_odd = place.exists() and not place.is_file()
    except OSError as error:  # the name is too long, or the folder is closed
        raise Refused(f"{shown(path)} cannot be written: {error.strerror}.") from None
    if not in_folder:
        raise Refused(f"There is no folder for {shown(path)}.")
    if is_folder:
        raise Refused(f"{shown(path)} is a folder; name a file in it.")
    if is_odd:
        raise Refused(f"{shown(path)} is no ordinary file; name another one.")


def same_file(one: Path, other: Path) -> bool:
    """Do both name the same file? It need not exist."""
    if os.path.exists(one) and os.path.exists(other):
        return os.path.samefile(one, other)
    return _real(one) == _real(other)


def _real(path: Path) -> Path:
    """The target of a symbolic link: writing replaces the target and keeps the link."""
    return Path(os.path.realpath(path))


def shown(path: Path) -> str:
    """A path for a sentence: inside the project from its root, elsewhere only the last part.

    Visitors of a page must not learn where a server keeps its files. A relative path is shown as
    given; a long path is cut to its end.
    """
    if path.is_absolute():
        path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(path.name or path)
    name = str(path)
    return repr(name if len(name) <= MOST_QUOTED else "…" + name[1 - MOST_QUOTED :])


def named(folder: Path) -> str:
    """A checkpoint's name for a sentence: its folder, or its repository in the hub's cache."""
    cached = folder.parent.parent.name  # models--OWNER--NAME/snapshots/COMMIT
    if folder.parent.name == "snapshots" and cached.startswith("models--"):
        return repr(cached.removeprefix("models--").replace("--", "/"))
    return shown(folder)


def write_whole(path: Path, text: str | bytes):
    """Write the whole text, as UTF-8, or bytes, or nothing: no half-written file remains.

    Raises:
        NotWritten: one sentence, naming the file and the obstacle.
        Refused: as `check_place`.
    """
    with growing(path) as file:
        file.write(text if isinstance(text, bytes) else text.encode())


@contextmanager
def growing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to inside; it gets its name at the end. If anything fails, nothing remains.

    Raises:
        NotWritten: as `write_whole`.
    """
    check_place(path)
    place = _real(path)
    try:
        # In the same folder, so on the same disk: only then can it be moved in one step.
        with tempfile.TemporaryDirectory("", f"{place.name[:40]}-part-", place.parent) as folder:
            part = Path(folder) / place.name
            with open(part, "wb") as file:
                yield file
            part.replace(place)
    except OSError as error:
        raise NotWritten(f"{shown(path)} could not be written: {error.strerror}.") from None


def print_whole(text: str):
    """Print a command's result. A closed pipe, as with `head`, is no error.

    Raises:
        Refused: one sentence, if it cannot be printed.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _print_no_more()
    except UnicodeEncodeError as error:
        letter = error.object[error.start]
        raise Refused(
            f"The output's encoding, {error.encoding}, has no {letter!a}: "
            "set PYTHONIOENCODING=utf-8."
        ) from None
    except OSError as error:
        _print_no_more()
        raise Refused(f"The result could not be printed: {error.strerror}.") from None


def _print_no_more():
    """Discard the buffer, which would fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
