"""Many distinct visitors, one after the other, on a local page: what does the server keep?

    python tests/visitors.py 1000 [--bundled]

Every visitor opens the page, uploads a picture of their own, runs once, saves the data and leaves.
After 20, 100 and all visitors one line gives the server's resident memory and the bytes of its
upload folder. Linux only. The model is a random one with 24 x 24 patches, or the bundled one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
QUESTION = "what colour is the star? Answer in one word."


class Visitor:
    """One session of the page over HTTP, as from a browser without scripts.

    Args:
        address: of a running page, with the final slash.
    """

    def __init__(self, address: str, config: dict | None = None):
        self.api = f"{address}gradio_api/"
        self.session = uuid.uuid4().hex
        self.http = httpx.Client(timeout=120, trust_env=False)
        self.config = config or self.http.get(f"{address}config").json()
        self.key = self.asked = None  # keys of the result on the page, and of its form
        self.components = {part["id"]: part for part in self.config["components"]}

    def event(self, name: str, number: int = 0) -> dict:
        """The page's event of this function, or one of several."""
        found = [d for d in self.config["dependencies"] if _plain(d["api_name"]) == name]
        return found[number]

    def usual(self, event: dict) -> list:
        """What an untouched page sends."""
        return [self.components[part]["props"].get("value") for part in event["inputs"]]

    def filled(self, event: dict, own: dict) -> list:
        """The same, with the visitor's own values by labels."""
        labels = [self.components[part]["props"].get("label") for part in event["inputs"]]
        usual = self.usual(event)
        return [own.get(label, value) for label, value in zip(labels, usual, strict=True)]

    def run(self, own: dict, scene=None) -> dict:
        """Press Run on a form with these values, by labels."""
        read, answer = self.event("on_fetch"), self.event("on_run")
        values = self.filled(read, own)
        values[1] = scene
        asked = self.send(read, values)
        return self.send(answer, [self.key, self.asked]) if asked["success"] else asked

    def upload(self, content: bytes, name: str = "picture.png") -> dict:
        """Upload a file, and return it as the page names it in its requests."""
        answer = self.http.post(f"{self.api}upload", files={"files": (name, content)})
        return {"path": answer.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}

    def send(self, event: dict, data: list, given: object = None) -> dict:
        """Send one event and wait for its last message: {"success": ..., "output": ...}."""
        body = {"fn_index": event["id"], "data": data, "session_hash": self.session}
        body |= {"event_data": given, "trigger_id": None}
        if not event["queue"]:
            answer = self._post("run/predict", body)
            return {"success": answer.is_success, "output": answer.json()}
        joined = self._post("queue/join", body)
        if joined.is_error:
            return {"success": False, "output": joined.json()}
        for message in self._messages(joined.json()["event_id"]):
            data = message.get("output", {}).get("data") or []
            keys = dict(zip(self.event("on_run")["inputs"], ("key", "asked"), strict=True))
            for part, name in keys.items():
                self._note_key(event, data, part, name)
        return message

    def _post(self, route: str, body: dict) -> httpx.Response:
        # Not httpx's JSON: it refuses half surrogate pairs, NaN and infinity.
        kind = {"content-type": "application/json"}
        return self.http.post(self.api + route, content=json.dumps(body), headers=kind)

    def _note_key(self, event: dict, data: list, part: int, name: str):
        """Remember a key that the browser would hold: saving data and starting a run need one."""
        said = dict(zip(event["outputs"], data, strict=False)).get(part)
        changes = said if isinstance(said, list) else []  # after the first message, differences
        for value in [said, *(change[-1] for change in changes)]:
            if isinstance(value, str):
                setattr(self, name, value)

    def _messages(self, event_id: str) -> Iterator[dict]:
        where = {"session_hash": self.session}
        with self.http.stream("GET", f"{self.api}queue/data", params=where) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("event_id") == event_id:
                    yield message
                if message.get("msg") == "close_stream":
                    return


def _plain(name) -> str:
    """The function's name without gradio's number: on_run, on_run_1."""
    head, _, tail = str(name).rpartition("_")
    return head if tail.isdecimal() else str(name)


def visit(address: str, config: dict, number: int) -> Visitor:
    """Everything that one visitor does."""
    visitor = Visitor(address, config)
    visitor.send(visitor.event("on_load"), [])
    picture = visitor.upload(picture_of(number))
    shown = visitor.send(visitor.event("on_upload"), [picture])["output"]["data"][0]
    own = {"Picture": shown, "Question": QUESTION, "Longest answer (tokens)": 4}
    _done(visitor.run(own))
    _done(visitor.send(visitor.event("on_save", 1), [visitor.key]))
    return visitor


def _done(answer: dict):
    if not answer["success"]:
        raise RuntimeError(answer["output"])


def picture_of(number: int) -> bytes:
    """A PNG of about 220 KB, different for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (270, 270, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@contextlib.contextmanager
def server(bundled: bool) -> Iterator[tuple[subprocess.Popen, str, Path]]:
    """(process, address, upload folder) of a page that ends with this block."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        words = [sys.executable, "app.py", "--host", "127.0.0.1", "--port", str(port)]
        if not bundled:
            words += ["--model-path", str(_checkpoint(Path(folder, "models")))]
        uploads = Path(folder, "uploads")
        env = {**os.environ, "GRADIO_TEMP_DIR": str(uploads)}
        process = subprocess.Popen([*words, "--device", "cpu"], cwd=ROOT, env=env)
        address = f"http://127.0.0.1:{port}/"
        try:
            for _ in range(600):
                time.sleep(0.2)
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"{address}config", trust_env=False)
                    break
            yield process, address, uploads
        finally:
            process.terminate()
            process.wait(30)


def _checkpoint(folder: Path) -> Path:
    """A random model with few parameters and LLaVA-1.5's 576 patches."""
    sys.path.insert(0, str(ROOT))
    from conftest import make_llava, make_processor
    from page_server import PRESETS

    processor = make_processor(336, 14)
    make_llava(processor, 336, 14).save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "presets.json").write_text(json.dumps(PRESETS))
    return folder


def resident(process: subprocess.Popen) -> float:
    """Resident memory of a process in megabytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def size(folder: Path) -> float:
    """Megabytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("visitors", type=int)
    parser.add_argument("--bundled", action="store_true", help="ask the bundled model")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the server ends too
    with server(args.bundled) as (process, address, uploads):
        config = httpx.get(f"{address}config", trust_env=False).json()
        start = time.monotonic()
        for number in range(1, args.visitors + 1):
            visit(address, config, number).http.close()
            if number in (20, 50, 100, 200, 300, 500, 700, args.visitors):
                sys.stdout.write(
                    f"{number:5} visitors: {resident(process):6.0f} MB resident, "
                    f"{size(uploads):5.1f} MB uploaded, {time.monotonic() - start:5.0f} s\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
