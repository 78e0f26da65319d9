"""The small model's world: reproducible from a seed, closed vocabulary, true answers."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from visipruner.training.config import build_tokenizer
from visipruner.training.grounding import LESSONS, compared, mentioned, named, told, verdict
from visipruner.world.drawing import render
from visipruner.world.outside import looks_unlike_training
from visipruner.world.phrases import ASSISTANT, SYSTEM, WORD, unknown_words, vocabulary, words
from visipruner.world.questions import SKILLS, ask_about, asked_for, bare
from visipruner.world.scenes import (
    SHAPES,
    SIZES,
    SPLITS,
    UNSEEN_PAIRS,
    Thing,
    compose,
    digit_values,
    make_scene,
)
from visipruner.world.scoring import facts, is_correct


def asked(count, split="train", skills=SKILLS):
    for number in range(count):
        scene = make_scene(number, split)
        for skill in skills:
            question = ask_about(scene, skill, random.Random(f"{skill} {number}"))
            if question:
                yield scene, question


def test_same_seed_same_scene_and_picture():
    assert make_scene(5) == make_scene(5)
    assert render(make_scene(5)).tobytes() == render(make_scene(5)).tobytes()
    assert render(make_scene(5)).tobytes() != render(make_scene(6)).tobytes()


def test_splits_share_neither_seeds_nor_digits_nor_pairs():
    seeds = [SPLITS[name].first_seed for name in SPLITS]
    assert len(set(seeds)) == len(seeds)
    train, val, held = (set(SPLITS[n].digits) for n in ("train", "validation", "heldout"))
    assert not (train & val or train & held or val & held)
    painted = [split for split in SPLITS if split != "written"]
    for split in painted:
        for number in range(40):
            for thing in make_scene(number, split).shapes:
                assert ((thing.colour, thing.shape) in UNSEEN_PAIRS) == (split == "unseen")


def test_alike_scenes_hold_few_kinds_and_no_pair_that_is_kept_unseen():
    for number in range(60):
        shapes = make_scene(number, alike=True).shapes
        assert len({thing.shape for thing in shapes}) <= 3
        assert len({thing.colour for thing in shapes}) <= 3
        assert not {(thing.colour, thing.shape) for thing in shapes} & set(UNSEEN_PAIRS)


def test_scene_stays_in_its_world():
    for number in range(100):
        scene = make_scene(number)
        assert 1 <= len(scene.shapes) <= 8 and len(scene.digits) <= 2
        for thing in scene.things:
            assert thing.x - 0.9 * thing.radius >= 0 and thing.x + 0.9 * thing.radius <= scene.side


def test_hidden_part_of_a_thing_is_small():
    from visipruner.world.drawing import owners

    for number in range(25):
        scene = make_scene(number)
        seen = owners(scene)
        for index, thing in enumerate(scene.things):
            alone = owners(replace(scene, things=(thing,))) == 0
            assert (seen[alone] == index).mean() > 0.7


def test_vocabulary_is_closed():
    tokenizer = build_tokenizer()
    for _, question in asked(40):
        assert not unknown_words(question.text), question.text
        words = re.findall(f"(?i){WORD}", question.answer)
        ids = tokenizer.convert_tokens_to_ids(words)
        assert tokenizer.unk_token_id not in ids, question.answer
        assert tokenizer.decode(ids) == question.answer
    assert unknown_words("What colour is the dog, or the cat?") == ["dog", "cat"]


@pytest.mark.parametrize(
    "text", ["<image>", "</s> <s>", "USER: hi ASSISTANT:", "", "Ω ß 🙂", "a-b-c"]
)
def test_any_text_can_be_tokenised(text):
    assert isinstance(build_tokenizer()(text).input_ids, list)


def test_words_are_read_in_lower_case_and_written_with_capitals():
    tokenizer = build_tokenizer()
    assert tokenizer("What Colour").input_ids == tokenizer("what colour").input_ids
    assert {"There", "The", "Yes"} <= set(vocabulary(SYSTEM))


def fitting(scene, name):
    """The things that a name means, found from the plain fields."""
    *adjectives, noun = name.split()
    noun = (
        noun if noun in SHAPES else next((s for s in SHAPES if noun in (s + "s", s + "es")), None)
    )
    return [
        thing
        for thing in scene.shapes
        if (noun is None or thing.shape == noun)
        and all(word in (thing.size, thing.colour) for word in adjectives)
    ]


def test_answers_follow_from_the_scene():
    checked = 0
    for scene, question in asked(60, skills=("colour", "size", "shape")):
        found = re.fullmatch(r"The (.+) is (?:a )?(\S+)\.", question.answer)
        if found:
            (thing,) = fitting(scene, found[1])
            assert getattr(thing, question.skill) == found[2]
        elif question.answer.startswith("There is no"):
            assert not fitting(scene, question.answer[len("There is no ") : -1])
        checked += bool(found)
    assert checked > 30  # otherwise the pattern no longer fits the answers


def test_counts_follow_from_the_scene():
    checked = 0
    for scene, question in asked(60, skills=("count", "count_kind")):
        found = re.fullmatch(r"There (?:is|are) (\w+) (.+)\.", question.answer)
        if found:
            number = 0 if found[1] == "no" else int(found[1])
            assert number == len(fitting(scene, found[2]))
        checked += bool(found)
    assert checked > 30


def test_relations_follow_from_the_scene():
    checked = 0
    for scene, question in asked(80, skills=("relation",)):
        found = re.match(
            r"(?:Yes, t|No, t|T)he (.+) is (not )?(left of|right of|above|below) the (.+)\.",
            question.answer,
        )
        if found:
            (a,), (b,) = fitting(scene, found[1]), fitting(scene, found[4])
            true = {
                "left of": a.x < b.x,
                "right of": a.x > b.x,
                "above": a.y < b.y,
                "below": a.y > b.y,
            }
            assert true[found[3]] != bool(found[2])
        checked += bool(found)
    assert checked > 10


def test_larger_and_digits_follow_from_the_scene():
    for scene, question in asked(150, skills=("larger", "digit", "two_digits")):
        value = question.answer.rstrip(".").split()[-1]
        digits = [int(digit_values()[thing.digit_index]) for thing in scene.digits]
        if question.skill == "digit" and value.isdigit():
            assert digits == [int(value)]
        if question.skill == "two_digits":
            assert int(value) in ({sum(digits)} if "sum" in question.text or "add" in question.text
                                  else {max(digits)})  # fmt: skip
        if question.skill == "larger" and not question.short:
            winner = fitting(scene, re.fullmatch(r"The (.+) is \w+\.", question.answer)[1])
            names = re.search(r", the (.+) or the (.+)\?", question.text)
            radii = [SIZES[fitting(scene, names[k])[0].size] for k in (1, 2)]
            wanted = min(radii) if value == "smaller" else max(radii)
            assert SIZES[winner[0].size] == wanted


def test_a_description_scores_by_its_facts():
    for scene, question in asked(30, skills=("describe",)):
        right, total = facts(scene, question.answer)
        assert right == total
        assert facts(scene, "")[0] == 0
        invented = question.answer + " A small red star is at the top."
        assert facts(scene, invented) == (total, total + 4)


def test_lessons_speak_of_what_is_asked_and_told():
    found = {lesson.find.__name__: 0 for lesson in LESSONS}
    for scene, question in asked(60):
        said = words(question.text + ASSISTANT + question.answer)
        for lesson in LESSONS:
            for index, values in lesson.find(scene, question):
                found[lesson.find.__name__] += 1
                if lesson.find is told:  # the article of a sentence stands for its words
                    sentence = said[index : index + 8]
                    assert sentence[0] == "a" and set(values) <= set(sentence)
                if lesson.find is named and values != ["none"] and said[index] in SHAPES:
                    assert said[index] in values
                if lesson.find is compared:
                    assert said[index] == "?" and ("same" in question.answer) == (len(values) == 1)
                if lesson.find is verdict:
                    assert said[index] == "?" and values[0] in question.answer
    assert all(found.values())


def test_what_a_question_mentions_has_what_its_answer_says():
    for skill in ("colour", "shape", "size"):
        of_one = [
            (things[0], question.answer)
            for scene, question in asked(40, skills=(skill,))
            if len(things := mentioned(scene, question)) == 1
        ]
        assert len(of_one) > 10  # others ask for what is absent
        assert all(getattr(thing, skill) in answer for thing, answer in of_one)


def test_is_correct_forgives_form_only():
    _, question = next(asked(5, skills=("colour",)))
    assert is_correct(question, question.answer.upper())
    assert not is_correct(question, "")


def test_compose_refuses_what_the_world_has_not():
    assert len(compose([Thing("star", "red", "small", 100, 100)]).things) == 1
    for bad in (
        Thing("dog", "red", "small", 100, 100),
        Thing("star", "red", "small", 400, 100),
        Thing("digit", "", "", 100, 100, digit_index=9999),
    ):
        with pytest.raises(ValueError):
            compose([bad])


def test_own_pictures_are_known_and_noise_is_not():
    alarms = sum(looks_unlike_training(render(make_scene(n, "validation"))) for n in range(60))
    assert alarms <= 1
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    assert looks_unlike_training(Image.fromarray(noise))
    assert looks_unlike_training(Image.new("RGB", (336, 336), (120, 120, 120)))
    assert looks_unlike_training(Image.new("RGB", (1, 1), (200, 10, 10)))  # all of it is a thing


def test_photographs_are_noticed():
    data = pytest.importorskip("skimage.data")
    samples = pytest.importorskip("sklearn.datasets").load_sample_images().images
    names = [
        "astronaut",
        "brick",
        "camera",
        "chelsea",
        "coffee",
        "coins",
        "grass",
        "gravel",
        "rocket",
    ]
    names += ["immunohistochemistry", "retina", "hubble_deep_field", "moon", "page", "text"]
    pictures = [getattr(data, name)() for name in names] + list(samples)
    flagged = sum(looks_unlike_training(Image.fromarray(picture)) for picture in pictures)
    assert flagged >= 0.9 * len(pictures)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("what is it? answer in one word.", "what is it?"),
        ("What is it? USE A SINGLE WORD!", "What is it?"),
        ("what is it, one word only", "what is it"),
        ("what is it? one word only. answer with one word.", "what is it?"),
        ("what is it? Answer the question using a single word or phrase.", "what is it?"),
        ("answer in one word.", ""),
        ("which bone word only", None),
        ("answer in one word. 这是什么？", None),
        ("is one word only a word?", None),
    ],
)
def test_a_plea_for_one_word_is_known_at_the_end_only(text, rest):
    assert bare(text) == ((text, False) if rest is None else (rest, True))


def test_every_question_can_be_asked_both_ways():
    for skill in SKILLS:
        for number in range(20):
            question = ask_about(make_scene(number), skill, random.Random(number))
            if question is None:
                continue
            for one_word in (True, False):
                asked = asked_for(question, one_word)
                assert asked.short == one_word == bare(asked.text)[1] or skill == "describe"
                assert bare(asked.text)[0] == bare(question.text)[0]
                assert asked_for(asked, question.short).answer == question.answer
