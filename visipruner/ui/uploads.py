"""The upload folder: one per process, removed at its end, and what happens on a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from visipruner.errors import Refused
from visipruner.ui import text

try:
    import fcntl
except ImportError:  # Windows: the folder of a killed process stays
    fcntl = None

PREFIX = "visipruner-uploads-"
MOST_UNREAD = 64 * 2**20  # bytes of a failed upload to read on, so that the answer arrives


# -- one folder per process


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for uploads that no other demo cleans, removed when this process ends.

    A killed process leaves its folder; the next start removes it. A live process holds a lock on
    its folder, so the next start can tell the two apart.

    Raises:
        Refused: one sentence: GRADIO_TEMP_DIR is a place where no folder can be made.
    """
    usual = os.environ.get("GRADIO_TEMP_DIR")
    try:
        parent = Path(usual or tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent)
        folder, handle = _make(parent)
    except OSError as error:
        where = f"GRADIO_TEMP_DIR, {usual!r}," if usual else "the folder of temporary files"
        raise Refused(f"No folder can be made in {where}: {error.strerror}.") from None
    owner = os.getpid()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    try:
        yield folder
    finally:
        del os.environ["GRADIO_TEMP_DIR"]
        if usual:
            os.environ["GRADIO_TEMP_DIR"] = usual
        if os.getpid() == owner:  # not in a fork, which ZeroGPU makes
            shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_leftovers(parent: Path):
    """Remove the folders of killed processes; keep what cannot be removed."""
    if fcntl is None:
        return
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, or another user's
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _make(parent: Path) -> tuple[Path, int]:
    """A new folder and the handle that locks it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        if fcntl is None:
            return folder, os.open(os.devnull, os.O_RDONLY)
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a disk without locks: remove nothing on it
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():  # another start may have removed it as a leftover before the lock
                return folder, handle
            os.close(handle)


# -- a full disk


def is_full(error: BaseException | None) -> bool:
    """Is this the system's error for a full disk or a used-up quota?"""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class Uploads:
    """ASGI wrapper around gradio: report a full disk in a sentence and delete unfinished files.

    Gradio deletes an unfinished upload only if it was too large or malformed, not if the disk was
    full or the visitor left.
    """

    def __init__(self, app):
        self.app, self.running = app, 0

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        body, answered = _Body(receive), False

        async def answer(message):
            nonlocal answered
            answered = True
            await send(message)

        self.running += 1
        try:
            await self.app(scope, body, answer)
        except OSError as error:
            if answered or not is_full(error):
                raise
        except ClientDisconnect:
            return
        finally:
            self.running -= 1
            if not self.running:  # no upload runs now, so every file at the top is unfinished
                _remove_parts(Path(scope["app"].uploaded_file_dir))
        if not answered:
            await body.read_on()
            await PlainTextResponse(text.DISK_FULL, 507)(scope, receive, send)


class _Body:
    """The body of a request; knows whether more of it will come."""

    def __init__(self, receive):
        self.receive, self.more = receive, True

    async def __call__(self):
        message = await self.receive()
        self.more = message.get("more_body", False)
        return message

    async def read_on(self):
        """Read on: a browser answered in the middle of an upload reports a lost connection."""
        unread = MOST_UNREAD
        while self.more and unread > 0:
            unread -= len((await self()).get("body", b""))


def _remove_parts(folder: Path):
    """Remove the files at the top of the folder: finished uploads lie in subfolders."""
    if not folder.name.startswith(PREFIX):
        return  # another demo may use it too
    for file in folder.glob("tmp*"):
        with contextlib.suppress(OSError):
            os.truncate(file, 0)  # gradio may still hold the file open, and its space with it
            file.unlink()
