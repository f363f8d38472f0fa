"""`jaxclf fit --recipe RUN/recipe.json` repeats a run, also one whose rates were found."""

import collections
import dataclasses
import json
import logging
import re

import jax
import numpy as np
import pytest
from commands import run

from jaxclf import report
from jaxclf.config import Settings, to_json
from jaxclf.run import rates
from jaxclf.run.recipes import eight_steps
from jaxclf.training.lr_finder import RateRange
from jaxclf.training.shared import shared_step

SETTINGS = Settings(arch="small10t", image_size=32, batch_size=8, tta_views=0)


def short(head, tmp_path, weights_file):
    """The eight steps with an epoch a phase, as a file."""
    recipe = eight_steps(dataclasses.replace(SETTINGS, weights=str(weights_file), head=head), epochs=1)
    phases = tuple(dataclasses.replace(each, num_cycles=1) for each in recipe.phases)
    (tmp_path / "short.json").write_text(to_json(dataclasses.replace(recipe, phases=phases)))
    return tmp_path / "short.json"


@pytest.mark.parametrize(
    ("head", "searches", "networks"),
    [("pools", ["all layers"], 1), ("concat", ["head, precomputed", "all layers"], 2)],
)
def test_a_run_of_eight_steps_is_repeated_to_the_bit(
    head, searches, networks, photos, weights_file, tmp_path, monkeypatch, caplog
):
    """And what it trains (all layers; the head on pictures, if it cannot be solved) is compiled once over finder, phase
    and runs."""
    path = short(head, tmp_path, weights_file)
    shared_step.cache_clear()
    monkeypatch.setattr(rates, "finder_range", lambda *args, **options: RateRange(1e-5, 10.0, 20))
    monkeypatch.setattr(rates, "worth_a_test", lambda *args: True)
    monkeypatch.setattr(report, "write_report", lambda *args, **kwargs: None)  # not what is looked at here
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        assert run("fit", photos, "--out", tmp_path / "first", "--recipe", path) == 0
    recipe = json.loads((tmp_path / "first" / "recipe.json").read_text())
    assert [each["lr_from"] for each in recipe["phases"]] == ["given"] * 3
    found = json.loads((tmp_path / "first" / "summary.json").read_text())["rates"]
    assert [rate["phase"] for rate in found] == searches
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        assert run("fit", photos, "--out", tmp_path / "again", "--recipe", tmp_path / "first" / "recipe.json") == 0
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert compiled["train_step"] == networks, compiled
    for name in ("recipe.json", "metrics.jsonl"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "first" / name).read_text()
    with (
        np.load(tmp_path / "first" / "predictions.npz") as first,
        np.load(tmp_path / "again" / "predictions.npz") as again,
    ):
        assert set(first) == set(again)
        for name in first:
            np.testing.assert_array_equal(first[name], again[name])
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("first", "again")]
    assert summaries[0]["loss"] == summaries[1]["loss"]
