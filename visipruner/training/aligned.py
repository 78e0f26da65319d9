"""The aligned recipe: train the model so that its visual tokens enter late and leave early.

    python -m visipruner train --recipe aligned --enter 3 --leave 5 --steps 1700

VisiPruner's paper (arXiv 2510.17205) ends with guidelines for efficient models: feed visual tokens
only from the middle layers on, let few of them matter there, and let vision leave once it is fused.
This recipe applies them to the published `tiny` weights. Visual tokens enter before layer `enter`
and leave after layer `leave`; all other layers run on text alone. Two steps:

1. *Projector.* A visual token at layer `enter` is foreign: the layers before it never saw it. So
   the projector alone learns the hidden states that the teacher's visual tokens have there.
2. *Aligned.* Projector and language model learn the answers, and the teacher's probabilities of
   every word of them. The tower stays. Lessons of the natural recipe that say where heads look, and
   steps with a part of the visual tokens, were tried for 700 steps and slowed it down. With
   `--pull` what enters also stays near the teacher's states. The published weights took several
   cycles of this step; their model card names them.

Some scenes of the second step are written as words (`WrittenScenes`) and enter as the states that
the teacher has of them at that layer, so that pairs which no picture shows are not forgotten.

The teacher is the unpruned model that the recipe begins with. Training runs batches, which
`prune()` refuses, so `in_spans` runs the stock layers itself; a test holds it to the engine.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visipruner.training.batches import Packed, Packer, ask_many
from visipruner.training.lessons import (
    Stage,
    ask_all,
    first_right,
    some_pictures,
    some_scenes,
    tower_features,
)
from visipruner.training.vision import IGNORE, label_batch, pixel_batch
from visipruner.world.questions import SKILLS
from visipruner.world.scenes import make_scene

PICTURES = 4  # per step
WRITTEN = 4  # every fourth scene of an aligned step is written as words, with pairs never painted
CHECKED = 32  # validation scenes, with up to 24 questions each


@dataclass(frozen=True)
class Span:
    """The layers that compute visual tokens: from `enter` to `leave`, both counted from 0."""

    enter: int
    leave: int


def in_spans(
    language: nn.Module, packed: Packed, visual: Tensor, span: Span
) -> tuple[Tensor, dict[int, Tensor]]:
    """Run the decoder with visual tokens in the layers of `span` alone.

    Args:
        visual: (picture, kept, width), what enters.

    Returns:
        The questions' states after the final norm, (picture, token, width); and the input of
        every layer of the span, (picture, prefix + kept + token, width).
    """
    device, words = visual.device, language.embed_tokens
    prefix = len(packed.prefix)
    is_text = torch.ones(packed.allowed.shape[-1], dtype=torch.bool, device=device)
    is_text[prefix : prefix + visual.shape[1]] = False
    allowed, positions = packed.allowed.to(device), packed.positions.to(device)
    text_allowed = allowed[:, :, is_text][..., is_text]
    before = words(packed.prefix.to(device)).expand(len(visual), -1, -1)
    hidden = torch.cat([before, words(packed.ids.to(device))], dim=1)
    turns = language.rotary_emb(hidden, positions)
    text_turns = tuple(turn[:, is_text] for turn in turns)
    states = {}
    for number, layer in enumerate(language.layers):
        if number == span.enter:
            hidden = torch.cat([hidden[:, :prefix], visual, hidden[:, prefix:]], dim=1)
        if span.enter <= number <= span.leave:
            states[number] = hidden
            hidden = layer(hidden, attention_mask=allowed, position_embeddings=turns)
        else:
            hidden = layer(hidden, attention_mask=text_allowed, position_embeddings=text_turns)
        if number == span.leave:
            hidden = hidden[:, is_text]
    return language.norm(hidden)[:, prefix:], states


@torch.no_grad()
def states_at(language: nn.Module, prefix: Tensor, visual: Tensor, layer: int) -> Tensor:
    """The states of whole pictures' visual tokens at the input of a layer.

    visual (picture, patch, width) -> the same shape. Later text cannot change them.
    """
    before = language.embed_tokens(prefix.to(visual.device)).expand(len(visual), -1, -1)
    hidden = torch.cat([before, visual], dim=1)
    rows = hidden.shape[1]
    turns = language.rotary_emb(hidden, torch.arange(rows, device=visual.device)[None])
    causal = torch.ones(rows, rows, dtype=torch.bool, device=visual.device).tril()[None, None]
    for one in language.layers[:layer]:
        hidden = one(hidden, attention_mask=causal, position_embeddings=turns)
    return hidden[:, len(prefix) :]


def right_answers(logits: Tensor, packed: Packed, rows: list, packer: Packer) -> Counter:
    """How many answers were asked, (skill, None), and are right as a whole, (skill, True)."""
    targets = packed.targets.to(logits.device)
    right = (logits.argmax(-1) == targets) | (targets == IGNORE)  # (picture, token)
    found = Counter()
    for number, row in enumerate(rows):
        start = 0
        for question in row:
            end = start + packer.length(question)
            found[question.skill, None] += 1
            found[question.skill, True] += bool(right[number, start:end].all())
            start = end
    return found


@dataclass
class Drawn:
    """What one aligned step learns from: painted scenes first, then written ones."""

    pixels: Tensor  # (painted scene, 3, row, column)
    labels: dict[str, Tensor] | None  # of the written scenes, each (scene, patch); None: no such
    packed: Packed


@dataclass(frozen=True)
class Aligned:
    """The two stages of the recipe, as train.py runs them.

    Args:
        teacher: the unpruned model, frozen.
        distil: weight of the teacher's probabilities beside the answers.
        pull: weight of the distance of what enters from the teacher's states at that layer. It
            keeps painted scenes like written ones, whose states enter as the teacher has them.
    """

    teacher: nn.Module
    span: Span
    distil: float
    pull: float = 0.0

    def stages(self) -> dict[str, Stage]:
        projector = "model.model.multi_modal_projector."
        return {
            "projector": Stage(
                1000,
                3e-3,
                lambda learner: [learner.model.model.multi_modal_projector],
                (projector,),
                self.projector_loss,
            ),
            "aligned": Stage(
                1700,
                4e-4,
                lambda learner: [
                    learner.model.model.language_model,
                    learner.model.lm_head,
                    learner.model.model.multi_modal_projector,
                ],
                ("model.model.language_model.", "model.lm_head.", projector),
                self.aligned_loss,
                self.check,
                self.draw,
            ),
        }

    def _seen(self, learner, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What the tower sees, and what the teacher's projector makes of it.

        # each (picture, patch, width of the tower or of the language model)
        """
        with torch.no_grad():
            features = tower_features(learner, pixels.to(learner.device))
            return features, self.teacher.model.multi_modal_projector(features)

    def projector_loss(self, learner, rng: random.Random, progress: float, options) -> tuple:
        """Distance of the projector's output from the teacher's states, 1 for their mean."""
        scenes = some_pictures(rng, options.pictures or PICTURES)
        pixels = pixel_batch(scenes, learner.processor.image_processor)
        features, theirs = self._seen(learner, pixels)
        prefix = torch.tensor(learner.packer.prefix)
        wanted = states_at(self.teacher.model.language_model, prefix, theirs, self.span.enter)
        found = learner.model.model.multi_modal_projector(features)
        loss = F.mse_loss(found, wanted) / wanted.var()
        return loss, {"loss": loss.item()}

    def draw(self, learner, rng: random.Random, options) -> Drawn:
        """Scenes and questions of one aligned step."""
        count = options.pictures or PICTURES
        painted = some_pictures(rng, max(1, count - count // WRITTEN))
        written = some_scenes(rng, count // WRITTEN, split="written")
        scenes = painted + written
        asked = ask_all(scenes, rng, options)
        return Drawn(
            pixel_batch(painted, learner.processor.image_processor),
            label_batch(written, learner.patch) if written else None,
            learner.packer.pack(scenes, asked, self._every_patch(learner, len(scenes))),
        )

    def aligned_loss(self, learner, drawn: Drawn, progress: float, options) -> tuple:
        """Cross entropy of the answers, plus the divergence from the teacher's probabilities."""
        packed = drawn.packed.to(learner.device)
        entering, theirs = self._visual(learner, drawn)
        language = learner.model.model.language_model
        hidden, _ = in_spans(language, packed, entering, self.span)
        is_answer = packed.targets != IGNORE
        targets, weights = packed.targets[is_answer], packed.weights[is_answer]
        logits = learner.model.lm_head(hidden[is_answer])  # (answer token, word)
        answers = F.cross_entropy(logits, targets, reduction="none")
        apart, wanted = self._of_teacher(packed, theirs, logits)
        answers, apart = ((loss * weights).sum() / weights.sum() for loss in (answers, apart))
        right = (logits.argmax(-1) == targets).float()
        shown = slice(0, len(drawn.pixels))
        astray = F.mse_loss(entering[shown], wanted[shown]) / wanted[shown].var()
        seen = {
            "loss": answers,
            "distance": apart,
            "astray": astray,
            "tokens_right": right.mean(),
        }
        seen = {name: value.item() for name, value in seen.items()}
        loss = answers + self.distil * apart + self.pull * astray
        return loss, seen | {"first_right": first_right(right, weights)}

    def _visual(self, learner, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """What enters, for painted and written scenes; and what the teacher reads at layer 0.

        # each (picture, patch, width)
        """
        features, theirs = self._seen(learner, drawn.pixels)
        entering = learner.model.model.multi_modal_projector(features)
        if drawn.labels is None:
            return entering, theirs
        labels = {name: label.to(learner.device) for name, label in drawn.labels.items()}
        language = self.teacher.model.language_model
        with torch.no_grad():
            read = learner.written(labels, language.embed_tokens)
        prefix = torch.tensor(learner.packer.prefix)
        states = states_at(language, prefix, read, self.span.enter)
        return torch.cat([entering, states]), torch.cat([theirs, read])

    @torch.inference_mode()
    def check(self, learner) -> dict[str, float]:
        """The share of validation answers that are right word by word, and the teacher's.

        A greedy answer is right exactly if every next word is the likeliest one along the right
        answer, so one forward pass decides. A description counts only if it is right as a whole.
        """
        mine, theirs = Counter(), Counter()
        rng = random.Random("validation")
        language = learner.model.model.language_model, self.teacher.model.language_model
        everywhere = Span(0, len(language[1].layers) - 1)
        for number in range(0, CHECKED, PICTURES):
            scenes = [make_scene(number + one, "validation") for one in range(PICTURES)]
            asked = [ask_many(scene, rng) for scene in scenes]
            packed = learner.packer.pack(scenes, asked, self._every_patch(learner, len(scenes)))
            pixels = pixel_batch(scenes, learner.processor.image_processor)
            features, read = self._seen(learner, pixels)
            entering = learner.model.model.multi_modal_projector(features)
            hidden, _ = in_spans(language[0], packed, entering, self.span)
            mine += right_answers(learner.model.lm_head(hidden), packed, asked, learner.packer)
            hidden, _ = in_spans(language[1], packed, read, everywhere)
            theirs += right_answers(self.teacher.lm_head(hidden), packed, asked, learner.packer)
        skills = [skill for skill in SKILLS if mine[skill, None]]
        shares = {skill: mine[skill, True] / mine[skill, None] for skill in skills}
        gaps = {s: shares[s] - theirs[s, True] / theirs[s, None] for s in skills}
        mean, gap = (sum(part.values()) / len(skills) for part in (shares, gaps))
        per_skill = {f"gap_{skill}": gap for skill, gap in gaps.items()}
        return {"right": mean, "gap": gap, **per_skill}

    def _every_patch(self, learner, pictures: int) -> Tensor:
        """# (picture, patch)"""
        return torch.arange(learner.grid**2).expand(pictures, -1)

    def _of_teacher(self, packed: Packed, visual: Tensor, logits: Tensor) -> tuple:
        """What the teacher makes of the questions, who sees all patches in all layers.

        Returns:
            The KL divergence from its probabilities, (answer token,); and the states of its visual
            tokens where the learner's enter, (picture, patch, width).
        """
        teacher, prefix = self.teacher.model.language_model, len(packed.prefix)
        with torch.no_grad():
            hidden, states = in_spans(teacher, packed, visual, Span(0, len(teacher.layers) - 1))
            theirs = self.teacher.lm_head(hidden[packed.targets != IGNORE]).log_softmax(-1)
        mine = logits.log_softmax(-1)
        apart = F.kl_div(mine, theirs, reduction="none", log_target=True).sum(-1)
        return apart, states[self.span.enter][:, prefix : prefix + visual.shape[1]]
