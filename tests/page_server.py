"""One running page for all tests that need one, with a miniature model that really filters."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import shutil
import tempfile
from pathlib import Path

# Thresholds at which a random model drops some of its patches and keeps others.
_THRESHOLDS = {
    "shallow_layers": [2] * 5,
    "relative": True,
    "layer_threshold": [0.5, 0.99, 0.9999, 0.99999, 0.999999],
    "tokens_threshold": [0, 0.05, 0.1, 0.2, 1.0],
    "exit_threshold": [1.0, 0.9999, 0.999, 0.995, 0.9],
}
PRESETS = {"paper": _THRESHOLDS, "official": _THRESHOLDS}


@functools.cache
def models(checkpoint: Path):
    """The page's models with a copy of this checkpoint as the default one."""
    from visipruner.ui.store import Models

    folder = _folder() / "mini"
    shutil.copytree(checkpoint, folder)
    (folder / "presets.json").write_text(json.dumps(PRESETS))
    return Models(str(folder), device="cpu")  # the tests read text that depends on the device


@functools.cache
def page(checkpoint: Path):
    """Start the page once per test run; it ends with the process."""
    from visipruner.ui.layout import build, launch
    from visipruner.ui.uploads import private_folder

    # Another server on this machine may clean gradio's default folder at any time.
    stack = contextlib.ExitStack()
    stack.enter_context(private_folder())
    atexit.register(stack.close)
    served = build(models(checkpoint))
    launch(served, "127.0.0.1", prevent_thread_lock=True, quiet=True)
    return served


def address(checkpoint: Path) -> str:
    return page(checkpoint).local_url


def _folder() -> Path:
    """An empty folder, removed when the tests end."""
    folder = tempfile.mkdtemp(prefix="visipruner-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
