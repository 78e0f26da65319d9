"""Train the bundled model, stage by stage; every stage can be stopped and resumed.

    python -m visipruner train --stage vision --steps 3000     # the tower, patch by patch
    python -m visipruner train --stage language --steps 3000   # the LLM, on written scenes
    python -m visipruner train --stage align --steps 300       # the projector between them
    python -m visipruner train --stage joint --steps 1000      # all together, on pictures
    python -m visipruner train --stage export                  # to assets/tiny-llava

The order is LLaVA's: first train a vision tower and a language model separately, then a projector
between them, then everything together. `--stage all` runs the five in turn;
`--init-from assets/tiny-llava --stage joint` goes on from the published weights.

    python -m visipruner train --recipe aligned --enter 3 --leave 5   # visual tokens in 3 of 12

trains the published weights for late entry and early exit (aligned.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from visipruner.errors import Refused
from visipruner.files import shown, write_whole
from visipruner.inputs import check_number
from visipruner.models.checkpoint import write_sums
from visipruner.models.loading import check_checkpoint
from visipruner.training.aligned import Aligned, Span
from visipruner.training.config import FOLDER
from visipruner.training.lessons import STAGES, Stage
from visipruner.training.loop import LESSON_WEIGHTS, Learner, run_stage
from visipruner.world.phrases import SYSTEM
from visipruner.world.questions import SKILLS
from visipruner.world.scenes import ASSETS

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
ALIGNED_CHECKPOINTS = CHECKPOINTS / "aligned"
ALIGNED_FOLDER = ASSETS / "tiny-aligned"
ALIGNED_STAGES = ("projector", "aligned")


def gather(learner: Learner, stages: dict[str, Stage], folder: Path, name: str) -> None:
    """Load what earlier stages have learnt, from each stage the parts that it trained."""
    order = list(stages)
    for earlier in order[: order.index(name)] if name in order else order:
        path = folder / f"{earlier}.pt"
        if path.exists():
            saved = torch.load(path, map_location=learner.device)["learner"]
            wanted = stages[earlier].prefixes
            taken = {k: v for k, v in saved.items() if k.startswith(wanted)}
            learner.load_state_dict(taken, strict=False)


def export(learner: Learner, folder: Path, to: Path, presets: dict) -> None:
    """Write the model as transformers loads it, in bfloat16, and the curves beside it.

    Args:
        folder: where the checkpoints and curves lie.
        to: where the model goes; calibrate.py later adds settings to its presets.

    Raises:
        Refused: nothing was trained; nothing is overwritten.
    """
    curve = folder / "curve.jsonl"
    if not curve.exists() or not any(folder.glob("*.pt")):
        raise Refused(f"There is nothing to export in {shown(folder)}: train a stage first.")
    lines = [json.loads(line) for line in curve.read_text("utf-8").splitlines()]
    learner.model.to(torch.bfloat16).save_pretrained(to)
    parts = {"heads": learner.heads, "written": learner.written}
    lessons = {f"{k}.{n}": w for k, part in parts.items() for n, w in part.named_parameters()}
    save_file(
        {name: w.detach().to(torch.bfloat16) for name, w in lessons.items()},
        to / LESSON_WEIGHTS,
    )
    learner.processor.save_pretrained(to)
    write_sums(to, SUMMED)
    rows = ",\n".join(json.dumps(line) for line in thinned(lines))
    write_whole(to / "training.json", f"[\n{rows}\n]\n")
    if not (to / "presets.json").exists():
        write_whole(to / "presets.json", json.dumps(presets, indent=1) + "\n")


def thinned(lines: list[dict]) -> list[dict]:
    """Every tenth line of the curve and the last one of each run of a stage: enough to draw it."""
    last = len(lines) - 1

    def ends(number: int) -> bool:
        return number == last or lines[number + 1].get("stage") != lines[number].get("stage")

    return [line for number, line in enumerate(lines) if number % 10 == 0 or ends(number)]


def add_options(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.add_argument("--recipe", choices=("natural", "aligned"), default="natural")
    parser.add_argument(
        "--stage",
        choices=[*STAGES, *ALIGNED_STAGES, "export", "all"],
        default="all",
        help=f"natural: {', '.join(STAGES)}; aligned: {', '.join(ALIGNED_STAGES)}",
    )
    parser.add_argument("--steps", type=int, help="how far to train the stage, from its start")
    parser.add_argument("--checkpoints", type=Path, help="default: a folder of the recipe's own")
    parser.add_argument("--init-from", type=Path, help="a saved model to go on from")
    parser.add_argument("--lr", type=float, help="instead of the stage's own learning rate")
    parser.add_argument("--pictures", type=int, help="per step, instead of the stage's own number")
    parser.add_argument("--keep-tower", action="store_true", help="the vision tower stays as it is")
    parser.add_argument(
        "--favour", nargs="+", choices=SKILLS, default=(), help="skills of half of the questions"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that draw ahead, for the stage aligned"
    )
    parser.add_argument("--report", type=int, default=20, help="steps between two lines")
    parser.add_argument("--save", type=int, default=100, help="steps between two checkpoints")
    aligned = parser.add_argument_group("the aligned recipe")
    aligned.add_argument("--enter", type=int, default=3, help="first layer with visual tokens")
    aligned.add_argument("--leave", type=int, default=5, help="last layer with visual tokens")
    aligned.add_argument("--teacher", type=Path, help="the unpruned model; else --init-from")
    aligned.add_argument("--distil", type=float, default=1.0, help="weight of the teacher")
    aligned.add_argument("--pull", type=float, default=0.0, help="weight of the teacher's states")
    aligned.add_argument("--check", type=int, default=100, help="steps between two validations")
    aligned.add_argument("--to", type=Path, help="where the export goes; else assets/tiny-aligned")


def run(options: argparse.Namespace):
    """Train one stage, or all.

    Raises:
        Refused: a wrong number or folder, or nothing to export.
    """
    for name in ("steps", "pictures", "threads", "report", "save", "check"):
        number = getattr(options, name)
        if number is not None:
            check_number(f"--{name}", number, 1, 10_000_000, integer=True)
    check_number("--workers", options.workers, 0, 1000, integer=True)
    for name in ("distil", "pull"):
        check_number(f"--{name}", getattr(options, name), 0, 1000)
    aligned = options.recipe == "aligned"
    if aligned and not options.init_from:
        options.init_from = FOLDER
    for folder in filter(None, (options.init_from, options.teacher)):
        check_checkpoint(folder)
    options.checkpoints = options.checkpoints or (ALIGNED_CHECKPOINTS if aligned else CHECKPOINTS)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    learner = Learner(options.init_from)
    learner.to("cuda" if torch.cuda.is_available() else "cpu")
    stages, to, presets = STAGES, FOLDER, {"system": SYSTEM}
    if aligned:
        stages, schedule = _aligned_stages(learner, options)
        to, presets = options.to or ALIGNED_FOLDER, dict(presets, schedule=schedule)
    if options.stage not in (*stages, "export", "all"):
        raise Refused(f"The {options.recipe} recipe has no stage {options.stage}.")
    for name in [*stages, "export"] if options.stage == "all" else [options.stage]:
        if aligned or not options.init_from:
            gather(learner, stages, options.checkpoints, name)
        if name == "export":
            export(learner, options.checkpoints, to, presets)
        else:
            # Only the last stage of the aligned recipe is long.
            steps = stages[name].steps
            if options.steps and not (aligned and options.stage == "all" and name == "projector"):
                steps = options.steps
            run_stage(learner, name, stages[name], steps, options.checkpoints, options)


def _aligned_stages(learner: Learner, options) -> tuple[dict[str, Stage], dict[str, int]]:
    """The stages of the aligned recipe, and the schedule that its model will run.

    Raises:
        Refused: layers that the model does not have.
    """
    layers = learner.model.config.text_config.num_hidden_layers
    check_number("--enter", options.enter, 1, layers - 1, integer=True)
    check_number("--leave", options.leave, options.enter, layers - 1, integer=True)
    teacher = (
        Learner(options.teacher or options.init_from).model.to(learner.device).requires_grad_(False)
    )
    span = Span(options.enter, options.leave)
    schedule = {"enter": options.enter, "leave": options.leave}
    return Aligned(teacher, span, options.distil, options.pull).stages(), schedule
