"""The arena: every method's answer, costs and patches on one picture, as plain data.

The board draws it on the page and in the report; the table of the files is made from it too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visipruner.render.numbers import duration, flops, times
from visipruner.render.values import Masks, run_value
from visipruner.render.viewer import script_of
from visipruner.running.results import Answer, Pair
from visipruner.trace import PruningTrace

_HERE = Path(__file__).parent
_VIEWER = [f"viewer_{part}" for part in ("sheets", "data", "draw")]  # a base class comes first
_BOARD = [f"arena_{part}" for part in ("story", "draw", "cards", "tables", "page")]
EMPTY: dict = {"kind": "empty", "sides": [], "masks": []}


@dataclass(frozen=True)
class Shown:
    """One side, finished, refused or still waiting.

    Args:
        name: as a person writes it: "fastv@128"; the first side is the unpruned baseline.
        title: on the board: "FastV".
        answer: None: it has not finished.
        refused: the sentence that says why this method cannot run.
        judged: whether the answer is right: a kind, a sign and words; empty without a true answer.
        clock: how the first word's time was taken: "median of 3".
    """

    name: str
    title: str
    answer: Answer | None = None
    refused: str = ""
    judged: tuple[str, str, str] | tuple[()] = ()
    clock: str = ""


def last_kept(trace: PruningTrace) -> list[int]:
    """The patches with a token of their own after the last cut that leaves any patch.

    A method may end with a cut that leaves none. What it kept until then counts; without any such
    cut, all patches. A cut after the last layer changes nothing, so it does not count.
    """
    last = len(trace.layers) - 1
    for cut in reversed(trace.cuts):
        if cut.kept and cut.after_layer < last:
            return list(cut.kept)
    return list(range(trace.num_visual))


def board_value(
    start: dict, sides: Sequence[Shown], asked: dict, pairs: Sequence[dict], done: bool
) -> dict:
    """Everything that the board shows.

    Args:
        start: from `values.viewer_start`, for the picture and its patches.
        sides: the baseline first.
        asked: the texts `question`, `words` (the wish and the model), `truth` and `note`, and
            `tokens`, the wished budget.
        pairs: of every two finished methods, the indices `first` and `second` of their sides, the
            `overlap` of what they kept, and the overlap that `chance` would give.
        done: whether every side that can run has finished.
    """
    masks = Masks(start["num_visual"])
    baseline = sides[0].answer
    return {
        **start,
        "kind": "done" if done else "running",
        "asked": asked,
        "sides": [_side(side, baseline, masks) for side in sides],
        "pairs": list(pairs),
        "scale": [-4, 0],  # of influence, which the board prints but does not colour
        "masks": masks.packed,
    }


def _side(side: Shown, baseline: Answer | None, masks: Masks) -> dict:
    found = {"name": side.name, "title": side.title, "refused": side.refused}
    if side.answer is None:
        return found
    return {
        **found,
        **row(side, baseline),
        "words": _words(side, baseline),
        "judged": list(side.judged),
        "kept": masks.number(last_kept(side.answer.trace)),
        **run_value(side.answer.trace, masks),
    }


def row(side: Shown, baseline: Answer | None) -> dict:
    """The numbers of a finished side; None where the baseline has not finished."""
    answer = side.answer
    return {
        "answer": answer.text,
        "same": None if baseline is None else answer.says_as(baseline),
        "tokens": answer.trace.mean_tokens,
        "flops": answer.counts.executed.prefill,
        "fewer": baseline and Pair(baseline, answer).flops_ratio,
        "first": answer.times.first_token,
    }


def _words(side: Shown, baseline: Answer | None) -> dict:
    """The same numbers as the page writes them."""
    found = row(side, baseline)
    fewer = found["fewer"]
    return {
        "tokens": f"{found['tokens']:.1f}",
        "flops": flops(found["flops"]),
        "fewer": "" if fewer is None else _fewer(fewer),
        "first": duration(found["first"]),
        "clock": side.clock,
    }


def _fewer(ratio: float) -> str:
    if times(ratio) == times(1):
        return "as many"
    return f"{times(ratio)} fewer" if ratio > 1 else f"{times(1 / ratio)} more"


# -- files

COLUMNS = (
    "side", "title", "answer", "right", "same_as_baseline", "mean_tokens_per_layer",
    "visual_tokens", "prefill_flops_executed", "times_fewer_flops", "first_token_ms",
    "first_token_clock", "refused",
)  # fmt: skip


def table(sides: Sequence[Shown]) -> list[dict]:
    """One row per side, by `COLUMNS`; None where nothing is known."""
    return [_row_of_table(side, sides[0].answer) for side in sides]


def _row_of_table(side: Shown, baseline: Answer | None) -> dict:
    known = dict.fromkeys(COLUMNS) | {"side": side.name, "title": side.title}
    known["refused"] = side.refused or None
    if side.answer is None:
        return known
    found = row(side, baseline)
    return known | {
        "answer": found["answer"],
        "right": side.judged[2] if side.judged else None,
        "same_as_baseline": found["same"],
        "mean_tokens_per_layer": found["tokens"],
        "visual_tokens": side.answer.trace.num_visual,
        "prefill_flops_executed": found["flops"],
        "times_fewer_flops": found["fewer"],
        "first_token_ms": found["first"],
        "first_token_clock": side.clock,
    }


def csv_text(sides: Sequence[Shown]) -> str:
    """The table as CSV, with a line of headings."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table(sides))
    return stream.getvalue()


# -- the component


def board_parts() -> dict[str, str]:
    """The board's markup, style and script, for the page and the report."""
    return {
        "html_template": (_HERE / "arena.html").read_text("utf-8"),
        "css_template": (_HERE / "arena.css").read_text("utf-8"),
        "js_on_load": script_of([*_VIEWER, *_BOARD]),
    }


def ArenaBoard(**kwargs):
    """A `gr.HTML` whose value comes from `board_value`."""
    import gradio as gr  # the values and the report need no gradio

    arguments = {"value": EMPTY, "apply_default_css": False, "elem_classes": ["arena-board"]}
    return gr.HTML(**{**arguments, **board_parts(), **kwargs})
