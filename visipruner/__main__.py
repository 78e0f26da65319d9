"""All commands that need no browser: python -m visipruner COMMAND --help"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import tempfile
import traceback
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType

from visipruner.errors import Refused, short
from visipruner.versions import untested

# Each module has `add_options(parser)` and `run(options)`; only the named command is imported.
COMMANDS = {
    "doctor": ("visipruner.doctor", "what is installed, what would fit, what is missing"),
    "ask": ("visipruner.ask", "answer one question about one picture by several methods"),
    "show": ("visipruner.show", "a saved run again: words, report, overlays; no model"),
    "analyse": ("visipruner.analyse", "the paper's analyses of one picture, as files"),
    "lesson": ("visipruner.handout", "the page's lesson as a file to print"),
    "evaluate": (
        "visipruner.evaluation.evaluate",
        "how often a model is right; your own questions",
    ),
    "tradeoff": ("visipruner.evaluation.tradeoff", "accuracy against FLOPs, every method"),
    "dynamics": (
        "visipruner.evaluation.dynamics",
        "what the layers of the bundled model do with vision",
    ),
    "examples": ("visipruner.evaluation.typical", "choose the examples of the page, by a rule"),
    "calibrate": ("visipruner.evaluation.calibrate", "VisiPruner's levels for a model"),
    "train": ("visipruner.training.train", "train the bundled model"),
}


class Parser(argparse.ArgumentParser):
    """Argparse repeats a wrong argument in full; this parser shortens it."""

    def error(self, message: str):
        written = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?<=unrecognized arguments: ).+"""
        super().error(re.sub(written, lambda found: short(found[0]), message, flags=re.DOTALL))


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Returns 0, or what the command says; 2 after one sentence about bad input; 1 after a bug of
    ours.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        command, options = parse(arguments)
        if (line := untested()) and command.__name__ != COMMANDS["doctor"][0]:  # it says so
            print(f"note: {line}", file=sys.stderr)
        return command.run(options) or 0
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # a bug of this program: its text helps only developers
        print(f"Something went wrong; {_report(error)}.", file=sys.stderr)
        return 1


def parse(arguments: list[str]) -> tuple[ModuleType, argparse.Namespace]:
    """The module that carries out a command line, and its options.

    Raises:
        Refused: only the engine is installed.
        SystemExit: after --help, or if the options are wrong.
    """
    parser = Parser(
        prog="python -m visipruner",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:10} {words}" for name, (_, words) in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of these:")
    name = parser.parse_args(arguments[:1]).command
    if name != "doctor" and find_spec("visipruner.ui") is None:
        raise Refused("This command runs from a clone of the repository; pip installs the engine.")
    command = import_module(COMMANDS[name][0])
    parser = Parser(
        prog=f"python -m visipruner {name}",
        description=command.__doc__,
        formatter_class=_Help,
        allow_abbrev=not hasattr(command, "check_more"),
    )
    command.add_options(parser)
    if not hasattr(command, "check_more"):
        return command, parser.parse_args(arguments[1:])
    options, more = parser.parse_known_args(arguments[1:])  # more: flags of another program
    if more and (wrong := command.check_more(options, more)):
        parser.error(wrong)
    options.more = more
    return command, options


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Prints the module's docstring unchanged, and every default."""


def _report(error: Exception) -> str:
    """Write the traceback to a new file, and say where it is."""
    machine = [f"python {platform.python_version()} on {platform.platform()}\n"]
    machine += [f"{name} {metadata.version(name)}\n" for name in ("torch", "transformers")]
    told = traceback.format_exception(error)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="visipruner-report-", suffix=".txt", encoding="utf-8", delete=False
        ) as file:
            file.writelines([*machine, "\n", *told])
    except OSError:  # such as a full disk
        return f"no report could be written of {short(' '.join(told[-1].split()))}"
    return f"a report lies in {file.name}"


if __name__ == "__main__":
    sys.exit(main())
