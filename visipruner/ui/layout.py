"""Components and wiring of the page."""

from __future__ import annotations

import gradio as gr

from visipruner.levels import PRESETS
from visipruner.render.viewer import EMPTY, PatchViewer, viewer_start, viewer_value
from visipruner.ui import handlers, scenes, text, views
from visipruner.ui.handlers import FULL, PRUNED, Form
from visipruner.ui.page import Page, Picture, plainly
from visipruner.ui.store import Models

MODEL_QUEUE = {"concurrency_limit": 1, "concurrency_id": "model"}


def build(models: Models) -> gr.Blocks:
    with Page(title=text.TITLE, fill_width=True, delete_cache=(600, 1800)) as page:
        gr.Markdown(f"# {text.TITLE}\n{text.LEAD}")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                picture = Picture(label=text.PICTURE, type="filepath", sources=["upload", "clipboard", "webcam"])
                question = gr.Textbox(label=text.QUESTION)
                run = gr.Button(text.RUN, variant="primary", size="lg")
                stop = gr.Button(text.STOP)
                model = gr.Dropdown(models.choices, value=models.default, label=text.MODEL)
                method = gr.Dropdown([(t, n) for n, t in text.METHODS.items()], value="visipruner", label=text.METHOD)
                level = gr.Slider(0, 1, PRESETS["balanced"], step=0.05, label=text.LEVEL)
            with gr.Column(scale=5, min_width=320):
                status = gr.HTML()
                verdict = gr.HTML()
                with gr.Row():
                    full, pruned = gr.HTML(), gr.HTML()
                viewer = PatchViewer()
                small = gr.HTML()
        outputs = [status, verdict, full, pruned, viewer, small]

        @plainly
        def on_run(picture, question, model, method, level):
            job = handlers.check(models, Form(picture, question, model, method, level))
            for progress in handlers.follow(job):
                yield [views.status(progress), gr.skip(), views.column(progress, FULL), views.column(progress, PRUNED), gr.skip(), gr.skip()]
            c = progress.comparison
            yield [gr.skip(), views.verdict(c), gr.skip(), gr.skip(), viewer_value(c), views.small_print(c)]

        event = gr.on([run.click, question.submit], on_run, [picture, question, model, method, level], outputs,
            show_progress_on=[status], api_visibility="private", **MODEL_QUEUE)
        stop.click(lambda: views.says(text.STOPPED), None, status, cancels=[event], api_visibility="private")
    return page


def launch(page, host=None, port=None, **more):
    page.queue(max_size=20)
    page.launch(server_name=host, server_port=port, share=False, run_history=False, footer_links=["api"], **more)
