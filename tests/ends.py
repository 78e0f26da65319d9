"""The two ends of the ranges in requirements.txt, for tests/run.

    python tests/ends.py oldest             every package at its floor, as pip reads it
    python tests/ends.py newest             every package without its ceiling
    python tests/ends.py newest PACKAGE     only this one without its ceiling
    python tests/ends.py here               what is installed, and whether that is in the ranges
    python tests/ends.py beyond             only the names of what lies outside

torch stays as it is, because another build takes gigabytes.
"""

import sys
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"


def requirements() -> dict[str, Requirement]:
    """The lines of requirements.txt, by name."""
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    return {Requirement(line).name: Requirement(line) for line in lines if line}


def floor(requirement: Requirement) -> str:
    return next(s.version for s in requirement.specifier if s.operator == ">=")


def oldest() -> list[str]:
    return [f"{name}=={floor(r)}" for name, r in requirements().items() if name != "torch"]


def newest(alone: str | None = None) -> list[str]:
    return [
        f"{name}>={floor(r)}" if alone in (None, name) else str(r)
        for name, r in requirements().items()
        if name != "torch"
    ]


def beyond() -> list[str]:
    """Packages of this interpreter outside their ranges."""
    return [name for name, r in requirements().items() if not _fits(r)]


def here() -> list[str]:
    words = {True: "in", False: "OUTSIDE"}
    return [
        f"{name} {version(name)} ({words[_fits(r)]} {r.specifier})"
        for name, r in requirements().items()
    ]


def _fits(requirement: Requirement) -> bool:
    return requirement.specifier.contains(version(requirement.name), prereleases=True)


if __name__ == "__main__":
    answers = {"oldest": oldest, "newest": newest, "here": here, "beyond": beyond}
    sys.stdout.write("".join(f"{line}\n" for line in answers[sys.argv[1]](*sys.argv[2:])))
