"""The server as a process: how it starts, what it leaves behind, and abandoned calls."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gradio as gr
import httpx
import page_server
import pytest
from gradio.route_utils import GradioUploadFile
from gradio.state_holder import SessionState
from gradio_client import Client, handle_file

import app
from visipruner.errors import Refused
from visipruner.ui import layout, text, uploads
from visipruner.ui.layout import build, launch
from visipruner.world import sources

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 120  # seconds until a test fails
PROXIES = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
PROXIES |= {"all_proxy": "socks://127.0.0.1:9", "HTTPS_PROXY": "%", "no_proxy": "[::1,"}


# -- a process


class Server:
    """`python app.py` with its own folders. `said` is its output, once it has ended."""

    def __init__(self, folder: Path, *options: str, **variables: str):
        self.folder, self.said = folder, ""
        variables |= {"GRADIO_TEMP_DIR": str(folder), "VISIPRUNER_MODELS": "tiny"}
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "app.py", "--host", "127.0.0.1", *options],
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def address(self) -> str:
        """Wait until the page answers."""
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                return found[0]
        raise AssertionError(self.said)

    def end(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.said += self.process.communicate(timeout=TIMEOUT)[0]
        return self.process.returncode

    @property
    def left(self) -> list[str]:
        """The upload folders that exist."""
        return sorted(path.name for path in self.folder.glob(f"{uploads.PREFIX}*"))


@pytest.fixture
def start(tmp_path):
    servers = []

    def make(*options, **variables):
        servers.append(Server(tmp_path, *options, **variables))
        return servers[-1]

    yield make
    for server in servers:
        server.process.kill()
        server.process.communicate()


def upload(address: str, content: bytes | None = None, name="picture.png") -> httpx.Response:
    content = (ROOT / "assets" / "screenshot.png").read_bytes() if content is None else content
    with httpx.Client(trust_env=False, timeout=TIMEOUT) as client:
        return client.post(f"{address}/gradio_api/upload", files={"files": (name, content)})


def uploaded(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@contextlib.contextmanager
def call(address: str, path: str, **options):
    """A call of /compare, read line by line; leaving drops the connection."""
    data = [uploaded(path), "what colour is the star?", None, "visipruner", "balanced", options]
    url = f"{address}/gradio_api/call/compare"
    with httpx.Client(trust_env=False, timeout=TIMEOUT) as client:
        event = client.post(url, json={"data": data}).json()["event_id"]
        with client.stream("GET", f"{url}/{event}") as answer:
            yield answer.iter_lines()


def wait_until(condition):
    """Wait for what another process or thread does without a signal."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def until(lines, start: str) -> str:
    return next(line for line in lines if line.startswith(start))


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_in_the_middle_of_a_run_ends_the_server_with_0(start, number):
    server = start(**PROXIES)  # which it ignores
    address = server.address()
    path = upload(address).json()[0]
    assert Path(path).parts[-3] in server.left
    with call(address, path, max_new_tokens=1000) as lines:
        for _ in range(2):  # the first comes before anything runs
            until(lines, "event: generating")
        assert server.end(number) == 0
    assert not server.left
    assert "Traceback" not in server.said and "terminate" not in server.said


@pytest.mark.slow
@pytest.mark.parametrize("pause", [n * 0.15 for n in range(20)])
def test_sigterm_while_the_model_warms_up_ends_the_server_with_0(start, pause):
    server = start()
    address = server.address()
    with httpx.Client(trust_env=False, timeout=TIMEOUT) as client:
        assert client.get(address).is_success
    time.sleep(pause)
    assert server.end() == 0
    assert not server.left and "Traceback" not in server.said


@pytest.mark.slow
def test_the_next_start_removes_what_a_killed_process_left(start):
    living, killed = start(), start()
    for server in (living, killed):
        upload(server.address())
    assert killed.end(signal.SIGKILL) == -signal.SIGKILL
    assert len(killed.left) == 2
    third = start()
    third.address()
    assert third.end() == 0
    assert len(living.left) == 1
    assert living.end() == 0
    assert not living.left


def test_only_folders_that_no_process_uses_are_leftovers(tmp_path, monkeypatch):
    killed, other = tmp_path / f"{uploads.PREFIX}x", tmp_path / "visipruner-notes"
    for folder in (killed, other):
        folder.mkdir()
        (folder / "file").write_text("x")
    (tmp_path / f"{uploads.PREFIX}file").write_text("no folder")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with uploads.private_folder() as living:
        assert not killed.exists() and other.is_dir()
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
        with uploads.private_folder() as second:
            assert living.is_dir() and second.is_dir()
        assert living.is_dir() and not second.exists()
    assert not living.exists() and other.is_dir()


def test_a_fork_leaves_the_folder_to_its_parent(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with uploads.private_folder() as folder:
        monkeypatch.setattr(uploads.os, "getpid", lambda: -1)
    assert folder.is_dir()


# -- the start


@pytest.fixture
def launched(monkeypatch):
    """The arguments of `app.main`'s call to `launch`, which then calls "then"."""
    given = {"then": lambda: None}

    def launch(page, *args, **named):
        given.update(named)
        given["then"]()

    monkeypatch.setenv("VISIPRUNER_MODELS", "tiny")
    monkeypatch.setattr(layout, "launch", launch)
    return given


def test_the_option_of_the_path_behind_a_proxy_arrives(launched):
    assert app.main(["--root-path", "/demo"]) == 0
    assert launched["root_path"] == "/demo"


def test_only_refusals_and_the_systems_errors_become_sentences_at_start(launched, capsys):
    def fail(error):
        def then():
            raise error

        launched["then"] = then

    for error, said in ((Refused("No."), "No."), (OSError("taken"), "taken"), (OSError(), "OSE")):
        fail(error)
        assert app.main([]) == 1
        assert capsys.readouterr().err.startswith(f"error: {said}")
    fail(ValueError("a fault"))
    with pytest.raises(ValueError, match="a fault"):  # so a traceback follows
        app.main([])


# -- a full disk, a full queue


@pytest.fixture(scope="module")
def page(mini_path):
    return page_server.page(mini_path)


@pytest.fixture(scope="module")
def address(page):
    return page.local_url.rstrip("/")


@pytest.fixture(scope="module")
def folder(page):
    return Path(page.app.uploaded_file_dir)


@pytest.fixture
def full(monkeypatch):
    """The disk fills in the middle of every file with this name; the handles to these files."""
    write, handles = GradioUploadFile.write, []

    async def half(self, data):
        await write(self, data[: len(data) // 2])
        if self.filename == "full.png":
            handles.append(os.open(self.file.name, os.O_RDONLY))
            raise OSError(errno.ENOSPC, "No space left on device")
        await write(self, data[len(data) // 2 :])

    monkeypatch.setattr(GradioUploadFile, "write", half)
    yield handles
    for handle in handles:
        os.close(handle)


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()]


def test_a_full_disk_is_said_and_no_part_of_the_upload_stays(address, folder, full):
    answer = upload(address, b"x" * 3_000_000, "full.png")
    assert (answer.status_code, answer.text) == (507, text.DISK_FULL)
    assert not parts(folder)
    assert os.fstat(full[0]).st_size == 0  # the space is free again, even if the file is still open
    answer = upload(address, b"small", "small.png")
    assert answer.is_success and Path(answer.json()[0]).read_bytes() == b"small"


def test_an_upload_on_its_way_outlives_one_that_fails(address, folder, full):
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="slow.png"\r\n\r\n'

    def slowly():
        yield head + b"a" * 1000
        assert upload(address, b"x" * 1000, "full.png").status_code == 507
        yield b"b" * 1000 + b"\r\n--x--\r\n"

    with httpx.Client(trust_env=False, timeout=TIMEOUT) as client:
        kind = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post(f"{address}/gradio_api/upload", content=slowly(), headers=kind)
    assert Path(answer.json()[0]).read_bytes() == b"a" * 1000 + b"b" * 1000
    wait_until(lambda: not parts(folder))


def test_a_visitor_who_leaves_in_the_middle_of_an_upload_leaves_nothing(address, folder):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), TIMEOUT) as leaving:
        lines = ("POST /gradio_api/upload HTTP/1.1", f"host: {host}", "content-length: 999999")
        kind = "content-type: multipart/form-data; boundary=x\r\n"
        part = '--x\r\ncontent-disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc'
        leaving.sendall("\r\n".join((*lines, kind, part)).encode())
        wait_until(lambda: parts(folder))
    wait_until(lambda: not parts(folder))


@pytest.mark.parametrize(
    ("error", "words"), [(errno.ENOSPC, text.DISK_FULL), (errno.EIO, text.BROKEN)]
)
def test_a_picture_that_finds_no_room_to_be_shown_is_a_sentence(page, monkeypatch, error, words):
    def no_room(*_, **__):
        raise OSError(error, "from the system")

    monkeypatch.setattr(Path, "write_bytes", no_room)
    shows = next(fn for fn in page.fns.values() if fn.name == "on_new")
    values = [sources.picture(3), *[None] * (len(shows.outputs) - 1)]
    with pytest.raises(gr.Error) as caught:
        asyncio.run(page.postprocess_data(shows, values, SessionState(page)))
    assert caught.value.message == words


def test_a_full_queue_is_said_in_plain_words(page, address, monkeypatch):
    monkeypatch.setattr(page._queue, "max_size", 0)
    with httpx.Client(trust_env=False) as client:
        answer = client.post(f"{address}/gradio_api/call/compare", json={"data": []})
    assert answer.status_code == 503
    assert answer.json()["detail"] == text.QUEUE_FULL.format(waiting=0)


# -- abandoned calls


@contextlib.contextmanager
def tab(page, address: str, path: str):
    """A run on the page, requested as by a browser; leaving closes the tab."""
    run = next(fn for fn in page.fns.values() if fn.name == "on_run")
    asked = {text.PICTURE: uploaded(path), text.QUESTION: "what?", text.MAX_NEW_TOKENS: 200}
    form = [
        asked.get(getattr(component, "label", None), getattr(component, "value", None))
        for component in run.inputs
    ]
    body = {"data": form, "fn_index": run._id, "session_hash": "tab"}
    url = f"{address}/gradio_api/queue"
    with httpx.Client(trust_env=False, timeout=TIMEOUT) as client:
        client.post(f"{url}/join", json=body).raise_for_status()
        with client.stream("GET", f"{url}/data", params={"session_hash": "tab"}) as answer:
            yield answer.iter_lines()


def test_what_a_client_has_left_is_not_computed(page, address, mini_path, tmp_path):
    models = page_server.models(mini_path)
    vlm = models.get(models.default)
    file = tmp_path / "picture.png"
    sources.picture(3).save(file)
    path = upload(address, file.read_bytes()).json()[0]
    client = Client(address, verbose=False, httpx_kwargs={"timeout": TIMEOUT})
    asked = {"picture": handle_file(file), "question": "what?", "api_name": "/compare"}
    before = vlm.runs
    with vlm.lock:  # so that none can end before its client leaves
        jobs = [client.submit(**asked, options={"max_new_tokens": 500}) for _ in range(3)]
        for job in jobs:
            wait_until(lambda job=job: job.communicator.event_id)
            job.cancel()
        for _ in range(2):
            with call(address, path, max_new_tokens=500) as lines:
                until(lines, "event: generating")
        with tab(page, address, path) as lines:
            until(lines, 'data: {"msg":"process_generating"')
    result = client.predict(**asked, options={"max_new_tokens": 2})
    assert len(result["answers"]) == 2
    assert vlm.runs == before + 1


# -- behind a proxy, under a path


class Proxy(BaseHTTPRequestHandler):
    """Forwards requests under /demo/ to `server.target`, and records the others."""

    def forward(self):
        if not self.path.startswith("/demo/"):
            self.server.strays.append(self.path)
            self.send_error(404)
            return
        there = HTTPConnection(self.server.target, timeout=TIMEOUT)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        there.request(self.command, self.path.removeprefix("/demo"), body, dict(self.headers))
        answer = there.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        while piece := answer.read1():
            self.wfile.write(piece)
        there.close()

    do_GET = do_POST = do_HEAD = forward

    def log_message(self, *_):
        pass


def test_a_comparison_runs_under_a_path_behind_a_proxy(mini_path, tmp_path):
    file = tmp_path / "picture.png"
    sources.picture(3).save(file)
    inner = build(page_server.models(mini_path))
    launch(inner, "127.0.0.1", prevent_thread_lock=True, quiet=True, root_path="/demo")
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.target, proxy.strays = inner.local_url.removeprefix("http://").rstrip("/"), []
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{proxy.server_port}/demo"
        client = Client(url, verbose=False)
        assert client.config["root"] == url
        result = client.predict(
            handle_file(file), "what?", options={"max_new_tokens": 2}, api_name="/compare"
        )
        assert len(result["answers"]) == 2 and not proxy.strays
    finally:
        proxy.shutdown()
        inner.close(verbose=False)
