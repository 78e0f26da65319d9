"""A few general questions about any picture, which `calibrate --pictures` asks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from visipruner.errors import Refused
from visipruner.evaluation import own_command
from visipruner.files import growing, shown
from visipruner.inputs import FORMATS, check_picture

# Asked of each picture. Short answers: a long one differs by a word without meaning another thing.
PLEA = "Answer the question using a single word or phrase."
GENERAL = (
    "What is the main thing in this picture?",
    "Which colour is the main thing?",
    "How many things are in this picture?",
    "Where in the picture is the main thing?",
    "Is this indoors or outdoors?",
)


def write_questions(pictures: Path, path: Path) -> int:
    """Write the general questions about every picture in a folder, and those below it.

    Returns:
        How many pictures cannot be read; each is named.

    Raises:
        Refused: there is none, or the file cannot be written.
    """
    if not pictures.is_dir():
        raise Refused(f"There is no folder {shown(pictures)} with pictures.")
    count, left_out = 0, 0
    with growing(path) as file:
        for picture in _pictures(pictures):
            try:
                check_picture(picture)
            except Refused as error:
                own_command.say(f"left out: {shown(picture)}: {error}")
                left_out += 1
                continue
            count += 1
            for question in GENERAL:
                asked = {"picture": str(picture.absolute()), "question": f"{question} {PLEA}"}
                file.write(f"{json.dumps(asked)}\n".encode())
        if not count:
            raise Refused(f"{shown(pictures)} has no pictures; {', '.join(FORMATS)} are read.")
    return left_out


def _pictures(folder: Path) -> Iterator[Path]:
    """Every picture file, in order."""
    endings = {end for end, kind in Image.registered_extensions().items() if kind in FORMATS}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in endings:
                yield Path(place, name)
