"""Tables of a benchmark run: each method's accuracy beside what it cost."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping

from visipruner.evaluation.intervals import finite, paired_difference

NO_SCORE = "this task gives no score per question"


def tables(columns: Mapping[str, tuple[dict, dict]]) -> dict[str, list[dict]]:
    """By task, one line per method.

    Args:
        columns: by method, `none` first: lmms-eval's results and samples.
    """
    first, *_ = columns.values()
    found = {}
    for task in first[1]:
        full = _by_question(first[1][task])
        scored = _main_metrics(first[0], task)
        found[task] = [
            _line(name, results, _by_question(samples[task]), full, task, scored)
            for name, (results, samples) in columns.items()
        ]
    return found


def _line(name: str, results: dict, mine: dict, full: dict, task: str, scored: list[str]) -> dict:
    rows = [_row(sample) for sample in mine.values()]
    base = [_row(full[number]) for number in mine]
    flops = [sum(row["prefill_flops"] for row in side) / len(side) for side in (rows, base)]
    exits = [row["exit_layer"] for row in rows if row["exit_layer"] is not None]
    line = {
        "method": name,
        "questions": len(mine),
        "metrics": _metrics(results["results"][task]),
        "same_answer": sum(a["text"] == b["text"] for a, b in zip(rows, base, strict=True))
        / len(rows),
        "prefill_gflops": flops[0] / 1e9,
        "flops_cut": 1 - flops[0] / flops[1],
        "tokens": statistics.fmean(statistics.fmean(row["visual_tokens"]) for row in rows),
        "exit_layer": statistics.fmean(exits) if exits else None,
        "exits": len(exits) / len(rows),
        "prefill_ms": statistics.median(row["prefill_ms"] for row in rows),
        "request_ms": statistics.median(row["request_ms"] for row in rows),
    }
    scores = [[_score(side[number], scored) for number in mine] for side in (full, mine)]
    if not any(score is None for side in scores for score in side):
        line["difference"] = [finite(number) for number in paired_difference(*scores)]
    return line


def _by_question(samples: list[dict]) -> dict:
    return {sample["doc_id"]: sample for sample in samples}


def _row(sample: dict) -> dict:
    """A row of `Session.answer`, out of a saved sample."""
    return sample["token_counts"][0]


def _metrics(found: dict) -> dict[str, float]:
    """lmms-eval's own numbers of a task: "exact_match" and so on, without their errors."""
    return {
        key.partition(",")[0]: value
        for key, value in found.items()
        if isinstance(value, int | float)
        and "," in key
        and "_stderr" not in key
        and math.isfinite(value)
    }


def _main_metrics(results: dict, task: str) -> list[str]:
    return [one["metric"] for one in results["configs"][task]["metric_list"]]


def _score(sample: dict, metrics: list[str]) -> float | None:
    """The first of a task's scores that a question has: a number, or a record with "score"."""
    for name in metrics:
        value = sample.get(name)
        value = value.get("score") if isinstance(value, dict) else value
        if isinstance(value, bool | int | float):
            return float(value)
    return None


def as_json(found: dict, facts: dict) -> str:
    return json.dumps({**facts, "tasks": found}, indent=1) + "\n"


def as_markdown(found: dict[str, list[dict]]) -> str:
    """One table per task."""
    return "\n\n".join(f"**{task}**\n\n{_table(lines)}" for task, lines in found.items())


def _table(lines: list[dict]) -> str:
    metrics = list(dict.fromkeys(name for line in lines for name in line["metrics"]))
    heads = ["method", "questions", *metrics, "difference (95%)", "same answer", "prefill GFLOP"]
    heads += ["cut", "visual tokens a layer", "exit layer", "prefill ms", "request ms"]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for line in lines:
        cells = [line["method"], str(line["questions"])]
        cells += [_number(line["metrics"].get(name)) for name in metrics]
        cells += [_difference(line), f"{line['same_answer']:.1%}", f"{line['prefill_gflops']:.3f}"]
        cells += [f"{line['flops_cut']:.1%}", f"{line['tokens']:.1f}", _exit(line)]
        cells += [f"{line['prefill_ms']:.1f}", f"{line['request_ms']:.1f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")


def _difference(line: dict) -> str:
    if "difference" not in line:
        return NO_SCORE
    mean, low, high = line["difference"]
    if low is None:
        return f"{mean:+.4f} (no interval: one question)"
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def _exit(line: dict) -> str:
    """The mean exit layer, and how many answers had one."""
    if line["exit_layer"] is None:
        return "none"
    share = "" if line["exits"] == 1 else f" ({line['exits']:.0%} of answers)"
    return f"{line['exit_layer']:.1f}{share}"
