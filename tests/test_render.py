"""Drawings show what the trace says: values, figures, pictures and the report."""

import base64
import itertools
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from visipruner.flops import ExecutedFlops
from visipruner.layout import TokenLayout
from visipruner.methods import METHODS
from visipruner.render import charts, overlay, palette, series, stages, svg
from visipruner.render.compose import SceneComposer
from visipruner.render.overlay import draw_survivors, panels, veiled
from visipruner.render.report import report_html
from visipruner.render.values import (
    LOG_HIGH,
    LOG_LOW,
    pack_bits,
    pack_numbers,
    pack_scores,
    viewer_live,
    viewer_start,
    viewer_value,
)
from visipruner.render.viewer import PatchViewer, viewer_parts
from visipruner.render.words import describe_flops, describe_influence, describe_tokens
from visipruner.running.results import Answer, Comparison, Counts, Times
from visipruner.sheets import Sheet, grid_boxes
from visipruner.trace import Cut, Influence, LayerRecord, MethodStory, PruningTrace
from visipruner.world.composed import composer_props, composer_value, scene_of
from visipruner.world.scenes import make_scene


def unpack_bits(packed: str, length: int) -> list[int]:
    """The set in `pack_bits`'s output, read as viewer_data.js does."""
    raw = np.frombuffer(base64.b64decode(packed), dtype=np.uint8)
    return np.flatnonzero(np.unpackbits(raw)[:length]).tolist()


def unpack_numbers(packed: str) -> np.ndarray:
    """The numbers in `pack_numbers`'s output, within 0.05 %."""
    codes = np.frombuffer(base64.b64decode(packed), dtype="<u2")
    return 10 ** (LOG_LOW + codes / 65_535 * (LOG_HIGH - LOG_LOW))


GRID = (24, 24)
PATCHES = GRID[0] * GRID[1]
LAYERS = 12
SETTINGS = {
    "semantics": "paper",
    "stages": ["shallow", "middle", "deep"],
    "layer_threshold": 0.995,
    "tokens_threshold": 0.2,
    "exit_threshold": 0.999,
    "relative": False,
}


def influence_of(patches, seed):
    rng = np.random.default_rng(seed)
    cos = torch.tensor(1 - 10 ** rng.uniform(-7, -1, len(patches)))
    l2 = torch.tensor(10 ** rng.uniform(-4, 0, len(patches)))
    return Influence(torch.tensor(list(patches)), cos, l2, 1.5)


def trace_of(stage_of_layer, kept_after, method="visipruner", grids=(GRID,), tested=True):
    """A trace with these stages; `kept_after` maps layers to (stage, patches that stay)."""
    visual = sum(rows * columns for rows, columns in grids)
    trace = PruningTrace(
        visual + 40,
        [(5, 5 + visual)] if visual else [],
        list(grids),
        visual,
        [MethodStory(method, dict(SETTINGS))],
    )
    present = list(range(visual))
    for layer, stage in enumerate(stage_of_layer):
        measured = tested and present and stage in ("search", "filter", "middle", "exit")
        found = influence_of(present, layer) if measured else None
        trace.layers.append(
            LayerRecord(
                layer, len(present) + 40, len(present), stage, influence=found, kv_tokens=40
            )
        )
        if layer in kept_after:
            word, kept = kept_after[layer]
            owner = [5 + patch if patch in kept else -1 for patch in range(visual)]
            trace.cuts.append(Cut(layer, word, list(kept), owner, None))
            present = list(kept)
    trace.stories[0].why = "Layer 5 filtered."
    return trace


def visipruner_trace(kept=(30, 31, 200), **more):
    stages_ = ["shallow"] * 3 + ["search"] * 2 + ["filter"] + ["middle"] * 2 + ["exit"]
    stages_ += ["text only"] * (LAYERS - len(stages_))
    trace = trace_of(stages_, {5: ("filter", list(kept)), 8: ("exit", [])}, **more)
    trace.stories[0].notes = {"filtering_layer": 5, "exit_layer": 8}
    return trace


def answer_of(trace, text="red"):
    work = [record.tokens * 1_000_000 for record in trace.layers]
    counts = Counts(ExecutedFlops(sum(work), 10, 5), work, 7, 99, 0.1, 0.2, 1024, None)
    return Answer(text, [1, 2], Times(1.0, 2.0, 3.0, 0.5, 4.0), counts, trace)


def sheets_of(picture, grids=(GRID,)):
    """The picture once for each grid; the tokens follow grid after grid."""
    boxes, sheets = [grid_boxes(picture.size, *grid) for grid in grids] or [()], []
    for number, own in enumerate(boxes):
        before, after = (
            (None,) * sum(map(len, part)) for part in (boxes[:number], boxes[number + 1 :])
        )
        sheets.append(Sheet(f"picture {number + 1}", picture, before + own + after))
    return tuple(sheets)


def comparison_of(trace, probe=True, question="What colour is the star?", seen=None):
    full = trace_of(["full"] * len(trace.layers), {}, "none", tuple(trace.grids), tested=False)
    spans = tuple(trace.spans)
    layout = TokenLayout(trace.length, spans, tuple(trace.grids))
    noise = np.random.default_rng(0).integers(0, 255, (336, 336, 3), dtype=np.uint8)
    sheets = sheets_of(seen or Image.fromarray(noise), trace.grids)
    prompt = SimpleNamespace(
        question=question, layout=layout, sheets=sheets, padding=(0, 1), outside=False
    )
    probed = trace_of(["search"] * len(trace.layers), {}, "none", tuple(trace.grids))
    machine = {"model": "tiny", "torch": "2.x"}
    answers = [answer_of(full), answer_of(trace, "blue")]
    return Comparison(prompt, answers, probed if probe else None, machine)


@pytest.fixture(scope="module")
def comparison():
    return comparison_of(visipruner_trace())


def test_scores_that_belong_to_other_tokens_are_not_drawn():
    """FastV as published scores a range that begins one token late."""
    for shift, drawn in ((0, True), (1, False)):
        trace = trace_of(["full"] * 3, {1: ("filter", [3, 4])}, "fastv", grids=((4, 4),))
        trace.stories[0].settings = {"keep": 2, "start_shift": shift}
        trace.cuts[0] = replace(trace.cuts[0], scores=[0.1] * 16)
        assert bool(viewer_value(comparison_of(trace))["cuts"][0]["scores"]) is drawn


def test_scores_lie_on_their_patches_though_the_tokens_changed_places():
    kept_after = {1: ("filter", [9, 3, 5]), 2: ("filter", [3])}
    trace = trace_of(["full"] * 5, kept_after, "fastv", grids=((4, 4),))
    trace.stories[0].settings = {"keep": 2, "start_shift": 0}
    trace.cuts[1] = replace(trace.cuts[1], scores=[0.9, 0.3, 0.5])  # of patches 9, 3 and 5
    every = list(range(16))
    trace.cuts.append(Cut(4, "enter", every, [patch + 5 for patch in every]))
    cuts = viewer_value(comparison_of(trace))["cuts"]
    assert [cut["after"] for cut in cuts] == [1, 2]  # after the last layer nothing enters
    packed = np.frombuffer(base64.b64decode(cuts[1]["scores"]), "<f4")
    assert packed.tolist() == pytest.approx([0.3, 0.5, 0.9])


def test_ranks_come_from_scores_without_rounding():
    """Attention may be as small as 1e-40, and two scores may differ in the seventh digit."""
    scores = [0.0, 1e-40, 2e-30, 0.5, 0.50000006, float("nan")]
    packed = np.frombuffer(base64.b64decode(pack_scores(scores)), "<f4")
    assert packed.tolist()[1:5] == np.float32(scores[1:5]).tolist() and packed[5] == 0
    assert len(set(packed[:5].tolist())) == 5


# -- the viewer's value


def test_words_wider_than_the_overlay_are_broken():
    font = overlay.font_of(20)
    text = f"{'W' * 100} and   three blanks"
    lines = overlay._wrapped(text, font, 200)
    assert len(lines) > 5 and all(font.getlength(line) <= 200 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert overlay._wrapped("", font, 200) == [""]
    assert overlay._wrapped("two   words", font, 2000) == ["two   words"]


def test_bits_survive_packing():
    patches = [0, 7, 8, 63, 575]
    assert unpack_bits(pack_bits(patches, PATCHES), PATCHES) == patches
    assert unpack_bits(pack_bits([], PATCHES), PATCHES) == []
    assert unpack_bits(pack_bits(range(10), 10), 10) == list(range(10))


def test_numbers_survive_packing_to_a_tenth_of_a_percent():
    numbers = np.array([1e-8, 0.005, 0.123, 0.99, 25.0, 9999.0])
    assert np.allclose(unpack_numbers(pack_numbers(numbers)), numbers, rtol=1e-3)
    assert unpack_numbers(pack_numbers([0.0, -1e-9]))[0] <= 1.01e-9


def test_masks_are_the_patches_of_the_trace(comparison):
    value, trace = viewer_value(comparison), comparison.answers[-1].trace
    for layer, record in enumerate(value["layers"]):
        shown = unpack_bits(value["masks"][record["mask"]], PATCHES)
        assert shown == trace.patches_at(layer)
        assert record["visual"] == len(shown)
        assert record["stage"] == trace.layers[layer].stage


def test_influence_is_that_of_the_trace(comparison):
    value, trace = viewer_value(comparison), comparison.answers[-1].trace
    for record, shown in zip(trace.layers, value["layers"], strict=True):
        if record.influence is None:
            assert shown["influence"] is None
            continue
        packed = shown["influence"]
        assert unpack_bits(value["masks"][packed["at"]], PATCHES) == record.influence.patches
        change = 1 - np.array(record.influence.cos)
        assert np.allclose(unpack_numbers(packed["change"]), change, rtol=1e-3, atol=2e-9)
        assert np.allclose(unpack_numbers(packed["l2"]), record.influence.l2, rtol=1e-3)


def test_value_is_json_and_small(comparison):
    text = json.dumps(viewer_value(comparison), allow_nan=False)
    assert json.loads(text) == viewer_value(comparison)
    assert len(text) < 300_000


def test_without_a_probe_there_is_none():
    assert viewer_value(comparison_of(visipruner_trace(), probe=False))["probe"] is None


def test_live_value_grows_layer_by_layer_and_is_cheap(comparison):
    start = viewer_start(comparison.prompt, LAYERS)
    trace = comparison.answers[-1].trace
    for count in range(1, LAYERS + 1):
        live = viewer_live(start, trace.layers[:count])
        assert [layer["visual"] for layer in live["layers"]] == [
            record.visual_tokens for record in trace.layers[:count]
        ]
        assert len(json.dumps(live)) - len(json.dumps(start["sheets"])) < 8_000
    known = [layer["mask"] for layer in live["layers"]]
    assert unpack_bits(live["masks"][known[6]], PATCHES) == [30, 31, 200]


def test_live_value_of_a_method_that_measures_nothing_claims_no_patches():
    trace = trace_of(["full", "reduced"], {0: ("fastv", [3])}, "fastv", tested=False)
    prompt = comparison_of(trace).prompt
    live = viewer_live(viewer_start(prompt), trace.layers)
    assert live["layers"][1]["mask"] is None


@pytest.mark.parametrize(
    ("grids", "words"),
    [((), "no visual tokens"), ((GRID, GRID), ""), ((GRID,), "")],
)
def test_any_number_of_pictures_can_be_shown(grids, words):
    trace = trace_of(["full"] * 3, {}, "none", grids, tested=False)
    value = viewer_value(comparison_of(trace, probe=False))
    assert words in value["note"]
    assert bool(value["note"]) == bool(words)
    json.dumps(value)


def test_starts_where_there_is_something_to_see():
    assert stages.most_telling_layer(visipruner_trace()) == 6
    assert stages.most_telling_layer(visipruner_trace(kept=())) == 5
    nothing = trace_of(["shallow"] + ["search"] * 5, {})
    assert stages.most_telling_layer(nothing) == nothing.most_influential()[1]


def test_every_stage_has_a_sentence():
    steps = stages.steps(visipruner_trace(kept=(9,)))
    assert [step["stage"] for step in steps] == [
        "shallow", "search", "filter", "middle", "exit", "text only",
    ]  # fmt: skip
    assert all(step["sentence"].endswith(".") for step in steps)
    assert "575 of 576 leave" in steps[2]["sentence"]
    assert "none is strong enough" in stages.steps(visipruner_trace(kept=()))[2]["sentence"]
    assert "nothing is dropped" in stages.steps(visipruner_trace(kept=range(576)))[2]["sentence"]


def merged_trace():
    """After layer 3 four patches have their own tokens; one carries 20 and 21, a new one 22."""
    trace = trace_of(["full"] * 4 + ["reduced"] * 8, {3: ("sparsevlm", [7, 8, 9, 10])}, "sparsevlm")
    owner = trace.cuts[0].owner
    owner[20] = owner[21] = 5 + 8
    owner[22] = trace.length + 3  # a token that the method made
    for record in trace.layers[4:]:
        record.visual_tokens = 5
    return trace


def test_merged_patches_and_tokens_that_are_no_patch_are_said():
    trace = merged_trace()
    [_, step] = stages.steps(trace)
    assert step["title"] == "Kept and merged"  # the method's own title
    assert "5 of 576 visual tokens are left" in step["sentence"]
    assert "2 of them also carry 3 other patches, merged into them." in step["sentence"]
    assert "1 of them is no patch" in step["sentence"]
    [cut] = viewer_value(comparison_of(trace))["cuts"]
    value = viewer_value(comparison_of(trace))
    assert unpack_bits(value["masks"][cut["merged"]], PATCHES) == [20, 21, 22]
    assert cut["carriers"] == [8, 8, -1]
    trace.cuts[0].owner[20:23] = [-1] * 3
    assert "carry" not in stages.steps(trace)[1]["sentence"]
    assert viewer_value(comparison_of(trace))["cuts"][0]["merged"] is None


def waiting_trace():
    """Schedule's late entry: text only below layer 4, all patches until 20 stay after 7."""
    trace = trace_of(["full"] * 8 + ["reduced"] * 4, {7: ("schedule", range(20))}, "schedule")
    owner = [5 + patch for patch in range(PATCHES)]
    wait = Cut(-1, "wait", [], [-1] * PATCHES, None)
    trace.cuts[:0] = [wait, Cut(3, "enter", list(range(PATCHES)), owner, None)]
    for record in trace.layers[:4]:
        record.visual_tokens, record.stage = 0, "text only"
    return trace


def test_patches_that_wait_outside_are_not_called_dropped():
    trace = waiting_trace()
    titles = [(s["title"], s["first"], s["last"]) for s in stages.steps(trace)]
    spread = ("Evenly spread", 8, 11)
    assert titles == [("Waiting outside", 0, 3), ("All patches", 4, 7), spread]
    assert "enter before layer 4" in stages.steps(trace)[0]["sentence"]
    assert stages.most_telling_layer(trace) == 4
    assert [layer for layer, *_ in series.marks(trace)] == [7]
    assert [name for name, _ in panels(trace)][1].startswith("After layer 7")
    assert [cut["after"] for cut in viewer_value(comparison_of(trace))["cuts"]] == [-1, 3, 7]
    live = stages.live_steps(trace.layers[:2], PATCHES)
    assert "left" not in live[0]["sentence"]  # it is not known yet whether they come
    trace.cuts[1:] = []  # they never entered
    assert stages.steps(trace)[0]["title"] == "Words only"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_plain_words_for_its_stages(name):
    assert all(word[0].isupper() for word in METHODS[name].stage_words.values())
    assert all(len(word) < 20 for word in METHODS[name].stage_words.values())  # on a button


def test_viewer_is_a_component_without_foreign_addresses():
    viewer = PatchViewer(elem_id="patches")
    assert viewer.elem_id == "patches"
    for part in viewer_parts().values():
        assert "http" not in part
    # gr.HTML would evaluate both marks as templates.
    for name in ("html_template", "css_template"):
        assert not any(mark in viewer_parts()[name] for mark in ("${", "{{", "`", "\\"))


# -- charts


def test_charts_hold_the_trace(comparison):
    full, pruned = comparison.answers
    tokens = charts.tokens_chart(comparison)
    assert list(tokens.data[0].y) == [PATCHES] * LAYERS
    assert list(tokens.data[1].y) == [record.visual_tokens for record in pruned.trace.layers]
    flops = charts.flops_chart(comparison)
    scale, _ = series.flops_unit(comparison)
    for bars, answer in zip(flops.data, (full, pruned), strict=True):
        assert [value * scale for value in bars.y] == answer.counts.executed_per_layer
    marked = " ".join(note.text for note in tokens.layout.annotations)
    assert "576 → 3" in marked
    assert "3 → 0" in marked


def test_influence_chart_leaves_untested_layers_empty(comparison):
    figure = charts.influence_chart(comparison)
    pruned = next(line for line in figure.data if line.name == "pruned run")
    trace = comparison.answers[-1].trace
    for value, record in zip(pruned.y, trace.layers, strict=True):
        if record.influence:
            assert value == pytest.approx(1 - min(record.influence.cos))
        else:
            assert value is None
    assert "layers 0 to 2" in figure.layout.title.subtitle.text.replace("<br>", " ")
    names = {line.name for line in figure.data}
    assert {"full model", "filter: cosine below 0.995", "stays: L2 from 0.2"} <= names


def test_charts_survive_a_run_that_tested_nothing():
    trace = trace_of(["full"] * 2 + ["reduced"] * 2, {1: ("fastv", [1])}, "fastv", tested=False)
    bare = comparison_of(trace, probe=False)
    for draw in (charts.tokens_chart, charts.flops_chart, charts.influence_chart):
        json.loads(draw(bare).to_json())
    assert "No layer was tested" in describe_influence(bare)


def test_charts_in_words(comparison):
    assert "3 in layers 6 to 8" in describe_tokens(comparison)
    assert "percent" in describe_flops(comparison)
    assert "cosine" in describe_influence(comparison)


def test_lines_of_the_report_break_where_nothing_was_tested():
    tested = [None, 0.1, 0.2, None, None, 0.3, 0.4, None]
    drawn = svg.lines([("pruned run", "red", tested)], [], "1 − cosine", "Words.")
    paths = re.findall(r'<polyline points="([^"]+)"', drawn)
    assert [len(path.split()) for path in paths] == [2, 2]
    assert drawn.count("<circle") == 4


# -- the annotated picture


def test_picture_shows_the_trace():
    seen = sheets_of(Image.new("RGB", (336, 336), "white"))
    one = draw_survivors(seen, visipruner_trace())
    other = draw_survivors(seen, visipruner_trace(kept=(400,)))
    assert one.width > 4 * 336
    assert np.asarray(one).std() > 10
    assert np.asarray(one).tobytes() != np.asarray(other).tobytes()


def test_picture_lights_exactly_the_kept_patches():
    [sheet] = sheets_of(Image.new("RGB", (336, 336), "white"))
    drawn = veiled(sheet, {0, 300})
    centres = [int((number + 0.5) * drawn.width / 24) for number in range(24)]
    lights = np.asarray(drawn.convert("L"))[np.ix_(centres, centres)]
    assert np.flatnonzero(lights == 255).tolist() == [0, 300]
    assert np.sort(lights, axis=None)[-3] < 150


@pytest.mark.parametrize("kept", [(), (7,), tuple(range(PATCHES))])
def test_every_cut_that_changed_something_has_a_panel(kept):
    trace = visipruner_trace(kept=kept)
    strip = panels(trace)
    left = [list(range(PATCHES)), list(kept), []]
    assert [patches for _, patches in strip] == [p for p, _ in itertools.groupby(left)]


def test_more_than_four_panels_go_on_in_a_second_row():
    seen = sheets_of(Image.new("RGB", (336, 336), "white"))
    cuts = {layer: ("stage", list(range(400 - 100 * layer))) for layer in range(4)}
    one, two = (
        draw_survivors(seen, trace_of(["reduced"] * 6, dict(list(cuts.items())[:count])))
        for count in (3, 4)
    )
    assert one.width == two.width and two.height > one.height + overlay._SIZE


def test_picture_without_visual_tokens_is_drawn_too():
    trace = trace_of(["text only"] * 2, {}, "none", (), tested=False)
    nothing = sheets_of(Image.new("RGB", (336, 336)), ())
    assert draw_survivors(nothing, trace).size[0] > 336


# -- the report


def test_report_is_whole_and_fetches_nothing(comparison):
    settings = {"model": "tiny", "level": "balanced"}
    page = report_html(comparison, settings, ("A note.", "The answer is a guess."), "crimson")
    assert "http://" not in page
    assert "https://" not in page
    assert "src=" not in page.replace("img-src", "").replace('src="data:', "")
    for words in ("What colour is the star?", "red", "blue", "formula", "executed", "measured",
                  "balanced", "2.x", "A note.", "a guess.", "True answer: crimson", "<svg",
                  "pv-canvas"):  # fmt: skip
        assert words in page
    assert len(page) < 600_000


def test_report_escapes_what_people_wrote():
    wicked = "</script><script>alert(1)</script>"
    comparison = comparison_of(visipruner_trace(), question=wicked)
    page = report_html(comparison, {"x": wicked}, (wicked,), wicked)
    assert wicked not in page
    assert page.count("</script>") == 1
    wicked = "<!--<script>"  # it would keep the script element open
    page = report_html(comparison_of(visipruner_trace(), question=wicked), {}, (), wicked)
    assert wicked not in page


# -- composing a scene


@pytest.mark.parametrize("seed", range(5))
def test_a_scene_survives_the_composer(seed):
    scene = make_scene(seed, "heldout")
    value = json.loads(json.dumps(composer_value(scene)))
    assert scene_of(value).things == scene.things


STAR = {"shape": "star", "colour": "red", "size": "small", "x": 20, "y": 30.5}


@pytest.mark.parametrize(
    "value",
    [
        None,
        "star",
        {},
        {"things": []},
        {"things": [STAR] * 9},
        {"things": ["star"]},
        {"things": [{**STAR, "shape": "house"}]},
        {"things": [{**STAR, "colour": "beige"}]},
        {"things": [{**STAR, "size": "huge"}]},
        {"things": [{**STAR, "x": -1}]},
        {"things": [{**STAR, "y": float("nan")}]},
        {"things": [{**STAR, "y": "low"}]},
        {"things": [{**STAR, "scale": 50}]},
        {"things": [STAR], "seed": 0.5},
        {"things": [{"shape": "digit", "digit": 12, "x": 5, "y": 5}]},
    ],
)
def test_bad_scenes_end_in_one_sentence(value):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        scene_of(value)


def test_composer_knows_the_words_of_the_world():
    props = composer_props()
    json.dumps(props)
    assert set(props["digits"]) == set("0123456789")
    for digit, index in props["digits"].items():
        card = {"shape": "digit", "digit": int(digit), "digit_index": index, "x": 90, "y": 90}
        assert scene_of({"things": [card]}).digits[0].digit == int(digit)
    assert SceneComposer(props, elem_id="composer").elem_id == "composer"


@pytest.mark.parametrize(
    ("stages_on", "names"),
    [
        (["middle", "deep"], {"layer_threshold", "tokens_threshold", "exit_threshold"}),
        (["shallow", "middle"], {"layer_threshold", "tokens_threshold"}),
        ([], set()),
    ],
)
def test_only_thresholds_of_stages_that_act_are_drawn(stages_on, names):
    assert set(series.thresholds_of({**SETTINGS, "stages": stages_on})) == names


def test_heat_is_written_as_the_viewer_reads_it_and_grows_lighter():
    """The colours are plotly's, which writes some of its scales as rgb(...)."""
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in palette.HEAT)
    channels = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in palette.HEAT]
    light = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in channels]
    assert light == sorted(light) and light[-1] > 4 * light[0]
