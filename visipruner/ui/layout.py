"""The page: where each component stands. wiring.py says what the components do."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from visipruner.choice import MOST_CONTESTANTS
from visipruner.errors import Refused
from visipruner.lesson import reading
from visipruner.lesson.plan import Plan
from visipruner.render.charts import CHART_CSS
from visipruner.render.viewer import PatchViewer
from visipruner.ui import (
    arena,
    arena_events,
    controls,
    curve,
    inside,
    inside_events,
    keeping,
    lesson,
    opening,
    tabs,
    text,
    views,
    wiring,
)
from visipruner.ui.own import Own
from visipruner.ui.page import browser_value, guarded, says_when_full
from visipruner.ui.store import Models
from visipruner.ui.uploads import Uploads

HERE = Path(__file__).parent
KEEP_FILES = (60, keeping.LONGEST)  # every minute, delete files unused for that long


@dataclass
class Results:
    """The right side: everything that a run fills.

    Args:
        state: a word of run_state.py.
        asked: the key of the submitted form in `forms`.
        result: the key of the finished result in `kept`.
    """

    status: gr.HTML
    state: gr.HTML
    notes: gr.HTML
    intro: gr.HTML
    body: gr.Column
    verdict: gr.HTML
    cards: list[gr.HTML]
    viewer: gr.HTML
    charts: gr.Column
    plots: list[gr.Plot]
    told: list[gr.HTML]
    small: gr.HTML
    medians: gr.HTML
    measure: gr.Button
    saves: dict[str, gr.Button]
    payload: gr.JSON
    asked: gr.HTML
    result: gr.HTML
    forms: keeping.Kept
    kept: keeping.Kept


@dataclass
class Tools:
    """Tools for teaching and sharing, folded away."""

    find: gr.Button
    own: Own | None  # the server's file of questions
    find_own: gr.Button | None
    place: gr.HTML  # the line of it that a visitor has come to
    found: gr.HTML
    sweep: gr.Button
    table: gr.HTML
    repeat: gr.Accordion
    link: gr.Textbox
    copy: gr.Button
    python: gr.Code
    command: gr.Code
    client: gr.Code


def build(models: Models, plan: Plan | None = None, own: Own | None = None) -> gr.Blocks:
    """The whole page, before launch.

    Args:
        plan: the lesson; None: the page's own.
        own: questions that a search may walk through besides the scenes.
    """
    with gr.Blocks(
        title=text.TITLE, fill_width=True, delete_cache=KEEP_FILES, analytics_enabled=False
    ) as page:
        with gr.Column(elem_id="vp-page"):
            head = _head()
            with gr.Row(elem_classes="vp-columns"):
                with gr.Column(scale=2, min_width=320, elem_classes="vp-inputs"):
                    chosen = controls.build(models)
                with tabs.view(tabs.COMPARE):
                    results = _results()
                    tools = _tools(own)
                    opened = opening.build()
                with tabs.view(tabs.INSIDE):
                    looked = inside.build(chosen.inside)
                with tabs.view(tabs.ARENA):
                    contests = arena.build(chosen.arena)
                with tabs.view(tabs.CURVE):
                    drawn = curve.build()
                with tabs.view(tabs.LESSON):
                    taught = lesson.build(plan or reading.read())
        wiring.connect(page, models, head, chosen, results, tools, opened)
        inside_events.connect(models, head, chosen, looked, results)
        arena_events.connect(page, models, head, chosen, contests, results)
        curve.connect(models, chosen, drawn)
        lesson.connect(models, chosen, looked, taught)
        page.kept, page.forms = results.kept, results.forms  # `launch` tidies them
        page.load(None, js="() => vp.restore()", api_visibility="private")
    return guarded(page)


def _head() -> gr.HTML:
    with gr.Row(elem_classes="vp-head"):
        with gr.Column(scale=8, min_width=280):
            gr.HTML(f"<h1>{text.TITLE}</h1>")
            state = gr.HTML(elem_classes="vp-model")
        gr.HTML(tabs.switch(), elem_classes="vp-switch")
        with gr.Row(elem_classes="vp-modes"):
            projector = gr.Button(
                text.PROJECTOR,
                size="sm",
                min_width=90,
                elem_classes="vp-wide",
                elem_id="vp-projector",
            )
            dark = gr.Button(text.DARK, size="sm", min_width=70, elem_id="vp-dark")
    projector.click(None, js="() => vp.projector()", api_visibility="private")
    dark.click(None, js="() => vp.dark()", api_visibility="private")
    return state


def _results() -> Results:
    status = gr.HTML(elem_classes="vp-statusbox")
    older = f'data-form="{text.OLDER}" data-picture="{text.OLDER_PICTURE}"'
    gr.HTML(f'<p id="vp-older" {older} hidden></p>')
    notes = gr.HTML(elem_classes="vp-notesbox")
    intro = gr.HTML(_intro())
    with gr.Column(visible=False, elem_classes="vp-body") as body:
        shown = _body()
    return Results(
        status=status,
        state=browser_value(),
        notes=notes,
        intro=intro,
        body=body,
        **shown,
        payload=gr.JSON(visible="hidden"),
        asked=browser_value(),
        result=browser_value(),
        forms=keeping.forms(),
        kept=keeping.Kept(),
    )


def _body() -> dict:
    """The results, hidden before the first run."""
    verdict = gr.HTML(elem_id="vp-verdict")
    with gr.Row(elem_classes="vp-answers", equal_height=True):
        cards = [gr.HTML() for _ in range(1 + MOST_CONTESTANTS)]
    viewer = PatchViewer()
    drawn = _charts()
    with gr.Row(elem_classes="vp-tight vp-saves"):
        measure = gr.Button(text.MEASURE, size="sm")
        saves = {
            kind: gr.Button(label, size="sm")
            for kind, label in (
                ("png", text.SAVE_PNG),
                ("json", text.SAVE_JSON),
                ("html", text.SAVE_HTML),
            )
        }
    medians = gr.HTML(elem_id="vp-medians")
    small = gr.HTML()
    parts = {"verdict": verdict, "cards": cards, "viewer": viewer, **drawn}
    return {**parts, "measure": measure, "saves": saves, "medians": medians, "small": small}


def _charts() -> dict:
    plots, told = [], []
    with gr.Column(visible=False, elem_classes="vp-charts") as charts:
        fold = gr.Button(text.CHARTS, size="sm", elem_id="vp-fold")  # on phones only
        with gr.Column(elem_classes="vp-drawn"):
            with gr.Row():
                for _ in range(2):
                    with gr.Column(min_width=280):
                        plots.append(gr.Plot(show_label=False, container=False))
                        told.append(gr.HTML())
            plots.append(gr.Plot(show_label=False, container=False))
            told.append(gr.HTML())
    fold.click(None, js="() => vp.fold()", api_visibility="private")
    return {"charts": charts, "plots": plots, "told": told}


def _intro() -> str:
    # The style sheet shows one of these two: with or without a picture.
    end = (
        f'<span class="vp-there">{text.HOW_END}</span>'
        f'<span class="vp-missing">{text.HOW_EMPTY}</span>'
    )
    return views.intro(text.LEAD, text.HOW, end)


def _tools(own: Own | None) -> Tools:
    with gr.Accordion(text.TEACHING, open=False):
        gr.Markdown(text.FIND_INFO)
        with gr.Row(elem_classes="vp-tight"):
            find = gr.Button(text.FIND, size="sm")
            find_own = own and gr.Button(text.FIND_OWN.format(name=own.path.name[:40]), size="sm")
            sweep = gr.Button(text.SWEEP, size="sm")
        if own:
            told = {"find": find_own.value, "count": f"{own.questions:,}"}
            gr.HTML(f"<p>{escape(text.FIND_OWN_INFO.format(**told))}</p>")
        place = browser_value()
        found, table = gr.HTML(elem_id="vp-found"), gr.HTML(elem_id="vp-levels")
    with gr.Accordion(text.REPEAT, open=False) as repeat:
        gr.Markdown(text.REPEAT_INFO)
        link = gr.Textbox(
            label=text.LINK, interactive=False, info=text.LINK_INFO, elem_classes="vp-link"
        )
        copy = gr.Button(text.COPY_LINK, size="sm", elem_id="vp-copy")
        # No language: gradio's colours for code are too pale to read.
        command, python, client = (
            gr.Code(
                label=label,
                language=None,
                interactive=False,
                lines=2,
                show_line_numbers=False,
                wrap_lines=True,
            )
            for label in (text.COMMAND, text.PYTHON, text.CLIENT)
        )
    return Tools(
        find=find,
        own=own,
        find_own=find_own,
        place=place,
        found=found,
        sweep=sweep,
        table=table,
        repeat=repeat,
        link=link,
        copy=copy,
        python=python,
        command=command,
        client=client,
    )


def launch(
    page: gr.Blocks,
    host: str | None = None,
    port: int | None = None,
    models: Models | None = None,
    prevent_thread_lock: bool = False,
    **more,
):
    """Serve the page, without accounts, statistics, run history or sharing.

    Args:
        models: load the default model in the background, so that the first answer comes soon.

    Raises:
        OSError: the port is taken, or the host is not an address of this machine.
    """
    keeping.one_heap()  # before the answering threads start
    says_when_full(page.queue(max_size=keeping.MOST_WAITING))
    where = {"server_name": host, "server_port": port}
    try:
        served = page.launch(**where, prevent_thread_lock=True, **_settings(), **more)
    except OSError:
        raise OSError(text.PORT_TAKEN.format(**_asked_for(host, port))) from None
    keeping.watch([page.kept, page.forms], page.temp_file_sets)
    if models:  # only now: a start that fails must not end in the middle of torch
        threading.Thread(target=_warm, args=(models,), daemon=True).start()
    if not prevent_thread_lock:
        page.block_thread()
    return served


def _asked_for(host: str | None, port: int | None) -> dict:
    """The host and port that gradio tried."""
    named = port or os.environ.get("GRADIO_SERVER_PORT")
    count = int(os.environ.get("GRADIO_NUM_PORTS", "100"))
    ports = "7860" if count == 1 else f"7860 to {7859 + count}"
    return {
        "port": named or ports,
        "host": host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1",
    }


def _settings() -> dict:
    scripts = "page.js", "watching.js", "curve.js"
    script = "".join((HERE / name).read_text("utf-8") for name in scripts)
    return dict(  # noqa: C408 - reads like the call that it is for
        share=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=["api"],
        theme=_theme(),
        css=(HERE / "theme.css").read_text("utf-8") + CHART_CSS,
        head=f"<script>{script}</script>",
        max_file_size="30mb",
        ssr_mode=False,
        app_kwargs={"middleware": [Middleware(Uploads)]},
        state_session_capacity=keeping.MOST_SESSIONS,
    )


def _theme() -> gr.themes.Base:
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONO)
    # The default blue is too pale under white letters.
    return theme.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
    )


def _warm(models: Models):
    with contextlib.suppress(Refused):  # Run reports what is missing
        models.get(models.default)


_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
_MONO = ["ui-monospace", "DejaVu Sans Mono", "monospace"]
