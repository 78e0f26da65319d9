"""A lesson on paper: runs every step, and writes one HTML file to print.

python -m visipruner lesson
python -m visipruner lesson --lesson FILE --out DIR/lesson.html
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from visipruner.files import check_place, print_whole, write_whole
from visipruner.models.console import stay_quiet_and_offline


def add_options(parser: argparse.ArgumentParser):
    """The options of the command."""
    parser.add_argument("--lesson", metavar="FILE", help="another lesson than the page's own")
    parser.add_argument("--out", metavar="FILE", default="lesson.html", help="the file to write")
    parser.add_argument("--model-path", metavar="DIR", help="a local checkpoint that it may name")
    parser.add_argument("--device", help="cpu or cuda; the default is a GPU if there is one")


def run(args):
    """Run the lesson and write it.

    Raises:
        Refused: the lesson is wrong, or its model is not here.
    """
    from visipruner.lesson.handout import page_of
    from visipruner.lesson.reading import BUNDLED, read
    from visipruner.ui.lesson import shown_of
    from visipruner.ui.store import Models

    stay_quiet_and_offline()
    plan, out = read(args.lesson or BUNDLED), Path(args.out)
    check_place(out)
    models, found = Models(args.model_path, args.device), []
    for number, step in enumerate(plan.steps, 1):
        sys.stderr.write(f"step {number} of {len(plan.steps)}: {step.title}\n")
        for job, shown in shown_of(models, plan, step):  # noqa: B007 - the last one is whole
            pass
        found.append((shown, job.prompt.sheets))
    write_whole(out, page_of(plan, found, models.titles[plan.model]))
    print_whole(f"{plan.title}: {len(found)} steps, {out.name}")
