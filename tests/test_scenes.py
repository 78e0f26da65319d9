"""The bundled model's world on the page: questions, true answers, and what kept patches show."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from PIL import Image

from visipruner.trace import Cut
from visipruner.ui import scenes, text, views
from visipruner.world import sources
from visipruner.world.phrases import LLAVA_SHORT, SHORT
from visipruner.world.questions import asked_for, bare


def test_questions_belong_to_their_scene():
    for seed in range(20):
        for question in sources.questions(seed):
            truth = sources.truth(seed, question.text.upper())
            assert truth.fits(question.answer)
            assert not truth.fits("certainly not")
    assert sources.truth(3, "what is the meaning of life?") is None
    with pytest.raises(ValueError, match="scene's number"):
        sources.scene(-1)


def test_a_description_is_marked_by_its_facts():
    seed, known = next(
        (seed, question)
        for seed in range(50)
        for question in sources.questions(seed)
        if question.skill == "describe" and question.answer.count("small") == 1
    )
    truth = sources.truth(seed, known.text)
    total = truth.facts(known.answer)[1]
    assert total > 4 and truth.fits(known.answer)
    nearly = SimpleNamespace(text=known.answer.replace("small", "large"))
    assert f"{total - 1} of {total} facts" in views.mark(truth, nearly)
    assert text.WRONG in views.mark(truth, nearly)


def test_what_stays_is_counted_against_the_whole_picture():
    square = {"shape": "square", "colour": "red", "size": "large", "x": 35, "y": 35}
    source = {"things": [square], "seed": 1}

    def said(kept, reads_by=4, grids=((24, 24),), asked="", answer="square", at=5, owner=()):
        drops = [Cut(5, "filter", kept, list(owner))] if len(kept) < 576 else []
        trace = SimpleNamespace(drops=drops, cuts=drops, num_visual=576, filtering_layer=at)
        prompt = SimpleNamespace(layout=SimpleNamespace(grids=grids), question=asked)
        answers = [None, SimpleNamespace(trace=trace, text=answer)]
        comparison = SimpleNamespace(answers=answers, prompt=prompt)
        return scenes.what_stays(source, comparison, reads_by)

    in_the_middle = 2 * 24 + 2  # two patches from the corner of the square
    assert said([in_the_middle]).startswith("The one patch that stays shows a thing; of all 576")
    assert said([575]).startswith("The one patch that stays shows ground; of all 576")
    assert said([575, 574]).startswith("Of the 2 patches that stay, 0 show a thing; of all 576, ")
    assert said([in_the_middle, 575]).startswith("Of the 2 patches that stay, 1 shows a thing;")
    assert text.STAYS_LATE in said([575, 574])
    assert text.STAYS_LATE not in said([575, 574], reads_by=None)
    known = {question.skill: question for question in sources.questions(source)}
    for skill, hint in (("colour", "here “The”"), ("exists", ""), ("describe", "")):
        question = asked_for(known[skill], one_word=False)
        note = said([575, 574], asked=question.text, answer=question.answer)
        assert hint in note and ("first word" in note) == bool(hint)  # yes and no are the answer
        assert (text.STAYS_LATE in note) != bool(hint)
        by_the_clock = said([575, 574], asked=question.text, answer=question.answer, at=None)
        assert by_the_clock == said([575, 574]).removesuffix(f" {text.STAYS_LATE}")
        one_word = asked_for(question, one_word=True)
        assert skill == "describe" or text.STAYS_LATE in said([575, 574], asked=one_word.text)
    every = said(list(range(575))).split("stay, ")[1].split()[0]  # the last one is ground
    assert f"; of all 576, {every} do." in said([575, 574])
    assert said([]) == said(list(range(576))) == ""
    assert said([5], owner=[-1] * 5 + [40] + [-1] * 570)
    assert said([5], owner=[40] * 6 + [-1] * 570) == ""  # five were merged into patch 5
    assert said([5], grids=()) == said([5], grids=((27, 27),)) == ""
    # Tiles and the whole picture, or a grid that is no square: patches are no cells of the scene.
    assert said([5], grids=((12, 12),) * 4) == said([5], grids=((8, 72),)) == ""


@pytest.mark.parametrize("one_word", [True, False])
def test_another_question_goes_round_in_its_form(one_word):
    known = [asked_for(question, one_word) for question in sources.questions(5)]
    known = [question for question in known if question.short == one_word]
    assert {q.skill for q in sources.questions(5)} - {q.skill for q in known} <= {"describe"}
    seen, question = [], known[0]
    for _ in known:
        seen.append(question)
        question = sources.next_question(5, question.text)
    assert seen == known and question == known[0]
    assert (
        sources.next_question(5, f"what else? {SHORT[1]}" if one_word else "what else?") == known[0]
    )


def test_true_answers_are_known_for_one_word_and_for_a_sentence():
    known = next(q for q in sources.questions(49) if q.skill == "place")
    asked = bare(known.text)[0]
    sentence = sources.truth(49, asked)
    assert sentence.answer.startswith("The ") and sentence.fits(sentence.answer)
    for plea in (*SHORT, LLAVA_SHORT, "Answer in one word!"):
        brief = sources.truth(49, f"{asked} {plea}")
        assert brief.answer in sentence.answer and " " not in brief.answer
        assert brief.fits(brief.answer) and not brief.fits("certainly not")
    described = next(q for q in sources.questions(49) if q.skill == "describe").text
    assert sources.truth(49, described) and not sources.truth(49, f"{described} {SHORT[0]}")


def test_limits_are_named_kindly(mini):
    photograph = Image.effect_noise((336, 336), 100).convert("RGB")
    prompt = scenes.prepare(mini, photograph, "where is the zebra?")
    assert any("zebra" in note for note in prompt.notes)
    assert text.OUTSIDE in prompt.notes and prompt.outside
    # A scene of its own world is never outside, whatever its picture looks like.
    assert not scenes.prepare(mini, photograph, "where is the star?", drawn=True).outside
    assert scenes.limits("what colour is the star?") == []
    assert scenes.limits("What do you see? Use a single word.") == [text.ONE_WORD_PICTURE]
    assert scenes.limits("what do you see?") == []
    assert len(scenes.limits("is it " + "z" * 900)[0]) < 80 + len(text.UNKNOWN_WORDS)


def test_american_spelling_is_read_as_the_one_that_was_learnt(mini):
    typed = "Is the CENTER thing of the same Color, or are the colors different?"
    prompt = scenes.prepare(mini, sources.picture(7), typed, drawn=True)
    assert prompt.question == typed
    learnt = "Is the centre thing of the same colour, or are the colours different?"
    assert learnt in prompt.text and typed not in prompt.text
    note = text.RESPELT.format(
        words="“center” as “centre”, “color” as “colour”, “colors” as “colours”"
    )
    assert list(prompt.notes) == [note]
    for left_alone in ("is it colorful?", "is it gray?", "is it color-blind?"):
        assert left_alone in scenes.prepare(mini, sources.picture(7), left_alone).text
    assert typed in mini.prepare(sources.picture(7), typed).text  # for any other model


def test_a_true_answer_is_known_in_both_spellings():
    for seed in range(8):
        for known in sources.questions(seed):
            assert not re.search(r"\bcolor", known.text)  # the page spells as the model reads
            american = known.text.replace("colour", "color").replace("centre", "center")
            assert sources.truth(seed, american).answer == known.answer
            assert sources.next_question(seed, american) == sources.next_question(seed, known.text)
