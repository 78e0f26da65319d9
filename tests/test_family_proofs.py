"""Every family in miniature: what is pruned equals a masked model, what is kept the untouched one.

The checkpoints are random and of the true classes, loaded from folders like any other.
"""

from __future__ import annotations

import json

import pytest
import torch
from family_models import MINIS
from family_parts import picture_of
from family_ready import STEPS
from reference import VisiPrunerReference, forward, softmax
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visipruner import FastV, PruningMethod, Random, Schedule, VisiPruner, prune
from visipruner.analyses import asking
from visipruner.analyses.answered import with_answer
from visipruner.choice import sides_at
from visipruner.flops import ModelShape, executed
from visipruner.methods import METHODS
from visipruner.models.catalogue import load_vlm
from visipruner.render.overlay import draw_survivors
from visipruner.render.report import report_html
from visipruner.render.values import viewer_value
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.stock import TOWER_INPUTS

SHORT = Options(max_new_tokens=2, clock_rounds=0)
KEEPS = {"none": PruningMethod(), "fastv": FastV(keep=10_000)}
CUTS = {
    "before layer 0": Random(keep=9),
    "after layer 0": Schedule(keep=7, keep_after=0, none_after=None),
    "late, then none": Schedule(keep=11, keep_after=2, none_after=3),
    "stack": [Random(keep=20), FastV(keep=6, before_layer=3)],
}
VISIPRUNERS = {
    "paper": VisiPruner(shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.1),
    "paper, all cached": VisiPruner(
        shallow_layers=1, layer_threshold=0.9999, tokens_threshold=0.2, cache_before_filter="full"
    ),
    "official": VisiPruner(
        "official", shallow_layers=2, layer_threshold=0.9999, tokens_threshold=0.1
    ),
    "question": VisiPruner(
        "question", stages=("middle",), shallow_layers=2, tokens_threshold=0.1, relative=True
    ),
}


def close(found, expected):
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("name", MINIS)
def test_keeping_all_is_the_untouched_model_bit_for_bit(name, ready):
    """Also proves that features encoded once serve several runs, and the extras of `generate`."""
    here = ready(name)
    for attention in ("sdpa", "eager"):
        ids, logits, _ = here.answer(attention=attention)
        for method in KEEPS.values():
            kept_ids, kept_logits, trace = here.answer(method, attention)
            assert torch.equal(kept_ids, ids) and torch.equal(kept_logits, logits)
            assert trace.complete and len(trace.decode_kv) == STEPS - 1
    assert set(here.prompt.inputs) & TOWER_INPUTS


@pytest.mark.parametrize("name", MINIS)
def test_cutting_equals_masking(name, ready):
    """Prefill and 8 steps, against full matrices without a cache, on the same weights."""
    here = ready(name)
    embeds, layout = here.embeds(), here.layout
    for method in CUTS.values():
        for attention in ("sdpa", "eager"):
            ids, logits, trace = here.answer(method, attention)
            assert trace.patches_at(5) != list(range(layout.num_visual))

            def present(layer, tokens, trace=trace):
                stays = torch.ones(tokens, dtype=torch.bool)
                stays[list(layout.visual)] = False
                stays[[layout.visual[patch] for patch in trace.patches_at(layer)]] = True
                return stays.repeat(tokens, 1)

            masked = forward(
                here.plain,
                torch.cat([embeds, here.of_answer(ids)]),
                lambda _, scores, visible: softmax(scores, visible),
                present,
                special=here.special,
            )
            close(logits, masked.logits[layout.length - 1 :])


@pytest.mark.parametrize("name", MINIS)
def test_visipruner_equals_the_reference(name, ready):
    here, ends = ready(name), set()
    for method in VISIPRUNERS.values():
        for attention in ("sdpa", "eager"):
            ids, logits, trace = here.answer(method, attention)
            reference = VisiPrunerReference(here.plain, here.layout, method, here.special)
            found = reference.run(here.embeds(), here.of_answer(ids))
            assert trace.filtering_layer == found.filtering_layer
            assert trace.exit_layer == found.exit_layer
            close(logits, found.logits[here.layout.length - 1 :])
        ends.add(trace.filtering_layer is not None)
    assert True in ends


@pytest.mark.parametrize("name", MINIS)
def test_the_prompt_is_the_template_s(name, ready):
    here = ready(name)
    assert here.prompt.text == here.mini.prompt
    ids = here.prompt.inputs["input_ids"][0].tolist()
    start = here.vlm.processor.tokenizer.bos_token_id
    assert start is None or ids.count(start) == 1


@pytest.mark.parametrize("name", MINIS)
def test_no_mark_of_a_family_reaches_the_model_from_a_question(name, ready):
    here = ready(name)
    added = [token.content for token in here.vlm.processor.tokenizer.added_tokens_decoder.values()]
    asked = here.vlm.prepare(picture_of(90, 60), f"what are {' '.join(added)} here?")
    assert asked.notes and asked.layout.num_visual == here.layout.num_visual
    numbers = here.vlm.processor.tokenizer.convert_tokens_to_ids(added)
    found, usual = (p.inputs["input_ids"][0].tolist() for p in (asked, here.prompt))
    assert [found.count(n) for n in numbers] == [usual.count(n) for n in numbers]
    for words in ("[INST]", "[/INST]", "###Human:"):
        text = here.vlm.prepare(picture_of(30, 30), f"what is {words} here?").text
        assert text.count(words) == here.mini.prompt.count(words)


# -- what the page, the command line and the benchmark need


@pytest.mark.parametrize("name", MINIS)
def test_every_served_method_runs_and_is_drawn(name, ready):
    here = ready(name)
    served = [kind for kind in METHODS if not here.vlm.serves(METHODS[kind])]
    assert set(METHODS) - set(served) == here.mini.lacks
    sides = sides_at(here.vlm, served, "balanced", "paper", here.layout.num_visual)
    done = last_event(compare(here.vlm, here.prompt, sides, SHORT)).comparison
    full, *others = done.answers
    assert full.counts.vision == here.vlm.family.tower_flops(here.vlm.model.config, here.prompt)
    cheaper = [a.counts.executed.prefill < full.counts.executed.prefill for a in others]
    assert sum(cheaper) >= len(others) - 1  # VisiPruner's thresholds may never be reached
    value = viewer_value(done)
    json.dumps(value)
    assert len(value["sheets"]) == len(here.prompt.sheets)
    assert draw_survivors(here.prompt.sheets, others[0].trace).width > 400
    assert report_html(done, {}).count("<svg") > 2


@pytest.mark.parametrize("name", MINIS)
def test_methods_that_a_family_cannot_take_are_refused_with_the_reason(name, ready):
    vlm = ready(name).vlm
    for kind in ready(name).mini.lacks:
        reason = vlm.serves(METHODS[kind])
        assert reason.startswith(kind) or kind == "cdpruner"
        assert reason.endswith(".") and len(reason) > 60


@pytest.mark.parametrize("name", MINIS)
def test_flops_equal_the_counter(name, ready):
    """Of the tower with its projector, and of the language model in prefill."""
    here = ready(name)
    model = here.vlm.model
    model.set_attn_implementation("eager")
    method = Schedule(keep=7, keep_after=0, none_after=None)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as tower:
                features = here.vlm.encode(here.prompt)
            with prune(model, method, here.layout) as trace:
                with FlopCounterMode(display=False) as prefill:
                    model(**here.prompt.asked, **features.arguments, logits_to_keep=1)
    finally:
        model.set_attn_implementation("sdpa")
    shown = here.vlm.family.tower_flops(model.config, here.prompt)
    assert shown == tower.get_total_flops()
    counted = executed(ModelShape.of(model.config), trace)
    assert counted.prefill == prefill.get_total_flops()


@pytest.mark.parametrize("name", MINIS)
def test_only_the_language_model_is_loaded_in_4_bits(name, ready):
    from bitsandbytes.nn import Linear4bit

    path = ready(name).vlm.spec.path
    vlm = load_vlm(path, device="cpu", precision="4-bit")  # checks every layer
    small = {n for n, m in vlm.model.named_modules() if isinstance(m, Linear4bit)}
    assert len(small) == 6 * 7


@pytest.mark.parametrize("name", MINIS)
def test_an_answer_can_stand_in_the_prompt(name, ready):
    """The analyses ask it; inputs with a number for each token must grow with it."""
    here = ready(name)
    features = here.vlm.encode(here.prompt)
    longer = with_answer(here.vlm, here.prompt, features, Options(max_new_tokens=3))
    assert longer.layout.length == here.layout.length + 3
    assert longer.layout.visual == here.layout.visual
    ids, logits, _ = here.answer()
    said = asking.ask(here.vlm, PruningMethod(), longer, features)
    assert torch.equal(longer.inputs["input_ids"][0, -3:], ids[:3])
    assert (said.first - asking.log_shares(logits[3])).abs().max() < 1e-3
