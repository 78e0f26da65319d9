"""The packages and their imports: all imports point down, without cycles."""

from __future__ import annotations

import ast
from pathlib import Path

from visipruner.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "visipruner"
# A package may import only the packages before it.
ROOMS = [
    "versions",
    "errors",
    "files",
    "inputs",
    "settings",
    "layout",
    "sheets",
    "levels",
    "stock",
    "trace",
    "flops",
    "attention",
    "tower",
    "view",
    "block",
    "cutting",
    "special",
    "decoders",
    "methods",
    "observing",
    "engine",
    "choice",
    "templates",
    "prompt",
    "families",
    "decoding",
    "models",
    "running",
    "recorded",
    "analyses",
    "world",
    "render",
    "training",
    "evaluation",
    "bench",
    "lesson",
    "ui",
    "ask",
    "show",
    "analyse",
    "handout",
    "doctor",
    "__main__",
]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES)


def room(module: str) -> str:
    return module.split(".")[1]


ARROWS = {module: imported(path) for module, path in MODULES.items()}
ARROWS.pop("visipruner")  # the names for users


def test_every_arrow_points_down():
    wrong = [
        f"{module} -> {other}"
        for module, others in ARROWS.items()
        for other in others - {"visipruner"}
        if ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not wrong


def test_no_imports_go_round():
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]):
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for other in ARROWS.get(module, ()):
                visit(other, (*way, module))
            done.add(module)

    for module in ARROWS:
        visit(module, ())


def test_a_test_module_imports_no_other():
    wrong = [
        path.name
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("test_", "tests."))
    ]
    assert not wrong


def test_a_wrong_arrow_would_be_found(tmp_path):
    (tmp_path / "a.py").write_text("def f():\n    from visipruner.ui import text, store\n")
    assert imported(tmp_path / "a.py") == {"visipruner.ui.text", "visipruner.ui.store"}


def length(function: ast.FunctionDef) -> int:
    """Lines without the docstring, which may be as long as necessary."""
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_functions_are_short():
    """A function longer than a screen becomes two."""
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > 45
    ]
    assert not long


def test_no_file_but_its_own_names_a_method():
    """A new method is one file, a line in METHODS and a line in the README."""
    others = METHODS.keys() - {"none", "visipruner"}  # the baseline, and the page's main method
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.value}"
        for module, path in MODULES.items()
        if module != "visipruner" and room(module) not in ("methods", "evaluation", "bench")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in others
    ]
    assert not wrong


def test_no_file_gives_a_name_twice():
    """The second constant of a name would replace the first one's words without a sign."""
    wrong = []
    for module, path in MODULES.items():
        targets = [
            name.id
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            for name in ast.walk(target)
            if isinstance(name, ast.Name) and name.id.isupper()
        ]
        wrong += [f"{module} {name}" for name in set(targets) if targets.count(name) > 1]
    assert not wrong
