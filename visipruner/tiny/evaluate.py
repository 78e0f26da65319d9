"""How often the bundled model is right, skill by skill, with 95% intervals.

    python -m visipruner.tiny.evaluate --quick         # 20 questions per skill
    python -m visipruner.tiny.evaluate --write         # 300 per skill; stop and go on at will

Two sets: scenes from seeds never trained on, and scenes of colour-shape pairs never trained on.
Answers are greedy. A description counts by its facts. Finished answers are kept in a file named
after the weights, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from visipruner.tiny.batches import user_prompt
from visipruner.tiny.config import FOLDER
from visipruner.tiny.data import SKILLS, Question, Scene, ask_about, make_scene, render, score
from visipruner.tiny.train import CHECKPOINTS

SETS = ("heldout", "unseen")
QUICK, FULL = 20, 300  # questions per skill and set
Z = 1.96  # 95%
MARK = "<!-- results -->"  # the model card's table stands between two of these

# What stands between the model and its answers: name -> context manager of a model.
# A method of pruning is one more line here.
COLUMNS: dict[str, Callable] = {"unpruned": lambda model: contextlib.nullcontext()}


def load(folder: Path = FOLDER, dtype: torch.dtype = torch.float32):
    """The bundled model and its processor."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no model: check that the repository is complete")
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
    return model, AutoProcessor.from_pretrained(folder)


@torch.inference_mode()
def answer(model, processor, image, question: str, **generate) -> str:
    """The model's greedy answer to one question about one picture."""
    prompt = user_prompt(processor, question)
    inputs = processor(images=image, text=prompt, return_tensors="pt").to(model.device)
    tokens = model.generate(**inputs, **generate)
    return processor.decode(tokens[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def questions(split: str, skill: str, count: int) -> Iterator[tuple[int, Scene, Question]]:
    """The first `count` questions of a skill: always the same, so results can be paired."""
    number = 0
    while count:
        scene = make_scene(number, split)
        asked = ask_about(scene, skill, random.Random(f"{split} {skill} {number}"))
        if asked:
            yield number, scene, asked
            count -= 1
        number += 1


def wilson(right: float, count: int) -> tuple[float, float]:
    """95% interval of a share; for shares of facts it is on the safe side."""
    share, z2 = right / count, Z**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count)) / (1 + z2)
    return middle - half, middle + half


def paired_difference(first: list[float], second: list[float]) -> tuple[float, float, float]:
    """Mean of second - first over the same questions, and its 95% interval."""
    differences = torch.tensor(second, dtype=torch.float64) - torch.tensor(first)
    half = Z * differences.std().item() / math.sqrt(len(first)) if len(first) > 1 else math.inf
    mean = differences.mean().item()
    return mean, mean - half, mean + half


def fingerprint(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]


def run(folder: Path, count: int, store: Path, columns: dict[str, Callable] = COLUMNS) -> list:
    """Asks everything that the store does not hold yet; one row per answer."""
    store.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
    done = {(row["column"], row["set"], row["skill"], row["number"]): row for row in rows}
    model, processor = load(folder)
    found = []
    with open(store, "a") as file:
        for column, split, skill in ((c, s, k) for c in columns for s in SETS for k in SKILLS):
            for number, scene, asked in questions(split, skill, count):
                row = done.get((column, split, skill, number))
                if row is None:
                    with columns[column](model):
                        said = answer(model, processor, render(scene), asked.text)
                    row = {"column": column, "set": split, "skill": skill, "number": number}
                    row |= {"score": score(asked, said, scene), "answer": said}
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                found.append(row)
            print(f"{column} {split} {skill} done", flush=True)
    return found


def summary(rows: list[dict]) -> list[dict]:
    """Share of right answers and its interval for every column, set and skill, and over all."""
    table = []
    for column, split in dict.fromkeys((row["column"], row["set"]) for row in rows):
        mine = [row for row in rows if (row["column"], row["set"]) == (column, split)]
        for skill in (*SKILLS, "all"):
            scores = [row["score"] for row in mine if skill in (row["skill"], "all")]
            low, high = wilson(sum(scores), len(scores))
            share = sum(scores) / len(scores)
            line = {"column": column, "set": split, "skill": skill, "questions": len(scores)}
            table.append(line | {"right": share, "low": low, "high": high})
    return table


def as_markdown(table: list[dict]) -> str:
    """One line per skill, one column per set and method."""
    heads = list(dict.fromkeys((line["column"], line["set"]) for line in table))
    cells = {(line["column"], line["set"], line["skill"]): line for line in table}
    lines = ["| skill | questions | " + " | ".join(f"{c}, {s}" for c, s in heads) + " |"]
    lines.append("|---" * (2 + len(heads)) + "|")
    for skill in (*SKILLS, "all"):
        shown = [cells[c, s, skill] for c, s in heads]
        values = [f"{x['right']:.1%} ({x['low']:.1%}-{x['high']:.1%})" for x in shown]
        lines.append(f"| {skill} | {shown[0]['questions']} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def write_results(folder: Path, table: list[dict]) -> None:
    """The table as data beside the weights, and as text in the model card, between its marks."""
    (folder / "evaluation.json").write_text(json.dumps(table, indent=1) + "\n")
    card = folder / "README.md"
    before, _, rest = card.read_text().partition(MARK)
    after = rest.partition(MARK)[2]
    card.write_text(f"{before}{MARK}\n{as_markdown(table)}\n{MARK}{after}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} questions per skill")
    parser.add_argument("--questions", type=int, help="per skill and set, another number")
    parser.add_argument("--store", type=Path, help="where answers are kept")
    parser.add_argument("--write", action="store_true", help="put the table beside the weights")
    options = parser.parse_args(argv)
    count = options.questions or (QUICK if options.quick else FULL)
    store = options.store or CHECKPOINTS / f"answers-{fingerprint(options.model)}.jsonl"
    table = summary(run(options.model, count, store))
    print(as_markdown(table))
    if options.write:
        write_results(options.model, table)


if __name__ == "__main__":
    main()
