"""Train the bundled model, stage by stage; every stage can be stopped and resumed.

    python -m visipruner train --stage vision --steps 3000     # the tower, patch by patch
    python -m visipruner train --stage language --steps 3000   # the LLM, on written scenes
    python -m visipruner train --stage align --steps 300       # the projector between them
    python -m visipruner train --stage joint --steps 1000      # all together, on pictures
    python -m visipruner train --stage export                  # to assets/tiny-llava

The order is LLaVA's: first train a vision tower and a language model separately, then a projector
between them, then everything together. `--stage all` runs the five in turn;
`--init-from assets/tiny-llava --stage joint` goes on from the published weights.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoProcessor, LlavaForConditionalGeneration

from visipruner.errors import Refused
from visipruner.files import shown, write_whole
from visipruner.inputs import check_number
from visipruner.models.checkpoint import write_sums
from visipruner.models.loading import check_checkpoint
from visipruner.training.batches import Packer
from visipruner.training.config import FOLDER, build_model, build_processor
from visipruner.training.lessons import STAGES, WrittenScenes
from visipruner.training.optimizer import optimizers
from visipruner.training.vision import PatchHeads
from visipruner.world.phrases import SYSTEM
from visipruner.world.questions import SKILLS

# Weights for training only: without them training restarts with a higher loss.
LESSON_WEIGHTS = "lessons.safetensors"
# Files that an answer depends on; the presets are calibrated later.
SUMMED = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
CHECKPOINTS = Path.home() / ".cache" / "tiny-llava-training"
WARM_UP = 50  # steps
FINISH = 0.25  # of the steps: the learning rate falls to zero over this last part


class Learner(nn.Module):
    """All weights: the model's, and those for training only."""

    def __init__(self, start: Path | None = None):
        super().__init__()
        if start:
            self.processor = AutoProcessor.from_pretrained(
                start, local_files_only=True, trust_remote_code=False
            )
            self.model = LlavaForConditionalGeneration.from_pretrained(
                start,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
            )
        else:
            self.processor = build_processor()
            self.model = build_model(self.processor.tokenizer)
        config = self.model.config
        self.heads = PatchHeads(config.vision_config.hidden_size)
        self.written = WrittenScenes(self.processor.tokenizer, config)
        if start and (start / LESSON_WEIGHTS).exists():
            self.load_state_dict(load_file(start / LESSON_WEIGHTS), strict=False)
        self.patch = config.vision_config.patch_size
        self.grid = config.vision_config.image_size // self.patch
        self.packer = Packer(self.processor, self.grid**2)

    @property
    def device(self) -> torch.device:
        return self.model.device


def learning_rate(step: int, steps: int, most: float) -> float:
    """Rises over a few steps, stays level, then falls linearly to zero at the end."""
    return most * min(1.0, (step + 1) / WARM_UP, (steps - step) / (FINISH * steps))


def run_stage(learner: Learner, name: str, steps: int, folder: Path, options) -> None:
    """Train one stage up to `steps`, from its own checkpoint if it has one."""
    stage = STAGES[name]
    parts = stage.parts(learner)
    learner.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)
    if options.keep_tower:
        learner.model.model.vision_tower.requires_grad_(False)
    optims = optimizers(parts, options.lr or stage.lr)
    first, spent = load_checkpoint(learner, optims, folder / f"{name}.pt")
    if first:
        print(f"goes on from {folder / name}.pt, step {first}, whatever it began with", flush=True)
    if first >= steps:
        print(f"nothing to do: {steps} steps are done; name more or another folder", flush=True)
    start = time.monotonic()
    for step in range(first, steps):
        torch.manual_seed(step)
        rng = random.Random(f"{options.seed} {name} {step}")
        for optimizer in optims:
            for group in optimizer.param_groups:
                most = (options.lr or stage.lr) * group.get("scale", 1.0)
                group["lr"] = learning_rate(step, steps, most)
            optimizer.zero_grad(set_to_none=True)
        loss, seen = stage.loss(learner, rng, step / steps, options)
        loss.backward()
        nn.utils.clip_grad_norm_([w for p in parts for w in p.parameters()], 1.0)
        for optimizer in optims:
            optimizer.step()
        minutes = spent + (time.monotonic() - start) / 60
        if step % options.report == 0 or step + 1 == steps:
            record(folder, {"stage": name, "step": step, "minutes": round(minutes, 2), **seen})
        if (step + 1) % options.save == 0 or step + 1 == steps:
            save_checkpoint(learner, optims, folder / f"{name}.pt", step + 1, minutes)


def record(folder: Path, line: dict) -> None:
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
    print(" ".join(f"{k} {v}" for k, v in rounded.items()), flush=True)
    with open(folder / "curve.jsonl", "a") as file:
        file.write(json.dumps(rounded) + "\n")


def save_checkpoint(learner: Learner, optims: list, path: Path, step: int, minutes: float) -> None:
    state = {
        "learner": learner.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optims],
        "step": step,
        "minutes": minutes,
    }
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)  # a crash while saving keeps the old file


def load_checkpoint(learner: Learner, optims: list, path: Path) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=learner.device)
    learner.load_state_dict(state["learner"])
    for optimizer, saved in zip(optims, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["minutes"]


def gather(learner: Learner, folder: Path, name: str) -> None:
    """Load what earlier stages have learnt, from each stage the parts that it trained."""
    order = list(STAGES)
    for earlier in order[: order.index(name)] if name in order else order:
        path = folder / f"{earlier}.pt"
        if path.exists():
            saved = torch.load(path, map_location=learner.device)["learner"]
            wanted = STAGES[earlier].prefixes
            taken = {k: v for k, v in saved.items() if k.startswith(wanted)}
            learner.load_state_dict(taken, strict=False)


def export(learner: Learner, folder: Path) -> None:
    """Write the model as transformers loads it, in bfloat16, and the curves beside it.

    Raises:
        Refused: nothing was trained; nothing is overwritten.
    """
    curve = folder / "curve.jsonl"
    if not curve.exists() or not any(folder.glob("*.pt")):
        raise Refused(f"There is nothing to export in {shown(folder)}: train a stage first.")
    lines = [json.loads(line) for line in curve.read_text().splitlines()]
    learner.model.to(torch.bfloat16).save_pretrained(FOLDER)
    parts = {"heads": learner.heads, "written": learner.written}
    lessons = {f"{k}.{n}": w for k, part in parts.items() for n, w in part.named_parameters()}
    save_file(
        {name: w.detach().to(torch.bfloat16) for name, w in lessons.items()},
        FOLDER / LESSON_WEIGHTS,
    )
    learner.processor.save_pretrained(FOLDER)
    write_sums(FOLDER, SUMMED)
    rows = ",\n".join(json.dumps(line) for line in thinned(lines))
    write_whole(FOLDER / "training.json", f"[\n{rows}\n]\n")
    presets = FOLDER / "presets.json"
    if not presets.exists():  # calibrate.py adds settings to the sentence
        write_whole(presets, json.dumps({"system": SYSTEM}, indent=1) + "\n")


def thinned(lines: list[dict]) -> list[dict]:
    """Every tenth line of the curve and the last one of each run of a stage: enough to draw it."""
    last = len(lines) - 1

    def ends(number: int) -> bool:
        return number == last or lines[number + 1].get("stage") != lines[number].get("stage")

    return [line for number, line in enumerate(lines) if number % 10 == 0 or ends(number)]


def add_options(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.add_argument("--stage", choices=[*STAGES, "export", "all"], default="all")
    parser.add_argument("--steps", type=int, help="how far to train the stage, from its start")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS)
    parser.add_argument("--init-from", type=Path, help="a saved model to go on from")
    parser.add_argument("--lr", type=float, help="instead of the stage's own learning rate")
    parser.add_argument("--pictures", type=int, help="per step, instead of the stage's own number")
    parser.add_argument("--keep-tower", action="store_true", help="the vision tower stays as it is")
    parser.add_argument("--favour", choices=SKILLS, help="a skill to ask three times of four")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--report", type=int, default=20, help="steps between two lines")
    parser.add_argument("--save", type=int, default=100, help="steps between two checkpoints")


def run(options: argparse.Namespace):
    """Train one stage, or all.

    Raises:
        Refused: a wrong number or folder, or nothing to export.
    """
    for name in ("steps", "pictures", "threads", "report", "save"):
        number = getattr(options, name)
        if number is not None:
            check_number(f"--{name}", number, 1, 10_000_000, integer=True)
    if options.init_from:
        check_checkpoint(options.init_from)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    learner = Learner(options.init_from)
    learner.to("cuda" if torch.cuda.is_available() else "cpu")
    for name in [*STAGES, "export"] if options.stage == "all" else [options.stage]:
        if not options.init_from:
            gather(learner, options.checkpoints, name)
        if name == "export":
            export(learner, options.checkpoints)
        else:
            steps = options.steps or STAGES[name].steps
            run_stage(learner, name, steps, options.checkpoints, options)
