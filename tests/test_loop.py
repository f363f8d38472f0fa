import collections
import logging
import re

import jax
import numpy as np
import pytest

from jaxclf import loop, schedules
from jaxclf.config import Phase, Settings
from jaxclf.data.loader import Batch, Loader
from jaxclf.data.sources import ArrayDataset
from jaxclf.metrics import summarize
from jaxclf.trees import MODULES, leaf_paths

IMAGE_SIZE = 32


def coloured(count: int, seed: int = 0) -> ArrayDataset:
    """Three classes told apart by colour."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).normal(0, 30, (count, 40, 40, 3))
    return ArrayDataset(np.clip(np.eye(3)[labels][:, None, None] * 120 + 60 + noise, 0, 255).astype(np.uint8), labels)


def loaders(presized=True, count=50):
    train = Loader(coloured(count), batch_size=8, image_size=IMAGE_SIZE, train=True, presized=presized)
    return train, Loader(coloured(19, seed=1), batch_size=8, image_size=IMAGE_SIZE, train=False)


PHASE = Phase("all", lrs=(0.02,) * 3, num_cycles=2)


def test_it_learns_and_records(tiny):
    train, valid = loaders()
    seen, progress = [], []
    result = loop.fit(
        *tiny, PHASE, train, valid, log_every=4, on_log=seen.append, on_epoch=lambda row, state: seen.append(row),
        on_step=progress.append,
    )  # fmt: skip
    assert seen == sorted(
        result.steps + result.epochs, key=lambda row: (row["epoch"], row["kind"] == "epoch", row["step"])
    )
    assert [row["step"] for row in result.steps] == [3, 5, 7, 11]  # each fourth, and the last of each epoch
    schedule = schedules.sgdr(6, 2)
    for row in result.steps:
        np.testing.assert_allclose(row["lrs"], 0.02 * np.asarray(schedule(row["step"])), rtol=1e-5)
    assert [(row["epoch"], row["step"]) for row in result.epochs] == [(0, 6), (1, 12)]
    assert result.epochs[-1]["train_loss"] < result.epochs[0]["train_loss"]
    assert int(result.state.step) == 12
    assert [p.step for p in progress] == list(range(1, 13)) and progress[0].num_steps == 12
    assert progress[3].latest == result.steps[0]


def test_epoch_figures_are_the_means_over_all_steps(tiny):
    train, valid = loaders()
    every = loop.fit(*tiny, PHASE, train, valid, log_every=1)
    rare = loop.fit(*tiny, PHASE, train, valid, log_every=1000)
    assert every.epochs == rare.epochs
    first = [row["loss"] for row in every.steps if row["epoch"] == 0]
    assert every.epochs[0]["train_loss"] == pytest.approx(np.mean(first), rel=1e-6)
    assert summarize(rare.predictions)["loss"] == rare.epochs[-1]["valid_loss"]


def test_same_seed_same_bits_other_seed_other_bits(tiny):
    def run(seed):
        train, valid = loaders()
        train.seed = seed
        return loop.fit(*tiny, PHASE, train, valid, settings=Settings(seed=seed))

    first, again, other = run(0), run(0), run(1)
    assert first.epochs == again.epochs and first.steps == again.steps
    for (path, a), (_, b) in zip(leaf_paths(first.state.params), leaf_paths(again.state.params), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)
    assert first.epochs != other.epochs


def test_phases_and_epochs_have_their_own_draws(tiny):
    """Phase number and first epoch reach the keys and the order."""
    train, valid = loaders()
    losses = {
        loop.fit(*tiny, PHASE, train, valid, phase_number=number, first_epoch=epoch).epochs[0]["train_loss"]
        for number, epoch in ((0, 0), (1, 0), (0, 5))
    }
    assert len(losses) == 3


def test_the_callers_variables_stay_usable(tiny):
    model, variables = tiny
    before = [np.array(leaf) for leaf in jax.tree.leaves(variables)]
    train, _ = loaders()
    loop.fit(model, variables, PHASE, train)
    for a, b in zip(before, jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_prediction_covers_every_example_once_for_any_batch_size(tiny):
    model, variables = tiny
    results = [
        loop.predict(model, variables, Loader(coloured(19), batch_size=size, image_size=IMAGE_SIZE, train=False))
        for size in (1, 7, 19, 32)
    ]
    for result in results:
        np.testing.assert_array_equal(result.index, np.arange(19))
        np.testing.assert_array_equal(result.labels, np.arange(19) % 3)
        np.testing.assert_allclose(result.logits, results[0].logits, rtol=1e-4, atol=1e-5)
    figures = [summarize(result) for result in results]
    assert all(f["num_examples"] == 19 and f["loss"] == pytest.approx(figures[0]["loss"], rel=1e-5) for f in figures)


def test_divergence_stops_with_step_and_rates(tiny):
    train, _ = loaders()
    with pytest.raises(ValueError, match=r"at step \d+ of phase 'all' \(learning rates \S*e\+29"):
        loop.fit(*tiny, Phase("all", lrs=(1e30,), cycle_epochs=3), train)


def test_no_host_sync_between_logging_steps(tiny, monkeypatch):
    """The only fetches of a phase are the logged ones and the predictions at the end of an epoch."""
    fetched = []
    original = jax.device_get
    monkeypatch.setattr(loop.jax, "device_get", lambda tree: (fetched.append(1), original(tree))[1])
    train, valid = loaders()
    loop.fit(*tiny, PHASE, train, valid, log_every=3)
    assert len(fetched) == 2 * (2 + 1)


def test_batches_are_moved_ahead_and_the_source_is_closed():
    produced, closed = [], []

    def source():
        try:
            for number in range(5):
                produced.append(number)
                yield Batch(*(np.full(1, number),) * 4)
        finally:
            closed.append(True)

    moved = loop.to_device(source(), ahead=2)
    first = next(moved)
    assert isinstance(first.inputs, jax.Array) and produced == [0, 1, 2]
    moved.close()
    assert closed == [True]
    assert [int(batch.index[0]) for batch in loop.to_device(source())] == list(range(5))


def test_one_compile_per_step_function_and_phase(tiny, caplog):
    """Over a fit of two phases, with short batches, padding, several epochs and evaluations."""
    train, valid = loaders()
    model, variables = tiny
    predict_step = loop.make_predict_step(model, preprocess=valid.preprocess)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        head = Phase("head", lrs=(0.01,) * 3, frozen=MODULES[:5], num_cycles=2)
        first = loop.fit(model, variables, head, train, valid, predict_step=predict_step)
        loop.fit(model, first.state.variables, PHASE, train, valid, predict_step=predict_step, phase_number=1)
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert compiled["train_step"] == 2, compiled
    assert compiled["predict_step"] == 1, compiled
