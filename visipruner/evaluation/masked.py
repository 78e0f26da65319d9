"""How often the bundled model is right while a range of layers cannot see the picture.

    python -m visipruner analyse masking --set heldout --write

Every answer is greedy, and masked while it is written too. Finished questions are kept in a file,
so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from visipruner.analyses import masked_answers as rules
from visipruner.analyses.base import Step
from visipruner.analyses.masked_answers import masked_answers
from visipruner.analyses.masking import RangeMasking
from visipruner.analyses.ranges import block_of, ranges_of, stages_of
from visipruner.analyses.recorded import FILE, Recorded
from visipruner.evaluation.intervals import paired_difference, wilson
from visipruner.evaluation.interview import CHECKPOINTS, MOST_TOKENS, Asked, in_turn
from visipruner.files import write_whole
from visipruner.models.catalogue import VLM
from visipruner.models.checkpoint import fingerprint
from visipruner.running.clocks import machine
from visipruner.world.drawing import render
from visipruner.world.questions import SKILLS
from visipruner.world.scoring import score

MASKING = RangeMasking.name
SPLIT = "heldout"
USUAL, MOST = 45, 100_000  # questions per skill
UNMASKED = (0, -1)  # an empty range
RESAMPLED = 1000  # sets of questions for the interval of a stage's ends
DIGITS = 5


def store_of(folder: Path) -> Path:
    """The file that keeps the masked answers of these weights between runs."""
    return CHECKPOINTS / f"masked-{fingerprint(folder)}.jsonl"


def accuracy(vlm: VLM, count: int, store: Path) -> Iterator[Step | Recorded]:
    """Ask held-out questions under every mask; yields a `Step` per question, then the result.

    Args:
        count: questions per skill.
        store: finished answers, which are not asked again; new ones are added.
    """
    layers = len(vlm.parts.layers)
    ranges = [UNMASKED, *ranges_of(layers, block_of(layers))]
    total, scores = count * len(SKILLS), []
    yield Step(0, total)
    for one, said in _answers(vlm, ranges, count, store):
        scores.append([score(one.question, answer, one.scene) for answer in said])
        yield Step(len(scores), total)
    yield summary(layers, block_of(layers), ranges[1:], np.array(scores))


def _answers(vlm: VLM, ranges, count: int, store: Path) -> Iterator[tuple[Asked, list[str]]]:
    """Each question with its answers, one per range."""
    done = _read(store)
    with open(store, "a", encoding="utf-8") as file:
        for one in in_turn(SPLIT, count):
            key = _key(vlm, one, ranges)
            if key not in done:
                done[key] = _ask(vlm, one, ranges)
                # A new line first, because the last one may be incomplete.
                file.write("\n" + json.dumps({"key": key, "answers": done[key]}))
                file.flush()
            yield one, done[key]


def _ask(vlm: VLM, one: Asked, ranges) -> list[str]:
    prompt = vlm.prepare(render(one.scene), one.question.text)
    with vlm.lock:
        features = vlm.encode(prompt)
        said = masked_answers(vlm, prompt, features, ranges, MOST_TOKENS)
    return [vlm.processor.decode(tokens, skip_special_tokens=True) for tokens in said]


def _key(vlm: VLM, one: Asked, ranges) -> str:
    """All that the answers depend on, except the weights, which name the store, and the engine."""
    rule = hashlib.sha256(Path(inspect.getsourcefile(rules)).read_bytes()).hexdigest()[:8]
    return json.dumps([*one.where.values(), one.question.text, vlm.precision, ranges, rule])


def _read(store: Path) -> dict[str, list[str]]:
    store.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    for line in store.read_text(encoding="utf-8").splitlines() if store.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # blank, or the last line of a run that died while writing
        found[row["key"]] = row["answers"]
    return found


def summary(layers: int, block: int, ranges, scores: np.ndarray) -> Recorded:
    """What the scores say.

    Args:
        ranges: (first, last) masked layer, both included.
        scores: (questions, 1 + ranges), each 0 to 1; the first column is unmasked.
    """
    unmasked, *masked = (_share(column) for column in scores.T)
    usual = scores[:, 0].tolist()
    lost = [_rounded(paired_difference(column.tolist(), usual)) for column in scores.T[1:]]
    begins, ends = _ends_of_middle(ranges, scores)
    ranges, masked, lost = tuple(map(tuple, ranges)), tuple(masked), tuple(lost)
    return Recorded(len(scores), layers, block, unmasked, ranges, masked, lost, begins, ends)


def _share(column: np.ndarray) -> tuple[float, float, float]:
    return _rounded((column.mean(), *wilson(column.sum(), len(column))))


def _rounded(numbers: Sequence[float]) -> tuple:
    return tuple(round(float(number), DIGITS) for number in numbers)


def _ends_of_middle(ranges, scores: np.ndarray) -> tuple:
    """95% intervals of the middle stage's first and last layer; two None: it is hardly ever named.

    Each set is as many questions, drawn with replacement; the draws are always the same.
    """
    draw, count = np.random.default_rng(0), len(scores)
    found = []
    for _ in range(RESAMPLED):
        means = scores[draw.integers(count, size=count)].mean(0)
        stages = stages_of(dict(zip(map(tuple, ranges), means[0] - means[1:], strict=True)), 1e-9)
        found += [stages["middle"]] if stages else []
    if len(found) < 0.95 * RESAMPLED:
        return None, None
    sides = np.quantile(np.array(found), (0.025, 0.975), axis=0, method="nearest")
    return tuple(tuple(int(layer) for layer in side) for side in sides.T)


def write(vlm: VLM, folder: Path, found: Recorded):
    """Write the result beside the weights, with how it was made; one line per range."""
    taken = machine(vlm)
    facts = {
        "made": f"python -m visipruner analyse masking --set {SPLIT} --questions "
        f"{found.questions // len(SKILLS)} --write",
        "date": datetime.date.today().isoformat(),
        "machine": f"{taken['device']}, torch {taken['torch']}, {taken['dtype']}",
        "weights": fingerprint(folder),
        "set": f"{SPLIT}, {len(SKILLS)} skills in equal parts",
        "stages": found.stages,
        "result": found.to_json(),
    }
    write_whole(folder / FILE, _lines(facts) + "\n")


def _lines(value, depth: int = 0) -> str:
    """JSON with one line per name, and one per row of a table."""
    room = "\n" + " " * (depth + 1)
    if isinstance(value, dict):
        rows = [f"{json.dumps(name)}: {_lines(one, depth + 1)}" for name, one in value.items()]
        return "{" + room + f",{room}".join(rows) + room[:-1] + "}"
    return json.dumps(value)
