"""VisiPruner against the plain reference, in all semantics."""

import dataclasses

import pytest
import torch
from conftest import GoldenCase
from reference import VisiPrunerReference
from support import LAYOUTS, embeds_for, present_positions, run_pruned

from visipruner import TokenLayout, VisiPruner
from visipruner.methods.visipruner import SEMANTICS


def check_against_reference(model, method, layout, embeds):
    ids, logits, hidden, trace = run_pruned(model, method, layout, embeds)
    decoded = model.model.embed_tokens(ids[:-1])
    reference = VisiPrunerReference(model, layout, method).run(embeds[0], decoded)
    assert trace.filtering_layer == reference.filtering_layer
    assert trace.exit_layer == reference.exit_layer
    filtered = [cut.kept for cut in trace.cuts if cut.stage == "filter"]
    assert (filtered[0] if filtered else []) == reference.kept
    for layer, cos in reference.cos.items():
        found = trace.layers[layer].influence
        ours, l2 = torch.tensor([found.cos, found.l2], dtype=torch.float64)
        torch.testing.assert_close(ours, cos, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(l2, reference.l2[layer], atol=1e-5, rtol=1e-4)
    tested = [record.layer for record in trace.layers if record.influence]
    assert tested == list(reference.cos)
    scale = reference.logits.abs().max()
    rows = reference.logits[layout.length - 1 :]
    assert (logits - rows).abs().max() < 1e-5 * scale
    for layer, states in enumerate(hidden):
        positions = present_positions(trace, layout, layer)
        expected = reference.hidden[layer][positions]
        assert (states - expected).abs().max() < 1e-5 * expected.abs().max()
    return trace, reference


PAPER_ON_GOLDEN = [
    ("c10_7b_all_s6_t40", {"shallow_layers": 6}),
    ("c10_7b_all_s6_t40", {"shallow_layers": 3, "layer_threshold": 0.98, "merge_index": 300}),
    ("c08_7b_mid_deep_s6_t5", {"shallow_layers": 2, "tokens_threshold": 0.05}),
    ("c08_7b_mid_deep_s6_t5", {"shallow_layers": 2, "stages": ("middle", "deep")}),
    ("c05_7b_middle_s2_t5", {"shallow_layers": 4, "stages": ("shallow", "middle")}),
    ("c05_7b_middle_s2_t5", {"shallow_layers": 4, "stages": ("shallow",)}),
    ("c10_7b_all_s6_t40", {"shallow_layers": 4, "cache_before_filter": "full"}),
    ("e01_7b_zero_tokens_selected", {"shallow_layers": 3, "tokens_threshold": 1e6}),
    ("c05_7b_middle_s2_t5", {"shallow_layers": 3, "tokens_threshold": 0.0}),
    ("c05_7b_middle_s2_t5", {"shallow_layers": 3, "layer_threshold": -1.0}),
    ("c10_7b_all_s6_t40", {"shallow_layers": 11, "layer_threshold": 0.9999}),
    ("c10_7b_all_s6_t40", {"shallow_layers": 2, "relative": True, "tokens_threshold": 0.09}),
]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "settings"), PAPER_ON_GOLDEN)
def test_paper_semantics_equal_the_masked_reference(name, settings, attention, golden_model):
    case = GoldenCase(name)
    model = golden_model(case["model"], attention)
    start = case["visual_start"]
    layout = TokenLayout(case.embeds.shape[1], ((start, start + case["num_visual"]),))
    check_against_reference(model, VisiPruner(**settings), layout, case.embeds)


SETTINGS = {
    "all": {"shallow_layers": 2, "layer_threshold": 0.9999, "tokens_threshold": 0.1},
    "merge elsewhere": {"shallow_layers": 3, "layer_threshold": 0.999, "merge_index": 17},
    "shallow only": {"shallow_layers": 3, "stages": ("shallow",)},
    "calm": {
        "shallow_layers": 1,
        "layer_threshold": 0.9999,
        "tokens_threshold": 0.3,
        "exit_threshold": 0.9,
    },
}


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("semantics", SEMANTICS)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_unseen_cases_equal_the_reference(layout, settings, semantics, kv_heads, llama):
    model = llama(num_key_value_heads=kv_heads)
    layout = LAYOUTS[layout]
    method = VisiPruner(semantics=semantics, **SETTINGS[settings])
    trace, reference = check_against_reference(model, method, layout, embeds_for(layout, 64))
    if semantics == "official":
        assert trace.calm_layers == reference.calm


def test_a_question_of_one_token_is_the_papers_test(llama):
    layout = TokenLayout(30, ((3, 29),))
    methods = [VisiPruner(name, **SETTINGS["all"]) for name in ("paper", "question")]
    traces = [run_pruned(llama(), one, layout, embeds_for(layout, 64))[-1] for one in methods]
    paper, question = ([record.influence for record in trace.layers] for trace in traces)
    assert [bool(one) for one in paper] == [bool(one) for one in question] and any(paper)
    for one, other in zip(filter(None, paper), filter(None, question), strict=True):
        assert one.to_json() | {"on_question": True} == other.to_json()
    assert traces[0].cuts == traces[1].cuts


def test_official_counts_on_where_all_are_kept_and_never_lets_them_leave(llama):
    layout = LAYOUTS["text between"]
    settings = {"shallow_layers": 1, "layer_threshold": 0.9999, "exit_threshold": 0.9}
    official = VisiPruner("official", tokens_threshold=1e-9, **settings)
    embeds = embeds_for(layout, 64)
    trace, reference = check_against_reference(llama(), official, layout, embeds)
    assert len(reference.kept) == layout.num_visual and trace.exit_layer is None
    assert trace.calm_layers == reference.calm and trace.calm_layers[-1] > 2
    paper = dataclasses.replace(official, semantics="paper")
    assert check_against_reference(llama(), paper, layout, embeds)[0].exit_layer is not None


def test_official_13b_blinds_half_of_two_adjacent_pictures(llama):
    layout = LAYOUTS["two adjacent"]
    method = VisiPruner(semantics="official", shallow_layers=2, blind_half=True)
    check_against_reference(llama(), method, layout, embeds_for(layout, 64))


def test_the_settings_above_reach_every_ending(llama):
    """The equivalences mean something only if filtering, exit, emptiness and silence all occur."""
    layout, endings = LAYOUTS["one picture"], set()
    embeds = embeds_for(layout, 64)
    for settings in (*SETTINGS.values(), {"shallow_layers": 2, "layer_threshold": -1.0}):
        trace = run_pruned(llama(), VisiPruner(**settings), layout, embeds)[3]
        endings.add(("filtered", trace.filtering_layer is not None))
        endings.add(("left", trace.exit_layer is not None))
    assert len(endings) == 4


def test_shallow_and_filter_caches_hold_what_the_paper_says(golden_model):
    case = GoldenCase("c10_7b_all_s6_t40")
    start = case["visual_start"]
    layout = TokenLayout(case.embeds.shape[1], ((start, start + case["num_visual"]),))
    method = VisiPruner(shallow_layers=4)
    model = golden_model(case["model"])
    trace = run_pruned(model, method, layout, case.embeds)[3]
    text, kept = layout.length - layout.num_visual, len(trace.cuts[0].kept)
    assert 0 < kept < layout.num_visual
    expected = [
        text if layer < 4 or (trace.exit_layer or 99) < layer else text + kept
        for layer in range(12)
    ]
    assert [record.kv_tokens for record in trace.layers] == expected
    full = run_pruned(
        model, dataclasses.replace(method, cache_before_filter="full"), layout, case.embeds
    )[3]
    filtered = full.filtering_layer
    assert all(full.layers[layer].kv_tokens == layout.length for layer in range(4, filtered + 1))


def test_relative_threshold_below_the_bound_never_empties(llama):
    """cos < c implies l2 / ||O|| >= sqrt(1 - c^2)."""
    layout = LAYOUTS["one picture"]
    method = VisiPruner(
        shallow_layers=1, layer_threshold=0.995, tokens_threshold=0.0998, relative=True
    )
    filtered = 0
    for seed in range(5):
        trace = run_pruned(llama(), method, layout, embeds_for(layout, 64, seed))[3]
        if trace.filtering_layer is not None:
            filtered += 1
            assert trace.cuts[0].kept
    assert filtered


def test_when_nothing_happens_the_trace_says_why_and_how_near_it_was(llama):
    layout = LAYOUTS["one picture"]
    embeds = embeds_for(layout, 64)
    silent = VisiPruner(shallow_layers=2, layer_threshold=-1.0)
    trace = run_pruned(llama(), silent, layout, embeds)[3]
    nearest, layer = trace.most_influential()
    assert "Nothing was filtered" in trace.why
    assert f"{nearest:.5f} in layer {layer}" in trace.why
    empty = dataclasses.replace(SETTINGS_METHOD, tokens_threshold=1e6)
    trace = run_pruned(llama(), empty, layout, embeds)[3]
    assert "Nothing was kept" in trace.why and trace.exit_layer == trace.filtering_layer


SETTINGS_METHOD = VisiPruner(**SETTINGS["all"])


class TestConfiguration:
    GOOD = {
        "mode": ["shallow", "middle", "deep"],
        "shallow_mid_layer": 6,
        "layer_threshold": 0.995,
        "tokens_threshold": 0.2,
    }

    def test_official_dictionary(self):
        method = VisiPruner.from_official_config(self.GOOD, model_size="7b")
        assert method.semantics == "official" and method.first_tested == 7
        assert (method.layer_threshold, method.tokens_threshold) == (0.995, 0.2)

    @pytest.mark.parametrize(
        "missing", ["mode", "shallow_mid_layer", "layer_threshold", "tokens_threshold"]
    )
    def test_missing_entries_are_named(self, missing):
        config = {key: value for key, value in self.GOOD.items() if key != missing}
        with pytest.raises(ValueError, match=missing):
            VisiPruner.from_official_config(config)

    @pytest.mark.parametrize(
        "change",
        [
            {"layer_threshold": 2},
            {"layer_threshold": float("nan")},
            {"layer_threshold": "0.9"},
            {"tokens_threshold": -0.1},
            {"tokens_threshold": None},
            {"shallow_layers": -1},
            {"shallow_layers": 2.5},
            {"shallow_layers": True},
            {"exit_threshold": float("inf")},
            {"merge_index": -1},
            {"semantics": "both"},
            {"stages": ("shallow", "wide")},
            {"stages": ("deep",)},
            {"stages": 5},
            {"stages": "shallow,wide"},
            {"relative": "yes"},
            {"blind_half": 1},
            {"cache_before_filter": "some"},
        ],
    )
    def test_bad_values_are_refused_at_construction(self, change):
        with pytest.raises(ValueError, match=str(next(iter(change))).replace("stages", "stage")):
            VisiPruner(**change)

    def test_stages_may_be_words_with_commas(self):
        assert VisiPruner(stages="shallow,middle").stages == ("shallow", "middle")
        assert VisiPruner(stages="").stages == ()

    def test_bad_size(self):
        with pytest.raises(ValueError, match="34b"):
            VisiPruner.from_official_config(self.GOOD, model_size="34b")

    def test_question_semantics_need_words_after_the_picture(self, llama):
        layout = TokenLayout(20, ((3, 20),))
        with pytest.raises(ValueError, match="words after the picture"):
            run_pruned(llama(), VisiPruner("question"), layout, embeds_for(layout, 64))

    def test_paper_semantics_need_text_before_the_picture(self, llama):
        layout = TokenLayout(20, ((0, 10),))
        with pytest.raises(ValueError, match="text token"):
            run_pruned(llama(), VisiPruner(shallow_layers=2), layout, embeds_for(layout, 64))
