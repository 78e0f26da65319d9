"""Measure: python -m visipruner.bench [--quick] [--json FILE] [--markdown FILE]

Every scenario runs all contestants in turn, round after round, in one process after a warm-up;
medians and quartiles of the rounds, ratios against the dense model of the same rounds. Nothing else
should run on the machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers

from visipruner.bench.floor import prefill_floor, roofline
from visipruner.bench.scenarios import FULL_LAYERS, SHAPES, Scenario, scenario, timetable
from visipruner.bench.timing import peak_bytes, quartiles, seconds
from visipruner.clocks import processor_name
from visipruner.engine import prune
from visipruner.flops import ModelShape, executed, kv_bytes
from visipruner.methods import PruningMethod

REQUEST = 32  # tokens


class Contestant:
    """One way to run a scenario: untouched, pruned, or pruned as the published code runs it."""

    def __init__(self, name: str, where: Scenario, method: PruningMethod | None, eager=False):
        self.name, self.where, self.method, self.eager = name, where, method, eager
        self.tokens = REQUEST
        self.prefills: list[float] = []
        self.firsts: list[float] = []
        self.requests: list[float] = []
        self.floors: list[float] = []
        self.plans: dict = {}
        self.trace = None

    def pruned(self, method=None):
        method = method or self.method
        if method is None:
            return nullcontext()
        return prune(self.where.model, method, self.where.layout)

    @torch.inference_mode()
    def prefill(self):
        with self.pruned():
            self.where.model(inputs_embeds=self.where.embeds, logits_to_keep=1)

    @torch.inference_mode()
    def generate(self, tokens: int):
        with self.pruned():
            self.where.model.generate(
                inputs_embeds=self.where.embeds,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
            )

    @torch.inference_mode()
    def learn(self):
        """One run for the trace and the plans, from which FLOPs and the floor follow."""
        self.use_backend()
        where = self.where
        with prune(where.model, _Spy.of(self.method, self.plans), where.layout) as self.trace:
            where.model(inputs_embeds=where.embeds, logits_to_keep=1)
        self.floor = prefill_floor(where.model, self.trace, self.plans)

    def use_backend(self):
        self.where.model.set_attn_implementation("eager" if self.eager else "sdpa")

    def round(self, device: str):
        self.use_backend()
        self.prefills.append(seconds(self.prefill, device))
        self.firsts.append(seconds(lambda: self.generate(1), device))
        self.requests.append(seconds(lambda: self.generate(self.tokens), device))
        with torch.inference_mode():
            self.floors.append(seconds(self.floor, device))

    def result(self, dense: Contestant) -> dict:
        shape = ModelShape.of(self.where.model.config)
        flops = executed(shape, self.trace).prefill
        dense_flops = executed(shape, dense.trace).prefill
        per_token = [
            (request - first) / (self.tokens - 1)
            for request, first in zip(self.requests, self.firsts, strict=True)
        ]
        self.use_backend()
        prefill, floor = quartiles(self.prefills), quartiles(self.floors)
        dense_prefill, dense_floor = quartiles(dense.prefills), quartiles(dense.floors)
        return {
            "name": self.name,
            "prefill_s": prefill,
            "first_token_s": quartiles(self.firsts),
            "per_token_s": quartiles(per_token),
            "request_s": quartiles(self.requests),
            "peak_bytes": peak_bytes(self.prefill, self.where.device),
            "kv_bytes": kv_bytes(shape, self.trace, self.where.embeds.element_size()),
            "prefill_flops": flops,
            "floor_s": floor,
            "measured_over_floor": prefill["median"] / floor["median"],
            "speedup": dense_prefill["median"] / prefill["median"],
            "flop_ratio": dense_flops / flops,
            "floor_ratio": dense_floor["median"] / floor["median"],
            "visual_tokens": [record.visual_tokens for record in self.trace.layers],
        }


class _Spy:
    """A method that writes down the plans it makes."""

    @staticmethod
    def of(method: PruningMethod | None, plans: dict) -> PruningMethod:
        if method is None:
            return PruningMethod()
        kind = type(method)

        class Noting(kind):
            def attend(self, view):
                plan = kind.attend(self, view)
                if plan is not None:
                    plans[view.layer] = plan
                return plan

        return Noting(**method.__dict__)


def contestants(where: Scenario) -> list[Contestant]:
    """The dense model first; it is what the others are compared with."""
    found = [Contestant("dense", where, None)]
    for full in FULL_LAYERS:
        found.append(Contestant(f"paper, {full} of 32 full", where, timetable(full, where.layers)))
    official = timetable(FULL_LAYERS[0], where.layers, "official")
    found.append(Contestant(f"official, {FULL_LAYERS[0]} of 32 full", where, official))
    name = f"as published (eager), {FULL_LAYERS[0]} of 32 full"
    found.append(Contestant(name, where, official, eager=True))
    return found


def run(where: Scenario, rounds: int, tokens: int = REQUEST) -> list[dict]:
    """All contestants of a scenario, interleaved; requests of so many tokens."""
    field = contestants(where)
    for contestant in field:
        contestant.tokens = tokens
        contestant.learn()
        contestant.generate(2)
    for turn in range(rounds):
        for contestant in field if turn % 2 == 0 else reversed(field):
            contestant.round(where.device)
        print(f"  round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return [contestant.result(field[0]) for contestant in field]


def machine(device: str, dtype) -> dict:
    return {
        "device": processor_name() if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.date.today().isoformat(),
        "command": "python -m visipruner.bench " + " ".join(sys.argv[1:]),
    }


def markdown(report: dict) -> str:
    """One table per scenario; times are medians in milliseconds."""
    m = report["machine"]
    lines = [
        f"{m['device']}, {m['threads']} threads, {m['dtype']}, torch {m['torch']}, "
        f"transformers {m['transformers']}, {m['date']}: `{m['command']}`, "
        f"{report['rounds']} rounds."
    ]
    for entry in report["scenarios"]:
        lines += [
            f"\n**{entry['name']}**, {entry['visual']} visual of {entry['tokens']} tokens\n",
            "| | prefill ms (quartiles) | speed-up | FLOP ratio | floor ms | / floor "
            "| first token ms | per token ms | 32 tokens ms | peak MB | KV MB | GFLOP |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(result) for result in entry["results"]]
    return "\n".join(lines) + "\n"


def _row(r: dict) -> str:
    ms = {key: 1000 * r[key]["median"] for key in r if key.endswith("_s")}
    low, high = (1000 * r["prefill_s"][q] for q in ("q1", "q3"))
    return (
        f"| {r['name']} | {ms['prefill_s']:.1f} ({low:.1f}-{high:.1f}) | {r['speedup']:.2f} "
        f"| {r['flop_ratio']:.2f} | {ms['floor_s']:.1f} | {r['measured_over_floor']:.2f} "
        f"| {ms['first_token_s']:.1f} | {ms['per_token_s']:.2f} "
        f"| {ms['request_s']:.0f} | {r['peak_bytes'] / 1e6:.1f} "
        f"| {r['kv_bytes'] / 1e6:.2f} | {r['prefill_flops'] / 1e9:.2f} |"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m visipruner.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="bundled model, few rounds")
    parser.add_argument("--scenario", nargs="+", choices=["tiny", *SHAPES], default=["tiny"])
    parser.add_argument("--visual", nargs="+", type=int, default=[576], help="visual tokens")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args(arguments)
    rounds = 5 if args.quick else args.rounds
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16
    report = {
        "machine": machine(args.device, dtype),
        "roofline": roofline(args.device, dtype),
        "rounds": rounds,
        "scenarios": [],
    }
    for name in args.scenario:
        for visual in args.visual:
            print(f"{name}, {visual} visual tokens", file=sys.stderr, flush=True)
            where = scenario(name, visual, args.device, dtype)
            entry = {"name": name, "visual": visual, "tokens": where.layout.length}
            report["scenarios"].append({**entry, "results": run(where, rounds)})
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
