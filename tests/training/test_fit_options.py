"""What a fit does on request: keep the best, stop early, one_cycle, several labels; and how it ends when it fails."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from coloured import HEAD, IMAGE_SIZE, loaders

from jaxclf.config import MODULES, Settings
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset
from jaxclf.inference.predict import evaluate, predict
from jaxclf.training import fit as loop
from jaxclf.training import program as phases

#: Cheap to compile: the head only, on plain pictures.
PLAIN = dataclasses.replace(HEAD, augment="none")
#: Validation losses as scripted: the lowest is met twice, the first of them counts.
TURNING = (0.9, 0.5, 0.7, 0.5, 0.6, 0.8)


@pytest.fixture
def scripted(monkeypatch):
    """Hands `fit` these validation losses, whatever was predicted."""
    losses = iter(TURNING)
    original = loop.summarize
    monkeypatch.setattr(loop, "summarize", lambda *args, **kw: {**original(*args, **kw), "loss": next(losses)})


def test_it_keeps_the_best_epoch_and_stops_when_it_has_turned(tiny, scripted):
    """Three cycles of 2 epochs, patience 1: the best is epoch 1, and nobody asks before the second cycle has ended.

    The average is what counts.
    """
    model, variables = tiny
    train, valid = loaders(presized=False)
    states = []
    phase = dataclasses.replace(PLAIN, lrs=(0.3,), num_cycles=3, cycle_epochs=2, keep_best=True, patience=1)
    program = loop.make_program(model, phase, train, Settings(ema_decay=0.9))
    for event in loop.train(program, program.init(variables), train, valid):
        if isinstance(event, loop.Epoch):
            states.append((jax.tree.map(np.array, (event.state.variables, event.state.ema)), event.figures))
    states, epochs = zip(*states, strict=True)
    assert [row["cycle_end"] for row in epochs] == [False, True, False, True]
    assert [row["valid_loss"] for row in epochs] == list(TURNING[:4])
    assert event.last and event.best.epoch == 1 and event.stopped == "no lower validation loss in a cycle"
    state, predictions = event.result()
    for kept, seen, last in zip((state.variables, state.ema), states[1], states[3], strict=True):
        jax.tree.map(np.testing.assert_array_equal, kept, seen)
        assert (kept["params"]["head"]["fc"]["kernel"] != last["params"]["head"]["fc"]["kernel"]).any()
    averaged = predict(model, state.averaged, valid)
    np.testing.assert_array_equal(predictions.logits, averaged.logits)
    assert (averaged.logits != predict(model, state.variables, valid).logits).any()


@pytest.mark.parametrize(
    ("patience", "best", "ends_after"),
    [(1, 0, 2), (1, 1, None), (1, 2, None), (2, 0, None), (2, 1, None)],
)
def test_patience_counts_whole_cycles_after_the_best(patience, best, ends_after):
    """Of cycles of 1, 2 and 4 epochs; the last one's end ends the phase anyway."""
    phase = dataclasses.replace(PLAIN, num_cycles=3, cycle_mult=2, patience=patience)
    asked = [loop._out_of_patience(phase, (1, 3, 7), epoch, loop.Best(best, 0.5)) != "" for epoch in range(best, 7)]
    assert [epoch for epoch, stops in enumerate(asked, best) if stops] == ([] if ends_after is None else [ends_after])


def test_without_keep_best_the_last_epoch_is_what_comes_back(tiny, scripted):
    """And a fit that has come to its end was not stopped, whatever the last losses were."""
    train, valid = loaders(presized=False)
    result = loop.fit(*tiny, dataclasses.replace(PLAIN, cycle_epochs=3, patience=1), train, valid)
    assert len(result.epochs) == 3 and result.best_epoch == 1 and result.stopped == ""
    np.testing.assert_array_equal(result.predictions.logits, predict(tiny[0], result.state.variables, valid).logits)


@pytest.mark.parametrize("change", [{"keep_best": True}, {"patience": 2}])
def test_the_best_epoch_needs_a_validation_set(tiny, change):
    with pytest.raises(ValueError, match="phase 'head' asks for the best epoch .* give a validation loader"):
        loop.fit(*tiny, dataclasses.replace(PLAIN, **change), loaders(presized=False)[0])


def test_one_cycle_is_logged_with_its_momentum(tiny):
    phase = dataclasses.replace(PLAIN, schedule="one_cycle", cycle_epochs=2, pct_start=0.5)
    result = loop.fit(*tiny, phase, loaders(presized=False)[0], log_every=1)
    assert result.predictions is None and result.best_epoch is None
    schedule, num_steps = phases.phase_schedule(phase, 6)
    momentum = phases.phase_momentum(phase, num_steps, 0.9)
    for row in result.steps:
        np.testing.assert_allclose(row["lrs"], 0.01 * np.asarray(schedule(row["step"])), rtol=1e-5)
        np.testing.assert_allclose(row["momentum"], momentum(row["step"]), rtol=1e-6)
    rates, momenta = ([row[name] for row in result.steps] for name in ("lrs", "momentum"))
    assert np.argmax([lrs[-1] for lrs in rates]) == np.argmin(momenta) == 6 and momenta[0] == pytest.approx(0.95)


def several(count: int, seed: int = 0) -> ArrayDataset:
    """Each colour is there or not, by itself."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, (count, 3))
    pictures = labels[:, None, None] * 120 + 60 + generator.normal(0, 30, (count, 40, 40, 3))
    return ArrayDataset(np.clip(pictures, 0, 255).astype(np.uint8), labels)


def test_several_labels_are_learnt_and_evaluated(tiny):
    model, variables = tiny
    train = Loader(several(64), batch_size=8, image_size=IMAGE_SIZE, train=True, presized=False)
    valid = Loader(several(21, seed=1), batch_size=8, image_size=IMAGE_SIZE, train=False)
    before = evaluate(model, variables, valid)
    phase = dataclasses.replace(PLAIN, lrs=(0.05,), frozen=MODULES[:4], cycle_epochs=4)
    settings = Settings(loss="sigmoid", threshold=0.3, weights="none")
    result = loop.fit(model, variables, phase, train, valid, settings=settings)
    after = evaluate(model, result.state.variables, valid, threshold=0.3)
    last = result.epochs[-1]
    assert (last["valid_loss"], last["valid_accuracy"]) == (after["loss"], after["accuracy"])
    assert after["loss"] < 0.5 * before["loss"] and after["accuracy"] > 0.8 and after["num_examples"] == 21
    at_half = loop.fit(model, variables, phase, train, settings=Settings(loss="sigmoid", weights="none")).epochs[0]
    assert at_half["train_loss"] == result.epochs[0]["train_loss"]
    assert at_half["train_accuracy"] != result.epochs[0]["train_accuracy"], "the threshold decides there too"
    assert 0.0 <= result.epochs[0]["train_accuracy"] < last["train_accuracy"] <= 1.0
    with pytest.raises(ValueError, match="set --loss softmax"):
        loop.fit(model, variables, phase, loaders(presized=False)[0], valid, settings=settings)
    with pytest.raises(ValueError, match="set --loss softmax"):
        loop.fit(model, variables, phase, train, loaders(presized=False)[1], settings=settings)


def test_a_failed_step_ends_the_fit_at_the_next_transfer(tiny, monkeypatch):
    """Step 4 gets a mask that is not a number; logged are steps 2 and 5."""
    copies, original = [], phases.Program.train_step

    def wrapped(self, state, batch, key):
        copies.append(jax.tree.map(np.array, (state.variables, state.opt_state)))
        return original(self, state, batch._replace(mask=batch.mask * np.nan) if len(copies) == 5 else batch, key)

    monkeypatch.setattr(phases.Program, "train_step", wrapped)
    rows = []
    train = loaders(presized=False)[0]
    program = loop.make_program(tiny[0], dataclasses.replace(PLAIN, cycle_epochs=2), train)
    events = loop.train(program, program.init(tiny[1]), train, log_every=3)
    with pytest.raises(loop.NonFiniteLoss) as error:
        rows.extend(row for event in events for row in event.rows)
    assert len(copies) == 6 and [row["step"] for row in rows] == [2]
    rates = 0.01 * np.asarray(phases.phase_schedule(dataclasses.replace(PLAIN, cycle_epochs=2), 6)[0](4))
    assert f"at step 4 of phase 'head' (learning rates {', '.join([f'{rates:.3g}'] * 3)})" in str(error.value)
    state = error.value.state
    assert state.step == state.failed_at == 4
    jax.tree.map(np.testing.assert_array_equal, (state.variables, state.opt_state), copies[4])


def test_too_high_a_rate_diverges_with_a_message(tiny):
    phase = dataclasses.replace(PLAIN, lrs=(3e38,))
    with pytest.raises(
        loop.NonFiniteLoss, match=r"step \d+ of phase 'head' \(learning rates \S*e\+38\).* lower rate"
    ) as error:
        loop.fit(*tiny, phase, loaders(presized=False)[0])
    step = int(re.search(r"step (\d+)", str(error.value))[1])
    assert error.value.state.step == step
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(error.value.state))
