"""The files that an evaluation of questions of one's own leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

from visipruner.errors import Refused
from visipruner.evaluation import own_page, own_tables
from visipruner.evaluation.matching import same
from visipruner.evaluation.own import Told
from visipruner.evaluation.own_tables import Results
from visipruner.files import NotWritten, write_whole

ANSWERS = "answers.jsonl"
FILES = ("results.csv", "results.json", "results.md", "results.html", ANSWERS)


def answer_line(told: Told, file: Path) -> bytes:
    """A question's line of answers.jsonl."""
    line, first = told.line, next(iter(told.rows.values()))
    found = {
        "line": line.number,
        "picture": os.path.relpath(line.picture, file.parent),
        "question": line.question,
        "answers": line.answers,
        "tags": line.tags,
        "said": {
            name: {
                "answer": row["answer"],
                "right": row["score"],
                "same": same(row["answer"], first["answer"]),
                "flops_cut": round(1 - row["flops"] / first["flops"], own_tables.DIGITS),
                "tokens": row["tokens"],
                "filtered_after": row["filtered"],
                "vision_left_after": row["left"],
            }
            for name, row in told.rows.items()
        },
    }
    return _bytes(json.dumps(found, ensure_ascii=False) + "\n")


def write(folder: Path, results: Results, gallery: own_page.Gallery, settings: dict):
    """Write the files of the results.

    Raises:
        Refused: a file cannot be written; the answers are kept.
    """
    texts = {
        "results.csv": own_tables.csv_text(results),
        "results.json": own_tables.json_text(results),
        "results.md": own_tables.markdown(results),
        "results.html": own_page.page(results, gallery, settings),
    }
    for name, text in texts.items():
        try:
            write_whole(folder / name, _bytes(text))
        except NotWritten as error:
            raise Refused(
                f"{error} All answers are kept; the same command writes the results."
            ) from None


def _bytes(text: str) -> bytes:
    """As UTF-8; a letter of a file's name that is none in UTF-8 is written as in JSON: \\udcff."""
    return text.encode("utf-8", "backslashreplace")
