"""Links that fill the form, and the current settings as Python or as a command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from urllib.parse import urlencode

from visipruner.choice import names_of
from visipruner.errors import Refused
from visipruner.inputs import check_choice, clean_question
from visipruner.levels import level_number
from visipruner.methods.visipruner import SEMANTICS
from visipruner.models.catalogue import drawn
from visipruner.ui import text
from visipruner.ui.controls import sides_of
from visipruner.ui.handlers import Form
from visipruner.ui.store import Models
from visipruner.world import sources
from visipruner.world.phrases import as_learnt


def query(form: Form, scene: int | dict | None) -> str:
    """The part of a link after the question mark. It never contains a visitor's own picture."""
    parts = {"seed": scene} if isinstance(scene, int) else {}
    parts |= {
        "question": form.question or "",
        "model": form.model,
        "method": ",".join(form.sides[1:]),
        "level": _level(form),
        "semantics": form.semantics,
    }
    return urlencode(parts)


def read(parameters: Mapping[str, str], models: Models) -> tuple[dict, list[str]]:
    """The settings of a link that can be understood, and a sentence for each that cannot.

    This loads nothing and runs nothing.
    """
    readers = {
        "seed": _scene_number,
        "question": lambda value: clean_question(value)[0],
        "model": lambda value: check_choice("model", value, models.paths),
        "method": _methods,
        "level": level_number,
        "semantics": lambda value: check_choice("semantics", value, SEMANTICS),
    }
    found, notes = {}, []
    for name, reader in readers.items():
        if name not in parameters:
            continue
        try:
            found[name] = reader(parameters[name])
        except Refused:
            notes.append(text.BAD_LINK.format(name=text.LINK_NAMES.get(name, name)))
    return found, notes


def _methods(value: str) -> list[str]:
    """The methods or stacks of "fastv,visionzip+visipruner", the menu's own first."""
    first, *others = ("+".join(names_of(one)) for one in value.split(","))
    _, *found = sides_of(first, others)
    return found


def _level(form: Form):
    """The level as a short number or a preset's name."""
    return f"{form.level:g}" if isinstance(form.level, float | int) else form.level


def _scene_number(value: str) -> int:
    if not value.isdecimal() or len(value) > 20:
        raise Refused(f"A scene's number must be a whole number, not {value[:20]!r}.")
    sources.scene(int(value))
    return int(value)


def python(form: Form, scene: int | dict | None, local: bool = False) -> str:
    """A script that repeats this comparison."""
    model = '"DIR"  # your checkpoint' if local else repr(form.model)
    picture, imports = '"picture.png"', ""
    if isinstance(scene, int):
        picture = f'render(make_scene({scene}, "{sources.SPLIT}"))'
        imports = (
            "from visipruner.world.drawing import render\n"
            "from visipruner.world.scenes import make_scene\n"
        )
    question = form.question
    if drawn(form.model):  # the page asked the run in the wording that the model learnt
        question = as_learnt(question or "")
    own = f", **{form.fields!r}" if form.fields else ""  # a name may hold a dot
    options = ", ".join(f"{name}={value!r}" for name, value in form.options.items())
    return f"""from visipruner.choice import sides_at
from visipruner.models.catalogue import load_vlm
from visipruner.running.results import Options
from visipruner.running.runner import compare, last_event
{imports}
model = {model}
vlm = load_vlm(model, attention={form.backend!r}, precision={form.precision!r})
prompt = vlm.prepare({picture}, {question!r}, {form.picture_mode!r})
visual = prompt.layout.num_visual
sides = sides_at(vlm, {form.sides!r}, {form.level!r}, {form.semantics!r}, visual{own})
options = Options({options})
comparison = last_event(compare(vlm, prompt, sides, options)).comparison
for answer in comparison.answers:
    print(answer.text, answer.counts.executed.prefill, answer.trace.why)
"""


ADDRESS = "http://127.0.0.1:7860/"  # page.js puts its own in place of it


def client(form: Form, local: bool = False) -> str:
    """The same asked of a running page by another program."""
    options = {**form.options, "semantics": form.semantics, "picture_mode": form.picture_mode}
    options |= {"backend": form.backend, "precision": form.precision}
    options |= {"methods": list(form.methods)} if form.methods else {"fields": form.fields}
    named = [f"question={form.question!r}"]
    named += [] if local else [f"model={form.model!r}"]
    named += [] if form.methods else [f"method={form.method!r}"]
    named += [f"level={form.level!r}", f"options={options!r}"]
    arguments = "".join(f"    {words},\n" for words in named)
    return f"""from gradio_client import Client, handle_file

client = Client("{ADDRESS}")
result = client.predict(
    picture=handle_file("picture.png"),
{arguments}    api_name="/compare",
)
for answer in result["answers"]:
    print(answer["name"], answer["text"])
"""


def command_line(form: Form, scene: int | dict | None, local: bool = False) -> str:
    """The same comparison for a terminal."""
    picture = f"scene:{scene}" if isinstance(scene, int) else "picture.png"
    words = ["python", "-m", "visipruner", "ask"]
    words += ["--model-path", "DIR"] if local else ["--model", form.model]
    words += ["--methods", *form.methods] if form.methods else ["--method", form.method]
    if form.level is not None:  # None: the box was emptied, and a run reports it
        words += ["--level", _level(form)]
    words += ["--semantics", form.semantics]
    words += ["--picture-mode", form.picture_mode, "--attention", form.backend]
    words += ["--precision", form.precision]
    for name, value in form.options.items():
        if value is not None:  # None: the box was emptied, and a run reports it
            words += [f"--{name.replace('_', '-')}", f"{value:.10g}"]
    for name, value in form.fields.items():
        words += ["--set", f"{name}={json.dumps(value)}"]
    # A question may begin with a dash.
    return shlex.join([*words, "--json", "out.json", "--", picture, form.question or ""])
