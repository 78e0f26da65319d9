"""What the server keeps of its visitors: last results, pictures, forms in a queue; for an hour."""

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

MOST_RESULTS = 50  # about 2.5 MB each: the model's input, the picture, two traces
MOST_SESSIONS = 50  # about 1 MB each: gradio's copy of every value that a page shows
MOST_WAITING = 60  # runs that wait for the model
MOST_BYTES = 500_000_000  # of pictures on the disk; an upload has 30 MB at most
LONGEST = 3600  # seconds without use
_PAUSE = 60  # seconds
_M_ARENA_MAX = -8  # in glibc's malloc.h


class Kept:
    """Results by keys that only the page of a result knows. The oldest go first.

    The page holds the key and not gradio's session, because a session forgets that it had one.

    Args:
        most: results that are kept at most.
        longest: seconds that a result is kept after its last use.
        gone: the sentence for a key whose result went.
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
        """The result of a key.

        Raises:
            Refused: there never was one, or it is no longer kept.
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
        """The result of a key, which is forgotten with that.

        Raises:
            Refused: as `find`.
        """
        found = self.find(key)
        self.drop(key)
        return found

    def drop(self, key):
        """Forget a result that another one follows; an unknown key is none."""
        with self._lock:
            if isinstance(key, str):
                self._results.pop(key, None)

    def tidy(self):
        """Drop what is too old or too much."""
        with self._lock:
            while self._results:
                used, _ = next(iter(self._results.values()))
                if len(self._results) <= self._most and time.monotonic() - used < self._longest:
                    return
                self._results.popitem(last=False)


def forms() -> Kept:
    """The forms that wait for their turn with the model, from Run until it begins.

    A few kilobytes each, with the name of an upload and not its pixels. The run takes its form out;
    one whose visitor stopped it or left before that goes with its hour, or when as many newer ones
    wait as the queue holds.
    """
    return Kept(2 * MOST_WAITING, gone=text.FORM_GONE)


def tidy_files(sets: Iterable[set[str]], most: int = MOST_BYTES):
    """Delete the files that were used longest ago, until the rest has at most `most` bytes.

    Args:
        sets: names of files, as gradio notes what it has written; deleted names are taken out.
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
    """Let all threads share one heap, where the system's library is glibc.

    It gives each thread a heap of its own, and what a visit leaves free in one serves no other:
    that alone grew by a tenth of a megabyte and more with each visitor.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def trim():
    """Give freed memory back to the system, which glibc would keep."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def watch(kept: Iterable[Kept], sets: Iterable[set[str]]):
    """Tidy and trim once a minute, as long as the process lives, also when no visitor comes."""

    def tidy():
        while True:
            time.sleep(_PAUSE)
            for one in kept:
                one.tidy()
            tidy_files(sets)
            trim()

    threading.Thread(target=tidy, daemon=True, name="keeping").start()
