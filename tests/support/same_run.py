"""Two RUN folders compared to the bit, a recipe that has everything a resume must bring back, and a run stopped."""

import contextlib
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxclf.config import Phase, Recipe, Settings
from jaxclf.run.checkpoint_file import load_part
from jaxclf.run.folder import CHECKPOINTS, METRICS, PREDICTIONS, SUMMARY
from jaxclf.run.observer import Interrupted, Observer, StopSignals
from jaxclf.run.recipes import BODY
from jaxclf.run.run import run_recipe

#: Dropout, a running average, SGD's momentum: all have something to lose.
SETTINGS = Settings(
    arch="resnet10t", weights="tiny-imagenet", image_size=32, batch_size=10, dropout=0.1, ema_decay=0.9, tta_views=1
)
HEAD = Phase("head", (0.01, 0.1, 1.0), frozen=BODY, augment="none", cut="pooled", lr_from="find", num_cycles=2)
#: Cheap: one phase of two dispatches, from activations, its rate found.
SHORT = Recipe(SETTINGS, (HEAD,))
#: Then cycles of 1 and 2 epochs of all layers on augmented pictures, the best of them kept.
WHOLE = Recipe(
    SETTINGS,
    (HEAD, Phase("all layers", (0.0001, 0.001, 0.01), num_cycles=2, cycle_mult=2, keep_best=True, patience=1)),
)


def without_seconds(value):
    """A summary without what no two runs have in common."""
    if isinstance(value, dict):
        return {name: without_seconds(item) for name, item in value.items() if not name.startswith("seconds")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def assert_same_run(one: Path, other: Path) -> None:
    """Parameters, optimizer state, record, predictions and summary: the same bits, seconds apart."""
    assert (one / METRICS).read_bytes() == (other / METRICS).read_bytes()
    first, second = (json.loads((run / SUMMARY).read_text()) for run in (one, other))
    assert without_seconds(first) == without_seconds(second)
    phases = [f"{CHECKPOINTS}/phase{number + 1}" for number in range(sum("kept" in step for step in first["steps"]))]
    phases = [path for path in phases if (one / path).is_dir()]
    assert first["checkpoint"] in phases
    for path in phases:  # also what was not kept
        for part in ("variables", "training"):
            ours, theirs = (load_part(run / path, part) for run in (one, other))
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    with np.load(one / PREDICTIONS) as ours, np.load(other / PREDICTIONS) as theirs:
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


class SignalAt(Observer):
    """Sends this process a signal when step `step` of phase `phase` has been dispatched."""

    def __init__(self, phase: int, step: int, number: int = signal.SIGTERM):
        self.at, self.number, self.notes, self.sent = (phase, step), number, [], False

    def note(self, text):
        self.notes.append(text)

    @contextlib.contextmanager
    def phase(self, phase, number, num_phases):
        def show(event):
            if (number, event.step) == self.at and not self.sent:  # an epoch's last step and its end have one number
                self.sent = True
                os.kill(os.getpid(), self.number)

        yield show


def stop_at(photos, out, recipe, phase, step, number=signal.SIGTERM):
    """Begins or resumes a run and interrupts it; returns what it said."""
    observer = SignalAt(phase, step, number)
    with StopSignals() as stop, pytest.raises(Interrupted) as error:
        run_recipe(photos, out, recipe, resume=True, stop=stop, observer=observer)
    assert error.value.signum == number
    assert f"`jaxclf fit {photos} --out {out} --resume`" in str(error.value)
    return observer.notes, str(error.value)
