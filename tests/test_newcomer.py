"""A newcomer's method is one class and one entry in METHODS; everything else finds it by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import parse_qsl

import page_server
import pytest
import torch

from visipruner.__main__ import main
from visipruner.choice import make, menu, parse
from visipruner.methods import METHODS
from visipruner.methods.base import BEFORE, PruningMethod, stayed
from visipruner.render.report import report_html
from visipruner.render.values import viewer_value
from visipruner.settings import INT, setting
from visipruner.ui import about, api, downloads, fields, handlers, share
from visipruner.ui.handlers import Form
from visipruner.ui.layout import build
from visipruner.world import sources


@dataclass(frozen=True)
class EveryFew(PruningMethod):
    """Keep one of every few patches."""

    name: ClassVar[str] = "everyfew"
    title: ClassVar[str] = "EveryFew: one patch of every few"
    paper: ClassVar[str] = "arXiv 2601.00001"
    source: ClassVar[str] = "newcomer/everyfew 0123abc"
    rule: ClassVar[str] = "keeps one patch of every few, before the language model"
    where: ClassVar[str] = BEFORE
    stage_words: ClassVar[Mapping[str, str]] = {"sieve": "Sieved by EveryFew"}

    few: int = setting(4, "Of how many patches one stays", INT, low=1, high=1000)

    @classmethod
    def for_budget(cls, tokens, facts):
        return cls(max(1, round(facts.num_visual / max(1, tokens))))

    def encode(self, view):
        return view.keep_visual(torch.arange(0, len(view.patches), self.few), "sieve")

    def explain(self, trace, memory):
        return stayed(len(memory.cuts[0].visual), f"one of every {self.few}"), {}


QUESTION = "what colour is the star?"
OPTIONS = {"max_new_tokens": 2, "clock_rounds": 0}


@pytest.fixture(scope="module")
def newcomer():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, EveryFew.name, EveryFew)
        yield EveryFew


@pytest.fixture(scope="module")
def models(mini_path):
    return page_server.models(mini_path)


@pytest.fixture(scope="module")
def form(newcomer, models):
    return Form(
        sources.picture(3), QUESTION, models.default, newcomer.name, "balanced", options=OPTIONS
    )


@pytest.fixture(scope="module")
def result(form, models):
    job = handlers.check(models, form)
    *_, progress = handlers.follow(job)
    return downloads.Result(job, progress.comparison)


def test_words_and_levels_mean_something(newcomer, models):
    facts = models.get(models.default).facts()
    assert make(parse("everyfew@25%"), facts) == newcomer(4)
    assert (newcomer.title, newcomer.name) in menu()
    assert ("EveryFew, then VisiPruner", "everyfew+visipruner") in menu()


def test_the_page_offers_it_with_its_settings(newcomer, models):
    page = json.dumps(build(models).get_config_file(), default=str)
    assert newcomer.title in page and "everyfew+visipruner" in page
    assert fields.of("everyfew")["few"].words in page


def test_a_link_brings_it_back(form, models):
    found, notes = share.read(dict(parse_qsl(share.query(form, 3))), models)
    assert found["method"] == ["everyfew"] and not notes
    compile(share.python(form, 3), "snippet", "exec")
    assert "--method everyfew" in share.command_line(form, 3)


def test_a_terminal_runs_it(newcomer, mini_path, tmp_path, capsys):
    out = tmp_path / "out.json"
    asked = ["ask", "scene:3", QUESTION, "--model-path", str(mini_path), "--json", str(out)]
    assert main([*asked, "--method", "everyfew@25%", "--max-new-tokens", "2"]) == 0
    assert "everyfew" in capsys.readouterr().out
    trace = json.loads(out.read_text())["answers"][1]["trace"]
    assert trace["method"] == "everyfew" and trace["settings"] == {"few": 4}
    with pytest.raises(SystemExit):
        main(["ask", "--help"])
    assert "everyfew" in capsys.readouterr().out


def test_the_endpoint_runs_it(newcomer, models, tmp_path):
    path = tmp_path / "picture.png"
    sources.picture(3).save(path)
    picture = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    options = {**OPTIONS, "fields": {"few": 8}}
    *_, last = api.endpoint(models)(picture, QUESTION, None, "everyfew", "balanced", options)
    assert last["answers"][1]["trace"]["settings"] == {"few": 8}


def test_report_and_viewer_use_its_words(newcomer, result):
    trace = result.comparison.answers[1].trace
    shown = [step["title"] for step in viewer_value(result.comparison)["steps"]]
    assert shown == ["Sieved by EveryFew"]
    told = about.of_trace(trace)
    for words in (newcomer.rule, "https://arxiv.org/abs/2601.00001", "Of how many patches one"):
        assert words in told
    report = report_html(result.comparison, downloads.as_json(result)["settings"])
    assert "Sieved by EveryFew" in report and "everyfew" in report and "one of every 4" in report
    assert downloads.png_file(result)["data"]
