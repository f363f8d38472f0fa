"""A run with --bn-recalibrate: its body's statistics are those of the training photos, after a resume too."""

import dataclasses

import jax
import numpy as np
import pytest
from notes import Notes
from same_run import SETTINGS, assert_same_run
from test_resume import stop_at

from jaxclf import Loader, open_data, recalibrate_batch_norm
from jaxclf.config import Phase, Recipe
from jaxclf.run.checkpoint_file import load_variables
from jaxclf.run.checkpoints import phase_path
from jaxclf.run.observer import Observer
from jaxclf.run.prepare import prepare
from jaxclf.run.run import run_recipe

ALL = Phase("all layers", (1e-4, 1e-3, 1e-2), augment="none")


@pytest.fixture(scope="module")
def recipe(weights_file, small10t):
    settings = dataclasses.replace(SETTINGS, arch=small10t, weights=str(weights_file), ema_decay=None, tta_views=0)
    return Recipe(dataclasses.replace(settings, bn_recalibrate=True), (ALL,))


def test_a_resumed_run_is_the_same_and_has_the_photos_statistics(photos, recipe, tmp_path):
    observer = Notes()
    run_recipe(photos, tmp_path / "whole", recipe, observer=observer)
    assert "BatchNorm's running statistics are taken anew over the 26 training pictures (AdaBN)" in observer.notes
    notes, _ = stop_at(photos, tmp_path / "stopped", recipe, 0, 1)
    assert any("taken anew" in note for note in notes)
    run_recipe(photos, tmp_path / "stopped", recipe, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")

    # With so few photos BatchNorm is frozen, so what the run ends with is what it began with.
    prepared = prepare(photos, recipe.settings, Observer())
    initial, preprocess = prepared.initial_variables(0), prepared.spec.preprocess
    loader = Loader(open_data(photos).train, batch_size=10, image_size=32, train=False, preprocess=preprocess)
    expected = recalibrate_batch_norm(prepared.spec.create(), initial, loader)["batch_stats"]["body"]
    held = load_variables(phase_path(tmp_path / "whole", 0))["batch_stats"]["body"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), held, expected)
    before = jax.tree.leaves(initial["batch_stats"]["body"])
    assert not any(np.allclose(a, b) for a, b in zip(jax.tree.leaves(held), before, strict=True))
