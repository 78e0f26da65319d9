"""Choose the page's examples from the middle of what pruning does, by a rule and not by looks.

    python -m visipruner examples --write

Asks the questions of many held-out scenes for one word, in full and under VisiPruner's balanced
level. Their measure is the share of the patches kept by the first cut that show a thing. For each
of `ROLES` the example is the scene whose share is nearest to the mean of all runs, among those that
the full model answers right and that fit the role: one shows vision leaving, one pruning that
fails. Writes examples.json beside the weights; the page shows them in this order.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from visipruner.choice import method_at
from visipruner.evaluation.interview import add_common, ask, open_model
from visipruner.files import write_whole
from visipruner.levels import PRESETS
from visipruner.methods import PruningMethod
from visipruner.models.catalogue import VLM
from visipruner.world import sources
from visipruner.world.drawing import BACKGROUND, thing_of_patches
from visipruner.world.questions import asked_for

FILE = "examples.json"


@dataclass(frozen=True)
class Run:
    """One question, in full and under balanced.

    Args:
        on_things: the share of the kept patches that show a thing; None: nothing was cut, or
            nothing is left.
        exit: the layer after which no visual token is left; None: some stay.
    """

    scene: int
    skill: str
    full_right: bool
    right: bool
    on_things: float | None
    exit: int | None


@dataclass(frozen=True)
class Role:
    """What an example shows; `fits` says whether a run does."""

    skill: str
    shows: str
    fits: Callable[[Run], bool]


def _stays(run: Run) -> bool:
    return run.right


def _leaves(run: Run) -> bool:
    return run.right and run.exit is not None


def _fails(run: Run) -> bool:
    return not run.right


ROLES = (
    Role("colour", "an answer that stays", _stays),
    Role("place", "an answer that stays", _stays),
    Role("two_digits", "an answer that stays", _stays),
    Role("relation", "an answer that stays", _stays),
    Role("shape", "vision that leaves", _leaves),
    Role("count", "pruning that fails", _fails),
)
SKILLS = tuple(role.skill for role in ROLES)


def runs(vlm: VLM, scenes: range) -> Iterator[Run]:
    """Every question of `SKILLS` about these scenes."""
    method = method_at(vlm, "visipruner", "balanced")
    patch = vlm.model.config.vision_config.patch_size
    for number in scenes:
        shows = thing_of_patches(sources.scene(number), patch) != BACKGROUND
        for known in sources.questions(number):
            if known.skill not in SKILLS:
                continue
            asked = asked_for(known, True).text
            truth = sources.truth(number, asked)
            prompt = vlm.prepare(sources.picture(number), asked)
            features = vlm.encode(prompt)
            full, _ = ask(vlm, PruningMethod(), prompt, features)
            said, trace = ask(vlm, method, prompt, features)
            kept = trace.cuts[0].kept if trace.cuts else []
            share = float(shows[list(kept)].mean()) if kept else None
            fits = truth.fits(full), truth.fits(said)
            yield Run(number, known.skill, *fits, share, trace.exit_layer)


def choose(found: list[Run], steady: Callable[[Run], bool]) -> list[Run]:
    """One run for each role, each of another scene.

    Args:
        steady: whether a run that stays right under balanced does so under every preset.
    """
    mean = statistics.fmean(run.on_things for run in found if run.on_things is not None)
    chosen: list[Run] = []
    for role in ROLES:
        able = [
            run
            for run in found
            if run.skill == role.skill and run.full_right and role.fits(run)
            if run.on_things is not None and run.scene not in {one.scene for one in chosen}
        ]
        able.sort(key=lambda run: (abs(run.on_things - mean), run.scene))
        chosen.append(next(run for run in able if role.fits is _fails or steady(run)))
    return chosen


def is_steady(vlm: VLM, run: Run) -> bool:
    """Is a run's answer right under every preset?"""
    known = next(q for q in sources.questions(run.scene) if q.skill == run.skill)
    asked = asked_for(known, True).text
    prompt, truth = vlm.prepare(sources.picture(run.scene), asked), sources.truth(run.scene, asked)
    features = vlm.encode(prompt)
    methods = (method_at(vlm, "visipruner", name) for name in PRESETS)
    return all(truth.fits(ask(vlm, method, prompt, features)[0]) for method in methods)


def summary(found: list[Run]) -> dict:
    """What the distribution looks like, from which the examples are chosen."""
    shares = [run.on_things for run in found if run.on_things is not None]
    return {
        "questions": len(found),
        "kept patches on things": statistics.fmean(shares),
        "nothing but ground kept": sum(share == 0 for share in shares) / len(found),
        "nothing cut or kept": 1 - len(shares) / len(found),
        "vision left": sum(run.exit is not None for run in found) / len(found),
        "right as in full": sum(run.right == run.full_right for run in found) / len(found),
    }


def add_options(parser: argparse.ArgumentParser):
    """Add the command's options."""
    add_common(parser)
    parser.add_argument("--questions", type=int, default=100, help="scenes")
    parser.add_argument("--write", action="store_true", help=f"put {FILE} beside the weights")


def run(options: argparse.Namespace):
    """Run the command."""
    vlm, _ = open_model(options)
    found = []
    for one in runs(vlm, range(options.questions)):
        found.append(one)
        if one.skill == SKILLS[0] and one.scene % 10 == 0:
            print(f"scene {one.scene}", flush=True)
    facts = summary(found)
    for name, value in facts.items():
        print(f"{name}: {value:.3g}")
    chosen = choose(found, lambda one: is_steady(vlm, one))
    lines = [{**asdict(one), "shows": role.shows} for one, role in zip(chosen, ROLES, strict=True)]
    for line in lines:
        print(line)
    if options.write:
        content = json.dumps({"of": facts, "examples": lines}, indent=1) + "\n"
        write_whole(options.model / FILE, content)
