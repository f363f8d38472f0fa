"""Imports point downward only: this test reads them, and holds them against the table in CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

import jaxclf

PACKAGE = Path(jaxclf.__file__).parent
CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
MAX_FLOORS = 8

#: Only these rooms may import these packages, and only these files these two.
OWNERS = {
    "flax": {"models"},
    "PIL": {"data"},
    "tyro": {"cli"},
    "grain": {"data"},
    "matplotlib": {"plots"},
    "jinja2": {"report"},
}
OWNING_FILES = {"orbax": "checkpoint_file.py"}
FORBIDDEN = {"torch", "tensorflow"}


def floors_of(text: str) -> dict[str, int]:
    """Room -> floor, of the table `| floor | rooms | .. |`, whose rows are numbered from the top floor down to 1."""
    rows = re.findall(r"^\| *(\d+) *\| *([^|]+?) *\|", text, re.MULTILINE)
    numbers = [int(number) for number, _ in rows]
    assert numbers == list(range(len(numbers), 0, -1)), f"the floors must be numbered from the top down to 1: {numbers}"
    found: dict[str, int] = {}
    for number, rooms in rows:
        for room in re.findall(r"`(\w+)/?`", rooms):
            assert room not in found, f"{room} stands on two floors"
            found[room] = int(number)
    return found


FLOORS = floors_of(CONTRIBUTING.read_text(encoding="utf-8"))
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.stem.startswith("__"))


def room_of(path: Path) -> str:
    """The top-level module or package a file belongs to: jaxclf/data/loader.py -> data."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(path: Path) -> str:
    """jaxclf/data/loader.py -> jaxclf.data.loader."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_the_table_names_every_room_and_no_other():
    assert len(SOURCES) > 20
    assert set(FLOORS) == {room_of(path) for path in SOURCES}
    assert max(FLOORS.values()) <= MAX_FLOORS


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path):
    room = room_of(path)
    for name in imported_names(path):
        parts = name.split(".")
        assert parts[0] not in FORBIDDEN, f"{path} imports {name}"
        if parts[0] in OWNERS:
            assert room in OWNERS[parts[0]], f"{path} imports {name}; only {OWNERS[parts[0]]} may"
        if parts[0] in OWNING_FILES:
            assert path.name == OWNING_FILES[parts[0]], f"{path} imports {name}; only {OWNING_FILES[parts[0]]} may"
        if parts[0] == "jaxclf" and parts[1] not in ("__version__", room):
            assert FLOORS[parts[1]] < FLOORS[room], (
                f"{path} (floor {FLOORS[room]}) imports {name} (floor {FLOORS[parts[1]]})"
            )


def test_no_file_is_part_of_a_circle():
    modules = {module_of(path): path for path in SOURCES}

    def targets(path: Path) -> set[str]:
        found = set()
        for name in imported_names(path):
            module = name if name in modules else name.rpartition(".")[0]
            if module in modules and modules[module] != path:
                found.add(module)
        return found

    graph = {module: targets(path) for module, path in modules.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"circular imports: {' -> '.join((*path, module))}"
        if module not in done:
            for target in sorted(graph[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(
    "text", ["| 2 | `a` |\n| 2 | `b` |", "| 1 | `a` |\n| 2 | `b` |", "| 2 | `a`, `b` |\n| 1 | `b` |"]
)
def test_a_wrong_table_is_seen(text):
    with pytest.raises(AssertionError):
        floors_of(text)


def test_every_public_name_resolves():
    for name in jaxclf.__all__:
        assert getattr(jaxclf, name) is not None
        assert name in dir(jaxclf)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        jaxclf.nonsense  # noqa: B018
