"""The small model: trained on the prompts it will get, resumed exactly, loaded offline."""

import copy
import itertools
import json
import random
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch

from visipruner.__main__ import main
from visipruner.analyses.blind import Blind
from visipruner.choice import method_at, read_presets
from visipruner.errors import Refused
from visipruner.evaluation import calibrate, typical
from visipruner.evaluation.calibrate import choose, table
from visipruner.evaluation.candidates import candidates, shortlist
from visipruner.evaluation.dynamics import Watch, kept
from visipruner.evaluation.evaluate import UNPRUNED, summary
from visipruner.evaluation.intervals import paired_difference, wilson
from visipruner.evaluation.interview import FORMS, ask, form_of, interview, questions
from visipruner.levels import PRESETS, Facts
from visipruner.methods import FastV, PruningMethod, Schedule, VisiPruner
from visipruner.models.catalogue import load_vlm
from visipruner.models.loading import check_checkpoint
from visipruner.running import runner
from visipruner.training import loop, train
from visipruner.training.batches import ask_many, user_prompt
from visipruner.training.config import FOLDER
from visipruner.training.grounding import LESSONS, told
from visipruner.training.lessons import COUNTING, looking_loss, take, tower_features
from visipruner.training.vision import centre_patch, label_batch, pixel_batch
from visipruner.ui import examples, handlers, teaching
from visipruner.world import sources
from visipruner.world.drawing import BACKGROUND, render, thing_of_patches
from visipruner.world.phrases import SYSTEM
from visipruner.world.questions import SKILLS, Question, ask_about
from visipruner.world.scenes import SHAPES, Thing, compose, make_scene

needs_weights = pytest.mark.skipif(not (FOLDER / "model.safetensors").exists(), reason="no weights")


@pytest.fixture(scope="module")
def learner():
    torch.manual_seed(0)
    return train.Learner().eval()


@pytest.fixture(scope="module")
def bundled():
    return load_vlm("tiny", device="cpu")


def test_prompt_is_the_one_that_was_trained(learner):
    processor, packer = learner.processor, learner.packer
    text = "what colour is the star?"
    picture = render(make_scene(1))
    inputs = processor(images=picture, text=user_prompt(processor, text), return_tensors="pt")
    image = [processor.image_token_id] * packer.count
    assert inputs.input_ids[0].tolist() == packer.prefix + image + packer.question_ids(text)
    assert user_prompt(processor, text).endswith(f"USER: <image>\n{text} ASSISTANT:")


@torch.inference_mode()
def test_training_pixels_and_features_are_the_models_own(learner):
    scene = make_scene(3)
    own = learner.processor.image_processor(render(scene), return_tensors="pt").pixel_values
    ours = pixel_batch([scene], learner.processor.image_processor)
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=0)
    projected = learner.model.model.multi_modal_projector(tower_features(learner, ours))
    theirs = learner.model.get_image_features(own).pooler_output[0]
    torch.testing.assert_close(projected[0], theirs, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_question_in_a_crowd_is_a_question_alone(learner):
    scene = make_scene(4)
    asked = ask_many(scene, random.Random(0), count=4)
    patches = torch.arange(learner.grid**2)[None]
    packed = learner.packer.pack([scene], [asked], patches)
    pixels = pixel_batch([scene], learner.processor.image_processor)
    features = learner.model.model.multi_modal_projector(tower_features(learner, pixels))
    language = learner.model.model.language_model
    words = language.embed_tokens
    inputs = torch.cat([words(packed.prefix)[None], take(features, patches), words(packed.ids)], 1)
    crowd = language(
        inputs_embeds=inputs, position_ids=packed.positions, attention_mask=packed.allowed
    ).last_hidden_state[0, -packed.ids.shape[1] :]
    first = len(learner.packer.question_ids(asked[0].text))
    second = first + len(learner.packer.answer_ids(asked[0].answer)) - 1
    second += len(learner.packer.question_ids(asked[1].text))
    prompt = user_prompt(learner.processor, asked[1].text)
    inputs = learner.processor(images=render(scene), text=prompt, return_tensors="pt")
    alone = learner.model(**inputs).logits[0, -1]
    torch.testing.assert_close(
        learner.model.lm_head(crowd[second - 1]), alone, atol=2e-3, rtol=1e-3
    )


def test_lessons_find_their_tokens_in_a_crowd(learner):
    scene = make_scene(8)
    asked = [*ask_many(scene, random.Random(1), count=6), ask_about(scene, "describe", random)]
    patches = torch.arange(learner.grid**2)[None]
    packed = learner.packer.pack([scene], [asked], patches)
    by_name = dict(zip((lesson.find for lesson in LESSONS), packed.lessons, strict=True))
    starts = set(by_name[told][:, 1].tolist())
    article = learner.packer.answer_ids("A")[0]
    assert {packed.ids[0, start].item() for start in starts} == {article}
    assert len(starts) == len(scene.things) > 1


def test_what_is_counted_is_looked_at_once_each(learner):
    things = [Thing("ring", "red", "large", 80, 80), Thing("ring", "blue", "large", 250, 90)]
    scene = compose([*things, Thing("star", "red", "small", 170, 260)])
    asked = [Question("count_kind", "how many red rings are there?", "There is 1 red ring.")]
    asked += [ask_about(scene, "describe", random), ask_about(scene, "count", random)]
    patches = torch.arange(learner.grid**2)[None]
    packed = learner.packer.pack([scene], [asked], patches)
    places = packed.glances[:, 1].tolist()
    names = learner.processor.tokenizer.convert_ids_to_tokens(packed.ids[0, places].tolist())
    assert (names[0], names[2]) == ("rings", "shapes")
    first = len(learner.packer.question_ids(asked[0].text))
    first += len(learner.packer.answer_ids(asked[0].answer)) - 1
    assert places[1] == first + len(learner.packer.question_ids(asked[1].text)) - 1
    start, seen = packed.looks[:, 0].tolist(), (packed.looks[:, 1:] > 0).sum(1).tolist()
    assert start == pytest.approx([1 / 2, 1 / 4, 1 / 4]) and seen == [1, 3, 3]
    centre = centre_patch(things[0], scene, learner.patch)
    assert packed.looks[0, len(learner.packer.prefix) + centre] == 1 / 2
    # The hole of a ring belongs to the ring; otherwise its centre would show nothing to count.
    labels = label_batch([scene], learner.patch)
    assert labels["centre"][0, centre] == 1
    assert SHAPES[labels["shape"][0, centre]] == "ring"


def test_looking_is_read_off_the_attention_that_the_model_computes(learner):
    scene = make_scene(8, alike=True)
    asked = [ask_about(scene, "count_kind", random.Random(2))]
    packed = learner.packer.pack([scene], [asked], torch.arange(learner.grid**2)[None])
    language = copy.deepcopy(learner.model.model.language_model)
    language.set_attn_implementation("eager")  # the backend that returns its weights
    embeds = torch.randn(1, packed.positions.shape[1], language.config.hidden_size)
    with torch.no_grad():
        out = language(
            inputs_embeds=embeds,
            position_ids=packed.positions,
            output_hidden_states=True,
            output_attentions=True,
        )
        loss = looking_loss(language, out.hidden_states, packed).item()
    token, wanted = packed.glances[0, 1] - packed.ids.shape[1], packed.looks[0]
    expected = 0.0
    for layer, head in COUNTING:
        share = out.attentions[layer][0, head, token, : len(wanted)]
        there = wanted > 0
        expected += (wanted[there] * (wanted[there] / share[there]).log()).sum().item()
    assert loss == pytest.approx(expected / len(COUNTING), rel=1e-3)


@needs_weights
def test_the_bundled_model_keeps_the_sentence_that_it_learnt(bundled):
    prompt = bundled.prepare(render(make_scene(3)), "what shape is it?")
    assert prompt.text == user_prompt(bundled.processor, "what shape is it?")
    assert SYSTEM in prompt.text and prompt.notes == ()


def test_calibration_writes_the_sentence_beside_the_settings(tmp_path, monkeypatch):
    def measured(vlm, methods, count, store):
        found = {"right": 0.5, "flops_cut": 0.5, "tokens": 300.0, "questions": 3}
        return dict.fromkeys([UNPRUNED, *methods], found)

    monkeypatch.setattr(calibrate, "measure", measured)
    vlm = SimpleNamespace(presets=None, facts=lambda: Facts(576, 12), serves=lambda kind: "")
    monkeypatch.setattr(calibrate, "open_model", lambda options: (vlm, None))
    assert main(["calibrate", "--model", str(tmp_path)]) == 0
    assert read_presets(tmp_path)["system"] == SYSTEM
    again = read_presets(tmp_path)
    again["system"], again["official"]["tokens"] = "Be brief.", [5.0] * 5
    vlm.presets = again
    assert main(["calibrate", "--model", str(tmp_path), "--semantics", "question"]) == 0
    found = read_presets(tmp_path)
    assert (found["system"], found["official"]) == ("Be brief.", again["official"])
    asked = {"questions": 3, "right": 0.5}
    assert found["question"]["measured"][UNPRUNED] == asked


def test_calibration_sends_one_setting_of_a_layer_to_the_second_round():
    tried = [
        (method, {"right": 0.9 - 0.001 * number, "flops_cut": 0.2 + 0.001 * number})
        for number, method in enumerate(candidates("question", (5, 6, 7)))
    ]
    found = shortlist(tried)
    assert [method.first_tested for method in found[:3]] == [5, 6, 7]
    best = [next(m for m, _ in tried if m.first_tested == layer) for layer in (5, 6, 7)]
    assert found[:3] == best


def test_calibration_never_writes_a_file_without_the_papers_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        calibrate, "open_model", lambda options: (SimpleNamespace(presets=None), None)
    )
    assert main(["calibrate", "--model", str(tmp_path), "--semantics", "question"]) != 0
    assert "must have paper" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_exported_model_brings_its_sentence_before_it_is_calibrated(tmp_path):
    class Nothing:
        heads = written = torch.nn.Linear(1, 1)
        model = processor = property(lambda self: self)

        def to(self, dtype):
            return self

        def save_pretrained(self, folder):
            folder.mkdir(exist_ok=True)
            for name in train.SUMMED:
                (folder / name).touch()

    (tmp_path / "curve.jsonl").write_text("{}")
    (tmp_path / "x.pt").touch()
    train.export(Nothing(), tmp_path, tmp_path / "model", {"system": SYSTEM})
    assert read_presets(tmp_path / "model") == {"system": SYSTEM}
    (tmp_path / "model/presets.json").write_text('{"system": "own"}')
    train.export(Nothing(), tmp_path, tmp_path / "model", {"system": SYSTEM})
    assert read_presets(tmp_path / "model") == {"system": "own"}


def test_nothing_trained_overwrites_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "FOLDER", tmp_path / "model")
    assert main(["train", "--stage", "export", "--checkpoints", str(tmp_path / "empty")]) == 2
    assert "nothing to export" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_the_exported_curve_has_every_tenth_line_and_the_end_of_each_stage(tmp_path):
    lines = [{"stage": "vision", "step": n} for n in range(13)]
    lines += [{"stage": "joint", "step": n} for n in range(4)]
    kept = [(line["stage"], line["step"]) for line in train.thinned(lines)]
    assert kept == [("vision", 0), ("vision", 10), ("vision", 12), ("joint", 3)]
    assert train.thinned([]) == []


def test_questions_are_asked_in_inference_mode(mini, picture, monkeypatch):
    seen = []

    class Noting(PruningMethod):
        def select(self, view):
            seen.append(torch.is_inference_mode_enabled())

    monkeypatch.setattr("visipruner.evaluation.interview.MOST_TOKENS", 2)
    prompt = mini.prepare(picture, "what colour is the star?")
    ask(mini, Noting(), prompt, mini.encode(prompt))
    assert seen and all(seen)


def test_an_export_brings_its_checksums(learner, tmp_path):
    for name, text in (("curve.jsonl", "{}"), ("joint.pt", "")):
        (tmp_path / name).write_text(text)
    train.export(copy.deepcopy(learner), tmp_path, tmp_path / "model", {"system": SYSTEM})
    check_checkpoint(tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(Refused, match="was changed since its checksum"):
        check_checkpoint(tmp_path / "model")


def test_training_resumes_exactly(tmp_path, monkeypatch):
    status = []

    def weights(folder):
        state = torch.load(folder / "vision.pt")["learner"]
        return {name: value for name, value in state.items() if "vision_tower" in name}

    def go(folder):
        arguments = "--stage vision --steps 3 --pictures 2 --save 2 --report 1 --threads 1"
        status.append(main(["train", *arguments.split(), "--checkpoints", str(folder)]))

    def stop(folder, line):
        if line["step"] == 2:
            raise KeyboardInterrupt

    go(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "record", stop)
        go(tmp_path / "parts")
    go(tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_intervals():
    low, high = wilson(90, 100)
    assert (round(low, 3), round(high, 3)) == (0.826, 0.945)
    assert wilson(5, 5)[1] == pytest.approx(1)
    mean, low, high = paired_difference([1, 1, 0, 1], [1, 0, 0, 1])
    assert mean == -0.25 and low < mean < high


def test_questions_are_always_the_same_and_summed_up():
    first, again = (list(questions("heldout", "colour", 5)) for _ in range(2))
    assert first == again
    full = {"column": UNPRUNED, "set": "heldout", "score": 1.0, "flops": 100}
    asked = next(questions("heldout", "describe", 1))[2]
    assert form_of(asked) is None and form_of(first[0][2]) in FORMS
    rows = [full | {"skill": skill, "form": form} for skill in SKILLS for form in FORMS]
    pruned = {"one word": 0.4, "a sentence": 0.6}
    rows += [row | {"column": "gentle", "score": pruned[row["form"]], "flops": 60} for row in rows]
    found = {(line["column"], line["skill"]): line for line in summary(rows)}
    assert found[UNPRUNED, "all"]["right"] == 1 and found["gentle", "digit"]["questions"] == 2
    assert found["gentle", "all"]["right"] == pytest.approx(0.5)
    assert found["gentle", "one word"]["right"] == pytest.approx(0.4)
    assert found["gentle", "a sentence"]["difference"][0] == pytest.approx(-0.4)
    assert found["gentle", "all"]["flops_cut"] == pytest.approx(0.4)


def test_a_preset_is_the_best_that_cuts_enough():
    def tried(cut, right):
        result = {"flops_cut": cut, "right": right, "tokens": 100 * (1 - cut)}
        return VisiPruner(layer_threshold=1 - cut / 100), result

    chosen = choose([tried(0.25, 0.9), tried(0.45, 0.8), tried(0.41, 0.7), tried(0.5, 0.6)])
    cuts = [result["flops_cut"] for _, result in chosen.values()]
    assert cuts == [0.25, 0.45, 0.5]  # nothing cuts 55%, so aggressive takes the nearest
    rows = table(chosen, full_tokens=100)
    assert rows["layer_threshold"] == [1 - c / 100 for c in (0.25, *cuts, 0.5)]
    assert rows["tokens"] == [100, 75, 55, 50, 50]


def test_budgets_are_measured_and_nothing_else_changes(monkeypatch):
    means = {UNPRUNED: 576.0, "gentle": 400.04, "balanced": 300.0, "aggressive": 200.0}
    found = {name: {"tokens": mean} for name, mean in means.items()}
    monkeypatch.setattr(calibrate, "measure", lambda *given: found)
    given = {name: {"right": 0.9, "tokens": [1.0]} for name in ("paper", "official")}
    vlm = SimpleNamespace(facts=lambda: Facts(576, 12))
    measured = calibrate.measure_budgets(vlm, {"system": "a", **given}, 1, None)
    five = [576.0, 400.0, 300.0, 200.0, 200.0]
    rows = {name: {"right": 0.9, "tokens": five} for name in given}
    assert measured == {"system": "a", **rows}


@needs_weights
def test_an_interview_goes_on_where_it_stopped(tmp_path, bundled):
    store = tmp_path / "answers.jsonl"
    columns = {UNPRUNED: PruningMethod(), "half": Schedule(keep=0, keep_after=5, none_after=None)}
    rows = interview(bundled, columns, ("validation",), 1, store)
    lines = store.read_text().splitlines(keepends=True)
    store.write_text("".join(lines[:-2]) + lines[-2][:20])  # died while writing
    assert interview(bundled, columns, ("validation",), 1, store) == rows
    whole = store.read_text()
    assert interview(bundled, columns, ("validation",), 1, store) == rows
    assert store.read_text() == whole  # no question was asked again
    assert len(rows) == 2 * len(SKILLS)
    assert rows[1]["flops"] < rows[0]["flops"] and rows[1]["tokens"][6:] == [0] * 6


@needs_weights
def test_every_level_is_a_preset_that_was_calibrated(bundled):
    calibrated = [method_at(bundled, "visipruner", name) for name in PRESETS]
    found = [method_at(bundled, "visipruner", level / 100) for level in range(1, 101)]
    assert [method for method, _ in itertools.groupby(found)] == calibrated  # in their order


@needs_weights
@torch.inference_mode()
def test_analyses_see_what_they_say(bundled):
    prompt = bundled.prepare(render(make_scene(1)), "how many shapes are there?")
    features = bundled.encode(prompt)
    blind, _ = ask(bundled, Blind(0, 12), prompt, features)
    nothing, _ = ask(bundled, Schedule(keep=0, keep_after=-1, none_after=None), prompt, features)
    assert blind == nothing  # blind to the picture equals no picture at all
    watch = Watch()
    seeing, _ = ask(bundled, watch, prompt, features)
    assert ask(bundled, Blind(12, 12), prompt, features)[0] == seeing
    assert [note["layer"] for note in watch.seen] == list(range(12))
    assert all(0 <= note["top visual token"] <= note["visual"] <= 1 for note in watch.seen)
    methods = {"everything": FastV(keep=576), "a few": FastV(keep=20)}
    lines = kept(bundled, methods, 1)
    assert [line["asked for"] for line in lines] == 3 * ["one word"] + 3 * ["a sentence"]
    for of_all, of_everything, of_few in (lines[:3], lines[3:]):
        assert of_everything == {**of_all, "kept by": "everything"}  # the first and last too
        assert (of_all["patches"], of_few["patches"]) == (576, 20)
        assert 0 < of_all["on the thing asked about"] < of_all["on things"] < 0.6
    assert lines[0] == {**lines[3], "asked for": "one word"}  # the same questions in both forms


@needs_weights
def test_the_pages_examples_are_what_their_file_says(bundled):
    """Each plays its role, from the middle of what pruning keeps."""
    file = json.loads(examples.FILE.read_text())
    assert len({seed for seed, _ in examples.chosen()}) == len(typical.ROLES)
    method = {name: method_at(bundled, "visipruner", name) for name in PRESETS}
    for (seed, asked), role, line in zip(
        examples.chosen(), typical.ROLES, file["examples"], strict=True
    ):
        prompt, truth = bundled.prepare(sources.picture(seed), asked), sources.truth(seed, asked)
        assert truth.question.skill == role.skill and line["shows"] == role.shows
        features = bundled.encode(prompt)
        assert truth.fits(ask(bundled, PruningMethod(), prompt, features)[0])
        said = {name: ask(bundled, one, prompt, features) for name, one in method.items()}
        answer, trace = said["balanced"]
        shows = thing_of_patches(sources.scene(seed), 14) != BACKGROUND
        share = shows[list(trace.cuts[0].kept)].mean()
        assert share == pytest.approx(line["on_things"])
        assert share == pytest.approx(file["of"]["kept patches on things"], abs=0.2)
        kept = trace.cuts[0].kept
        assert len(kept) == line["kept"]
        run = typical.Run(
            seed,
            role.skill,
            True,
            truth.fits(answer),
            len(kept),
            share,
            line["on_asked"],
            trace.exit_layer,
        )
        assert role.fits(run)
        assert not run.right or all(truth.fits(answer) for answer, _ in said.values())


def test_examples_are_the_nearest_to_the_mean_that_play_their_roles():
    def made(scene, skill, share, right=True, left=None, kept=40, on_asked=0.1):
        kept = 0 if share is None else kept
        return typical.Run(scene, skill, True, right, kept, share, on_asked, left)

    runs = [made(n, skill, 0.5 + n / 100) for skill in typical.SKILLS[:4] for n in range(5)]
    runs += [made(7, "shape", 0.52), made(8, "shape", 0.9, left=9), made(9, "count", 0.4, False)]
    runs += [made(10, "count", 0.52), made(11, "colour", None), replace(runs[2], full_right=False)]
    mean = fmean(run.on_things for run in runs if run.on_things is not None)
    runs += [made(12, "colour", mean, kept=2), made(13, "place", mean, on_asked=0.0)]
    picked = typical.choose(runs, lambda run: run.scene != 1)
    assert [run.skill for run in picked] == list(typical.SKILLS)
    assert len({run.scene for run in picked}) == 6 and {1, 12, 13}.isdisjoint(
        run.scene for run in picked
    )
    assert picked[4].scene == 8 and picked[5].scene == 9
    with pytest.raises(Refused, match="No question about count shows pruning that fails"):
        typical.choose([run for run in runs if run.scene != 9], lambda run: True)


@needs_weights
def test_bundled_model_is_small_and_loads_offline(monkeypatch, bundled):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    assert size < 9.5e6
    prompt = bundled.prepare(render(make_scene(1)), "</s> <image")
    assert isinstance(ask(bundled, PruningMethod(), prompt, bundled.encode(prompt))[0], str)


@needs_weights
def test_bundled_model_beats_its_floor(bundled, tmp_path):
    """A slice of the evaluation: 4 questions of each of the 13 skills."""
    columns = {UNPRUNED: PruningMethod()}
    rows = interview(bundled, columns, ("validation",), 4, tmp_path / "answers.jsonl")
    assert sum(row["score"] for row in rows) / len(rows) > 0.5


@pytest.mark.parametrize("command", ["calibrate", "dynamics", "evaluate", "tradeoff"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--questions", "-1"], "--questions must be a whole number from 1"),
        (["--questions", "0"], "--questions must be"),
        (["--threads", "0"], "--threads must be"),
        (["--model", "/nope"], "There is no model 'nope'"),
    ],
)
def test_bad_input_ends_a_command_in_one_sentence(command, arguments, words, capsys):
    status, said = main([command, *arguments]), capsys.readouterr().err
    assert status == 2 and words in said and said.count("\n") == 1


def test_an_unknown_skill_is_refused():
    with pytest.raises(ValueError, match="no skill"):
        ask_about(make_scene(0), "taste", random.Random(0))
    assert Question("colour", "a", "b").short is False


@needs_weights
def test_a_sweep_runs_each_of_its_settings_once(bundled):
    models = SimpleNamespace(
        get=lambda *key: bundled,
        compare=lambda key, *given: runner.compare(bundled, *given),
        titles={"tiny": "tiny"},
    )
    seed, asked = examples.chosen()[0]
    options = {"max_new_tokens": 4}
    form = handlers.Form(sources.picture(seed), asked, options=options)
    *_, state = teaching.sweep(handlers.check(models, form, scene=seed))
    assert state.levels == ["0.1 to 0.3 (gentle)", "0.4 to 0.6 (balanced)", "0.7 to 1 (aggressive)"]
    truth = sources.truth(seed, asked)
    assert len(state.answers) == 4 and all(truth.fits(a.text) for a in state.answers.values())
