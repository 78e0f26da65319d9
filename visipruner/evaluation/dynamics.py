"""How the bundled model's layers use vision: the paper's analyses, on this project's model.

    python -m visipruner dynamics --write

Measures accuracy while the text tokens cannot see the picture below a layer, or from a layer on
(the paper's figure 3); where VisiPruner's presets filter, how many and which patches they keep, and
where vision leaves; how the last prompt token spreads its attention, and whether visual tokens are
sinks (much attention, small values). Writes dynamics.json beside the weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from visipruner.analyses.blind import Blind
from visipruner.choice import method_at
from visipruner.evaluation.evaluate import UNPRUNED
from visipruner.evaluation.interview import FORMS, add_common, ask, interview, open_model, questions
from visipruner.evaluation.typical import named_in
from visipruner.files import write_whole
from visipruner.levels import PRESETS
from visipruner.methods import PruningMethod, VisiPruner
from visipruner.models.catalogue import VLM
from visipruner.world.drawing import BACKGROUND, render, thing_of_patches
from visipruner.world.questions import SKILLS, asked_for

ONE_THING = ("colour", "shape", "size", "place")  # skills that ask about one thing


@dataclass(frozen=True)
class Watch(PruningMethod):
    """Prunes nothing; records in `seen` the attention of each layer's last prompt token."""

    name: ClassVar[str] = "watch"

    seen: list = field(default_factory=list)

    def select(self, view):
        if not len(view.visual_rows):  # the model has a schedule of its own
            return None
        row = view.attention_row().mean(0)  # over heads: (rows,)
        visual = row[view.visual_rows]
        sizes = view.values[0][:, view.visual_rows].norm(dim=-1).mean(0)
        top = visual.argmax()
        self.seen.append(
            {
                "layer": view.layer,
                "first token": row[0].item(),
                "visual": visual.sum().item(),
                "top visual token": visual[top].item(),
                "its value against the median": (sizes[top] / sizes.median()).item(),
                "lowest cosine": view.influence().lowest,
            }
        )
        return None


def masked(vlm: VLM, count: int, store: Path) -> list[dict]:
    """Accuracy while blind in layers 0 to k - 1, and from layer k to the end, for every k."""
    layers = vlm.model.config.get_text_config().num_hidden_layers
    methods = {UNPRUNED: PruningMethod()}
    methods |= {f"blind below {k}": Blind(0, k) for k in range(1, layers + 1)}
    methods |= {f"blind from {k}": Blind(k, layers) for k in range(1, layers)}
    rows = interview(vlm, methods, ("heldout",), count, store)
    found = []
    for name in methods:
        scores = [row["score"] for row in rows if row["column"] == name]
        found.append({"masking": name, "questions": len(scores), "right": statistics.mean(scores)})
    return found


def stages(vlm: VLM, count: int, store: Path) -> list[dict]:
    """For every preset: how often each layer was the filtering or the exit layer, tokens kept."""
    presets = _presets(vlm)
    rows = interview(vlm, presets, ("heldout",), count, store)
    found = []
    for name in presets:
        mine = [row for row in rows if row["column"] == name]
        filtered = [row for row in mine if row["filtered"] is not None]
        # The layer after the filtering layer; after the last layer no tokens are left.
        kept = [(row["tokens"] + [0])[row["filtered"] + 1] for row in filtered]
        found.append(
            {
                "preset": name,
                "questions": len(mine),
                "filtered after": _tally(row["filtered"] for row in mine),
                "vision left after": _tally(row["left"] for row in mine),
                "median kept": statistics.median(kept) if kept else None,
            }
        )
    return found


def _presets(vlm: VLM) -> dict[str, PruningMethod]:
    if vlm.serves(VisiPruner):
        return {}
    return {name: method_at(vlm, "visipruner", name) for name in PRESETS}


def _tally(layers) -> dict[str, int]:
    """How often each layer occurs, in order; None last."""
    counted = Counter(layers)
    order = sorted(counted, key=lambda layer: math.inf if layer is None else layer)
    return {str(layer): counted[layer] for layer in order}


def kept(vlm: VLM, methods: dict[str, PruningMethod], count: int) -> list[dict]:
    """For every method, what the patches kept by its first cut show; "all" is every patch.

    Each of `count` questions per skill is asked for one word and for a sentence, because the test
    watches the answer's first word. Descriptions and runs that kept nothing are left out. Reports
    the median number of patches, the mean share of them on any thing and, for questions about one
    thing (`ONE_THING`), on that thing.
    """
    found = {(form, name): [] for form in FORMS for name in ("all", *methods)}
    patch = vlm.model.config.vision_config.patch_size
    for skill in SKILLS:
        for _, scene, asked in questions("heldout", skill, count):
            if not asked.other:
                continue  # a description has one form
            shows = thing_of_patches(scene, patch)
            named = named_in(scene, asked) if skill in ONE_THING else []
            about = np.isin(shows, named)
            for form, one_word in FORMS.items():
                prompt = vlm.prepare(render(scene), asked_for(asked, one_word).text)
                features, chosen = vlm.encode(prompt), {"all": list(range(len(shows)))}
                for name, method in methods.items():
                    _, trace = ask(vlm, method, prompt, features)
                    cuts = [cut for cut in trace.cuts if not trace.is_own(cut)]
                    chosen[name] = cuts[0].kept if cuts else []
                for name, patches in chosen.items():
                    if patches:
                        on_things = (shows[patches] != BACKGROUND).mean()
                        on_it = about[patches].mean() if about.any() else None
                        found[form, name].append((len(patches), on_things, on_it))
    lines = []
    for (form, name), rows in found.items():
        if rows:
            sizes, on_things, on_it = zip(*rows, strict=True)
            line = {"asked for": form, "kept by": name, "questions": len(rows)}
            line["patches"] = statistics.median(sizes)
            line["on things"] = float(np.mean(on_things))
            if known := [share for share in on_it if share is not None]:
                line["on the thing asked about"] = float(np.mean(known))
            lines.append(line)
    return lines


def attention(vlm: VLM, count: int) -> list[dict]:
    """Per layer the means of what `Watch` records, over `count` questions per skill."""
    watch = Watch()
    for skill in SKILLS:
        for _, scene, asked in questions("heldout", skill, count):
            prompt = vlm.prepare(render(scene), asked.text)
            ask(vlm, watch, prompt, vlm.encode(prompt))
    layers = sorted({note["layer"] for note in watch.seen})
    return [
        {
            key: statistics.mean(note[key] for note in watch.seen if note["layer"] == layer)
            for key in watch.seen[0]
        }
        for layer in layers
    ]


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def add_options(parser: argparse.ArgumentParser):
    """Add the command's options."""
    add_common(parser)
    parser.add_argument("--questions", type=int, default=10, help="per skill")
    parser.add_argument("--write", action="store_true", help="put the figures beside the weights")


def run(options: argparse.Namespace):
    """Run the command."""
    vlm, store = open_model(options)
    found = {"masking": masked(vlm, options.questions, store)}
    found["stages"] = stages(vlm, options.questions, store)
    found["kept"] = kept(vlm, _presets(vlm), options.questions)
    found["attention"] = attention(vlm, max(1, options.questions // 3))
    for line in itertools.chain.from_iterable(found.values()):
        print(", ".join(f"{name} {_short(value)}" for name, value in line.items()))
    if options.write:
        write_whole(options.model / "dynamics.json", json.dumps(found, indent=1) + "\n")
