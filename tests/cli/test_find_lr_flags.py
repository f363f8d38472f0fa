"""Every flag that `jaxclf find-lr` shows does something: the test it would run, or what is said of it, is another.

The test itself is traced and not run. Of the trace only what the losses depend on is looked at.
"""

import dataclasses
import hashlib
import re
import types

import jax
import numpy as np
import pytest
from commands import fails, run
from conftest import write_class_folders
from jax.interpreters.partial_eval import dce_jaxpr
from PIL import Image

from jaxclf.cli import find_lr as command
from jaxclf.cli.completion import command_flags
from jaxclf.config import Recipe, Settings
from jaxclf.run import load
from jaxclf.training import lr_finder
from jaxclf.training.lr_curve import LRCurve, growing_lrs

NET = ["--arch", "small10t", "--weights", "none", "--image-size", "32", "--batch-size", "8", "--steps", "20"]
NET += ["--frozen", "stage3"]
#: Flag -> another value of it, and before that what it needs to count.
OTHERS = {
    "--frozen": ["stage1"],
    "--out": ["elsewhere"],
    "--low": ["1e-5"],
    "--high": ["1"],
    "--steps": ["21"],
    "--rule": ["minimum"],
    "--arch": ["thinner"],
    "--weights": ["WEIGHTS"],
    "--head": ["concat"],
    "--dropout": ["0.5"],
    "--image-size": ["40"],
    "--resize": ["squish"],
    "--bn-frozen": [],
    "--no-bn-frozen": [],
    "--precision": ["bfloat16"],
    "--valid-fraction": ["0.5"],
    "--on-bad-image": ["skip"],
    "--cache": ["none"],
    "--sampling": ["balanced"],
    "--batch-size": ["4"],
    "--seed": ["1"],
    "--lr-rule": ["minimum"],
    "--optimizer": ["adamw"],
    "--momentum": ["0.5"],
    "--weight-decay": ["0.1"],
    "--clip-norm": ["1"],
    "--accumulate": ["2"],
    "--deterministic": [],
    "--loss": ["focal"],
    "--focal-gamma": ["3"],
    "--class-weights": ["balanced"],
    "--label-smoothing": ["0.1"],
    "--mixup": ["0.4"],
    "--cutmix": ["1"],
}
NEEDS = {
    "--focal-gamma": ["--loss", "focal"],
    "--on-bad-image": ["--cache", "none"],
    "--no-bn-frozen": ["--weights", "WEIGHTS"],
}


def digest(*arrays) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def trace(test, batch) -> str:
    """Two steps of a test as JAX sees them, without what their losses do not depend on."""

    def losses(state, batch, key):
        state, first = test.program.train_step(state, batch, key)
        _, second = test.program.train_step(state, batch, key)
        return first["loss"], second["loss"]

    traced = jax.make_jaxpr(losses)(test.state, batch, test.program.key).jaxpr
    return re.sub(r"0x[0-9a-f]+", "", str(dce_jaxpr(traced, [True] * len(traced.outvars))[0]))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Photos without parts, higher than wide, of two classes unequally many."""
    data = write_class_folders(tmp_path_factory.mktemp("flat") / "data", {"red": 14, "green": 6})
    for path in data.rglob("*.png"):
        Image.open(path).resize((48, 96)).save(path)
    return data


@pytest.fixture
def outcome(drawn, weights_file, tmp_path, monkeypatch, capsys):
    """flags -> all that comes of a test with them."""
    seen: list = []

    def find_lr(model, variables, loader, *, lrs, frozen, low, high, num_steps, settings, on_progress):
        over = lr_finder._Range(low, high, num_steps, 0.98)
        test = lr_finder._make_test(model, variables, loader, lrs, frozen, over, settings, None)
        batch = next(iter(loader.epoch(0)))
        seen.append((trace(test, batch), digest(*jax.tree.leaves(variables)), digest(*batch), digest(test.rates)))
        seen.append((model, loader.cache, test.ratios.tolist()))
        falling = np.linspace(1.0, 0.1, num_steps)
        return LRCurve(growing_lrs(low, high, num_steps), falling, falling, "completed", None, num_steps)

    monkeypatch.setattr(lr_finder, "find_lr", find_lr)
    monkeypatch.setattr(command, "write_results", lambda folder, contents, pictures: seen.append(folder))
    monkeypatch.setattr("jaxclf._jax.enable_determinism", lambda: seen.append("deterministic"))
    monkeypatch.setattr("jaxclf.plots.plot_lr_curve", lambda curve, suggestions: None)
    monkeypatch.chdir(tmp_path)

    def of(*flags):
        seen.clear()
        flags = [str(weights_file) if flag == "WEIGHTS" else flag for flag in flags]
        assert run("find-lr", drawn, *NET, *flags) == 0
        return [*seen, capsys.readouterr().out]

    return of


def test_all_that_it_shows_are_tried():
    assert set(command_flags(command.FindLr)) == {*OTHERS, "--run"}


@pytest.fixture(scope="module")
def usual():
    return {}


@pytest.mark.parametrize("flag", [flag for flag in OTHERS if flag != "--on-bad-image"])
def test_a_flag_that_is_shown_changes_something(flag, outcome, usual, monkeypatch):
    """--on-bad-image, --run: see test_find_lr_cli."""
    from networks import SMALL

    from jaxclf.models import registry

    monkeypatch.setitem(registry._CONFIGS, "thinner", dataclasses.replace(SMALL, arch="thinner", stem_width=8))
    needs = tuple(NEEDS.get(flag, ()))
    if needs not in usual:
        usual[needs] = outcome(*needs)
    assert outcome(*needs, flag, *OTHERS[flag]) != usual[needs]


def test_what_would_change_nothing_is_no_flag(outcome, drawn, capsys, monkeypatch):
    """And it would not, if it were one; so the test above can fail."""
    for name in command.UNUSED:
        flag = f"--{name.replace('_', '-')}"
        mentions = [f"{flag} is not a flag of `jaxclf find-lr`"]
        fails(capsys, "find-lr", drawn, *NET, flag, "0.5", mentions=mentions, code=2)
    plain, init = outcome(), Settings.__init__
    others = {"on_bad_valid_image": "skip", "ema_decay": 0.9, "tta_views": 1, "threshold": 0.3, "bn_recalibrate": True}
    assert set(others) == set(command.UNUSED)
    monkeypatch.setattr(Settings, "__init__", lambda self, **given: init(self, **(given | others)))
    assert outcome() == plain


def test_a_runs_own_rule_and_determinism_count(outcome, drawn, monkeypatch, tmp_path, capsys):
    """They are read before the run's network, with which JAX starts."""
    called: list[str] = []
    settings = Settings(lr_rule="minimum", deterministic=True)
    monkeypatch.setattr(load, "load_recipe", lambda folder: Recipe(settings))
    monkeypatch.setattr("jaxclf._jax.enable_determinism", lambda: called.append("deterministic"))

    def start(self, given, terminal):
        assert called and given == settings
        return None, None, types.SimpleNamespace(num_examples=5)

    curve = LRCurve(growing_lrs(1e-6, 10.0, 20), *[np.linspace(1.0, 0.1, 20)] * 2, "completed", None, 20)
    monkeypatch.setattr(command.FindLr, "_start", start)
    monkeypatch.setattr(lr_finder, "find_lr", lambda *args, **options: curve)
    assert run("find-lr", drawn, "--run", tmp_path / "run") == 0
    assert "rule minimum suggests" in capsys.readouterr().out
    assert run("find-lr", drawn, "--run", tmp_path / "run", "--rule", "valley") == 0
    assert "rule valley suggests" in capsys.readouterr().out
