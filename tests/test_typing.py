"""What editors and type checkers see of the names that are imported when first used."""

import ast
import subprocess
import sys

import make_stub
import pytest
from conftest import REPOSITORY

import jaxclf

STUB = make_stub.STUB

#: `assert_type` is an error where mypy finds another type, or Any.
USER = """
from typing import Any, assert_type
import jaxclf

def train(model: jaxclf.Classifier, variables: dict[str, Any], data: str) -> None:
    splits = jaxclf.open_data(data)
    loader = jaxclf.Loader(splits.train, batch_size=8, image_size=64, train=True)
    phase = jaxclf.Phase("head", lrs=(0.1,))
    assert_type(loader, jaxclf.Loader)
    assert_type(phase.lrs, tuple[float, ...])
    assert_type(jaxclf.fit(model, variables, phase, loader), jaxclf.FitResult)
    assert_type(jaxclf.list_archs(), tuple[str, ...])
    assert_type(jaxclf.schedules.cycle_boundaries(10, 2), tuple[int, ...])
    reveal_type(jaxclf.schedules.sgdr(10, 2))
    reveal_type(jaxclf.analysis.confusion_matrix)
"""
WRONG = {
    "jaxclf.Phase('head', lrs='fast')": 'Argument "lrs" to "Phase" has incompatible type "str"',
    "jaxclf.schedules.sgdr('ten', 2)": 'Argument 1 to "sgdr" has incompatible type "str"',
    "jaxclf.create_classifier('resnet18', classes=2)": 'Unexpected keyword argument "classes"',
    "jaxclf.Fase": 'Module has no attribute "Fase"',
}


def test_the_stub_is_of_this_version():
    """Its text is made from the tables of names; what it lists is what there is."""
    expected = make_stub.stub_text(jaxclf._MODULES, jaxclf._EXPORTS)
    assert STUB.read_text(encoding="utf-8") == expected, "run `python scripts/make_stub.py`"
    (names,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(expected).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert sorted(names) == sorted(jaxclf.__all__)
    assert (STUB.parent / "py.typed").is_file()


def test_every_line_of_the_stub_names_what_users_get():
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            scope: dict = {}
            exec(ast.unparse(node), scope)
            (alias,) = node.names
            assert alias.asname is not None
            assert scope[alias.asname] is getattr(jaxclf, alias.asname), ast.unparse(node)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says of a user's file. Libraries stay closed: only jaxclf's own types are asked for."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "user.py").write_text(USER + "".join(f"\n{line}\n" for line in WRONG))
    (folder / "mypy.ini").write_text(
        "[mypy]\nfollow_imports = silent\nignore_missing_imports = true\n"
        "[mypy-jax.*,flax.*,optax.*,orbax.*,grain.*,PIL.*,matplotlib.*,huggingface_hub.*]\nfollow_imports = skip\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(folder / "mypy.ini"), str(folder / "user.py")]
    command += ["--cache-dir", str(folder / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=600)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_mypy_knows_the_types(said: list[str]):
    revealed = [line.split('"')[1] for line in said if "Revealed type" in line]
    assert len(revealed) == 2 and all(found.startswith("def (") for found in revealed), revealed
    assert not [line for line in said if "[assert-type]" in line]


def test_mypy_finds_wrong_arguments(said: list[str]):
    errors = [line for line in said if ": error: " in line]
    assert len(errors) == len(WRONG), errors
    for error, expected in zip(errors, WRONG.values(), strict=True):
        assert expected in error
