"""Open a saved run again, without the model: what `ask --json` or the page's “Data (JSON)” wrote.

The results of `evaluate --jsonl` (results.json) open as well.

    python -m visipruner show FILE
    python -m visipruner show FILE --html REPORT --png PICTURE

Prints the answers, counters and verdicts as `ask` does, marked as recorded, with machine and date.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from visipruner.ask import describe, stay_quiet_and_offline
from visipruner.errors import Refused
from visipruner.files import check_place, print_whole, same_file, write_whole
from visipruner.recorded.evaluations import Evaluation


def add_options(show: argparse.ArgumentParser):
    """The options of the command."""
    show.add_argument("file", metavar="FILE", help="the saved run")
    show.add_argument("--html", metavar="OUT", help="write the report here")
    show.add_argument("--png", metavar="OUT", help="write the overlays here")


def run(args):
    """Read the file, write what was asked for, and print the run."""
    from visipruner.recorded.kinds import opened
    from visipruner.ui import downloads

    stay_quiet_and_offline()
    _check_places(args)
    saved = opened(Path(args.file))
    if isinstance(saved, Evaluation):
        return _show_evaluation(saved, args)
    if args.html:  # first, because printing may fail
        write_whole(Path(args.html), downloads.html_of(saved).encode())
    if args.png:
        write_whole(Path(args.png), downloads.png_of(saved))
    print_whole(words(saved))


def _show_evaluation(saved: Evaluation, args):
    from visipruner.evaluation import own_page, own_tables

    if args.png:
        raise Refused("The results of an evaluation hold no picture: leave out --png.")
    results = own_tables.opened(saved)
    if args.html:
        page = own_page.page(results, None, {"opened from": Path(args.file).name})
        write_whole(Path(args.html), page.encode())
    print_whole(f"{saved.label}\n\n{own_tables.markdown(results)}")


def words(saved) -> str:
    """A run in words, which begin with when and where it was recorded."""
    question = saved.comparison.prompt.question
    truth = [f"true answer: {saved.truth.answer}"] if saved.truth else []
    return "\n".join([saved.label, f"“{question}”", *truth, describe(saved.comparison)])


def _check_places(args):
    """Raise `Refused` if an output cannot be written, or would replace another file of the call."""
    named = {"FILE": args.file, "--html": args.html, "--png": args.png}
    places = [(name, Path(place)) for name, place in named.items() if place]
    for number, (name, place) in enumerate(places):
        if number:
            check_place(place)
        for earlier, other in places[:number]:
            if same_file(place, other):
                raise Refused(f"{name} and {earlier} are the same file; name another one.")
