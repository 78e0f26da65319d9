"""Ask the bundled model the questions of a split, with any pruning method, and score the answers.

The questions are always the same, so that two methods, or two versions of the weights, can be
paired. A file keeps finished answers, so that an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import random
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from visipruner.choice import Side, methods_of, name_of, settings_of_side
from visipruner.engine import prune
from visipruner.evaluation.items import Column, Item, Wished, kinds_in
from visipruner.files import check_place
from visipruner.flops import ModelShape, dense, executed
from visipruner.inputs import check_number
from visipruner.methods import PruningMethod
from visipruner.models.catalogue import MODELS, VLM, load_vlm
from visipruner.models.checkpoint import fingerprint
from visipruner.prompt import Prompt
from visipruner.tower import needs_clip, needs_tower
from visipruner.trace import PruningTrace
from visipruner.training.config import FOLDER
from visipruner.training.train import CHECKPOINTS
from visipruner.world.drawing import render
from visipruner.world.questions import SKILLS, Question, ask_about
from visipruner.world.scenes import Scene, make_scene
from visipruner.world.scoring import score

MOST_TOKENS = 160  # the longest description has about 120
FORMS = {"one word": True, "a sentence": False}  # the form of the requested answer


def questions(split: str, skill: str, count: int) -> Iterator[tuple[int, Scene, Question]]:
    """The first `count` questions of a skill: (scene number, scene, question), always the same."""
    number = 0
    while count:
        scene = make_scene(number, split)
        asked = ask_about(scene, skill, random.Random(f"{split} {skill} {number}"))
        if asked:
            yield number, scene, asked
            count -= 1
        number += 1


def form_of(asked: Question) -> str | None:
    """The one of `FORMS` that a question requests; None if the question has one form only."""
    if not asked.other:
        return None
    return next(form for form, short in FORMS.items() if short == asked.short)


@torch.inference_mode()
def ask(
    vlm: VLM, method: Side, prompt: Prompt, features, most: int = MOST_TOKENS, clip=None
) -> tuple[str, PruningTrace]:
    """The greedy answer under a method.

    Args:
        features: from `vlm.encode`.
        most: longest answer, in tokens.
        clip: from `vlm.clip_of`, for methods that need it.
    """
    side, tower = vlm.stack(method), features.tower
    with prune(vlm.model, side, prompt.layout, tower=tower, clip=clip) as trace:
        tokens = vlm.model.generate(
            **{name: tensor.to(vlm.device) for name, tensor in prompt.asked.items()},
            **features.arguments,
            max_new_tokens=most,
            do_sample=False,
        )
    text = vlm.processor.decode(tokens[0, prompt.layout.length :], skip_special_tokens=True)
    return text, trace


@dataclass(frozen=True)
class Asked:
    """A question with its scene and its place among all: split, skill and scene number."""

    split: str
    skill: str
    number: int
    scene: Scene
    question: Question

    @property
    def where(self) -> dict:
        return {"set": self.split, "skill": self.skill, "number": self.number}

    @property
    def key(self) -> list:
        return [*self.where.values(), self.question.text]

    @property
    def facts(self) -> dict:
        return {**self.where, "form": form_of(self.question)}

    def prompt(self, vlm: VLM) -> Prompt:
        return vlm.prepare(render(self.scene), self.question.text)

    def judge(self, answer: str) -> float:
        return score(self.question, answer, self.scene)


def by_skill(splits: Iterable[str], count: int) -> Iterator[Asked]:
    """`count` questions per skill and split, one skill after the other."""
    for split in splits:
        for skill in SKILLS:
            for found in questions(split, skill, count):
                yield Asked(split, skill, *found)


def in_turn(split: str, count: int) -> Iterator[Asked]:
    """The same questions of one split, but one of each skill in turn.

    If they end early, every skill was asked about equally often.
    """
    for turn in zip(*(questions(split, skill, count) for skill in SKILLS), strict=True):
        for skill, found in zip(SKILLS, turn, strict=True):
            yield Asked(split, skill, *found)


def asked_one_by_one(
    vlm: VLM,
    columns: Mapping[str, Column],
    asking: Iterable[Item],
    done: MutableMapping[str, dict] | None = None,
    most: int = MOST_TOKENS,
) -> Iterator[tuple[str, dict]]:
    """Ask every column every question; yields each answer's key and row as it comes.

    The model's lock is held for one answer at a time and never while this generator waits, so
    that other runs come in between.

    Args:
        done: finished answers by key, which are not asked again; new ones are added to it.
        most: longest answer, in tokens.
    """
    done = {} if done is None else done
    shape, kinds = ModelShape.of(vlm.model.config), kinds_in(columns)
    for one in asking:
        keys = {c: _key(vlm, one, side) for c, side in columns.items()}
        if any(key not in done for key in keys.values()):
            prompt = one.prompt(vlm)
            with vlm.lock:
                features = vlm.encode(prompt, needs_tower(kinds) or needs_clip(kinds))
                clip = vlm.clip_of(prompt, features) if needs_clip(kinds) else None
        for column, side in columns.items():
            key = keys[column]
            if key not in done:
                if isinstance(side, Wished):
                    side = side.made(vlm, prompt.layout.num_visual)
                own = clip if needs_clip(methods_of(side)) else None
                with vlm.lock:
                    said, trace = ask(vlm, side, prompt, features, most, own)
                done[key] = {
                    "flops": executed(shape, trace).prefill,
                    **({"dense": dense(shape, trace)} if vlm.schedule else {}),
                    "filtered": trace.filtering_layer,
                    "left": trace.exit_layer,
                    "tokens": [record.visual_tokens for record in trace.layers],
                    "answer": said,
                }
            row = done[key]
            yield key, {"column": column, **one.facts, "score": one.judge(row["answer"])} | row


def interview(
    vlm: VLM,
    columns: Mapping[str, Column],
    splits: Iterable[str],
    count: int,
    store: Path,
) -> list[dict]:
    """Ask every column `count` questions per skill and split, except those already in `store`.

    Returns one row per answer: column, set, skill, number, form (one of `FORMS`; None if the
    question has one form only), score (0 to 1), flops (executed in the language model's prefill),
    filtering and exit layer, visual tokens per layer, and the answer.
    """
    done = _read(store)
    kept, rows, now = set(done), [], None
    with open(store, "a", encoding="utf-8") as file:
        for key, row in asked_one_by_one(vlm, columns, by_skill(splits, count), done):
            if key not in kept:
                # Start a new line, in case the last one is incomplete.
                file.write("\n" + json.dumps({"key": key, **done[key]}))
                file.flush()
                kept.add(key)
            place = f"{row['set']} {row['skill']}"
            if place != now:
                print(f"{place} begins", flush=True)
                now = place
            rows.append(row)
    return rows


def _key(vlm: VLM, one: Item, column: Column) -> str:
    """All that an answer depends on, except the engine, and the model: the item's key or the
    store's name has its weights."""
    words = [column.words] if isinstance(column, Wished) else []
    side = vlm.stack(column.made(vlm) if words else column)
    rules = [rule_hash(type(method)) for method in methods_of(side)]
    parts = [*one.key, vlm.precision, *words, name_of(side), settings_of_side(side)]
    return json.dumps([*parts, rules])


@cache
def rule_hash(kind: type[PruningMethod]) -> str:
    """A short hash of the file that holds a method: answers under an older rule are asked again."""
    return hashlib.sha256(Path(inspect.getsourcefile(kind)).read_bytes()).hexdigest()[:8]


def _read(store: Path) -> dict[str, dict]:
    store.parent.mkdir(parents=True, exist_ok=True)
    if not store.exists():
        return {}
    found = {}
    for line in store.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # blank, or the last line of a run that died while writing
        found[row.pop("key")] = row
    return found


def share_cut(rows: list[dict], full: list[dict]) -> float:
    """The share of executed prefill FLOPs that the rows save compared with the unpruned ones.

    Of a model with a schedule of its own: compared with all tokens in all layers.
    """
    whole = sum(row.get("dense", row["flops"]) for row in full)
    return 1 - sum(row["flops"] for row in rows) / whole


def store_of(folder: Path) -> Path:
    """The file that keeps the answers of these weights between runs."""
    return CHECKPOINTS / f"answers-{fingerprint(folder)}.jsonl"


def folder_of(model: str) -> Path:
    """The folder of a model, by its name in MODELS or by its path."""
    spec = MODELS.get(model)
    return Path(spec.path) if spec and spec.path else Path(model)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command on the bundled model has."""
    parser.add_argument("--model", type=folder_of, default=FOLDER, help="a folder, or a name")
    parser.add_argument("--store", type=Path, help="where answers are kept; else by the weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def open_model(options: argparse.Namespace) -> tuple[VLM, Path]:
    """The command line's model, and the file that keeps its answers.

    Raises:
        Refused: a wrong number or folder.
    """
    for name in ("threads", "questions", "final"):
        number = getattr(options, name, None)  # not every command has all of them
        if number is not None:
            check_number(f"--{name}", number, 1, 100_000, integer=True)
    torch.set_num_threads(options.threads)
    if options.store:
        check_place(options.store)
    vlm = load_vlm(options.model, device="cuda" if torch.cuda.is_available() else "cpu")
    return vlm, options.store or store_of(options.model)
