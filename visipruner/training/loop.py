"""The weights that learn, and the loop that trains one stage of a recipe."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import AutoProcessor, LlavaForConditionalGeneration

from visipruner.training.batches import Packer
from visipruner.training.config import build_model, build_processor
from visipruner.training.lessons import Stage, WrittenScenes
from visipruner.training.optimizer import optimizers
from visipruner.training.vision import PatchHeads

# Weights for training only: without them training restarts with a higher loss.
LESSON_WEIGHTS = "lessons.safetensors"
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


def run_stage(learner: Learner, name: str, stage: Stage, steps: int, folder: Path, options) -> None:
    """Train one stage up to `steps`, from its own checkpoint if it has one."""
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
    for step, drawn in zip(
        range(first, steps), draws(learner, name, stage, first, steps, options), strict=True
    ):
        torch.manual_seed(step)
        for optimizer in optims:
            for group in optimizer.param_groups:
                most = (options.lr or stage.lr) * group.get("scale", 1.0)
                group["lr"] = learning_rate(step, steps, most)
            optimizer.zero_grad(set_to_none=True)
        loss, seen = stage.loss(learner, drawn, step / steps, options)
        loss.backward()
        nn.utils.clip_grad_norm_([w for p in parts for w in p.parameters()], 1.0)
        for optimizer in optims:
            optimizer.step()
        minutes = spent + (time.monotonic() - start) / 60
        if step % options.report == 0 or step + 1 == steps:
            record(folder, {"stage": name, "step": step, "minutes": round(minutes, 2), **seen})
        if stage.check and ((step + 1) % options.check == 0 or step + 1 == steps):
            record(folder, {"stage": name, "step": step, **stage.check(learner)})
        if (step + 1) % options.save == 0 or step + 1 == steps:
            save_checkpoint(learner, optims, folder / f"{name}.pt", step + 1, minutes)


def draws(learner: Learner, name: str, stage: Stage, first: int, steps: int, options) -> Iterator:
    """What every step learns from; the same, whichever process draws it."""

    def draw(step: int):
        rng = random.Random(f"{options.seed} {name} {step}")
        return stage.draw(learner, rng, options) if stage.draw else rng

    if not stage.draw or not options.workers:
        return map(draw, range(first, steps))
    # The learner is inherited and not sent: forked processes see it as it is, on a GPU too.
    return iter(
        DataLoader(
            Draws(draw),
            batch_size=None,  # a draw is a whole step
            sampler=range(first, steps),
            num_workers=options.workers,
            collate_fn=lambda drawn: drawn,
            multiprocessing_context="fork",
        )
    )


class Draws(Dataset):
    """What a step learns from, by the step's number."""

    def __init__(self, draw: Callable):
        self.draw = draw

    def __getitem__(self, step: int):
        return self.draw(step)


def record(folder: Path, line: dict) -> None:
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
    print(" ".join(f"{k} {v}" for k, v in rounded.items()), flush=True)
    with open(folder / "curve.jsonl", "a", encoding="utf-8") as file:
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
