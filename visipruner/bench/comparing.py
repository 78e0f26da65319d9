"""The bundled model as the page uses it: its presets, and whole comparisons."""

from __future__ import annotations

import itertools
import random
import time
from contextlib import contextmanager
from unittest.mock import patch

from visipruner import decoders
from visipruner.bench.timing import quartiles, synchronise
from visipruner.choice import method_at
from visipruner.levels import PRESETS
from visipruner.methods import PruningMethod
from visipruner.models.catalogue import load_vlm
from visipruner.running import runner
from visipruner.running.results import Options, Times
from visipruner.world.drawing import render
from visipruner.world.questions import SKILLS, ask_about
from visipruner.world.scenes import make_scene

SCENES = ((8, "colour"), (9, "count_kind"), (13, "relation"))  # each answer is a sentence


def run_comparisons(rounds: int, device: str, precision: str) -> dict:
    """Both sides of several questions, streamed, round after round; all times in seconds.

    * total: one `runner.compare` with picture and question ready, to its last event, with the
      page's options (untimed probe and silent clocks included).
    * not_model_share: the share of total outside the picture's encoding and transformers' own
      `generate`: hooks with the influence test, streamed events, counting, threads.
    * streamed and silent: prefill of the pruned side in the shown run and in silent runs.
    """
    vlm = load_vlm("tiny", device=device, precision=precision)
    methods = [PruningMethod(), method_at(vlm, "visipruner")]
    found: dict = {"total": [], "probe": [], "share": [], "streamed": [], "silent": []}
    words = []
    for turn in range(rounds + 1):
        for seed, skill in SCENES:
            sample = _one(vlm, _prompt(vlm, seed, skill), methods)
            if turn:  # the first round warms up
                words.append(len(sample.pop("text").split()))
                for name, value in sample.items():
                    found[name].append(value)
    return {
        "rounds": rounds,
        "questions": len(SCENES),
        "words_per_answer": sum(words) / len(words),
        "total_s": quartiles(found["total"]),
        "probe_s": quartiles(found["probe"]),
        "not_model_share": quartiles(found["share"]),
        "streamed_prefill_s": quartiles(found["streamed"]),
        "silent_prefill_s": quartiles(found["silent"]),
    }


def run_presets(rounds: int, device: str, precision: str) -> list[dict]:
    """VisiPruner's presets as shipped, on a question of every skill: do fewer FLOPs save time?

    The method decides freely on every picture. One row per preset: prefill (seconds, the mean over
    the questions of medians of interleaved silent runs), and the unpruned model's time and executed
    FLOPs over the preset's, each summed over the questions.
    """
    vlm = load_vlm("tiny", device=device, precision=precision)
    methods = [PruningMethod(), *(method_at(vlm, "visipruner", name) for name in PRESETS)]
    options = Options(max_new_tokens=1, probe=False, clock_rounds=0)
    seconds, flops = ([0.0] * len(methods) for _ in range(2))
    for number, skill in enumerate(SKILLS):
        prompt = _prompt(vlm, number, skill)
        taken = runner.measure(vlm, prompt, methods, options, rounds)
        answers = runner.last_event(
            runner.compare(vlm, prompt, methods, options)
        ).comparison.answers
        for index, (times, answer) in enumerate(zip(taken, answers, strict=True)):
            seconds[index] += Times.median(times).prefill / 1000
            flops[index] += answer.counts.executed.prefill
    return [
        {
            "name": name,
            "prefill_s": seconds[index] / len(SKILLS),
            "speedup": seconds[0] / seconds[index],
            "flop_ratio": flops[0] / flops[index],
        }
        for index, name in enumerate(("dense", *PRESETS))
    ]


def _prompt(vlm, seed: int, skill: str):
    """A scene outside the training set, with a question that asks for a sentence.

    If the scene lacks the question (such as two digits), one of the next scenes is used.
    """
    for turn in itertools.count():
        scene = make_scene(seed + turn // 20, "heldout")
        question = ask_about(scene, skill, random.Random(turn))
        if question and not question.short:
            return vlm.prepare(render(scene), question.text)


def _one(vlm, prompt, methods) -> dict:
    clock = _Clock(str(vlm.device))
    with clock.watching(vlm):
        start = time.perf_counter()
        for event in runner.compare(vlm, prompt, methods):
            if event.answer and event.side == 1:
                streamed = event.answer.times.prefill
        comparison = event.comparison
        total = time.perf_counter() - start
    return {
        "text": comparison.answers[0].text,
        "total": total,
        "probe": clock.probe,
        "share": 1 - (clock.model - clock.ours) / total,
        "streamed": streamed / 1000,
        "silent": comparison.answers[1].times.prefill / 1000,  # of the silent runs at the end
    }


class _Clock:
    """Adds up seconds: `model` inside encoding and generate(), `ours` our own part of them."""

    def __init__(self, device: str):
        self.device = device
        self.model = self.ours = self.probe = 0.0

    @contextmanager
    def watching(self, vlm):
        # Only we call generate(), and inside it only hooks and the streamer are ours.
        with (
            self._timing(type(vlm), "encode", "model"),
            self._timing(runner, "generate", "model"),
            self._timing(runner, "_probe", "probe"),
            self._timing(decoders.RunHook, "__call__", "ours"),
            self._timing(runner._Tokens, "put", "ours"),
        ):
            yield

    def _timing(self, owner, name: str, account: str):
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            synchronise(self.device)  # else GPU work would count for the part that waits for it
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                synchronise(self.device)
                spent = time.perf_counter() - start
                setattr(self, account, getattr(self, account) + spent)

        return patch.object(owner, name, timed)
