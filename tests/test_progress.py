"""Lines of progress that never stand still: on the page, and of the commands."""

from __future__ import annotations

import io
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from visipruner import PruningMethod
from visipruner.models import hub
from visipruner.running import stream as streaming
from visipruner.running.results import Options
from visipruner.running.runner import Event, compare
from visipruner.running.telling import Telling, before_download
from visipruner.running.ticking import ticking
from visipruner.ui import handlers, running, store, text, views
from visipruner.ui.store import Models


def drained(generator):
    """(what it yields, what it returns)."""
    seen = []
    try:
        while True:
            seen.append(next(generator))
    except StopIteration as end:
        return seen, end.value


def test_long_work_ticks_and_gives_its_result_or_its_error():
    seen, result = drained(ticking(lambda: time.sleep(0.2) or 7, 0.03))
    assert result == 7 and len(seen) >= 3 and seen == sorted(seen)
    assert drained(ticking(lambda: 8)) == ([], 8)
    with pytest.raises(KeyError):
        drained(ticking(lambda: {}["missing"]))


def test_a_stream_ticks_while_nothing_happens(monkeypatch):
    monkeypatch.setattr(streaming, "WAIT_SECONDS", 0.02)
    monkeypatch.setattr(streaming, "TICK_SECONDS", 0.05)

    def work(emit):
        time.sleep(0.3)
        emit("news")

    events = list(streaming.stream(work, threading.Lock(), "waiting", "tick"))
    assert events[-1] == "news" and events.count("tick") >= 3
    assert list(streaming.stream(work, threading.Lock(), "waiting")) == ["news"]


def test_ticks_come_only_on_request_and_change_no_result(mini, picture, monkeypatch):
    monkeypatch.setattr(streaming, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(streaming, "WAIT_SECONDS", 0.001)
    prompt, options = mini.prepare(picture, "what?"), Options(2, probe=False, clock_rounds=0)
    loud = list(compare(mini, prompt, [PruningMethod()], options, ticks=True))
    plain = list(compare(mini, prompt, [PruningMethod()], options))
    kinds = {event.kind for event in loud} - {"tick", "warming"}  # it warms up once
    assert kinds == {event.kind for event in plain}
    assert loud[-1].comparison.answers[0].tokens == plain[-1].comparison.answers[0].tokens


def test_the_pages_line_ticks_within_a_stage_and_is_read_aloud_once():
    progress = handlers.Progress(8, None, ("none", "visipruner"))
    progress.take(Event("encoded"))
    first = views.status(progress)
    progress.since -= 5
    progress.take(Event("tick"))
    later = views.status(progress)
    assert text.READING in first and "5 s<" in later and first != later
    spoken = [re.search('data-say="([^"]*)"', line)[1] for line in (first, later)]
    assert spoken[0] == spoken[1]


def test_loading_ticks_on_the_page(mini_path, monkeypatch):
    server = Models(str(mini_path), device="cpu")
    server._loaded.clear()
    real = store.load_vlm
    monkeypatch.setattr(store, "load_vlm", lambda *a, **k: time.sleep(0.2) or real(*a, **k))
    monkeypatch.setattr(store, "ticking", lambda work: ticking(work, 0.05))
    form = SimpleNamespace(model=server.default, backend="sdpa", precision="auto")
    lines = list(running.loading(server, form))
    assert len(lines) >= 3 and all(text.LOADING in line for line in lines)
    assert server.is_ready(server.default, "sdpa", "auto")
    assert list(running.loading(server, form)) == []


def test_a_download_speaks_while_its_child_is_silent(monkeypatch):
    monkeypatch.setattr(hub, "SILENCE", 0.05)
    monkeypatch.setattr(hub, "check_disk", lambda *_: None)
    child = 'import time; time.sleep(0.4); print(\'{"done": 5, "total": 9}\', flush=True)'
    monkeypatch.setattr(hub, "_command", lambda *_: [hub.sys.executable, "-c", child])
    seen = list(hub.download("a/b", 9))
    assert seen[-1] == hub.Progress(5, 9) and seen.count(hub.Progress(0, 9)) >= 3


# -- commands


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_command_prints_seconds_and_a_terminal_is_left_clean(kind, monkeypatch):
    monkeypatch.setattr("sys.stderr", out := kind())
    with Telling("loading the model", every=0.03) as telling:
        time.sleep(0.2)
        telling.say("warming up")
        time.sleep(0.2)
    said = out.getvalue()
    assert said.count("loading the model, 0 s") >= 2 and "warming up, 0 s" in said
    assert said.endswith("\r\x1b[K" if kind is Terminal else "s\n")


def test_quick_work_prints_nothing_and_an_error_passes(capsys):
    with pytest.raises(KeyError), Telling("loading"):
        raise KeyError("x")
    assert capsys.readouterr().err == ""


def test_nobody_at_the_other_end_is_no_error(monkeypatch):
    out = io.StringIO()
    out.close()
    monkeypatch.setattr("sys.stderr", out)
    telling = Telling("loading", every=0.02)
    telling._write("words")
    assert telling.words == "loading"


def test_a_command_says_size_and_licence_before_a_download(monkeypatch, capsys, machine):
    machine(main=12)
    monkeypatch.setattr(hub, "find", lambda repo: None)
    before_download("smolvlm-256m", None)
    before_download("tiny", None)
    before_download(Path("smolvlm-256m"), None)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("SmolVLM 256M: 0.5 GB to download; Apache-2")


def test_events_of_a_run_are_words():
    telling = Telling("loading")
    telling.event(Event("layer", 0, record=SimpleNamespace(layer=3)))
    assert telling.words == "reading picture and question, layer 4 done"
    telling.event(Event("tick"))
    assert telling.words.endswith("layer 4 done")
    telling.download(hub.Progress(10**9, 3 * 10**9))
    assert telling.words == "downloading: 1.0 of 3.0 GB"
