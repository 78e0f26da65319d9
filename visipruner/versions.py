"""The tested releases of the packages, and whether the installed ones are among them.

This file imports nothing that a new release could break, so that it can still say what is wrong.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

__version__ = "0.2.0"  # pyproject.toml reads it from this line

# The ranges of requirements.txt, which an installed package lacks. Both ends were tested
# (tests/NOTES.md).
TESTED = {
    "torch": ">=2.8,<2.14",
    "transformers": ">=5.20,<5.25",
    "huggingface_hub": ">=1.31,<2.5",
    "accelerate": ">=1.10,<2",
    "bitsandbytes": ">=0.49,<1",
    "gradio": ">=6.27,<6.32",
    "plotly": ">=6,<8",
    "pillow": ">=12.3,<13",
}

# What the installed packages are for; the first five are always needed.
USES = {
    "torch": "all computing",
    "transformers": "the models",
    "huggingface_hub": "finding and downloading models",
    "accelerate": "loading models",
    "pillow": "pictures",
    "gradio": "the page",
    "plotly": "charts",
    "bitsandbytes": "4-bit",
}
NEEDED = tuple(USES)[:5]


def installed() -> dict[str, str]:
    """Package -> release, for the installed packages of `TESTED`; imports nothing."""
    found = {}
    for name in TESTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # the engine needs no gradio, a CPU no bitsandbytes
            continue
    return found


def lacking() -> list[str]:
    """The packages of `TESTED` that are not installed."""
    found = installed()
    return [name for name in USES if name not in found]


def missing() -> str | None:
    """One line about packages that are always needed and not installed; None: all are there."""
    names = [name for name in lacking() if name in NEEDED]
    if not names:
        return None
    return f"Missing: {', '.join(names)}; `pip install -r requirements.txt` brings what is needed."


def is_tested(name: str, release: str) -> bool:
    """Is an installed release in the tested range?"""
    # A preview of the first release above the upper limit is above it too.
    return SpecifierSet(TESTED[name]).contains(release, prereleases=True)


def untested() -> str | None:
    """One line about the installed releases outside the tested ranges; None: all are inside."""
    outside = [
        f"{name} {release} ({TESTED[name].replace(',', ', ')})"
        for name, release in installed().items()
        if not is_tested(name, release)
    ]
    if not outside:
        return None
    return (
        f"Not tested with {', '.join(outside)}; the tested ranges are in brackets, and "
        "`pip install -r requirements.txt` brings them."
    )
