"""The measurements as Markdown, with the command, the machine and the versions."""

from __future__ import annotations

import datetime
import itertools
import os
import platform
import sys

import torch
import transformers

from visipruner.running.clocks import processor_name

COLUMNS = (
    "prefill ms (quartiles)",
    "speed-up",
    "FLOP ratio",
    "floor ms",
    "/ floor",
    "floors' ratio",
    "stock layers ms",
    "their ratio",
    "first token ms",
    "per token ms",
    "request ms",
    "test, % of dense",
    "all between layers, %",
    "peak MB",
    "KV MB",
    "GFLOP",
)


def machine(device: str, precision: str) -> dict:
    """The machine, the versions and the command."""
    return {
        "device": processor_name() if device == "cpu" else torch.cuda.get_device_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.date.today().isoformat(),
        "command": "python -m visipruner.bench " + " ".join(sys.argv[1:]),
    }


def markdown(report: dict) -> str:
    """A table per scenario, a table of peaks if several lengths ran, a table of the comparisons."""
    m, roof = report["machine"], report["roofline"]
    requests = f", requests of {report['request']} tokens" if report["scenarios"] else ""
    lines = [
        f"`{m['command']}`, {m['date']}: {m['device']}, {m['cores']} cores, {m['threads']} "
        f"threads, {m['precision']}, torch {m['torch']}, transformers {m['transformers']}, Python "
        f"{m['python']}; medians of {report['rounds']} rounds{requests}. Largest "
        f"measured rates: {roof['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s in matmul, "
        f"{roof['copy_bytes_per_second'] / 1e9:.1f} GB/s in copying."
    ]
    for entry in report["scenarios"]:
        lines += [
            f"\n**{entry['name']}**, {entry['visual']} visual of {entry['tokens']} tokens\n",
            f"| | {' | '.join(COLUMNS)} |",
            "|" + "---|" * (1 + len(COLUMNS)),
        ]
        lines += [f"| {r['name']} | {' | '.join(_cells(r))} |" for r in entry["results"]]
    lines += _peaks(report["scenarios"])
    for entry in report.get("methods", ()):
        lines += _methods(entry)
    for entry in report.get("observers", ()):
        lines += _observers(entry)
    if report.get("presets"):
        lines += _presets(report["presets"])
    if report.get("comparisons"):
        lines += _comparisons(report["comparisons"])
    return "\n".join(lines) + "\n"


def _cells(r: dict) -> list[str]:
    return [
        _ms(r["prefill_s"]) + _spread(r["prefill_s"]),
        _number(r["speedup"]),
        _number(r["flop_ratio"]),
        _ms(r["floor_s"]),
        _number(r["measured_over_floor"]),
        _number(r["floor_ratio"]),
        _ms(r["stock_s"]),
        _number(r["stock_ratio"]),
        _ms(r["first_token_s"]),
        _ms(r["per_token_s"], 2),
        _ms(r["request_s"]),
        _number(r["test_share_of_dense_prefill"], 2, 100),
        _number(r["between_layers_share_of_dense_prefill"], 2, 100),
        _number(r["peak_bytes"], 1, 1e-6),
        _number(r["kv_bytes"], 2, 1e-6),
        _number(r["prefill_flops"], 2, 1e-9),
    ]


def _number(value: float | None, digits: int = 2, unit: float = 1) -> str:
    return "-" if value is None else f"{value * unit:.{digits}f}"


def _ms(values: dict | None, digits: int = 1) -> str:
    return _number(values and values["median"], digits, 1000)


def _spread(values: dict | None) -> str:
    if values is None:
        return ""
    return " ({:.1f}-{:.1f})".format(*(1000 * values[q] for q in ("q1", "q3")))


def _peaks(scenarios: list[dict]) -> list[str]:
    """Does memory grow linearly? If so, each token costs the same between all lengths."""
    lines = []
    for name in dict.fromkeys(entry["name"] for entry in scenarios):
        entries = [e for e in scenarios if e["name"] == name and e["results"][0]["peak_bytes"]]
        if len(entries) < 2:
            continue
        tokens = [e["tokens"] for e in entries]
        lines += [
            f"\n**{name}**, peak above weights: kB per further token between lengths\n",
            "| | " + " | ".join(f"{a} to {b}" for a, b in itertools.pairwise(tokens)) + " |",
            "|" + "---|" * len(tokens),
        ]
        for index, first in enumerate(entries[0]["results"]):
            peaks = [e["results"][index]["peak_bytes"] for e in entries]
            steps = itertools.pairwise(zip(tokens, peaks, strict=True))
            known = None not in peaks
            slopes = [_number(known and (b - a) / (n - m), 1, 1e-3) for (m, a), (n, b) in steps]
            lines.append(f"| {first['name']} | {' | '.join(slopes)} |")
    return lines


METHOD_COLUMNS = (
    "tokens per layer",
    "prefill ms (quartiles)",
    "FLOP ratio",
    "speed-up",
    "speed-up / FLOP ratio",
    "speed-up, tower included",
    "own ms",
    "own, % of prefill",
    "own GFLOP",
    "KV MB",
)


def _methods(entry: dict) -> list[str]:
    """A row per method or stack; one that refused has its sentence below the table."""
    lines = [
        f"\n**{entry['name']}**, every method at {entry['budget']} of {entry['visual']} visual "
        f"tokens, {entry['tokens']} tokens in all. In front the vision tower with its projector: "
        f"{_ms(entry['tower_s'])} ms, watched for those marked * {_ms(entry['watched_tower_s'])} "
        f"ms, {entry['tower_flops'] / 1e9:.1f} GFLOP. Own: what the method was asked between "
        "layers.\n",
        f"| | {' | '.join(METHOD_COLUMNS)} |",
        "|" + "---|" * (1 + len(METHOD_COLUMNS)),
    ]
    below = []
    for row in entry["results"]:
        if "refused" in row:
            lines.append(f"| {row['name']} |" + " - |" * len(METHOD_COLUMNS))
            below.append(f"* {row['name']}: {row['refused']}")
            continue
        star = "*" if row["watches_tower"] else ""
        lines.append(f"| {row['name']}{star} | {' | '.join(_method_cells(row))} |")
        below += [f"* {row['name']}: {row['note']}."] if row["note"] else []
    return [*lines, "", *below] if below else lines


def _method_cells(r: dict) -> list[str]:
    return [
        _number(r["mean_tokens"], 1),
        _ms(r["prefill_s"]) + _spread(r["prefill_s"]),
        _number(r["flop_ratio"]),
        _number(r["speedup"]),
        _number(r["speedup_over_flop_ratio"]),
        _number(r["speedup_with_tower"]),
        _ms(r["own_s"], 2),
        _number(r["own_share_of_prefill"], 2, 100),
        _number(r["own_flops"], 3, 1e-9),
        _number(r["kv_bytes"], 2, 1e-6),
    ]


def _observers(entry: dict) -> list[str]:
    """Prefills that are watched, then whole analyses if there are some."""
    lines = [
        f"\n**{entry['name']}**, watched on all layers, {entry['visual']} visual of "
        f"{entry['tokens']} tokens, picture encoded before\n",
        "| observer | prefill ms (quartiles) | over the stock model's |",
        "|---|---|---|",
    ]
    for r in entry["watched"]:
        took = _ms(r["prefill_s"]) + _spread(r["prefill_s"])
        lines.append(f"| {r['name']} | {took} | {_number(r['over_plain'])} |")
    if entry["analyses"]:
        lines += ["\n| analysis | seconds (quartiles) |", "|---|---|"]
    for r in entry["analyses"]:
        low, middle, high = (r["seconds"][q] for q in ("q1", "median", "q3"))
        lines.append(f"| {r['name']} | {middle:.2f} ({low:.2f}-{high:.2f}) |")
    return lines


def _presets(rows: list[dict]) -> list[str]:
    lines = [
        "\n**presets**, bundled model, VisiPruner as shipped, a question of every skill, "
        "silent runs with `generate`\n",
        "| | prefill ms | speed-up | FLOP ratio | speed-up / FLOP ratio |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        of_flops = r["speedup"] / r["flop_ratio"]
        lines.append(
            f"| {r['name']} | {1000 * r['prefill_s']:.1f} | {r['speedup']:.2f} "
            f"| {r['flop_ratio']:.2f} | {of_flops:.2f} |"
        )
    return lines


def _comparisons(c: dict) -> list[str]:
    streamed, silent = c["streamed_prefill_s"]["median"], c["silent_prefill_s"]["median"]
    return [
        f"\n**compare**, bundled model, both sides, {c['questions']} questions, "
        f"{c['words_per_answer']:.1f} words per answer, picture encoded once\n",
        "| total ms (quartiles) | of it untimed probe ms | not the model, % "
        "| pruned prefill streamed ms | silent ms | streamed / silent |",
        "|---|---|---|---|---|---|",
        f"| {_ms(c['total_s'])} ({1000 * c['total_s']['q1']:.0f}-{1000 * c['total_s']['q3']:.0f}) "
        f"| {_ms(c['probe_s'])} | {100 * c['not_model_share']['median']:.1f} "
        f"| {1000 * streamed:.1f} | {1000 * silent:.1f} | {streamed / silent:.3f} |",
    ]
