"""Checkpoints of the Hugging Face hub: found on disk, or downloaded by a child process.

    python -P visipruner/models/hub.py llava-hf/llava-1.5-7b-hf *.json *.safetensors

Only the child may use the network, and ending it ends the download. Downloaded parts stay in the
hub's cache, and the next try continues from them. In the child, this file imports nothing of the
package.
"""

from __future__ import annotations

import io
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from tqdm.auto import tqdm

if __package__:  # the child runs without the package, and never raises Refused
    from visipruner.errors import Refused
    from visipruner.models.checkpoint import weight_files

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # no pickles, no pictures
HEARTBEAT = 0.5  # seconds between two reports, also when nothing moves
SILENCE = 1.0  # the longest, while the child starts
_KEPT = "VISIPRUNER_NO_PROXY"  # what no_proxy was before this process ignored all proxies
_UNREACHABLE = (
    "The hub cannot be reached, so {repo} was not downloaded: connect this machine to the network, "
    "or put the checkpoint's folder under VISIPRUNER_MODEL_DIR."
)


@dataclass(frozen=True)
class Progress:
    """Bytes downloaded, and the total so far as known."""

    done: int
    total: int


def find(repo: str) -> Path | None:
    """The folder of a checkpoint that is already downloaded completely; fetches nothing."""
    folder = snapshot(repo, PATTERNS)
    return folder if folder is not None and _complete(folder) else None


def snapshot(repo: str, patterns: Sequence[str]) -> Path | None:
    """The folder in the hub's cache, if there is one; fetches nothing. Files may be missing."""
    try:
        return Path(snapshot_download(repo, local_files_only=True, allow_patterns=list(patterns)))
    except (LocalEntryNotFoundError, OSError):
        return None


def _complete(folder: Path) -> bool:
    """Older releases of huggingface_hub also return the folder of an interrupted download."""
    try:
        return all(os.path.isfile(file) for file in (folder / "config.json", *weight_files(folder)))
    except Refused:
        return False


def download(repo: str, size: int, patterns: Sequence[str] = PATTERNS) -> Iterator[Progress]:
    """Fetch a checkpoint into the hub's cache; closing the generator cancels.

    Args:
        size: approximate bytes; free disk space is checked first.
        patterns: names of the files that are fetched.

    Raises:
        Refused: one sentence: no room on the disk, no network, or no such checkpoint.
    """
    check_disk(repo, size)
    child = subprocess.Popen(
        _command(repo, *patterns),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(),
    )
    try:
        progress = Progress(0, size)
        for line in _lines(child.stdout):
            message = json.loads(line) if line else {}
            if "error" in message:
                raise Refused(message["error"])
            if message:
                progress = Progress(message["done"], max(message["total"], size))
            yield progress
        if child.wait():
            raise Refused(f"The download of {repo} broke off; try again to go on from there.")
    finally:
        child.terminate()  # so its output ends, and with it the thread that reads it
        child.wait()


def _lines(stream) -> Iterator[str]:
    """The lines of a child's output; an empty one after every second without any."""
    lines: queue.SimpleQueue = queue.SimpleQueue()

    def read():
        with stream:
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=SILENCE)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line


@contextmanager
def without_proxies() -> Iterator[None]:
    """Make this process ignore the environment's proxies; a download still uses them.

    A server that never goes online connects only to itself, where a proxy cannot help.
    """
    asked = os.environ.get("no_proxy")
    os.environ.update({"no_proxy": "*", _KEPT: asked or ""})
    try:
        yield
    finally:
        _proxies_again(os.environ)


def _proxies_again(environment):
    """Restore the variables from before `without_proxies`."""
    if (asked := environment.pop(_KEPT, None)) is not None:
        environment["no_proxy"] = asked
        if not asked:
            del environment["no_proxy"]


def _environment() -> dict[str, str]:
    """The child's environment: this process stays offline, and only the child may go online."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"}
    _proxies_again(environment)
    return environment


def _command(repo: str, *patterns: str) -> list[str]:
    # -P: the package's modules must not shadow the standard library's.
    return [sys.executable, "-P", __file__, repo, *patterns]


def free_disk() -> int:
    """Free bytes of the disk that downloads go to."""
    return shutil.disk_usage(_cache_folder()).free


def _cache_folder() -> Path:
    """The hub's cache, or the folder in which it will be made."""
    folder = Path(constants.HF_HUB_CACHE)
    while not os.path.exists(folder):  # unlike Path.exists(), False for a closed folder
        folder = folder.parent
    return folder


def check_disk(repo: str, size: int):
    folder = _cache_folder()
    free = free_disk()
    cached = repo_folder_name(repo_id=repo, repo_type="model")
    here = (Path(constants.HF_HUB_CACHE) / cached / "blobs").glob("*")  # whole files and parts
    left = size - sum(map(_size_of, here))
    if free < left * 1.05:
        raise Refused(
            f"The disk of {folder} has {free / 1e9:.1f} GB free, but {repo} takes "
            f"{left / 1e9:.1f} GB more: make room, or set HF_HOME to a folder on another disk."
        )


def _size_of(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # another download has just renamed it
        return 0


# -- the child


def fetch(repo: str, report, snapshot=snapshot_download, patterns: Sequence[str] = PATTERNS):
    """Download, and call `report(done, total)` now and then."""
    bars: list[tqdm] = []

    class Bytes(tqdm):
        """Counts without drawing."""

        def __init__(self, *args, **kwargs):
            # Two bars count bytes; the one with this name counts the bytes on the disk.
            counts = kwargs.pop("name", None) == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})
            if counts:
                bars.append(self)

        def display(self, *_args, **_kwargs):
            return True

    def beat():
        while not over.wait(HEARTBEAT):
            report(sum(int(b.n) for b in bars), sum(int(b.total or 0) for b in bars))

    over = threading.Event()
    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        snapshot(repo, allow_patterns=list(patterns), tqdm_class=Bytes)
    finally:
        over.set()
        heart.join()
    report(sum(int(b.n) for b in bars), sum(int(b.total or 0) for b in bars))


def main(repo: str, snapshot=snapshot_download, patterns: Sequence[str] = PATTERNS) -> int:
    """Print a line of JSON per report; the last one may be an error."""

    def say(**message):
        try:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # the parent has closed the pipe
            os._exit(1)

    try:
        fetch(repo, lambda done, total: say(done=done, total=total), snapshot, patterns)
    except Exception as error:
        say(error=_sentence(repo, error))
    return 0


def _sentence(repo: str, error: Exception) -> str:
    """One sentence about what went wrong, for a person who only wants the model."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return (
            f"{repo} is gated: agree to its terms on its page on the hub, and set HF_TOKEN to a "
            "token of that account."
        )
    if "RepositoryNotFoundError" in kinds:
        return (
            f"The hub has no {repo}, or hides it: set HF_TOKEN to a token that may read it. If it "
            "has another name by now, put its folder into VISIPRUNER_MODEL_DIR as "
            f"{repo.split('/')[-1]}."
        )
    if isinstance(error, OSError) and error.errno == 28:
        return (
            f"The disk is full, so {repo} was not downloaded completely: make room and try again."
        )
    if kinds & {"LocalEntryNotFoundError", "ConnectionError", "TransportError", "TimeoutException"}:
        return _UNREACHABLE.format(repo=repo)
    return f"The download of {repo} failed ({type(error).__name__}); try again to go on from there."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], patterns=sys.argv[2:]))
