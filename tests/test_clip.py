"""CLIP beside LLaVA-1.5: a miniature of both, whose vision towers are equal."""

from __future__ import annotations

import itertools
import re
import runpy
import shutil
import string
import sys
from types import SimpleNamespace

import gradio as gr
import huggingface_hub
import pytest
import torch
from conftest import make_llava, make_processor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from visipruner import CDPruner, PruningMethod, Refused, prune
from visipruner.__main__ import main
from visipruner.methods import METHODS
from visipruner.models import clip, hub, loading, memory
from visipruner.models.catalogue import MODELS, load_vlm
from visipruner.running import runner
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
from visipruner.tower import Clip
from visipruner.ui import about, arena_events, contest, controls, handlers, running
from visipruner.ui.handlers import Form
from visipruner.ui.store import Models

QUICK = Options(max_new_tokens=3, probe=False, clock_rounds=0)
QUESTION = "what colour is the star?"
SEGMENT = 16  # tokens that the miniature's text tower takes


def make_clip(vision) -> CLIPModel:
    torch.manual_seed(5)
    text = {
        "vocab_size": 120,
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": SEGMENT,
        "bos_token_id": 100,
        "eos_token_id": 101,
    }
    config = CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=24)
    model = CLIPModel(config).eval()
    for parameter in model.parameters():  # far from the narrow first weights
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def make_tokenizer() -> CLIPTokenizer:
    marks = string.ascii_lowercase + "?!"
    vocabulary = {mark: index for index, mark in enumerate(marks, 1)}
    vocabulary |= {f"{mark}</w>": index for index, mark in enumerate(marks, 50)}
    vocabulary |= {"<|startoftext|>": 100, "<|endoftext|>": 101}
    return CLIPTokenizer(vocab=vocabulary, merges=[])


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A VISIPRUNER_MODEL_DIR with a miniature LLaVA-1.5 7B and its CLIP."""
    folder = tmp_path_factory.mktemp("shelf")
    processor = make_processor(56, 14)
    model = make_llava(processor, 56, 14)
    model.config.vision_feature_layer = -2  # as LLaVA-1.5
    whole = make_clip(model.config.vision_config)
    known = whole.vision_model.state_dict()
    tower = model.model.vision_tower
    tower.load_state_dict(
        {key: known[key.removeprefix("vision_model.")] for key in tower.state_dict()}
    )
    model.save_pretrained(folder / "llava-1.5-7b")
    processor.save_pretrained(folder / "llava-1.5-7b")
    whole.save_pretrained(folder / clip.NAME)
    make_tokenizer().save_pretrained(folder / clip.NAME)
    return folder


@pytest.fixture
def here(shelf, monkeypatch):
    monkeypatch.setenv("VISIPRUNER_MODEL_DIR", str(shelf))
    return shelf


@pytest.fixture(scope="module")
def seven(shelf):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISIPRUNER_MODEL_DIR", str(shelf))
        return load_vlm("llava-1.5-7b", device="cpu")


@pytest.fixture(scope="module")
def stock(shelf) -> CLIPModel:
    return CLIPModel.from_pretrained(shelf / clip.NAME, trust_remote_code=False).eval()


@torch.no_grad()
def by_hand(stock, pixels, question) -> Clip:
    """The embeddings by a whole CLIP, without this project."""
    states = stock.vision_model(pixels, output_hidden_states=True).hidden_states[-2]
    patches = stock.visual_projection(stock.vision_model.post_layernorm(states))[0, 1:]
    ids, texts = make_tokenizer()(question)["input_ids"], []
    for start in range(0, len(ids), SEGMENT):
        part = ids[start : start + SEGMENT]
        filled = torch.tensor([part + [0] * (SEGMENT - len(part))])
        mask = torch.tensor([[1] * len(part) + [0] * (SEGMENT - len(part))])
        pooled = stock.text_model(filled, attention_mask=mask).pooler_output
        texts.append(stock.text_projection(pooled)[0])
    return Clip(patches, torch.stack(texts))


# -- the embeddings


@pytest.mark.parametrize(("question", "segments"), [("star?", 1), (QUESTION, 2), ("a?" * 40, 6)])
def test_embeddings_are_the_whole_clips(question, segments, seven, stock, here, picture):
    prompt = seven.prepare(picture, question)
    made = seven.clip_of(prompt, seven.encode(prompt, note_tower=True))
    expected = by_hand(stock, prompt.inputs["pixel_values"], question)
    assert made.text.shape == (segments, 24) and made.image.shape == (16, 24)
    torch.testing.assert_close(made.image, expected.image, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.text, expected.text, atol=1e-5, rtol=1e-5)


def test_the_cost_equals_the_counter(seven, here, picture):
    prompt = seven.prepare(picture, QUESTION)
    encoded = seven.encode(prompt, note_tower=True)
    seven.load_clip()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        made = seven.clip_of(prompt, encoded)
    assert made.flops == counter.get_total_flops() > 0


def test_a_comparison_equals_embeddings_handed_in(seven, stock, here, picture):
    prompt = seven.prepare(picture, QUESTION)
    sides = [PruningMethod(), CDPruner(5)]
    full, pruned = last_event(compare(seven, prompt, sides, QUICK)).comparison.answers
    handed = by_hand(stock, prompt.inputs["pixel_values"], QUESTION)
    with prune(seven.model, CDPruner(5), prompt.layout, clip=handed) as trace:
        output = seven.model.generate(**prompt.inputs, max_new_tokens=3, do_sample=False)
    assert pruned.trace.cuts[0].kept == trace.cuts[0].kept and len(trace.cuts[0].kept) == 5
    assert pruned.tokens == output[0, prompt.layout.length :].tolist()
    made = seven.clip_of(prompt, seven.encode(prompt, note_tower=True))
    assert pruned.trace.door_flops - trace.door_flops == made.flops
    assert full.trace.door_flops == 0


def test_only_the_side_that_needs_clip_waits_for_it(seven, here, picture, monkeypatch):
    prompt, ticks = seven.prepare(picture, QUESTION), itertools.count()
    monkeypatch.setattr(runner, "now", lambda _: float(next(ticks)))
    sides = [PruningMethod(), CDPruner(5)]
    answers = last_event(compare(seven, prompt, sides, QUICK)).comparison.answers
    assert [answer.times.vision for answer in answers] == [1000, 2000]


# -- its files


@pytest.fixture
def copied(shelf, tmp_path):
    """A folder with CLIP that a test may damage."""
    return shutil.copytree(shelf / clip.NAME, tmp_path / clip.NAME)


def load(folder, vlm):
    return clip.load(folder, vlm.model, torch.device("cpu"))


def pickled(folder, stock):
    (folder / "model.safetensors").unlink()
    torch.save(stock.state_dict(), folder / clip.PICKLE)


def test_the_hubs_pickle_is_read_only_if_it_is_the_known_file(copied, seven, stock, monkeypatch):
    pickled(copied, stock)
    with pytest.raises(Refused, match=r"pytorch_model.bin is not the file of openai/clip-vit"):
        load(copied, seven)
    with open(copied / clip.PICKLE, "rb") as file:
        known = clip.hashlib.file_digest(file, "sha256").hexdigest()
    monkeypatch.setattr(clip, "PICKLE_SHA256", known)
    made = load(copied, seven).model.text_projection.weight
    assert torch.equal(made, stock.text_projection.weight)


def test_files_that_do_not_fit_are_refused(copied, seven, mini, stock, machine):
    with pytest.raises(Refused, match="its vision tower has other weights"):
        load(copied, mini)
    machine(main=0)
    with pytest.raises(Refused, match=r"CLIP ViT-L/14-336 needs 2\.7 GB of main memory"):
        load(copied, seven)
    machine()
    weights = {k: v for k, v in stock.state_dict().items() if "text_projection" not in k}
    stock.save_pretrained(copied, state_dict=weights)
    with pytest.raises(Refused, match=r"lacks weights, text_projection\.weight"):
        load(copied, seven)
    (copied / "model.safetensors").write_bytes(b"half")
    with pytest.raises(Refused):
        load(copied, seven)


def test_only_a_complete_download_is_found_again(copied, monkeypatch, tmp_path):
    monkeypatch.delenv("VISIPRUNER_MODEL_DIR", raising=False)
    monkeypatch.setattr(hub, "snapshot", lambda repo, patterns: copied)
    assert clip.find() == copied
    (copied / "model.safetensors").rename(tmp_path / "elsewhere")
    assert clip.find() is None
    (copied / clip.PICKLE).touch()
    assert clip.find() == copied
    (copied / "tokenizer.json").unlink()
    assert clip.find() is None


# -- the download


@pytest.fixture
def asked(monkeypatch, shelf, tmp_path):
    """A machine with LLaVA and without CLIP; lists what is asked of the hub."""
    (tmp_path / "llava-1.5-7b").symlink_to(shelf / "llava-1.5-7b")
    monkeypatch.setenv("VISIPRUNER_MODEL_DIR", str(tmp_path))
    monkeypatch.setattr(hub, "snapshot", lambda repo, patterns: None)
    seen = []

    def download(*given):
        seen.append(given)
        yield hub.Progress(10**9, clip.SIZE)
        (tmp_path / clip.NAME).symlink_to(shelf / clip.NAME)

    monkeypatch.setattr(hub, "download", download)
    return seen


def test_the_page_downloads_clip_when_its_method_runs(asked):
    server = Models(device="cpu")
    assert not server.is_missing("llava-1.5-7b", [PruningMethod])
    assert server.is_missing("llava-1.5-7b", [CDPruner])
    assert list(server.fetch("llava-1.5-7b", "auto", [PruningMethod])) == [] == asked
    said = list(server.fetch("llava-1.5-7b", "auto", [PruningMethod, CDPruner]))
    [line] = said
    first = (
        "Downloading CLIP ViT-L/14-336: 1.0 GB of 1.7 GB. Stop pauses; what has arrived is kept."
    )
    assert re.fullmatch(re.escape(first) + r" · \d+ s", line)
    assert asked == [(clip.REPO, clip.SIZE, clip.PATTERNS)]
    assert not server.is_missing("llava-1.5-7b", [CDPruner])
    assert list(server.fetch("llava-1.5-7b", "auto", [CDPruner])) == [] and len(asked) == 1


def test_run_on_the_page_passes_its_methods_on(asked, picture):
    form = Form(picture, QUESTION, "llava-1.5-7b", "random+cdpruner@5")
    chosen = SimpleNamespace(read=lambda values: (form, None))
    results = SimpleNamespace(forms=SimpleNamespace(put=lambda value: "key"))
    on_fetch = running._fetching(Models(device="cpu"), chosen, results)
    shown = [str(yielded) for yielded in on_fetch()]
    assert len(asked) == 1 and "Downloading CLIP ViT-L/14-336: 1.0 GB" in shown[-1]


@pytest.mark.parametrize("every", [False, True])
def test_the_arena_downloads_clip_for_chosen_methods_only(asked, picture, every):
    """All methods on a picture must not cost a download that nobody asked for."""
    given = {"question": QUESTION, "model": "llava-1.5-7b", "picture": picture, "scene": None}
    names = ("picture_mode", "backend", "precision", "max_new_tokens", "temperature", "draw_seed")
    given |= {**dict.fromkeys(names, 1), "backend": "sdpa", "precision": "auto"}
    chosen = SimpleNamespace(form=dict.fromkeys(given))
    results = SimpleNamespace(forms=SimpleNamespace(put=lambda value: "key"))
    on_fetch = arena_events._fetching(Models(device="cpu"), chosen, results, every)
    said = [str(one) for one in on_fetch(*given.values(), ["cdpruner", "random"], 5)]
    assert len(asked) == (not every)
    assert ("Downloading CLIP ViT-L/14-336: 1.0 GB" in said[-1]) is not every


def test_without_clip_the_arena_refuses_its_method_before_anything_runs(asked, picture):
    server = Models(device="cpu")
    form = Form(picture, QUESTION, "llava-1.5-7b")
    made = contest.prepare(server, form, None, ["random", "cdpruner"], 5, True)
    assert [bool(entry.refused) for entry in made.entries] == [False, False, True]
    assert made.entries[2].refused.startswith("CDPruner: ")


def test_a_broken_picture_costs_no_download(asked, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    form = Form(str(tmp_path / "broken.png"), QUESTION, "llava-1.5-7b", "cdpruner")
    chosen = SimpleNamespace(read=lambda values: (form, None))
    results = SimpleNamespace(forms=SimpleNamespace(put=lambda value: "key"))
    with pytest.raises(gr.Error):
        list(running._fetching(Models(device="cpu"), chosen, results)())
    assert not asked


def test_stop_ends_the_download(asked, monkeypatch):
    ended = []

    def download(*_):
        try:
            yield hub.Progress(1, 2)
        finally:
            ended.append(True)

    monkeypatch.setattr(hub, "download", download)
    sentences = Models(device="cpu").fetch("llava-1.5-7b", "auto", [CDPruner])
    next(sentences)
    assert not ended
    sentences.close()
    assert ended


def test_a_run_itself_downloads_nothing(asked, picture):
    form = Form(picture, QUESTION, "llava-1.5-7b", "cdpruner@5")
    with pytest.raises(Refused, match=r"CLIP ViT-L/14-336, .* is not on this machine yet.*1\.7 GB"):
        handlers.check(Models(device="cpu"), form)
    vlm = load_vlm("llava-1.5-7b", device="cpu")
    sides = [PruningMethod(), CDPruner(5)]
    with pytest.raises(Refused, match="is not on this machine yet"):
        last_event(compare(vlm, vlm.prepare(picture, QUESTION), sides, QUICK))
    assert not asked


def test_the_child_fetches_these_files(monkeypatch, capsys):
    seen = {}

    def snapshot(repo, allow_patterns, tqdm_class):
        seen[repo] = allow_patterns

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    _, _, child, *arguments = hub._command(clip.REPO, *clip.PATTERNS)
    monkeypatch.setattr(sys, "argv", [child, *arguments])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(child, run_name="__main__")
    assert seen == {clip.REPO: list(clip.PATTERNS)} and clip.PICKLE in seen[clip.REPO]
    assert not [pattern for pattern in hub.PATTERNS if "bin" in pattern]


def test_the_size_is_said_before(here):
    with gr.Blocks():
        method = controls._methods(Models(device="cpu"))["method"]
    titles = {name: title for title, name in method.choices}
    assert titles["cdpruner"] == f"{CDPruner.title} (with CLIP ViT-L/14-336, 1.7 GB)"
    assert "1.7 GB" in titles["cdpruner+visipruner"] and "GB" not in titles["random"]
    told = about.of_names(["cdpruner"])
    assert "1.7 GB, which is downloaded when you first press Run" in told
    assert "LLaVA-1.5 13B" in told and "1.7 GB" not in about.of_names(["random"])


# -- models that it does not fit


def test_models_say_what_they_can_be_pruned_by(mini, seven):
    reasons = {name: mini.serves(kind) for name, kind in METHODS.items()}
    assert {name for name, reason in reasons.items() if reason} == {"cdpruner"}
    assert reasons["cdpruner"].startswith("CDPruner needs CLIP ViT-L/14-336's embedding")
    assert MODELS["tiny"].serves(CDPruner).endswith("tiny-llava (bundled) is not known to.")
    assert not any(seven.serves(kind) for kind in METHODS.values())


def test_other_models_are_refused_before_anything_runs(
    mini, mini_path, picture, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("went online"))
    words = "CDPruner needs CLIP ViT-L/14-336's embedding of the question"
    with pytest.raises(Refused, match=words):
        last_event(compare(mini, mini.prepare(picture, "what?"), [CDPruner(3)], QUICK))
    server = Models(device="cpu")
    for method in ("cdpruner", "random+cdpruner"):
        form = Form(picture, "what?", "tiny", method)
        with pytest.raises(Refused, match=words):
            list(server.fetch("tiny", "auto", form.kinds))
        with pytest.raises(Refused, match=words):
            handlers.check(server, form)
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("loaded"))
    path = tmp_path / "picture.png"
    picture.save(path)
    for more in (("--model-path", str(mini_path)), ()):
        assert main(["ask", str(path), "what?", "--methods", "none", "cdpruner@4", *more]) == 2
        assert words in capsys.readouterr().err


def test_the_command_fetches_clip_and_answers(asked, picture, tmp_path, capsys):
    path = tmp_path / "picture.png"
    picture.save(path)
    command = ["ask", str(path), QUESTION, "--model", "llava-1.5-7b", "--device", "cpu"]
    assert main([*command, "--method", "cdpruner@5", "--max-new-tokens", "2"]) == 0
    said = capsys.readouterr()
    assert len(asked) == 1  # a download that ends at once has no line of its own
    assert "5 visual tokens stayed, picked before the first layer to be diverse" in said.out
    assert memory.gigabytes(clip.SIZE) == "1.7 GB"
