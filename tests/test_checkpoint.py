"""Other people's folders: old, half saved, damaged, with leftovers or their own code."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from conftest import make_llava, make_processor
from safetensors.torch import save_file
from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from visipruner import files
from visipruner.errors import Refused
from visipruner.files import named
from visipruner.models import checkpoint, hub, loading
from visipruner.models.catalogue import load_vlm
from visipruner.models.checkpoint import SUMS, count_numbers, size_in_16_bit, write_sums
from visipruner.training.config import FOLDER
from visipruner.training.train import SUMMED


def says(*words):
    return pytest.raises(Refused, match=".*".join(words))


@pytest.fixture
def folder(mini_path, tmp_path) -> Path:
    """A copy of the miniature checkpoint, for tests to damage."""
    return shutil.copytree(mini_path, tmp_path / "spoilt")


def edit(file: Path, change):
    data = json.loads(file.read_text()) if file.exists() else {}
    change(data)
    file.write_text(json.dumps(data))


def lose(*keys):
    return lambda data: [data.pop(key) for key in keys]


# -- kind A: processor settings that old or half-saved folders lack

COUNTING = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")


@pytest.mark.parametrize(
    "change",
    [
        *map(lose, COUNTING),
        lose(*COUNTING),
        *(lambda data, key=key: data.update({key: None}) for key in COUNTING),
        lambda data: data.update(patch_size=0, num_additional_image_tokens=7),
        lambda data: data.update(vision_feature_select_strategy="full"),
    ],
)
def test_what_a_processor_says_of_visual_tokens_is_taken_from_the_model(
    change, folder, mini, picture
):
    edit(folder / "processor_config.json", change)
    prompt = load_vlm(folder, device="cpu").prepare(picture, "what colour is the star?")
    assert torch.equal(
        prompt.inputs["input_ids"],
        mini.prepare(picture, "what colour is the star?").inputs["input_ids"],
    )


def test_a_folder_of_before_4_46_has_no_processor_config(folder, mini, picture):
    parts = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(parts["image_processor"]))
    (folder / "processor_config.json").unlink()
    prompt = load_vlm(folder, device="cpu").prepare(picture, "red?")
    assert prompt.layout == mini.prepare(picture, "red?").layout


def save_siglip(path: Path, strategy: str) -> Path:
    """Save a LLaVA whose tower has no class token."""
    processor = make_processor(56, 14)
    config = make_llava(processor, 56, 14).config.to_dict()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    vision = SiglipVisionConfig(**sizes, num_hidden_layers=2, image_size=56, patch_size=14)
    config |= {"vision_config": vision.to_dict(), "vision_feature_select_strategy": strategy}
    LlavaForConditionalGeneration(LlavaConfig(**config)).save_pretrained(path)
    processor.save_pretrained(path)
    edit(path / "processor_config.json", lose(*COUNTING))
    return path


def test_a_tower_without_class_token_is_counted_right(tmp_path, picture):
    vlm = load_vlm(save_siglip(tmp_path / "siglip", "full"), device="cpu")
    prompt = vlm.prepare(picture, "red?")
    assert prompt.layout.num_visual == 16
    with torch.inference_mode():  # transformers compares image tokens with features
        vlm.model(**prompt.inputs)


def test_features_that_are_not_the_patches_are_said_with_their_setting(tmp_path, folder):
    with says("15 visual tokens of 16 patches .vision_feature_select_strategy is 'default'"):
        load_vlm(save_siglip(tmp_path / "siglip", "default"), device="cpu")
    edit(folder / "config.json", lambda data: data.update(vision_feature_select_strategy="full"))
    with says("17 visual tokens of 16 patches .vision_feature_select_strategy is 'full'"):
        load_vlm(folder, device="cpu")


def test_pictures_of_another_size_than_the_towers_are_said(folder):
    change = lambda data: data["image_processor"].update(crop_size={"height": 42, "width": 42})  # noqa: E731
    edit(folder / "processor_config.json", change)
    with says("In 'spoilt'", "make pictures of 42 x 42 pixels", "image_size of config.json is 56"):
        load_vlm(folder, device="cpu")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_mean": 0.5}, "image_mean must be three numbers, .* not 0.5"),
        ({"image_mean": [0.5]}, "image_mean must be three numbers"),
        ({"image_std": [0, 0, 0]}, "image_mean and image_std make numbers that are infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_picture_settings_that_no_picture_survives_are_said(change, words, folder):
    edit(folder / "processor_config.json", lambda data: data["image_processor"].update(change))
    with says("In 'spoilt'", words):
        load_vlm(folder, device="cpu")


def test_a_folder_without_an_image_processor_is_refused_by_that_name(folder):
    (folder / "processor_config.json").unlink()
    with says("'spoilt'"):
        load_vlm(folder, device="cpu")


# -- kind D: vocabulary longer than the embeddings


def add_token(data: dict, number: int):
    token = {"content": "<new>", "single_word": False, "lstrip": False, "rstrip": False}
    data["added_tokens"].append({"id": number, **token, "normalized": False, "special": False})


def test_a_tokenizer_longer_than_the_embeddings_is_refused_when_loading(folder, mini):
    rows = mini.model.get_input_embeddings().num_embeddings
    edit(folder / "tokenizer.json", lambda data: add_token(data, rows))
    with says("tokenizer of 'spoilt'", f"'<new>' has number {rows}", f"0 to {rows - 1} only"):
        load_vlm(folder, device="cpu")


def test_embeddings_beyond_the_tokenizer_are_no_fault(tmp_path, picture):
    """Real checkpoints pad their embeddings to a multiple of 64."""
    processor = make_processor(56, 14)
    model = make_llava(processor, 56, 14)
    model.resize_token_embeddings(len(processor.tokenizer) + 9)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert load_vlm(tmp_path, device="cpu").prepare(picture, "red?").layout.num_visual == 16


@pytest.mark.parametrize("number", [32_000, -200, 0])
def test_a_picture_token_that_the_tokenizer_does_not_know_is_refused(number, folder):
    edit(folder / "config.json", lambda data: data.update(image_token_index=number))
    with says("the token for pictures has number", "by config.json", "'<image>' has number 4"):
        load_vlm(folder, device="cpu")


# -- kind I: weights are counted once


def extra(path: Path, name: str):
    save_file({"layer.weight": torch.zeros(500, 500)}, path / name)


@pytest.mark.parametrize("shard", [None, "100KB"])
def test_leftovers_and_adapters_are_not_counted(shard, mini, tmp_path):
    mini.model.save_pretrained(tmp_path, max_shard_size=shard or "1GB")
    parts = len(list(tmp_path.glob("*.safetensors")))
    for name in ("adapter_model", "consolidated", "model-00001-of-00099"):
        extra(tmp_path, f"{name}.safetensors")
    assert len(checkpoint.weight_files(tmp_path)) == parts and (parts > 1) == bool(shard)
    numbers = sum(parameter.numel() for parameter in mini.model.parameters())
    assert size_in_16_bit(tmp_path) == 2 * numbers


def test_with_both_kinds_of_weights_those_are_counted_that_are_loaded(mini, tmp_path):
    mini.model.save_pretrained(tmp_path, max_shard_size="100KB")
    extra(tmp_path, "model.safetensors")
    assert size_in_16_bit(tmp_path) == 2 * 500 * 500
    found = LlavaForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True, trust_remote_code=False
    )[1]
    assert found["missing_keys"] and found["unexpected_keys"] == {"layer.weight"}


def test_weights_under_another_name_are_named(folder):
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with says("lacks model.safetensors and", "whether consolidated.safetensors is the model"):
        load_vlm(folder)


def test_the_length_of_a_header_is_bounded(folder):
    with open(folder / "model.safetensors", "r+b") as file:
        file.write((2**40).to_bytes(8, "little"))
        file.truncate(2**41)  # its stated length, without disk space
    with says("In 'spoilt', model.safetensors is missing or damaged"):
        count_numbers(folder)


def test_an_adapter_is_called_one(tmp_path):
    extra(tmp_path, "adapter_model.safetensors")
    base = {"base_model_name_or_path": "some-lab/llava-13b"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(base))
    with says("is an adapter and not a whole model", "merge it into 'some-lab/llava-13b'"):
        load_vlm(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[")
    with says("is an adapter", "merge it into the model that it was trained for"):
        load_vlm(tmp_path)


def test_the_hubs_folders_are_complete_without_their_leftovers(mini, tmp_path):
    mini.model.save_pretrained(tmp_path, max_shard_size="100KB")
    extra(tmp_path, "consolidated.safetensors")
    assert hub._complete(tmp_path)
    sorted(tmp_path.glob("model-*.safetensors"))[0].unlink()
    assert not hub._complete(tmp_path)


# -- the folder's own code

MARK = "import pathlib\npathlib.Path({marker!r}).write_text('ran')\n"
# The classes that transformers would look for in the module, so that loading could continue.
CLASSES = "class Own:\n    def __init__(self, *args, **kwargs): pass\n"
CLASSES += "    @classmethod\n    def from_pretrained(cls, *args, **kwargs): return cls()\n"
CLASSES += "    @classmethod\n    def register_for_auto_class(cls, *args): pass\n"
CLASSES += "def generate(model, *args, **kwargs): pass\n"


def own(*kinds):
    return lambda data, home: data.update(auto_map=dict.fromkeys(kinds, f"{home}--own.Own"))


def processor_class(data, home):
    data.update(processor_class="OwnProcessor")
    own("AutoProcessor")(data, home)


def tokenizer_class(data, home):
    data.update(tokenizer_class="OwnTokenizer", auto_map={"AutoTokenizer": ["own.Own", None]})


def tower(data, home):
    """A configuration that transformers knows but has no model for."""
    data["vision_config"] = {"model_type": "colpali", "auto_map": {"AutoModel": f"{home}--own.Own"}}


def image_processor(data, home):
    data["image_processor"] = {
        "image_processor_type": "OwnImages",
        "auto_map": {"AutoImageProcessor": f"{home}--own.Own"},
    }


CODE = {
    "config.json": own("AutoConfig", "AutoModel", "AutoProcessor"),
    "config.json, tower": tower,
    "processor_config.json": processor_class,
    "processor_config.json, image processor": image_processor,
    "preprocessor_config.json": own("AutoImageProcessor", "AutoProcessor"),
    "video_preprocessor_config.json": own("AutoVideoProcessor", "AutoProcessor"),
    "tokenizer_config.json": tokenizer_class,
    "generation_config.json": own("AutoModel", "GenerationConfig"),
}


@pytest.fixture
def marked(folder):
    """A folder with modules that write a marker when they run, and the marker's path."""
    marker = folder.parent / "MARKER"
    text = MARK.format(marker=str(marker)) + CLASSES
    (folder / "own.py").write_text(text)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(text)
    return folder, marker


@pytest.fixture
def yes(monkeypatch):
    """A user who would agree to everything; the list of questions to that user."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda *words: asked.append(words) or "y")
    return asked


@pytest.mark.parametrize("place", CODE)
def test_a_folders_own_code_never_runs_and_nothing_is_asked(place, marked, yes):
    folder, marker = marked
    shutil.rmtree(folder / "custom_generate")
    name = place.split(",")[0]
    edit(folder / name, lambda data: CODE[place](data, folder))
    with says(rf"'spoilt' brings program code of its own \(auto_map in {name}\)") as refusal:
        load_vlm(folder, device="cpu")
    assert not marker.exists() and not yes and "\n" not in str(refusal.value)


@pytest.mark.parametrize("place", [name for name in CODE if name != "config.json, tower"])
def test_transformers_too_is_told_not_to_run_it(place, marked, yes, monkeypatch):
    """The second lock: without the first one, nothing runs and no question is asked either."""
    folder, marker = marked
    monkeypatch.setattr(checkpoint, "check_brings_no_code", lambda path: None)
    edit(folder / place.split(",")[0], lambda data: CODE[place](data, folder))
    with contextlib.suppress(Refused):
        load_vlm(folder, device="cpu")
    assert not marker.exists() and not yes


def test_every_from_pretrained_of_the_project_refuses_code():
    calls = 0
    for file in (*files.ROOT.glob("visipruner/**/*.py"), *files.ROOT.glob("tests/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            called = getattr(getattr(node, "func", None), "attr", None)
            if isinstance(node, ast.Call) and called == "from_pretrained":
                said = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
                assert said.get("trust_remote_code") is False, f"{file}:{node.lineno}"
                calls += 1
    assert calls > 5


def test_generation_code_of_the_folders_own_is_refused(marked, yes):
    folder, marker = marked
    with says(r"program code of its own \(the folder custom_generate\)"):
        load_vlm(folder, device="cpu")
    assert not marker.exists() and not yes


def test_yes_on_standard_input_runs_nothing(marked):
    """The command line itself, with the two files that made transformers ask."""
    folder, marker = marked
    shutil.rmtree(folder / "custom_generate")
    edit(folder / "processor_config.json", lambda data: processor_class(data, folder))
    edit(folder / "config.json", lambda data: tower(data, folder))
    command = "import sys; from visipruner.models.catalogue import load_vlm; load_vlm(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", command, str(folder)],
        input="y\n" * 9,
        capture_output=True,
        text=True,
        cwd=files.ROOT,
        timeout=300,
    )
    assert "brings program code of its own" in done.stderr and not marker.exists()
    assert "y/N" not in done.stdout + done.stderr


def test_no_kernel_is_fetched_that_a_configuration_names(folder):
    """Hub kernels are code too; transformers fetches those that a folder names as attention."""

    def name_kernels(data):
        for part in (data, data["text_config"], data["vision_config"]):
            part["attn_implementation"] = "someone/kernels"

    edit(folder / "config.json", name_kernels)
    model = load_vlm(folder, device="cpu").model
    assert {
        part.config._attn_implementation
        for part in model.model.children()
        if hasattr(part, "config")
    } == {"sdpa"}


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_settings_that_cannot_be_searched_for_code_are_refused(name, folder):
    (folder / name).write_bytes(b'{"auto_map": {"AutoConfig": "own.Own"}, "\xff": 1}')
    with says(f"{name} is .*damaged"):
        load_vlm(folder)


def test_an_empty_auto_map_names_no_code(folder):
    edit(folder / "tokenizer_config.json", lambda data: data.update(auto_map={}))
    assert load_vlm(folder, device="cpu")


@pytest.mark.parametrize(
    "reach",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__.__subclasses__()[0]('x') }}",
        "{{ raise_exception.__globals__['json'].codecs.open(MARKER, 'w').write('ran') }}",
        "{{ cycler.__init__.__globals__.os.system('touch ' ~ MARKER) }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
        "{% set _ = messages.append(1) %}",
    ],
)
def test_a_template_that_reaches_for_python_is_refused(reach, mini_path, marked):
    folder, marker = marked
    shutil.rmtree(folder / "custom_generate")
    (folder / "own.py").unlink()
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        f"{{% set MARKER = {str(marker)!r} %}}{reach}{template}"
    )
    with says("The model in 'spoilt' could not be loaded: ") as refusal:
        load_vlm(folder, device="cpu")
    assert not marker.exists() and "\n" not in str(refusal.value)


# -- checksums


def test_the_bundled_models_checksums_are_true_and_name_all_that_an_answer_depends_on():
    lines = [line.split() for line in (FOLDER / SUMS).read_text().splitlines()]
    assert [name for _, name in lines] == list(SUMMED)
    for digest, name in lines:
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_flipped_bytes_are_noticed(folder):
    write_sums(folder, ["config.json", "model.safetensors"])
    assert load_vlm(folder, device="cpu")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-8192:-4096] = bytes(byte ^ 1 for byte in weights[-8192:-4096])
    (folder / "model.safetensors").write_bytes(weights)
    with says("In 'spoilt', model.safetensors is missing or was changed", SUMS, "fetch it again"):
        load_vlm(folder, device="cpu")


@pytest.mark.parametrize("listing", [b"one word\nthree or more words\n", b"\xff\xfe\0", b"abc"])
def test_a_damaged_list_of_checksums_is_said(listing, folder):
    (folder / SUMS).write_bytes(listing)
    with says(f"In 'spoilt', {SUMS} is damaged"):
        load_vlm(folder)


def test_only_files_of_the_folder_are_summed(folder):
    (folder.parent / "secret").write_text("")
    (folder / SUMS).write_text(hashlib.sha256().hexdigest() + "  ../secret\n")
    with says("secret is missing or was changed"):
        load_vlm(folder)


# -- sentences


def test_sentences_name_no_folder_of_the_server(folder):
    (folder / "model.safetensors").unlink()
    for spoil in (
        lambda: (folder / "model.safetensors.index.json").write_text("[]"),
        lambda: (folder / "presets.json").write_text("[") and make_weights(folder),
        lambda: (folder / "tokenizer.json").unlink(),
        lambda: (folder / "config.json").unlink(),
    ):
        spoil()
        with says("'spoilt'") as refusal:
            load_vlm(folder, device="cpu")
        assert str(folder.parent) not in str(refusal.value)
    with says("There is no model 'nowhere'") as refusal:
        load_vlm(folder.parent / "nowhere")
    assert str(folder.parent) not in str(refusal.value)


def make_weights(folder: Path):
    save_file({"x": torch.zeros(9)}, folder / "model.safetensors")


def test_a_path_is_shown_from_the_project_or_by_its_last_part(tmp_path):
    assert files.shown(FOLDER) == repr(str(Path("assets/tiny-llava")))
    assert files.shown(tmp_path / "mine") == "'mine'"
    assert files.shown(Path("out/report.html")) == repr(str(Path("out/report.html")))
    assert files.shown(Path("/")) == "'/'"
    assert len(files.shown(Path("x" * 500))) == 82
    snapshot = tmp_path / "models--some--thing-7b" / "snapshots" / ("0" * 40)
    assert named(snapshot) == "'some/thing-7b'"


def test_words_of_a_library_are_short_and_without_folders(tmp_path):
    def words(error):
        try:
            raise error
        except Exception as caught:
            return checkpoint._words(tmp_path, caught)

    long = words(ValueError("x" * 500))
    assert len(long) == 82 and long.endswith("…”")
    assert words(OSError(f"no file in {tmp_path}/")) == f"“no file in {tmp_path.name}/”"
    assert words(OSError("no /srv/secret/x and '/srv/y.json'")) == "“no x and 'y.json'”"
    assert words(ValueError("see https://hf.co/docs")) == "“see https://hf.co/docs”"
    assert words(KeyError("abacus")) == "“'abacus' is missing”"
    assert words(ValueError("")) == "“ValueError”"


def test_a_fault_of_this_package_is_not_called_a_damaged_checkpoint(folder, monkeypatch):
    monkeypatch.setattr(loading, "count_numbers", lambda path: 5)  # the next step reads the length
    with pytest.raises(TypeError, match="has no len"):
        load_vlm(folder, device="cpu")


def test_a_language_model_that_is_not_understood_is_refused_by_both_names(tmp_path):
    processor = make_processor(56, 14)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    text = {"model_type": "starcoder2", "num_hidden_layers": 2, "num_key_value_heads": 2, **sizes}
    config = make_llava(processor, 56, 14).config.to_dict()
    config["text_config"] = {**text, "vocab_size": len(processor.tokenizer)}
    LlavaForConditionalGeneration(LlavaConfig(**config)).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with says("Starcoder2Model of transformers " + transformers.__version__, "cannot be pruned"):
        load_vlm(tmp_path, device="cpu")
