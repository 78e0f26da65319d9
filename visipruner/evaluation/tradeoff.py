"""The bundled model's curve: accuracy against executed FLOPs, every method on the same axes.

    python -m visipruner tradeoff --write         # 507 held-out questions; stop and go on

Writes tradeoff.json beside the weights and assets/tradeoff.svg, the README's figure.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

from visipruner.choice import method_at
from visipruner.evaluation.evaluate import UNPRUNED, paired_difference, wilson
from visipruner.evaluation.interview import add_common, interview, open_model, share_cut
from visipruner.files import write_whole
from visipruner.levels import PRESETS
from visipruner.methods import PruningMethod
from visipruner.models.catalogue import VLM
from visipruner.render import palette
from visipruner.world.scenes import ASSETS

PER_SKILL = 39  # of 13 skills: 507 questions
LEVELS = (0.25, 0.4, 0.5, 0.6, 0.75, 1.0)
KEPT = (1 / 2, 1 / 4, 1 / 8, 1 / 24, 1 / 96, 0)  # of the visual tokens, for methods with a budget
PICTURE = ASSETS / "tradeoff.svg"
WIDE, HIGH = 760, 410
STYLES = (  # colour, and a dot's outline, so that the colour alone carries no meaning
    (palette.PRUNED, "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z"),
    (palette.FULL, "M-5-5h10v10h-10z"),
    ("#009E73", "M0-7l7 12h-14z"),
    (palette.EXIT, "M0-7l7 7l-7 7l-7-7z"),
)


def contestants(vlm: VLM) -> dict[str, PruningMethod]:
    """Every point of the figure: "method at setting" -> method."""
    found = {UNPRUNED: PruningMethod()}
    for level in PRESETS.values():  # the bundled model has no other levels
        found[f"visipruner at level {level:g}"] = method_at(vlm, "visipruner", level)
    for level in LEVELS:
        found[f"schedule at level {level:g}"] = method_at(vlm, "schedule", level)
    for name in ("fastv", "random"):
        for share in KEPT:
            keep = round(share * vlm.facts().num_visual)
            found[f"{name} at {keep} tokens"] = method_at(vlm, name, 0.5, keep=keep)
    return found


def points(methods: dict[str, PruningMethod], rows: list[dict]) -> list[dict]:
    """One line per method and setting: FLOPs cut, accuracy with interval, paired difference."""
    by_column = {name: [row for row in rows if row["column"] == name] for name in methods}
    full = by_column[UNPRUNED]
    table = []
    for name, mine in by_column.items():
        scores = [row["score"] for row in mine]
        low, high = wilson(sum(scores), len(scores))
        table.append(
            {
                "point": name,
                "method": methods[name].name,
                "settings": methods[name].settings,
                "questions": len(scores),
                "flops_cut": share_cut(mine, full),
                "right": statistics.mean(scores),
                "low": low,
                "high": high,
                "difference": paired_difference([row["score"] for row in full], scores),
            }
        )
    return table


def picture(table: list[dict]) -> str:
    """The curve as one SVG: a labelled line per method, and a line at the unpruned accuracy."""
    full, series = table[0], {}
    for point in table[1:]:
        series.setdefault(point["method"], []).append((point["flops_cut"], point["right"]))
    low = math.floor(10 * min(point["right"] for point in table)) / 10
    across = max(point["flops_cut"] for point in table)

    def place(cut: float, right: float) -> tuple[float, float]:
        return 60 + 540 * cut / across, 340 - 300 * (right - low) / (1 - low)

    words = (
        f"Accuracy of the bundled model on {full['questions']} held-out questions against the "
        "executed prefill FLOPs that each method saves"
    )
    parts = [f'<rect width="{WIDE}" height="{HIGH}" fill="#fff"/>']
    for tenth in range(round(10 * low), 11):
        y = place(0, tenth / 10)[1]
        parts.append(f'<path d="M60 {y:.0f}H600" stroke="#ddd"/>{_text(52, y, tenth * 10, "end")}')
    for tenth in range(int(10 * across) + 1):
        x = place(tenth / 10, 0)[0]
        parts.append(_text(x, 362, tenth * 10))
    parts.append(_text(330, 390, "% of the language model's prefill FLOPs saved, as executed"))
    parts.append(_text(60, 22, f"% right of {full['questions']} held-out questions", "start"))
    y = place(0, full["right"])[1]
    parts.append(f'<path d="M60 {y:.1f}H600" stroke="#333" stroke-dasharray="6 4"/>')
    parts.append(_text(64, y - 12, f"unpruned {full['right']:.1%}", "start"))
    for number, (name, values) in enumerate(series.items()):
        colour, dots = STYLES[number % len(STYLES)]
        dots_at = [place(*value) for value in sorted(values)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots_at)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<path transform="translate({x:.1f} {y:.1f})" d="{dots}" fill="{colour}"/>'
            for x, y in dots_at
        ]
        y = 60 + 26 * number
        parts.append(f'<path transform="translate(628 {y})" d="{dots}" fill="{colour}"/>')
        parts.append(_text(642, y, name, "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'font-family="sans-serif" font-size="14"><title>{words}</title>{"".join(parts)}</svg>\n'
    )


def _text(x: float, y: float, text, anchor: str = "middle") -> str:
    return f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="{anchor}" fill="#222">{text}</text>'


def add_options(parser: argparse.ArgumentParser):
    """Add the command's options."""
    add_common(parser)
    parser.add_argument("--questions", type=int, default=PER_SKILL, help="per skill")
    parser.add_argument("--write", action="store_true", help="put curve and picture into assets")


def run(options: argparse.Namespace):
    """Run the command."""
    vlm, store = open_model(options)
    methods = contestants(vlm)
    table = points(methods, interview(vlm, methods, ("heldout",), options.questions, store))
    for point in table:
        print(f"{point['flops_cut']:6.1%} cut, {point['right']:6.1%} right: {point['point']}")
    if options.write:
        write(options.model, table)


def write(folder: Path, table: list[dict]) -> None:
    write_whole(folder / "tradeoff.json", json.dumps(table, indent=1) + "\n")
    write_whole(PICTURE, picture(table))
