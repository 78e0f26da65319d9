"""VisiPruner's presets for the bundled model, chosen on the validation split.

    python -m visipruner.tiny.calibrate --questions 4    # per skill and candidate

Every candidate answers the same validation questions; the held-out sets are never looked at.
A preset is the most accurate of the candidates that cut enough executed prefill FLOPs. Writes
presets.json beside the weights, with what was measured for each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path

import torch

from visipruner.engine import prune
from visipruner.flops import ModelShape, executed
from visipruner.methods import PruningMethod, VisiPruner
from visipruner.models import VLM, Prompt, load_vlm
from visipruner.tiny.config import FOLDER
from visipruner.tiny.data import SKILLS, render, score
from visipruner.tiny.evaluate import questions

# The FLOPs that a preset must cut.
GOALS = {"gentle": 0.2, "balanced": 0.4, "aggressive": 0.55}
SHALLOW = (0,)
COSINES = (0.97, 0.99, 0.997)
# Shares of sqrt(1 - cosine^2), below which the kept set can never be empty (paper.md).
SHARES = (0.3, 0.9)
EXITS = (0.999,)


def candidates(semantics: str) -> list[VisiPruner]:
    """Every setting that is tried."""
    return [
        VisiPruner(
            semantics=semantics,
            shallow_layers=shallow,
            layer_threshold=cosine,
            tokens_threshold=round(share * (1 - cosine**2) ** 0.5, 4),
            relative=True,
            exit_threshold=leave,
        )
        for shallow, cosine, share, leave in itertools.product(SHALLOW, COSINES, SHARES, EXITS)
    ]


def sample(vlm: VLM, count: int) -> list[tuple]:
    """(prompt, picture features, question, scene): `count` validation questions of each skill."""
    taken = []
    for skill in SKILLS:
        for _, scene, asked in questions("validation", skill, count):
            prompt = vlm.prepare(render(scene), asked.text)
            taken.append((prompt, vlm.encode(prompt), asked, scene))
    return taken


@torch.inference_mode()
def measure(vlm: VLM, method: PruningMethod, taken: list[tuple]) -> dict:
    """Accuracy and mean executed prefill FLOPs of a method on the sample."""
    shape, rights, flops = ModelShape.of(vlm.model.config), [], []
    for prompt, features, asked, scene in taken:
        text, trace = _answer(vlm, method, prompt, features)
        rights.append(score(asked, text, scene))
        flops.append(executed(shape, trace).prefill)
    return {"right": statistics.mean(rights), "flops": statistics.mean(flops)}


def _answer(vlm: VLM, method: PruningMethod, prompt: Prompt, features):
    with prune(vlm.model, method, prompt.layout) as trace:
        tokens = vlm.model.generate(
            input_ids=prompt.inputs["input_ids"],
            mm_encoder_outputs={"image": features},
            max_new_tokens=160,
        )
    text = vlm.processor.decode(tokens[0, prompt.layout.length :], skip_special_tokens=True)
    return text, trace


def choose(tried: list[tuple[VisiPruner, dict]], full: dict) -> dict[str, tuple[VisiPruner, dict]]:
    """Per preset the most accurate candidate that cuts enough; of equals, the cheapest."""
    chosen = {}
    for name, goal in GOALS.items():
        enough = [pair for pair in tried if 1 - pair[1]["flops"] / full["flops"] >= goal]
        # If nothing cuts enough, what cuts most is the nearest that there is.
        enough = enough or [min(tried, key=lambda pair: pair[1]["flops"])]
        chosen[name] = max(enough, key=lambda pair: (pair[1]["right"], -pair[1]["flops"]))
    return chosen


def table(chosen: dict, full: dict) -> dict:
    """Thresholds at the five levels 0, 0.25, 0.5, 0.75 and 1, as levels.py reads them.

    Level 0 is never used for a run (it keeps everything); level 1 is the hardest preset, harder.
    """
    picks = [chosen[name][0] for name in GOALS]
    rows = {"relative": True}
    for name in ("shallow_layers", "layer_threshold", "tokens_threshold", "exit_threshold"):
        values = [getattr(method, name) for method in picks]
        rows[name] = [values[0], *values, values[-1]]
    rows["measured"] = {
        name: {
            "right": round(result["right"], 4),
            "flops_cut": round(1 - result["flops"] / full["flops"], 4),
        }
        for name, (_, result) in chosen.items()
    }
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=4, help="per skill")
    parser.add_argument("--model", type=Path, default=FOLDER)
    options = parser.parse_args(argv)
    vlm = load_vlm(options.model, device="cuda" if torch.cuda.is_available() else "cpu")
    taken = sample(vlm, options.questions)
    full = measure(vlm, PruningMethod(), taken)
    print(f"unpruned: {full['right']:.1%} of {len(taken)} validation questions", flush=True)
    presets = {"questions": len(taken), "unpruned": round(full["right"], 4)}
    for semantics in ("paper", "official"):
        tried = []
        for method in candidates(semantics):
            result = measure(vlm, method, taken)
            tried.append((method, result))
            cut = 1 - result["flops"] / full["flops"]
            print(f"{cut:6.1%} cut, {result['right']:6.1%} right: {method}", flush=True)
        presets[semantics] = table(choose(tried, full), full)
    (options.model / "presets.json").write_text(json.dumps(presets, indent=1) + "\n")


if __name__ == "__main__":
    main()
