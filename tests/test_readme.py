"""What the README and the scripts show really runs."""

import glob
import re
import runpy
import shlex
import shutil
import sys

import pytest
from conftest import REPOSITORY
from test_cli import run

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def home(photos, tmp_path, monkeypatch):
    """A folder with `photos`, `holiday` and `cat.jpg`, as the README assumes."""
    from PIL import Image

    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "holiday").mkdir()
    picture = Image.open(next((photos / "valid" / "red").iterdir()))
    for name in ("cat.jpg", "holiday/one.jpg", "holiday/two.jpg"):
        picture.save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_two_commands_are_shown():
    assert "make demo" in README and "make test" in README


def test_the_commands_of_the_readme(home, capsys, monkeypatch):
    monkeypatch.setattr("jaxclf.training.FINDER_STEPS", (20, 20))
    commands = [line for line in README.splitlines() if line.startswith(".venv/bin/jaxclf ")]
    assert len(commands) >= 3
    for command in commands:
        arguments = shlex.split(command.replace("--image-size 128", "--image-size 32"))[1:]
        expanded = [name for a in arguments for name in (sorted(glob.glob(a)) if "*" in a else [a])]
        assert run(*expanded) == 0, command
    assert "holiday/two.jpg,3" not in capsys.readouterr().out  # two classes, so no third rank
    assert (home / "runs" / "photos" / "summary.json").is_file()

    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(blocks[0], {})  # our own README
    assert capsys.readouterr().out.split()[0] in ("red", "green")


def test_the_second_block_of_python_makes_phases():
    import jaxclf

    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope = {"jaxclf": jaxclf}
    exec(blocks[1][: blocks[1].index("result =")], scope)
    assert scope["everything"].num_epochs == 7 and scope["head"].frozen[-1] == "stage4"


def test_the_third_block_of_python_draws(home):
    import jaxclf
    from jaxclf.loop import FitResult

    source = jaxclf.ImageFolder("photos/train")
    train = jaxclf.Loader(source, batch_size=8, image_size=32, train=True)
    row = {"kind": "epoch", "phase": "head", "epoch": 0, "step": 3, "train_loss": 1.0, "train_accuracy": 0.5}
    result = FitResult(None, [], [row | {"valid_loss": 1.0, "valid_accuracy": 0.5}], None, 0, "")
    exec(re.findall(r"```python\n(.*?)```", README, re.DOTALL)[2], {"jaxclf": jaxclf, "train": train, "result": result})
    assert (home / "batch.png").stat().st_size > 1000 and (home / "epochs.png").stat().st_size > 1000


def test_fit_folder_script(photos, monkeypatch, capsys):
    script = str(REPOSITORY / "scripts" / "fit_folder.py")
    monkeypatch.setattr(sys, "argv", [script, str(photos), "--image-size", "32", "--batch-size", "8", "--epochs", "1"])
    runpy.run_path(script, run_name="__main__")
    printed = capsys.readouterr().out
    assert "all layers epoch 1: loss" in printed and "green was taken for green:" in printed
