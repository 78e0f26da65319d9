"""Real checkpoints in miniature: their device, precision and source, and what is refused."""

from __future__ import annotations

import copy
import gc
import json
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import page_server
import pytest
import torch
from PIL import Image
from support import check_dropping_equals_masking
from transformers import LlavaForConditionalGeneration

from visipruner import FastV, PruningMethod, Schedule, VisiPruner, prune
from visipruner.families.llava import Llava
from visipruner.layout import TokenLayout
from visipruner.models import checkpoint, hub, loading, memory, processor
from visipruner.models.catalogue import MODELS, ModelSpec, load_vlm
from visipruner.models.loading import place
from visipruner.models.memory import GIGABYTE
from visipruner.models.specs import menu
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event, measure
from visipruner.sheets import Sheet
from visipruner.ui.store import Models

SEVEN, THIRTEEN = MODELS["llava-1.5-7b"], MODELS["llava-1.5-13b"]
SHORT = Options(max_new_tokens=4, probe=False)


def says(*words):
    return pytest.raises(ValueError, match=".*".join(words))


# -- which models exist, and where


def test_the_menu_is_all_models_or_those_of_the_variable(monkeypatch):
    monkeypatch.delenv("VISIPRUNER_MODELS", raising=False)
    assert list(menu()) == list(MODELS)
    monkeypatch.setenv("VISIPRUNER_MODELS", "llava-1.5-7b, tiny")
    assert list(menu()) == ["llava-1.5-7b", "tiny"]
    monkeypatch.setenv("VISIPRUNER_MODELS", "llava-2")
    with says("VISIPRUNER_MODELS must be one of tiny", "llava-2"):
        menu()


@pytest.mark.parametrize("name", ["llava-1.5-7b", "llava-1.5-7b-hf"])
def test_a_folder_on_the_shelf_is_used_before_the_hub(name, mini_path, tmp_path, monkeypatch):
    shutil.copytree(mini_path, tmp_path / name)
    monkeypatch.setenv("VISIPRUNER_MODEL_DIR", str(tmp_path))
    assert SEVEN.find() == tmp_path / name
    vlm = load_vlm("llava-1.5-7b", device="cpu")
    assert vlm.spec.title == "LLaVA-1.5 7B" and vlm.spec.path == str(tmp_path / name)


def test_a_shelf_that_cannot_be_read_has_no_models(monkeypatch):
    monkeypatch.setenv("VISIPRUNER_MODEL_DIR", "x" * 300)
    monkeypatch.setattr(hub, "find", lambda repo: None)
    assert SEVEN.find() is None


# -- onto which device


def test_one_gpu_where_the_model_fits_and_all_where_it_does_not(machine):
    def where(device=None, precision="auto", spec=SEVEN):
        found = place(spec.title, spec.size, device, precision)
        return found.precision, found.device_map, found.max_memory

    machine(8, 24)
    assert where() == ("bfloat16", {"": 1}, None)
    assert where(precision="4-bit") == ("4-bit", {"": 1}, None)
    assert where("cuda:0", "4-bit") == ("4-bit", {"": 0}, None)
    with says("LLaVA-1.5 7B needs 16.1 GB", "8.0 GB are free on cuda:0", "4-bit it takes 6.7 GB"):
        where("cuda:0")
    machine(20, 20)
    shares = {0: 18 * GIGABYTE, 1: 18 * GIGABYTE}
    assert where(spec=THIRTEEN) == ("bfloat16", "auto", shares)
    with says("55.4 GB of GPU memory in float32", "40.0 GB are free on the 2 GPU"):
        where(precision="float32", spec=THIRTEEN)
    machine(6)
    with says("6.7 GB of GPU memory in 4-bit, but 6.0 GB are free on the 1 GPU.s. here.$"):
        where(precision="4-bit")


def test_a_cpu_takes_a_large_model_only_when_asked_to(machine):
    machine(main=20)
    with says("needs a GPU with 16.1 GB", "6.7 GB in 4-bit", "finds none here; with --device cpu"):
        place(SEVEN.title, SEVEN.size, None, "auto")
    asked = place(SEVEN.title, SEVEN.size, "cpu", "auto")
    assert (asked.precision, asked.device_map) == ("bfloat16", {"": "cpu"})
    with says("28.7 GB of main memory in bfloat16, but 20.0 GB are free", "10.8 GB"):
        place(THIRTEEN.title, THIRTEEN.size, "cpu", "auto")
    assert place("mini", 10**6, None, "auto").precision == "float32"


def test_unknown_devices_and_precisions_are_refused(machine):
    machine(24)
    for device in ("cuda:1", "cuda:7"):
        with says("no " + device, "finds 1 CUDA"):
            place("x", 1, device, "auto")
    for device in ("tpu", "xpu", "", 3.5):
        with says("must be cpu, cuda or cuda:NUMBER"):
            place("x", 1, device, "auto")
    with says("precision must be one of auto, float32", "8-bit"):
        place("x", 1, "cpu", "8-bit")


def test_no_download_begins_for_a_model_that_has_no_place(machine, monkeypatch, tmp_path):
    machine()
    monkeypatch.setattr(ModelSpec, "find", lambda self: None)
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("went online"))
    with says("needs a GPU"):
        load_vlm("llava-1.5-7b")


def test_memory_limits_of_a_container_count():
    assert 0 < memory.free_on_cpu() < 2**50
    small = memory.SMALL - 1
    assert memory.needed(small, "4-bit") < memory.needed(small, "bfloat16") == small


def test_files_that_were_read_are_no_memory_in_use(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = memory.free_on_cpu()
    limit = free // 2
    for name, words in (
        ("max", str(limit)),
        ("current", str(limit - 1000)),
        ("stat", "anon 5\ninactive_file 600"),
    ):
        (tmp_path / f"memory.{name}").write_text(words)
    assert memory.free_on_cpu() == 1600


def test_a_path_is_never_a_name(monkeypatch, tmp_path):
    """Folders may have the names of the menu's models."""
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    with says("tiny"):
        load_vlm(Path("tiny"))  # an empty folder


def test_size_is_counted_at_two_bytes_per_number(mini, mini_path):
    numbers = sum(parameter.numel() for parameter in mini.model.parameters())
    assert checkpoint.size_in_16_bit(mini_path) == 2 * numbers


# -- 4-bit, run on the CPU


@pytest.fixture(scope="module")
def four_bit(mini_path):
    pytest.importorskip("bitsandbytes")
    return load_vlm(mini_path, device="cpu", precision="4-bit")


def test_only_the_language_models_linear_layers_are_in_4_bit(four_bit):
    from bitsandbytes.nn import Linear4bit

    small = [n for n, m in four_bit.model.named_modules() if isinstance(m, Linear4bit)]
    assert len(small) == 8 * 7 and all(".language_model.layers." in name for name in small)
    quantised = four_bit.model.model.language_model.layers[0].mlp.up_proj.weight
    assert quantised.dtype == torch.uint8 and quantised.quant_state.quant_type == "nf4"
    assert quantised.quant_state.nested  # double quantisation
    assert four_bit.dtype == torch.float32 and four_bit.precision == "4-bit"


def test_odd_layers_in_4_bit_run_on_every_cpu(mini_path, monkeypatch):
    """As on a CPU with AVX-512 BF16, where bitsandbytes packs weights by whole blocks."""
    modules = pytest.importorskip("bitsandbytes.nn.modules")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: True)
    vlm = load_vlm(mini_path, device="cpu", precision="4-bit")
    layers = [m for m in vlm.model.modules() if isinstance(m, modules.Linear4bit)]
    packed = {(m.in_features, m.support_avx512bf16_for_cpu) for m in layers}
    assert packed == {(64, True), (96, False)}


def test_wrong_names_to_skip_do_not_pass_silently(mini_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    wrong = ("vision_tower", "multi_modal_projector")
    monkeypatch.setattr(Llava, "not_in_4_bit", wrong)
    with says("Loading in 4 bits went wrong: model.vision_tower", "only the layers"):
        load_vlm(mini_path, device="cpu", precision="4-bit")


def test_4_bit_answers_prune_and_keep_all_is_bit_identical(four_bit, picture):
    prompt = four_bit.prepare(picture, "what colour is the star?")
    methods = [PruningMethod(), VisiPruner(shallow_layers=2, layer_threshold=0.9999)]
    comparison = last_event(compare(four_bit, prompt, methods, SHORT)).comparison
    assert comparison.machine["dtype"] == "4-bit"
    with torch.inference_mode():
        plain = four_bit.model.generate(**prompt.inputs, max_new_tokens=4, do_sample=False)
    assert comparison.answers[0].tokens == plain[0, prompt.layout.length :].tolist()
    assert comparison.answers[1].trace.why
    check_dropping_equals_masking(four_bit.model, prompt.inputs, prompt.layout)


# -- memory runs out


def test_out_of_memory_is_said_freed_and_the_next_run_works(mini, picture):
    prompt = mini.prepare(picture, "what colour is the star?")
    methods = [PruningMethod(), FastV(keep=3)]
    expected = last_event(compare(mini, prompt, methods, SHORT)).comparison
    held = []

    def full(module, args, kwargs):
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    layer = mini.model.model.language_model.layers[3]
    for run in (
        lambda: last_event(compare(mini, prompt, methods, SHORT)),
        lambda: measure(mini, prompt, methods, SHORT, rounds=1),
    ):
        handle = layer.register_forward_pre_hook(full, with_kwargs=True)
        with says("ran out of memory", "4-bit"):
            run()
        handle.remove()
        gc.collect()
        assert all(reference() is None for reference in held)
        assert not mini.lock.locked()
    again = last_event(compare(mini, prompt, methods, SHORT)).comparison
    assert [a.tokens for a in again.answers] == [a.tokens for a in expected.answers]


def test_out_of_memory_while_loading(mini_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(LlavaForConditionalGeneration, "from_pretrained", full)
        with says("ran out of memory"):
            load_vlm(mini_path, device="cpu")
    assert load_vlm(mini_path, device="cpu")


def test_torchs_error_on_a_cpu_is_known():
    with pytest.raises(Exception, match="allocate") as error:
        torch.empty(2**60)
    assert memory.is_out_of_memory(error.value)
    assert not memory.is_out_of_memory(RuntimeError("shapes"))


# -- one in memory


def test_switching_frees_the_old_model(mini_path, tmp_path, monkeypatch):
    folder = tmp_path / "other"
    shutil.copytree(mini_path, folder)
    spec = ModelSpec("other", "other", str(folder))
    monkeypatch.setitem(MODELS, "other", spec)
    monkeypatch.setenv("VISIPRUNER_MODELS", "other")
    server = Models(str(mini_path), device="cpu")
    monkeypatch.setattr(memory, "LARGE", 1)
    first = weakref.ref(server.get("mini-llava").model)
    assert server.peek("mini-llava")
    second = server.get("other")
    gc.collect()
    assert first() is None and server.peek("other") and not server.peek("mini-llava")
    assert server.get("other") is second
    server.get("other", precision="bfloat16")
    assert len(server._loaded) == 1
    monkeypatch.setattr(memory, "LARGE", 2 * GIGABYTE)
    server.get("other"), server.get("mini-llava"), server.get("other", "eager")
    assert len(server._loaded) == 3  # small models may stay together


# -- damaged and foreign checkpoints


def with_config(mini_path, tmp_path, change):
    folder = tmp_path / "changed"
    shutil.copytree(mini_path, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_kind_that_no_family_serves_is_refused_by_its_name(mini_path, tmp_path):
    folder = with_config(mini_path, tmp_path, lambda c: c.update(model_type="idefics2"))
    with says(r"holds a .idefics2. model; models of these kinds .* llava \(LLaVA-1.5\), .*\.$"):
        load_vlm(folder)


def test_sliding_windows_are_refused_with_a_sentence(mini_path, tmp_path):
    folder = with_config(mini_path, tmp_path, lambda c: c["text_config"].update(sliding_window=9))
    with says("sliding window of 9 tokens"):
        load_vlm(folder)


def test_a_missing_part_of_the_weights_is_named(mini_path, tmp_path):
    folder = tmp_path / "split"
    load_vlm(mini_path).model.save_pretrained(folder, max_shard_size="100KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    parts[1].unlink()
    with says(f"lacks {parts[1].name}, one of {len(parts)}"):
        load_vlm(folder)


def test_weights_that_cannot_be_read_are_named(mini_path, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(mini_path, folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()  # reading it raises an OSError, even for root
    with says("model.safetensors is missing or damaged"):
        load_vlm(folder)


def test_missing_weights_are_not_replaced_by_random_ones(mini_path, tmp_path):
    def deeper(config):
        config["text_config"]["num_hidden_layers"] += 1

    with says("lacks weights", r"layers\.8\."):
        load_vlm(with_config(mini_path, tmp_path, deeper))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: "{", "Expecting"),
        (lambda p: "[" * 100_000, "recursion"),
        (lambda p: [], "no settings for 'paper'"),
        (lambda p: {"official": p["official"]}, "no settings for 'paper'"),
        (lambda p: p | {"official": []}, "settings for 'official' must be an object"),
        (lambda p: p["paper"].pop("exit_threshold") and p, "exit_threshold of 'paper' must be"),
        (lambda p: p["official"].update(shallow_layers=[1, 2]) or p, "list of five numbers"),
        (lambda p: p["paper"].update(tokens_threshold=["x"] * 5) or p, "each tokens_threshold"),
        (lambda p: p["paper"].update(layer_threshold=[7] * 5) or p, "layer_threshold must be"),
        (lambda p: p["paper"].update(relative=1) or p, "relative of 'paper' must be true"),
        (lambda p: p["paper"].update(stages=5) or p, "stages of 'paper' must be a list"),
        (lambda p: p["paper"].update(stages=["late"]) or p, "stages must be one of"),
    ],
)
def test_damaged_presets_end_the_loading_in_a_sentence(change, words, mini_path, tmp_path):
    folder = with_config(mini_path, tmp_path, lambda c: None)
    presets = change(copy.deepcopy(page_server.PRESETS))
    text = presets if isinstance(presets, str) else json.dumps(presets)
    (folder / "presets.json").write_text(text)
    with says("presets.json is damaged: ", words):
        load_vlm(folder)


def in_file(name, *keys, value):
    """Change a checkpoint: a value of another kind in one of its JSON files."""

    def change(folder):
        path = folder / name
        data = found = json.loads(path.read_text()) if path.exists() else {}
        for key in keys[:-1]:
            found = found[key]
        if keys:
            found[keys[-1]] = value
        path.write_text(json.dumps(data if keys else value))

    return change


def raw(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def in_index(value):
    def change(folder):
        (folder / "model.safetensors").unlink()
        in_file("model.safetensors.index.json", value=value)(folder)

    return change


COULD_NOT = "The model in .* could not be loaded: "


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_file("config.json", value=[]), "config.json is missing or damaged"),
        (in_file("config.json", "text_config", value=5), "config.json is missing or damaged"),
        (in_file("config.json", "text_config", "hidden_size", value="x"), COULD_NOT),
        (in_file("config.json", "text_config", "num_attention_heads", value=0), COULD_NOT),
        (in_file("config.json", "text_config", "model_type", value="abacus"), COULD_NOT),
        (in_file("config.json", "vision_config", value=[1]), COULD_NOT),
        (in_file("config.json", "vision_config", "patch_size", value=0), COULD_NOT),
        (in_file("generation_config.json", value=[]), COULD_NOT),
        (in_file("tokenizer_config.json", value=[]), COULD_NOT),
        (in_file("tokenizer.json", "model", value=[]), COULD_NOT),
        (in_file("processor_config.json", value=[]), COULD_NOT),
        (in_index([]), "index.json is damaged"),
        (in_index({"weight_map": {"x": 5}}), "index.json is damaged"),
        (raw("config.json", b"[" * 100_000), "config.json is missing or damaged"),
        (raw("model.safetensors", b"\xff" * 5000), "safetensors is missing or damaged"),
        (raw("model.safetensors", b"\xff" * 5 + b"\0" * 3), "safetensors is missing or damaged"),
        (raw("model.safetensors", b"\x02" + b"\0" * 7 + b"[]"), "is missing or damaged"),
        (raw("chat_template.jinja", b"{% for"), COULD_NOT + "The chat template .* broken"),
        (raw("chat_template.jinja", b"{{ nothing.at.all }}"), "The chat template .* broken"),
        (raw("chat_template.jinja", b"no picture"), COULD_NOT),
    ],
)
def test_damaged_files_of_any_kind_end_in_one_sentence(change, words, mini_path, tmp_path):
    folder = with_config(mini_path, tmp_path, lambda c: None)
    change(folder)
    with says(words) as error:
        load_vlm(folder, device="cpu")
    assert str(error.value).count("\n") == 0 and str(error.value).endswith(".")


@pytest.mark.parametrize("spans", [(), ((1, 10),), ((1, 5), (7, 11))])
def test_a_template_without_exactly_one_picture_is_refused(spans, tmp_path):
    """transformers 5.20 makes such prompts; the newest release refuses them itself."""
    sheets = (Sheet.of_grid(Image.new("RGB", (8, 8)), 2, 2),)
    prompt = SimpleNamespace(layout=TokenLayout(12, spans), sheets=sheets)
    vlm = SimpleNamespace(prepare=lambda *_: prompt)
    with says("could not be loaded: its chat template does not put one picture into a question"):
        processor.try_prompt(tmp_path, vlm)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text_config": {}}, r"asks for 6,\d+,\d+,\d+ numbers, but its weights have 294,848"),
        ({"text_config": {"num_hidden_layers": 10**6}}, r"asks for 1,000,0\d\d layers"),
    ],
)
def test_a_configuration_of_a_larger_model_is_refused_unbuilt(
    change, words, mini_path, tmp_path, monkeypatch
):
    built = LlavaForConditionalGeneration, "from_pretrained"
    monkeypatch.setattr(*built, lambda *_, **__: pytest.fail("was built"))
    with says("config.json", words):
        load_vlm(with_config(mini_path, tmp_path, lambda c: c.update(change)), device="cpu")


@pytest.mark.parametrize("name", ["7b", "13b"])
def test_a_configuration_that_fits_is_let_through(name, tmp_path, monkeypatch):
    """Real checkpoints' configurations leave most values to the defaults."""
    large = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40}
    text = {"model_type": "llama", "vocab_size": 32064}
    if name == "13b":
        text |= {**large, "num_attention_heads": 40, "num_key_value_heads": 40}
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096}
    vision |= {"num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
    vision |= {"image_size": 336, "projection_dim": 768}
    config = {"model_type": "llava", "text_config": text, "vision_config": vision}
    (tmp_path / "config.json").write_text(json.dumps(config))
    numbers = MODELS[f"llava-1.5-{name}"].size // 2
    monkeypatch.setattr(loading, "count_numbers", lambda _: [numbers // 600] * 600)
    loading.build_empty(tmp_path)
    monkeypatch.setattr(loading, "MOST_OF_CONFIG", 0.9)
    with says(r"asks for (7,0|13,3)\d\d,\d+,\d+ numbers"):
        loading.build_empty(tmp_path)


# -- prompts of the real checkpoints


@pytest.mark.network
@pytest.mark.parametrize("spec", [SEVEN, THIRTEEN], ids=["7b", "13b"])
def test_the_real_tokenizer_gives_the_35_prefix_tokens_of_the_paper(spec, picture):
    from huggingface_hub import snapshot_download
    from transformers import AutoConfig, AutoProcessor

    small = ["*.json", "*.jinja", "*.model"]
    folder = snapshot_download(spec.repo, allow_patterns=small)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    prompt = Llava().prepare(config, processor, picture, "What is this?")
    assert prompt.layout.spans[0][0] == 35 and prompt.layout.num_visual == 576
    assert prompt.layout.grids == ((24, 24),)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "4-bit"])
def test_a_gpu_answers_as_the_cpu_in_outline(precision, mini_path, picture):
    """The first logits are close, also pruned by a schedule, which no rounding changes."""
    methods = [PruningMethod(), Schedule(keep=3, keep_after=2, none_after=5)]
    firsts = []
    exact = "4-bit" if precision == "4-bit" else "float32"  # 4 bits alone move them far
    for device, kind in (("cpu", exact), ("cuda", precision)):
        vlm = load_vlm(mini_path, device=device, precision=kind)
        prompt = vlm.prepare(picture, "what colour is the star?")
        done = last_event(compare(vlm, prompt, methods, SHORT)).comparison
        inputs = {k: v.to(vlm.device) for k, v in prompt.inputs.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(vlm.dtype)
        for method in methods:
            with torch.inference_mode(), prune(vlm.model, method, prompt.layout):
                firsts.append(vlm.model(**inputs, logits_to_keep=1).logits.float().cpu().flatten())
    assert done.answers[0].counts.peak_bytes > 0 and done.answers[1].times.prefill > 0
    least = 0.98 if precision == "4-bit" else 0.99  # there the GPU multiplies in bfloat16
    for cpu, gpu in zip(firsts[:2], firsts[2:], strict=True):
        assert torch.cosine_similarity(cpu, gpu, dim=0) > least
