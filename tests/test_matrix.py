"""Every method in METHODS at three budgets, alone and before VisiPruner: the same equalities.

The cases build themselves, so a new method is tested here without a new line. Other tests judge
what a method chooses; these tests check that the engine carries it out.
"""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
import torch
from support import answer, asked_of, clip_for, eager, state_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visipruner import METHODS, PruningMethod, Refused, TokenLayout, VisiPruner, prune
from visipruner.flops import ModelShape, executed
from visipruner.layout import to_ranges
from visipruner.levels import nearest_to
from visipruner.methods.base import BEFORE
from visipruner.stock import output_cache, with_cache
from visipruner.trace import PruningTrace

LEVELS = {0.5: 0.5, 0.2: 0.75, 0.0: 1.0}  # by share: for a method without such a budget
FILTERS = VisiPruner(shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.1)
NAMES = [name for name in METHODS if name != "none"]
ALONE = [(name, share) for name in NAMES for share in LEVELS]
STACKED = [(name, "stacked") for name in NAMES if METHODS[name] is not VisiPruner]
STEPS = 4


def method(name: str, share: float, facts) -> PruningMethod:
    """The method at a share of the visual tokens, as a mean per layer."""
    kind = METHODS[name]
    try:
        tokens = max(share * facts.num_visual, kind.least(facts))
        return kind.for_budget(tokens, facts)
    except Refused:  # not calibrated for this model
        return kind.at_level(LEVELS[share], facts, {})


def side(name: str, share, facts) -> list[PruningMethod]:
    if share == "stacked":
        return [method(name, 0.5, facts), FILTERS]
    return [method(name, share, facts)]


@pytest.fixture(scope="module")
def asked(mini, picture):
    return asked_of(mini, picture)


@pytest.fixture(scope="module")
def facts(mini):
    return mini.facts()


def pruned(model, methods, asked) -> tuple:
    inputs, layout = asked
    with prune(model, methods, layout, clip=clip_for(methods, layout.num_visual)) as trace:
        tokens, logits = answer(model, STEPS, **inputs)
    return tokens, logits, trace


# -- the untouched model


@pytest.mark.parametrize("name", METHODS)
def test_all_kept_is_the_untouched_model_bit_for_bit(name, mini, asked, facts):
    kind = METHODS[name]
    expected = answer(mini.model, STEPS, **asked[0])
    for whole in (kind.for_budget, lambda _, facts: kind.at_level(0, facts, {})):
        try:
            chosen = whole(facts.num_visual, facts)
        except Refused:
            continue
        tokens, logits, trace = pruned(mini.model, [chosen], asked)
        assert torch.equal(tokens, expected[0]) and torch.equal(logits, expected[1])
        assert trace.mean_tokens == facts.num_visual


# -- carried out by hand


def spied(chosen: PruningMethod, seen: dict) -> PruningMethod:
    """The same method; `seen` records what it selects, and whether it edits attention."""

    class Spied(type(chosen)):
        def encode(self, view):
            seen[-1] = super().encode(view)
            return seen[-1]

        def attend(self, view):
            plan = super().attend(view)
            if plan is not None:
                seen["plans"] = True
            return plan

        def select(self, view):
            seen[view.layer] = super().select(view)
            return seen[view.layer]

    return Spied(**{field.name: getattr(chosen, field.name) for field in fields(chosen)})


def embeddings(model, inputs) -> torch.Tensor:
    found = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda _m, _args, kwargs: found.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
    handle.remove()
    return found[0]


class Rows:
    """States with their tokens and places, and the rows that wait outside."""

    def __init__(self, states):
        self.states, self.tokens = states[0], list(range(states.shape[1]))
        self.places, self.waiting = list(self.tokens), {}

    def take(self, selection):
        if selection is None:
            return
        row = {token: index for index, token in enumerate(self.tokens)}
        gone = [token for token in self.tokens if token not in selection.keep]
        if selection.enter is not None:
            rows = [row[token] for token in gone]
            self.waiting[selection.enter] = gone, rows, self.states[rows]
        if selection.hidden is not None:
            self.states = selection.hidden[0]
        else:
            self.states = self.states[[row[token] for token in selection.keep]]
        self.places = [self.places[row[token]] if token in row else -1 for token in selection.keep]
        self.tokens = list(selection.keep)
        if selection.compact:
            self.places = list(range(len(self.tokens)))

    def let_in(self, layer):
        if layer not in self.waiting:
            return
        tokens, places, states = self.waiting[layer]
        everything = zip(
            [*self.places, *places], [*self.tokens, *tokens], [*self.states, *states], strict=True
        )
        self.places, self.tokens, found = zip(*sorted(everything, key=lambda e: e[0]), strict=True)
        self.places, self.tokens, self.states = (
            list(self.places),
            list(self.tokens),
            torch.stack(found),
        )


@torch.no_grad()
def by_hand(model, embeds, selections) -> tuple[torch.Tensor, list[int]]:
    """The last token's logits, and the tokens of each layer, by the stock layers alone."""
    decoder, rows, counts = model.model.language_model, Rows(embeds), []
    rows.take(selections.get(-1))
    for index, layer in enumerate(decoder.layers):
        rows.let_in(index)
        places = torch.tensor(rows.places)[None]
        turns = decoder.rotary_emb(embeds, places)
        counts.append(len(rows.tokens))
        rows.states = layer(rows.states[None], position_embeddings=turns)[0]
        rows.take(selections.get(index))
    return model.lm_head(decoder.norm(rows.states[-1:])), counts


@pytest.mark.parametrize(("name", "share"), ALONE)
def test_what_was_chosen_is_carried_out(name, share, mini, asked, facts):
    """Layer by layer, the stock layers on the chosen tokens give the same result."""
    seen: dict = {}
    chosen = spied(method(name, share, facts), seen)
    _, logits, trace = pruned(mini.model, [chosen], asked)
    if seen.pop("plans", False):
        assert METHODS[name] is VisiPruner  # its reference is in test_visipruner.py
        return
    expected, counts = by_hand(mini.model, embeddings(mini.model, asked[0]), seen)
    torch.testing.assert_close(logits[:1], expected, atol=1e-5, rtol=1e-5)
    assert [record.tokens for record in trace.layers] == counts
    made = trace.mean_tokens - sum(trace.presence())  # tokens that are no patch: a class token
    assert made == pytest.approx(0, abs=1e-4) or made == pytest.approx(1, abs=1e-4)
    wanted = max(share * facts.num_visual, METHODS[name].least(facts))
    if (few := METHODS[name].reachable(facts)) is not None:
        wanted = nearest_to(few, wanted)
    assert abs(trace.mean_tokens - wanted) <= 1.0  # whole tokens in whole layers


# -- the same alone and stacked


CASES = pytest.mark.parametrize(("name", "share"), [*ALONE, *STACKED])


@CASES
def test_eager_decides_and_answers_as_sdpa(name, share, mini, asked, facts):
    methods = side(name, share, facts)
    tokens, logits, trace = pruned(mini.model, methods, asked)
    with eager(mini.model):
        others, same, again = pruned(mini.model, methods, asked)
    torch.testing.assert_close(same, logits, atol=2e-4, rtol=1e-4)
    assert torch.equal(tokens, others)
    assert [cut.visual for cut in trace.cuts] == [cut.visual for cut in again.cuts]


@CASES
@torch.no_grad()
def test_a_bare_loop_equals_generate(name, share, mini, asked, facts):
    model, (inputs, layout) = mini.model, asked
    methods = side(name, share, facts)
    tokens, logits, trace = pruned(model, methods, asked)
    steps = []
    with prune(model, methods, layout, clip=clip_for(methods, layout.num_visual)) as bare:
        output = model(**inputs)
        steps.append(output.logits[:, -1])
        for token in tokens[:-1]:
            output = model(token.view(1, 1), **with_cache(model, output_cache(output)))
            steps.append(output.logits[:, -1])
    torch.testing.assert_close(torch.cat(steps), logits, atol=1e-5, rtol=1e-5)
    assert bare.decode_kv == trace.decode_kv


@CASES
@torch.no_grad()
def test_flops_equal_the_counter(name, share, mini, asked, facts):
    model, (inputs, layout) = mini.model, asked
    left = []
    with eager(model), sdpa_kernel(SDPBackend.MATH):
        for methods in ([PruningMethod()], side(name, share, facts)):
            run = prune(model, methods, layout, clip=clip_for(methods, layout.num_visual))
            with run as trace, FlopCounterMode(display=False) as counter:
                model(**inputs, logits_to_keep=1)
            left.append(
                counter.get_total_flops() - executed(ModelShape.of(model.config), trace).prefill
            )
    assert left[0] == left[1]  # the vision tower, the same for both


@CASES
def test_nothing_stays_and_the_trace_survives_json(name, share, mini, asked, facts):
    before = state_of(mini.model)
    first = pruned(mini.model, side(name, share, facts), asked)
    second = pruned(mini.model, side(name, share, facts), asked)
    assert state_of(mini.model) == before
    assert torch.equal(first[1], second[1])
    data = first[2].to_json()
    assert json.loads(json.dumps(data)) == json.loads(json.dumps(second[2].to_json()))
    assert PruningTrace.from_json(json.loads(json.dumps(data))).to_json() == data


@pytest.mark.parametrize("name", [n for n in NAMES if METHODS[n].where == BEFORE])
def test_stacked_before_the_model_is_visipruner_alone_on_what_is_left(name, mini, asked, facts):
    seen: dict = {}
    chosen = spied(method(name, 0.5, facts), seen)
    _, logits, trace = pruned(mini.model, [chosen, FILTERS], asked)
    rows = Rows(embeddings(mini.model, asked[0]))
    rows.take(seen[-1])
    if rows.places != list(range(len(rows.places))):
        pytest.skip("its tokens keep their places, so no prompt alone is like what it leaves")
    visual = [t in asked[1].visual or t >= asked[1].length for t in rows.tokens]
    spans = to_ranges(row for row, is_visual in enumerate(visual) if is_visual)
    layout = TokenLayout(len(rows.tokens), spans)
    with prune(mini.model, FILTERS, layout) as alone:
        _, expected = answer(mini.model, STEPS, inputs_embeds=rows.states[None])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert trace.filtering_layer == alone.filtering_layer
    assert [r.kv_tokens for r in trace.layers] == [r.kv_tokens for r in alone.layers]
