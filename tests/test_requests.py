"""Hand-made requests to every event: a sentence refuses each value of a wrong kind.

`VISIPRUNER_FUZZ=5000 pytest tests/test_requests.py` sends more of them.
"""

from __future__ import annotations

import os
import random
import re

import page_server
import pytest
from visitors import Visitor, picture_of

from visipruner.evaluation import recompute
from visipruner.methods import METHODS
from visipruner.ui import api, fields, teaching, text

REQUESTS = int(os.environ.get("VISIPRUNER_FUZZ", "300"))
FIELDS = [name for _, name in fields.ALL]
LONGEST = 200  # characters of a sentence
WRONG = (
    None, True, 7, -1.5, 10**30, 1e308, float("nan"), "", "magic", "\ud800",
    "what " * 900, "\x00\ud7ff", "/etc/passwd",
    [], [None], [[1, "a"], {}], ["x" * 500], {}, {"path": "/etc/passwd"}, {"value": 3},
    {"things": [{"shape": 3}], "seed": "a"}, {"things": 7}, {"__type__": "update", "value": 1},
    {"path": 7, "meta": {"_type": "gradio.FileData"}},
    {"path": "http://127.0.0.1:9/x", "meta": {"_type": "gradio.FileData"}},
)  # fmt: skip


@pytest.fixture(scope="module")
def visitor(mini_path):
    visitor = Visitor(page_server.address(mini_path))
    yield visitor
    visitor.http.close()


@pytest.fixture(scope="module")
def picture(visitor):
    return visitor.upload(picture_of(1))


@pytest.fixture
def short_lessons(monkeypatch):
    monkeypatch.setattr(teaching, "MOST_SCENES", 1)
    monkeypatch.setattr(teaching, "ROUNDS", 1)
    monkeypatch.setattr(teaching, "LEVELS", (0.5,))
    asking = recompute.asking
    monkeypatch.setattr(recompute, "asking", lambda count: asking(count)[:1])


def good(visitor: Visitor, event: dict, picture: dict) -> list:
    """What the page would send, for an answer of one token."""
    own = {"Picture": picture, "Question": "what colour is the star?", "Longest answer (tokens)": 1}
    return visitor.filled(event, own)


def spoiled(rng: random.Random, values: list) -> list:
    """The same, but one to three values have another kind, some are missing, or too many."""
    values = list(values)
    for _ in range(rng.randint(1, 3)):
        if values:
            values[rng.randrange(len(values))] = rng.choice(WRONG)
    kind = rng.random()
    if kind < 0.1:
        return values[: rng.randrange(len(values) + 1)]
    return [*values, rng.choice(WRONG)] if kind < 0.2 else values


def is_fit_for_a_person(sentence) -> bool:
    return (
        isinstance(sentence, str)
        and bool(sentence.strip())
        and len(sentence) <= LONGEST
        and "\n" not in sentence
        and sentence not in (text.BROKEN, "None")
        and not re.search(r"Traceback|Error|object at|<class|packages/|tmp/|home/", sentence)
    )


def unfit(visitor: Visitor, requests) -> list:
    """The requests (event, values, event data) with bad responses."""
    bad = []
    for event, values, given in requests:
        answer = visitor.send(event, values, given)
        said = (answer.get("output") or {}).get("error")
        if not answer["success"] and not is_fit_for_a_person(said):
            bad.append((event["api_name"], said, [str(value)[:60] for value in values]))
    return bad


@pytest.fixture
def quiet(caplog, capfd):
    """Nothing may be logged meanwhile."""
    yield
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "Error" not in said.err
    assert caplog.get_records("call") == []


def test_wrong_kinds_are_refused_in_a_sentence(visitor, picture, short_lessons, quiet):
    rng = random.Random(7)
    events = [event for event in visitor.config["dependencies"] if event["backend_fn"]]
    assert len(events) > 20
    requests = [(e, [kind] * len(e["inputs"]), kind) for e in events for kind in (None, 7, [])]
    for number in range(REQUESTS - len(requests)):
        event = events[number % len(events)]
        values = spoiled(rng, good(visitor, event, picture))
        requests.append((event, values, rng.choice(WRONG)))
    assert unfit(visitor, requests) == []


def test_wrong_options_are_refused_in_a_sentence(visitor, picture, quiet):
    rng = random.Random(8)
    event = visitor.event("compare")
    requests = []
    for _ in range(REQUESTS // 3):
        options = {"max_new_tokens": 1, "clock_rounds": 0, "probe": False}
        options[rng.choice((*api.RUN_OPTIONS, *api.FORM_OPTIONS, "magic"))] = rng.choice(WRONG)
        if rng.random() < 0.5:
            options["fields"] = {rng.choice(FIELDS): rng.choice(WRONG)}
        method = rng.choice(list(METHODS))
        level = rng.choice((0.5, *WRONG))
        requests.append((event, [picture, "what?", None, method, level, options], None))
    assert unfit(visitor, requests) == []
