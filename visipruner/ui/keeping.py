"""What the server keeps for an hour: last results, pictures, and queued forms."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

from visipruner.errors import Refused
from visipruner.ui import text

MOST_RESULTS = 50  # some MB each: the model's input, the picture, a trace per side
MOST_SESSIONS = 50  # about 1 MB each: gradio's copy of every value on a page
MOST_WAITING = 60  # runs that wait for the model
MOST_BYTES = 500_000_000  # of pictures on disk; an upload has at most 30 MB
LONGEST = 3600  # seconds without use
_PAUSE = 60  # seconds
_M_ARENA_MAX = -8  # in glibc's malloc.h


class Kept:
    """Results by secret keys. The oldest results go first.

    The page holds the key. Gradio's session cannot: a session that expired looks like a new one.

    Args:
        most: the largest number of results.
        longest: seconds that a result is kept after its last use.
        gone: the sentence about a result that has expired.
    """

    def __init__(
        self,
        most: int = MOST_RESULTS,
        longest: float = LONGEST,
        gone: str = text.NO_LONGER_KEPT,
    ):
        self._most, self._longest, self._gone = most, longest, gone
        self._results: OrderedDict[str, tuple[float, object]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, result) -> str:
        """Keep a result. Returns its key."""
        key = secrets.token_urlsafe(16)
        with self._lock:
            self._results[key] = time.monotonic(), result
        self.tidy()
        return key

    def find(self, key):
        """The result with this key.

        Raises:
            Refused: the key is unknown, or its result has expired.
        """
        if not key:
            raise Refused(text.NO_RESULT)
        self.tidy()
        with self._lock:
            if not isinstance(key, str) or key not in self._results:
                raise Refused(self._gone)
            result = self._results.pop(key)[1]
            self._results[key] = time.monotonic(), result
            return result

    def take(self, key):
        """Return the result with this key and forget it.

        Raises:
            Refused: as in `find`.
        """
        found = self.find(key)
        self.drop(key)
        return found

    def drop(self, key):
        """Forget a result that a newer one replaces; ignore an unknown key."""
        with self._lock:
            if isinstance(key, str):
                self._results.pop(key, None)

    def tidy(self):
        """Drop the results that are too old or too many."""
        with self._lock:
            while self._results:
                used, _ = next(iter(self._results.values()))
                if len(self._results) <= self._most and time.monotonic() - used < self._longest:
                    return
                self._results.popitem(last=False)


def forms() -> Kept:
    """The forms that wait for the model, from the click on Run until the run begins.

    A form takes a few kilobytes: it holds an upload's name, not its pixels. The run removes its
    form. If the visitor stops or leaves first, the form expires after an hour, or when newer forms
    fill the queue.
    """
    return Kept(2 * MOST_WAITING, gone=text.FORM_GONE)


def tidy_files(sets: Iterable[set[str]], most: int = MOST_BYTES):
    """Delete the least recently used files until the rest takes at most `most` bytes.

    Args:
        sets: gradio's sets of the files it wrote; deleted names are removed from them.
    """
    sets = list(sets)
    known = {}
    for name in set().union(*(set(names) for names in sets)):
        with contextlib.suppress(OSError):  # deleted already
            status = os.stat(name)
            known[name] = status.st_mtime, status.st_size
    total = sum(size for _, size in known.values())
    for name in sorted(known, key=known.get):
        if total <= most:
            return
        with contextlib.suppress(OSError):
            os.remove(name)
        total -= known[name][1]
        for names in sets:
            names.discard(name)


def one_heap():
    """Let all threads share one heap, where the system's C library is glibc.

    By default glibc gives each thread its own heap, and one thread cannot reuse what another one
    freed. That alone grew memory by a tenth of a megabyte or more per visitor.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def trim():
    """Return freed memory to the system; glibc would keep it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def watch(kept: Iterable[Kept], sets: Iterable[set[str]]):
    """Tidy and trim once a minute for the life of the process, with or without visitors."""

    def tidy():
        while True:
            time.sleep(_PAUSE)
            for one in kept:
                one.tidy()
            tidy_files(sets)
            trim()

    threading.Thread(target=tidy, daemon=True, name="keeping").start()
