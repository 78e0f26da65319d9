"""Measure: python -m visipruner.bench [--quick] [--methods | --observers] [--json FILE]
                                    [--markdown FILE]

Every scenario runs all contestants in turn, round after round, in one process after a warm-up. The
report has medians and quartiles of the rounds, and ratios of medians against the dense model.
Nothing else should run on the machine. `--contestants` and `--measure` split a long measurement.

--methods measures every method and some stacks at one budget instead, on a whole model with its
vision tower: speed-up against FLOP ratio, the method's own cost, the cache. Names split it.

--observers measures watching instead: a prefill with each observer of "Look inside" on all layers
and, for the bundled model, the seconds of each whole analysis and of all together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from visipruner.bench.comparing import run_comparisons, run_presets
from visipruner.bench.contestants import MEASURES, NAMES, contestants
from visipruner.bench.every_method import BUDGET, run_methods, wishes
from visipruner.bench.floor import roofline
from visipruner.bench.observers import run_observers
from visipruner.bench.report import machine, markdown
from visipruner.bench.scenarios import SHAPES, VISUAL, Scenario, dtype_of, scenario
from visipruner.bench.whole import whole
from visipruner.errors import Refused
from visipruner.files import check_place, print_whole, same_file, write_whole
from visipruner.inputs import check_number
from visipruner.models.loading import usable_device

REQUEST = 32  # tokens
MOST_VISUAL = 4000  # the shapes have 4096 positions, which text and requests use too


def run(
    where: Scenario,
    rounds: int,
    names: list[str] | None = None,
    measures: tuple[str, ...] = MEASURES,
    tokens: int = REQUEST,
) -> list[dict]:
    """The results of a scenario's contestants, interleaved; requests decode `tokens` tokens."""
    field = contestants(where, names)
    for contestant in field:
        contestant.learn()
    timed = set(measures) - {"memory"}
    for turn in range(rounds if timed else 0):
        for contestant in field if turn % 2 == 0 else reversed(field):
            contestant.round(measures, tokens)
        print(f"  round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    if "memory" in measures:
        for contestant in field:
            contestant.weigh()
    return [contestant.result(field[0]) for contestant in field]


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="python -m visipruner.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--quick", action="store_true", help="bundled model, as with --compare, in two minutes"
    )
    options.add_argument("--scenario", nargs="+", choices=["tiny", *SHAPES], default=["tiny"])
    options.add_argument("--visual", nargs="+", type=int, default=[VISUAL], help="visual tokens")
    options.add_argument("--contestants", nargs="+", choices=NAMES, default=None)
    options.add_argument("--measure", nargs="+", choices=MEASURES, default=MEASURES)
    options.add_argument(
        "--methods", nargs="*", metavar="NAME", help="every method at one budget, or these"
    )
    options.add_argument(
        "--budget",
        default=None,
        help=f"of --methods: TOKENS or a share (default: {BUDGET.replace('%', '%%')})",
    )
    options.add_argument("--observers", action="store_true", help="the cost of watching")
    options.add_argument("--compare", action="store_true", help="also time presets and comparisons")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--precision", choices=("float32", "bfloat16", "float16", "4-bit"))
    options.add_argument("--json", type=Path)
    options.add_argument("--markdown", type=Path)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure and report. Returns 0, or 2 after one plain sentence about bad input."""
    args = parser().parse_args(arguments)
    try:
        check(args)
        measure(args)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def check(args):
    """Check now what would otherwise fail after minutes of measuring.

    Raises:
        Refused: one sentence, naming the option.
    """
    check_number("--rounds", args.rounds, 1, 1000, integer=True)
    for visual in args.visual:
        check_number("--visual", visual, 1, MOST_VISUAL, integer=True)
    _check_methods(args)
    usable_device(args.device)
    for path in filter(None, (args.json, args.markdown)):
        check_place(path)
    if args.json and args.markdown and same_file(args.json, args.markdown):
        raise Refused("--json and --markdown name the same file; name two.")


def _check_methods(args):
    if args.methods is None and args.budget is not None:
        raise Refused("--budget is for --methods.")
    if args.methods is not None and args.observers:
        raise Refused("--methods and --observers are two measurements: name one.")
    if args.methods is None and not args.observers:
        return
    option = "--observers" if args.observers else "--methods"
    others = {
        "--visual": args.visual != [VISUAL],
        "--contestants": args.contestants is not None,
        "--measure": tuple(args.measure) != MEASURES,
    }
    for other, is_given in others.items():
        if is_given:
            raise Refused(f"{option} measures whole models on one picture: leave out {other}.")
    if args.methods is not None:
        wishes(args.methods, args.budget or BUDGET)


def measure(args):
    if torch.device(args.device).type == "cpu":
        args.device = "cpu"  # also called cpu:0
    else:
        # The same GPU for all: for load_vlm, "cuda" is the GPU with the most free memory.
        args.device = f"cuda:{torch.device(args.device).index or 0}"
        torch.cuda.set_device(args.device)
    rounds = 5 if args.quick else args.rounds
    precision = args.precision or ("float32" if args.device == "cpu" else "bfloat16")
    report = {
        "machine": machine(args.device, precision),
        "roofline": roofline(args.device, dtype_of(args.device, precision)),
        "rounds": rounds,
        "request": REQUEST,
        "scenarios": [],
    }
    if args.observers:
        report["observers"] = list(_measured_observers(args, rounds, precision))
    elif args.methods is None:
        report["scenarios"] = list(_measured_scenarios(args, rounds, precision))
    else:
        report["methods"] = list(_measured_methods(args, rounds, precision))
    if args.compare or args.quick:
        report["presets"] = run_presets(rounds, args.device, precision)
        report["comparisons"] = run_comparisons(rounds, args.device, precision)
    table = markdown(report)
    # First, because printing may fail, and the work must not be lost.
    if args.json:
        write_whole(args.json, json.dumps(report, indent=1) + "\n")
    if args.markdown:
        write_whole(args.markdown, table)
    print_whole(table)


def _measured_scenarios(args, rounds: int, precision: str) -> Iterator[dict]:
    for name in args.scenario:
        for visual in args.visual:
            print(f"{name}, {visual} visual tokens", file=sys.stderr, flush=True)
            where = scenario(name, visual, args.device, precision)
            results = run(where, rounds, args.contestants, tuple(args.measure))
            entry = {"name": name, "visual": visual, "tokens": where.layout.length}
            yield {**entry, "results": results}


def _measured_methods(args, rounds: int, precision: str) -> Iterator[dict]:
    budget = args.budget or BUDGET
    for name in args.scenario:
        print(f"{name}, every method at {budget}", file=sys.stderr, flush=True)
        where = whole(name, args.device, precision)
        yield run_methods(where, wishes(args.methods, budget), rounds, budget)


def _measured_observers(args, rounds: int, precision: str) -> Iterator[dict]:
    for name in args.scenario:
        print(f"{name}, observers", file=sys.stderr, flush=True)
        yield run_observers(whole(name, args.device, precision), rounds)


if __name__ == "__main__":
    sys.exit(main())
