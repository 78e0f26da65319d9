"""The analyses against the unpruned eager model, computed here without the package's code."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support import LAYOUTS, asked_of, eager, embeds_for, greedy, state_of
from tokenizers.processors import TemplateProcessing

from visipruner import PruningMethod, Refused, Schedule, TokenLayout, VisiPruner, prune
from visipruner.analyses import ANALYSES
from visipruner.analyses.answered import with_answer
from visipruner.analyses.attention import AttentionMap
from visipruner.analyses.base import Figure, PatchMap, Step
from visipruner.analyses.heads import ValueOutput, head_outputs
from visipruner.analyses.influence import InfluenceMap, Influences
from visipruner.analyses.lens import LogitLens
from visipruner.analyses.observed import observe, per_patch, word_at, word_of
from visipruner.analyses.sinks import Sinks, SinkTable
from visipruner.analyses.together import look
from visipruner.analyses.tokens import TokenMap, TokenMaps, blocks_of
from visipruner.analyses.words import PatchWords, WordsOnPatches, affordable
from visipruner.flops import ModelShape
from visipruner.observing import Observer
from visipruner.running.results import Options
from visipruner.trace import PruningTrace

WATCHING = [
    InfluenceMap(),
    AttentionMap(),
    TokenMap(),
    Sinks(),
    LogitLens(),
    WordsOnPatches(),
    ValueOutput(),
]
names = pytest.mark.parametrize("analysis", WATCHING, ids=lambda one: one.name)


@pytest.fixture(scope="module")
def asked(mini, picture):
    """(model, prompt, features). The final norm gets weights that show if it is applied twice."""
    norm = mini.model.model.language_model.norm.weight
    before = norm.detach().clone()
    with torch.no_grad():
        norm.copy_(torch.linspace(0.2, 2, len(norm)))
    prompt = mini.prepare(picture, "what colour is the star?")
    yield mini, prompt, mini.encode(prompt)
    with torch.no_grad():
        norm.copy_(before)


@pytest.fixture(scope="module")
def whole(mini, picture, asked):
    """What the eager model itself returns for the same prompt."""
    with torch.no_grad(), eager(mini.model):
        return mini.model(
            **asked_of(mini, picture)[0],
            output_hidden_states=True,
            output_attentions=True,
            use_cache=True,
        )


@pytest.fixture(scope="module")
def results(asked):
    """Each analysis's result; all from one run."""
    *_, found = observe(*asked, WATCHING)
    return dict(zip((one.name for one in WATCHING), found, strict=True))


def result_of(asked, analysis):
    *_, result = analysis.run(*asked)
    return result


def close(found, expected, most=1e-5) -> bool:
    return torch.allclose(torch.tensor(found), expected.float(), atol=most)


# -- numbers


def test_the_lens_is_the_models_own_head_after_one_norm(mini, asked, whole, results):
    result = result_of(asked, LogitLens(words=50))
    inner = mini.model.model.language_model
    states = [mini.model.lm_head(inner.norm(h[0, -1])) for h in whole.hidden_states[1:-1]]
    states.append(whole.logits[0, -1])  # the last layer's are the model's own logits
    for shares, words, logits in zip(result.shares, result.words, states, strict=True):
        top, ids = logits.softmax(-1).topk(len(shares))
        assert close(shares, top)
        assert words[0] == mini.processor.tokenizer.decode([ids[0]])
    said = states[-1].argmax()
    assert close(result.said_shares, torch.stack([s.softmax(-1)[said] for s in states]))
    ranks = [int((s > s[said]).sum()) + 1 for s in states]
    assert list(result.said_ranks) == ranks and ranks[-1] == 1
    assert results["lens"].shares[-1] == result.shares[-1][:5]


@pytest.mark.parametrize("token", [-1, -3, "visual"])
@pytest.mark.parametrize("head", [None, 2])
def test_attention_rows_are_eagers(token, head, asked, whole):
    layout = asked[1].layout
    token = layout.visual[9] if token == "visual" else token
    result = result_of(asked, AttentionMap(token=token, head=head))
    assert result.token == token % layout.length
    for layer, full in enumerate(whole.attentions):
        row = full[0, :, token].mean(0) if head is None else full[0, head, token]
        visual = row[list(layout.visual)]
        assert close(result.weights[layer], visual)
        assert result.visual[layer] == pytest.approx(visual.sum().item(), abs=1e-5)
        assert result.first[layer] == pytest.approx(row[0].item(), abs=1e-5)


@pytest.mark.parametrize("head", [None, 1])
def test_the_pooled_map_is_the_pooled_whole_matrix(head, asked, whole, monkeypatch):
    monkeypatch.setattr("visipruner.analyses.tokens.MOST_BLOCKS", 12)
    monkeypatch.setattr("visipruner.analyses.tokens.QUERIES", 7)  # several, the last is not full
    result = result_of(asked, TokenMap(head=head))
    assert len(result.blocks) <= 12 and result.layers == tuple(range(8))
    assert any(stop - start > 1 for start, stop in result.blocks)
    for shares, full in zip(result.shares, whole.attentions, strict=True):
        full = full[0].mean(0) if head is None else full[0, head]
        for row, (a, b) in enumerate(result.blocks):
            for column, (c, d) in enumerate(result.blocks):
                if column > row:
                    assert shares[row][column] is None
                else:
                    expected = full[a:b, c:d].sum(1).mean().item()
                    assert shares[row][column] == pytest.approx(expected, abs=1e-5)
        assert sum(s for s in shares[-1] if s is not None) == pytest.approx(1, abs=1e-5)


def test_no_block_mixes_text_and_visual_tokens():
    for layout in (*LAYOUTS.values(), TokenLayout(2900, ((35, 2891),)), TokenLayout(7)):
        blocks = blocks_of(layout)
        assert [p for start, stop in blocks for p in range(start, stop)] == list(
            range(layout.length)
        )
        assert len(blocks) <= 64
        for start, stop in blocks:
            assert len({p in layout.visual for p in range(start, stop)}) == 1


def test_sinks_are_the_caches_values_and_the_last_rows_attention(asked, whole, results):
    result = results["sinks"]
    for layer, full in enumerate(whole.attentions):
        values = whole.past_key_values.layers[layer].values[0]  # (kv heads, rows, head width)
        sizes = values.abs().sum(-1).sum(0)
        assert torch.allclose(torch.tensor(result.l1[layer]), sizes, rtol=1e-4)
        assert close(result.attention[layer], full[0, :, -1].mean(0))
    assert [t for t, visual in enumerate(result.visual) if visual] == list(asked[1].layout.visual)


def test_words_on_patches_are_the_lens_of_visual_tokens(mini, asked, whole):
    result = result_of(asked, WordsOnPatches(layers=(2, 7)))
    inner, visual = mini.model.model.language_model, list(asked[1].layout.visual)
    logits = {2: mini.model.lm_head(inner.norm(whole.hidden_states[3])), 7: whole.logits}
    for layer in range(8):
        if layer not in logits:
            assert set(result.words[layer]) == {""} and set(result.shares[layer]) == {None}
            continue
        shares, ids = logits[layer][0, visual].softmax(-1).max(-1)
        assert close(result.shares[layer], shares)
        assert result.words[layer][5] == mini.processor.tokenizer.decode([ids[5]])


def test_the_lens_of_patches_costs_a_prefill_at_most():
    layout = TokenLayout(650, ((35, 611),))
    small = ModelShape(28, 1024, 2048, 1024, 3072, 151_936)  # 0.6 B
    llava = ModelShape(32, 4096, 4096, 4096, 11_008, 32_000)
    assert affordable(llava, layout) == list(range(32))
    assert affordable(small, layout) == [13, 27]
    assert affordable(ModelShape(3, 8, 8, 8, 8, 10**9), layout) == [2]  # one at least: the last
    cost = len(affordable(small, layout)) * 576 * 1024 * 151_936
    assert cost <= 650 * 28 * small.token_macs()


def test_heads_add_up_to_what_o_proj_makes_of_the_value(llama):
    model, layout = llama("sdpa", attention_bias=True), LAYOUTS["one picture"]
    torch.manual_seed(5)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.o_proj.bias)

    class Heads(Observer):
        def observe(self, view):
            project, value = model.model.layers[view.layer].self_attn.o_proj, view.values[0, :, -1]
            value = value.repeat_interleave(2, dim=0)  # 4 heads, 2 pairs of keys and values
            together, heads = project(value.flatten()) - project.bias, head_outputs(view)
            assert torch.allclose(heads.sum(0), together, atol=1e-4)
            for head in range(4):
                part = project.weight[:, 16 * head : 16 * head + 16] @ value[head]
                assert torch.allclose(heads[head], part, atol=1e-4)

    with torch.no_grad(), prune(model, PruningMethod(), layout, observers=[Heads()]):
        greedy(model, embeds_for(layout, 64))


def test_words_of_heads_are_the_lens_of_each_projection(mini, asked, whole, results):
    inner = mini.model.model.language_model
    value = whole.past_key_values.layers[3].values[0, 1, -1]  # of heads 2 and 3
    weight = inner.layers[3].self_attn.o_proj.weight[:, 48:64]
    shares, ids = mini.model.lm_head(inner.norm(weight @ value)).softmax(-1).topk(3)
    assert close(results["heads"].shares[3][3], shares)
    words = [mini.processor.tokenizer.decode([token]) for token in ids]
    assert list(results["heads"].words[3][3]) == words


def test_the_influence_map_is_the_probes(asked, results):
    vlm, prompt, _ = asked
    inputs, layout = {n: prompt.inputs[n] for n in ("input_ids", "pixel_values")}, prompt.layout
    with torch.no_grad(), prune(vlm.model, PruningMethod(), layout, probe=True) as trace:
        vlm.model(**inputs)
    result = results["influence"]
    for layer, record in enumerate(trace.layers):
        assert close(result.cos[layer], torch.tensor(record.influence.cos), 1e-6)
        assert close(result.l2[layer], torch.tensor(record.influence.l2))
        assert min(result.cos[layer]) == result.lowest[layer][0]
        assert result.norm[layer] == pytest.approx(record.influence.norm, rel=1e-5)


def test_the_influence_map_names_what_visipruner_did(asked, monkeypatch):
    chosen = VisiPruner(shallow_layers=1, layer_threshold=0.9999, tokens_threshold=0.3)
    monkeypatch.setattr("visipruner.analyses.influence.method_at", lambda *_, **__: chosen)
    analysis = InfluenceMap("gentle")
    result = result_of(asked, analysis)
    with torch.no_grad(), prune(asked[0].model, chosen, asked[1].layout) as trace:
        asked[0].model(**{n: asked[1].inputs[n] for n in ("input_ids", "pixel_values")})
    assert result.filtering_layer == trace.filtering_layer is not None
    assert result.exit_layer == trace.exit_layer
    assert result.kept == len(trace.cuts[0].kept)
    maps, line = analysis.figures(result)
    assert f"keeps {result.kept} visual token" in maps.words
    assert line.marks["filtering layer"] == result.filtering_layer


def test_the_influence_maps_words_and_lines_are_its_numbers():
    cos = ((0.9, None, 0.99), (0.5, 0.999, None), (None, None, None))
    result = Influences(cos, cos, (1.0, 1.0, None), "gentle", 1, 1, 2)
    shown, line = InfluenceMap("gentle").figures(result)
    assert shown.values[0] == [pytest.approx(-1), None, pytest.approx(-2)]
    assert list(line.series[0].y) == [pytest.approx(-1), pytest.approx(math.log10(0.5)), None]
    assert line.marks == {"filtering layer": 1, "exit layer": 2}
    assert "Patch 0 turns it most, in layer 1: cosine 0.5000." in shown.words
    said = "VisiPruner at “gentle” keeps {} after its filtering layer 1, and {}."
    left = "drops it after its exit layer 2"
    assert said.format("1 visual token", left) in shown.words
    more = replace(result, kept=3, exit_layer=None)
    shown, _ = InfluenceMap("gentle").figures(more)  # the model itself has none in its last layer
    assert said.format("3 visual tokens", "they stay as long as this model has any") in shown.words
    shown, _ = InfluenceMap("gentle").figures(replace(more, cos=cos[:2]))
    assert said.format("3 visual tokens", "they stay to the end") in shown.words


def test_visipruners_part_has_the_chosen_level_and_drops_nothing_without_a_cut(asked, monkeypatch):
    monkeypatch.setattr("visipruner.analyses.influence.method_at", lambda *given: given)
    assert InfluenceMap("gentle").also(*asked[:2])[2] == "gentle"
    analysis, trace = InfluenceMap(), PruningTrace(9, [(1, 8)], [], 7)
    result = analysis.conclude(*asked[:2], analysis.observer(*asked[:2]), trace)
    assert (result.kept, result.filtering_layer, result.lowest) == (7, None, ())


def test_half_of_the_patches_have_the_probability_that_is_said():
    result = PatchWords((1,), (("", ""), ("a", "b")), ((None, None), (0.1, 0.3)))
    [shown] = WordsOnPatches().figures(result)
    assert "half of them have 20% or more" in shown.words


# -- runs


def test_many_share_one_run_and_each_equals_itself_alone(asked, results, monkeypatch):
    passes = []
    decoder = asked[0].model.model.language_model
    handle = decoder.register_forward_hook(lambda *_: passes.append(1))
    try:
        *steps, found = observe(*asked, [one for one in WATCHING if one.name != "influence"])
    finally:
        handle.remove()
    assert len(passes) == 1
    assert steps == [Step(done, 8) for done in range(1, 9)]
    assert found[3:] == [result_of(asked, one) for one in WATCHING[4:]]
    assert found == [results[one.name] for one in WATCHING[1:]]


def test_a_pruned_run_shows_what_is_left(asked):
    chosen = Schedule(keep=5, keep_after=2, none_after=4)
    several = [one for one in WATCHING if one.name != "influence"]
    *_, found = observe(*asked, [*several, AttentionMap(token=asked[1].layout.visual[0])], chosen)
    attention, tokens, sinks, lens, words, _, gone = found
    for rows in (attention.weights, words.shares):
        assert [sum(v is not None for v in row) for row in rows] == [16] * 3 + [5] * 2 + [0] * 3
    assert [len(row) for row in sinks.tokens] == [len(row) for row in sinks.l1]
    assert sinks.tokens[7] == tuple(t for t, visual in enumerate(sinks.visual) if not visual)
    for row, visual in enumerate(tokens.visual):
        assert (tokens.shares[7][row][0] is None) == visual
    assert len(lens.words) == 8
    first_stays = gone.visual[3] is not None
    assert gone.visual[2] is not None and gone.visual[7] is None
    assert (gone.weights[3] != (None,) * 16) == first_stays


@names
def test_closing_early_leaves_nothing_on_the_model(analysis, asked):
    vlm, prompt, features = asked
    before = state_of(vlm.model)
    running = analysis.run(vlm, prompt, features)
    assert next(running) == Step(1, 16 if analysis.name == "influence" else 8)
    running.close()
    assert state_of(vlm.model) == before and not vlm.lock.locked()


def test_a_token_of_the_answer_may_ask(mini, asked, picture):
    vlm, prompt, features = asked
    longer = with_answer(vlm, prompt, features, Options(max_new_tokens=3))
    answer = longer.layout.length - prompt.layout.length
    assert answer in (2, 3)  # an end token is left out
    assert longer.layout.spans == prompt.layout.spans
    result = result_of((vlm, longer, features), AttentionMap(token=-2))
    inputs = asked_of(mini, picture)[0]
    with torch.no_grad(), eager(mini.model):
        run = mini.model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
    assert run.sequences[0, : longer.layout.length].tolist() == list(longer.layout.ids)
    assert longer.inputs["input_ids"][0].tolist() == list(longer.layout.ids)
    for layer, full in enumerate(run.attentions[answer - 1]):  # that token is read here
        assert close(result.weights[layer], full[0, :, -1, list(prompt.layout.visual)].mean(0))


def test_an_answer_that_holds_a_picture_is_refused_and_made_under_the_lock(asked, monkeypatch):
    vlm, prompt, features = asked
    ids = prompt.inputs["input_ids"]
    said = torch.tensor([[5, vlm.model.config.image_token_id, 6]])
    locked = []

    def generate(*_):
        locked.append(vlm.lock.locked())
        return torch.cat([ids, said], 1)

    monkeypatch.setattr("visipruner.analyses.answered.generate", generate)
    with pytest.raises(Refused, match="token of a picture"):
        with_answer(vlm, prompt, features)
    assert locked == [True] and not vlm.lock.locked()


def test_an_end_token_is_no_word_of_the_answer_unless_it_is_all_of_it(asked, monkeypatch):
    vlm, prompt, features = asked
    config = vlm.model.generation_config
    end = config.eos_token_id
    for said, more, ends in (
        ([5, end], 1, end), ([end], 1, end), ([5, 6], 2, end), ([5, 6], 1, [end, 6]),
    ):  # fmt: skip
        monkeypatch.setattr(config, "eos_token_id", ends)
        ids = torch.cat([prompt.inputs["input_ids"], torch.tensor([said])], 1)
        monkeypatch.setattr("visipruner.analyses.answered.generate", lambda *_, ids=ids: ids)
        longer = with_answer(vlm, prompt, features)
        assert longer.layout.length == prompt.layout.length + more
        assert longer.inputs["attention_mask"].shape == longer.inputs["input_ids"].shape


def test_a_word_of_the_answer_that_is_unknown_is_called_so(asked, monkeypatch):
    """The prompt's text ends before it, and what it says elsewhere is another word."""
    vlm, prompt, features = asked
    unknown = vlm.processor.tokenizer.unk_token_id
    ids = torch.cat([prompt.inputs["input_ids"], torch.tensor([[unknown, 5]])], 1)
    monkeypatch.setattr("visipruner.analyses.answered.generate", lambda *_: ids)
    longer = with_answer(vlm, prompt, features)
    assert word_at(vlm, longer, prompt.layout.length) == "unknown word"
    other = replace(longer, text="zebra " * 9)  # without a picture, so no place is known
    assert word_at(vlm, other, prompt.layout.length) == "unknown word"


def test_an_unknown_word_is_found_before_and_behind_pictures(mini):
    """The text may hold the first token itself; else the tokenizer adds it."""
    tokenizer = copy.deepcopy(mini.processor.tokenizer)
    start, unknown = tokenizer.bos_token_id, tokenizer.unk_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    vlm = SimpleNamespace(processor=SimpleNamespace(tokenizer=tokenizer), model=mini.model)
    picture = mini.model.config.image_token_id
    ids = torch.tensor([[start, unknown, picture, picture, unknown, picture, picture, unknown]])
    layout = TokenLayout(8, ((2, 4), (5, 7)))
    for text in ("gnu <image> yak <image> zebra", "<s> gnu <image> yak <image> zebra"):
        prompt = SimpleNamespace(text=text, inputs={"input_ids": ids}, layout=layout)
        assert [word_at(vlm, prompt, place) for place in (1, 7)] == ["gnu", "zebra"]


def test_a_tower_runs_under_the_models_lock(asked, monkeypatch):
    vlm, prompt, _ = asked
    locked, encode = [], type(vlm).encode
    monkeypatch.setattr(
        type(vlm),
        "encode",
        lambda vlm, *more: locked.append(vlm.lock.locked()) or encode(vlm, *more),
    )
    next(look(vlm, prompt, [LogitLens()]))
    assert locked == [True]


def test_a_methods_own_token_is_no_patch():
    view = SimpleNamespace(layout=TokenLayout(9, ((1, 5),)), patches=torch.tensor([2, -1, 0]))
    assert per_patch(view, "abc") == ("c", None, "a", None)


# -- results and figures


@names
def test_results_survive_json_and_figures_are_pure(analysis, results):
    result = results[analysis.name]
    again = type(result).from_json(json.loads(json.dumps(result.to_json())))
    assert again == result
    figures = analysis.figures(result)
    assert figures == analysis.figures(again)
    for figure in figures:
        assert figure.words.endswith((".", ")")) and "  " not in figure.words
        assert isinstance(figure, Figure | PatchMap)


@names
def test_figures_fit_their_axes(analysis, results):
    for figure in analysis.figures(results[analysis.name]):
        if isinstance(figure, PatchMap):
            _check_table(figure.values, figure.scale, 8, 16)
            assert not figure.told or {len(row) for row in figure.told} == {16}
            continue
        for series in figure.series:
            assert len(series.x) == len(series.y) and len(series.words) in (0, len(series.x))
            assert all(math.isfinite(number) for number in (*series.x, *series.y))
        if figure.grid:
            grid = figure.grid
            _check_table(grid.values, grid.scale, len(grid.rows), len(grid.columns))
            assert [len(row) for row in grid.words] == [len(grid.columns)] * len(grid.rows)


def _check_table(values, scale, rows, columns):
    assert [len(row) for row in values] == [columns] * rows
    numbers = [value for row in values for value in row if value is not None]
    assert numbers and all(scale[0] <= value <= scale[1] + 1e-6 for value in numbers)


def test_the_registry_knows_each_by_its_name():
    assert all(kind.name == name for name, kind in ANALYSES.items())
    assert {one.name for one in WATCHING} <= set(ANALYSES)


# -- refusals


@pytest.mark.parametrize(
    ("analysis", "words"),
    [
        (AttentionMap(token=1000), "token must be from -"),
        (AttentionMap(token=0), "stands before the picture"),
        (AttentionMap(head=4), "head must be from 0 to 3"),
        (TokenMap(layer=8), "layer must be from 0 to 7"),
        (TokenMap(head=4), "there are 4 heads"),
        (Sinks(layer=12), "layer must be from 0 to 7"),
        (WordsOnPatches(layers=(1, 8)), "each of layers must be from 0 to 7"),
    ],
)
def test_what_the_model_does_not_have_is_refused(analysis, words, asked):
    with pytest.raises(Refused, match=words):
        next(analysis.run(*asked))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AttentionMap(token=1.5), "token must be a whole number"),
        (lambda: AttentionMap(head="all"), "head must be a whole number"),
        (lambda: InfluenceMap("wild"), "level"),
        (lambda: LogitLens(0), "words must be a whole number from 1"),
        (lambda: ValueOutput(51), "words must be a whole number from 1 to 50"),
        (lambda: WordsOnPatches(3), "layers must be a list"),
    ],
)
def test_options_out_of_range_are_refused(make, words):
    with pytest.raises(Refused, match=words):
        make()


@pytest.mark.parametrize("analysis", [InfluenceMap(), AttentionMap(), WordsOnPatches()])
def test_a_prompt_without_a_picture_is_refused(analysis, asked):
    class Text:
        layout = TokenLayout(9)

    with pytest.raises(Refused, match="needs a picture"):
        analysis.check(asked[0], Text)


@pytest.mark.parametrize("analysis", [LogitLens(), WordsOnPatches()])
def test_logits_that_are_no_numbers_are_refused(analysis, asked):
    norm = asked[0].model.model.language_model.norm.weight
    before = norm.clone()
    with torch.no_grad():
        norm[0] = torch.nan
    try:
        with pytest.raises(Refused, match="not a number"):
            result_of(asked, analysis)
    finally:
        with torch.no_grad():
            norm.copy_(before)


def test_a_word_outside_the_vocabulary_is_shown_as_it_was_typed(mini, picture):
    prompt = mini.prepare(picture, "what colour is the zebra?")
    unknown = mini.processor.tokenizer.unk_token_id
    places = (prompt.inputs["input_ids"][0] == unknown).nonzero().flatten().tolist()
    assert next(word_at(mini, prompt, place) for place in places if place > 47) == "zebra"
    assert word_of(mini, unknown) == "unknown word"
    assert word_at(mini, prompt, prompt.layout.visual[3]) == "patch 3"


def test_a_table_of_sinks_is_drawn_and_told_as_its_numbers():
    """Tokens 1 and 2 are visual, and 0 is the first text token."""
    table = SinkTable(
        ("see", "p1", "p2", "end"), (False, True, True, False), (7,), ((0, 1, 2, 3),),
        ((0.1, 0.6, 0.2, 0.1),), ((2.0, 1.0, 4.0, 8.0),),
    )  # fmt: skip
    [figure] = Sinks().figures(table)
    series = {one.name: one for one in figure.series}
    assert list(series) == ["visual tokens", "text tokens", "first text token “see”"]
    assert series["visual tokens"].x == [pytest.approx(math.log10(x)) for x in (0.6, 0.2)]
    assert series["visual tokens"].y == [1.0, 4.0] and series["text tokens"].y == [8.0]
    assert series["text tokens"].words == ["token 3: end"]
    assert figure.layer == 7 and "layer 7" in figure.title
    assert "60%; its values are 0.33 times as large as the median" in figure.words
    assert "All visual tokens together get 80%." in figure.words
    assert "“see” gets 10%; its values are 0.67 times the median." in figure.words


def test_a_map_of_tokens_names_its_blocks_and_who_looks_at_whom():
    maps = TokenMaps(
        ((0, 1), (1, 4), (4, 6)), (False, True, False), 3, (5,),
        (((1.0, None, None), (0.25, 0.75, None), (0.2, 0.3, 0.5)),),
    )  # fmt: skip
    [figure] = TokenMap(head=3).figures(maps)
    names = ["text token 0", "visual tokens 1 to 3", "text tokens 4 to 5"]
    assert list(figure.grid.rows) == list(figure.grid.columns) == names
    assert figure.grid.words[2][1] == "text tokens 4 to 5 to visual tokens 1 to 3: 30.00%"
    assert figure.grid.words[0][1] == "" and figure.grid.values[0][1] is None
    assert figure.grid.values[2][2] == pytest.approx(math.log10(0.5))
    assert figure.layer == 5 and "head 3" in figure.words
    assert "last tokens give 30% to visual tokens and 20% to the first" in figure.words
