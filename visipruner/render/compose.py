"""Compose a scene by mouse, touch or keyboard, in one gr.HTML component."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from visipruner.render.palette import INK, KEPT

_HERE = Path(__file__).parent


def SceneComposer(world: Mapping, **kwargs):
    """A `gr.HTML` whose value is {"things": [...], "seed": n}; "submit" means: use this scene.

    Args:
        world: the words and sizes of the scenes, from `world.composed.composer_props`. There,
            `scene_of(value)` returns the scene, and `composer_value(scene)` the value to start
            from.
    """
    import gradio as gr  # the rest of this package needs no gradio

    script = "\n".join((_HERE / f"compose{part}.js").read_text("utf-8") for part in ("_shapes", ""))
    arguments = {
        "value": {"things": [], "seed": 0},
        "html_template": (_HERE / "compose.html").read_text("utf-8"),
        "css_template": (_HERE / "compose.css").read_text("utf-8"),
        "js_on_load": script,
        "apply_default_css": False,
        "elem_classes": ["scene-composer"],
        "ink": INK,
        "chosen": KEPT,
    }
    return gr.HTML(**{**arguments, **world, **kwargs})
