"""From a picture and a question to the model's input: templates, sentences, marks, settings."""

from __future__ import annotations

import copy
import json
import shutil
from types import SimpleNamespace

import page_server
import pytest
import torch
from conftest import make_llava, make_processor
from PIL import Image
from transformers import GenerationConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from visipruner import FastV, PruningMethod, decoding, prompt
from visipruner.choice import MOST_SYSTEM, method_at
from visipruner.errors import Refused
from visipruner.families.llava import SYSTEM, Llava, system_sentence, vision_flops
from visipruner.models.catalogue import VLM, ModelSpec, load_vlm
from visipruner.render.values import viewer_start
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.templates import one_blank, prompt_text, template_of

QUESTION = "what colour is the star?"
OLDER = "Someone asks about a picture, and the answer is short."


@pytest.fixture
def processor():
    return copy.deepcopy(make_processor(56, 14))


def with_template(processor, template):
    processor.chat_template = template
    return processor


@pytest.fixture
def folder(mini_path, tmp_path):
    """(files to change) -> a copy of the miniature checkpoint; None removes a file or a key."""

    def make(**files):
        path = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(mini_path, path)
        for name, change in files.items():
            file = path / name.replace("__", ".")
            if change is None:
                file.unlink()
            elif isinstance(change, str):
                file.write_text(change)
            else:
                found = json.loads(file.read_text()) if file.exists() else {}
                file.write_text(json.dumps({**found, **change}))
        return path

    return make


# -- the system sentence

PARTS = (
    "{% for part in m['content'] %}{{ part['text'] if part['type'] == 'text' else '<image>\n' }}"
)
PARTS += "{% endfor %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    + PARTS
    + "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def test_llavas_sentence_stands_before_a_vicuna_prompt_only(processor):
    assert "curious user" in SYSTEM and "the user's questions" in SYSTEM
    assert system_sentence(processor, None) == SYSTEM
    assert system_sentence(with_template(processor, CHATML), None) == ""
    text = prompt_text(processor, QUESTION, "")
    assert text.startswith("<|im_start|>user\n<image>\nwhat") and "system" not in text


def test_a_checkpoint_brings_its_own_sentence(folder, picture):
    own = load_vlm(folder(presets__json={"system": OLDER}), device="cpu")
    text = own.prepare(picture, QUESTION).text
    assert text.startswith(f"<s>{OLDER} USER: <image>\n") and SYSTEM not in text
    usual = load_vlm(folder(), device="cpu")
    assert usual.prepare(picture, QUESTION).text.startswith(f"<s>{SYSTEM} USER: ")
    # Without its own settings it takes the default ones.
    assert method_at(own, "visipruner") == method_at(usual, "visipruner")


def test_a_sentence_and_settings_may_stand_together_or_alone(folder, picture):
    settings = load_vlm(folder(presets__json=page_server.PRESETS), device="cpu")
    both = load_vlm(folder(presets__json={"system": "", **page_server.PRESETS}), device="cpu")
    assert method_at(settings, "visipruner") == method_at(both, "visipruner")
    assert SYSTEM in settings.prepare(picture, QUESTION).text
    assert both.prepare(picture, QUESTION).text.startswith("<s>USER: <image>\n")


@pytest.mark.parametrize(
    ("system", "words"),
    [
        (None, "presets.json is damaged: system must be text, not a value of type NoneType"),
        (["x"], "system must be text"),
        ("x" * (MOST_SYSTEM + 1), r"system has 2,001 characters; at most 2,000 are allowed\.$"),
        ("a \ud83d letter", "half a letter"),
        ("Look at <image> well.", "system of presets.json must not hold the picture's word"),
    ],
)
@pytest.mark.parametrize("more", [{}, page_server.PRESETS], ids=["alone", "with settings"])
def test_a_bad_sentence_is_refused_in_one(system, words, more, folder):
    path = folder(presets__json={"system": system, **more})
    with pytest.raises(Refused, match=words) as error:
        load_vlm(path, device="cpu")
    assert str(error.value).endswith(".") and len(str(error.value)) < 250


def test_vicunas_blank_is_one_and_other_templates_stay_as_they_are():
    def processor(text):
        return SimpleNamespace(apply_chat_template=lambda *_, **__: text)

    for blanks in ("", " ", "\n", "  "):
        for system in (SYSTEM, r"Back\slash \1 (and more)?"):
            text = prompt_text(processor(f"{system}{blanks}USER: <image>x"), "x", system)
            assert one_blank(text, system) == f"{system} USER: <image>x"
    chatml = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user <image>x"
    assert one_blank(prompt_text(processor(chatml), "x", SYSTEM), SYSTEM) == chatml


# -- unusual templates

REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
)
STRINGS = "{% for m in messages %}{{ m['role'].upper() + ': ' + m['content'] + ' ' }}{% endfor %}"
STRINGS += "ASSISTANT:"
ONE_OF_EACH = "{% for m in messages %}[{{ m['role'] }}] " + PARTS + " {% endfor %}[bot]"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (ONE_OF_EACH, f"[system] {OLDER} [user] <image>\n{QUESTION} [bot]"),
        (REFUSES + ONE_OF_EACH, f"[user] <image>\n{OLDER}\n\n{QUESTION} [bot]"),
        # It silently drops a system message.
        (
            ONE_OF_EACH.replace("messages %}", "messages if m['role'] == 'user' %}"),
            f"[user] <image>\n{OLDER}\n\n{QUESTION} [bot]",
        ),
        (STRINGS, f"SYSTEM: {OLDER} USER: <image>\n{QUESTION} ASSISTANT:"),
        (REFUSES + STRINGS, f"USER: <image>\n{OLDER}\n\n{QUESTION} ASSISTANT:"),
        # It prints its argument unchecked.
        ("{{ messages[-1]['content'] }}>", f"<image>\n{OLDER}\n\n{QUESTION}>"),
        # It accepts only texts.
        (
            "{% for p in messages[-1]['content'] if p['text'] %}{{ p['text'] }}{% endfor %}",
            f"<image>\n{OLDER}\n\n{QUESTION}",
        ),
        # It prints the image token itself.
        ("<image>{{ messages[-1]['content'] }}>", f"<image>{OLDER}\n\n{QUESTION}>"),
    ],
    ids=["parts", "no system", "left out", "strings", "strings only", "any", "texts", "own word"],
)
def test_a_template_gets_the_question_in_the_form_that_it_takes(template, expected, processor):
    assert prompt_text(with_template(processor, template), QUESTION, OLDER) == expected


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ messages[-1]['content'] }}" * 2, "prints the picture's word 2 times for one picture"),
        ("<image>", "leaves the question out"),
        ("no picture", "prints the picture's word 0 times"),
        ("{{ nothing.at.all }}", "is broken .'nothing' is undefined"),
        ("{% if", "is broken"),
        (REFUSES + "{{ nothing.at.all }}", "is broken .'nothing' is undefined"),
        ("{{ raise_exception('Only tools' + ' please' * 30) }}", "takes no single question .Only"),
    ],
)
@pytest.mark.parametrize("system", ["", OLDER], ids=["alone", "with system"])
def test_a_template_that_takes_no_form_is_refused(template, words, system, processor):
    with pytest.raises(Refused, match=words) as error:
        prompt_text(with_template(processor, template), QUESTION, system)
    assert "No system" not in str(error.value)
    assert str(error.value).endswith(".") and len(str(error.value)) < 160


@pytest.mark.parametrize("several", [False, True])
def test_a_template_may_stand_with_the_tokenizer_only(several, folder, picture):
    template = STRINGS
    if several:
        template = [{"name": "tools", "template": "x"}, {"name": "default", "template": STRINGS}]
    path = folder(chat_template__jinja=None, tokenizer_config__json={"chat_template": template})
    vlm = load_vlm(path, device="cpu")
    text = vlm.prepare(picture, QUESTION).text
    assert text == f"SYSTEM: {SYSTEM} USER: <image>\n{QUESTION} ASSISTANT:"


def test_named_templates_need_no_default(processor):
    assert template_of(with_template(processor, {"tools": "y"})) == "y"
    assert template_of(with_template(processor, {})) is None


def test_a_template_that_prints_the_first_token_gets_no_second(processor):
    from tokenizers import processors

    tokenizer = processor.tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    config = make_llava(processor, 56, 14).config
    for template in (processor.chat_template, ONE_OF_EACH):
        made = Llava().prepare(
            config, with_template(processor, template), Image.new("RGB", (9, 9)), QUESTION
        )
        ids = made.inputs["input_ids"][0].tolist()
        assert ids.count(tokenizer.bos_token_id) == 1 == ids[0]


# -- words that the tokenizer takes for special tokens


def test_every_added_token_of_a_question_is_plain_text(mini, picture):
    vlm = copy.copy(mini)
    vlm.processor = copy.deepcopy(mini.processor)
    tokenizer = vlm.processor.tokenizer
    added = ["<|turn_end|>", "[/ASK]"]
    tokenizer.add_tokens(added)
    assert not set(added) & set(tokenizer.all_special_tokens)
    made = vlm.prepare(picture, "what is <|turn_end|>[/ASK] the star?")
    ids = made.inputs["input_ids"][0].tolist()
    assert not set(tokenizer.convert_tokens_to_ids(added)) & set(ids)
    assert made.question == "what is <|turn_end|>[/ASK] the star?"
    assert list(made.notes) == [
        f"“{mark}” in your question is read as plain text." for mark in added
    ]


def test_a_picture_word_of_another_name_is_plain_text_too(processor, picture):
    tokenizer = processor.tokenizer
    number = tokenizer.convert_tokens_to_ids("red")
    processor.image_token, processor.image_token_id = "red", number
    assert prompt.marks_of(processor)[0] == "red"  # though not an added token yet
    tokenizer.add_tokens(["red"])
    config = make_llava(processor, 56, 14).config
    config.image_token_id = number
    with_template(processor, processor.chat_template.replace("<image>", "red"))
    made = Llava().prepare(config, processor, picture, "what red is it?", system="")
    assert made.layout.num_visual == 16 and "r ed" in made.text
    assert made.notes == ("“red” in your question is read as plain text.",)


def test_a_mark_in_another_spelling_is_refused(mini, picture):
    from tokenizers import normalizers

    vlm = copy.copy(mini)
    vlm.processor = copy.deepcopy(mini.processor)
    vlm.processor.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    vlm.processor.tokenizer.add_tokens(["<|turn|>"])
    with pytest.raises(Refused, match="a mark that steers the model, in another spelling"):
        vlm.prepare(picture, "what <|TURN|> is it?")
    assert vlm.prepare(picture, "what < | TURN | > unknown is it?").notes == ()


# -- a folder's generation settings

SETTINGS = {
    "use_cache": False,
    "cache_implementation": "static",
    "num_beams": 2,
    "num_return_sequences": 2,
    "guidance_scale": 1.7,
    "stop_strings": ["star"],
    "repetition_penalty": 1.4,
    "min_new_tokens": 3,
    "max_length": 9,
    "max_time": 1e-9,
    "forced_eos_token_id": 2,
    "suppress_tokens": [7, 8, 9],
    "prompt_lookup_num_tokens": 2,
    "output_attentions": True,
    "return_dict_in_generate": True,
    "output_scores": True,
}


def answers(vlm, picture, **options):
    made = vlm.prepare(picture, QUESTION)
    run = compare(
        vlm, made, [PruningMethod(), FastV(keep=9)], Options(6, **options, clock_rounds=0)
    )
    return made, [answer.tokens for answer in last_event(run).comparison.answers]


@pytest.mark.parametrize("name", [*SETTINGS, "all"])
def test_no_generation_setting_of_a_folder_reaches_a_run(name, mini, picture):
    expected = answers(mini, picture, probe=False)[1]
    folder = mini.model.generation_config
    found = copy.deepcopy(folder)
    for key, value in SETTINGS.items() if name == "all" else [(name, SETTINGS[name])]:
        setattr(found, key, value)
    mini.model.generation_config = found
    try:
        assert answers(mini, picture, probe=False)[1] == expected
        assert mini.model.generation_config is found  # as before
    finally:
        mini.model.generation_config = folder


@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
def test_a_folder_with_settings_answers_as_without_and_says_so(where, folder, mini, picture):
    expected = answers(mini, picture)[1]
    changes = {"use_cache": False, "num_beams": 3, "no_repeat_ngram_size": 2}
    if where == "config.json":
        path = folder(generation_config__json=None, config__json=changes)
        config = json.loads((path / where).read_text())
        config["text_config"] |= {"use_cache": False, "eos_token_id": 2, "pad_token_id": 3}
        (path / where).write_text(json.dumps(config))
    else:
        path = folder(generation_config__json=changes)
    made, found = answers(load_vlm(path, device="cpu"), picture)
    assert found == expected
    if where == "generation_config.json":
        assert made.notes == (
            "This model's own settings for answers are not used here: no_repeat_ngram_size, "
            "num_beams.",
        )


def test_settings_that_change_no_answer_are_not_worth_a_note(mini):
    def notes(**settings):
        return decoding.notes(SimpleNamespace(generation_config=GenerationConfig(**settings)))

    plain = {"num_beams": 1, "repetition_penalty": 1.0, "min_length": 0, "stop_strings": []}
    assert notes(**plain, use_cache=False, max_new_tokens=5, eos_token_id=7, top_p=0.4) == ()
    assert notes(do_sample=True, temperature=0.2) == ()
    assert notes(do_sample=True, top_p=0.4) == (
        "This model's own settings for answers are not used here: top_p.".replace("are", "is"),
    )
    assert decoding.notes(mini.model) == ()


def test_token_ids_of_the_folder_stay(mini):
    folder = SimpleNamespace(
        generation_config=GenerationConfig(bos_token_id=5, eos_token_id=[6, 7], pad_token_id=8)
    )
    made = decoding.configuration(folder, 12, 0.0)
    assert (made.bos_token_id, made.eos_token_id, made.pad_token_id) == (5, [6, 7], 8)
    assert (made.max_new_tokens, made.do_sample) == (12, False)


def test_the_end_token_of_the_folder_ends_an_answer(mini, picture):
    first = answers(mini, picture, probe=False)[1][0]
    folder = mini.model.generation_config
    mini.model.generation_config = copy.deepcopy(folder)
    mini.model.generation_config.eos_token_id = [first[1], folder.eos_token_id]
    try:
        assert answers(mini, picture, probe=False)[1][0] == first[: first.index(first[1]) + 1]
    finally:
        mini.model.generation_config = folder


def test_a_temperature_may_be_a_whole_number(mini, picture):
    assert type(Options(temperature=3).temperature) is float
    assert answers(mini, picture, temperature=3)[1] == answers(mini, picture, temperature=3.0)[1]


# -- towers with another geometry


@pytest.fixture(scope="module")
def rimmed():
    """Without class token; 47 pixels a side make 5 patches of 9, and a rim of 2."""
    processor = copy.deepcopy(make_processor(47, 9))
    processor.vision_feature_select_strategy, processor.num_additional_image_tokens = "full", 0
    processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    processor.image_processor.image_std = [0.5, 0.5, 0.5]
    config = make_llava(processor, 47, 9).config
    config.vision_config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=47,
        patch_size=9,
    )
    config.vision_feature_select_strategy, config.image_seq_length = "full", 25
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    return VLM(ModelSpec("rimmed", "rimmed"), model, processor)


def test_a_rim_that_no_patch_covers_is_not_shown(rimmed, picture):
    made = rimmed.prepare(picture, QUESTION)
    assert made.seen.size == (45, 45) and made.layout.grids == ((5, 5),)
    assert "cover 45 of 47 pixels a side" in made.notes[-1]
    start = viewer_start(made)
    [sheet] = start["sheets"]
    assert sheet["size"] == [45, 45] and made.sheets[0].boxes[24] == (36, 36, 45, 45)
    pixels = made.inputs["pixel_values"][0].permute(1, 2, 0)[:45, :45]
    seen = torch.tensor(list(made.seen.get_flattened_data())).view(45, 45, 3) / 255
    torch.testing.assert_close(pixels / 2 + 0.5, seen, atol=1e-3, rtol=0)


def test_what_is_shown_is_what_the_answer_hangs_on(rimmed, picture):
    """Each patch is as wide as it is drawn, and the rim changes nothing."""

    def features(change):
        made = rimmed.prepare(picture, QUESTION)
        change(made.inputs["pixel_values"])
        return rimmed.encode(made).outputs.last_hidden_state

    before = features(lambda pixels: None)
    assert torch.equal(before, features(lambda pixels: pixels[:, :, 45:].zero_()))
    assert torch.equal(before, features(lambda pixels: pixels[:, :, :, 45:].zero_()))
    assert not torch.equal(before, features(lambda pixels: pixels[:, :, 44].zero_()))
    counts = (
        last_event(
            compare(rimmed, rimmed.prepare(picture, QUESTION), [PruningMethod()], Options(2))
        )
        .comparison.answers[0]
        .counts
    )
    assert counts.vision == vision_flops(rimmed.model.config, 1)


def test_padding_is_counted_in_patches_of_the_tower(rimmed):
    wide = rimmed.prepare(Image.new("RGB", (94, 44), "red"), QUESTION)  # rows 12 to 33 of 47
    assert wide.padding == (*range(5), *range(20, 25))
    wider = rimmed.prepare(Image.new("RGB", (94, 34), "red"), QUESTION)  # rows 15 to 31
    assert wider.padding == (*range(5), *range(20, 25))
    tall = rimmed.prepare(Image.new("RGB", (36, 94), "red"), QUESTION)  # columns 14 to 31
    assert tall.padding == tuple(5 * row + column for row in range(5) for column in (0, 4))
    # Patches of 47 / 5 pixels would give column 4 here.
    odd = rimmed.prepare(Image.new("RGB", (56, 94), "red"), QUESTION)  # columns 9 to 36
    assert odd.padding == tuple(range(0, 25, 5))
