"""The server as a process: how it starts, what it leaves, and calls that nobody waits for."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from visipruner.ui import uploads

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 120  # seconds after which a test is given up
PROXIES = {"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
PROXIES |= {"all_proxy": "socks://127.0.0.1:9", "HTTPS_PROXY": "%", "no_proxy": "[::1,"}


# -- a process


class Server:
    """`python app.py` with folders of its own. `said` is what it wrote, once it has ended."""

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
        """Waits until the page is there."""
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
        """The folders of uploads that are there."""
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


@contextlib.contextmanager
def call(address: str, path: str, **options):
    """A call of /compare whose answer is read line by line; leaving drops the connection."""
    picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [picture, "what colour is the star?", None, "visipruner", "balanced", options]
    url = f"{address}/gradio_api/call/compare"
    with httpx.Client(trust_env=False, timeout=TIMEOUT) as client:
        event = client.post(url, json={"data": data}).json()["event_id"]
        with client.stream("GET", f"{url}/{event}") as answer:
            yield answer.iter_lines()


def until(lines, start: str) -> str:
    return next(line for line in lines if line.startswith(start))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_run_ends_the_server(start, number):
    server = start(**PROXIES)  # which it ignores
    address = server.address()
    path = upload(address).json()[0]
    assert Path(path).parts[-3] in server.left
    with call(address, path, max_new_tokens=1000) as lines:
        until(lines, "event: generating")
        assert server.end(number) == 0
    assert not server.left
    assert "Traceback" not in server.said and "terminate" not in server.said
