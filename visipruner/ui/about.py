"""Each method under its own heading, where its rule, paper and settings unfold; and each model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from visipruner.choice import names_of, short_title
from visipruner.methods import METHODS
from visipruner.models import clip
from visipruner.models.catalogue import MODELS
from visipruner.models.described import described
from visipruner.models.memory import gigabytes
from visipruner.settings import settings_of
from visipruner.tower import needs_clip
from visipruner.trace import PruningTrace
from visipruner.ui import text


def of_trace(trace: PruningTrace) -> str:
    """The methods of a run, with the settings that the run used."""
    blocks = []
    for story in trace.stories:
        if story.name not in METHODS or story.name == "none":
            continue
        known = settings_of(METHODS[story.name])
        shown = {name: known[name].show(v) for name, v in story.settings.items() if name in known}
        blocks.append(block(story.name, shown))
    return "".join(blocks)


def of_names(names, hints: Mapping[tuple[str, str], str] | None = None, heading: str = "h4") -> str:
    """Methods that have not run yet.

    Args:
        hints: the level's value for each setting, by (method, name), where it is known.
    """
    hints = hints or {}
    return "".join(
        block(
            name,
            {field: value for (owner, field), value in hints.items() if owner == name},
            heading,
        )
        for name in names
        if name != "none"
    )


def block(name: str, settings: Mapping[str, str], heading: str = "h4") -> str:
    """HTML for one method.

    Args:
        settings: values as a person would type them, by the settings' names in code.
    """
    method, known = METHODS[name], settings_of(METHODS[name])
    rows = [_row(text.ABOUT_RULE, escape(method.rule))]
    rows += [_row(text.ABOUT_PAPER, linked(method.paper))] if method.paper else []
    rows += [_row(text.ABOUT_SOURCE, linked(method.source))] if method.source else []
    rows += [_row(text.ABOUT_NEEDS, escape(needs_clip_words()))] if needs_clip([method]) else []
    rows += [
        _row(known[field].words, f"{escape(value)} <code>{escape(field)}</code>")
        for field, value in settings.items()
    ]
    return (
        f'<details class="vp-method"><summary><{heading}>{escape(short_title(name))}</{heading}> '
        f"<span>{text.ABOUT}</span></summary><dl>{''.join(rows)}</dl></details>"
    )


def of_model(models, name: str) -> str:
    """What a model of the hub takes and may save; empty, once it is in memory.

    Args:
        models: the server's; name: one of them.
    """
    spec = MODELS.get(models.paths[name])
    if spec is None or not spec.repo or models.peek(name):
        return ""
    items = "".join(f"<li>{escape(one)}</li>" for one in described(spec, models.device))
    return f'<ul class="vp-modelabout">{items}</ul>'


def needs_clip_words() -> str:
    """What a method that reads CLIP's embeddings needs, with the size of the download."""
    able = ", ".join(spec.title for spec in MODELS.values() if spec.has_clip)
    size = gigabytes(clip.SIZE)
    return text.NEEDS_CLIP.format(clip=clip.TITLE, size=size, models=able)


def menu_title(title: str, name: str) -> str:
    """A method's or stack's title in the menu: it says a download that the method alone needs."""
    if not needs_clip(METHODS[one] for one in names_of(name)):
        return title
    return text.WITH_CLIP.format(title=title, clip=clip.TITLE, size=gigabytes(clip.SIZE))


def linked(words: str) -> str:
    """The text as HTML, with links for arXiv numbers and GitHub commits."""
    words = escape(words)
    words = re.sub(r"arXiv (\d{4}\.\d{5})", _link(r"https://arxiv.org/abs/\1"), words)
    commit = r"([\w.-]+/[\w.-]+) ([0-9a-f]{7,40})$"
    return re.sub(commit, _link(r"https://github.com/\1/tree/\2"), words)


def _link(address: str) -> str:
    return rf'<a href="{address}" target="_blank" rel="noopener noreferrer">\g<0></a>'


def _row(name: str, value: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>"
