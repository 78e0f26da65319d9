"""The named models: their shapes, sizes and words; what they take, and what pruning can save."""

from __future__ import annotations

import pytest
import torch

from visipruner import PruningMethod, prune
from visipruner.families import FAMILIES
from visipruner.flops import ModelShape, executed
from visipruner.models import cpu, hub, memory, specs
from visipruner.models.catalogue import load_vlm
from visipruner.models.described import UNTRIED, described, needs
from visipruner.models.hub import _sentence
from visipruner.models.loading import place
from visipruner.models.saving import prefill_flops, sample_prompt, saving, saving_of
from visipruner.models.shapes import SHAPES, config_of, parameters
from visipruner.models.specs import MODELS, menu
from visipruner.ui import about
from visipruner.ui.store import Models

# As the models' pages on the hub name them.
PUBLISHED = {
    "smolvlm-256m": 256_484_928,
    "smolvlm-500m": 507_482_304,
    "qwen3-vl-2b": 2_127_532_032,
    "qwen2.5-vl-3b": 3_754_622_976,
    "llava-1.5-7b": 7_063_427_072,
}


def says(*words):
    return pytest.raises(ValueError, match=".*".join(words))


ON_HUB = [name for name, spec in MODELS.items() if spec.repo]


def test_every_model_of_the_hub_has_a_shape_of_its_size_and_a_licence():
    assert set(ON_HUB) == set(SHAPES)
    for name in ON_HUB:
        assert MODELS[name].size == pytest.approx(2 * parameters(name), rel=0.003), name
        assert MODELS[name].licence and MODELS[name].repo.count("/") == 1, name
        assert config_of(name).model_type in FAMILIES
    assert {name: parameters(name) for name in PUBLISHED} == PUBLISHED


def test_the_menu_begins_with_the_bundled_model_and_ascends_by_size():
    assert next(iter(menu())) == "tiny"
    sizes = [spec.size for spec in menu().values()]
    assert sizes == sorted(sizes) and len(sizes) >= 10
    assert len({spec.title for spec in MODELS.values()}) == len(MODELS)
    assert all(len(spec.title) <= 24 for spec in MODELS.values())  # a phone's menu


@pytest.mark.parametrize("name", ["tiny", "smolvlm", "internvl-qwen3", "qwen3-vl", "next-vicuna"])
def test_the_share_of_a_picture_is_what_runs_execute(name, ready):
    """The formula equals the counted FLOPs of a run, and the sample prompt suits the model."""
    vlm = load_vlm("tiny", device="cpu") if name == "tiny" else ready(name).vlm
    model, family = vlm.model, vlm.family
    prompt = sample_prompt(model.config)
    inputs = {
        name: torch.randn(tensor.shape) if tensor.is_meta else tensor
        for name, tensor in prompt.inputs.items()
    }
    shape = ModelShape.of(model.config)
    with torch.inference_mode(), prune(model, PruningMethod(), prompt.layout) as trace:
        model(**inputs, logits_to_keep=1)
    full = executed(shape, trace).prefill
    assert full == prefill_flops(shape, prompt.layout.length)
    found, rest = saving(model.config), prefill_flops(shape, 75)
    assert found.visual == prompt.layout.num_visual == family.tokens(model.config)
    assert found.language == pytest.approx(1 - rest / full)
    whole = full + family.tower_flops(model.config, prompt)
    assert found.whole == pytest.approx((full - rest) / whole)


def test_shares_of_the_true_shapes_are_numbers_that_make_sense():
    for name in SHAPES:
        found = saving_of(name)
        assert 0 < found.whole < found.language < 1
    assert saving_of("llava-1.5-7b").visual == 576
    assert saving_of("smolvlm-256m").whole < 0.2 < saving_of("tiny-llava-1.4b").whole


# -- words


def test_size_licence_memory_and_saving_are_said_before_a_download(machine, monkeypatch):
    machine(main=12)
    monkeypatch.setattr(hub, "find", lambda repo: None)
    monkeypatch.delenv("VISIPRUNER_MODEL_DIR", raising=False)
    told = described(MODELS["smolvlm-256m"])
    assert told[0] == "0.5 GB to download; Apache-2.0." and told[-1] == UNTRIED
    assert told[1].startswith("It takes about 1.") and "832 visual tokens" in told[2]
    assert "needs a GPU with 16.1 GB" in needs(MODELS["llava-1.5-7b"])
    assert "12.0 GB are free" in needs(MODELS["llava-1.5-7b"], "cpu")
    server = Models(device="cpu")
    assert "research licence" in about.of_model(server, "qwen2.5-vl-3b")
    assert about.of_model(server, "tiny") == ""
    assert ("SmolVLM 256M (0.5 GB to download)", "smolvlm-256m") in server.choices
    assert server.default == "tiny"


def test_a_wrong_or_gated_name_ends_in_a_sentence():
    class RepositoryNotFoundError(Exception):
        pass

    class GatedRepoError(RepositoryNotFoundError):
        pass

    gone = _sentence("a/b-hf", RepositoryNotFoundError())
    gated = _sentence("a/b-hf", GatedRepoError())
    assert "no a/b-hf" in gone and "VISIPRUNER_MODEL_DIR as b-hf" in gone
    assert "a/b-hf is gated" in gated and "HF_TOKEN" in gated


def test_a_space_offers_downloads_only_if_its_owner_names_them(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    monkeypatch.delenv("VISIPRUNER_MODELS", raising=False)
    here = {"llava-hf/llava-1.5-7b-hf": "/somewhere"}
    monkeypatch.setattr(specs.hub, "find", here.get)
    assert list(menu()) == ["tiny", "tiny-aligned", "llava-1.5-7b"]
    monkeypatch.setenv("VISIPRUNER_MODELS", "smolvlm-256m")
    assert list(menu()) == ["smolvlm-256m"]


# -- precision on a CPU


@pytest.fixture
def processor(monkeypatch):
    def pretend(*found):
        cpu.has_bfloat16.cache_clear()
        monkeypatch.setattr(cpu, "capabilities", lambda: set(found))

    yield pretend
    monkeypatch.undo()
    cpu.has_bfloat16.cache_clear()


def test_a_cpu_computes_in_bfloat16_only_if_it_can(machine, processor):
    machine(main=12)
    processor("avx512_bf16", "avx512_f")
    spec = MODELS["llava-onevision-0.5b"]
    found = place(spec.title, spec.size, None, "auto")
    assert (found.precision, found.dtype) == ("bfloat16", torch.bfloat16)
    assert "AVX-512" in found.why
    processor("avx2")
    found = place(spec.title, spec.size, None, "auto")
    assert found.precision == "float32" and "not known to multiply in bfloat16" in found.why
    assert place(spec.title, spec.size, None, "bfloat16").precision == "bfloat16"


def test_memory_is_checked_for_the_precision_that_is_used(machine, processor):
    spec = MODELS["qwen2.5-vl-3b"]
    processor("avx2")
    machine(main=12)  # float32 takes 17 GB
    found = place(spec.title, spec.size, None, "auto")
    assert found.precision == "bfloat16" and found.why.startswith("slowly")
    with says("17.0 GB of main memory in float32, but 12.0 GB are free"):
        place(spec.title, spec.size, None, "float32")
    machine(main=8)
    with says("of main memory in float32, but 8.0 GB are free"):
        place(spec.title, spec.size, None, "auto")


def test_the_bundled_model_stays_in_float32(processor):
    processor("amx_bf16")
    assert load_vlm("tiny", device="cpu").precision == "float32"
    assert memory.needed(10**6, "float32") == 2 * 10**6


def test_this_processor_is_read_without_an_error(monkeypatch, tmp_path):
    assert cpu.capabilities() and cpu.name()
    monkeypatch.setattr(cpu, "CPUINFO", tmp_path / "none")
    assert cpu.name() is not None and isinstance(cpu.capabilities(), set)
    (tmp_path / "none").write_bytes(b"Features\t: fp bf16\r\nmodel name\t: \xff one\r\n")
    assert "bf16" in cpu.capabilities() and cpu.name().endswith("one")


def test_a_local_folder_has_no_licence_to_say(mini_path):
    server = Models(str(mini_path), device="cpu")
    assert about.of_model(server, server.default) == ""


def test_the_table_in_the_notes_is_computed():
    notes = (specs.ROOT / "visipruner" / "models" / "NOTES.md").read_text()
    for name in ON_HUB:
        spec, found = MODELS[name], saving_of(name)
        need = memory.gigabytes(memory.needed(spec.size, "bfloat16"))
        share = f"{found.language:.0%}, {found.whole:.0%}"
        row = f"| {spec.download_size} | {need} | {found.visual:,} | {share} | {spec.licence} |"
        assert f"| `{name}` {row}" in notes
