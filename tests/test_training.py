"""The aligned recipe runs stock layers by itself; it must compute what the engine computes."""

import json
import random

import pytest
import torch

from visipruner.__main__ import main
from visipruner.engine import prune
from visipruner.methods.schedule import Schedule
from visipruner.models.catalogue import load_vlm
from visipruner.training import aligned, loop
from visipruner.training.aligned import Aligned, Span, in_spans, right_answers, states_at
from visipruner.training.batches import ask_many
from visipruner.training.config import FOLDER
from visipruner.training.loop import Learner
from visipruner.training.vision import pixel_batch
from visipruner.world.drawing import render
from visipruner.world.questions import ask_about
from visipruner.world.scenes import make_scene

SCENES = [make_scene(number, "validation") for number in (3, 4)]


@pytest.fixture(scope="module")
def learner():
    return Learner(FOLDER)


@pytest.fixture(scope="module")
def vlm():
    return load_vlm(FOLDER, device="cpu")


def one_question(learner, scene):
    """A packed row with one question; the engine can run it alone."""
    asked = ask_about(scene, "colour", random.Random(1))
    everything = torch.arange(learner.grid**2)[None]
    return asked, learner.packer.pack([scene], [[asked]], everything)


@torch.inference_mode()
def features_of(learner, scenes):
    teacher = Aligned(learner.model, Span(3, 5), 1.0)
    return teacher._seen(learner, pixel_batch(scenes, learner.processor.image_processor))[1]


@pytest.mark.parametrize("span", [Span(3, 5), Span(1, 11), Span(5, 5)])
@torch.inference_mode()
def test_spans_of_stock_layers_equal_the_engine(learner, vlm, span):
    asked, packed = one_question(learner, SCENES[0])
    prompt = vlm.prepare(render(SCENES[0]), asked.text)
    hidden, states = in_spans(
        learner.model.model.language_model, packed, features_of(learner, SCENES[:1]), span
    )
    assert sorted(states) == list(range(span.enter, span.leave + 1))
    method = Schedule(keep_after=None, none_after=span.leave, enter=span.enter)
    with prune(vlm.model, method, prompt.layout):
        wanted = vlm.model(**prompt.inputs).logits[0, -1]
    first = int((packed.targets[0] != -100).nonzero()[0])  # the token before the answer's first
    found = learner.model.lm_head(hidden[0, first])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_span_of_all_layers_is_the_untouched_model(learner, vlm):
    asked, packed = one_question(learner, SCENES[1])
    prompt = vlm.prepare(render(SCENES[1]), asked.text)
    out = vlm.model(**prompt.inputs, output_hidden_states=True)
    visual = features_of(learner, SCENES[1:])
    language = learner.model.model.language_model
    hidden, states = in_spans(language, packed, visual, Span(0, 11))
    first = int((packed.targets[0] != -100).nonzero()[0])
    found = learner.model.lm_head(hidden[0, first])
    torch.testing.assert_close(found, out.logits[0, -1], atol=1e-4, rtol=1e-4)
    rows = slice(len(packed.prefix), len(packed.prefix) + visual.shape[1])
    at_three = states_at(language, packed.prefix, visual, 3)
    torch.testing.assert_close(at_three, out.hidden_states[3][:, rows], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(at_three, states[3][:, rows], atol=1e-4, rtol=1e-4)


def test_an_answer_counts_as_right_only_as_a_whole(learner):
    rows = [ask_many(scene, random.Random(7)) for scene in SCENES]
    everything = torch.arange(learner.grid**2).expand(2, -1)
    packed = learner.packer.pack(SCENES, rows, everything)
    perfect = torch.nn.functional.one_hot(packed.targets.clamp(min=0), 400).float()
    found = right_answers(perfect, packed, rows, learner.packer)
    asked = sum(count for (_, right), count in found.items() if right is None)
    assert asked == sum(map(len, rows))
    assert sum(count for (_, right), count in found.items() if right) == asked
    last = int((packed.targets[0] != -100).nonzero()[-1])  # one word of one answer is wrong
    perfect[0, last] = 0
    wrong = right_answers(perfect, packed, rows, learner.packer)
    assert sum(count for (_, right), count in wrong.items() if right) == asked - 1


@torch.inference_mode()
def test_what_the_learner_is_pulled_to_are_the_teachers_states(learner):
    recipe = Aligned(learner.model, Span(3, 5), 1.0)
    visual = features_of(learner, SCENES)
    rows = [[ask_about(scene, "shape", random.Random(2))] for scene in SCENES]
    packed = learner.packer.pack(SCENES, rows, recipe._every_patch(learner, 2))
    language = learner.model.model.language_model
    hidden, _ = in_spans(language, packed, visual, Span(0, 11))
    mine = learner.model.lm_head(hidden[packed.targets != -100])
    apart, wanted = recipe._of_teacher(packed, visual, mine)
    assert torch.allclose(apart, torch.zeros_like(apart), atol=1e-5)  # it is its own teacher
    found = states_at(language, packed.prefix, visual, 3)
    torch.testing.assert_close(wanted, found, atol=1e-4, rtol=1e-4)


def test_half_of_the_questions_or_more_ask_for_favoured_skills():
    def share(favour):
        rng = random.Random(3)
        asked = [
            question
            for number in range(20)
            for question in ask_many(make_scene(number), rng, favour=favour)
        ]
        return sum(question.skill in ("count", "digit") for question in asked) / len(asked)

    assert share(()) < 0.3 and share(("count", "digit")) > 0.5


def train(folder, *more):
    return main(
        ["train", "--recipe", "aligned", "--checkpoints", str(folder), "--pictures", "1", *more]
    )


def test_the_recipe_resumes_where_it_stopped_and_exports_its_schedule(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(aligned, "CHECKED", 2)
    threads = torch.get_num_threads()
    long = ["--save", "1", "--report", "1", "--check", "2", "--enter", "4", "--leave", "6"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, *long, "--stage", "projector", "--steps", "2") == 0
    assert train(whole, *long, "--stage", "aligned", "--steps", "2") == 0
    assert train(parts, *long, "--stage", "projector", "--steps", "2") == 0

    plain, calls = loop.save_checkpoint, []

    def once(*given):
        plain(*given)
        calls.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", once)
    assert train(parts, *long, "--stage", "aligned", "--steps", "2") == 130
    monkeypatch.setattr(loop, "save_checkpoint", plain)
    ahead = ["--workers", "1", "--teacher", str(FOLDER)]  # neither changes anything here
    assert train(parts, *long, *ahead, "--stage", "aligned", "--steps", "2") == 0
    assert len(calls) == 1
    both = [torch.load(folder / "aligned.pt")["learner"] for folder in (whole, parts)]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])

    to = tmp_path / "made"
    assert train(parts, *long, "--stage", "export", "--to", str(to)) == 0
    assert json.loads((to / "presets.json").read_text())["schedule"] == {"enter": 4, "leave": 6}
    made = load_vlm(to, device="cpu")
    learnt = both[1]["model.model.language_model.layers.4.self_attn.q_proj.weight"]
    kept = made.model.model.language_model.layers[4].self_attn.q_proj.weight
    torch.testing.assert_close(kept, learnt, atol=1e-2, rtol=1e-2)  # saved in bfloat16
    tower = load_vlm(FOLDER, device="cpu").model.model.vision_tower.state_dict()
    found = made.model.model.vision_tower.state_dict()
    assert all(torch.equal(tower[name], found[name]) for name in tower)
    curve = [json.loads(line) for line in (parts / "curve.jsonl").read_text().splitlines()]
    assert any("gap" in line for line in curve)
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--enter", "0"], "--enter must be"),
        (["--enter", "12"], "--enter must be"),
        (["--enter", "5", "--leave", "4"], "--leave must be"),
        (["--leave", "12"], "--leave must be"),
        (["--distil", "-1"], "--distil must be"),
        (["--workers", "-1"], "--workers must be"),
        (["--teacher", "/no/such/folder"], "holds no model"),
        (["--pull", "nan"], "--pull must be"),
        (["--stage", "joint"], "no stage joint"),
        (["--stage", "export"], "nothing to export"),
    ],
)
def test_what_the_recipe_cannot_do_is_said(tmp_path, capsys, wrong, says):
    assert train(tmp_path, *wrong) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pt"))
