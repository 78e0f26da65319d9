"""Choose the page's examples from the middle of what pruning does, by a rule and not by looks.

    python -m visipruner examples --write

Asks the questions of many held-out scenes for one word, in full and under VisiPruner's balanced
level. Their measure is the share of the patches kept by the first cut that show a thing. For each
of `ROLES` the example is the scene whose share is nearest to the mean of all runs, among those that
the full model answers right, that keep a usual number of patches for their skill (its middle half),
and that fit the role: one shows vision leaving, one pruning that fails. The others keep something
of the things that the question names, if it names any, though half of all runs keep none of it.
Writes examples.json beside the weights; the page shows them in this order.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from visipruner.choice import method_at
from visipruner.errors import Refused
from visipruner.evaluation.interview import add_common, ask, open_model
from visipruner.files import write_whole
from visipruner.levels import PRESETS
from visipruner.methods import PruningMethod
from visipruner.models.catalogue import VLM
from visipruner.trace import PruningTrace
from visipruner.training.grounding import mentioned
from visipruner.world import sources
from visipruner.world.drawing import BACKGROUND, thing_of_patches
from visipruner.world.questions import Question, asked_for
from visipruner.world.scenes import Scene

FILE = "examples.json"


@dataclass(frozen=True)
class Run:
    """One question, in full and under balanced.

    Args:
        kept: patches that the first cut keeps; 0 also if nothing was cut.
        on_things: the share of the kept patches that show a thing; None: there are none.
        on_asked: the share of them on the things that the question names; None: it names none.
        exit: the layer after which no visual token is left; None: some stay.
    """

    scene: int
    skill: str
    full_right: bool
    right: bool
    kept: int
    on_things: float | None
    on_asked: float | None
    exit: int | None


@dataclass(frozen=True)
class Role:
    """What an example shows; `fits` says whether a run does."""

    skill: str
    shows: str
    fits: Callable[[Run], bool]


def _stays(run: Run) -> bool:
    return run.right and run.on_asked != 0


def _leaves(run: Run) -> bool:
    return _stays(run) and run.exit is not None


def _fails(run: Run) -> bool:
    return not run.right


ROLES = (
    Role("place", "an answer that stays", _stays),
    Role("colour", "an answer that stays", _stays),
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
        scene = sources.scene(number)
        shows = thing_of_patches(scene, patch)
        for known in sources.questions(number):
            if known.skill not in SKILLS:
                continue
            asked = asked_for(known, True).text
            truth = sources.truth(number, asked)
            prompt = vlm.prepare(sources.picture(number), asked)
            features = vlm.encode(prompt)
            full, _ = ask(vlm, PruningMethod(), prompt, features)
            said, trace = ask(vlm, method, prompt, features)
            yield Run(
                number,
                known.skill,
                truth.fits(full),
                truth.fits(said),
                *_what_is_kept(trace, shows, named_in(scene, known)),
                trace.exit_layer,
            )


def named_in(scene: Scene, asked: Question) -> list[int]:
    """The numbers of the things that a question names."""
    return [scene.things.index(thing) for thing in mentioned(scene, asked)]


def _what_is_kept(trace: PruningTrace, shows: np.ndarray, named: list[int]) -> tuple:
    """How many patches the first cut keeps, the share on any thing, and on the named things."""
    cuts = [cut for cut in trace.cuts if not trace.is_own(cut)]  # not of a model's own schedule
    kept = list(cuts[0].kept) if cuts else []
    if not kept:
        return 0, None, None
    on_named = float(np.isin(shows[kept], named).mean()) if named else None
    return len(kept), float((shows[kept] != BACKGROUND).mean()), on_named


def choose(found: list[Run], steady: Callable[[Run], bool]) -> list[Run]:
    """One run for each role, each of another scene.

    Args:
        steady: whether a run that stays right under balanced does so under every preset.

    Raises:
        Refused: no run fits a role.
    """
    mean = statistics.fmean(run.on_things for run in found if run.on_things is not None)
    kept = {skill: [run.kept for run in found if run.skill == skill] for skill in SKILLS}
    usual = {skill: _middle_half(numbers) for skill, numbers in kept.items()}
    chosen: list[Run] = []
    for role in ROLES:
        able = [
            run
            for run in found
            if run.skill == role.skill and run.full_right and role.fits(run)
            if run.on_things is not None and _within(run.kept, usual[run.skill])
            if run.scene not in {one.scene for one in chosen}
        ]
        able.sort(key=lambda run: (abs(run.on_things - mean), run.scene))
        fit = next((run for run in able if role.fits is _fails or steady(run)), None)
        if fit is None:
            raise Refused(
                f"No question about {role.skill} shows {role.shows}: ask about more scenes."
            )
        chosen.append(fit)
    return chosen


def _middle_half(numbers: list[int]) -> tuple[float, float]:
    """The first and the third quartile; of nothing: zeros."""
    first, third = np.quantile(numbers or [0], (0.25, 0.75))
    return first, third


def _within(number: float, ends: tuple[float, float]) -> bool:
    return ends[0] <= number <= ends[1]


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
    asked = [run.on_asked for run in found if run.on_asked is not None]
    return {
        "questions": len(found),
        "median of kept patches": statistics.median(run.kept for run in found),
        "kept patches on things": statistics.fmean(shares),
        "nothing of what is asked about kept": sum(share == 0 for share in asked) / len(asked),
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
