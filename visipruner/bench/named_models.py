"""Seconds for one comparison by each named model.

    python -m visipruner.bench.named_models [NAME ...]

Each model has its true shape and random weights, so nothing is downloaded and its words mean
nothing. One picture of 640 x 480 (noise) and a short question are answered with TOKENS tokens:
unpruned, and with VisiPruner's tests beside a fixed schedule, that of LLaVA-1.5 in the paper scaled
to the layers. Each is run once, after one run that warms up. Models that do not fit into the
memory, or are larger than MOST, are told by formula.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import torch
import transformers
from transformers import AutoModelForImageTextToText

from visipruner.bench.scenarios import FULL_LAYERS, timetable
from visipruner.bench.timing import seconds
from visipruner.choice import Side
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.files import check_place, print_whole, write_whole
from visipruner.flops import ModelShape, executed
from visipruner.inputs import check_choice
from visipruner.methods import PruningMethod
from visipruner.models import cpu, loading, memory
from visipruner.models.catalogue import VLM
from visipruner.models.console import stay_quiet_and_offline
from visipruner.models.memory import gigabytes
from visipruner.models.saving import sample_prompt, saving_of
from visipruner.models.shapes import SHAPES, config_of
from visipruner.models.specs import MODELS
from visipruner.prompt import Prompt
from visipruner.running.results import Options
from visipruner.running.runner import generate
from visipruner.stock import BaseStreamer

TOKENS = 8
MOST = 16 * memory.GIGABYTE  # of memory, unless a model is named


def random_model(name: str, precision: str) -> VLM:
    """A model of a named shape in main memory, with the initial weights of its class.

    It is made without memory first: then each number is written only once.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        dtype = getattr(torch, precision)
        model = AutoModelForImageTextToText.from_config(config_of(name), dtype=dtype)
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.initialize_weights()
    model.tie_weights()
    model.generation_config.eos_token_id = None  # no answer ends early
    return VLM(MODELS[name], model.eval().requires_grad_(False), None, precision)


def noise(prompt: Prompt) -> Prompt:
    """The same prompt with noise for its pixels."""
    generator = torch.Generator().manual_seed(1)
    inputs = {
        name: torch.randn(tensor.shape, generator=generator) if tensor.is_meta else tensor
        for name, tensor in prompt.inputs.items()
    }
    return replace(prompt, inputs=inputs)


class _Times(BaseStreamer):
    """Notes when each token comes; the prompt comes first."""

    def __init__(self):
        self.times: list[float] = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass


@torch.inference_mode()
def answered(vlm: VLM, prompt: Prompt, features, side: Side, tokens: int) -> dict:
    """Seconds to the first and to the last token after the tower, and the prefill's FLOPs."""
    clock, start = _Times(), time.perf_counter()
    with prune(vlm.model, side, prompt.layout, renumbers=vlm.family.renumbers) as trace:
        generate(vlm, prompt, features, Options(tokens), clock)
    first, last = (clock.times[index] - start for index in (1, -1))
    flops = executed(ModelShape.of(vlm.model.config), trace).prefill
    return {"first_s": first, "all_s": last, "flops": flops, "tokens": len(clock.times) - 1}


def measured(name: str, precision: str, tokens: int = TOKENS) -> dict:
    """One comparison by a named model, in seconds."""
    start = time.perf_counter()
    vlm = random_model(name, precision)
    built, prompt = time.perf_counter() - start, noise(sample_prompt(vlm.model.config))
    features = []
    tower = seconds(lambda: features.append(vlm.encode(prompt)), "cpu")
    pruned = timetable(FULL_LAYERS[0], vlm.facts().layers)
    warm = answered(vlm, prompt, features[0], PruningMethod(), 1)
    sides = [answered(vlm, prompt, features[0], side, tokens) for side in (PruningMethod(), pruned)]
    return {
        "name": name,
        "precision": precision,
        "weights": vlm.size,
        "resident": psutil.Process().memory_info().rss,
        "visual": prompt.layout.num_visual,
        "built_s": built,
        "tower_s": tower,
        "tower_flops": vlm.family.tower_flops(vlm.model.config, prompt),
        "warm_s": warm["first_s"],
        "unpruned": sides[0],
        "scheduled": sides[1],
        "comparison_s": tower + sum(side["all_s"] for side in sides),
    }


def by_formula(name: str, why: str) -> dict:
    """The FLOPs of a model that is not run."""
    found = saving_of(name)
    flops = {"tower_flops": found.tower, "unpruned_flops": found.full}
    return {"name": name, "why": why, "visual": found.visual, **flops}


def result(name: str, precision: str, named: bool) -> dict:
    """A model's seconds, or why it was not run.

    Args:
        named: it was asked for by name, so its size is no obstacle.
    """
    spec = MODELS[name]
    try:
        placed = loading.place(spec.title, spec.size, "cpu", precision)
    except Refused as refusal:
        return by_formula(name, str(refusal))
    need = memory.needed(spec.size, placed.precision)
    if need > MOST and not named:
        return by_formula(name, f"it takes {gigabytes(need)} of memory; name it to run it")
    try:
        return measured(name, placed.precision)
    finally:
        gc.collect()


def row(found: dict) -> str:
    """One line of the report."""
    if "why" in found:
        tower, full = found["tower_flops"] / 1e12, found["unpruned_flops"] / 1e12
        return (
            f"{found['name']}: not run ({found['why'].rstrip('.')}). By formula: tower "
            f"{tower:.1f} TFLOPs, prefill of {found['visual']} visual tokens {full:.1f} TFLOPs."
        )
    full, less = found["unpruned"], found["scheduled"]
    return (
        f"{found['name']}: one comparison {found['comparison_s']:.1f} s in {found['precision']}, "
        f"{gigabytes(found['resident'])} resident; {found['visual']} visual tokens; tower "
        f"{found['tower_s']:.1f} s; unpruned {full['first_s']:.2f} s to the first word, "
        f"{full['all_s']:.2f} s to the {full['tokens']}th; scheduled {less['first_s']:.2f} and "
        f"{less['all_s']:.2f} s ({full['first_s'] / less['first_s']:.2f} times faster for "
        f"{full['flops'] / less['flops']:.2f} times fewer FLOPs). Built in "
        f"{found['built_s']:.0f} s, warm-up {found['warm_s']:.1f} s, both not counted."
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print. Returns 0, or 2 after one plain sentence about bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m visipruner.bench.named_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHAPES)}; or all")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bfloat16"), help="on the CPU"
    )
    parser.add_argument("--json", type=Path, help="also write every number here")
    args = parser.parse_args(arguments)
    stay_quiet_and_offline()
    try:
        for name in args.names:
            check_choice("a model", name, SHAPES)
        if args.json:
            check_place(args.json)
        found = []
        for name in args.names or SHAPES:
            found.append(result(name, args.precision, name in args.names))
            print_whole(row(found[-1]))
            if args.json:  # after every model: the next one may be too much
                write_whole(args.json, json.dumps({"machine": here(), "models": found}, indent=1))
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def here() -> dict:
    """The machine, for the file."""
    return {
        "processor": cpu.name(),
        "threads": torch.get_num_threads(),
        "load": psutil.getloadavg()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokens": TOKENS,
    }


if __name__ == "__main__":
    sys.exit(main())
