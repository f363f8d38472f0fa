"""Two RUN folders compared to the bit, and a recipe that has everything a resume must bring back."""

import json
from pathlib import Path

import jax
import numpy as np

from jaxclf.config import Phase, Recipe, Settings
from jaxclf.run.checkpoint_file import load_part
from jaxclf.run.folder import METRICS, PREDICTIONS, SUMMARY
from jaxclf.run.recipes import BODY

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
    for part in ("variables", "training"):
        ours, theirs = (load_part(run / first["checkpoint"], part) for run in (one, other))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    with np.load(one / PREDICTIONS) as ours, np.load(other / PREDICTIONS) as theirs:
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
