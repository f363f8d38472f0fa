"""What gets imported, and when: nothing heavy before it is used, torch and tensorflow never."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STAND_IN = """
import pathlib, traceback
with open(pathlib.Path(__file__).parent.parent / "touched.log", "a") as file:
    file.write(__name__ + "\\n" + "".join(traceback.format_stack()))
"""


def run_python(code: str, *, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else dict(os.environ)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_brings_in_nothing_heavy():
    heavy = "flax orbax grain tensorflow_datasets matplotlib optax PIL tyro rich safetensors huggingface_hub"
    code = f"import sys, jax, jaxclf; print([name for name in '{heavy}'.split() if name in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_pure_functions_stay_light():
    heavy = "flax orbax grain tensorflow_datasets matplotlib PIL"
    code = (
        "import sys, jaxclf; jaxclf.schedules.sgdr(10, 2); jaxclf.epoch_order(0, 0, 5); jaxclf.Phase('a', lrs=(1.0,));"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    assert run_python(code).strip() == "[]"


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """Packages named torch and tensorflow that record whoever imports them."""
    for name in ("torch", "tensorflow"):
        (tmp_path / "stand_ins" / name).mkdir(parents=True)
        (tmp_path / "stand_ins" / name / "__init__.py").write_text(STAND_IN)
    return tmp_path / "stand_ins"


def test_the_stand_ins_record(stand_ins: Path):
    run_python("import torch, tensorflow", path=stand_ins)
    assert [line for line in (stand_ins / "touched.log").read_text().splitlines() if " " not in line] == [
        "torch",
        "tensorflow",
    ]


def test_a_full_fit_touches_neither_torch_nor_tensorflow(stand_ins: Path, photos: Path, tmp_path: Path):
    run = tmp_path / "run"
    arguments = ["--arch", "resnet10t", "--weights", "none", "--image-size", "32", "--batch-size", "8", "--epochs", "1"]
    code = f"""
import jaxclf
for name in jaxclf.__all__:
    getattr(jaxclf, name)
from jaxclf.cli import main
for command in (["fit", {str(photos)!r}, "--out", {str(run)!r}, *{arguments!r}],
                ["evaluate", {str(run)!r}, {str(photos)!r}],
                ["predict", {str(run)!r}, {str(photos / "valid")!r}]):
    try:
        main(command)
    except SystemExit as end:
        assert end.code == 0, end.code
"""
    run_python(code, path=stand_ins)
    assert (run / "summary.json").is_file()
    log = stand_ins / "touched.log"
    assert not log.exists(), log.read_text()
