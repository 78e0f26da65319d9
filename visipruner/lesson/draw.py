"""A lesson and what its steps reveal as plain data, which board.js draws."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image, ImageOps

from visipruner.lesson.plan import Plan, Prediction
from visipruner.lesson.play import MapOfLayer, Row, Shown, Survivors
from visipruner.render import palette
from visipruner.render.overlay import beside, veiled
from visipruner.render.patch_map import layer_picture
from visipruner.sheets import Sheet

_HERE = Path(__file__).parent
SIDE = 420  # pixels of a picture's longer side
_STOPS = 9  # of a colour bar
NOTHING = {"step": 0, "state": "ready"}


def plan_value(plan: Plan) -> dict:
    """The whole lesson for the page: its words and pictures, and what is right.

    Raises:
        Refused: a step's picture cannot be read.
    """
    return {
        "title": plan.title,
        "about": plan.about,
        "minutes": round(sum(step.minutes for step in plan.steps)),
        "steps": [
            {
                "title": step.title,
                "minutes": step.minutes,
                "picture": picture_url(_fitted(step.image())),
                "question": step.question,
                "say": step.say,
                "predict": _asked(step.predict),
                "told": list(step.told),
                "paper": step.paper,
                "try": step.attempt.say,
                "view": step.attempt.view,
                "notes": step.notes,
            }
            for step in plan.steps
        ],
        "quiz": [_asked(one) for one in plan.quiz],
    }


def _asked(one: Prediction) -> dict:
    return {"ask": one.ask, "choices": list(one.choices), "right": one.right, "why": one.why}


def _fitted(picture: Image.Image) -> Image.Image:
    return ImageOps.contain(picture.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)


class Drawing:
    """Draws one step while it grows; a picture that was drawn is kept."""

    def __init__(self, sheets: Sequence[Sheet]):
        self.sheets, self.made = sheets, {}

    def value(self, step: int, shown: Shown) -> dict:
        """What the board shows of a step.

        Args:
            step: its number, from 0.
        """
        return {
            "step": step,
            "state": "done" if shown.done else "running",
            "doing": shown.doing,
            "rows": [_row(row) for row in shown.rows],
            "frames": [
                {
                    "label": frame.label,
                    "rows": [_row(row) for row in frame.rows],
                    "pictures": [self.picture(one) for one in frame.pictures],
                }
                for frame in shown.frames
            ],
            "slider": shown.slider,
            "at": shown.at,
            "bills": [asdict(bill) for bill in shown.bills],
            "table": asdict(shown.table) if shown.table else None,
        }

    def picture(self, one: Survivors | MapOfLayer) -> dict:
        """Title, alternative text and address of a picture; a map also has a colour bar."""
        if isinstance(one, Survivors):
            left = "no patch is left" if not one.kept else f"{len(one.kept)} patches go on"
            return {
                "title": one.title,
                "alt": f"{one.title}: {left}; the others are dark.",
                "src": self._url(("kept", one.kept), lambda: self.survivors(one)),
            }
        drawn, low_high = one.shown, [f"{end:.3g}" for end in one.shown.scale]
        return {
            "title": one.title,
            "alt": f"{one.title}, layer {one.layer}. {drawn.words}",
            "src": self._url(("map", id(drawn), one.layer), lambda: self.layer(one)),
            "bar": {"ends": low_high, "unit": drawn.unit, "colours": _colours()},
        }

    def survivors(self, one: Survivors) -> Image.Image:
        """The picture with its dropped patches dark."""
        return _fitted(beside([veiled(sheet, set(one.kept)) for sheet in self.sheets]))

    def layer(self, one: MapOfLayer) -> Image.Image:
        """One layer of a map."""
        return layer_picture(one.shown, self.sheets, one.layer, SIDE)

    def _url(self, key: tuple, draw) -> str:
        if key not in self.made:
            self.made[key] = picture_url(draw())
        return self.made[key]


def _row(row: Row) -> dict:
    return asdict(row)


def _colours() -> list[str]:
    stops = [palette.heat(stop / (_STOPS - 1)) for stop in range(_STOPS)]
    return ["#{:02x}{:02x}{:02x}".format(*stop) for stop in stops]


def picture_url(picture: Image.Image) -> str:
    """A picture as a data address, in WEBP."""
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=82, method=2)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()


def LessonBoard(plan: Plan, **kwargs):
    """A `gr.HTML` whose value comes from `Drawing.value`.

    "select" asks for a step to be run, "apply" for its form on the free page; both with {"step"}.
    """
    import gradio as gr  # the values and the print need no gradio

    arguments = {
        "value": NOTHING,
        "html_template": (_HERE / "board.html").read_text("utf-8"),
        "css_template": (_HERE / "board.css").read_text("utf-8"),
        "js_on_load": (_HERE / "board.js").read_text("utf-8"),
        "apply_default_css": False,
        "elem_classes": ["lesson-board"],
        "lesson": plan_value(plan),
    }
    return gr.HTML(**{**arguments, **kwargs})
