"""The only download: a child process, here with another function in place of the hub's."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import httpx
import pytest

from visipruner.models import catalogue as models_module
from visipruner.models import hub
from visipruner.models.catalogue import MODELS, ModelSpec, load_vlm
from visipruner.models.loading import place
from visipruner.models.memory import GIGABYTE
from visipruner.ui.store import Models

SEVEN = MODELS["llava-1.5-7b"]


def says(*words):
    return pytest.raises(ValueError, match=".*".join(words))


# When imported, hub.py imports its package, which takes seconds: the stubs below replace it.
FAKE = """
import sys, time, types
sys.argv = ["hub.py", "some/model"]
sys.path.insert(0, {folder!r})
sys.modules["visipruner"] = types.ModuleType("visipruner")
sys.modules["visipruner.models.checkpoint"] = types.SimpleNamespace(weight_files=None)
sys.modules["visipruner.errors"] = types.SimpleNamespace(Refused=ValueError)
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
        monkeypatch.setattr(hub, "_command", lambda *_: [sys.executable, "-P", str(path)])

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
    assert next(progress).done == 0  # a heartbeat, although nothing changes
    progress.close()
    assert children[0].returncode not in (None, 0)


@pytest.mark.parametrize("asked", [{}, {"no_proxy": "example.org"}, {"no_proxy": "*"}])
def test_only_the_download_uses_proxies(asked, fake_hub, monkeypatch, tmp_path):
    """Some proxies raise an error in httpx as soon as they are named."""

    def proxies(environment):
        return {n: v for n, v in environment.items() if n.lower().endswith("_proxy")}

    for name in proxies(os.environ):
        monkeypatch.delenv(name)
    given = {"http_proxy": "http://a:1", "ALL_PROXY": "socks5://b:2", "all_proxy": "socks://"}
    given |= asked
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen = tmp_path / "environment.json"
    fake_hub(0.001, f"open({str(seen)!r}, 'w').write(hub.json.dumps(dict(os.environ)))")
    with hub.without_proxies():
        httpx.Client().close()
        list(hub.download("some/model", 50))
    assert proxies(json.loads(seen.read_text())) == proxies(os.environ) == given


def test_only_a_complete_download_is_found_again(mini, monkeypatch, tmp_path):
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert SEVEN.find() is None
    store = tmp_path / "models--llava-hf--llava-1.5-7b-hf"
    (store / "refs").mkdir(parents=True)
    (store / "refs" / "main").write_text("0" * 40)
    folder = store / "snapshots" / ("0" * 40)
    mini.model.save_pretrained(folder, max_shard_size="100KB")
    assert SEVEN.find() == folder
    sorted(folder.glob("model-*.safetensors"))[-1].unlink()
    assert SEVEN.find() is None


def test_a_full_disk_is_said_before(monkeypatch):
    usage = SimpleNamespace(free=3 * GIGABYTE)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(hub.subprocess, "Popen", lambda *_, **__: pytest.fail("went online"))
    with says("has 3.0 GB free, but llava-hf/llava-1.5-7b-hf takes 14.1 GB", "HF_HOME"):
        next(hub.download(SEVEN.repo, SEVEN.size))


def test_what_has_arrived_needs_no_room_again(monkeypatch, tmp_path):
    usage = SimpleNamespace(free=3 * GIGABYTE)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--some--model" / "blobs"
    blobs.mkdir(parents=True)
    with open(blobs / "part.incomplete", "wb") as file:
        file.truncate(12 * GIGABYTE)  # a sparse file takes no space
    hub.check_disk("some/model", 14 * GIGABYTE)
    with says("takes 4.0 GB more"):
        hub.check_disk("some/model", 16 * GIGABYTE)


def test_parts_that_another_download_renames_meanwhile_do_not_matter(monkeypatch, tmp_path):
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    blobs = tmp_path / "models--some--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "gone.incomplete").symlink_to(tmp_path / "nowhere")  # listed, but missing
    hub.check_disk("some/model", 1)


def test_a_damaged_index_is_no_complete_checkpoint(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert not hub._complete(tmp_path)


def test_the_real_child_without_a_network_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no server answers there
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


def test_a_model_that_came_another_way_is_no_longer_to_be_downloaded(
    monkeypatch, mini_path, tmp_path
):
    monkeypatch.setenv("VISIPRUNER_MODELS", "llava-1.5-7b")
    monkeypatch.setattr(models_module.loading, "place", lambda *_: place("mini", 1, "cpu", "auto"))
    server = Models()
    assert "to download" in server.titles["llava-1.5-7b"]
    (tmp_path / "llava-1.5-7b").symlink_to(mini_path)
    monkeypatch.setenv("VISIPRUNER_MODEL_DIR", str(tmp_path))
    server.get("llava-1.5-7b")
    assert server.choices == [("LLaVA-1.5 7B", "llava-1.5-7b")]


def test_a_folder_never_takes_the_name_of_a_known_model(monkeypatch, mini_path, tmp_path):
    monkeypatch.setenv("VISIPRUNER_MODELS", "tiny")
    (tmp_path / "llava-1.5-7b").symlink_to(mini_path)
    server = Models(str(tmp_path / "llava-1.5-7b"))
    assert server.default == "local" and list(server.paths) == ["tiny", "local"]


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
