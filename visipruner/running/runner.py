"""compare(): one question, one or several methods; streamed events, honest clocks.

The model runs in its own thread and puts events in a queue, so no clock includes drawing on the
page. Leaving the generator early stops the computation at the next layer or token, or at the end of
a silent round.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from transformers import LogitsProcessor

from visipruner.choice import Side, brief_title, methods_of, name_of
from visipruner.decoding import configuration, settled
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.families import Encoded
from visipruner.flops import (
    ModelShape,
    attention_share,
    dense,
    executed,
    kv_bytes,
    layer_flops,
    paper_macs,
)
from visipruner.inputs import check_number
from visipruner.methods import PruningMethod
from visipruner.models.catalogue import VLM, check_served
from visipruner.models.memory import freeing
from visipruner.prompt import Prompt
from visipruner.running.clocks import (
    fixed_seed,
    machine,
    memory_mark,
    memory_peak,
    milliseconds,
    moment,
    now,
    prefill_clock,
)
from visipruner.running.results import (
    LEAST_ROUNDS,
    LEAST_STEPS,
    Answer,
    Comparison,
    Counts,
    Options,
    Times,
)
from visipruner.running.stream import stream
from visipruner.stock import BaseStreamer
from visipruner.tower import needs_clip, needs_tower
from visipruner.trace import LayerRecord, PruningTrace


@dataclass(frozen=True)
class Event:
    """One event. `side` is the method's index in the list; -1: it concerns all.

    kind: "waiting" (for another run to end), "tick" (a second without news), "encoded" (the
    picture), "warming" (a layer of a warm-up run), "layer" (record), "token" (text so far),
    "answer" (answer), "clocked" (a silent repeat begins), "probed" (a layer of the untimed probe),
    "compared" (comparison).
    """

    kind: str
    side: int = -1
    record: LayerRecord | None = field(default=None, repr=False)
    text: str = ""
    answer: Answer | None = field(default=None, repr=False)
    comparison: Comparison | None = field(default=None, repr=False)


CLOCK_SECONDS = 0.5  # per side: time for silent repeats, which run only if one round fits in it
NOT_A_NUMBER = (
    "This model computed something that is not a number (NaN), so it has no answer: its weights "
    "are damaged, or too large for {dtype}."
)


def compare(
    vlm: VLM,
    prompt: Prompt,
    methods: list[Side],
    options: Options | None = None,
    ticks: bool = False,
) -> Iterator[Event]:
    """Answer with several methods or stacks, one after the other; the picture is encoded once.

    The first side is the baseline. The side that runs first rotates from comparison to comparison.
    Yields events of all sides and finally a "compared" event. A viewer (such as a browser on the
    same machine) slows the shown run. So if answers, or at least first tokens, come quickly, their
    clocks are medians of later silent runs.

    Args:
        ticks: also yield a "tick" after every second without news.
    """
    options = options or Options()

    def work(emit):
        encoded = _encode(vlm, prompt, methods)
        emit(Event("encoded"))
        _warm_up(vlm, prompt, encoded[0], emit)
        answers = _in_turn(vlm, prompt, methods, options, encoded, vlm.runs, emit)
        answers = _clocked(vlm, prompt, methods, options, answers, emit)
        probe = _probe(vlm, prompt, encoded[0], emit) if options.probe else None
        vlm.runs += 1
        made = Comparison(prompt, answers, probe, machine(vlm), date=moment())
        emit(Event("compared", comparison=made))

    return stream(work, vlm.lock, Event("waiting"), Event("tick") if ticks else None)


def last_event(events: Iterator[Event]) -> Event:
    """Run to the end; the last event holds the result."""
    event = None
    for event in events:  # noqa: B007 - only the last event is needed
        pass
    return event


def measure(
    vlm: VLM,
    prompt: Prompt,
    methods: list[Side],
    options: Options,
    rounds: int = 5,
    turn: int = 0,
) -> list[list[Times]]:
    """The times of `rounds` silent whole answers per method, in turn.

    Args:
        turn: the first round's number, which decides which side runs first.
    """
    check_number("rounds", rounds, 1, 100, integer=True)
    samples = []
    with freeing(), vlm.lock:
        for number in range(turn, turn + rounds):
            encoded = _encode(vlm, prompt, methods)
            _warm_up(vlm, prompt, encoded[0])
            answers = _in_turn(vlm, prompt, methods, options, encoded, number)
            samples.append([answer.times for answer in answers])
    return [list(taken) for taken in zip(*samples, strict=True)]


# -- answers


def _in_turn(
    vlm, prompt, methods, options, encoded, turn: int, emit=lambda event: None
) -> list[Answer]:
    """Every side's answer; `turn` decides which side runs first. `encoded`: from `_encode`."""
    count = len(methods)
    answers: list = [None] * count
    for side in ((turn + place) % count for place in range(count)):
        try:
            answers[side] = _answer(vlm, prompt, methods[side], options, *encoded, side, emit)
        except Refused as error:
            if side == 0 or count <= 2:
                raise
            raise Refused(f"{brief_title(name_of(methods[side]))}: {error}") from None
    return answers


def _clocked(vlm, prompt, methods, options, answers: list[Answer], emit) -> list[Answer]:
    """The same answers with steadier clocks: of whole answers, or else of first tokens.

    A silent round must fit into CLOCK_SECONDS per side. It is tried if the shown run took at most
    three times that: the first run of a process, for example, is slower than later ones.
    """
    if not options.clock_rounds:
        return answers
    vision = answers[0].times.vision  # all sides share one encoding
    firsts = replace(options, max_new_tokens=1)
    for clock, again in (("total", options), ("first_token", firsts)):
        shown = (vision + sum(getattr(a.times, clock) - vision for a in answers)) / 1000
        samples = []
        if shown <= 3 * CLOCK_SECONDS * len(methods):
            samples = _silent(vlm, prompt, methods, again, emit)
        if samples:
            sides = zip(answers, zip(*samples, strict=True), strict=True)
            return [
                replace(a, times=a.times.with_first(t) if again is firsts else Times.median(t))
                for a, t in sides
            ]
    return answers


def _silent(vlm, prompt, methods, options, emit) -> list[list[Times]]:
    """All sides' times per round; empty if a round takes longer than CLOCK_SECONDS per side."""
    samples, start, most = [], time.monotonic(), CLOCK_SECONDS * len(methods)
    while len(samples) < options.clock_rounds:
        late = time.monotonic() - start > most
        if late and len(samples) == 1:
            return []
        if late and len(samples) >= LEAST_ROUNDS:
            break
        emit(Event("clocked"))
        answers = _in_turn(
            vlm, prompt, methods, options, _encode(vlm, prompt, methods), len(samples)
        )
        samples.append([answer.times for answer in answers])
    return samples


class _Tokens(BaseStreamer):
    """Receives tokens from generate(), notes their times, and passes on the text so far."""

    def __init__(self, tokenizer, emit: Callable[[str], None]):
        self.tokenizer, self.emit = tokenizer, emit
        self.ids: list[int] = []
        self.times: list[float] = []
        self.saw_prompt = False

    def put(self, value):
        if not self.saw_prompt:  # generate() sends the prompt first
            self.saw_prompt = True
            return
        self.ids += value.flatten().tolist()
        self.times.append(time.perf_counter())
        self.emit(self.text)

    def end(self):
        pass

    @property
    def text(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=True).strip()


@torch.inference_mode()
def _answer(vlm, prompt, method, options, features, vision_ms, side, emit) -> Answer:
    tokens = _Tokens(vlm.processor.tokenizer, lambda text: emit(Event("token", side, text=text)))
    before = memory_mark(vlm)
    clip, clip_ms = _clip(vlm, prompt, method, features)
    vision_ms += clip_ms  # no other side needs it
    with (
        prefill_clock(vlm) as clock,
        fixed_seed(vlm, options.seed),
        prune(
            vlm.model,
            vlm.stack(method),
            prompt.layout,
            tower=features.tower if needs_tower(methods_of(method)) else None,  # adds its FLOPs
            clip=clip,
            on_layer=lambda record: emit(Event("layer", side, record=record)),
            renumbers=vlm.family.renumbers,
        ) as trace,
    ):
        start = now(vlm)
        generate(vlm, prompt, features, options, tokens)
        end = now(vlm)
    steps = [b - a for a, b in itertools.pairwise(tokens.times)]
    times = Times(
        vision_ms,
        milliseconds(*clock),
        vision_ms + 1000 * (tokens.times[0] - start),
        1000 * statistics.median(steps) if len(steps) >= LEAST_STEPS else None,
        vision_ms + 1000 * (end - start),
    )
    counts = _count(vlm, prompt, trace, memory_peak(vlm, before))
    answer = Answer(tokens.text, tokens.ids, times, counts, trace)
    emit(Event("answer", side, answer=answer))
    return answer


def generate(vlm: VLM, prompt: Prompt, features: Encoded, options: Options, streamer=None):
    """The token ids of prompt and answer, (1, tokens).

    Raises:
        Refused: the first logits are not numbers.
    """
    settings = configuration(vlm.model, options.max_new_tokens, options.temperature)
    with settled(vlm.model, settings):
        return vlm.model.generate(
            **{name: tensor.to(vlm.device) for name, tensor in prompt.asked.items()},
            **features.arguments,
            generation_config=settings,
            streamer=streamer,
            logits_processor=[_NoNumber(vlm)],
        )


class _NoNumber(LogitsProcessor):
    """Ends a run whose first logits are NaN: its answer would be empty without an error."""

    def __init__(self, vlm: VLM):
        self.dtype, self.looked = str(vlm.dtype).removeprefix("torch."), False

    def __call__(self, input_ids, scores):
        if not self.looked and bool(scores.isnan().any()):
            raise Refused(NOT_A_NUMBER.format(dtype=self.dtype))
        self.looked = True
        return scores


def _encode(vlm: VLM, prompt: Prompt, sides: list[Side]):
    methods = [method for side in sides for method in methods_of(side)]
    check_served(vlm, map(type, methods))
    if needs_clip(methods):
        vlm.load_clip()  # here, so that no clock counts it
    start = now(vlm)
    features = vlm.encode(prompt, needs_tower(methods) or needs_clip(methods))
    return features, 1000 * (now(vlm) - start)


def _clip(vlm, prompt, side: Side, features) -> tuple:
    """CLIP's embeddings if this side needs them, and the milliseconds that they took."""
    if not needs_clip(methods_of(side)):
        return None, 0.0
    start = now(vlm)
    return vlm.clip_of(prompt, features), 1000 * (now(vlm) - start)


@torch.inference_mode()
def _warm_up(vlm, prompt, features, emit=lambda event: None):
    """Run once per model and prompt length: the first run of a shape is slower than later ones."""
    if prompt.layout.length not in vlm.warm:
        on_layer = lambda record: emit(Event("warming", record=record))  # noqa: E731 - as in _probe
        with prune(vlm.model, vlm.stack(PruningMethod()), prompt.layout, on_layer=on_layer):
            generate(vlm, prompt, features, Options(max_new_tokens=2))
        vlm.warm.add(prompt.layout.length)


@torch.inference_mode()
def _probe(vlm, prompt, features, emit) -> PruningTrace:
    """Influence in every layer of the unpruned model, in a separate untimed run."""
    on_layer = lambda record: emit(Event("probed", record=record))  # noqa: E731 - may raise Stopped
    full = vlm.stack(PruningMethod())
    with prune(vlm.model, full, prompt.layout, probe=True, on_layer=on_layer) as trace:
        generate(vlm, prompt, features, Options(max_new_tokens=1))
    return trace


def _count(vlm, prompt, trace, peak) -> Counts:
    shape = ModelShape.of(vlm.model.config)
    share_paper, share_executed = attention_share(trace)
    return Counts(
        executed(shape, trace),
        [layer_flops(shape, record) for record in trace.layers],
        vlm.family.tower_flops(vlm.model.config, prompt),
        paper_macs(shape, trace),
        share_paper,
        share_executed,
        kv_bytes(shape, trace, vlm.dtype.itemsize),
        peak,
        dense(shape, trace),
    )
