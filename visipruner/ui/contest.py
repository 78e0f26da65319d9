"""An arena's run without gradio: which sides it has, what refuses, and what has finished."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from visipruner.choice import (
    Side,
    brief_title,
    method_at,
    methods_of,
    name_of,
    names_of,
    parse_sides,
)
from visipruner.errors import Refused
from visipruner.evaluation.agreement import chance, overlap
from visipruner.inputs import check_number
from visipruner.levels import Facts
from visipruner.methods import PruningMethod, VisiPruner
from visipruner.models import clip
from visipruner.models.catalogue import ModelSpec, check_served
from visipruner.render.arena import Shown
from visipruner.running.results import Answer, Comparison
from visipruner.tower import needs_clip
from visipruner.ui import handlers, running, text, views
from visipruner.ui.handlers import Form, Job, Progress

ROUNDS = 3  # silent repeats of all sides, where these are quick


@dataclass
class Entry:
    """One side: its name with the budget, and what became of it."""

    words: str
    side: Side | None = None  # None: it was refused before anything ran
    refused: str = ""
    answer: Answer | None = None

    @property
    def title(self) -> str:
        return text.FULL if self.words == "none" else brief_title(self.words)


@dataclass
class Contest:
    """A run of the arena; it grows, and a stopped one keeps what has finished.

    Args:
        job: the question; its sides are those that have not been refused.
        tokens: the wished budget, mean visual tokens per layer.
        entries: every side, the unpruned baseline first.
        every: whether it runs every method: then one that refuses stops no other.
        spec: of the model; a saved file must not load the model again.
        most: mean visual tokens per layer if nothing is pruned.
        told: sentences about the model.
        comparison: of all sides that ran, as soon as the last one has finished.
    """

    job: Job
    tokens: float
    entries: list[Entry]
    every: bool
    spec: ModelSpec
    most: int
    told: tuple[str, ...] = ()
    comparison: Comparison | None = field(default=None, repr=False)

    @property
    def running(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.refused]

    @property
    def finished(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.answer]

    @property
    def shown(self) -> list[Shown]:
        """Every side as the board and the files show it."""
        return [_shown(entry, self.job.truth) for entry in self.entries]

    @property
    def pairs(self) -> list[dict]:
        """The overlap of every two finished methods, the baseline left out, and what chance gives.

        `first` and `second` are indices of the entries.
        """
        present = {
            number: entry.answer.trace.presence()
            for number, entry in enumerate(self.entries)
            if number and entry.answer
        }
        return [
            {
                "first": first,
                "second": second,
                "overlap": overlap(present[first], present[second]),
                "chance": chance(present[first], present[second]),
            }
            for first, second in itertools.combinations(present, 2)
        ]

    @property
    def asked(self) -> dict:
        """What the run was asked, in words."""
        job, truth = self.job, self.job.truth
        words = text.ARENA_ASKED.format(
            tokens=f"{self.tokens:g}",
            all=self.most,
            model=job.models.titles[job.form.model],
        )
        unmeasured = any(entry.words.endswith(":balanced") for entry in self.entries)
        true = f"{text.TRUE_ANSWER}: {truth.answer}" if truth else ""
        question = f"“{job.prompt.question}”"
        told = [*self.told, *[text.ARENA_UNMEASURED] * unmeasured]
        told += handlers.untrained(self.spec, [entry.side for entry in self.running])
        said = {"question": question, "words": words, "truth": true, "note": " ".join(told)}
        return {**said, "tokens": self.tokens}


def _shown(entry: Entry, truth) -> Shown:
    answer = entry.answer
    return Shown(
        entry.words,
        entry.title,
        answer,
        entry.refused,
        views.judged(truth, answer) if truth and answer else (),
        views.how_often(answer.times)["first"] if answer else "",
    )


def check_names(names: Sequence[str], tokens) -> list[str]:
    """The sides of a run as words, the baseline first: "none", "fastv@128", ...

    Raises:
        Refused: no method, more than four, an unknown one, or no budget.
    """
    if not names:
        raise Refused(text.ARENA_NOTHING)
    words = ["none", *named(names, tokens)]
    parse_sides(words)
    return words


def named(names: Sequence[str], tokens) -> list[str]:
    """Each method with the budget."""
    if tokens is None:
        raise Refused(text.ARENA_NO_BUDGET)
    number = check_number(text.THE_BUDGET, tokens, 1, 1_000_000)
    return [f"{name}@{number:g}" for name in dict.fromkeys(names)]


def prepare(models, form: Form, scene, names: Sequence[str], tokens, every: bool) -> Contest:
    """Make every side; nothing runs yet.

    Args:
        form: the question, the picture and the options; its methods are ignored.
        every: keep a method that refuses as an entry with its sentence.

    Raises:
        Refused: what `handlers.check` refuses; a budget above the picture's tokens; without
            `every`, the first method that cannot be made, in one sentence that names it.
    """
    options = {**form.options, "probe": False, "clock_rounds": ROUNDS}
    form = replace(form, methods=("none",), semantics="paper", fields={}, options=options)
    job = running.job_of(models, form, scene)
    visual = job.prompt.layout.num_visual
    facts, own = job.vlm.facts(visual), job.vlm.schedule
    check_number(text.THE_BUDGET, tokens, 1, round(facts.most))
    entries = [Entry("none", PruningMethod())]
    for words in named(names, tokens):
        try:
            words = in_level(words, facts)
            side = method_at(job.vlm, words, "balanced", "paper", visual)
            check_served(job.vlm, map(type, methods_of(side)))
            if needs_clip(methods_of(side)):
                clip.found()
            entries.append(Entry(words, side))
        except Refused as error:
            sentence = _by_name(brief_title(words), str(error))
            if not every:
                raise Refused(sentence) from None
            entries.append(Entry(words, refused=sentence))
    told = own.notes if own else ()
    job, spec = _of_entries(job, entries), job.vlm.spec
    return Contest(job, float(tokens), entries, every, spec, round(facts.most), told)


def in_level(words: str, facts: Facts) -> str:
    """VisiPruner's balanced level in place of a budget, where the model has no measured ones.

    It adapts to the question: only a measurement tells what a setting uses. The board says so.
    """
    name, measured = words.partition("@")[0], ((facts.presets or {}).get("paper") or {})
    adapts = names_of(name)[0] == VisiPruner.name
    return f"{name}:balanced" if adapts and not measured.get("tokens") else words


def _of_entries(job: Job, entries: Sequence[Entry]) -> Job:
    left = [entry for entry in entries if not entry.refused]
    form = replace(job.form, methods=tuple(entry.words for entry in left))
    return replace(job, form=form, methods=[entry.side for entry in left])


def _by_name(title: str, sentence: str) -> str:
    return sentence if sentence.startswith(title) else f"{title}: {sentence}"


def follow(contest: Contest) -> Iterator[Progress]:
    """Run all sides through one comparison; answers are noted in the entries as they come.

    In a run of every method, one that refuses this picture while it runs becomes an entry with its
    sentence, and the others run again without it.

    Raises:
        Refused: the baseline cannot run, or without `every` any side.
    """
    while contest.comparison is None:
        try:
            with closing(handlers.follow(contest.job)) as states:
                for progress in states:
                    _note(contest, progress)
                    yield progress
        except Refused as error:
            blamed = _blamed(contest, str(error))
            if blamed is None:
                raise
            blamed.refused, blamed.answer = _by_name(blamed.title, str(error)), None
            contest.job = _of_entries(contest.job, contest.entries)


def _note(contest: Contest, progress: Progress):
    for entry, side in zip(contest.running, progress.sides, strict=True):
        entry.answer = side.answer or entry.answer
    if progress.comparison:
        words = contest.job.form.methods
        contest.comparison = replace(progress.comparison, words=words)


def _blamed(contest: Contest, sentence: str) -> Entry | None:
    """The method that a refusal during the run names; None: it stops the run."""
    if not contest.every:
        return None
    for entry in contest.running[1:]:
        title = brief_title(name_of(entry.side))
        alone = len(contest.running) == 2  # runner.py names a side only among several
        if alone or sentence.startswith(f"{title}: "):
            return entry
    return None
