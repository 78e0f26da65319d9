"""A ZeroGPU Space in miniature: the real `spaces` wrappers, an imitated scheduler, no GPU.

python tests/zerogpu_server.py CHECKPOINT prints what happened as one line of JSON.

The decorator, the forked worker, the queues and the pickling are real. The device API that assigns
GPUs is imitated, and so is torch's emulation of CUDA, which a CPU build lacks.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlparse

calls: list[tuple[str, dict]] = []


class DeviceApi(BaseHTTPRequestHandler):
    def do_POST(self):
        address = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        calls.append((address.path, query))
        body = {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "imitation", "allowToken": "token"}
        body = json.dumps(body if address.path == "/schedule" else {}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def become_a_space():
    """Call before gradio and torch are imported."""
    server = HTTPServer(("127.0.0.1", 0), DeviceApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["SPACES_ZERO_GPU"] = "true"
    os.environ["SPACES_ZERO_DEVICE_API_URL"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["HF_HUB_OFFLINE"] = "1"
    emulation = types.ModuleType("spaces.zero.torch")
    for name in ("patch", "unpatch", "enter_mode", "init", "move"):
        setattr(emulation, name, lambda *_, **__: None)
    emulation.pack = emulation.size = lambda *_: 0
    emulation.is_in_bad_fork = lambda: False
    sys.modules["spaces.zero.torch"] = emulation


class Faulty:
    """Replaces a method: every use of it raises, after the model was asked whether it serves it."""

    needs = frozenset()

    def __getattr__(self, name):
        if name.startswith("__"):  # pickling to the worker must work
            raise AttributeError(name)
        self.__iter__()

    def __iter__(self):
        raise ValueError(" ".join(["words of", "a fault"]))  # split, so no line holds all of it


def visit(checkpoint: str) -> dict:
    """A visitor's actions: run, stop, measure, request what does not exist."""
    import gradio as gr
    import torch
    from PIL import Image
    from transformers import core_model_loading

    from visipruner.models.catalogue import MODELS, ModelSpec
    from visipruner.running import runner
    from visipruner.ui import handlers, teaching
    from visipruner.ui.store import Models

    torch.set_num_threads(1)  # threads do not survive a fork
    MODELS.clear()
    MODELS["mini"] = ModelSpec("mini", "mini", checkpoint)
    MODELS["absent"] = ModelSpec("absent", "absent", repo="nobody/absent", size=10**9)
    loaders = set()
    copy = core_model_loading._materialize_copy

    def noting(*args, **kwargs):
        loaders.add(threading.current_thread().name)
        return copy(*args, **kwargs)

    core_model_loading._materialize_copy = noting
    models = Models()
    picture = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")
    options = {"max_new_tokens": 4}
    form = handlers.Form(picture, "what colour is the star?", "mini", options=options)
    job = handlers.check(models, form)

    seen = [event.kind for event in job.run()]
    stopped = handlers.follow(job)
    next(stopped), next(stopped)
    stopped.close()
    *_, last = handlers.follow(job)
    rounds = list(teaching.rounds(job))[-1]
    try:
        list(models.compare(("absent", "sdpa", "auto"), job.prompt, job.methods, job.options))
        said = ""
    except gr.Error as error:
        said = error.message
    try:
        list(models.compare(job.key, job.prompt, [Faulty()], job.options))
        shown = ""
    except gr.Error as error:
        shown = error.message
    direct = runner.compare(job.vlm, job.prompt, job.methods, job.options)
    direct = runner.last_event(direct).comparison
    return {
        "menu": list(models.paths),
        "loaders": sorted(loaders),
        "events": seen,
        "answers": [answer.tokens for answer in last.comparison.answers],
        "direct": [answer.tokens for answer in direct.answers],
        "rounds": [len(side) for side in rounds],
        "said": said,
        "shown": shown,
        "runs_in_parent": job.vlm.runs,
        "pid": os.getpid(),
        "calls": calls,
    }


if __name__ == "__main__":
    become_a_space()
    import spaces  # noqa: F401 - as on a Space, before any use of a GPU

    sys.stdout.write("RESULT " + json.dumps(visit(sys.argv[1])) + "\n")
