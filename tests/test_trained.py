"""A model with a schedule of its own: every run stacks it, every budget and every cut counts it."""

import base64
import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference import late_entry
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visipruner import PruningMethod, Schedule, prune
from visipruner.__main__ import main
from visipruner.analyses import ANALYSES
from visipruner.analyses.answered import with_answer
from visipruner.analyses.asking import ask
from visipruner.analyses.base import Step
from visipruner.analyses.blind import Blind
from visipruner.analyses.masked_answers import masked_answers
from visipruner.analyses.masking import masked_words
from visipruner.analyses.rerun import Rerun
from visipruner.analyses.together import look
from visipruner.choice import make, method_at, methods_of, parse, read_presets, sides_at
from visipruner.errors import Refused
from visipruner.evaluation import calibrate, interview, tradeoff, typical
from visipruner.evaluation.evaluate import UNPRUNED, summary
from visipruner.evaluation.interview import FORMS
from visipruner.flops import ModelShape, dense, executed
from visipruner.levels import Facts
from visipruner.methods import METHODS, VisiPruner
from visipruner.methods.trained import Trained, least_of
from visipruner.models import catalogue
from visipruner.models.catalogue import MODELS, check_served, load_vlm
from visipruner.render import arena, stages
from visipruner.render.numbers import flops, times
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.trace import TRAINED
from visipruner.training.config import FOLDER
from visipruner.ui import contest, handlers, share, teaching, text, views
from visipruner.ui.downloads import Result, html_file, json_file, png_file
from visipruner.ui.handlers import Form
from visipruner.ui.store import Models
from visipruner.world import sources
from visipruner.world.drawing import thing_of_patches
from visipruner.world.questions import SKILLS

needs_weights = pytest.mark.skipif(not (FOLDER / "model.safetensors").exists(), reason="no weights")
pytestmark = needs_weights

ENTER, LEAVE, LAYERS = 3, 5, 12
BY_HAND = Schedule(keep_after=None, none_after=LEAVE, enter=ENTER)
SAID = "trained so: its visual tokens enter at layer 3 and leave after layer 5."
INSIDE = ("visipruner", "fastv", "pyramiddrop", "sparsevlm", "sparsevlm_plus", "dart", "schedule")
BEFORE = ("random", "divprune", "visionzip", "vispruner", "holov", "pool")
NAME = "tiny-aligned"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The bundled weights with a schedule in their presets."""
    path = tmp_path_factory.mktemp("models") / "aligned"
    shutil.copytree(FOLDER, path)
    presets = json.loads((path / "presets.json").read_text())
    presets["schedule"] = {"enter": ENTER, "leave": LEAVE}
    (path / "presets.json").write_text(json.dumps(presets))
    return path


@pytest.fixture(scope="module")
def aligned(folder):
    return load_vlm(folder, device="cpu")


@pytest.fixture(scope="module")
def plain(aligned):
    """The same weights without the schedule."""
    return replace(aligned, presets={k: v for k, v in aligned.presets.items() if k != "schedule"})


@pytest.fixture(scope="module")
def asked(aligned):
    """A prompt with its features, and the embeddings that enter layer 0, (1, tokens, width)."""
    prompt = aligned.prepare(sources.picture(3), "how many shapes are there?")
    features = aligned.encode(prompt, note_tower=True)
    seen = []
    note = lambda _layer, args, kwargs: seen.append((*args, kwargs.get("hidden_states"))[0])  # noqa: E731
    handle = aligned.parts.layers[0].register_forward_pre_hook(note, with_kwargs=True)
    with torch.inference_mode():
        aligned.model(**prompt.asked, **features.arguments)
    handle.remove()
    return prompt, features, seen[0].clone()


@pytest.fixture
def named(folder, monkeypatch):
    """The same model under its name in the menu."""
    spec = replace(MODELS["tiny"], name=NAME, title=NAME, path=str(folder), reads_by=None)
    monkeypatch.setitem(MODELS, NAME, spec)
    return spec


def run(vlm, side, prompt):
    """Both answers of a comparison with the baseline."""
    sides = [PruningMethod(), side]
    options = Options(8, probe=False, clock_rounds=0)
    return last_event(compare(vlm, prompt, sides, options)).comparison


def counts(trace) -> list[int]:
    return [record.visual_tokens for record in trace.layers]


# -- every run stacks the schedule


@pytest.mark.parametrize(
    "words",
    [
        "none",
        *(f"{name}:balanced" for name in INSIDE),
        *(f"{name}@30" for name in BEFORE),
        "divprune+visipruner@36",
        "pool+fastv@36",
    ],
)
def test_a_run_equals_the_stack_made_by_hand(words, aligned, plain, asked):
    prompt, features, _ = asked
    side = method_at(aligned, words)
    found = ask(aligned, side, prompt, features, 6)
    by_hand = ask(plain, (*methods_of(side), BY_HAND), prompt, features, 6)
    assert torch.equal(found.first, by_hand.first) and found.text == by_hand.text
    assert found.trace.layers == by_hand.trace.layers
    assert [replace(cut, by=0) for cut in found.trace.cuts] == [
        replace(cut, by=0) for cut in by_hand.trace.cuts
    ]
    here = counts(found.trace)
    assert here[:ENTER] == [0] * ENTER and here[LEAVE + 1 :] == [0] * (LAYERS - LEAVE - 1)
    assert all(c.after_layer < 0 or ENTER - 1 <= c.after_layer <= LEAVE for c in found.trace.cuts)
    if set(parse(words).names) <= {"none", *INSIDE} - {"sparsevlm", "sparsevlm_plus"}:
        # These do nothing before layer 0, so the order does not matter.
        first = ask(plain, (BY_HAND, *methods_of(side)), prompt, features, 6)
        assert torch.equal(found.first, first.first)


def test_the_trace_tells_the_schedule_apart_from_what_was_chosen(aligned, asked):
    comparison = run(aligned, method_at(aligned, "random@30"), asked[0])
    for answer, name in zip(comparison.answers, ("none", "random"), strict=True):
        trace = answer.trace
        assert [story.name for story in trace.stories] == [name, TRAINED]
        assert trace.method == name and SAID in trace.why
        assert trace.trained.settings == {"enter": ENTER, "leave": LEAVE}
        assert type(trace).from_json(json.loads(json.dumps(trace.to_json()))) == trace
    assert trace.settings == method_at(aligned, "random@30").settings
    assert comparison.last.called == ("full", "pruned")
    assert "Savings are counted against all tokens in all layers" in comparison.prompt.notes[-1]
    titles = [step["title"] for step in stages.steps(trace)]
    assert titles == ["Waiting outside", "Drawn by lot", "Words only"]


def test_other_models_run_what_they_ran(plain, asked):
    side = method_at(plain, "fastv")
    assert plain.stack(side) is side and plain.schedule is None
    facts = plain.facts()
    assert facts.inside is facts and facts.most == facts.num_visual and not facts.scheduled
    prompt = plain.prepare(sources.picture(3), asked[0].question)
    comparison = run(plain, side, prompt)
    full, pruned = comparison.answers
    assert comparison.flops_ratio == full.counts.executed.prefill / pruned.counts.executed.prefill
    assert full.counts.dense == full.counts.executed.prefill  # all tokens in all layers
    assert [story.name for story in full.trace.stories] == ["none"] and not comparison.prompt.notes


@pytest.mark.parametrize("words", ["none", "random@30"])
def test_a_run_equals_the_masked_reference(words, aligned, asked):
    prompt, features, embeds = asked
    said = ask(aligned, method_at(aligned, words), prompt, features, 6)
    stays = said.trace.patches_at(ENTER)
    gone = [token for n, token in enumerate(prompt.layout.visual) if n not in stays]
    assert len(gone) == (0 if words == "none" else 576 - 120)
    text = aligned.model.config.get_text_config()
    llama = _Llama(aligned.parts.decoder, aligned.parts.lm_head, text)
    with torch.inference_mode():
        expected = late_entry(llama, embeds[0], prompt.layout, ENTER, LEAVE, gone)[-1]
    difference = (said.first - expected.double().log_softmax(-1)).exp().sub(1)
    assert (said.first.exp() * difference).abs().max() < 1e-4
    assert int(said.first.argmax()) == int(expected.argmax())


class _Llama:
    """A language model's parts as reference.py names them."""

    def __init__(self, model, lm_head, config):
        self.model, self.lm_head, self.config = model, lm_head, config


# -- FLOPs


@pytest.mark.parametrize("words", [None, "none", "visipruner", "divprune@20", "pyramiddrop@90"])
def test_flops_equal_the_counter(words, folder, asked):
    vlm = load_vlm(folder, device="cpu", attention="eager")
    prompt, _, embeds = asked
    shape, side = ModelShape.of(vlm.model.config), method_at(vlm, words or "none")
    block = prune(vlm.model, vlm.stack(side), prompt.layout) if words else nullcontext()
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        block as trace,
        FlopCounterMode(display=False) as counter,
    ):
        vlm.model(inputs_embeds=embeds, logits_to_keep=1)
    if words is None:  # the stock model computes what a cut is counted from
        trace = ask(vlm, side, prompt, vlm.encode(prompt)).trace
        assert counter.get_total_flops() == dense(shape, trace)
    else:
        assert counter.get_total_flops() == executed(shape, trace).prefill


def test_every_cut_is_counted_from_all_tokens_in_all_layers(aligned, asked):
    comparison = run(aligned, method_at(aligned, "random@30"), asked[0])
    full, pruned = (answer.counts for answer in comparison.answers)
    assert comparison.flops_ratio == full.dense / pruned.executed.prefill
    assert comparison.last.whole == full.dense == pruned.dense
    assert 0.7 < 1 - full.executed.prefill / full.dense < 0.75
    alone = run(aligned, PruningMethod(), asked[0])
    assert alone.flops_ratio == full.dense / full.executed.prefill


# -- levels and budgets


@pytest.mark.parametrize("name", [*INSIDE[1:], *BEFORE])
def test_a_budget_is_a_mean_over_all_layers(name, aligned, asked):
    prompt, features, _ = asked
    facts = aligned.facts()
    assert facts.most == 144
    for budget in (60, 100):
        if budget < least_of(METHODS[name], facts):
            with pytest.raises(Refused, match=f"as few as {budget}"):
                method_at(aligned, f"{name}@{budget}")
            continue
        trace = ask(aligned, method_at(aligned, f"{name}@{budget}"), prompt, features).trace
        if name == "holov":  # its quotas are upper bounds
            assert 0.6 * budget < trace.mean_tokens <= budget
        else:
            few = METHODS["pool"].reachable(facts) if name == "pool" else [4 * budget]
            nearest = min(few, key=lambda tokens: abs(tokens / 4 - budget)) / 4
            assert trace.mean_tokens == pytest.approx(nearest, abs=1.5)
    whole = ask(aligned, method_at(aligned, f"{name}@200"), prompt, features).trace
    assert whole.mean_tokens == 144


def test_published_layers_fall_into_the_span(aligned):
    facts = aligned.facts()
    for name in INSIDE:
        for level in (0.25, 0.5, 0.75, 1):
            method = method_at(aligned, name, level)
            assert all(ENTER <= layer < LEAVE for layer in method.cuts_after)
            method.check_span(facts)
    assert method_at(aligned, "fastv").cuts_after == (ENTER,)
    assert method_at(aligned, "pyramiddrop@90").layers == (4, 5)
    # The presets' first tested layers are 8, 5 and 4; only 4 lies where a cut can save.
    found = {level: method_at(aligned, "visipruner", level) for level in ("gentle", "aggressive")}
    assert found["gentle"].first_tested == ENTER and found["aggressive"].first_tested == 4
    official = method_at(aligned, "visipruner", "gentle", "official")
    assert official.first_tested == ENTER and "shallow" not in official.stages
    own = Facts(576, 12, enter=ENTER, leave=LEAVE)  # without presets the paper's, which begin at 7
    assert make(parse("visipruner"), own) == replace(
        make(parse("visipruner"), Facts(576, 12)), shallow_layers=ENTER, stages=("middle", "deep")
    )


@pytest.mark.parametrize(
    ("words", "given", "said"),
    [
        ("fastv", {"before_layer": 2}, "after layer 1, but this model has visual tokens only in"),
        ("fastv", {"before_layer": 6}, "layers 3 to 5: choose from 3 to 4."),
        ("random", {"after_layer": 1}, "Random patches would cut after layer 1"),
        ("pyramiddrop", {"layers": (4, 8), "ratios": (0.5, 0.2)}, "after layer 7"),
        ("sparsevlm", {"layers": (2,), "keep": (9,)}, "SparseVLM would cut after layer 2"),
        ("dart", {"before_layer": 9}, "DART would cut after layer 8"),
        ("schedule", {"none_after": 9}, "Fixed schedule would cut after layer 9"),
        ("schedule", {"enter": 2}, "`enter` cannot change it"),
        ("visipruner", {"stages": "shallow,middle"}, "no shallow stage to edit"),
        ("divprune+fastv", {"fastv.before_layer": 2}, "FastV would cut after layer 1"),
        ("fastv@20", {}, "its least is 48.0."),
        ("pool@1", {}, "its least is 2.2."),
    ],
)
def test_what_cannot_work_is_refused(words, given, said, aligned):
    with pytest.raises(Refused) as error:
        sides_at(aligned, ["none", words], **given)
    assert said in str(error.value)


def test_a_model_that_sees_in_one_layer(aligned, asked):
    prompt = asked[0]
    presets = {**aligned.presets, "schedule": {"enter": 4, "leave": 4}}
    one = replace(aligned, presets=presets)
    for name in INSIDE:
        with pytest.raises(Refused, match="has them in layer 4 alone"):
            check_served(one, [METHODS[name]])
    points = tradeoff.contestants(one)  # what it cannot serve is left out
    assert {wish.partition("@")[0] for wish in points} >= {UNPRUNED, "divprune", "random"}
    comparison = run(one, method_at(one, "random@12"), prompt)
    assert counts(comparison.answers[1].trace) == [0] * 4 + [144] + [0] * 7
    assert comparison.flops_ratio > run(one, PruningMethod(), prompt).flops_ratio > 6


# -- the file


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "schedule must be an object with enter or leave, or both"),
        ({}, "schedule must be an object"),
        (None, "schedule must be an object"),
        ({"enter": 3, "exit": 5}, "schedule must be an object"),
        ({"enter": "3"}, "enter of the schedule must be a whole number from 0 to 999"),
        ({"enter": True}, "must be a whole number"),
        ({"leave": 4.5}, "leave of the schedule must be a whole number"),
        ({"leave": -1}, "from 0 to 999"),
        ({"enter": 10**30}, "from 0 to 999"),
        ({"enter": float("nan")}, "must be a whole number"),
        ({"enter": 5, "leave": 3}, "leave of the schedule must be at least enter, 5, not 3"),
    ],
)
def test_a_damaged_schedule_is_refused(given, said, tmp_path):
    (tmp_path / "presets.json").write_text(json.dumps({"schedule": given}))
    with pytest.raises(Refused, match=r"presets\.json is damaged") as error:
        read_presets(tmp_path)
    assert said in str(error.value)


def test_a_schedule_may_stand_alone_and_must_fit_the_layers(mini_path, tmp_path):
    shutil.copytree(mini_path, tmp_path / "own")
    file = tmp_path / "own" / "presets.json"
    file.write_text('{"schedule": {"leave": 1}}')
    vlm = load_vlm(tmp_path / "own", device="cpu")
    assert vlm.schedule == Trained(None, 1)
    assert vlm.schedule.sentence.endswith("its visual tokens leave after layer 1.")
    layers = vlm.facts().layers
    prompt = vlm.prepare(sources.picture(1), "what is it?")
    trace = run(vlm, PruningMethod(), prompt).answers[0].trace
    assert counts(trace) == [16, 16] + [0] * (layers - 2)
    file.write_text(json.dumps({"schedule": {"enter": layers}}))
    with pytest.raises(Refused, match=f"must be from 0 to {layers - 1}, because the model has"):
        load_vlm(tmp_path / "own", device="cpu")


# -- analyses


def test_masking_equals_runs_that_are_blind(aligned, asked):
    prompt, features, _ = asked
    rerun, wanted = Rerun(aligned, prompt, features), {(0, 11), (3, 3), (2, 4), (6, 8)}
    assert rerun.sees == [ENTER <= layer <= LEAVE for layer in range(LAYERS)]
    for (first, last), shares in masked_words(rerun):
        if (first, last) in wanted:
            with torch.inference_mode():
                said = ask(aligned, Blind(first, last + 1), prompt, features).first
            assert (said - shares).abs().max() < 1e-4
            assert ((said - rerun.said.first).abs().max() > 0.1) == (last >= ENTER and first < 6)
    ranges = [(0, -1), (0, 11), (3, 3), (6, 11)]
    for one, answer in zip(
        ranges, masked_answers(aligned, prompt, features, ranges, 8), strict=True
    ):
        blind = ask(aligned, Blind(one[0], one[1] + 1), prompt, features, 8)
        assert aligned.processor.decode(answer, skip_special_tokens=True).strip() == blind.text


def test_every_analysis_runs_or_refuses_in_a_sentence(aligned, plain, asked):
    prompt, features, _ = asked
    refused = []
    for name, kind in ANALYSES.items():
        try:
            found = [e for e in look(aligned, prompt, [kind()]) if not isinstance(e, Step)]
        except Refused as error:
            refused.append((name, str(error)))
            continue
        ((analysis, result),) = found
        assert analysis.figures(result)
        assert type(result).from_json(json.loads(json.dumps(result.to_json()))) == result
    assert refused == [
        ("merge", "Merge into one patch: Merging is for the first layers, and this model has no "
         "visual token there: they enter at layer 3.")
    ]  # fmt: skip
    for name, options in (("keep-or-drop", {"layer": 6}), ("skip-layer", {"layer": 3})):
        with pytest.raises(Refused, match="visual tokens only in layers 3 to 5"):
            ANALYSES[name](**options).check(aligned, prompt)
    said = ask(aligned, PruningMethod(), prompt, features, 20).text
    longer = with_answer(aligned, prompt, features)
    answer = longer.asked["input_ids"][0, prompt.layout.length :]
    assert aligned.processor.decode(answer, skip_special_tokens=True).strip() == said


# -- evaluation


def test_answers_and_cuts_of_the_evaluation(aligned, plain):
    asking = list(interview.in_turn("heldout", 1))[:2]
    columns = {UNPRUNED: PruningMethod(), "half": method_at(aligned, "random@72")}
    done = {}
    rows = [row for _, row in interview.asked_one_by_one(aligned, columns, asking, done)]
    full = [row for row in rows if row["column"] == UNPRUNED]
    assert 0.7 < interview.share_cut(full, full) < 0.75
    assert interview.share_cut([r for r in rows if r not in full], full) > 0.8
    every = [
        {**row, "skill": skill, "form": form} for row in rows for skill in SKILLS for form in FORMS
    ]
    lines = {line["column"]: line for line in summary(every) if line["skill"] == "all"}
    assert lines[UNPRUNED]["flops_cut"] == interview.share_cut(full, full)
    points = tradeoff.points(columns, rows, aligned.spec)
    assert [point["flops_cut"] for point in points] == [lines[c]["flops_cut"] for c in columns]
    assert [point["tokens"] for point in points] == [144, 72]
    one = asking[0]
    keys = {interview._key(vlm, one, columns["half"]) for vlm in (aligned, plain)}
    assert len(keys) == 2  # answers under another schedule are asked again
    bare = [row for _, row in interview.asked_one_by_one(plain, columns, asking[:1], {})]
    assert not any("dense" in row for row in bare) and interview.share_cut(bare[:1], bare[:1]) == 0


def test_calibration_tests_inside_and_keeps_the_schedule(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "own")
    tried = []

    def measured(vlm, methods, count, store):
        tried.extend(methods.values())
        found = {"right": 0.5, "flops_cut": 0.8, "cut_of_rest": 0.4, "questions": 3}
        few, full = {**found, "tokens": 100.0}, {**found, "tokens": 144.0}
        return {UNPRUNED: full, **dict.fromkeys(methods, few)}

    monkeypatch.setattr(calibrate, "measure", measured)
    store = tmp_path / "answers.jsonl"
    assert main(["calibrate", "--model", str(tmp_path / "own"), "--store", str(store)]) == 0
    assert {method.first_tested for method in tried} == {3, 4}
    presets = read_presets(tmp_path / "own")
    assert presets["schedule"] == {"enter": ENTER, "leave": LEAVE}
    vlm = load_vlm(tmp_path / "own", device="cpu")
    method = method_at(vlm, "visipruner", "balanced")
    assert isinstance(method, VisiPruner) and method.first_tested in (3, 4)
    assert method_at(vlm, "visipruner@100") == method_at(vlm, "visipruner", 0.25)


def test_commands_take_the_name_of_the_menu(named, folder):
    assert interview.folder_of(NAME) == folder and interview.folder_of("x/y") == Path("x/y")
    assert interview.folder_of("llava-1.5-7b") == Path("llava-1.5-7b")  # it is on no disk


# -- command line and page


def test_ask_says_what_the_model_is(named, tmp_path, capsys):
    out = tmp_path / "out.json"
    question = "which color is the star?"  # the wording of the drawn world is applied
    sides = ["--methods", "none", "random@30", "divprune+visipruner@36"]
    status = main(["ask", "scene:3", question, "--model", NAME, *sides, "--json", str(out)])
    text = capsys.readouterr().out
    assert status == 0 and "learnt British spelling" in text
    assert text.count(SAID) == 4 and text.count("of all tokens in all layers, prefill") == 3
    assert "cut        72." in text and "fewer FLOPs executed in the prefill than by all" in text
    data = json.loads(out.read_text())
    first, second, _ = data["answers"]
    assert [story["name"] for story in first["trace"]["stories"]] == ["none", TRAINED]
    ratio = first["counts"]["dense"] / second["counts"]["executed"]["prefill"]
    assert data["pairs"][0]["flops_ratio"] == ratio


def told(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_the_page_says_it_and_counts_from_all_tokens(named, monkeypatch):
    monkeypatch.setenv("VISIPRUNER_MODELS", f"tiny {NAME}")
    models = Models()
    options = {"clock_rounds": 0, "max_new_tokens": 8}
    form = Form(sources.picture(3), "which color is the star?", NAME, "random", options=options)
    truth = sources.truth(3, form.question)
    job = handlers.check(models, form, truth, 3)
    assert "which colour is the star?" in job.prompt.text  # the drawn world's wording
    assert any(note.endswith(SAID) for note in job.notes)
    *_, progress = handlers.follow(job)
    comparison = progress.comparison
    full = comparison.answers[0].counts
    verdict = told(views.verdict(comparison, truth, views.asked(job)))
    assert times(comparison.flops_ratio) in verdict and flops(full.dense) in verdict
    first, second, _ = map(told, views.cards(comparison, truth, 3))
    assert "(72% less than all tokens in all layers)" in first and "less than all" in second
    result = Result(job, comparison)
    page = base64.b64decode(html_file(result)["data"]).decode()
    assert SAID in page and json_file(result) and png_file(result)
    assert not result.stays[0] or text.STAYS_LATE not in result.stays[0]
    *_, sweep = teaching.sweep(job)
    assert times(comparison.last.whole / sweep.answers[1].counts.executed.prefill) in told(
        teaching.sweep_html(sweep, job)
    )
    assert NAME in share.python(form, 3) and "colour" in share.python(form, 3)


def test_the_arena_counts_budgets_over_all_layers(named, monkeypatch):
    monkeypatch.setenv("VISIPRUNER_MODELS", NAME)
    models = Models()
    form = Form(sources.picture(3), "how many shapes?", NAME, options={"max_new_tokens": 4})
    with pytest.raises(Refused, match="must be a number from 1 to 144, not 200"):
        contest.prepare(models, form, 3, ["random"], 200, False)
    made = contest.prepare(models, form, 3, ["fastv", "divprune+visipruner", "cdpruner"], 60, True)
    for _ in contest.follow(made):
        pass
    assert "60 of 144 visual tokens" in made.asked["words"] and SAID in made.asked["note"]
    rows = {row["side"].partition("@")[0]: row for row in arena.table(made.shown)}
    assert rows["none"]["mean_tokens_per_layer"] == 144 and rows["cdpruner"]["refused"]
    assert rows["fastv"]["mean_tokens_per_layer"] == 60
    assert 3.5 < rows["none"]["times_fewer_flops"] < rows["fastv"]["times_fewer_flops"]
    assert len(arena.last_kept(made.entries[1].answer.trace)) == 72


def test_the_menu_has_both_models_of_the_drawn_world():
    assert list(MODELS)[:2] == ["tiny", NAME]
    assert all(catalogue.drawn(name) for name in ("tiny", NAME))
    assert catalogue.drawn("tiny") and not catalogue.drawn("llava-1.5-7b")
    assert not catalogue.drawn("local") and not catalogue.drawn(["tiny"])


def test_examples_count_what_a_method_keeps_and_not_the_schedule(aligned):
    scene = sources.scene(3)
    shows = thing_of_patches(scene, 14)
    prompt = aligned.prepare(sources.picture(3), "how many shapes are there?")
    features = aligned.encode(prompt)
    _, trace = interview.ask(aligned, PruningMethod(), prompt, features, most=1)
    assert trace.cuts and typical._what_is_kept(trace, shows, []) == (0, None, None)
    inside = make(parse("fastv@100"), aligned.facts())  # it drops after the tokens entered
    _, trace = interview.ask(aligned, inside, prompt, features, most=1)
    own = [cut for cut in trace.cuts if cut.stage != "enter" and 0 < len(cut.kept) < 576]
    assert typical._what_is_kept(trace, shows, [])[0] == len(own[0].kept)
