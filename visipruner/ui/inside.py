"""The view "Look inside": its controls, its column, and the analyses that a visitor chose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gradio as gr

from visipruner.analyses import ANALYSES
from visipruner.analyses.base import Analysis
from visipruner.errors import Refused
from visipruner.inputs import check_choice
from visipruner.render.inside import InsideBoard
from visipruner.settings import FLAG, YES_OR_NO, Setting, settings_of
from visipruner.ui import beside, tabs, text, views
from visipruner.ui import inside_words as words
from visipruner.ui.beside import Place
from visipruner.ui.page import browser_value

FIRST = ("influence", "attention", "lens", "masking")  # chosen on a new page
MOST_TYPED = 1_000  # characters in one input


@dataclass
class Inside:
    """The view's components.

    Args:
        names: the chosen analyses. answer: whether the answer stands behind the prompt.
        groups: the settings of each analysis that has some. fields: each setting's input.
        result: the key of what was found.
    """

    run: gr.Button
    stop: gr.Button
    names: gr.CheckboxGroup
    answer: gr.Checkbox
    groups: dict[str, gr.Group]
    fields: dict[tuple[str, str], gr.Component]
    place: Place
    intro: gr.HTML
    board: gr.HTML
    saves: dict[str, gr.Button]
    payload: gr.JSON
    result: gr.HTML

    @property
    def inputs(self) -> list[gr.Component]:
        return [self.names, self.answer, *self.fields.values()]


def buttons() -> dict[str, gr.Button]:
    """The view's buttons, where the other views have theirs."""
    with gr.Row(elem_classes=["vp-actions", tabs.ONLY_INSIDE]):
        run = gr.Button(
            words.RUN, variant="primary", size="lg", scale=3, min_width=120, elem_id="vp-inside"
        )
        stop = gr.Button(text.STOP, size="lg", min_width=70, elem_id="vp-inside-stop")
    return {"run": run, "stop": stop}


def build(placed: dict[str, gr.Button]) -> Inside:
    """The view's column.

    Args:
        placed: from `buttons`.
    """
    names = gr.CheckboxGroup(
        [(kind.title, name) for name, kind in ANALYSES.items()],
        value=list(FIRST),
        label=words.NAMES,
        info=words.NAMES_INFO,
        elem_id="vp-inside-names",
    )
    with gr.Accordion(words.SETTINGS, open=False):
        answer = gr.Checkbox(False, label=words.ANSWER, info=words.ANSWER_INFO)
        groups, fields = _settings()
    place = beside.build(tabs.INSIDE)
    intro = gr.HTML(views.intro(words.LEAD, words.INTRO, words.BEGIN))
    board = InsideBoard(elem_id="vp-inside-board")
    with gr.Row(elem_classes="vp-tight vp-saves", elem_id="vp-inside-saves"):
        saves = {
            kind: gr.Button(label, size="sm", interactive=False)
            for kind, label in (("json", words.SAVE_JSON), ("html", words.SAVE_HTML))
        }
    return Inside(
        **placed,
        names=names,
        answer=answer,
        groups=groups,
        fields=fields,
        place=place,
        intro=intro,
        board=board,
        saves=saves,
        payload=gr.JSON(visible="hidden"),
        result=browser_value(),
    )


def _settings() -> tuple[dict, dict]:
    groups, inputs = {}, {}
    for name, kind in ANALYSES.items():
        if not settings_of(kind):
            continue
        with gr.Group(visible=name in FIRST) as groups[name]:
            gr.Markdown(f"**{kind.title}.** {kind.question}", elem_classes="vp-fieldhead")
            for field, one in settings_of(kind).items():
                inputs[name, field] = _input(kind, field, one)
    return groups, inputs


def _input(kind: type[Analysis], field: str, one: Setting):
    usual = one.show(getattr(kind, field))
    info = words.SETTING_INFO.format(name=field, usual=usual)
    options = YES_OR_NO if one.kind == FLAG else one.options
    if options:
        return gr.Dropdown(list(options), value=usual, label=one.words, info=info)
    return gr.Textbox("", label=one.words, info=info, placeholder=usual, max_lines=1)


def chosen(names: Sequence[str], typed: Mapping[tuple[str, str], object]) -> list[Analysis]:
    """The analyses with their settings; an empty input leaves a setting as it usually is.

    Raises:
        Refused: none, an unknown one, or a value that a setting cannot have.
    """
    if not names:
        raise Refused(words.NOTHING)
    for name in names:
        check_choice("every analysis", name, ANALYSES)
    return [_made(name, typed) for name in ANALYSES if name in names]


def _made(name: str, typed: Mapping[tuple[str, str], object]) -> Analysis:
    values, known = {}, settings_of(ANALYSES[name])
    for field, one in known.items():
        value = typed.get((name, field))
        if isinstance(value, str) and len(value) > MOST_TYPED:
            raise Refused(f"“{one.words}” holds more than {MOST_TYPED:,} characters.")
        if value not in (None, ""):
            values[field] = one.parse(value)
    try:
        return ANALYSES[name](**values)
    except Refused as error:
        raise Refused(f"{ANALYSES[name].title}: {_in_words(str(error), known)}") from None


def _in_words(sentence: str, known: Mapping[str, Setting]) -> str:
    """A refusal with the setting's words in place of its name in code."""
    for field, one in known.items():
        if sentence.startswith(f"{field} must"):
            return f"“{one.words}”{sentence.removeprefix(field)}"
    return sentence
