"""Results written to files: the whole file or none."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_place(path: Path):
    """Refuse a place where no file can come to lie, before the work for it begins.

    Raises:
        ValueError: one sentence, naming the place.
    """
    if not path.absolute().parent.is_dir():
        raise ValueError(f"There is no folder for {str(path)!r}.")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; name a file in it.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{str(path)!r} is no ordinary file; name another one.")


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
        raise ValueError(f"{str(path)!r} could not be written: {error.strerror}.") from None
