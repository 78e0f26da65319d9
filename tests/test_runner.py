"""compare(), measure(): streamed, stoppable, and the same answer alone as in a crowd."""

from __future__ import annotations

import itertools
import json
import pickle
import queue
import re
import statistics
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from visipruner import METHODS, FastV, PruningMethod, VisiPruner
from visipruner.choice import method_at
from visipruner.errors import Refused
from visipruner.families.llava import SYSTEM
from visipruner.flops import ModelShape, executed
from visipruner.levels import PRESETS, level_number
from visipruner.models.catalogue import load_vlm
from visipruner.running import runner, stream
from visipruner.running.results import LEAST_STEPS, Options
from visipruner.running.runner import compare, last_event, measure

METHOD = VisiPruner(shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.05, relative=True)
SHORT = Options(max_new_tokens=6)


@pytest.fixture(scope="module")
def prompt(mini, picture):
    return mini.prepare(picture, "what colour is the star?")


def result(vlm, prompt, method=METHOD, options=SHORT):
    return last_event(compare(vlm, prompt, [PruningMethod(), method], options)).comparison


def test_events_come_in_order_and_the_last_one_holds_everything(mini, prompt):
    events = list(compare(mini, prompt, [PruningMethod(), METHOD], SHORT))
    kinds = [event.kind for event in events]
    assert kinds[0] == "encoded" and kinds[-1] == "compared"
    for side in (0, 1):
        mine = [event for event in events if event.side == side]
        records = [event.record.layer for event in mine if event.kind == "layer"]
        assert records == list(range(8))
        texts = [event.text for event in mine if event.kind == "token"]
        answer = next(event.answer for event in mine if event.kind == "answer")
        assert texts[-1] == answer.text and len(answer.tokens) == len(texts) <= 6
    comparison = events[-1].comparison
    assert comparison.probe.layers[0].influence is not None
    assert comparison.answers[0].trace.layers[0].influence is None  # the timed run has no probe


def test_the_streamed_answer_is_what_plain_generate_says(mini, prompt):
    answer = result(mini, prompt).answers[0]
    with torch.inference_mode():
        plain = mini.model.generate(**prompt.inputs, max_new_tokens=6, do_sample=False)
    assert answer.tokens == plain[0, prompt.layout.length :].tolist()


def test_counts_come_from_what_ran(mini, prompt):
    full, pruned = result(mini, prompt).answers
    shape = ModelShape.of(mini.model.config)
    for answer in (full, pruned):
        assert answer.counts.executed == executed(shape, answer.trace)
        assert len(answer.counts.executed_per_layer) == 8
    assert pruned.counts.kv_bytes < full.counts.kv_bytes
    assert pruned.counts.paper_macs < full.counts.paper_macs
    assert full.counts.attention_executed == 1.0


def test_one_run_has_one_clock(mini, prompt):
    times = result(mini, prompt, options=Options(max_new_tokens=6, clock_rounds=0)).answers[0].times
    assert times.total >= times.first_token >= times.prefill > 0 and times.rounds == 0


def test_a_time_per_further_token_needs_several_of_them(mini, picture):
    """The end token follows the one word "red": that single step is no rate."""
    seen = set()
    for asked in ("is it blue?", "what is there?", "describe the image."):
        prompt = mini.prepare(picture, asked)
        for most in (2, 3, 4, 6):
            options = Options(max_new_tokens=most, probe=False, clock_rounds=0)
            for answer in result(mini, prompt, options=options).answers:
                several = len(answer.tokens) > LEAST_STEPS
                assert (answer.times.per_token is not None) == several
                assert (answer.to_json()["times"]["per_token"] is not None) == several
                seen.add(several)
    assert seen == {False, True}


def test_quick_answers_are_clocked_again_in_silence(mini, prompt, monkeypatch):
    monkeypatch.setattr(runner, "CLOCK_SECONDS", 1e6)
    events = list(compare(mini, prompt, [PruningMethod(), METHOD], SHORT))
    shown = {e.side: e.answer for e in events if e.answer}
    for side, answer in enumerate(events[-1].comparison.answers):
        assert answer.times.whole and answer.times.rounds == 5
        assert answer.times.total != shown[side].times.total
        assert replace(answer, times=shown[side].times) == shown[side]


def test_quick_first_tokens_of_long_answers_are_clocked_again_in_silence(mini, prompt, monkeypatch):
    monkeypatch.setattr(runner, "CLOCK_SECONDS", 1e6)
    answer, more = runner._answer, 1e10

    def late(*args):
        found = answer(*args)
        slow = found.times.total + (more if len(found.tokens) > 1 else 0)
        return replace(found, times=replace(found.times, total=slow))

    monkeypatch.setattr(runner, "_answer", late)
    options = Options(max_new_tokens=6, probe=False, clock_rounds=3)
    events = list(compare(mini, prompt, [PruningMethod(), METHOD], options))
    assert [e.kind for e in events[-4:]] == ["clocked"] * 3 + ["compared"]
    shown = {e.side: e.answer for e in events if e.answer}
    for side, answer in enumerate(events[-1].comparison.answers):
        assert (
            answer.times.rounds == 3 and answer.times.first_token != shown[side].times.first_token
        )
        assert answer.times.vision != shown[side].times.vision
        # Only these times change: answer, counts and trace are the displayed run's.
        assert answer.times.first_token == sorted(answer.times.first_tokens)[1]
        before = shown[side].times
        rest = answer.times.total - more - answer.times.first_token
        assert rest == pytest.approx(before.total - before.first_token, abs=1e-3)
        assert answer.times.per_token == before.per_token and not answer.times.whole
        assert replace(answer, times=before) == shown[side]


@pytest.mark.parametrize(
    ("budget", "total", "rounds", "whole"),
    [
        (20.0, 1e9, 5, False),
        (20.0, 20_000.0, 5, True),
        (2e-4, 1e9, 0, False),
    ],
)
def test_after_a_slow_first_run_one_silent_round_decides(
    mini, prompt, monkeypatch, budget, total, rounds, whole
):
    monkeypatch.setattr(runner, "CLOCK_SECONDS", budget)
    answer, shown = runner._answer, []

    def slow(*args):
        found = answer(*args)
        shown.append(found)
        if len(shown) > 2:
            return found
        times = replace(found.times, vision=0.0, first_token=1000 * budget, total=total)
        return replace(found, times=times)

    monkeypatch.setattr(runner, "_answer", slow)
    mini.warm.add(prompt.layout.length)
    answers = result(mini, prompt).answers
    assert [a.times.rounds for a in answers] == [rounds, rounds]
    assert [a.times.whole for a in answers] == [whole, whole]
    assert len(shown) == (4 if not rounds else 2 + 2 * rounds)


def test_slow_first_tokens_are_clocked_once(mini, prompt, monkeypatch):
    monkeypatch.setattr(runner, "CLOCK_SECONDS", 1e-6)
    assert [a.times.rounds for a in result(mini, prompt).answers] == [0, 0]


@pytest.mark.parametrize(
    ("full", "pruned", "faster", "uneven"),
    [
        ((200, 200, 200), (100, 100, 100), True, False),
        ((104, 104, 104), (100, 100, 100), None, False),
        ((100, 100, 100), (104, 104, 104), None, False),
        ((100, 100, 100), (120, 120, 120), False, False),
        ((200, 210, 90), (100, 110, 100), None, True),  # one of three disagrees
        ((200, 210, 90, 200, 220), (100, 110, 100, 100, 100), True, False),  # one of five may
        ((200, 210, 90, 90, 220), (100, 110, 100, 100, 100), None, True),
        ((), (), None, True),  # one run gives no verdict
    ],
)
def test_noise_is_no_difference(mini, prompt, full, pruned, faster, uneven):
    comparison = result(mini, prompt)
    answers = []
    for answer, firsts, once in zip(comparison.answers, (full, pruned), (200, 100), strict=True):
        first = statistics.median(firsts or [once])
        times = replace(answer.times, first_token=first, first_tokens=firsts)
        answers.append(replace(answer, times=times))
    told = replace(comparison, answers=answers)
    assert told.faster is faster and told.uneven is uneven


def test_sides_take_turns_at_going_first(mini, prompt):
    first = []
    for _ in range(4):
        events = compare(mini, prompt, [PruningMethod(), METHOD], SHORT)
        first.append(next(event.side for event in events if event.kind == "layer"))
        for _ in events:
            pass
    assert first in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_the_same_twice_and_sampling_by_seed(mini, prompt):
    warm = Options(max_new_tokens=6, temperature=1.5, seed=3)
    answers = [
        [a.tokens for a in result(mini, prompt, options=o).answers] for o in (warm, warm, SHORT)
    ]
    assert answers[0] == answers[1] != answers[2]
    # With nothing pruned, the same seed gives both sides the same answer.
    same = result(mini, prompt, FastV(keep=1000), warm)
    assert same.same and same.word_diff == [("same", same.answers[0].text)]


def test_an_answer_in_a_crowd_is_the_answer_alone(mini, picture):
    prompts = [mini.prepare(picture, f"what colour is the {w}?") for w in ("star", "red", "one")]
    alone = [[a.tokens for a in result(mini, p).answers] for p in prompts]
    crowd = [None] * 3

    def user(i):
        crowd[i] = [a.tokens for a in result(mini, prompts[i]).answers]

    threads = [threading.Thread(target=user, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crowd == alone


def test_leaving_early_stops_the_work_and_frees_the_model(mini, prompt):
    def hooks():  # transformers leaves its own, if an earlier test read hidden states
        decoder = mini.model.model.language_model.modules()
        return [(dict(m._forward_pre_hooks), dict(m._forward_hooks)) for m in decoder]

    alone, before = [a.tokens for a in result(mini, prompt).answers], hooks()
    for seen in (1, 4, 12):
        events = compare(mini, prompt, [PruningMethod(), METHOD], SHORT)
        list(itertools.islice(events, seen))
        events.close()
        assert not mini.lock.locked()
        assert hooks() == before
    assert [a.tokens for a in result(mini, prompt).answers] == alone


def test_leaving_does_not_wait_for_somebody_elses_run(mini, prompt, monkeypatch):
    class Interrupted(queue.SimpleQueue):
        def get(self, timeout):
            raise KeyboardInterrupt

    monkeypatch.setattr(stream.queue, "SimpleQueue", Interrupted)

    def leave():
        with pytest.raises(KeyboardInterrupt):
            next(compare(mini, prompt, [PruningMethod()], SHORT))

    leaving = threading.Thread(target=leave, daemon=True)
    with mini.lock:  # another run
        leaving.start()
        leaving.join(30)
        assert not leaving.is_alive()


def test_an_error_inside_reaches_the_listener_and_the_next_run_works(mini, prompt):
    events = compare(mini, prompt, [VisiPruner(merge_index=0, shallow_layers=1000)], SHORT)
    assert last_event(events).kind == "compared"  # more shallow layers than layers is no error

    class Broken(PruningMethod):
        def select(self, view):
            raise ArithmeticError("planned")

    with pytest.raises(ArithmeticError, match="planned"):
        last_event(compare(mini, prompt, [Broken()], SHORT))
    assert last_event(compare(mini, prompt, [METHOD], SHORT)).kind == "compared"


def no_thread(*_):
    raise RuntimeError("can't start new thread")


def dead_thread(*_):
    """It dies before its first line; threading.Thread.start() would wait for it forever."""


@pytest.mark.parametrize("start", [no_thread, dead_thread])
def test_a_thread_that_dies_as_it_starts_keeps_nobody_waiting(mini, prompt, monkeypatch, start):
    with monkeypatch.context() as change:
        change.setattr(stream, "_thread", SimpleNamespace(start_new_thread=start))
        change.setattr(stream, "START_SECONDS", 0.01)
        with pytest.raises(Refused, match="ran out of memory"):
            last_event(compare(mini, prompt, [METHOD], SHORT))
    assert not mini.lock.locked()
    assert last_event(compare(mini, prompt, [METHOD], SHORT)).kind == "compared"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it dies on purpose
def test_a_thread_that_dies_without_a_word_keeps_nobody_waiting(mini, prompt, monkeypatch):
    class Starved(queue.SimpleQueue):
        """Loses what its thread puts from the first layer on, and the error too."""

        def put(self, event):
            if isinstance(event, BaseException) or getattr(event, "kind", "") == "layer":
                raise MemoryError
            super().put(event)

    monkeypatch.setattr(stream.queue, "SimpleQueue", Starved)
    with pytest.raises(Refused, match="ran out of memory"):
        last_event(compare(mini, prompt, [METHOD], SHORT))
    monkeypatch.undo()
    assert not mini.lock.locked()
    assert last_event(compare(mini, prompt, [METHOD], SHORT)).kind == "compared"


def test_a_run_that_waits_for_another_says_so_and_can_be_left(mini, prompt):
    with mini.lock:
        events = compare(mini, prompt, [METHOD], SHORT)
        assert [next(events).kind for _ in range(2)] == ["waiting"] * 2
        events.close()  # while the other run still holds the lock
    assert not mini.lock.locked()


def test_weights_that_are_no_numbers_are_said_and_not_answered_with_nothing(mini, prompt):
    norm = mini.model.model.language_model.norm.weight
    before = norm.clone()
    norm[0] = torch.nan
    try:
        with pytest.raises(ValueError, match="too large for float32"):
            last_event(compare(mini, prompt, [PruningMethod(), METHOD], SHORT))
    finally:
        norm.copy_(before)
    assert last_event(compare(mini, prompt, [METHOD], SHORT)).kind == "compared"


def test_comparisons_become_json(mini, prompt):
    comparison = result(mini, prompt)
    data = json.loads(json.dumps(comparison.to_json()))
    assert data["same_answer"] is comparison.same
    assert data["answers"][1]["trace"]["method"] == "visipruner"
    assert data["machine"]["torch"] == torch.__version__


def test_the_diff_names_the_words_of_each_side(mini, prompt):
    comparison = result(mini, prompt, METHODS["schedule"](keep=0, keep_after=-1, none_after=None))
    diff = comparison.word_diff
    assert " ".join(w for kind, w in diff if kind != "pruned") == comparison.answers[0].text
    assert " ".join(w for kind, w in diff if kind != "full") == comparison.answers[1].text


def test_measure_takes_whole_answers_in_turn(mini, prompt):
    taken = measure(mini, prompt, [PruningMethod(), METHOD], SHORT, rounds=3)
    assert [len(times) for times in taken] == [3, 3]
    assert [t.vision for t in taken[0]] == [t.vision for t in taken[1]]  # encoded once for both
    comparison = result(mini, prompt)
    clocked = comparison.clocked(taken)
    for answer, times in zip(clocked.answers, taken, strict=True):
        clock = answer.times
        assert clock.whole and clock.rounds == 3
        assert clock.total == sorted(t.total for t in times)[1] >= clock.first_token
        assert clock.first_tokens == tuple(t.first_token for t in times)
    assert [a.text for a in clocked.answers] == [a.text for a in comparison.answers]


def test_who_is_measured_first_alternates_with_the_turn(mini, prompt, monkeypatch):
    order, answer = [], runner._answer

    def noting(*args):
        order.append(args[6])  # the side
        return answer(*args)

    monkeypatch.setattr(runner, "_answer", noting)
    for turn in range(2):
        measure(mini, prompt, [PruningMethod(), METHOD], SHORT, rounds=1, turn=turn)
    assert order == [0, 1, 1, 0]


def test_influence_travels_to_another_process_as_numbers(mini, prompt):
    trace = result(mini, prompt).answers[1].trace
    found = next(record.influence for record in trace.layers if record.influence)
    sent = pickle.dumps(found)
    assert pickle.loads(sent) == found and b"storage" not in sent.lower()


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.5},
        {"temperature": -1},
        {"temperature": 1e-9},
        {"temperature": 0.0099},
        {"temperature": float("nan")},
        {"seed": -1},
        {"seed": "x"},
        {"clock_rounds": -1},
        {"clock_rounds": 2},  # fewer than a median needs
    ],
)
def test_options_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Options(**bad)


def test_the_least_temperature_that_is_allowed_can_be_drawn_at(mini, prompt):
    assert result(mini, prompt, options=Options(2, 0.01, probe=False)).answers[0].tokens


# -- levels


def test_level_zero_keeps_everything_and_more_is_never_less(mini, prompt):
    for name in (name for name, kind in METHODS.items() if not mini.serves(kind)):
        flops = []
        for level in (0, 0.25, 0.5, 0.75, 1):
            method = method_at(mini, name, level, "paper", prompt.layout.num_visual)
            comparison = result(mini, prompt, method, Options(max_new_tokens=1, probe=False))
            flops.append(comparison.answers[1].counts.executed.prefill)
        full = comparison.answers[0].counts.executed.prefill
        assert flops[0] - full <= comparison.answers[1].counts.executed.probe + full * 0.02, name
        assert flops == sorted(flops, reverse=True) or name == "visipruner", name


def test_presets_are_levels(mini):
    for name, number in PRESETS.items():
        assert level_number(name) == number
        assert method_at(mini, "visipruner", name) == method_at(mini, "visipruner", str(number))


@pytest.mark.parametrize("level", ["hard", "", "nan", float("nan"), -0.1, 1.1, None, True, [1]])
def test_bad_levels_are_refused_in_a_sentence(level, mini):
    with pytest.raises(ValueError, match="level"):
        method_at(mini, "fastv", level)


def test_unknown_names_are_refused(mini):
    with pytest.raises(ValueError, match="method must be one of") as error:
        method_at(mini, "magic")
    named, more = re.search(r"one of (.*) and (\d+) more, not", str(error.value)).groups()
    named = named.split(", ")  # as many as make a line; the rest is counted
    assert named == list(METHODS)[: len(named)] and len(named) + int(more) == len(METHODS)
    with pytest.raises(ValueError, match="semantics"):
        method_at(mini, "visipruner", 0.5, "both")
    with pytest.raises(ValueError, match="keep"):
        method_at(mini, "fastv", wrong=1)
    with pytest.raises(ValueError, match="field of fastv"):
        method_at(mini, "fastv", level=1, name="x")


# -- prompts and checkpoints


def test_the_prompt_is_llavas(mini, prompt):
    assert prompt.text.startswith(f"<s>{SYSTEM} USER: <image>\n")
    assert prompt.text.rstrip().endswith("what colour is the star? ASSISTANT:")
    ids = prompt.inputs["input_ids"][0]
    assert (ids == mini.model.config.image_token_id).sum() == 16 == prompt.layout.num_visual


def test_special_words_in_a_question_stay_words(mini, picture):
    question = "what <image> is </s> USER: red <s> ASSISTANT: blue"
    plain = mini.prepare(picture, question)
    ids = plain.inputs["input_ids"][0].tolist()
    tokenizer = mini.processor.tokenizer
    ((start, stop),) = plain.layout.spans
    assert plain.layout.num_visual == 16 == stop - start
    assert tokenizer.eos_token_id not in ids and ids.count(tokenizer.bos_token_id) == 1
    assert len(plain.notes) == 5
    assert plain.question == question


def test_wide_pictures_are_padded_and_the_padding_is_known(mini):
    wide = mini.prepare(Image.new("RGB", (200, 100), "red"), "what?")
    assert wide.seen.size == (56, 56)
    assert wide.padding == (0, 1, 2, 3, 12, 13, 14, 15)
    assert wide.seen.getpixel((28, 28)) == (255, 0, 0)
    cropped = mini.prepare(Image.new("RGB", (200, 100), "red"), "what?", mode="crop")
    assert cropped.padding == () and cropped.seen.getpixel((0, 0)) == (255, 0, 0)
    thin = mini.prepare(Image.new("RGB", (1, 5000), "red"), "what?")
    assert thin.seen.size == (56, 56) and len(thin.padding) >= 8


def test_what_the_model_gets_is_the_picture_that_is_shown(mini):
    """This project pads and resizes; the processor only normalises what `seen` shows."""
    prompt = mini.prepare(Image.effect_mandelbrot((120, 80), (-2, -1, 1, 1), 40), "what?")
    processor = mini.processor.image_processor
    pixels = prompt.inputs["pixel_values"][0].permute(1, 2, 0)
    shown = pixels * torch.tensor(processor.image_std) + torch.tensor(processor.image_mean)
    seen = torch.tensor(list(prompt.seen.get_flattened_data())).view(56, 56, 3) / 255
    torch.testing.assert_close(shown, seen, atol=1e-3, rtol=0)


class TestCheckpoints:
    def test_an_unknown_name(self):
        with pytest.raises(ValueError, match="choose one of tiny"):
            load_vlm("llava-99")

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"config\.json"):
            load_vlm(tmp_path)

    def test_another_kind_of_model(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        with pytest.raises(ValueError, match="bert"):
            load_vlm(tmp_path)

    def test_no_safetensors(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "llava"}')
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
        with pytest.raises(ValueError, match="safetensors"):
            load_vlm(tmp_path)

    def test_damaged_weights(self, mini_path, tmp_path):
        import shutil

        copy = tmp_path / "copy"
        shutil.copytree(mini_path, copy)
        weights = copy / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ValueError, match="damaged"):
            load_vlm(copy)

    def test_a_missing_tokenizer(self, mini_path, tmp_path):
        import shutil

        copy = tmp_path / "copy"
        shutil.copytree(mini_path, copy)
        (copy / "tokenizer.json").unlink()
        with pytest.raises(ValueError, match=r"could not be loaded: .*tokenizer"):
            load_vlm(copy)
