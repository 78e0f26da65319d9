"""The README is true: its snippet runs, its files and methods exist."""

import re
from pathlib import Path

from visipruner import METHODS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_the_snippet_for_ones_own_model_runs(mini_path, picture, capsys):
    code = re.search(r"test_readme\.py -->\n```python\n(.*?)```", README, re.DOTALL).group(1)
    names = {"checkpoint": str(mini_path), "picture": picture}
    exec(code, names)
    assert len(names["trace"].layers) == 8
    assert "[16, 16" in capsys.readouterr().out


def test_every_room_and_method_is_named_and_exists():
    rooms = re.search(r"\| room \|.*?\n\n", README, re.DOTALL).group(0)
    for name in re.findall(r"`([\w/.]+\.py|[\w/]+/)`", rooms):
        found = (ROOT / name).exists() or (ROOT / "visipruner" / name).exists()
        assert found, name
    for path in (ROOT / "visipruner").iterdir():
        if path.name[0] not in "_." and (path.suffix == ".py" or path.is_dir()):
            assert path.name in rooms, f"{path.name} is not in the README's table"


def test_every_method_has_its_line_as_its_class_says():
    for name, kind in METHODS.items():
        source = ", ".join(filter(None, [kind.paper, kind.source])) or "the baseline"
        assert f"| `{name}` | {kind.rule} | {source} |" in README, name


def test_pictures_and_links_to_files_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
