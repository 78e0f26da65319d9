"""What a command is doing, on standard error: a line that never stands still for long."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

QUIET_SECONDS = 1.8  # what is done sooner is not worth a line


class Telling:
    """Inside, the current words are printed with the seconds since they were set.

    A terminal's line is written over; elsewhere each is a line of its own.
    """

    def __init__(self, words: str, every: float = QUIET_SECONDS):
        self.every, self._over = every, threading.Event()
        self._shown = False  # does an unfinished line stand in the terminal?
        self.say(words)

    def say(self, words: str):
        """Change the words; the clock goes on if they are the same."""
        if words != getattr(self, "words", None):
            self.words, self.since = words, time.monotonic()

    def download(self, progress):
        """Take a download's progress."""
        done, total = progress.done / 1e9, progress.total / 1e9
        self.words = f"downloading: {done:.1f} of {total:.1f} GB"

    def event(self, event):
        """Take an event of `runner.compare`."""
        words = _WORDS.get(event.kind)
        if words and event.record:
            words = f"{words}, layer {event.record.layer + 1} done"
        if words:
            self.say(words)

    def __enter__(self) -> Telling:
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        if self._shown:
            self._write("\r\x1b[K")

    def _tell(self):
        while not self._over.wait(self.every):
            line = f"{self.words}, {time.monotonic() - self.since:.0f} s"
            if sys.stderr.isatty():
                self._shown = True
                self._write(f"\r\x1b[K{line}")
            else:
                self._write(f"{line}\n")

    def _write(self, words: str):
        with contextlib.suppress(OSError, ValueError):  # the reader has gone
            sys.stderr.write(words)
            sys.stderr.flush()


def before_download(model, device: str | None):
    """Say what a model of the hub takes and may save, if it is not on this machine.

    Args:
        model: as `load_vlm` takes it.
    """
    from visipruner.models.described import described  # late: this file waits for no torch
    from visipruner.models.specs import MODELS

    spec = MODELS.get(model)
    if spec and not spec.find():
        sys.stderr.write(f"{spec.title}: {' '.join(described(spec, device))}\n")


_WORDS = {
    "waiting": "waiting",
    "encoded": "picture encoded",
    "warming": "warming up",
    "layer": "reading picture and question",
    "token": "writing",
    "clocked": "taking the times again",
    "probed": "measuring every layer",
}
