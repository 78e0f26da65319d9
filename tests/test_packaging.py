"""The engine as a package: its wheel, its ranges, its releases; and which files may use names."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import ends
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from torch import nn

import visipruner
from visipruner import stock, versions
from visipruner.errors import Refused

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE_ONLY = ("gradio", "plotly", "bitsandbytes")


# -- one set of ranges


def test_the_tested_ranges_are_those_of_the_requirements():
    asked = {name: r.specifier for name, r in ends.requirements().items() if name != "pytest"}
    assert asked == {name: SpecifierSet(text) for name, text in versions.TESTED.items()}


def test_the_package_has_the_same_floors_and_the_next_major_as_ceiling():
    lines = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    asked = {Requirement(line).name: Requirement(line) for line in lines}
    tested = ends.requirements()
    del tested["pytest"]
    assert set(asked) == set(tested)
    for name, requirement in asked.items():
        assert ends.floor(requirement) == ends.floor(tested[name]), name
        (ceiling,) = (s.version for s in requirement.specifier if s.operator == "<")
        assert ceiling.isdecimal(), name
        (tried,) = (s.version for s in tested[name].specifier if s.operator == "<")
        assert ceiling in (tried, str(int(tried.split(".")[0]) + 1)), name


def test_fast_movers_stop_at_the_next_minor_release():
    for name in ("transformers", "gradio", "huggingface_hub", "torch"):
        (ceiling,) = (s.version for s in ends.requirements()[name].specifier if s.operator == "<")
        assert "." in ceiling, name


# -- releases outside the ranges


@pytest.fixture
def releases(monkeypatch):
    """Pretend that these releases are installed, and no other tested packages."""

    def pretend(**found):
        def fake(name):
            if name not in found:
                raise versions.PackageNotFoundError(name)
            return found[name]

        monkeypatch.setattr(versions, "version", fake)

    return pretend


def test_releases_in_the_ranges_say_nothing(releases):
    releases(torch="2.13.0a0+nv26.5", transformers="5.24.3", pillow="12.3.0")  # NVIDIA's own torch
    assert versions.untested() is None
    assert versions.installed()["torch"] == "2.13.0a0+nv26.5"


def test_releases_outside_are_named_in_one_line(releases):
    releases(torch="2.8.0", transformers="5.25.0.dev0", gradio="6.12.1", plotly="7.1.0")
    line = versions.untested()
    assert "transformers 5.25.0.dev0 (>=5.20, <5.25)" in line and "gradio 6.12.1" in line
    assert "torch" not in line and "plotly" not in line and "\n" not in line


def test_page_and_command_line_say_it(monkeypatch, capsys):
    import app
    from visipruner import __main__ as command
    from visipruner.ui import layout

    def stop(*_, **__):
        raise Refused("far enough")

    for where in (versions, command):
        monkeypatch.setattr(where, "untested", lambda: "Not tested with this.")
    monkeypatch.setattr(layout, "build", lambda *_: None)
    monkeypatch.setattr(layout, "launch", stop)
    assert app.main([]) == 1
    assert capsys.readouterr().err == "note: Not tested with this.\nerror: far enough\n"
    monkeypatch.setattr("visipruner.models.catalogue.load_vlm", stop)
    assert command.main(["ask", "scene:5", "how many circles are there?"]) == 2
    assert capsys.readouterr().err == "note: Not tested with this.\nerror: far enough\n"


def test_a_release_without_a_name_that_is_needed_is_named(tmp_path):
    """An imitated torch without any names to import."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    facts = tmp_path / "torch-3.1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 3.1.2\n")
    run = python("import visipruner", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert run.returncode == 1
    assert "Not tested with torch 3.1.2 (>=2.8, <2.14)" in run.stderr.splitlines()[-1]


def python(code: str, executable=sys.executable, cwd=None, **environment):
    return subprocess.run(
        [executable, "-c", code],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


# -- names that a release of transformers may change


def test_only_one_file_knows_them():
    names = r"past_key_values|_attn_implementation|transformers\.(models|generation|cache_utils)\b"
    files = [path for path in (ROOT / "visipruner").rglob("*.py") if path.name != "stock.py"]
    found = {
        f"{path.name}: {line.strip()}"
        for path in files
        for line in path.read_text().splitlines()
        # The manual documents `set_attn_implementation` and the argument of from_pretrained.
        if re.search(names, line.replace("set_attn_implementation", ""))
    }
    assert len(files) > 60 and not found


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_is_found_and_handed_on_under_both_names(name):
    module, cache = nn.Module(), object()
    # What `inspect.signature` reads from a forward with this one argument.
    module.forward = eval(f"lambda hidden, {name}=None: {name}")
    assert stock.cache_of({"cache": None, "past_key_values": None, name: cache}) is cache
    assert module(None, **stock.with_cache(module, cache)) is cache
    assert stock.output_cache(SimpleNamespace(**{name: cache})) is cache
    module.forward = lambda hidden, memory=None: memory
    with pytest.raises(Refused, match="takes no cache under a name that is known here"):
        stock.with_cache(module, cache)


# -- the wheel


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The Python of an environment with the engine's wheel but without the page's packages.

    Everything else is linked from here, so nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "visipruner"):
        (source / name).symlink_to(ROOT / name)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('..'))"
    built = python(build, cwd=source)
    assert built.returncode == 0, built.stderr
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = folder.glob("venv/lib/python*/site-packages")
    with zipfile.ZipFile(folder / built.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    for shelf in filter(re.compile(r"(site|dist)-packages$").search, sys.path):
        for package in Path(shelf).iterdir():
            wanted = not package.name.startswith((*PAGE_ONLY, "hf_gradio")) and package.is_dir()
            single = package.suffix in (".py", ".so")
            if (wanted or single) and not (site / package.name).exists():
                (site / package.name).symlink_to(package)
    return folder / "venv" / "bin" / "python"


ENGINE = """
import importlib, pkgutil, sys
import torch, visipruner
from importlib.metadata import version
from transformers import LlamaConfig, LlamaForCausalLM
from visipruner import TokenLayout, VisiPruner, prune

sizes = dict(hidden_size=48, intermediate_size=80, num_attention_heads=4, num_key_value_heads=2)
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=6, vocab_size=50, **sizes)).eval()
ids = torch.tensor([[1, 7, *[49] * 12, 5, 9, 3]])
layout = TokenLayout.from_ids(ids, 49)
with prune(model, VisiPruner(shallow_layers=1), layout) as trace:
    three = dict(min_new_tokens=3, max_new_tokens=3)  # random weights may end an answer sooner
    answer = model.generate(ids, **three, do_sample=False, pad_token_id=0)
print("layers", len(trace.layers), "tokens", answer.shape[1])
print("version", visipruner.__version__ == version("visipruner"))
for module in pkgutil.walk_packages(visipruner.__path__, "visipruner."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("page", sorted({"gradio", "plotly", "bitsandbytes"} & set(sys.modules)))
try:
    sys.modules["visipruner.models.catalogue"].load_vlm()
except ValueError as error:
    print(error)
from visipruner.__main__ import main
print("status", main(["ask", "a.png", "what?"]))
"""


def test_the_engine_runs_from_its_wheel_without_the_page(alone, tmp_path):
    run = python(ENGINE, alone, tmp_path)
    assert run.stdout.splitlines() == [
        "layers 6 tokens 20",
        "version True",
        "page []",
        "tiny-llava (bundled) comes with a clone of the repository; pip installs no model.",
        "status 2",
    ], run.stderr[-2000:]
    assert run.stderr == (
        "error: This command runs from a clone of the repository; pip installs the engine.\n"
    )


def test_the_change_log_begins_with_this_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE).group(1)
    assert newest == visipruner.__version__
