"""A `with prune(...)` block serves one prompt in one thread; pruned outputs never pass as whole.

Kinds: nothing or something else ran; a pruned run's outputs are used as if whole; no numbers.
"""

from __future__ import annotations

import copy
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support import DROPPING, LAYOUTS, embeds_for, greedy, other_kind, state_of
from transformers import LlamaConfig, Qwen3Config
from transformers.generation.streamers import BaseStreamer

from visipruner import FastV, PruningMethod, Random, Schedule, TokenLayout, VisiPruner, prune
from visipruner.bench.replay import Replayer
from visipruner.errors import Refused
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.stock import output_cache, with_cache
from visipruner.trace import Selection

LAYOUT = LAYOUTS["text between"]
METHOD = Schedule(keep=6, keep_after=1, none_after=5)
PATIENCE = 20  # seconds; a longer wait has failed


@pytest.fixture
def model(llama):
    """A model of this file's own: some tests block, change or break it."""
    model = copy.deepcopy(llama(vocab_size=80))
    model.generation_config.eos_token_id = None  # no answer ends early
    return model


@pytest.fixture
def embeds():
    return embeds_for(LAYOUT, 64, seed=3)


@pytest.fixture
def pool():
    """A thread that exists before any block, as in a server."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result(PATIENCE)
        yield pool


def drivers(model):
    return {"hooks": lambda *given: prune(model, *given), "replay": Replayer(model).prune}


class Started:
    """A thread started inside a block, with its result and its error."""

    def __init__(self, function, *args, **kwargs):
        self.result = self.error = None
        call = lambda: function(*args, **kwargs)  # noqa: E731
        self.thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self.thread.start()

    def _run(self, call):
        try:
            self.result = call()
        except Exception as error:
            self.error = error

    def join(self):
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self


class Gate:
    """A place where one thread waits for a signal."""

    def __init__(self):
        self.reached, self.free = threading.Event(), threading.Event()

    def wait(self):
        self.reached.set()
        assert self.free.wait(PATIENCE)


# -- a block in which nothing ran, or something else


@pytest.mark.parametrize("driver", ["hooks", "replay"])
def test_a_block_without_a_prompt_is_refused(driver, model, embeds):
    before, layers = state_of(model), model.model.layers
    with pytest.raises(Refused, match="No prompt ran"), drivers(model)[driver](METHOD, LAYOUT):
        pass
    assert state_of(model) == before and model.model.layers is layers


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt, StopIteration])
def test_another_error_under_way_says_more(error, model):
    with pytest.raises((error, RuntimeError)) as caught, prune(model, METHOD, LAYOUT):
        raise error("planned")
    assert "planned" in f"{caught.value} {caught.value.__cause__}"


def test_a_generator_may_be_closed_before_its_prompt_ran(model):
    def work():
        with prune(model, METHOD, LAYOUT):
            yield "open"

    stream = work()
    next(stream)
    stream.close()


def test_another_model_in_the_block_is_not_the_hooked_one(model, embeds):
    with pytest.raises(Refused, match="No prompt ran"), prune(model, METHOD, LAYOUT):
        greedy(copy.deepcopy(model), embeds)


def test_a_prompt_that_did_not_get_through_is_refused(model, embeds):
    def breaks(record):
        if record.layer == 4:
            raise ArithmeticError("planned")

    with pytest.raises(Refused, match="did not get through all layers"):
        with prune(model, METHOD, LAYOUT, on_layer=breaks):
            with pytest.raises(ArithmeticError):
                model(inputs_embeds=embeds)


COMPILED = {
    "the model, in place": lambda model: model.compile(backend="eager"),
    "its decoder, in place": lambda model: model.model.compile(backend="eager"),
    "one layer, in place": lambda model: model.model.layers[3].compile(backend="eager"),
    "one attention": lambda model: model.model.layers[3].self_attn.compile(backend="eager"),
    "its head": lambda model: model.lm_head.compile(backend="eager"),
    "its forward": lambda model: setattr(
        model, "forward", torch.compile(model.forward, backend="eager")
    ),
    "a wrapped decoder": lambda model: setattr(
        model, "model", torch.compile(model.model, backend="eager")
    ),
}


@pytest.mark.parametrize("part", COMPILED)
def test_compiled_parts_are_refused(part, model):
    COMPILED[part](model)
    with pytest.raises(Refused, match="model is compiled"), prune(model, METHOD, LAYOUT):
        pass


def test_a_compiled_form_is_refused_and_a_compiled_tower_is_not(model, mini):
    with pytest.raises(Refused, match="model is compiled"):
        with prune(torch.compile(model, backend="eager"), METHOD, LAYOUT):
            pass
    llava, layout = copy.deepcopy(mini.model), TokenLayout(30, ((2, 18),))
    llava.model.vision_tower.compile(backend="eager")
    with pytest.raises(ArithmeticError), prune(llava, METHOD, layout):
        raise ArithmeticError("a tower has no hooks, so the block was entered")
    llava.model.compile(backend="eager")
    with pytest.raises(Refused, match="model is compiled"), prune(llava, METHOD, layout):
        pass


@pytest.mark.filterwarnings("ignore:Dynamo does not know")
def test_a_form_that_was_compiled_before_the_hooks_came_is_noticed(embeds):
    model = other_kind(LlamaConfig, num_hidden_layers=2)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(inputs_embeds=embeds)
        with pytest.raises(Refused, match="No prompt ran"), prune(model, METHOD, LAYOUT):
            compiled(inputs_embeds=embeds)


# -- threads


def test_a_thread_started_in_the_block_may_run_the_prompt(model, embeds):
    with prune(model, METHOD, LAYOUT):
        ids, logits = greedy(model, embeds)
    with prune(model, METHOD, LAYOUT) as trace:
        ran = Started(greedy, model, embeds).join()
    assert torch.equal(ran.result[0], ids) and torch.equal(ran.result[1], logits)
    assert trace.complete and len(trace.decode_kv) == 3


@pytest.mark.parametrize("driver", ["hooks", "replay"])
def test_a_block_left_before_its_thread_ran_is_refused(driver, model, embeds):
    gate = Gate()
    with pytest.raises(Refused, match="No prompt ran"):
        with drivers(model)[driver](METHOD, LAYOUT):
            late = Started(lambda: gate.wait() or greedy(model, embeds))
    gate.free.set()
    assert late.join().error is None


@pytest.mark.parametrize("driver", ["hooks", "replay"])
def test_a_block_left_in_the_middle_of_prefill_stops_the_thread(driver, model, embeds, pool):
    before, gate = state_of(model), Gate()

    def on_layer(record):
        if record.layer == 3:
            gate.wait()

    opened = {
        "hooks": prune,
        "replay": lambda model, *given, **more: Replayer(model).prune(*given, **more),
    }
    with pytest.raises(Refused, match="left while the model still ran"):
        with opened[driver](model, METHOD, LAYOUT, on_layer=on_layer):
            ran = Started(greedy, model, embeds)
            assert gate.reached.wait(PATIENCE)
            # Refusing another thread meanwhile does not end the forward pass.
            other = pool.submit(model.model, inputs_embeds=embeds)
            assert isinstance(other.exception(PATIENCE), Refused)
    gate.free.set()
    error = ran.join().error
    assert isinstance(error, Refused) and "left while the model still ran" in str(error)
    assert state_of(model) == before
    with prune(model, METHOD, LAYOUT) as trace:
        greedy(model, embeds)
    assert trace.complete


class Waits(BaseStreamer):
    """Waits after the first token."""

    def __init__(self, gate):
        self.gate = gate

    def put(self, value):
        if value.numel():  # generate() sends the prompt first: no tokens, if it is embeddings
            self.gate.wait()

    def end(self):
        pass


@pytest.mark.parametrize("method", [METHOD, PruningMethod()], ids=lambda method: method.name)
def test_a_block_left_between_two_tokens_gives_no_mixture(method, model, embeds):
    """The thread's next token is refused if the cache is pruned, and normal if it is whole."""
    ids, gate = greedy(model, embeds)[0], Gate()
    with prune(model, method, LAYOUT):
        ran = Started(greedy, model, embeds, streamer=Waits(gate))
        assert gate.reached.wait(PATIENCE)
    gate.free.set()
    ran.join()
    if method is METHOD:
        assert isinstance(ran.error, Refused) and "cache holds a pruned prompt" in str(ran.error)
    else:
        assert torch.equal(ran.result[0], ids)


@pytest.mark.parametrize("when", ["before the prompt", "between tokens"])
@pytest.mark.parametrize("driver", ["hooks", "replay"])
def test_the_plain_request_of_a_waiting_thread_is_refused(driver, when, model, embeds, pool):
    with prune(model, METHOD, LAYOUT):
        alone = greedy(model, embeds)[1]
    other, refused = embeds_for(LAYOUT, 64, seed=8), []

    def ask():
        with pytest.raises(Refused, match="another thread") as error:
            greedy(model, other)
        refused.append(error.value)

    class Asks(BaseStreamer):
        def put(self, value):
            pool.submit(ask).result(PATIENCE)

        def end(self):
            pass

    with drivers(model)[driver](METHOD, LAYOUT) as trace:
        if when == "before the prompt":
            pool.submit(ask).result(PATIENCE)
            ours = greedy(model, embeds)[1]
        else:
            ours = greedy(model, embeds, streamer=Asks())[1]
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)
    assert len(refused) == (1 if when == "before the prompt" else 5)
    assert len(trace.decode_kv) == 3 and trace.prefill_logits == 1


@pytest.mark.parametrize("where", ["between two layers", "inside attention"])
def test_a_pass_that_was_under_way_when_the_block_came_does_not_mix_in(where, model, embeds, pool):
    """The other thread's forward pass waits in layer 2 for the pruned one."""
    with prune(model, METHOD, LAYOUT):
        alone = greedy(model, embeds)[1]
    theirs, mine = Gate(), Gate()
    main = threading.get_ident()

    def stop(*_):
        if threading.get_ident() != main:
            theirs.wait()
        elif not mine.reached.is_set() and where == "inside attention":
            mine.reached.set()
            theirs.free.set()
            done.exception(PATIENCE)

    layer = model.model.layers[2]
    place = layer.self_attn.k_proj if where == "inside attention" else layer.mlp
    hook = place.register_forward_hook(stop)
    done = pool.submit(greedy, model, embeds_for(LAYOUT, 64, seed=8))
    assert theirs.reached.wait(PATIENCE)
    with prune(model, METHOD, LAYOUT) as trace:
        if where == "between two layers":
            theirs.free.set()
            done.exception(PATIENCE)
        ours = greedy(model, embeds)[1]
    hook.remove()
    error = done.exception(PATIENCE)
    assert isinstance(error, Refused) and "another thread" in str(error)
    assert torch.equal(ours, alone) and [r.layer for r in trace.layers] == list(range(8))


@pytest.mark.parametrize("when", ["before the prompt", "while decoding"])
def test_a_pass_that_had_only_its_logits_left_is_right_and_counts_for_nothing(
    when, model, embeds, pool
):
    other, theirs, done, main = embeds_for(LAYOUT, 64, seed=8), Gate(), [], threading.get_ident()
    with torch.no_grad():
        plain = model(inputs_embeds=other).logits
    stop = lambda *_: theirs.wait() if threading.get_ident() != main else None  # noqa: E731
    hook = model.model.norm.register_forward_hook(stop)
    asked = pool.submit(torch.no_grad()(model), inputs_embeds=other)
    assert theirs.reached.wait(PATIENCE)

    def finish(*_):
        theirs.free.set()
        done.append(asked.result(PATIENCE).logits)

    class Third(Waits):
        def put(self, value):
            self.gate.append(value)
            if len(self.gate) == 3:  # the prompt, the prefill's token, the first step's
                finish()

    with prune(model, METHOD, LAYOUT) as trace:
        if when == "before the prompt":
            finish()
        greedy(model, embeds, streamer=Third([]) if when == "while decoding" else None)
    hook.remove()
    assert torch.equal(done[0], plain)
    assert trace.prefill_logits == 1 and len(trace.decode_kv) == 3


def test_only_one_thread_of_a_block_runs_the_model(model, embeds):
    with prune(model, METHOD, LAYOUT) as trace:
        greedy(model, embeds)
        error = Started(greedy, model, embeds_for(LAYOUT, 64, seed=8)).join().error
    assert isinstance(error, Refused) and "another thread" in str(error)
    assert len(trace.layers) == 8 and len(trace.decode_kv) == 3


def test_two_threads_cannot_both_prune(model, embeds, pool):
    def second():
        with prune(model, METHOD, LAYOUT):
            greedy(model, embeds)

    with prune(model, METHOD, LAYOUT) as trace:
        with pytest.raises(Refused, match="being pruned already"):
            pool.submit(second).result(PATIENCE)
        greedy(model, embeds)
    assert trace.complete


def test_another_prompt_than_the_layouts_is_refused(mini, picture):
    """The other prompt has the same length and picture position, and comes from the same thread."""
    ours, theirs = (
        mini.prepare(picture, f"what {word} is the star?") for word in ("colour", "one")
    )
    assert ours.layout == theirs.layout and ours.layout.ids != theirs.layout.ids

    def generate(prompt):
        return mini.model.generate(**prompt.inputs, max_new_tokens=3, do_sample=False).tolist()

    with prune(mini.model, FastV(keep=3), ours.layout):
        alone = generate(ours)
    with prune(mini.model, FastV(keep=3), ours.layout):
        error = Started(generate, theirs).join().error
        assert isinstance(error, Refused) and "tokens of another prompt" in str(error)
        with pytest.raises(Refused, match="tokens of another prompt"):
            mini.model(*theirs.inputs["input_ids"][None], theirs.inputs["pixel_values"])
        assert generate(ours) == alone


# -- pruned outputs never pass as whole


@pytest.mark.parametrize("by", ["name", "place"])
def test_labels_are_refused(by, model):
    ids = torch.arange(LAYOUT.length)[None] % 80
    given = (ids,), {"labels": ids}
    if by == "place":
        given = (ids, None, None, None, None, ids), {}
    with pytest.raises(Refused, match="no loss"), prune(model, METHOD, LAYOUT):
        model(*given[0], **given[1])


@pytest.mark.parametrize("wanted", ["output_attentions", "output_hidden_states"])
@pytest.mark.parametrize("by", ["call", "config", "generate", "decoder"])
def test_maps_and_states_of_all_layers_are_refused(by, wanted, model, embeds):
    with pytest.raises(Refused, match=wanted), prune(model, METHOD, LAYOUT):
        if by == "config":
            model.set_attn_implementation("eager")  # other backends refuse to return attention maps
            setattr(model.config, wanted, True)
        if by == "generate":
            given = {"return_dict_in_generate": True, wanted: True}
            model.generate(inputs_embeds=embeds, max_new_tokens=2, **given)
        else:
            whole = model.model if by == "decoder" else model
            whole(inputs_embeds=embeds, **({} if by == "config" else {wanted: True}))


def test_logits_by_place_are_refused_where_tokens_may_be_gone(model, embeds):
    """Ten tokens follow the second picture, so their logits are in the expected places."""
    for wanted in (11, torch.tensor([3, 79])):
        with pytest.raises(Refused, match="a number up to 10"), prune(model, METHOD, LAYOUT):
            model(inputs_embeds=embeds, logits_to_keep=wanted)
    runs = []
    for wanted in (0, 10):
        with torch.no_grad(), prune(model, METHOD, LAYOUT):
            runs.append(model(inputs_embeds=embeds, logits_to_keep=wanted).logits[:, -10:])
    torch.testing.assert_close(*runs, atol=1e-5, rtol=1e-5)


PRUNED = {
    **{name: DROPPING[name] for name in ("visipruner", "fastv", "schedule at the door")},
    "paper's shallow layers": VisiPruner(stages=("shallow",), shallow_layers=2),
    "official's shallow layers": VisiPruner("official", stages=("shallow",), shallow_layers=2),
}


@pytest.mark.parametrize("driver", ["hooks", "replay"])
@pytest.mark.parametrize("name", PRUNED)
def test_a_pruned_cache_refuses_a_further_turn_and_can_be_read(name, driver, model, embeds):
    with torch.no_grad(), drivers(model)[driver](PRUNED[name], LAYOUT) as trace:
        output = model(inputs_embeds=embeds)
        output = model(
            torch.ones(1, 1, dtype=torch.long), **with_cache(model, output_cache(output))
        )
    cache, turn = output_cache(output), torch.arange(3, 9)[None]
    whole = torch.arange(3, 3 + LAYOUT.length + 7)[None] % 80
    masks = None, torch.ones_like(whole), torch.ones_like(turn), torch.zeros(1, 1, 6, 87)
    for again in (cache, copy.deepcopy(cache)):
        for mask in masks:
            with pytest.raises(Refused, match="nothing can follow"):
                model(turn, attention_mask=mask, **with_cache(model, again))
        for ids in (whole, turn):
            with pytest.raises(Refused, match="nothing can follow"):
                model.generate(ids, max_new_tokens=2, **with_cache(model, again))
    lengths = [layer.get_seq_length() for layer in cache.layers]
    assert lengths == trace.decode_kv[-1] == [layer.keys.shape[2] for layer in cache.layers]


@pytest.mark.parametrize("driver", ["hooks", "replay"])
@pytest.mark.parametrize("method", [PruningMethod(), FastV(keep=99)], ids=lambda m: m.name)
def test_a_whole_cache_stays_usable(method, driver, model, embeds):
    turn = torch.arange(3, 9)[None]
    with torch.no_grad():
        output = model(inputs_embeds=embeds)
        plain = model(turn, **with_cache(model, output_cache(output))).logits
        with drivers(model)[driver](method, LAYOUT):
            output = model(inputs_embeds=embeds)
        again = model(turn, **with_cache(model, output_cache(output))).logits
    torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-5)


# -- no numbers, and copies


@pytest.mark.parametrize("driver", ["hooks", "replay"])
@pytest.mark.parametrize(
    "method",
    [FastV(keep=4, before_layer=3), VisiPruner(shallow_layers=1, layer_threshold=0.9)],
    ids=lambda method: method.name,
)
def test_scores_that_are_no_numbers_are_refused(method, driver, model, embeds):
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[5, 7] = torch.nan
    with pytest.raises(Refused, match=r"not a number \(NaN\)"), torch.no_grad():
        with drivers(model)[driver](method, LAYOUT):
            model(inputs_embeds=embeds)


def test_a_methods_own_scores_must_be_numbers_too(model, embeds):
    class Guesses(Random):
        def encode(self, view):
            chosen = super().encode(view)
            return Selection(chosen.keep, "guess", scores=(0.5, float("nan"), 0.1))

    with pytest.raises(Refused, match="random chooses tokens are not numbers"):
        with prune(model, Guesses(keep=3), LAYOUT):
            model(inputs_embeds=embeds)


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
@pytest.mark.parametrize("moment", ["before the prompt", "in a layer", "while decoding"])
def test_a_copy_made_in_a_block_is_a_model_of_its_own(moment, copied, model, embeds):
    plain, made = greedy(model, embeds), []

    def on_layer(record):
        if moment == "in a layer" and record.layer == 2:
            made.append(copied(model))

    with torch.no_grad(), prune(model, METHOD, LAYOUT, on_layer=on_layer) as trace:
        if moment == "before the prompt":
            made.append(copied(model))
        output = model(inputs_embeds=embeds)
        token = torch.ones(1, 1, dtype=torch.long)
        output = model(token, **with_cache(model, output_cache(output)))
        if moment == "while decoding":
            made.append(copied(model))
        inside = greedy(made[0], embeds)
    assert len(trace.layers) == 8 and len(trace.decode_kv) == 1
    for ran in (inside, greedy(made[0], embeds)):
        assert torch.equal(ran[0], plain[0]) and torch.equal(ran[1], plain[1])
    with prune(made[0], METHOD, LAYOUT) as again:
        greedy(made[0], embeds)
    assert [r.tokens for r in again.layers] == [r.tokens for r in trace.layers]


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
def test_a_copy_made_before_a_replay_has_the_layers(copied, model, embeds):
    plain = greedy(model, embeds)[1]
    with torch.no_grad(), Replayer(model).prune(METHOD, LAYOUT):
        made = copied(model)
        model(inputs_embeds=embeds)
    assert torch.equal(greedy(made, embeds)[1], plain)


# -- errors in a method are not refusals


def test_a_methods_own_error_reaches_the_caller_as_it_is(mini, picture):
    class Breaks(PruningMethod):
        def select(self, view):
            raise ValueError("seven is no layer")

    prompt = mini.prepare(picture, "what one is the two?")
    with pytest.raises(ValueError, match="seven is no layer") as error:
        last_event(compare(mini, prompt, [PruningMethod(), Breaks()], Options(max_new_tokens=2)))
    assert error.type is ValueError


def test_attention_called_behind_its_module_is_refused(embeds):
    """A layer compiled in an unrecognised way does this: its hooks are not called."""
    model = other_kind(Qwen3Config, head_dim=16)
    attention = model.model.layers[1].self_attn
    attention.__class__ = type(
        "Hidden", (type(attention),), {"__call__": attention.forward.__func__}
    )
    with pytest.raises(Refused, match="cannot be watched"), torch.no_grad():
        with prune(model, FastV(), LAYOUT):
            model(inputs_embeds=embeds)
