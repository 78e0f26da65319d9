"""Results written to files: the whole file or none."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_place(path: Path):
    """Refuse a place where no file can come to lie, before the work for it begins.

    Raises:
        ValueError: one sentence, naming the place.
    """
    try:
        in_folder, is_folder = path.absolute().parent.is_dir(), path.is_dir()
        is_odd = path.exists() and not path.is_file()
    except OSError as error:  # a name that is too long, or a folder that is closed
        raise ValueError(f"{shown(path)} cannot be written: {error.strerror}.") from None
    if not in_folder:
        raise ValueError(f"There is no folder for {shown(path)}.")
    if is_folder:
        raise ValueError(f"{shown(path)} is a folder; name a file in it.")
    if is_odd:
        raise ValueError(f"{shown(path)} is no ordinary file; name another one.")


def shown(path: Path) -> str:
    """A path for a sentence; of a very long one the end."""
    name = str(path)
    return repr(name if len(name) <= 200 else "..." + name[-100:])


def write_whole(path: Path, text: str):
    """All of it or nothing: a half-written file must not be found later.

    Raises:
        ValueError: one sentence, naming the file and what stood in the way.
    """
    check_place(path)
    try:
        # In the same folder, and so on the same disk: else it could not be moved in one step.
        with tempfile.TemporaryDirectory(dir=path.absolute().parent) as folder:
            part = Path(folder) / path.name
            part.write_text(text)
            part.replace(path)
    except OSError as error:
        raise ValueError(f"{shown(path)} could not be written: {error.strerror}.") from None
