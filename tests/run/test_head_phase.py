"""A phase that trains the head on pictures, several epochs long: the frozen body sees the validation pictures once."""

import numpy as np

from jaxclf.config import Phase, Recipe, Settings
from jaxclf.run import phase as phases
from jaxclf.run.observer import Observer
from jaxclf.run.recipes import BODY
from jaxclf.run.run import run_recipe


class Epochs(Observer):
    def __init__(self):
        self.losses = []

    def epoch(self, row):
        self.losses.append(row["valid_loss"])


def test_the_body_sees_validation_pictures_once_and_figures_stay(photos, tmp_path, small10t, monkeypatch):
    settings = Settings(arch=small10t, weights="none", image_size=32, batch_size=8, tta_views=0)
    recipe = Recipe(settings, (Phase("head", (0.01,), frozen=BODY, num_cycles=3),))
    cuts, original = [], phases.train

    def watched(program, state, train, valid):
        cuts.append((train.cut, valid.cut))
        return original(program, state, train, valid)

    monkeypatch.setattr(phases, "train", watched)
    once, again = Epochs(), Epochs()
    summary = run_recipe(photos, tmp_path / "once", recipe, observer=once)
    monkeypatch.setattr(Phase, "caches_validation", property(lambda phase: False))
    expected = run_recipe(photos, tmp_path / "again", recipe, observer=again)
    assert cuts == [(None, "pooled"), (None, None)]
    assert len(once.losses) == 3
    np.testing.assert_allclose(once.losses, again.losses, rtol=1e-5)
    assert summary["loss"] == expected["loss"]  # judged on pictures at its end, either way


def test_one_epoch_is_not_worth_it():
    assert not Phase("head", (0.01,), frozen=BODY).caches_validation
    assert Phase("head", (0.01,), frozen=BODY, cycle_epochs=2).caches_validation
    assert not Phase("head", (0.01,), frozen=BODY, cycle_epochs=2, cut="pooled", augment="none").caches_validation
    assert not Phase("later layers", (0.01,), frozen=BODY[:4], cycle_epochs=2).caches_validation
