"""The recipe is told in four places, which agree: the recipe itself, the script, README.md and docs/recipe.md."""

import contextlib
import dataclasses
import functools
import io
import re
import runpy
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import REPOSITORY

import jaxclf
from jaxclf.cli.terminal import describe_cycles
from jaxclf.config import Phase, Settings, frozen_prefix
from jaxclf.run.prepare import MAX_CROP_FRACTION
from jaxclf.run.recipes import (
    EIGHT_STEPS,
    LIKE_IMAGENET,
    LIKE_IMAGENET_SOLVED,
    UNLIKE_IMAGENET,
    UNLIKE_IMAGENET_SOLVED,
    default_lr,
    eight_steps,
)
from jaxclf.training.lr_curve import suggest_lr
from jaxclf.training.lr_finder import finder_range

PHASES = eight_steps(Settings()).phases
SCRIPT = REPOSITORY / "scripts" / "eight_steps.py"


def phase_of(step: int) -> Phase:
    """The phase that does one of fast.ai's steps."""
    (name,) = (name for name, steps in EIGHT_STEPS.items() if step in steps)
    return PHASES[list(EIGHT_STEPS).index(name)]


def test_the_steps_are_eight():
    assert [phase.name for phase in PHASES] == list(EIGHT_STEPS)
    assert [step for steps in EIGHT_STEPS.values() for step in steps] == list(range(1, 9))


#: Validation losses that the script is told: of the three steps, then of the same by augmented views. On plain
#: pictures the last step is no better than the one before, by views it is the best of all.
LOSSES = (0.7, 0.5, 0.6, 0.65, 0.45, 0.4)


class Told(NamedTuple):
    """What the script did: its calls of public functions, its names at the end, what it printed, and the plots."""

    calls: list[tuple[str, tuple, dict, Any]]
    names: dict[str, Any]
    printed: str
    plots: list[str]


@pytest.fixture(scope="module")
def told(photos, weights_file, small10t, tmp_path_factory) -> Told:
    """The script as it stands, on a thin network."""
    out, losses, calls = tmp_path_factory.mktemp("script") / "out", iter(LOSSES), []
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        for name in ("extract_features", "solve_head", "find_lr", "fit", "predict_tta"):
            patch.setattr(jaxclf, name, functools.partial(watched, calls, name, getattr(jaxclf, name)))
        patch.setattr(jaxclf, "load_weights", functools.partial(shown_whole, jaxclf.load_weights))
        patch.setattr(jaxclf, "summarize", lambda predictions: {"loss": next(losses), "accuracy": 0.9})
        options = f"--arch {small10t} --image-size 32 --batch-size 8 --finder-steps 20"
        arguments = [str(photos), "--weights", str(weights_file), "--out", str(out), *options.split()]
        patch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        names = runpy.run_path(str(SCRIPT), run_name="__main__")
    return Told(calls, names, printed.getvalue(), sorted(path.name for path in out.iterdir()))


def shown_whole(load, *arguments):
    """Weights whose evaluation shows all of a picture's shorter side."""
    loaded = load(*arguments)
    preprocess = dataclasses.replace(loaded.config.preprocess, crop_fraction=1.0)
    return loaded._replace(config=dataclasses.replace(loaded.config, preprocess=preprocess))


def watched(calls, name, original, *arguments, **options):
    """Calls, and notes (name, arguments, options, result)."""
    calls.append((name, arguments, options, original(*arguments, **options)))
    return calls[-1][-1]


def test_the_script_runs_these_phases(told):
    done = iter(told.calls)
    for number, phase in enumerate(PHASES):
        if phase.solve:
            name, (_, _, loader), options, features = next(done)
            assert name == "extract_features" and loader.train and loader.presized == (phase.augment != "none")
            assert features.cut == phase.cut and features.num_views == phase.num_views
            assert options.get("augment", "none") == phase.augment
            name, (model, _, solved_on), options, _ = next(done)
            assert name == "solve_head" and solved_on is features and model.head_kind == Settings().head
        else:
            assert phase.lr_from == "find"
            name, _, options, curve = next(done)
            assert (name, options.get("frozen", ())) == ("find_lr", phase.frozen)
            np.testing.assert_allclose(options["lrs"], phase.lrs)
            assert (options["low"], options["high"]) == finder_range(Settings(), stands=True)[:2]
            name, (_, _, run, train, _), options, _ = next(done)
            assert name == "fit"
            np.testing.assert_allclose(np.array(run.lrs) / run.lrs[-1], phase.lrs)
            assert run.lrs[-1] == pytest.approx(suggest_lr(curve, "edge").lr or default_lr(Settings(), solved=True))
            assert dataclasses.replace(run, lrs=phase.lrs, lr_from=phase.lr_from) == phase
            assert train.cut is None and train.presized == (phase.augment != "none")
            first_epoch = sum(before.num_epochs for before in PHASES[:number])
            assert (options["phase_number"], options.get("first_epoch", 0)) == (number, first_epoch)
        decided = Settings(batch_size=8).for_photos(26)
        assert (options["settings"].batch_size, options["settings"].bn_frozen) == (8, decided.bn_frozen)
    assert [name for name, *_ in done] == ["predict_tta"] * len(PHASES)


def test_the_script_shows_as_much_of_a_picture_as_a_run_does(told):
    loaders = [loader for name, (_, _, loader, *_), _, _ in told.calls if name in ("extract_features", "predict_tta")]
    assert len(loaders) == 5 and {loader.preprocess.crop_fraction for loader in loaders} == {MAX_CROP_FRACTION}


def test_the_script_says_what_they_brought(told):
    names = (*EIGHT_STEPS, *(f"{name}, by views" for name in EIGHT_STEPS))
    for name, loss in zip(names, LOSSES, strict=True):
        assert f"\n{name}: loss {loss:.4f}, accuracy 0.900\n" in told.printed
    assert re.findall(r"^(\d) (?:ridge|find_lr): ", told.printed, re.MULTILINE) == ["2", "4", "7"]
    assert told.plots == ["2 ridge.png", "4 ridge.png", "7 find_lr.png", "confusion.png"]


def test_the_script_goes_on_from_the_best_step_so_far(told):
    """That of the lowest validation loss: the second head, and not all layers, which ended no better."""
    solved = [result.variables for name, _, _, result in told.calls if name == "solve_head"]
    started = {name: arguments[1] for name, arguments, _, _ in told.calls}
    assert started["find_lr"] is started["fit"] is solved[1]
    assert "'head, augmented' goes on at" in told.printed


def test_the_script_ends_with_the_best_of_all_by_views_too(told):
    """All layers: no better on plain pictures, and the best by augmented views."""
    (trained,) = (result.state.params for name, _, _, result in told.calls if name == "fit")
    viewed = [(arguments[1], result) for name, arguments, _, result in told.calls if name == "predict_tta"]
    held = told.names["held"]
    assert held.variables is viewed[-1][0] and held.predictions is viewed[-1][1]
    assert held.variables["params"] is trained
    assert "the lowest loss of all: 'all layers, by views'" in told.printed


def test_the_script_fits_on_a_slide():
    code = [line for line in SCRIPT.read_text(encoding="utf-8").splitlines() if line.strip()]
    code = [line for line in code[code.index("import jaxclf") :] if not line.startswith(("parser", "args", "#"))]
    assert len(code) <= 60, len(code)


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
        assert ("solved" in words) == (phase.solve and int(step) > 2), step
        assert "epochs" not in words or phase.num_epochs, step
    for phase in PHASES:
        changed = {name for name, value in vars(phase).items() if value != getattr(Phase("", lrs=(1.0,)), name)}
        assert changed <= set(told[phase.name]) | {"name", "lrs", "lr_from", "num_cycles", "frozen"}, phase.name
    assert set(told["all layers"]) >= {"frozen", "lrs", "num_cycles", "cycle_mult", "lr_from"}


@pytest.mark.parametrize("page", ["README.md", "docs/recipe.md"])
def test_the_pages_name_the_same_rates_and_cycles(page):
    text = " ".join((REPOSITORY / page).read_text(encoding="utf-8").split())
    (cycles,) = re.findall(r"cycles of ([\d, and]+) epochs", text, re.IGNORECASE)
    lengths = [int(length) for length in re.findall(r"\d+", cycles)]
    assert describe_cycles(phase_of(8)).startswith(" + ".join(map(str, lengths)) + " =")
    for ratios in (LIKE_IMAGENET, UNLIKE_IMAGENET, LIKE_IMAGENET_SOLVED, UNLIKE_IMAGENET_SOLVED):
        assert all(f"1/{round(1 / ratio)}" in text for ratio in ratios if ratio < 1)


def test_the_docs_tell_the_steps_in_order():
    text = (REPOSITORY / "docs" / "recipe.md").read_text(encoding="utf-8")
    steps = re.findall(r"\*\*(\d)\. ", text)
    assert steps == [str(step) for step in range(1, 9)]
    for step in (3, 4):
        part = text[text.index(f"**{step}. ") : text.index(f"**{step + 1}. ")]
        assert ("solved" in part) == phase_of(step).solve
    views = re.search(r"(\w+) views of each photo", text)
    assert views is not None and ("one", "two", "three", "four", "five").index(views[1]) + 1 == phase_of(4).num_views
    assert phase_of(8).patience is None and not phase_of(8).keep_best
