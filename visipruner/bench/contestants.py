"""Ways to run a scenario, side by side: untouched, pruned, replayed, and as published."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field

import torch

from visipruner.bench.clocks import Spent, clocked, noting_plans
from visipruner.bench.floor import prefill_floor, stock_layers
from visipruner.bench.published import full_matrices
from visipruner.bench.replay import Replayer
from visipruner.bench.scenarios import ALIGNED, FULL_LAYERS, Scenario, aligned, timetable
from visipruner.bench.timing import peak_bytes, quartiles, ratio, seconds, synchronise
from visipruner.choice import Side
from visipruner.engine import prune
from visipruner.errors import Refused
from visipruner.flops import ModelShape, executed, kv_bytes
from visipruner.methods import PruningMethod
from visipruner.stock import BaseStreamer

MEASURES = ("prefill", "request", "memory", "test")


@dataclass
class Contestant:
    """One way to run a scenario, and its measurements.

    Args:
        method: a method or a stack; None: the unpruned model.
        published: run by hooks in eager attention with full matrices in every layer.
        replayer: run by replay instead of hooks.
    """

    name: str
    where: Scenario
    method: Side | None = None
    published: bool = False
    replayer: Replayer | None = None
    prefills: list[float] = field(default_factory=list)  # in seconds, like the lists below
    floors: list[float] = field(default_factory=list)
    stocks: list[float] = field(default_factory=list)  # of stock layers alone
    firsts: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    tests: list[float] = field(default_factory=list)  # influence test and selection
    betweens: list[float] = field(default_factory=list)  # all work between layers, tests included
    peak: int | None = None

    def pruned(self):
        """Inside, the model runs this way."""
        if self.replayer is not None:
            return self.replayer.prune(self.method or PruningMethod(), self.where.layout)
        if self.method is None:
            return nullcontext()
        return prune(self.where.model, self.method, self.where.layout)

    @torch.inference_mode()
    def learn(self):
        """One run for the trace and the plans, from which FLOPs and the floor follow."""
        where, plans = self.where, {}
        with self._backend():
            method = noting_plans(self.method or PruningMethod(), plans)
            with prune(where.model, method, where.layout) as self.trace:
                where.model(inputs_embeds=where.embeds, logits_to_keep=1)
            self.generate(2)  # warm up: the first run of a shape is slower
        if self.published:
            for layer in plans:  # full matrices, whatever the plan needs
                self.trace.layers[layer].pairs = self.trace.layers[layer].tokens ** 2
            plans = {}
        self.floor = prefill_floor(where.model, self.trace, plans)
        self.stock = stock_layers(where.model, self.trace, where.embeds)

    def prefill(self):
        """One prompt through the model, with the logits of its last token."""
        with self.pruned():
            self.where.model(inputs_embeds=self.where.embeds, logits_to_keep=1)

    def generate(self, tokens: int) -> list[float]:
        """The time of each token, from `time.perf_counter`."""
        stamps = _Stamps()
        with self.pruned():
            self.where.model.generate(
                inputs_embeds=self.where.embeds,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                streamer=stamps,
            )
        return stamps.times

    @torch.inference_mode()
    def round(self, measures: tuple[str, ...], tokens: int):
        """One sample of every measure."""
        device = self.where.device
        with self._backend():
            if "prefill" in measures:
                self.prefills.append(seconds(self.prefill, device))
            if "request" in measures:
                self._request(tokens)
            if "test" in measures and self.method is not None and self.replayer is None:
                self._clock_between_layers()
        if "prefill" in measures:
            self.floors.append(seconds(self.floor, device))
            self.stocks.append(seconds(self.stock, device))

    def _request(self, tokens: int):
        synchronise(self.where.device)
        start = time.perf_counter()
        stamps = self.generate(tokens)
        synchronise(self.where.device)
        self.requests.append(time.perf_counter() - start)
        self.firsts.append(stamps[0] - start)
        self.steps += [b - a for a, b in itertools.pairwise(stamps)]

    def _clock_between_layers(self):
        """Clock all work between layers: test, selection, cut, trace and shortening caches."""
        between, deciding = Spent(self.where.device), Spent(self.where.device)
        method = clocked(self.method, ("select",), deciding)
        # A layer's hooks run in order of registration, so these run around those of prune().
        with ExitStack() as stack:
            self._hook_layers(stack, lambda *_: between.start())
            stack.enter_context(prune(self.where.model, method, self.where.layout))
            self._hook_layers(stack, lambda *_: between.stop())
            self.where.model(inputs_embeds=self.where.embeds, logits_to_keep=1)
        self.tests.append(deciding.seconds)
        self.betweens.append(between.seconds)

    def _hook_layers(self, stack: ExitStack, hook: Callable):
        for layer in self.where.model.get_decoder().layers:
            stack.callback(layer.register_forward_hook(hook).remove)

    @torch.inference_mode()
    def weigh(self):
        """Note the peak of a prefill, in bytes above what was held before.

        Captured layers are not measured: their memory was allocated at capture.
        """
        if self.replayer is not None and self.replayer.capture:
            return
        with self._backend():
            self.peak = peak_bytes(self.prefill, self.where.device)

    def _backend(self):
        return full_matrices(self.where.model) if self.published else nullcontext()

    def result(self, dense: Contestant) -> dict:
        """The numbers for JSON; names with _s are seconds; None: not measured."""
        shape = ModelShape.of(self.where.model.config)
        flops, dense_flops = (executed(shape, c.trace).prefill for c in (self, dense))
        prefill, floor = quartiles(self.prefills), quartiles(self.floors)
        return {
            "name": self.name,
            "prefill_s": prefill,
            "floor_s": floor,
            "measured_over_floor": ratio(self.prefills, self.floors),
            "speedup": ratio(dense.prefills, self.prefills),
            "flop_ratio": dense_flops / flops,
            "floor_ratio": ratio(dense.floors, self.floors),
            "stock_s": quartiles(self.stocks),
            "stock_ratio": ratio(dense.stocks, self.stocks),
            "first_token_s": quartiles(self.firsts),
            "per_token_s": quartiles(self.steps),
            "request_s": quartiles(self.requests),
            "test_s": quartiles(self.tests),
            "test_share_of_dense_prefill": ratio(self.tests, dense.prefills),
            "between_layers_s": quartiles(self.betweens),
            "between_layers_share_of_dense_prefill": ratio(self.betweens, dense.prefills),
            "peak_bytes": self.peak,
            "kv_bytes": kv_bytes(shape, self.trace, self.where.embeds.element_size()),
            "prefill_flops": flops,
            "visual_tokens": [record.visual_tokens for record in self.trace.layers],
        }


class _Stamps(BaseStreamer):
    """Notes when generate() hands out each token; on a GPU that waits for the token."""

    def __init__(self):
        self.times: list[float] = []
        self.saw_prompt = False

    def put(self, value):
        if self.saw_prompt:
            self.times.append(time.perf_counter())
        self.saw_prompt = True

    def end(self):
        pass


def contestants(where: Scenario, names: list[str] | None = None) -> list[Contestant]:
    """The dense model first, because the others are compared with it; then those in `names`.

    Raises:
        Refused: a name is not in `NAMES`.
    """
    unknown = set(names or ()) - set(NAMES)
    if unknown:
        raise Refused(f"Unknown contestants {sorted(unknown)}; known: {', '.join(NAMES)}.")
    return [c for c in _all(where) if names is None or c.name in names or c.name == "dense"]


def _all(where: Scenario) -> Iterator[Contestant]:
    yield Contestant("dense", where)
    for full in FULL_LAYERS:
        yield Contestant(f"paper-{full}", where, timetable(full, where.layers))
    official = timetable(FULL_LAYERS[0], where.layers, "official")
    yield Contestant(f"official-{FULL_LAYERS[0]}", where, official)
    yield Contestant(f"published-{FULL_LAYERS[0]}", where, official, published=True)
    yield Contestant(ALIGNED, where, aligned(where.layers))
    replayer = Replayer(where.model)  # shared: one capture per length serves all
    yield Contestant("dense-replayed", where, replayer=replayer)
    for full in FULL_LAYERS:
        method = timetable(full, where.layers)
        yield Contestant(f"paper-{full}-replayed", where, method, replayer=replayer)


NAMES = (
    "dense",
    *(f"paper-{full}" for full in FULL_LAYERS),
    f"official-{FULL_LAYERS[0]}",
    f"published-{FULL_LAYERS[0]}",
    ALIGNED,
    "dense-replayed",
    *(f"paper-{full}-replayed" for full in FULL_LAYERS),
)
