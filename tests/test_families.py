"""A family of models takes one file and one line: here one with two pictures, run end to end."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_llava, make_processor
from PIL import Image
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from visipruner import FastV, PruningMethod, SparseVLM, VisionZip, VisiPruner
from visipruner.analyses.base import Step
from visipruner.analyses.influence import InfluenceMap
from visipruner.analyses.masked_answers import masked_answers
from visipruner.analyses.masking import RangeMasking
from visipruner.analyses.recipes import KeepOrDrop
from visipruner.analyses.together import look
from visipruner.analyses.words import WordsOnPatches
from visipruner.errors import Refused
from visipruner.families import FAMILIES, NOT_SERVED, Encoded, Family, Parts, family_of
from visipruner.families.base import NEEDS
from visipruner.inputs import check_choice, open_picture
from visipruner.layout import TokenLayout
from visipruner.methods import METHODS
from visipruner.models.catalogue import load_vlm
from visipruner.prompt import Prompt, read_question
from visipruner.render import inside
from visipruner.render.overlay import draw_survivors, edges_of
from visipruner.render.report import report_html
from visipruner.render.values import pack_boxes, viewer_value
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.sheets import Box, Sheet, grid_boxes, unplaced
from visipruner.stock import find_decoder, projector_of, tower_of
from visipruner.templates import prompt_text

SHORT = Options(max_new_tokens=3, clock_rounds=0)
ROWS, COLUMNS = 4, 2  # visual tokens of each of the two pictures, and one line end after them


class TwoSheetsConfig(LlavaConfig):
    model_type = "two_sheets"


class TwoSheetsModel(LlavaForConditionalGeneration):
    config_class = TwoSheetsConfig


class TwoSheets(Family):
    """The whole picture and its left half; pairs of patches in a row are averaged."""

    title = "TwoSheets"
    kinds = {"two_sheets": TwoSheetsModel}
    processor = LlavaProcessor
    picture_modes = ("whole",)
    renumbers = False
    not_in_4_bit = ("model.vision_tower", "model.multi_modal_projector", "lm_head")

    def parts(self, model):
        return Parts(find_decoder(model), model.lm_head, tower_of(model), projector_of(model))

    def tokens(self, config):
        return 2 * (ROWS * COLUMNS + 1)

    def prepare(
        self, config, processor, picture, question, mode=None, system=None, reword=str
    ) -> Prompt:
        check_choice("picture mode", mode or "whole", self.picture_modes)
        whole = open_picture(picture)
        half = whole.crop((0, 0, whole.width // 2, whole.height))
        question, plain, notes = read_question(processor, question, reword)
        text = prompt_text(processor, plain, system or "")
        text = text.replace("<image>", "<image>" * self.tokens(config))
        inputs = dict(processor.tokenizer(text, add_special_tokens=False, return_tensors="pt"))
        inputs |= processor.image_processor([whole, half], return_tensors="pt")
        layout = TokenLayout.from_ids(inputs["input_ids"], config.image_token_id)
        none, own = (None,) * (ROWS * COLUMNS + 1), ((None,), (None,))
        sheets = (
            Sheet("whole picture", whole, grid_boxes(whole.size, ROWS, COLUMNS) + own[0] + none),
            Sheet("left half", half, none + grid_boxes(half.size, ROWS, COLUMNS) + own[1]),
        )
        return Prompt(question, text, inputs, layout, sheets, notes=tuple(notes))

    def encode(self, model, prompt, note_tower=False) -> Encoded:
        outputs = model.get_image_features(prompt.inputs["pixel_values"], return_dict=True)
        outputs.pooler_output = [
            torch.cat([one.unflatten(0, (ROWS, COLUMNS, -1)).mean(2).flatten(0, 1), 0 * one[:1]])
            for one in outputs.pooler_output
        ]
        return Encoded(outputs)

    def tower_flops(self, config, prompt):
        return 1000 * len(prompt.inputs["pixel_values"])


@pytest.fixture(scope="module")
def two_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("two-sheets")
    processor = make_processor(56, 14)
    like = make_llava(processor, 56, 14)
    model = TwoSheetsModel(TwoSheetsConfig(**like.config.to_diff_dict() | {"model_type": "x"}))
    model.load_state_dict(like.state_dict())
    model.generation_config = like.generation_config
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture
def two(two_path, monkeypatch):
    """A new family's one line, and its model loaded like any other."""
    monkeypatch.setitem(FAMILIES, "two_sheets", TwoSheets())
    return load_vlm(two_path, device="cpu")


def result(vlm, picture, *methods):
    prompt = vlm.prepare(picture, "what colour is the star?")
    return last_event(compare(vlm, prompt, [PruningMethod(), *methods], SHORT)).comparison


def test_a_new_family_runs_and_is_drawn(two, picture):
    comparison = result(two, picture, FastV(keep=5))
    full, pruned = comparison.answers
    layout = comparison.prompt.layout
    assert layout.num_visual == 18 == two.facts().num_visual and two.facts().layers == 8
    assert full.counts.vision == 2000
    assert [record.visual_tokens for record in pruned.trace.layers][-1] == 5
    # The same features and tokens, given to the stock model without this project.
    inputs = {n: t for n, t in comparison.prompt.inputs.items() if n != "pixel_values"}
    features = two.encode(comparison.prompt)
    with torch.inference_mode():
        plain = two.model.generate(
            **inputs, **features.arguments, max_new_tokens=3, do_sample=False
        )
    assert full.tokens == plain[0, layout.length :].tolist()

    value = viewer_value(comparison)
    json.dumps(value)
    assert [sheet["name"] for sheet in value["sheets"]] == ["whole picture", "left half"]
    assert "2 of 18 visual tokens look at no place" in value["note"]
    drawn = draw_survivors(comparison.prompt.sheets, pruned.trace)
    # Two stages with both pictures side by side: 420 pixels wide, and 315 for the upright one.
    assert drawn.width == 2 * (420 + 6 + 315) + 24 + 2 * 24
    page = report_html(comparison, {})
    assert "2 of 18 visual tokens look at no place" in page
    for number in (0, 1):
        assert page.count(f'<image id="vp-seen{number}"') == 1
        assert page.count(f'href="#vp-seen{number}"') == 2  # one stage for each of two sides


def test_look_inside_shows_the_patches_of_both_pictures(two, picture):
    prompt = two.prepare(picture, "what?")
    analyses = [InfluenceMap(), WordsOnPatches(), RangeMasking(), KeepOrDrop(layer=3, count=2)]
    found = [event for event in look(two, prompt, analyses) if not isinstance(event, Step)]
    assert len(found) == 4
    maps = [m for event in found for m in inside.one(*event, prompt.sheets)["maps"]]
    assert len(maps) >= 3
    for shown in maps:
        assert {len(row) for row in shown["values"]} == {18}
        assert [box[0] for box in shown["boxes"]] == [*range(8), *range(9, 17)]
        assert "2 of 18 visual tokens look at no place" in shown["words"]
        whole, half = shown["boxes"][:8], shown["boxes"][8:]  # 360 x 240 pixels and 270 x 360
        assert max(box[3] for box in whole) < 0.57 < min(box[1] for box in half)
        assert max(box[4] for box in whole) < 0.67 and half[-1][3:] == [1, 1]


def test_many_masked_answers_need_plain_positions(two, picture):
    prompt = two.prepare(picture, "what?")
    with pytest.raises(Refused, match="TwoSheets models cannot answer under many masks at once"):
        masked_answers(two, prompt, two.encode(prompt), [(0, 3)], 4)


def test_a_method_that_needs_what_a_family_lacks_is_refused(two, picture):
    with pytest.raises(Refused, match="visionzip needs the tower's class token, which TwoSheets"):
        result(two, picture, VisionZip())
    with pytest.raises(Refused, match=r"sparsevlm needs positions that are plain numbers, .* Two"):
        result(two, picture, SparseVLM())


def test_a_family_says_how_a_picture_is_made_to_fit(two, mini, picture):
    assert two.prepare(picture, "what?").sheets[0].picture.size == picture.size
    assert mini.prepare(picture, "what?").text == mini.prepare(picture, "what?", "pad").text
    for vlm, wrong in ((two, "pad"), (mini, "whole")):
        with pytest.raises(Refused, match="picture mode must be"):
            vlm.prepare(picture, "what?", wrong)


def test_kinds_without_a_family_are_refused_by_name(two_path):
    with pytest.raises(Refused, match=r"holds a .two_sheets. model; .* llava \(LLaVA-1.5\), "):
        load_vlm(two_path, device="cpu")
    for kind in (None, 5, ["llava"], "llava" * 100):
        with pytest.raises(Refused, match=r"^It holds a [^;]{1,90} model; models of") as error:
            family_of(kind, "It")
        assert str(error.value).endswith(".") and "llava (LLaVA-1.5)" in str(error.value)


@pytest.mark.parametrize("kind", NOT_SERVED)
def test_known_kinds_that_are_not_served_are_refused_with_the_reason(kind):
    assert kind not in FAMILIES
    with pytest.raises(Refused, match=f"^It holds a '{kind}' model, which [^;]+.*[.]$") as error:
        family_of(kind, "It")
    assert len(str(error.value)) < 260


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_says_what_it_is(kind):
    family = FAMILIES[kind]
    assert family.kinds[kind].config_class.model_type == kind
    assert family.title and family.picture_modes and family.not_in_4_bit
    assert family.offers <= set(NEEDS) and set(family.lacks) <= set(NEEDS)


def test_a_sliding_window_is_refused_before_weights_are_read():
    with pytest.raises(Refused, match="attends through a sliding window of 7 tokens"):
        TwoSheets().check("It", {"text_config": {"sliding_window": 7}})
    TwoSheets().check("It", {"text_config": {"sliding_window": 7, "use_sliding_window": False}})


def test_the_parts_are_the_models_own(mini):
    parts, inner = mini.parts, mini.model.model
    assert parts.decoder is inner.language_model and parts.layers is parts.decoder.layers
    assert parts.tower is inner.vision_tower and parts.projector is inner.multi_modal_projector
    assert parts.lm_head is mini.model.lm_head


# -- sheets and boxes


def test_boxes_must_lie_on_their_picture():
    picture = Image.new("RGB", (30, 20))
    sheet = Sheet("", picture, (None, Box(0, 0, 30, 20), Box(0.5, 1, 2, 3)))
    assert sheet.placed == (1, 2) and unplaced([sheet], 3) == 1
    for box in (Box(0, 0, 31, 20), Box(-1, 0, 5, 5), Box(5, 5, 5, 9), Box(0, 0, 9, float("nan"))):
        with pytest.raises(ValueError, match="is no box on 30 x 20"):
            Sheet("", picture, (box,))


def test_neighbours_share_an_edge_at_every_size():
    sheet = Sheet.of_grid(Image.new("RGB", (35, 21)), 3, 5)
    for size in ((420, 252), (100, 61), (13, 7)):
        boxes = sheet.scaled(size)
        assert boxes[0][:2] == (0, 0) and boxes[14][2:] == size
        for token in range(15):
            if token % 5 < 4:
                assert boxes[token][2] == boxes[token + 1][0]
            if token < 10:
                assert boxes[token][3] == boxes[token + 5][1]


def test_a_group_is_framed_as_one():
    boxes = [tuple(map(int, box)) for box in grid_boxes((40, 20), 2, 4)]
    assert len(edges_of([boxes[0]])) == 4
    assert len(edges_of([boxes[0], boxes[1], boxes[4]])) == 8  # an L
    assert (10, 0, 10, 10) not in edges_of([boxes[0], boxes[1]])
    assert len(edges_of([boxes[0], boxes[7]])) == 8  # they do not touch
    assert len(edges_of([boxes[3], boxes[3]])) == 4  # two tokens in the same place


def test_boxes_survive_packing():
    boxes = (Box(0, 0, 14, 17.5), None, Box(14, 17.5, 336, 200), Box(1 / 3, 2 / 3, 1, 1))
    packed, parts = pack_boxes(Sheet("", Image.new("RGB", (336, 200)), boxes))
    found = np.frombuffer(base64.b64decode(packed), dtype="<u2").reshape(-1, 4) / parts
    assert found[:2].tolist() == [[0, 0, 14, 17.5], [14, 17.5, 336, 200]]  # exactly
    assert np.allclose(found[2], boxes[3], atol=1 / 128)
    nothing = Sheet("", Image.new("RGB", (9, 9)), (None, None))
    assert pack_boxes(nothing)[0] == ""


def test_tokens_of_unknown_place_are_said():
    from visipruner.render.words import describe_unplaced

    sheets = [SimpleNamespace(placed=(0, 2))]
    assert describe_unplaced(sheets, 2) == ""
    assert describe_unplaced(sheets, 3).startswith("1 of 3 visual tokens looks at no place")
    assert "not known" in describe_unplaced([SimpleNamespace(placed=())], 3)


def test_visipruner_runs_on_a_new_family(two, picture):
    method = VisiPruner(shallow_layers=2, layer_threshold=0.9999, relative=True)
    pruned = result(two, picture, method).answers[1]
    assert len(pruned.trace.layers) == 8 and pruned.trace.num_visual == 18


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_what_methods_need_has_words(kind):
    assert kind.needs <= {*NEEDS, "clip_text"}
