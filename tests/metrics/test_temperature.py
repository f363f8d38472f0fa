import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf.metrics import (
    Predictions,
    accuracy,
    cross_fit_temperature,
    example_losses,
    expected_calibration_error,
    fit_temperature,
    label_probabilities,
    log_loss,
    probabilities,
)
from jaxclf.metrics.temperature import BOUNDS

N, C = 80, 3


def drawn(seed, sharpness=1.0, num=N):
    """Predictions that are calibrated when their logits are divided by `sharpness`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (num, C))
    labels = (probabilities(logits).cumsum(-1) < generator.random((num, 1))).sum(-1).astype(np.int32)
    return Predictions(sharpness * logits, labels, np.arange(num, dtype=np.int32))


def drawn_multi_hot(seed, sharpness=1.0, num=N):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (num, C))
    labels = (generator.random((num, C)) < label_probabilities(logits)).astype(np.float32)
    return Predictions(sharpness * logits, labels, np.arange(num, dtype=np.int32), multi_label=True)


def fitted(logits, labels, **kwargs):
    return fit_temperature(Predictions(logits, labels, np.arange(len(labels)), **kwargs))


SEEDS = st.integers(0, 10**6)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.booleans())
def test_temperature_has_the_smallest_loss(seed, multi_label):
    predictions = (drawn_multi_hot if multi_label else drawn)(seed, 2.0)
    temperature = fit_temperature(predictions)

    def loss(t):
        return example_losses(predictions._replace(logits=predictions.logits / t)).mean()

    grid = temperature * np.exp(np.linspace(-1.0, 1.0, 201))
    losses = [loss(t) for t in grid]
    assert np.argmin(losses) == 100
    coarse = [loss(t) for t in np.geomspace(*BOUNDS, 50)]
    assert losses[100] <= min(coarse)
    left, right = loss(temperature * (1 - 1e-4)), loss(temperature * (1 + 1e-4))
    assert abs(right - left) < 1e-9, "a slope is left"


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.2, 5.0), st.floats(-50, 50))
def test_temperature_follows_the_scale_and_ignores_a_shift(seed, scale, shift):
    predictions = drawn(seed, num=200)
    temperature = fit_temperature(predictions)
    moved = predictions._replace(logits=scale * predictions.logits + shift)
    assert fit_temperature(moved) == pytest.approx(scale * temperature, rel=1e-9)


def test_temperature_undoes_what_was_done():
    assert fit_temperature(drawn(0, 3.0, num=20_000)) == pytest.approx(3.0, rel=0.05)
    assert fit_temperature(drawn_multi_hot(0, 3.0, num=8000)) == pytest.approx(3.0, rel=0.05)


def test_sets_that_do_not_determine_a_temperature():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    right, wrong = np.array([0, 1, 0]), np.array([1, 0, 1])
    assert fitted(logits, right) == BOUNDS[0]
    assert fitted(logits, wrong) == BOUNDS[1]
    assert fitted(np.full((3, 2), 7.0), right) == 1.0
    assert fitted(np.array([[2.0, -1.0]]), np.array([[1, 0]]), multi_label=True) == BOUNDS[0]
    assert cross_fit_temperature(Predictions(logits, right, np.arange(3)), num_folds=3).at_bound
    assert not cross_fit_temperature(drawn(0)).at_bound
    # Logits of thousands overflow nothing.
    assert 1.0 < fitted(np.array([[5e3, 0.0], [5e3, 0.0], [5e3, 0.0]]), np.array([0, 0, 1])) <= BOUNDS[1]


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(0, N - 1), st.integers(2, 9))
def test_an_examples_own_label_has_no_part_in_its_probabilities(seed, changed, num_folds):
    predictions = drawn(seed, 2.0)
    labels = predictions.labels.copy()
    labels[changed] = (labels[changed] + 1) % C
    before = cross_fit_temperature(predictions, num_folds=num_folds)
    after = cross_fit_temperature(predictions._replace(labels=labels), num_folds=num_folds)
    same_fold = before.folds == before.folds[changed]
    np.testing.assert_array_equal(after.folds, before.folds)
    np.testing.assert_array_equal(after.probabilities[same_fold], before.probabilities[same_fold])
    assert (after.fold_temperatures != before.fold_temperatures).sum() == num_folds - 1
    assert after.temperature != before.temperature


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.permutations(range(N)))
def test_folds_belong_to_examples_and_not_to_rows(seed, order):
    order = np.array(order)
    predictions = drawn(seed, 2.0)
    expected = cross_fit_temperature(predictions, seed=4)
    found = cross_fit_temperature(predictions.rows(order), seed=4)
    np.testing.assert_array_equal(found.folds, expected.folds[order])
    np.testing.assert_allclose(found.probabilities, expected.probabilities[order], rtol=1e-9)
    assert np.ptp(np.bincount(found.folds)) <= 1


@pytest.mark.parametrize("multi_label", [False, True])
def test_figures_are_of_held_out_examples(multi_label):
    predictions = (drawn_multi_hot if multi_label else drawn)(1, 2.5, num=600)
    found = cross_fit_temperature(predictions, num_folds=4)
    for fold in range(4):
        others, own = found.folds != fold, found.folds == fold
        temperature = fit_temperature(predictions.rows(others))
        assert found.fold_temperatures[fold] == temperature
        np.testing.assert_array_equal(found.predictions.logits[own], predictions.logits[own] / temperature)
    if multi_label:
        np.testing.assert_array_equal(found.probabilities, label_probabilities(found.predictions.logits))
        assert found.loss_after == example_losses(found.predictions).mean()
    else:
        np.testing.assert_array_equal(found.probabilities, probabilities(found.predictions.logits))
        assert found.loss_after == log_loss(found.predictions) and found.loss_before == log_loss(predictions)
        assert found.ece_after == expected_calibration_error(found.predictions)
        assert accuracy(found.predictions) == accuracy(predictions)
    assert found.loss_after < found.loss_before and found.ece_after < 0.6 * found.ece_before
    in_sample = predictions._replace(logits=predictions.logits / found.temperature)
    best = example_losses(in_sample).mean()
    assert best < found.loss_after, "held-out examples cannot do better than those the temperature was fit on"


def test_folds_are_scaled_as_the_classifier_would_be():
    """Where the other folds do not determine a temperature it is 1 in a fold too, as it is for pictures to come."""
    logits = np.tile([[3.0, 0.0], [0.0, 2.0]], (10, 1))
    labels = np.tile([0, 1], 10)
    right = cross_fit_temperature(Predictions(logits, labels, np.arange(20)))
    assert right.at_bound and right.temperature == 1.0 and (right.fold_temperatures == 1.0).all()
    assert right.loss_after == pytest.approx(right.loss_before, rel=1e-12)
    labels[0] = 1  # one mistake: the others are all right, so its own fold's temperature is not to be found
    one_wrong = cross_fit_temperature(Predictions(logits, labels, np.arange(20)))
    own = one_wrong.folds == one_wrong.folds[0]
    assert not one_wrong.at_bound and one_wrong.fold_temperatures[one_wrong.folds[0]] == 1.0
    np.testing.assert_array_equal(one_wrong.predictions.logits[own], logits[own])
    others = np.delete(one_wrong.fold_temperatures, one_wrong.folds[0])
    assert (others != 1.0).all() and one_wrong.loss_after < 2 * one_wrong.loss_before


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(4, 12), st.booleans())
def test_no_temperature_in_use_is_a_bound(seed, number, multi_label):
    """Of a few pictures, where many folds are all right."""
    predictions = (drawn_multi_hot if multi_label else drawn)(seed, 3.0, num=number)
    towards = 2 * predictions.labels - 1 if multi_label else np.eye(C)[predictions.labels]
    predictions = predictions._replace(logits=predictions.logits + 4 * towards)
    found = cross_fit_temperature(predictions, num_folds=4)
    assert found.at_bound == (fit_temperature(predictions) in BOUNDS)
    for used, rows in [
        (found.temperature, predictions),
        *((t, predictions.rows(found.folds != fold)) for fold, t in enumerate(found.fold_temperatures)),
    ]:
        fit = fit_temperature(rows)
        assert used == (1.0 if fit in BOUNDS else fit)


PREDICTIONS = drawn(0)
BAD_CALLS = [
    (lambda: fit_temperature(PREDICTIONS.rows(slice(0))), "empty"),
    (lambda: fit_temperature(PREDICTIONS._replace(multi_label=True)), "multi_label=False"),
    (lambda: fit_temperature(PREDICTIONS._replace(logits=PREDICTIONS.logits * np.nan)), "not finite"),
    (lambda: fit_temperature(PREDICTIONS._replace(labels=PREDICTIONS.labels - 1)), "no labels"),
    (lambda: cross_fit_temperature(PREDICTIONS, num_folds=1), "num_folds=1"),
    (lambda: cross_fit_temperature(PREDICTIONS, num_folds=N + 1), "num_folds=81"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
