"""Folders of every family that are damaged, incomplete, or hold more than one picture needs."""

from __future__ import annotations

import json
import shutil

import pytest
from family_parts import picture_of

from visipruner.errors import Refused
from visipruner.families import native
from visipruner.models.catalogue import load_vlm


@pytest.fixture
def folder(ready, tmp_path):
    """name -> a copy of a miniature's folder, which may be changed."""

    def copy(name):
        return shutil.copytree(ready(name).vlm.spec.path, tmp_path / name)

    return copy


def change_processor(ready, name, path, change):
    """Save another processor into the folder."""
    processor = ready(name).vlm.family.open_processor(path)
    change(processor)
    for old in path.glob("*processor*.json"):
        old.unlink()
    processor.save_pretrained(path)


def change_config(path, change):
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


def sets(part, **values):
    """Sets attributes of the processor, or of one of its parts."""

    def change(processor):
        for name, value in values.items():
            setattr(getattr(processor, part) if part else processor, name, value)

    return change


UNLIKE = r"a picture of 60 x 40 pixels \d+ visual tokens, but the model makes \d+"
WRONG = {
    ("next-vicuna", "canvases"): (
        sets("image_processor", image_grid_pinpoints=[[28, 28], [84, 28]]),
        "image_grid_pinpoints of the image processor and of config.json differ",
    ),
    ("onevision", "canvases"): (
        sets("image_processor", image_grid_pinpoints=[[30, 30]]),
        "image_grid_pinpoints of the image processor and of config.json differ",
    ),
    ("smolvlm", "size"): (sets("image_processor", max_image_size={"longest_edge": 56}), UNLIKE),
    ("smolvlm", "mean"): (sets("image_processor", image_mean=[0, 0, 0]), "the model makes 0 of it"),
    ("internvl", "size"): (sets("image_processor", size={"height": 56, "width": 56}), UNLIKE),
    ("qwen2-vl", "merge"): (
        sets("image_processor", merge_size=1),
        "merge_size of the image processor is 1, but by config.json it must be 2",
    ),
    ("qwen3-vl", "patch"): (
        sets("image_processor", patch_size=14),
        "patch_size of the image processor is 14, but by config.json it must be 7",
    ),
    ("internvl", "std"): (
        sets("image_processor", image_std=[0.0, 0.0, 0.0]),
        "image_mean and image_std make numbers that are infinite",
    ),
}


@pytest.mark.parametrize(("name", "what"), WRONG)
def test_a_processor_that_does_not_fit_is_refused(name, what, ready, folder):
    change, sentence = WRONG[name, what]
    path = folder(name)
    change_processor(ready, name, path, change)
    with pytest.raises(Refused, match=sentence):
        load_vlm(path, device="cpu")


def test_a_setting_of_the_model_that_cannot_be_served_is_refused(folder):
    path = folder("onevision")
    change_config(path, lambda config: config.update(vision_aspect_ratio="square"))
    with pytest.raises(Refused, match="vision_aspect_ratio must be anyres_max_ and a number, not"):
        load_vlm(path, device="cpu")
    path = folder("next-mistral")
    change_config(path, lambda config: config["text_config"].update(sliding_window=64))
    with pytest.raises(Refused, match="sliding window of 64 tokens"):
        load_vlm(path, device="cpu")


def test_a_tokenizer_that_cannot_name_tiles_is_refused(folder):
    path = folder("smolvlm")
    words = (path / "tokenizer.json").read_text("utf-8").replace("<row_", "<line_")
    (path / "tokenizer.json").write_text(words, "utf-8")
    with pytest.raises(Refused, match="no tokens that name the tiles"):
        load_vlm(path, device="cpu")


@pytest.mark.parametrize("name", ["next-vicuna", "onevision", "vipllava", "smolvlm", "internvl"])
def test_counts_that_old_folders_lack_are_taken_from_the_model(name, ready, folder):
    path, here = folder(name), ready(name)
    lost = dict.fromkeys(("patch_size", "vision_feature_select_strategy"))
    lost = {**lost, "num_additional_image_tokens": 0, "num_image_tokens": None}
    lost |= {"image_seq_len": 9, "image_seq_length": 9}
    change_processor(ready, name, path, sets("", **lost))
    prompt = load_vlm(path, device="cpu").prepare(picture_of(90, 60), "what?")
    assert prompt.layout == here.layout


@pytest.mark.parametrize("name", ["onevision", "internvl", "qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
def test_a_video_processor_in_the_folder_is_left_alone(name, folder):
    path = folder(name)
    video = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 9}}
    (path / "video_preprocessor_config.json").write_text(json.dumps(video))
    assert load_vlm(path, device="cpu").prepare(picture_of(30, 30), "what?").sheets


def test_many_visual_tokens_are_said(ready, monkeypatch):
    here = ready("qwen2-vl")
    assert not here.prompt.notes
    monkeypatch.setattr(native, "MANY", here.layout.num_visual - 1)
    (note,) = here.vlm.prepare(picture_of(90, 60), "what?").notes
    assert note.startswith(f"This picture becomes {here.layout.num_visual} visual tokens")
