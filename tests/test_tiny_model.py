"""The small model: trained as it will be asked, resumed exactly, loaded without a network."""

import random

import pytest
import torch

from visipruner.tiny import train
from visipruner.tiny.batches import ask_many, user_prompt
from visipruner.tiny.config import FOLDER
from visipruner.tiny.data import SKILLS, Question, ask_about, make_scene, render, score
from visipruner.tiny.evaluate import answer, load, paired_difference, questions, summary, wilson
from visipruner.tiny.stages import take, tower_features
from visipruner.tiny.vision import pixel_batch

needs_weights = pytest.mark.skipif(not (FOLDER / "model.safetensors").exists(), reason="no weights")


@pytest.fixture(scope="module")
def learner():
    torch.manual_seed(0)
    return train.Learner().eval()


@pytest.fixture(scope="module")
def bundled():
    return load()


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


def test_training_resumes_exactly(tmp_path, monkeypatch):
    def weights(folder):
        state = torch.load(folder / "vision.pt")["learner"]
        return {name: value for name, value in state.items() if "vision_tower" in name}

    def go(folder):
        arguments = "--stage vision --steps 3 --pictures 2 --save 2 --report 1 --threads 1"
        train.main([*arguments.split(), "--checkpoints", str(folder)])

    def stop(folder, line):
        if line["step"] == 2:
            raise KeyboardInterrupt

    go(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "record", stop)
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
    row = {"column": "unpruned", "set": "heldout", "score": 1.0}
    rows = [row | {"skill": skill} for skill in SKILLS]
    table = summary(rows)
    assert table[-1]["skill"] == "all" and table[-1]["right"] == 1


@needs_weights
def test_bundled_model_is_small_and_loads_offline(monkeypatch, bundled):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    assert size < 9.5e6
    model, processor = bundled
    assert isinstance(answer(model, processor, render(make_scene(1)), "</s> <image"), str)


@needs_weights
def test_bundled_model_beats_its_floor(bundled):
    model, processor = bundled
    scores = []
    for skill in ("colour", "exists", "count", "digit"):
        for _, scene, question in questions("validation", skill, 8):
            said = answer(model, processor, render(scene), question.text)
            scores.append(score(question, said, scene))
    assert sum(scores) / len(scores) > 0.5


def test_missing_weights_are_one_clear_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no model"):
        load(tmp_path)


def test_an_unknown_skill_is_refused():
    with pytest.raises(ValueError, match="no skill"):
        ask_about(make_scene(0), "taste", random.Random(0))
    assert Question("colour", "a", "b").short is False
