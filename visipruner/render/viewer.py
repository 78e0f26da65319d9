"""The patch viewer: a gr.HTML component that answers mouse, touch and keys in the browser."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from visipruner.render.palette import for_viewer
from visipruner.render.values import (
    LOG_HIGH,
    LOG_LOW,
)

_HERE = Path(__file__).parent
_SCRIPTS = ("sheets", "data", "draw", "panel", "sides", "page")  # a base class comes first
EMPTY: dict = {"kind": "empty", "layers": [], "masks": [], "steps": []}


def viewer_parts() -> dict[str, str]:
    """The viewer's markup, style and script, for the page and the report."""
    return {
        "html_template": (_HERE / "viewer.html").read_text("utf-8"),
        "css_template": (_HERE / "viewer.css").read_text("utf-8"),
        "js_on_load": script_of([f"viewer_{part}" for part in _SCRIPTS]),
    }


def script_of(files: Sequence[str]) -> str:
    """The constants of everything drawn from a trace, and these scripts of this folder."""
    # Constants of the script, not props: gradio loses props when a hidden column first appears.
    script = f"const PALETTE = {json.dumps(for_viewer())};\n"
    script += f"const LOG_RANGE = {json.dumps([LOG_LOW, LOG_HIGH])};\n"
    return script + "\n".join((_HERE / f"{file}.js").read_text("utf-8") for file in files)


def PatchViewer(**kwargs):
    """A `gr.HTML` whose value comes from `viewer_value`, `viewer_start` or `viewer_live`."""
    import gradio as gr  # the values and the report need no gradio

    arguments = {"value": EMPTY, "apply_default_css": False, "elem_classes": ["patch-viewer"]}
    return gr.HTML(**{**arguments, **viewer_parts(), **kwargs})
