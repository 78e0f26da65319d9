"""The results of a finished evaluation open again, as tables that say they are recorded."""

import copy
import json
import random
from types import SimpleNamespace

import pytest

from visipruner.__main__ import main
from visipruner.errors import Refused
from visipruner.evaluation import own_page, own_tables
from visipruner.evaluation.own_tables import Results
from visipruner.evaluation.tallies import Table
from visipruner.recorded.kinds import opened
from visipruner.ui import opening

SCRIPT = "<script>alert(1)</script>"
NAMES = ("none", "visipruner:balanced")


@pytest.fixture
def results() -> Results:
    rng, table = random.Random(1), Table(NAMES, ["street", SCRIPT])
    for number in range(20):
        full = {"answer": "red", "score": None if number % 5 == 0 else 1.0, "flops": 10}
        full |= {"tokens": [8, 8]}
        said = rng.choice(["red", "blue"])
        score = None if full["score"] is None else float(said == "red")
        few = {"answer": said, "score": score, "flops": 4, "tokens": [8, 0]}
        rows = dict(zip(NAMES, (full, few), strict=True))
        table.add(rows, ("street", SCRIPT)[number % 2 : number % 2 + 1])
    made = {"model": f"tiny {SCRIPT}", "date": "2026-11-26", "device": "CPU"}
    return Results("questions.jsonl", made, NAMES, table.lines())


@pytest.fixture
def data(results) -> dict:
    return json.loads(own_tables.json_text(results))


def saved(data) -> bytes:
    return json.dumps(data).encode()


def test_an_opened_evaluation_shows_the_tables_that_it_saved(results, data):
    found = own_tables.opened(opened(saved(data)))
    assert own_tables.markdown(found) == own_tables.markdown(results)
    assert own_page.tables(found) == own_page.tables(results)


def test_the_command_prints_and_writes_it_as_recorded(data, tmp_path, capsys):
    file, page = tmp_path / "results.json", tmp_path / "page.html"
    file.write_bytes(saved(data))
    assert main(["show", str(file), "--html", str(page)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Recorded: model tiny") and "date 2026-11-26" in said
    assert "visipruner:balanced" in said and "street" in said
    written = page.read_text()
    assert SCRIPT not in written and "&lt;script&gt;" in written
    assert "Where pruning changed" not in written  # the file holds no pictures
    assert main(["show", str(file), "--png", str(tmp_path / "x.png")]) == 2
    assert "hold no picture" in capsys.readouterr().err


def test_the_page_shows_it_under_the_button_and_leaves_the_run_alone(data, tmp_path):
    file = tmp_path / "results.json"
    file.write_bytes(saved(data))
    kept = SimpleNamespace(put=lambda run: pytest.fail("it is no run"))
    said, key = opening._reading(SimpleNamespace(kept=kept))(str(file))
    assert "not run here. Recorded: model tiny" in said and "<table>" in said
    assert SCRIPT not in said and key == {"__type__": "update"}


@pytest.mark.parametrize("end", ["difference_low", "difference_high"])
def test_half_an_interval_is_refused(data, end):
    data["table"][1][end] = None
    with pytest.raises(Refused, match="both ends of its interval, or none"):
        opened(saved(data))


def paths(value, way=()):
    yield way
    if not isinstance(value, dict | list):
        return
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from paths(part, (*way, name))


def test_any_changed_value_is_refused_or_can_be_drawn(data):
    rng, refused = random.Random(3), 0
    wrong = [
        None,
        True,
        -1,
        1e400,
        float("nan"),
        10**40,
        "x",
        SCRIPT,
        [],
        {},
        [1],
        {"a": []},
        "y" * 9999,
    ]
    for way in list(paths(data))[1:]:
        changed = copy.deepcopy(data)
        part = changed
        for name in way[:-1]:
            part = part[name]
        part[way[-1]] = rng.choice(wrong)
        try:
            found = own_tables.opened(opened(saved(changed)))
        except Refused:
            refused += 1
            continue
        drawn = own_page.tables(found) + own_page.page(found, None, {})
        assert SCRIPT not in drawn and own_tables.markdown(found)
    assert refused > 20
