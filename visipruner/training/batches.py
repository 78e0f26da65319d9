"""Turn scenes and questions into tensors: many questions share one picture in one sequence.

Each question sees the system sentence, the picture and itself, at the positions it would have
alone. So what the model learns from many questions also holds for a single one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch

from visipruner.training.grounding import LESSONS, Meanings, counted
from visipruner.training.vision import IGNORE, centre_patch
from visipruner.world.phrases import ASSISTANT, SYSTEM, WORD, words
from visipruner.world.questions import SKILLS, Question, ask_about
from visipruner.world.scenes import COLOURS, Scene

QUESTIONS = 24  # per picture
DRAWS = 3  # draw this many questions, ask the one with the rarest answer
RARENESS = {
    "count_kind": lambda asked: int((re.findall(r"\d+", asked.answer) or [0])[0]),
    "same": lambda asked: "same" in asked.answer,
}
# The skills that the model learns last get the most questions.
WEIGHTS = {
    "describe": 3.0,
    "two_digits": 3.0,
    "count": 3.0,
    "count_kind": 6.0,
    "relation": 2.0,
    "same": 5.0,
}


@dataclass
class Packed:
    """A batch of pictures, each with a row of questions after its visual tokens."""

    patches: torch.Tensor  # (picture, kept): patch numbers of the kept visual tokens
    prefix: torch.Tensor  # (token,): the ids before the picture, the same for all
    ids: torch.Tensor  # (picture, token): questions and answers, one after the other
    positions: torch.Tensor  # (picture, prefix + kept + token)
    allowed: torch.Tensor  # (picture, 1, query, key), bool
    targets: torch.Tensor  # (picture, token): the next id, inside answers only
    weights: torch.Tensor  # (picture, token)
    # For each of grounding.LESSONS (meaning, 3): picture, token, the id of a word it stands for.
    lessons: list[torch.Tensor]
    glances: torch.Tensor  # (glance, 2): picture, and the token that counts something
    looks: torch.Tensor  # (glance, prefix + kept): its target attention

    def to(self, device: torch.device) -> Packed:
        """The same batch on a device."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        lessons = [lesson.to(device) for lesson in found.pop("lessons")]
        return Packed(lessons=lessons, **{name: part.to(device) for name, part in found.items()})


class Packer:
    """Turns scenes and their questions into a Packed batch, with one processor's ids."""

    def __init__(self, processor, patches: int):
        self.tokenizer = processor.tokenizer
        self.count = patches
        self.patch = processor.patch_size
        before, _ = user_prompt(processor, "").split(processor.image_token)
        self.prefix = self.tokenizer(before).input_ids

    def question_ids(self, text: str) -> list[int]:
        return self.tokenizer(text + ASSISTANT, add_special_tokens=False).input_ids

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer that keep capitals: the tokenizer itself lower-cases what it reads."""
        ids = self.tokenizer.convert_tokens_to_ids(re.findall(f"(?i){WORD}", text))
        return [*ids, self.tokenizer.eos_token_id]

    def length(self, question: Question) -> int:
        """How many tokens a question takes in its row, answer included."""
        return len(self._block(question)[0])

    def pack(self, scenes: list, rows: list[list[Question]], patches: torch.Tensor) -> Packed:
        """One row of questions per scene, after its visual tokens `patches` (picture, kept)."""
        blocks = [[self._block(question) for question in row] for row in rows]
        length = max(sum(len(block[0]) for block in row) for row in blocks)
        pad = self.tokenizer.pad_token_id
        first = len(self.prefix) + self.count  # the position of every question's first token
        ids, places, targets, weights, owners = [], [], [], [], []
        for row in blocks:
            line = [[], [], [], [], []]
            for number, (tokens, goal, weight) in enumerate(row, start=1):
                span = range(first, first + len(tokens))
                for part, values in zip(
                    line, (tokens, span, goal, weight, [number] * len(tokens)), strict=True
                ):
                    part.extend(values)
            for part, value in zip(line, (pad, first, IGNORE, 0.0, -1), strict=True):
                part.extend([value] * (length - len(part)))
            for rowset, part in zip((ids, places, targets, weights, owners), line, strict=True):
                rowset.append(part)
        prefix = torch.tensor(self.prefix)
        text_before = torch.arange(len(prefix)).expand(len(rows), -1)
        before = torch.cat([text_before, patches + len(prefix)], dim=1)
        owner = torch.cat([torch.zeros_like(before), torch.tensor(owners)], dim=1)
        return Packed(
            patches,
            prefix,
            torch.tensor(ids),
            torch.cat([before, torch.tensor(places)], dim=1),
            _block_mask(owner),
            torch.tensor(targets),
            torch.tensor(weights),
            [self._lesson(scenes, rows, lesson.find) for lesson in LESSONS],
            *self._glances(scenes, rows, patches),
        )

    def _lesson(
        self, scenes: list, rows: list[list[Question]], find: Callable[..., Meanings]
    ) -> torch.Tensor:
        """The positions of a lesson's words in their row, and the words' meanings."""
        found = []
        for number, (scene, row) in enumerate(zip(scenes, rows, strict=True)):
            start = 0
            for question in row:
                for index, values in find(scene, question):
                    ids = self.tokenizer.convert_tokens_to_ids(values)
                    found += [(number, start + index, word) for word in ids]
                start += len(self._block(question)[0])
        return torch.tensor(found, dtype=torch.long).view(-1, 3)

    def _glances(
        self, scenes: list, rows: list[list[Question]], patches: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that count something; each should attend equally to every thing and the start.

        The start's share, 1 / (n + 1), then tells the number.
        """
        found, looks = [], []
        for number, (scene, row) in enumerate(zip(scenes, rows, strict=True)):
            start = 0
            for question in row:
                for index, things in counted(scene, question):
                    centres = [centre_patch(thing, scene, self.patch) for thing in things]
                    look = torch.zeros(len(self.prefix) + patches.shape[1])
                    look[0] = 1
                    look[len(self.prefix) :] += torch.isin(patches[number], torch.tensor(centres))
                    found.append((number, start + index))
                    looks.append(look / look.sum())
                start += len(self._block(question)[0])
        width = len(self.prefix) + patches.shape[1]
        looks = torch.stack(looks) if looks else torch.zeros(0, width)
        return torch.tensor(found, dtype=torch.long).view(-1, 2), looks

    def _block(self, question: Question) -> tuple[list[int], list[int], list[float]]:
        asked, answer = self.question_ids(question.text), self.answer_ids(question.answer)
        tokens = asked + answer[:-1]
        goal = [IGNORE] * (len(asked) - 1) + answer
        # A description has fifty times the tokens of a "yes"; the root keeps weights comparable.
        weight = [0.0] * (len(asked) - 1) + [len(answer) ** -0.5] * len(answer)
        return tokens, goal, weight


def _block_mask(owner: torch.Tensor) -> torch.Tensor:
    """Causal, and open only to the shared part (owner 0) and the token's own question."""
    length = owner.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    query, key = owner[:, :, None], owner[:, None, :]
    return (causal & ((key == 0) | (key == query)))[:, None]


def user_prompt(processor, question: str) -> str:
    """The prompt of one question about one picture, from the chat template."""
    text = [{"type": "text", "text": question}]
    return processor.apply_chat_template(
        [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
            {"role": "user", "content": [{"type": "image"}, *text]},
        ],
        add_generation_prompt=True,
    )


def ask_many(
    scene: Scene, rng: random.Random, count: int = QUESTIONS, favour: Sequence[str] = ()
) -> list[Question]:
    """Questions of all kinds about one scene, at most one description; over half are favoured."""
    skills = list(SKILLS)
    weights = [WEIGHTS.get(skill, 1.0) for skill in skills]
    total = sum(weights)
    for skill in favour:
        weights[skills.index(skill)] += total / len(favour)
    asked = []
    for skill in rng.choices(skills, weights, k=count):
        question = ask_rarer(scene, skill, rng)
        twice = skill == "describe" and any(q.skill == skill for q in asked)
        if question and not twice and not (scene.motley and speaks_of_colour(question)):
            asked.append(question)
    return asked


def ask_rarer(scene: Scene, skill: str, rng: random.Random) -> Question | None:
    """A question; half the time, for skills with unequally frequent answers, the rarest of a few.

    Otherwise nearly all kinds would number 1, and two colours would be "different" at a guess.
    """
    if skill not in RARENESS or rng.random() < 0.5:
        return ask_about(scene, skill, rng)
    asked = [ask_about(scene, skill, rng) for _ in range(DRAWS)]
    return max(filter(None, asked), key=RARENESS[skill], default=None)


def speaks_of_colour(question: Question) -> bool:
    return not {*COLOURS, "colour", "color", "colours"}.isdisjoint(
        words(f"{question.text} {question.answer}")
    )


def keep_patches(labels: dict[str, torch.Tensor], kept: int, rng: random.Random) -> torch.Tensor:
    """Numbers of the patches to keep, in order; patches of things are likelier than ground.

    # (picture, kept)
    """
    generator = torch.Generator().manual_seed(rng.getrandbits(40))
    chance = torch.rand(labels["shape"].shape, generator=generator)
    chance += 0.45 * (labels["centre"] != IGNORE)
    chance += labels["centre"] == 1  # every thing must stay, so that it can be counted
    return chance.topk(kept, dim=1).indices.sort(dim=1).values
