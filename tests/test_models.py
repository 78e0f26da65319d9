"""Real checkpoints in miniature: where they go, how precisely, from where, and what is refused."""

from __future__ import annotations

import copy
import gc
import json
import os
import shutil
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from places import Places, place_of
from test_engine import DROPPING
from test_visipruner import LAYOUTS, embeds_for
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
)

from visipruner import (
    FastV,
    PruningMethod,
    Schedule,
    TokenLayout,
    VisiPruner,
    hub,
    loading,
    memory,
    prune,
)
from visipruner import models as models_module
from visipruner.loading import place
from visipruner.memory import GIGABYTE
from visipruner.models import MODELS, ModelSpec, load_vlm, menu
from visipruner.prompt import SYSTEM, prompt_text
from visipruner.runner import Options, compare, last_event, measure
from visipruner.ui.store import Models

SEVEN, THIRTEEN = MODELS["llava-1.5-7b"], MODELS["llava-1.5-13b"]
SHORT = Options(max_new_tokens=4, probe=False)
LAYOUT = LAYOUTS["one picture"]


def says(*words, of=ValueError):
    return pytest.raises(of, match=".*".join(words))


# -- which models there are, and where


def test_the_menu_is_all_models_or_those_of_the_variable(monkeypatch):
    monkeypatch.delenv("VISIPRUNER_MODELS", raising=False)
    assert list(menu()) == ["tiny", "llava-1.5-7b", "llava-1.5-13b"]
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


# -- onto which device


@pytest.fixture
def machine(monkeypatch):
    """(free gigabytes of each GPU, of main memory): what this machine pretends to have."""

    def pretend(*gpus, main=64):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        monkeypatch.setattr(
            torch.cuda, "mem_get_info", lambda index: (gpus[index] * GIGABYTE, 80 * GIGABYTE)
        )
        monkeypatch.setattr(memory, "free_on_cpu", lambda: main * GIGABYTE)

    return pretend


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
    assert memory.needed(10**9, "4-bit") < memory.needed(10**9, "bfloat16") == 10**9


def test_size_is_counted_at_two_bytes_per_number(mini, mini_path):
    numbers = sum(parameter.numel() for parameter in mini.model.parameters())
    assert loading.size_in_16_bit(mini_path) == 2 * numbers


# -- 4-bit, truly run on the CPU


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


def test_wrong_names_to_skip_do_not_pass_silently(mini_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(loading, "NOT_IN_4_BIT", ["vision_tower", "multi_modal_projector"])
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


# -- several devices


def test_accelerate_splits_between_layers_and_never_inside_one(mini):
    model = mini.model
    size = model.get_memory_footprint()
    split = infer_auto_device_map(
        model,
        max_memory={0: int(size * 0.6), 1: int(size * 0.6)},
        no_split_module_classes=list(model._no_split_modules),
    )
    layers = [name for name in split if ".layers." in name and "language_model" in name]
    assert {0, 1} <= set(split.values())
    assert all(name.split(".")[-1].isdigit() for name in layers)


def decisions(trace):
    """All but the scores, whose last bits depend on how a weight lies in memory."""
    layers = [(r.tokens, r.visual_tokens, r.stage, r.pairs, r.kv_tokens) for r in trace.layers]
    return [cut.kept for cut in trace.cuts], layers, trace.decode_kv


@pytest.mark.parametrize("name", ["visipruner", "fastv", "random at the door"])
def test_a_dispatched_model_prunes_the_same(name, mini, picture, tmp_path):
    """Real accelerate hooks, weights of later layers on disk: the modules are empty in between."""
    prompt = mini.prepare(picture, "what colour is the star?")
    split = {f"model.language_model.layers.{i}": "disk" if i > 3 else "cpu" for i in range(8)}
    rest = ("model.vision_tower", "model.multi_modal_projector", "model.language_model.norm")
    split |= dict.fromkeys((*rest, "lm_head", "model.language_model.rotary_emb"), "cpu")
    split["model.language_model.embed_tokens"] = "cpu"
    model = copy.deepcopy(mini.model)
    dispatched = copy.copy(mini)
    dispatched.model = dispatch_model(model, split, main_device="cpu", offload_dir=tmp_path)
    dispatched.__dict__.pop("devices", None)
    assert model.model.language_model.layers[5].mlp.up_proj.weight.device.type == "meta"
    assert dispatched.device == torch.device("cpu") and dispatched.devices == [dispatched.device]
    methods = [PruningMethod(), DROPPING[name]]
    alone, over = (
        last_event(compare(vlm, prompt, methods, SHORT)).comparison for vlm in (mini, dispatched)
    )
    for one, other in zip(alone.answers, over.answers, strict=True):
        assert one.tokens == other.tokens and decisions(one.trace) == decisions(other.trace)


def loop(model, embeds, method, layout, steps=3):
    """Prefill and a few greedy steps, without generate(): the logits and the trace."""
    logits = []
    with torch.no_grad(), prune(model, method, layout) as trace:
        output = model(inputs_embeds=embeds)
        for _ in range(steps):
            logits.append(output.logits[:, -1].cpu())
            token = output.logits[:, -1:].argmax(-1)
            output = model(token, past_key_values=output.past_key_values)
    return torch.cat(logits), trace


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", DROPPING)
def test_pruning_goes_across_the_border_of_two_devices(name, attention, llama):
    """Imitated GPUs: whatever mixes tensors of two devices raises. accelerate's own hooks move."""
    plain = llama(attention)
    embeds = embeds_for(LAYOUT, 64)
    expected, trace = loop(plain, embeds, DROPPING[name], LAYOUT)
    model = copy.deepcopy(plain)
    first, second = torch.device("cuda", 0), torch.device("cuda", 1)
    inner = model.model
    homes = dict.fromkeys((inner.embed_tokens, inner.rotary_emb, *inner.layers[:4]), first)
    homes |= dict.fromkeys((*inner.layers[4:], inner.norm, model.lm_head), second)
    with Places() as places:
        for module, home in homes.items():
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.place = home
            add_hook_to_module(module, AlignDevicesHook(home, place_submodules=False))
        found, split_trace = loop(model, embeds.to(first), DROPPING[name], LAYOUT)
    assert torch.equal(found, expected) and split_trace.to_json() == trace.to_json()
    assert places.used["cuda:0"] > 100 and places.used["cuda:1"] > 100


def test_the_imitation_refuses_what_real_devices_refuse():
    with Places(), pytest.raises(RuntimeError, match="cuda:0.*cuda:1"):
        torch.ones(3, device="cuda:0") + torch.ones(3).to("cuda:1")
    with Places():
        assert place_of(torch.ones(3).to("cuda:1") * torch.tensor(2.0)) == torch.device("cuda:1")


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
    assert server.is_loaded("mini-llava")
    second = server.get("other")
    gc.collect()
    assert first() is None and server.is_loaded("other") and not server.is_loaded("mini-llava")
    assert server.get("other") is second
    server.get("other", precision="bfloat16")
    assert len(server._loaded) == 1
    monkeypatch.setattr(memory, "LARGE", 2 * GIGABYTE)
    server.get("other"), server.get("mini-llava"), server.get("other", "eager")
    assert len(server._loaded) == 3  # small ones may stay together


# -- the download: a child process, here with another function in place of the hub's

FAKE = """
import sys, time
sys.argv = ["hub.py", "some/model"]
sys.path.insert(0, {folder!r})
import hub
def snapshot(repo, allow_patterns, tqdm_class):
    assert "*.safetensors" in allow_patterns and "*.bin" not in allow_patterns
    import os; assert os.environ["HF_HUB_OFFLINE"] == "0"
    bar = tqdm_class(total=0, name="huggingface_hub.snapshot_download", unit="B", disable=True)
    other = tqdm_class(total=0, name="huggingface_hub.snapshot_download.transfer")
    bar.total = 50
    for _ in range(5):
        time.sleep({pause})
        bar.update(10); other.update(3)
    {end}
hub.HEARTBEAT = 0.02
sys.exit(hub.main("some/model", snapshot))
"""


@pytest.fixture
def fake_hub(monkeypatch, tmp_path):
    def make(pause=0.05, end=""):
        source = FAKE.format(folder=os.path.dirname(hub.__file__), pause=pause, end=end)
        path = tmp_path / "child.py"
        path.write_text(source)
        monkeypatch.setattr(hub, "_command", lambda repo: [sys.executable, "-P", str(path)])

    return make


def test_a_download_reports_bytes_until_all_are_here(fake_hub):
    fake_hub()
    seen = list(hub.download("some/model", 50))
    assert seen[-1] == hub.Progress(50, 50)
    done = [progress.done for progress in seen]
    assert done == sorted(done) and len(set(done)) > 2


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("raise hub.LocalEntryNotFoundError('x')", "cannot be reached.*VISIPRUNER_MODEL_DIR"),
        ("raise ConnectionError('x')", "cannot be reached"),
        ("raise OSError(28, 'No space left')", "disk is full"),
        ("raise KeyError('odd')", r"failed \(KeyError\)"),
        ("os._exit(3)", "broke off"),
    ],
)
def test_a_download_that_fails_says_why(end, words, fake_hub):
    fake_hub(0.001, end)
    with says(words):
        list(hub.download("some/model", 50))


def test_closing_a_download_ends_the_child(fake_hub, monkeypatch):
    fake_hub(pause=60)
    children = []
    popen = hub.subprocess.Popen
    spy = lambda *args, **kw: children.append(popen(*args, **kw)) or children[-1]  # noqa: E731
    monkeypatch.setattr(hub.subprocess, "Popen", spy)
    progress = hub.download("some/model", 50)
    assert next(progress).done == 0  # a heartbeat, although nothing moves
    progress.close()
    assert children[0].returncode not in (None, 0)


def test_a_full_disk_is_said_before(monkeypatch):
    usage = SimpleNamespace(free=3 * GIGABYTE)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(hub.subprocess, "Popen", lambda *_, **__: pytest.fail("went online"))
    with says("has 3.0 GB free, but llava-hf/llava-1.5-7b-hf takes 14.1 GB", "HF_HOME"):
        next(hub.download(SEVEN.repo, SEVEN.size))


def test_the_real_child_without_a_network_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    with says("llava-1.5-7b-hf was not downloaded|cannot be reached"):
        list(hub.download(SEVEN.repo, 1000))


def test_the_page_says_the_size_downloads_on_demand_and_never_otherwise(
    fake_hub, machine, monkeypatch, mini_path
):
    machine(40)
    here = []
    monkeypatch.setattr(hub, "find", lambda repo: (here and here[0]) or None)
    monkeypatch.setenv("VISIPRUNER_MODELS", "llava-1.5-7b")
    server = Models()
    assert server.choices == [("LLaVA-1.5 7B (14.1 GB to download)", "llava-1.5-7b")]
    with says("not on this machine yet", "14.1 GB"):
        server.get("llava-1.5-7b")
    fake_hub()
    sentences = list(server.fetch("llava-1.5-7b"))
    assert sentences[-1].startswith("Downloading LLaVA-1.5 7B: 0.0 GB of 14.1 GB.")
    here.append(mini_path)
    assert list(server.fetch("llava-1.5-7b")) == []


def test_loading_from_the_hub_downloads_first_and_can_be_cancelled(
    fake_hub, monkeypatch, mini_path
):
    fake_hub()
    here = []
    monkeypatch.setattr(hub, "find", lambda repo: (here and here[0]) or None)
    monkeypatch.setattr(models_module.loading, "place", lambda *_: place("mini", 1, "cpu", "auto"))

    def on_progress(progress):
        if progress.done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_vlm("llava-1.5-7b", on_progress=on_progress)
    with says("is not complete"):
        load_vlm("llava-1.5-7b")
    monkeypatch.setattr(hub, "find", lambda repo: here.append(1) or (len(here) > 1 and mini_path))
    here.clear()
    monkeypatch.setattr(ModelSpec, "find", lambda self: hub.find(self.repo) or None)
    assert load_vlm("llava-1.5-7b").spec.path == str(mini_path)


# -- damaged and foreign checkpoints


def with_config(mini_path, tmp_path, change):
    folder = tmp_path / "changed"
    shutil.copytree(mini_path, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_llava_next_is_refused_with_a_sentence(mini_path, tmp_path):
    folder = with_config(mini_path, tmp_path, lambda c: c.update(model_type="llava_next"))
    with says("LLaVA-NeXT", "several crops", r"prune\(\)"):
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


def test_missing_weights_are_not_replaced_by_random_ones(mini_path, tmp_path):
    def deeper(config):
        config["text_config"]["num_hidden_layers"] += 1

    with says("lacks weights", r"layers\.8\."):
        load_vlm(with_config(mini_path, tmp_path, deeper))


# -- relatives: other language models, LLaVA-NeXT


VISION = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=56,
    patch_size=14,
)
TEXT = {
    "vocab_size": 60,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
IMAGE = 59


def build(kind, config, text, **more):
    torch.manual_seed(2)
    model = kind(
        config(
            vision_config=VISION,
            text_config=text,
            image_token_id=IMAGE,
            vision_feature_layer=-1,
            **more,
        )
    ).eval()
    model.generation_config.eos_token_id = None
    for module in model.model.language_model.modules():  # Qwen2's biases start at zero
        if getattr(module, "bias", None) is not None:
            torch.nn.init.normal_(module.bias, std=0.3)
    return model


def inputs_for(model, **pictures):
    features = model.get_image_features(**pictures, return_dict=True).pooler_output
    visual = sum(len(part) for part in features)
    ids = torch.tensor([[1, 7, 8, *[IMAGE] * visual, 9, 10, 11, 12]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pictures}
    return inputs, TokenLayout.from_ids(ids, IMAGE)


def relative(name):
    torch.manual_seed(3)
    if name == "llava-next":
        sizes = {"image_sizes": torch.tensor([[80, 112]]), "image_grid_pinpoints": None}
        grids = [[56, 112], [112, 56], [112, 112]]
        from transformers import LlamaConfig

        model = build(
            LlavaNextForConditionalGeneration,
            LlavaNextConfig,
            LlamaConfig(**TEXT),
            image_grid_pinpoints=grids,
        )
        sizes.pop("image_grid_pinpoints")
        return model, *inputs_for(model, pixel_values=torch.randn(1, 5, 3, 56, 56), **sizes)
    text = {
        "mistral": lambda: MistralConfig(sliding_window=None, **TEXT),
        "qwen2": lambda: Qwen2Config(**TEXT),
    }[name]()
    model = build(LlavaForConditionalGeneration, LlavaConfig, text)
    return model, *inputs_for(model, pixel_values=torch.randn(1, 3, 56, 56))


def generate(model, inputs):
    with torch.no_grad():
        run = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    return run.sequences[0], torch.cat(run.logits)


def check_dropping_equals_masking(model, inputs, layout):
    """The same decisions on the unpruned model in eager, by its own masks and nothing of ours."""
    backend = model.config.get_text_config()._attn_implementation
    for method in (FastV(keep=3), Schedule(keep=5, keep_after=1, none_after=3)):
        with prune(model, method, layout) as trace:
            ids, logits = generate(model, inputs)
        gone = {
            record.layer: sorted(
                set(layout.visual) - {layout.visual[p] for p in trace.patches_at(record.layer)}
            )
            for record in trace.layers
        }
        assert gone[len(gone) - 1]

        def mask(_module, args, kwargs, columns):
            seen = kwargs["attention_mask"].clone()
            seen[..., columns] = torch.finfo(seen.dtype).min
            return args, {**kwargs, "attention_mask": seen}

        model.set_attn_implementation("eager")
        layers = model.model.language_model.layers
        handles = [
            layers[i].register_forward_pre_hook(
                lambda m, a, k, columns=columns: mask(m, a, k, columns), with_kwargs=True
            )
            for i, columns in gone.items()
        ]
        full = {**inputs, "input_ids": ids[None, :-1], "attention_mask": None}
        with torch.no_grad():
            masked = model(**full).logits[0, layout.length - 1 :]
        for handle in handles:
            handle.remove()
        model.set_attn_implementation(backend)
        assert (logits - masked).abs().max() < 2e-5 * masked.abs().max()


@pytest.mark.parametrize("name", ["mistral", "qwen2", "llava-next"])
def test_relatives_prune_exactly(name):
    model, inputs, layout = relative(name)
    ids, logits = generate(model, inputs)
    for method in (PruningMethod(), FastV(keep=1000)):
        with prune(model, method, layout) as trace:
            kept_ids, kept_logits = generate(model, inputs)
        assert torch.equal(kept_ids, ids) and torch.equal(kept_logits, logits)
        assert trace.complete
    check_dropping_equals_masking(model, inputs, layout)
    with prune(model, VisiPruner(shallow_layers=2, layer_threshold=0.9999), layout) as trace:
        generate(model, inputs)
    assert trace.why
    if name == "llava-next":  # the whole picture, four crops without their padding, and line ends
        assert layout.num_visual > 16 + 4 * 8


def test_mistral_with_a_sliding_window_is_refused():
    text = MistralConfig(sliding_window=8, **TEXT)
    model = build(LlavaForConditionalGeneration, LlavaConfig, text)
    inputs, layout = inputs_for(model, pixel_values=torch.randn(1, 3, 56, 56))
    with says("sliding windows"), prune(model, FastV(), layout):
        generate(model, inputs)


@pytest.mark.parametrize("name", ["mistral", "qwen2"])
def test_relatives_load_and_answer_like_llava(name, mini_path, picture, tmp_path):
    words = len(load_vlm(mini_path).processor.tokenizer)
    image = load_vlm(mini_path).model.config.image_token_id
    kind = {"mistral": MistralConfig, "qwen2": Qwen2Config}[name]
    extra = {"sliding_window": None} if name == "mistral" else {}
    text = kind(**{**TEXT, "vocab_size": words}, **extra)
    torch.manual_seed(2)
    config = LlavaConfig(
        vision_config=VISION, text_config=text, image_token_id=image, vision_feature_layer=-1
    )
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    load_vlm(mini_path).processor.save_pretrained(tmp_path)
    vlm = load_vlm(tmp_path, device="cpu")
    prompt = vlm.prepare(picture, "what colour is the star?")
    done = last_event(compare(vlm, prompt, [PruningMethod(), FastV(keep=3)], SHORT)).comparison
    assert done.answers[1].counts.executed.prefill < done.answers[0].counts.executed.prefill


# -- prompts of the real checkpoints


def test_vicunas_blank_is_one_and_other_templates_stay_as_they_are():
    def processor(text):
        return SimpleNamespace(apply_chat_template=lambda *_, **__: text)

    for blanks in ("", " ", "\n", "  "):
        text = prompt_text(processor(f"{SYSTEM}{blanks}USER: <image>"), "x")
        assert text == f"{SYSTEM} USER: <image>"
    chatml = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user"
    assert prompt_text(processor(chatml), "x") == chatml


@pytest.mark.network
@pytest.mark.parametrize("spec", [SEVEN, THIRTEEN], ids=["7b", "13b"])
def test_the_real_tokenizer_gives_the_35_prefix_tokens_of_the_paper(spec, picture):
    from huggingface_hub import snapshot_download
    from transformers import AutoConfig, AutoProcessor

    from visipruner.prompt import make_prompt

    small = ["*.json", "*.jinja", "*.model"]
    folder = snapshot_download(spec.repo, allow_patterns=small)
    processor = AutoProcessor.from_pretrained(folder)
    prompt = make_prompt(AutoConfig.from_pretrained(folder), processor, picture, "What is this?")
    assert prompt.layout.prefix == 35 and prompt.layout.num_visual == 576
    assert prompt.layout.grids == ((24, 24),)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "4-bit"])
def test_a_gpu_answers_as_the_cpu_in_outline(precision, mini_path, picture):
    vlm = load_vlm(mini_path, device="cuda", precision=precision)
    prompt = vlm.prepare(picture, "what colour is the star?")
    done = last_event(compare(vlm, prompt, [PruningMethod(), FastV(keep=3)], SHORT)).comparison
    assert done.answers[0].counts.peak_bytes > 0 and done.answers[1].times.prefill > 0
