"""Drawn scenes in the folders where lmms-eval's stock tasks look for their data sets.

`datasets.load_dataset` takes a folder of the repository's name below the working directory before
it asks the hub. GQA and TextVQA hold drawn scenes too: the plumbing is tested, not a benchmark.
"""

from __future__ import annotations

import io
import random
from pathlib import Path

from visipruner.world.drawing import render
from visipruner.world.questions import ask_about
from visipruner.world.scenes import COLOURS, make_scene

OWNER = "lmms-lab-encoder"


def picture_of(scene) -> dict:
    file = io.BytesIO()
    render(scene).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def asked_of(skill: str, count: int):
    """(number, scene, question) with one-word answers."""
    number = found = 0
    while found < count:
        scene = make_scene(number, "heldout")
        asked = ask_about(scene, skill, random.Random(f"benchmark {skill} {number}"))
        if asked and len(asked.answer.split()) == 1:
            yield found, scene, asked
            found += 1
        number += 1


def bare(asked) -> str:
    """The question without a plea for one word, which the benchmarks add themselves."""
    return asked.text.partition("?")[0].capitalize() + "?"


def _pope(number, scene, asked) -> dict:
    answer = asked.answer.lower().strip(".")
    return {"question_id": str(number), "question": bare(asked), "answer": answer}


def _mme(number, scene, asked) -> dict:
    line = _pope(number, scene, asked) | {"category": "existence"}
    return line | {"question_id": f"existence/{number // 2}.png"}


def _gqa(number, scene, asked) -> dict:
    word = asked.answer.lower().strip(".")
    return {"question": bare(asked), "answer": word, "imageId": str(number)}


def _textvqa(number, scene, asked) -> dict:
    word = asked.answer.lower().strip(".")
    line = {"question_id": number, "question": bare(asked), "answers": [word] * 10}
    return line | {"ocr_tokens": ["none"]}


def _choices(number, asked) -> tuple[list[str], int]:
    right = asked.answer.lower().strip(".")
    others = random.Random(number).sample([c for c in COLOURS if c != right], 3)
    choices = sorted([right, *others])
    return choices, choices.index(right)


def _scienceqa(number, scene, asked) -> dict:
    choices, right = _choices(number, asked)
    hint = "The picture was drawn by a program.\nIt shows a few things." * (1 + number % 2)
    return {"question": bare(asked), "choices": choices, "answer": right, "hint": hint}


def _mmbench(number, scene, asked) -> dict:
    choices, right = _choices(number, asked)
    line = {"index": number, "question": bare(asked), "hint": "nan", "source": "drawn"}
    line |= {"split": "dev", "category": "object_localization", "L2-category": "attribute"}
    return line | dict(zip("ABCD", choices, strict=True)) | {"answer": "ABCD"[right]}


# task: (folder, configuration, split, skill, line)
SETS = {
    "pope": ("POPE", None, "test", "exists", _pope),
    "mme": ("MME", None, "test", "exists", _mme),
    "gqa": ("GQA", "testdev_balanced_instructions", "testdev", "shape", _gqa),
    "textvqa_val": ("textvqa", None, "validation", "colour", _textvqa),
    "scienceqa_img": ("ScienceQA", "ScienceQA-IMG", "test", "colour", _scienceqa),
    "mmbench_en_dev_static": ("MMBench", "en", "dev", "colour", _mmbench),
}


def write(folder: Path, count: int, tasks=tuple(SETS)):
    """Write `count` questions of each task below a folder, which then is the working directory."""
    for task in tasks:
        name, config, split, skill, line = SETS[task]
        rows, pictures = [], []
        for number, scene, asked in asked_of(skill, count):
            image = picture_of(scene)
            pictures.append({"id": str(number), "image": image})
            rows.append(line(number, scene, asked) | ({} if task == "gqa" else {"image": image}))
        files = {config: rows}
        if task == "gqa":
            files["testdev_balanced_images"] = pictures
        _save(folder / OWNER / name, files, split)


def _save(folder: Path, files: dict, split: str):
    """One parquet file per configuration; a card names them if there are any."""
    from datasets import Dataset, Features, Image

    card = ["---", "configs:"]
    for config, rows in files.items():
        where = f"{config or 'data'}/{split}-00000-of-00001.parquet"
        card += [f"- config_name: {config}", "  data_files:"]
        card += [f"  - split: {split}", f"    path: {where}"]
        made = Dataset.from_list(rows)
        if "image" in rows[0]:
            made = made.cast(Features(dict(made.features) | {"image": Image()}))
        (folder / where).parent.mkdir(parents=True, exist_ok=True)
        made.to_parquet(folder / where)
    if None not in files:
        (folder / "README.md").write_text("\n".join([*card, "---", ""]))
