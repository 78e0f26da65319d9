"""The second driver equals the first: same decisions, trace, caches, tokens; all is undone.

tape.py also runs the capture on a CPU; tests that only a GPU can run are marked.
"""

import gc

import pytest
import torch
from support import (
    DROPPING,
    KEEP_ALL,
    LAYOUTS,
    MergeAtTheDoor,
    RenumberLater,
    embeds_for,
    greedy,
    relative,
    state_of,
)
from tape import TapeRecorder

from visipruner import FastV, PruningMethod, Schedule, TokenLayout, VisiPruner, prune
from visipruner.attention import Span, clipped
from visipruner.bench import replay
from visipruner.bench.replay import Replayer, _Lane, can_capture
from visipruner.bench.scenarios import timetable
from visipruner.errors import Refused
from visipruner.stock import output_cache, with_cache

LAYOUT = LAYOUTS["one picture"]
SHALLOW = {
    f"{semantics} {name}": VisiPruner(semantics, shallow_layers=3, **settings)
    for semantics in ("paper", "official")
    for name, settings in {
        "filters": {"layer_threshold": 0.9999, "tokens_threshold": 0.1},
        "keeps none": {"layer_threshold": 0.9999, "tokens_threshold": 1e6},
        "never filters": {"layer_threshold": -1.0},
        "only edits": {"stages": ("shallow",)},
    }.items()
}
NOT_REPLAYED = (
    "pyramiddrop",
    "sparsevlm_plus",
    "visipruner, question",
    "late entry",
    "late entry, few, exit",
)
METHODS = {**KEEP_ALL, **DROPPING, **SHALLOW, "merge": MergeAtTheDoor()}
METHODS = {name: method for name, method in METHODS.items() if name not in NOT_REPLAYED}
METHODS["renumber"] = RenumberLater(5, 2, 5)
METHODS["paper stack"] = timetable(15, 8)  # a cut and two methods that watch
METHODS["official stack"] = timetable(15, 8, "official")
METHODS["two cuts"] = [FastV(keep=20), Schedule(10, 1, 4)]  # after the same layer


def run(driver, model, embeds):
    """Four greedy tokens by a plain loop: logits of every step, caches after prefill, the trace."""
    with torch.no_grad(), driver as trace:
        output = model(inputs_embeds=embeds)
        cache = [
            (layer.keys.clone(), layer.values.clone()) for layer in output_cache(output).layers
        ]
        steps = [output.logits[:, -1]]
        for _ in range(3):
            token = steps[-1].argmax(-1, keepdim=True)
            output = model(token, **with_cache(model, output_cache(output)))
            steps.append(output.logits[:, -1])
    return torch.cat(steps), cache, trace


def check_equal(ours, reference):
    (logits, cache, trace), (expected, their_cache, their_trace) = ours, reference
    scale = expected.abs().max()
    assert (logits - expected).abs().max() < 1e-5 * scale
    for pair, their_pair in zip(cache, their_cache, strict=True):
        for states, theirs in zip(pair, their_pair, strict=True):
            torch.testing.assert_close(states, theirs, atol=2e-5, rtol=1e-5)
    check_same_story(trace.to_json(), their_trace.to_json())


def check_same_story(ours, theirs):
    """The same JSON, except for the last digits of measured numbers."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            check_same_story(value, theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            check_same_story(one, other)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    else:
        assert ours == theirs


@pytest.mark.parametrize("bucket", [1, 7, 64])
@pytest.mark.parametrize("name", METHODS)
def test_replay_equals_the_hooks(name, bucket, llama):
    model, embeds, method = llama(), embeds_for(LAYOUT, 64), METHODS[name]
    reference = run(prune(model, method, LAYOUT, probe=True), model, embeds)
    replayer = Replayer(model, bucket=bucket)
    for _ in range(2):  # the second prompt reuses the first one's buffers
        ours = run(replayer.prune(method, LAYOUT, probe=True), model, embeds)
        check_equal(ours, reference)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["paper filters", "official filters", "fastv", "schedule"])
def test_buffers_serve_prompts_of_all_layouts(name, layout, llama):
    model, replayer = llama(), Replayer(llama(), bucket=32)
    noise = embeds_for(LAYOUTS["two adjacent"], 64, seed=9) * 100
    run(replayer.prune(PruningMethod(), LAYOUTS["two adjacent"]), model, noise)
    layout = LAYOUTS[layout]
    embeds = embeds_for(layout, 64)
    reference = run(prune(model, METHODS[name], layout), model, embeds)
    check_equal(run(replayer.prune(METHODS[name], layout), model, embeds), reference)


@pytest.mark.parametrize("name", NOT_REPLAYED)
def test_what_replay_does_not_serve_is_refused(name, llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    with pytest.raises(Refused, match="Replay serves neither"):
        run(Replayer(model).prune(DROPPING[name], LAYOUT), model, embeds)


@pytest.mark.parametrize("name", [name for name in KEEP_ALL if name not in NOT_REPLAYED])
def test_keeping_all_is_the_untouched_model(name, llama):
    """Bit for bit without padding; with padding, kernels may add in another order."""
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    ids, logits = greedy(model, embeds)
    for bucket, tolerance in ((1, 0), (64, 1e-5)):
        with Replayer(model, bucket=bucket).prune(KEEP_ALL[name], LAYOUT):
            ours = greedy(model, embeds)
        assert torch.equal(ours[0], ids)
        assert (ours[1] - logits).abs().max() <= tolerance * logits.abs().max()


def test_llava_answers_through_generate_as_by_hooks(mini, picture):
    prompt = mini.prepare(picture, "what colour is the star?")
    replayer, results = Replayer(mini.model), []
    for driver in (replayer.prune, lambda *given: prune(mini.model, *given)):
        with torch.no_grad(), driver(DROPPING["visipruner"], prompt.layout) as trace:
            ids = mini.model.generate(**prompt.inputs, max_new_tokens=4, do_sample=False)
        results.append((ids.tolist(), trace.decode_kv, trace.why))
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["mistral", "qwen2", "llava-next"])
def test_relatives_are_replayed_too(name):
    model, inputs, layout = relative(name)
    method = VisiPruner(shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.05)
    results = []
    for driver in (Replayer(model).prune, lambda *given: prune(model, *given)):
        with torch.no_grad(), driver(method, layout) as trace:
            ids = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        results.append((ids.tolist(), trace.decode_kv, trace.why))
    assert results[0] == results[1]


@pytest.mark.parametrize("inference", [False, True])
def test_buffers_made_in_one_mode_can_be_written_in_the_other(inference, llama):
    replayer, embeds = Replayer(llama()), embeds_for(LAYOUT, 64)
    for mode in (inference, not inference):
        with torch.inference_mode(mode), replayer.prune(FastV(keep=5), LAYOUT):
            llama()(inputs_embeds=embeds)


def test_padding_costs_one_plan_for_all_lengths_of_a_bucket(llama, monkeypatch):
    """Graphs captured for one question serve the next, longer one."""
    replayer, plans, step = Replayer(llama(), bucket=64), [], _Lane.step

    def noting(lane, index, plan):
        plans[-1].append(plan)
        return step(lane, index, plan)

    monkeypatch.setattr(_Lane, "step", noting)
    for length in (58, 60, 63):
        plans.append([])
        layout = TokenLayout(length, LAYOUT.spans)
        with torch.no_grad(), replayer.prune(SHALLOW["paper only edits"], layout):
            llama()(inputs_embeds=embeds_for(layout, 64))
    assert plans[0] == plans[1] == plans[2] and plans[0][0] and not plans[0][3]


def test_a_clipped_plan_forgets_padding():
    plan = (
        Span(((2, 8),), ((0, 2),)),
        Span(((0, 2), (8, 12)), ((0, 12),), zeroed=((3, 4),), merged=((4, 8),), merge_into=4),
        Span(((10, 12),), ((0, 12),)),
    )
    assert clipped(plan, 10) == (
        Span(((2, 8),), ((0, 2),)),
        Span(((0, 2), (8, 10)), ((0, 10),), zeroed=((3, 4),), merged=((4, 8),), merge_into=4),
    )


def test_layers_are_asked_once_each_and_the_host_reads_once_per_test(llama, monkeypatch):
    model, reads, seen = llama(), [], []
    replayer = Replayer(model)
    method = SHALLOW["paper filters"]
    handle = model.model.layers[5].register_forward_hook(lambda *_: seen.append(1))
    plain = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: reads.append(1) or plain(tensor))
    with torch.no_grad(), replayer.prune(method, LAYOUT) as trace:
        model(inputs_embeds=embeds_for(LAYOUT, 64))
    handle.remove()
    tested = [record for record in trace.layers if record.influence]
    assert len(seen) == 1 and tested
    assert len(reads) == len(tested)


# -- misuse, and everything is undone


def test_after_an_exception_the_model_is_as_before(llama):
    model, embeds = llama(), embeds_for(LAYOUT, 64)
    before, plain, layers = state_of(model), greedy(model, embeds), model.model.layers
    replayer = Replayer(model)

    def on_layer(record):
        if record.layer == 2:
            raise ArithmeticError("planned")

    with pytest.raises(ArithmeticError), torch.no_grad():
        with replayer.prune(SHALLOW["paper filters"], LAYOUT, on_layer=on_layer):
            model(inputs_embeds=embeds)
    with pytest.raises(ArithmeticError), replayer.prune(FastV(), LAYOUT):
        raise ArithmeticError("before anything ran")
    assert state_of(model) == before and model.model.layers is layers
    assert torch.equal(greedy(model, embeds)[1], plain[1])
    with replayer.prune(PruningMethod(), LAYOUT):
        assert torch.equal(greedy(model, embeds)[0], plain[0])


def test_what_cannot_be_replayed_is_refused(llama):
    eager = Replayer(llama("eager"))
    with pytest.raises(ValueError, match="sdpa"), eager.prune(FastV(), LAYOUT):
        pass
    replayer, embeds = Replayer(llama()), embeds_for(LAYOUT, 64)
    with replayer.prune(FastV(), LAYOUT):
        with pytest.raises(Refused, match="already"), replayer.prune(FastV(), LAYOUT):
            pass
        with pytest.raises(Refused, match="already"), prune(llama(), FastV(), LAYOUT):
            pass
        with pytest.raises(Refused, match="batch"):
            llama()(inputs_embeds=embeds.repeat(2, 1, 1))
        llama()(inputs_embeds=embeds)
    assert not can_capture(llama())
    for bucket in (0, 1.5, 5000):
        with pytest.raises(ValueError, match="bucket"):
            Replayer(llama(), bucket=bucket)


# -- captured


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """The device of captured layers: a GPU, or a CPU with a CUDA graph's rules."""
    if request.param == "cpu":
        monkeypatch.setattr(replay, "Recorder", TapeRecorder)
        monkeypatch.setattr(replay, "can_capture", lambda model: True)
    return request.param


@pytest.mark.parametrize("name", METHODS)
def test_captured_layers_equal_the_hooks(name, device, llama):
    model = llama(max_position_embeddings=444).to(device)  # a model of its own: it moves
    embeds, method = embeds_for(LAYOUT, 64).to(device), METHODS[name]
    reference = run(prune(model, method, LAYOUT, probe=True), model, embeds)
    replayer = Replayer(model)
    assert replayer.capture
    for inference in (True, False, False):  # recorded, then replayed; in both modes
        with torch.inference_mode(inference):
            ours = run(replayer.prune(method, LAYOUT, probe=True), model, embeds)
        check_equal(ours, reference)


def test_a_layer_has_a_graph_for_each_of_its_plans(device, llama):
    model = llama(max_position_embeddings=450).to(device)
    replayer, embeds = Replayer(model), embeds_for(LAYOUT, 64).to(device)
    for name in ("paper filters", "official filters", "paper only edits", "paper filters"):
        reference = run(prune(model, SHALLOW[name], LAYOUT), model, embeds)
        check_equal(run(replayer.prune(SHALLOW[name], LAYOUT), model, embeds), reference)


@pytest.mark.parametrize(
    "reading",
    [
        torch.Tensor.tolist,
        torch.Tensor.cpu,
        torch.Tensor.numpy,
        torch.Tensor.item,
        torch.nonzero,
        torch.unique,
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
        lambda x: bool(x > 0),
        lambda x: x + torch.tensor([1.0]),
    ],
)
def test_the_stand_in_refuses_what_a_stream_refuses(reading):
    number, recorder = torch.ones(1), TapeRecorder("cpu")
    with pytest.raises(RuntimeError, match="not permitted while a stream is capturing"):
        recorder.record(lambda: reading(number))
    replay, output = recorder.record(lambda: number * 2)
    number.fill_(4)
    replay()
    assert output.item() == 8


def test_another_picture_and_question_are_replayed(device, llama):
    """A replay uses nothing of the recorded prompt."""
    model = llama(max_position_embeddings=449).to(device)
    replayer, method = Replayer(model), SHALLOW["paper filters"]
    for seed in (1, 2, 3):
        embeds = embeds_for(LAYOUT, 64, seed=seed).to(device)
        reference = run(prune(model, method, LAYOUT, probe=True), model, embeds)
        ours = run(replayer.prune(method, LAYOUT, probe=True), model, embeds)
        check_equal(ours, reference)


@pytest.mark.gpu
def test_graphs_outlive_those_of_another_replayer(llama):
    model = llama(max_position_embeddings=448).to("cuda")
    embeds, method = embeds_for(LAYOUT, 64).to("cuda"), Schedule(5, 2, 4)
    reference = run(prune(model, method, LAYOUT), model, embeds)
    first, second = Replayer(model), Replayer(model)
    for replayer in (first, second):
        run(replayer.prune(method, LAYOUT), model, embeds)
    del first, replayer
    gc.collect()
    check_equal(run(second.prune(method, LAYOUT), model, embeds), reference)


def test_captured_layers_serve_lengths_of_a_bucket(device, llama):
    model = llama(max_position_embeddings=445).to(device)
    replayer, method = Replayer(model, bucket=32), Schedule(5, 2, 4)
    for length in (58, 63, 60):
        layout = TokenLayout(length, LAYOUT.spans)
        embeds = embeds_for(layout, 64).to(device)
        reference = run(prune(model, method, layout), model, embeds)
        check_equal(run(replayer.prune(method, layout), model, embeds), reference)
    assert list(replayer.lanes) == [64, 32]  # all visual tokens, then the surviving ones


def test_captured_layers_can_be_replayed_in_another_order(device, llama):
    """One layer's graph output must survive other layers' graphs, in any order of capture."""
    model = llama(max_position_embeddings=446).to(device)
    replayer, embeds = Replayer(model), embeds_for(LAYOUT, 64).to(device)
    for method in (Schedule(5, 2, 4), Schedule(5, 5, 6), Schedule(5, 2, 4)):
        reference = run(prune(model, method, LAYOUT), model, embeds)
        check_equal(run(replayer.prune(method, LAYOUT), model, embeds), reference)
