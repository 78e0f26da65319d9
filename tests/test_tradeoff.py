"""The trade-off curve: its points, the rival's measure, equal FLOPs, and agreement."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from visipruner import METHODS, FastV, PruningMethod, Random, Refused, VisionZip
from visipruner.choice import settings_of_side
from visipruner.evaluation import interview, overlaps, tradeoff
from visipruner.evaluation.agreement import chance, overlap
from visipruner.evaluation.evaluate import UNPRUNED
from visipruner.evaluation.tradeoff_picture import PANELS, label, panel_of, picture
from visipruner.evaluation.tradeoff_tables import tables
from visipruner.levels import PRESETS, Facts
from visipruner.models.catalogue import load_vlm
from visipruner.world.questions import SKILLS

FACTS = Facts(576, 12, grids=((24, 24),))


def rows(column: str, scores, flops=100, tokens=576):
    """One row per score, over the skills in turn."""
    skills = itertools.cycle(SKILLS)
    return [
        {"column": column, "set": "heldout", "skill": skill, "number": number, "form": None}
        | {"score": score, "flops": flops, "tokens": [tokens] * 12, "answer": ""}
        for number, (score, skill) in enumerate(zip(scores, skills, strict=False))
    ]


@pytest.fixture
def table():
    sides = {UNPRUNED: PruningMethod(), "random@64": Random(64)}
    sides |= tradeoff.at_budgets("pool", FACTS)
    every = rows(UNPRUNED, [1] * 26) + rows("random@64", [1, 0.5] * 13, 20, 64)
    for number, name in enumerate(name for name in sides if name.startswith("pool")):
        every += rows(name, [0, 1] * 13, 50 - 5 * number, 64)
    return tradeoff.points(sides, every)


def test_a_point_says_what_was_used_and_what_was_lost(table):
    line = next(line for line in table if line["point"] == "random@64")
    assert line["tokens"] == 64 and line["budget"] == 64 and line["settings"]["keep"] == 64
    assert line["flops_cut"] == pytest.approx(0.8) and line["right"] == pytest.approx(0.75)
    assert line["difference"][0] == pytest.approx(-0.25)
    assert line["difference"][1] < -0.25 < line["difference"][2] < 0
    assert sum(found["questions"] for found in line["skills"].values()) == 26


def test_the_rivals_failures_are_counted_at_its_own_budget(table):
    found = {line["point"]: line["where_rival_fails"] for line in table}
    assert found["random@64"]["questions"] == 13 and found["random@64"]["right"] == 1
    assert found["pool@64"]["right"] == 0
    assert found[UNPRUNED] is None  # it has no budget


def test_equal_flops_lie_on_a_line_between_points(table):
    at = tradeoff.at_cut(table, 0.4)
    assert at["random"] == pytest.approx(1 - 0.25 * 0.4 / 0.8)
    assert "pool" in at and "random" not in tradeoff.at_cut(table, 0.9)


def test_every_method_has_five_budgets_or_says_so():
    for name, kind in METHODS.items():
        if name in ("none", "visipruner"):  # VisiPruner has three calibrated presets
            continue
        if kind.reachable(FACTS) is not None and len(kind.reachable(FACTS)) < 5:
            continue
        found = tradeoff.at_budgets(name, FACTS)
        assert len(found) >= 5, name
        assert len({str(side) for side in found.values()}) == len(found), name


def test_a_series_with_places_kept_is_its_own(table):
    point = next(line for line in table if line["point"] == "pool@64")
    placed = replaced(point, point="places kept, pool@64", places_kept=True, right=0.9)
    at = tradeoff.at_cut([*table, placed], point["flops_cut"])
    assert at["pool, places kept"] == pytest.approx(0.9)
    assert at["pool"] == pytest.approx(point["right"])
    assert panel_of(point) == PANELS[1] and panel_of(placed) == PANELS[2]
    assert panel_of(replaced(point, side="random")) == PANELS[2]  # it never renumbers
    assert panel_of(replaced(point, side="fastv")) == PANELS[0]


def test_our_own_rules_are_a_series_of_their_own(table):
    [point] = [line for line in table if line["point"] == "random@64"]
    side = tradeoff.chosen_of({UNPRUNED: PruningMethod()}, ["by the question, visipruner"], FACTS)
    own = settings_of_side(side["by the question, visipruner"])
    assert own["semantics"] == "question"
    asked = replaced(point, side="visipruner", settings=own)
    assert label(asked) == "visipruner, by the question" and panel_of(asked) == PANELS[0]


def test_the_curve_has_our_own_rules_at_every_preset():
    prefix, found = tradeoff.BY_QUESTION, tradeoff.contestants(load_vlm("tiny", device="cpu"))
    own = {wish: side for wish, side in found.items() if wish.startswith(prefix)}
    assert list(own) == [f"{prefix}visipruner:{level}" for level in PRESETS]
    assert {side.semantics for side in own.values()} == {"question"}
    assert found["visipruner:balanced"].semantics == "paper"


def test_points_are_asked_with_the_rival_at_their_budget():
    sides = {UNPRUNED: PruningMethod()} | tradeoff.at_budgets("pool", FACTS)
    assert list(tradeoff.chosen_of(sides, ["random@64"], FACTS)) == [
        UNPRUNED, "random@64", "pool@64"
    ]  # fmt: skip


def test_points_join_those_that_are_recorded(table, tmp_path):
    body = {"unpruned": table[0], "points": table[1:]}
    with pytest.raises(Refused, match="needs all points"):
        tradeoff.recorded(tmp_path, table)
    (tmp_path / "tradeoff.json").write_text(json.dumps(body))
    known = tradeoff.recorded(tmp_path, table)
    again, new = replaced(table[2], right=0.1), replaced(table[2], point="new")
    found = tradeoff.joined(known, [table[0], again, new], ["new", UNPRUNED])
    assert [line["point"] for line in found[:2]] == ["new", UNPRUNED]
    assert len(found) == len(table) + 1
    assert [line["right"] for line in found if line["point"] == table[2]["point"]] == [0.1]
    with pytest.raises(Refused, match="other weights or questions"):
        tradeoff.recorded(tmp_path, [replaced(table[0], right=0.1)])


def test_the_goal_asks_for_a_stack(table):
    stack = next(line for line in table if line["point"] == "random@64")
    good = replaced(stack, side="pool+visipruner", point="good", difference=(-0.005, -1, 1))
    lost = replaced(good, point="lost", difference=(-0.02, -1, 1))
    little = replaced(good, point="little", flops_cut=0.7)
    assert tradeoff.goals([*table, good, lost, little]) == ["good"]


def test_points_that_score_by_the_class_token_are_marked():
    sides = {UNPRUNED: PruningMethod(), "visionzip@64": VisionZip(), "random@64": Random(64)}
    every = [row for name in sides for row in rows(name, [1, 0] * 13)]
    found = {line["point"]: line["untrained"] for line in tradeoff.points(sides, every)}
    assert found == {UNPRUNED: False, "visionzip@64": True, "random@64": False}


def replaced(line: dict, **values) -> dict:
    return {**line, **values}


def test_an_unknown_point_is_refused_and_a_new_one_is_made():
    sides = {UNPRUNED: PruningMethod()}
    assert tradeoff.chosen_of(sides, ["random@7"], FACTS)["random@7"].keep == 7
    wishes = ["divprune@7", "places kept, divprune@7", "places kept, pool+visipruner:0.5"]
    chosen = tradeoff.chosen_of(sides, wishes, FACTS)
    assert [chosen[wish].renumber for wish in wishes[:2]] == [True, False]
    pool, visipruner = chosen[wishes[2]]
    assert not pool.renumber and visipruner.name == "visipruner"
    with pytest.raises(Refused):
        tradeoff.chosen_of(sides, ["nonsense@7"], FACTS)


def test_the_picture_is_xml_and_marks_untrained_scores(table):
    drawn = picture({"unpruned": table[0], "points": table[1:]})
    ElementTree.fromstring(drawn)
    assert 'fill="#fff" stroke' not in drawn
    marked = [{**line, "untrained": True} for line in table[1:]]
    assert 'fill="#fff" stroke' in picture({"unpruned": table[0], "points": marked})


def test_the_tables_hold_every_point_and_pair(table):
    agreed = {"budget": 144.0, "questions": 3, "sides": ["one", "two"], "tokens": [144.0, 90.5]}
    agreed |= {"overlap": [[1, 0.25], [0.25, 1]], "chance": [[1, 0.125], [0.125, 1]]}
    found = {"machine": "a CPU", "date": "today", "unpruned": table[0], "points": table[1:]}
    said = tables(found | {"agreement": agreed}, {0.4: tradeoff.at_cut(table, 0.4)})
    assert all(f"| {line['point']} |" in said for line in table)
    assert "| random@64 | 64.0 | 80.0% | 75.0% (" in said and "100.0% of 13 |" in said
    assert "| random | 87.5% |" in said  # at equal FLOPs
    assert "| two, 90.5 tokens | 0.25 (0.12) |  |" in said


# -- the store's key


def test_answers_under_an_older_rule_are_asked_again(tmp_path, monkeypatch):
    """A method whose file differs has another key; the same file gives the same key."""
    assert interview.rule_hash(FastV) == interview.rule_hash(FastV)
    assert interview.rule_hash(FastV) != interview.rule_hash(Random)

    @dataclass(frozen=True)
    class Mine(Random):
        pass

    file = tmp_path / "mine.py"
    monkeypatch.setattr(interview.inspect, "getsourcefile", lambda _: file)
    file.write_text("one rule")
    first = interview.rule_hash(Mine)
    interview.rule_hash.cache_clear()
    file.write_text("another rule")
    assert interview.rule_hash(Mine) != first
    interview.rule_hash.cache_clear()


def test_the_stores_key_holds_the_rules_hash(monkeypatch):
    vlm = SimpleNamespace(precision="float32", stack=lambda side: side)
    one = SimpleNamespace(key=["heldout", "what?"])

    def key(side):
        return interview._key(vlm, one, side)

    side = (Random(64), FastV(64))
    before = key(side)
    assert key(side) == before
    monkeypatch.setattr(interview, "rule_hash", lambda kind: "older" if kind is FastV else "same")
    older = key(side)
    monkeypatch.setattr(interview, "rule_hash", lambda kind: "newer" if kind is FastV else "same")
    assert key(side) != older  # a change in any method of a stack


# -- agreement


def test_the_table_of_agreement_pairs_the_traces(monkeypatch):
    """Two methods, two questions: every cell is the mean of the pair's own overlaps."""
    seen = iter([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]])
    traces = [SimpleNamespace(presence=lambda p=p: p, mean_tokens=float(sum(p))) for p in seen]
    answers = iter([("", trace) for trace in traces])
    monkeypatch.setattr(overlaps, "compared", lambda vlm: {"one": Random(1), "two": Random(2)})
    monkeypatch.setattr(overlaps, "questions", lambda *_: [(0, None, SimpleNamespace(text=""))] * 2)
    monkeypatch.setattr(overlaps, "SKILLS", ("colour",))
    monkeypatch.setattr(overlaps, "render", lambda scene: None)
    monkeypatch.setattr(overlaps, "ask", lambda *_: next(answers))
    vlm = SimpleNamespace(
        prepare=lambda *_: None, encode=lambda *_: None, facts=lambda: Facts(4, 1)
    )
    found = overlaps.agreement(vlm)
    sixth = pytest.approx(1 / 6, abs=1e-3)
    assert found["overlap"] == [[1.0, sixth], [sixth, 1.0]]
    assert found["tokens"] == [1.5, 1.5] and found["questions"] == 2
    assert found["chance"][0][1] == pytest.approx((1 / 7 + 1 / 3) / 2, abs=1e-3)


def test_overlap_of_kept_sets_is_jaccards_index():
    first, second = [1, 1, 0, 0], [0, 1, 1, 0]
    assert overlap(first, second) == pytest.approx(1 / 3)
    assert overlap(first, first) == 1 and overlap([0, 0], [0, 0]) == 1
    assert overlap([1, 0.5], [1, 0]) == pytest.approx(1 / 1.5)


def test_chance_is_the_overlap_of_shuffled_patches():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.zeros(400) for _ in range(2))
    first[:100], second[:80] = 1, 0.5
    shuffled = [second[torch.randperm(400, generator=generator)] for _ in range(300)]
    least = sum(torch.minimum(first, other).sum() for other in shuffled)
    most = sum(torch.maximum(first, other).sum() for other in shuffled)
    assert chance(first, second) == pytest.approx((least / most).item(), abs=0.01)


def test_settings_survive_the_file(table):
    assert replace(Random(64), seed=0).settings == table[1]["settings"]
