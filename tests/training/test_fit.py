import collections
import contextlib
import dataclasses
import logging
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coloured import HEAD, IMAGE_SIZE, SCRATCH, coloured, loaders

from jaxclf import schedules
from jaxclf.config import Phase, Settings
from jaxclf.data.batches import Batch
from jaxclf.data.loader import Loader
from jaxclf.inference import predict as inference
from jaxclf.metrics import summarize
from jaxclf.models.trees import leaf_paths
from jaxclf.training import fit as loop
from jaxclf.training import shared

PHASE = Phase("all", lrs=(0.02,) * 3, num_cycles=2)


class Watched(NamedTuple):
    """A fit that logs each fourth step, the events of the same training, and what happened meanwhile."""

    result: loop.FitResult
    events: list[loop.Event]
    transfers: list[str]  # everything that read a value from the device
    variables: tuple[list[bytes], list[bytes]]  # the caller's, before and after


@contextlib.contextmanager
def transfers_watched():
    """Notes `jax.device_get`, and each value read without it, by float(), int() or bool()."""
    kind, noted, inside = type(jnp.zeros(())), [], []
    read, get = kind._value, jax.device_get

    def value(self):
        noted.extend([] if inside else ["value"])
        return read.fget(self)

    def device_get(tree):
        noted.append("device_get")
        inside.append(True)
        try:
            return get(tree)
        finally:
            inside.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_value", property(value))
        patch.setattr(jax, "device_get", device_get)
        yield noted


@pytest.fixture(scope="module")
def watched(tiny):
    before = [np.array(leaf).tobytes() for leaf in jax.tree.leaves(tiny[1])]
    with transfers_watched() as transfers:
        result = loop.fit(*tiny, PHASE, *loaders(), settings=SCRATCH, log_every=4)
    after = [np.array(leaf).tobytes() for leaf in jax.tree.leaves(tiny[1])]
    program = loop.make_program(tiny[0], PHASE, loaders()[0], SCRATCH)
    events = list(loop.train(program, program.init(tiny[1]), *loaders(), log_every=4))
    return Watched(result, events, transfers, (before, after))


def test_it_learns_and_records(watched):
    result, events = watched.result, watched.events
    assert [row for event in events for row in event.rows] == sorted(
        result.steps + result.epochs, key=lambda row: (row["epoch"], row["kind"] == "epoch", row["step"])
    )
    assert [row["step"] for row in result.steps] == [3, 5, 7, 11]  # each fourth, and the last of each epoch
    schedule = schedules.sgdr(6, 2)
    for row in result.steps:
        np.testing.assert_allclose(row["lrs"], 0.02 * np.asarray(schedule(row["step"])), rtol=1e-5)
        assert row["momentum"] == 0.9 and row["phase"] == "all"
    assert [(row["epoch"], row["step"], row["cycle_end"]) for row in result.epochs] == [(0, 6, True), (1, 12, True)]
    assert result.epochs[-1]["train_loss"] < result.epochs[0]["train_loss"]
    assert int(result.state.step) == 12 and result.stopped == ""
    steps, epochs = ([event for event in events if isinstance(event, kind)] for kind in (loop.Step, loop.Epoch))
    assert [event.step for event in steps] == list(range(1, 13)) and {event.num_steps for event in events} == {12}
    assert [events.index(event) for event in epochs] == [6, 13] and [event.last for event in epochs] == [False, True]
    assert [event.step for event in steps if event.ends_epoch] == [6, 12]
    assert steps[3].rows == (result.steps[0],) and steps[4].rows == ()
    assert [event.figures for event in epochs] == result.epochs
    assert summarize(result.predictions)["loss"] == result.epochs[-1]["valid_loss"]
    losses = [row["valid_loss"] for row in result.epochs]
    assert result.best_epoch == losses.index(min(losses))


def test_nothing_is_read_from_the_device_between_logging_steps(watched):
    """The only transfers of an epoch are the two logged steps and the predictions at its end."""
    assert watched.transfers == ["device_get"] * 2 * (2 + 1)


def test_the_watch_on_transfers_sees_them():
    one = jnp.ones(())
    with transfers_watched() as transfers:
        float(one + 1), bool(one + 2), int(one + 3), jax.device_get(one + 4)
    assert transfers == ["value"] * 3 + ["device_get"]


def test_the_callers_variables_stay_usable(watched):
    before, after = watched.variables
    assert before == after


def test_the_same_seed_gives_the_same_bits_however_often_it_logs(tiny, watched):
    """And an epoch's figures are the means over all its examples: 46, in four batches of 8 and two of 7."""
    every = loop.fit(*tiny, PHASE, *loaders(), settings=SCRATCH, log_every=1)
    assert every.epochs == watched.result.epochs and [every.steps[k] for k in (3, 5, 7, 11)] == watched.result.steps
    first = [row["loss"] for row in every.steps if row["epoch"] == 0]
    assert every.epochs[0]["train_loss"] == pytest.approx(np.average(first, weights=(8, 8, 8, 8, 7, 7)), rel=1e-6)
    for (path, a), (_, b) in zip(leaf_paths(every.state.params), leaf_paths(watched.result.state.params), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)


def test_seeds_phases_and_epochs_have_their_own_draws(tiny):
    """Seed, phase number and first epoch reach the keys and the order."""
    train, _ = loaders()
    losses = {
        loop.fit(*tiny, HEAD, train, settings=Settings(seed=seed), phase_number=number, first_epoch=epoch).epochs[0][
            "train_loss"
        ]
        for seed, number, epoch in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 5))
    }
    assert len(losses) == 4


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


def test_batches_are_moved_ahead_and_the_source_is_closed():
    produced, closed = [], []

    def source():
        try:
            for number in range(5):
                produced.append(number)
                yield Batch(*(np.full(1, number),) * 4)
        finally:
            closed.append(True)

    moved = inference.to_device(source(), ahead=2)
    first = next(moved)
    assert isinstance(first.inputs, jax.Array) and produced == [0, 1, 2]
    moved.close()
    assert closed == [True]
    assert [int(batch.index[0]) for batch in inference.to_device(source())] == list(range(5))


def test_one_compile_per_step_function_and_phase(tiny, caplog):
    """Over a fit of two phases, with short batches, padding, several epochs and evaluations."""
    train, valid = loaders()
    model, variables = tiny
    inference._predict_step.cache_clear()  # an earlier test may have compiled it
    shared.shared_step.cache_clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        first = loop.fit(model, variables, dataclasses.replace(HEAD, num_cycles=2), train, valid)
        loop.fit(model, first.state.variables, PHASE, train, valid, settings=SCRATCH, phase_number=1)
    compiled = collections.Counter(re.findall(r"Compiling jit\((\w+)\)", caplog.text))
    assert compiled["train_step"] == 2, compiled
    assert compiled["predict_step"] == 1, compiled


def test_leaving_the_loop_closes_the_loader(tiny, monkeypatch):
    train, valid = loaders()
    closed, epoch = [], train.epoch

    def watched_epoch(*args, **kwargs):
        batches = epoch(*args, **kwargs)
        close = batches.close
        batches.close = lambda: (closed.append(True), close())
        return batches

    monkeypatch.setattr(train, "epoch", watched_epoch)
    program = loop.make_program(tiny[0], HEAD, train)
    for event in loop.train(program, program.init(tiny[1]), train, valid):
        if event.step == 2:
            break
    del event
    assert closed


def test_a_snapshot_goes_on_to_the_bit_and_is_not_eaten(tiny):
    """From the middle of an epoch, twice from the same one, and from an epoch's end; not from an epoch's last step."""
    train, valid = loaders()
    phase = dataclasses.replace(HEAD, num_cycles=2, keep_best=True)
    program = loop.make_program(tiny[0], phase, train)
    snapshots, rows, whole = [], [], None
    for whole in loop.train(program, program.init(tiny[1]), train, valid, log_every=4):
        rows += whole.rows
        if isinstance(whole, loop.Step) and whole.ends_epoch:
            with pytest.raises(ValueError, match="ends its epoch"):
                whole.snapshot()
        elif whole.step in (3, 6):
            snapshots.append((whole.snapshot(), len(rows)))
    state, predictions = whole.result()
    for snapshot, done in (snapshots[0], *snapshots):
        again = list(loop.train(program, snapshot, train, valid, log_every=4))
        assert [row for event in again for row in event.rows] == rows[done:]
        other, other_predictions = again[-1].result()
        jax.tree.map(np.testing.assert_array_equal, other, state)
        np.testing.assert_array_equal(other_predictions.logits, predictions.logits)
    with pytest.raises(ValueError, match="nothing left to train"):
        loop.fit(*tiny, phase, train, valid, start=whole.snapshot())
