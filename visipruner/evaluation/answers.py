"""Finished answers on the disk: a mapping whose memory does not grow.

Every answer is on the disk before the next one is asked, so whatever ends a run, nothing is lost.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from visipruner.errors import Refused
from visipruner.files import check_place, shown

PATIENCE = 20  # seconds to wait while another process writes


class NotKept(Refused):
    """The file cannot be read or written, or the disk is full."""


class Answers(MutableMapping):
    """Key -> answer, in a file of SQLite. Close it at the end.

    Args:
        written: answers that were added by this object.

    Raises:
        NotKept: one sentence.
    """

    def __init__(self, path: Path):
        check_place(path)
        self.path, self.written = path, 0
        with self._said():
            self._file = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)"
            )

    def __getitem__(self, key: str) -> dict:
        with self._said():
            query = "SELECT answer FROM answers WHERE key = ?"
            found = self._file.execute(query, (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        return json.loads(found[0])

    def __setitem__(self, key: str, answer: dict):
        with self._said():
            row = key, json.dumps(answer)
            self._file.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", row)
        self.written += 1

    def __delitem__(self, key: str):
        with self._said():
            found = self._file.execute("DELETE FROM answers WHERE key = ?", (key,))
        if not found.rowcount:
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        with self._said():
            for (key,) in self._file.execute("SELECT key FROM answers ORDER BY key"):
                yield key

    def __len__(self) -> int:
        with self._said():
            return self._file.execute("SELECT COUNT(*) FROM answers").fetchone()[0]

    def close(self):
        self._file.close()

    @contextmanager
    def _said(self):
        """SQLite's errors as sentences."""
        try:
            yield
        except sqlite3.Error as error:
            raise NotKept(self._why(error)) from None

    def _why(self, error: sqlite3.Error) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the kind; the rest says which of it
        name = shown(self.path)
        if code == sqlite3.SQLITE_FULL:
            return (
                f"The disk is full: the last answer could not be kept in {name}. All answers "
                "before it are there; make room, and the same command goes on."
            )
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return f"{name} is damaged or keeps no answers; remove it, or name another file."
        if code == sqlite3.SQLITE_BUSY:
            return f"Another process writes to {name}; name another file, or wait for it."
        return f"{name} could not be read or written: {error}."
