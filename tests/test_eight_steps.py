"""The recipe is told in four places, which agree: the recipe itself, the script, README.md and docs/recipe.md."""

import dataclasses
import re
import runpy
import sys

import numpy as np
import pytest
from conftest import REPOSITORY

import jaxclf
from jaxclf.cli.terminal import describe_cycles
from jaxclf.config import Phase, Settings, frozen_prefix
from jaxclf.data.demo.folder import write_drawings
from jaxclf.run.recipes import EIGHT_STEPS, LIKE_IMAGENET, UNLIKE_IMAGENET, eight_steps

PHASES = eight_steps(Settings()).phases
SCRIPT = REPOSITORY / "scripts" / "eight_steps.py"


def phase_of(step: int) -> Phase:
    """The phase that does one of fast.ai's steps."""
    (name,) = (name for name, steps in EIGHT_STEPS.items() if step in steps)
    return PHASES[list(EIGHT_STEPS).index(name)]


def test_the_steps_are_eight():
    assert [phase.name for phase in PHASES] == list(EIGHT_STEPS)
    assert [step for steps in EIGHT_STEPS.values() for step in steps] == list(range(1, 9))


def test_the_script_runs_these_phases_and_says_what_they_brought(tmp_path, monkeypatch, capsys):
    """As it stands, on drawings."""
    fits, finds = [], []
    fit, find_lr = jaxclf.fit, jaxclf.find_lr

    def watched_fit(model, variables, phase, train, valid, **options):
        fits.append((phase, train, options["phase_number"], options["first_epoch"]))
        return fit(model, variables, phase, train, valid, **options)

    def watched_find_lr(model, variables, loader, **options):
        finds.append((loader.cut, options["frozen"]))
        np.testing.assert_allclose(options["lrs"], LIKE_IMAGENET)
        return find_lr(model, variables, loader, **options)

    monkeypatch.setattr(jaxclf, "fit", watched_fit)
    monkeypatch.setattr(jaxclf, "find_lr", watched_find_lr)
    drawings = write_drawings(tmp_path / "drawings", num_train=32, num_valid=12, size=40)
    arguments = (
        f"{drawings} --arch resnet10t --weights tiny-imagenet --image-size 32 --batch-size 8 --finder-steps 20 "
        f"--out {tmp_path / 'out'}"
    )
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments.split()])
    runpy.run_path(str(SCRIPT), run_name="__main__")

    epochs = 0
    assert len(fits) == len(PHASES)
    for number, ((phase, train, phase_number, first_epoch), expected) in enumerate(zip(fits, PHASES, strict=True)):
        np.testing.assert_allclose(np.array(phase.lrs) / phase.lrs[-1], expected.lrs)
        assert dataclasses.replace(phase, lrs=expected.lrs, lr_from=expected.lr_from) == expected
        assert (train.cut, phase_number, first_epoch) == (expected.cut, number, epochs)
        assert train.cut is not None or train.presized == (expected.augment != "none")
        epochs += expected.num_epochs
    assert finds == [(phase.cut, phase.frozen) for phase in PHASES if phase.lr_from == "find"]
    assert fits[1][0].lrs == fits[0][0].lrs and PHASES[1].lr_from == "previous"

    printed = capsys.readouterr().out
    for phase in PHASES:
        assert re.search(rf"^{phase.name}: epoch 1, loss \d\.\d+, accuracy [01]\.\d+", printed, re.MULTILINE)
    assert re.findall(r"^(\d) find_lr: ", printed, re.MULTILINE) == ["2", "7"]
    assert re.search(r"^test-time augmentation: accuracy [01]\.\d+, loss \d", printed, re.MULTILINE)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "2 find_lr.png", "7 find_lr.png", "confusion.png"
    ]  # fmt: skip


def test_the_script_fits_on_a_slide():
    code = [line for line in SCRIPT.read_text(encoding="utf-8").splitlines() if line.strip()]
    code = [line for line in code[code.index("import jaxclf") :] if not line.startswith(("parser", "args", "#"))]
    assert len(code) <= 55, len(code)


def shown(cell: str) -> dict[str, object]:
    """Arguments of a `Phase` in a cell of a table."""
    scope = {"frozen_prefix": frozen_prefix}
    return {name: eval(text, scope) for name, text in re.findall(r"`(\w+)=([^`]+)`", cell)}  # noqa: S307  # our own page


def test_the_readme_shows_the_phase_of_every_step():
    """Each argument in the table is that of the phase which does this step, and those that matter are all there."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert [int(step) for step, _, _ in rows] == list(range(1, 9))
    told: dict[str, dict[str, object]] = {name: {} for name in EIGHT_STEPS}
    for step, words, cell in rows:
        phase = phase_of(int(step))
        for name, value in shown(cell).items():
            assert getattr(phase, name) == value, (step, name)
            told[phase.name][name] = value
        if epochs := re.search(r", (\d) epochs", words):
            assert phase.num_epochs == int(epochs[1]), step
    for phase in PHASES:
        changed = {name for name, value in vars(phase).items() if value != getattr(Phase("", lrs=(1.0,)), name)}
        assert changed <= set(told[phase.name]) | {"name", "lrs", "lr_from", "num_cycles", "frozen"}, phase.name
    assert set(told["all layers"]) >= {"frozen", "lrs", "num_cycles", "cycle_mult", "keep_best", "patience", "lr_from"}


@pytest.mark.parametrize("page", ["README.md", "docs/recipe.md"])
def test_the_pages_name_the_same_rates_and_cycles(page):
    text = " ".join((REPOSITORY / page).read_text(encoding="utf-8").split())
    (cycles,) = re.findall(r"cycles of ([\d, and]+) epochs", text, re.IGNORECASE)
    lengths = [int(length) for length in re.findall(r"\d+", cycles)]
    assert describe_cycles(phase_of(8)).startswith(" + ".join(map(str, lengths)) + " =")
    for ratios in (LIKE_IMAGENET, UNLIKE_IMAGENET):
        assert all(f"1/{round(1 / ratio)}" in text for ratio in ratios[:-1])


def test_the_docs_tell_the_steps_in_order():
    text = (REPOSITORY / "docs" / "recipe.md").read_text(encoding="utf-8")
    steps = re.findall(r"\*\*(\d)\. ", text)
    assert steps == [str(step) for step in range(1, 9)]
    for step in (3, 4):
        part = text[text.index(f"**{step}. ") : text.index(f"**{step + 1}. ")]
        found = re.search(r"(\d)(?: such)? epochs", part)
        assert found is not None and int(found[1]) == phase_of(step).num_epochs
    last = text[text.index("**8. ") : text.index("**Afterwards**")]
    assert phase_of(8).patience == 1 and "a whole cycle without a new lowest validation loss" in " ".join(last.split())
