"""Imports point downward only: this test reads them."""

import ast
from pathlib import Path

import pytest

import jaxclf

PACKAGE = Path(jaxclf.__file__).parent

#: Layer of each module or package below `jaxclf`; a new one has to be placed here. See CONTRIBUTING.md.
LAYERS = {
    **dict.fromkeys(
        (
            "array_file",
            "augment",
            "compilation",
            "config",
            "export_file",
            "files",
            "flops",
            "interruption",
            "losses",
            "lr_curve",
            "metrics",
            "order",
            "prediction",
            "schedules",
            "trees",
        ),
        0,
    ),
    **dict.fromkeys(("models", "data", "distributed", "mesh"), 1),
    **dict.fromkeys(("weights", "groups", "optim"), 2),
    **dict.fromkeys(
        ("state", "steps", "phases", "inference", "checkpoint", "loop", "scanned", "snapshot", "run_folder"), 3
    ),
    **dict.fromkeys(
        ("analysis", "cost", "export", "features", "gradcam", "lr_finder", "plots", "runs", "sweep", "tta"), 4
    ),
    **dict.fromkeys(
        (
            "recipes",
            "phase_costs",
            "setup",
            "training",
            "scoring",
            "course",
            "finish",
            "keeper",
            "resume",
            "recipe",
            "evaluation",
            "report",
        ),
        5,
    ),
    "cli": 6,
    "__main__": 7,
}
#: Layers whose modules may import each other (a chain, not a circle); in layer 4 none imports another.
CHAINED = {0, 1, 2, 3, 5, 6}
#: Only these may import these.
OWNERS = {
    "flax": {"models"},
    "orbax": {"checkpoint"},
    "PIL": {"data"},
    "tyro": {"cli"},
    "grain": {"data"},
    "matplotlib": {"plots"},
    "jinja2": {"report"},
}
FORBIDDEN = {"torch", "tensorflow"}


def unit_of(path: Path) -> str:
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


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_there_is_something_to_check():
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path):
    unit = unit_of(path)
    assert unit in LAYERS, f"{unit} has no layer: place it in LAYERS"
    for name in imported_names(path):
        parts = name.split(".")
        assert parts[0] not in FORBIDDEN, f"{path} imports {name}"
        if parts[0] in OWNERS:
            assert unit in OWNERS[parts[0]], f"{path} imports {name}; only {OWNERS[parts[0]]} may"
        if parts[0] != "jaxclf" or parts[1] in ("__version__", unit):
            continue
        target = LAYERS[parts[1]]
        allowed = target < LAYERS[unit] or (target == LAYERS[unit] and target in CHAINED)
        assert allowed, f"{path} (layer {LAYERS[unit]}) imports {name} (layer {target})"


def test_no_circles_within_a_layer():
    graph = {
        unit: {
            name.split(".")[1]
            for path in SOURCES
            if unit_of(path) == unit
            for name in imported_names(path)
            if name.startswith("jaxclf.") and name.split(".")[1] in LAYERS and name.split(".")[1] != unit
        }
        for unit in LAYERS
    }
    done: set[str] = set()

    def visit(unit: str, path: tuple[str, ...]) -> None:
        assert unit not in path, f"circular imports: {' -> '.join((*path, unit))}"
        if unit not in done:
            for target in graph[unit]:
                visit(target, (*path, unit))
            done.add(unit)

    for unit in graph:
        visit(unit, ())


def test_every_public_name_resolves():
    for name in jaxclf.__all__:
        assert getattr(jaxclf, name) is not None
        assert name in dir(jaxclf)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        jaxclf.nonsense  # noqa: B018
