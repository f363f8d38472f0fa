import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf import metrics
from jaxclf.metrics import (
    BinaryCounts,
    Predictions,
    accuracy,
    classification_report,
    confusion_matrix,
    decide,
    decision_counts,
    example_losses,
    expected_calibration_error,
    f_beta,
    figures,
    label_probabilities,
    most_confused,
    probabilities,
    reliability_curve,
    samples_f_beta,
    search_threshold,
    summarize,
    top_k_accuracy,
)

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(0, 3, (200, 5)).astype(np.float32)
LABELS = GENERATOR.integers(0, 5, 200).astype(np.int32)
PREDICTIONS = Predictions(LOGITS, LABELS, np.arange(200, dtype=np.int32))
MULTI_HOT = (GENERATOR.random((200, 5)) < label_probabilities(LOGITS - 1)).astype(np.float32)
SEVERAL = PREDICTIONS._replace(labels=MULTI_HOT, multi_label=True)
CLASSES = tuple("abcde")

SINGLE_LABEL = (
    accuracy,
    metrics.error_rate,
    metrics.log_loss,
    example_losses,
    expected_calibration_error,
    reliability_curve,
    confusion_matrix,
    figures,
    metrics.roc_auc_one_vs_rest,
    summarize,
    top_k_accuracy,
    lambda predictions: classification_report(predictions, CLASSES),
)

#: These are of one label per example or of several, as the predictions say.
EITHER = (example_losses, expected_calibration_error, reliability_curve, summarize, SINGLE_LABEL[-1])


# Counts


@given(st.lists(st.integers(0, 200), min_size=2, max_size=2).map(sorted))
@settings(deadline=None)
def test_counts_of_any_partition_add_up(cuts):
    parts = np.split(np.arange(200), cuts)
    matrix = confusion_matrix(PREDICTIONS)
    np.testing.assert_array_equal(sum(confusion_matrix(PREDICTIONS.rows(part)) for part in parts), matrix)
    decisions = decide(label_probabilities(LOGITS))
    counts = [decision_counts(decisions[part], MULTI_HOT[part]) for part in parts]
    for found, expected in zip(zip(*counts, strict=True), decision_counts(decisions, MULTI_HOT), strict=True):
        assert expected.dtype == matrix.dtype == np.int64
        np.testing.assert_array_equal(sum(found), expected)


def test_most_confused_pairs():
    matrix = confusion_matrix(PREDICTIONS)
    pairs = most_confused(matrix, CLASSES, min_count=5)
    assert all(count >= 5 and actual != predicted for actual, predicted, count in pairs)
    assert [count for *_, count in pairs] == sorted((count for *_, count in pairs), reverse=True)
    assert sum(count for *_, count in most_confused(matrix, CLASSES)) == matrix.sum() - np.trace(matrix)


# Figures of decisions


def test_figures_are_those_of_the_single_functions():
    found = figures(PREDICTIONS, k=2)
    assert found["top_k_accuracy"] == top_k_accuracy(PREDICTIONS, 2)
    assert found["balanced_accuracy"] == metrics.balanced_accuracy(confusion_matrix(PREDICTIONS))
    assert found["macro_f1"] == metrics.average_f_beta(metrics.one_vs_rest_counts(confusion_matrix(PREDICTIONS)))
    assert found["matthews"] == metrics.matthews(confusion_matrix(PREDICTIONS))


def test_probabilities_survive_large_logits():
    np.testing.assert_allclose(probabilities(np.array([[1e4, 0.0], [-1e4, 0.0]])), [[1, 0], [0, 1]])
    np.testing.assert_allclose(label_probabilities(np.array([[1e4, 0.0, -1e4]])), [[1, 0.5, 0]])
    assert example_losses(Predictions(np.array([[1e4, 0.0]]), np.array([1]), np.arange(1))).tolist() == [1e4]
    several = Predictions(np.array([[1e4, 0.0]]), np.array([[0.0, 1.0]]), np.arange(1), multi_label=True)
    np.testing.assert_allclose(example_losses(several), [(1e4 + math.log(2)) / 2])


def test_ties_go_to_the_lower_class():
    level = Predictions(np.zeros((3, 3)), np.array([0, 1, 2]), np.arange(3))
    assert accuracy(level) == top_k_accuracy(level, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(level, 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(level, 3) == top_k_accuracy(level, 9) == 1.0


def test_known_small_values():
    counts = BinaryCounts(*np.array([[2, 0], [1, 0], [2, 0], [5, 10]]))
    np.testing.assert_allclose(metrics.precision(counts), [2 / 3, 0])
    np.testing.assert_allclose(metrics.recall(counts), [1 / 2, 0])
    np.testing.assert_allclose(f_beta(counts, 2), [5 * 2 / (5 * 2 + 4 * 2 + 1), 0])
    table = np.array([[20, 5], [10, 15]])
    assert metrics.matthews(table) == pytest.approx((20 * 15 - 5 * 10) / math.sqrt(25 * 25 * 30 * 20))
    assert metrics.balanced_accuracy(table) == pytest.approx(0.7)


@pytest.mark.parametrize("function", [metrics.matthews, metrics.balanced_accuracy])
def test_perfect_decisions(function):
    assert function(np.diag([3, 1, 7])) == pytest.approx(1.0)


def test_what_is_undefined():
    """One class only: no correlation (0), no area (nan)."""
    one = np.array([[5, 0], [0, 0]])
    assert metrics.matthews(one) == 0.0
    assert metrics.balanced_accuracy(one) == 1.0
    assert math.isnan(metrics.roc_auc([0.1, 0.2], [1, 1]))
    single = Predictions(LOGITS, np.zeros(200, np.int32), PREDICTIONS.index)
    assert math.isnan(metrics.roc_auc_one_vs_rest(single))
    absent = Predictions(LOGITS, LABELS % 3, PREDICTIONS.index)  # classes 3 and 4 have no examples
    assert 0 < metrics.roc_auc_one_vs_rest(absent) < 1


# Calibration


def test_what_says_what_it_means_is_calibrated():
    """Labels drawn from the probabilities themselves: the error falls as 1 / sqrt(n), and overconfidence shows."""
    logits = np.repeat(GENERATOR.normal(0, 1.5, (2000, 3)), 10, axis=0)
    drawn = (probabilities(logits).cumsum(-1) < GENERATOR.random((20000, 1))).sum(-1)
    honest = Predictions(logits, np.minimum(drawn, 2), np.arange(20000))
    assert expected_calibration_error(honest) < 0.02
    assert expected_calibration_error(honest._replace(logits=3 * logits)) > 0.1


@given(st.integers(1, 30))
def test_bins_hold_every_decision_once(num_bins):
    rounded = np.round(LOGITS)  # ties
    for predictions in (PREDICTIONS._replace(logits=rounded), SEVERAL._replace(logits=rounded)):
        curve = reliability_curve(predictions, num_bins=num_bins)
        p = predictions.probabilities()
        if predictions.multi_label:
            confidence, correct = p.reshape(-1), MULTI_HOT.reshape(-1) > 0
        else:
            confidence, correct = p.max(-1), rounded.argmax(-1) == LABELS
        assert curve.counts.sum() == len(confidence) and curve.counts.dtype == np.int64
        filled = curve.counts > 0
        np.testing.assert_array_equal(np.isnan(curve.accuracy), ~filled)
        np.testing.assert_allclose((curve.confidence * curve.counts)[filled].sum(), confidence.sum())
        np.testing.assert_allclose((curve.accuracy * curve.counts)[filled].sum(), correct.sum())
        assert (curve.confidence[filled] <= curve.edges[1:][filled] + 1e-12).all()
        assert (curve.confidence[filled] >= curve.edges[:-1][filled] - 1e-12).all()


def test_calibration_by_hand():
    """One label per example, each said to be there with .5, .5, .9 and about 1."""
    logits = np.array([[0.0], [0.0], [np.log(9)], [40.0]])
    predictions = Predictions(logits, np.array([[1.0], [0.0], [1.0], [0.0]]), np.arange(4), multi_label=True)
    curve = reliability_curve(predictions, num_bins=2)
    assert curve.counts.tolist() == [2, 2]  # 0.5 belongs to the lower bin
    assert metrics.calibration_error(curve) == pytest.approx((0 * 2 + 0.45 * 2) / 4)
    assert expected_calibration_error(predictions, num_bins=2) == metrics.calibration_error(curve)


# Several labels

PROBABILITIES = np.round(label_probabilities(LOGITS[:12] / 3), 1)  # ties on purpose


def brute_force(probabilities, labels, beta):
    """The best samples F-beta over thresholds at, between and beside all probabilities."""
    levels = np.unique(probabilities)
    between = (levels[1:] + levels[:-1]) / 2
    candidates = np.concatenate([[0.0], levels, between, [(levels[-1] + 1) / 2]])
    return max(samples_f_beta(decide(probabilities, t), labels, beta) for t in candidates)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=40, deadline=None)
def test_the_threshold_found_is_the_best_there_is(seed, beta):
    labels = (np.random.default_rng(seed).random((12, 5)) < 0.3).astype(np.float32)
    found = search_threshold(PROBABILITIES, labels, beta=beta)
    assert found.score == pytest.approx(brute_force(PROBABILITIES, labels, beta), rel=1e-12)
    assert found.score == samples_f_beta(decide(PROBABILITIES, found.threshold), labels, beta)
    each = search_threshold(PROBABILITIES, labels, beta=beta, per_class=True)
    best = [brute_force(PROBABILITIES[None, :, k], labels[None, :, k], beta) for k in range(5)]
    np.testing.assert_allclose(f_beta(decision_counts(decide(PROBABILITIES, each.threshold), labels), beta), best)
    assert each.score == pytest.approx(np.mean(best))


def test_ties_of_the_threshold_search():
    assert search_threshold([[0.9, 0.1]], [[1, 0]]) == (0.5, 1.0)  # everything in (0.1, 0.9] is right
    assert search_threshold([[0.4, 0.2]], [[1, 0]])[0] == pytest.approx(0.3)  # the middle of (0.2, 0.4]
    assert search_threshold([[1.0, 1.0]], [[0, 0]]) == (0.5, 0.0)  # no threshold is any better
    per_class = search_threshold([[0.3, 0.8], [0.1, 0.7]], [[0, 1], [0, 1]], per_class=True)
    np.testing.assert_array_equal(per_class.threshold, [0.5, 0.5])
    assert per_class.score == 0.5


def test_a_threshold_for_each_class():
    decisions = decide([[0.3, 0.3], [0.5, 0.5]], np.array([0.3, 0.6]))
    np.testing.assert_array_equal(decisions, [[True, False], [True, False]])


def test_multi_label_summary():
    summary = summarize(SEVERAL._replace(threshold=0.3))
    decisions = label_probabilities(LOGITS) >= 0.3
    assert summary["accuracy"] == pytest.approx((decisions == MULTI_HOT).mean(), rel=1e-12)
    assert summary["f_beta"] == samples_f_beta(decisions, MULTI_HOT, 2.0)
    assert summary["num_examples"] == 200
    p = label_probabilities(LOGITS)
    expected = -(MULTI_HOT * np.log(p) + (1 - MULTI_HOT) * np.log(1 - p)).mean()
    assert summary["loss"] == pytest.approx(expected, rel=1e-9)


# Uncertainty


def test_standard_errors_are_the_spread_of_repeated_experiments():
    drawn = np.random.default_rng(1).random((2000, 400)) < 0.8
    spread = drawn.mean(1).std()
    assert metrics.accuracy_standard_error(0.8, 400) == pytest.approx(spread, rel=0.05)
    errors = [metrics.mean_and_standard_error(row).standard_error for row in drawn[:50]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.05)


def test_standard_error_of_two_values():
    assert metrics.mean_and_standard_error([1.0, 3.0]) == (2.0, 1.0)


def test_pairing_removes_what_both_share():
    generator = np.random.default_rng(2)
    shared = generator.exponential(1.0, 500)
    first, second = shared + 0.02 + generator.normal(0, 0.05, 500), shared + generator.normal(0, 0.05, 500)
    difference = metrics.mean_and_standard_error(first - second)
    assert difference.standard_error < 0.1 * metrics.mean_and_standard_error(first).standard_error


# What is refused


@pytest.mark.parametrize("function", SINGLE_LABEL)
def test_unlabelled_diverged_and_multi_hot_sets_are_refused(function):
    one_unknown = np.where(np.arange(200) == 7, -1, LABELS)
    with pytest.raises(ValueError, match="no labels"):
        function(PREDICTIONS._replace(labels=one_unknown))
    with pytest.raises(ValueError, match="label 5 is not among the 5 classes"):
        function(PREDICTIONS._replace(labels=LABELS + 1))
    with pytest.raises(ValueError, match="row 0 are not finite"):
        function(PREDICTIONS._replace(logits=np.full_like(LOGITS, np.nan)))
    with pytest.raises(ValueError, match="not one class number per example"):
        function(SEVERAL._replace(multi_label=False))
    if function not in EITHER:
        with pytest.raises(ValueError, match="not one class number per example"):
            function(SEVERAL)


@pytest.mark.parametrize("function", [f for f in SINGLE_LABEL if f not in (confusion_matrix, example_losses)])
def test_empty_sets_are_refused(function):
    with pytest.raises(ValueError, match="empty"):
        function(PREDICTIONS.rows(slice(0)))


def test_unlabelled_sets_have_no_confusion_matrix():
    unlabelled = PREDICTIONS._replace(labels=np.full(200, -1, np.int32))
    with pytest.raises(ValueError, match="labels"):
        confusion_matrix(unlabelled)


NOTHING = np.zeros((0, 5))
BAD_CALLS = [
    (lambda: summarize(PREDICTIONS._replace(multi_label=True)), "say multi_label=False"),
    (lambda: summarize(SEVERAL._replace(labels=MULTI_HOT * 0.5)), "must be 0 or 1"),
    (lambda: summarize(SEVERAL._replace(logits=LOGITS * np.inf)), "not finite"),
    (lambda: summarize(SEVERAL.rows(slice(0))), "empty"),
    (lambda: summarize(SEVERAL._replace(threshold=1.5)), "threshold=1.5"),
    (lambda: summarize(SEVERAL._replace(threshold=np.zeros(3))), "one for each of 5 classes"),
    (lambda: summarize(SEVERAL, beta=0.0), "beta=0.0"),
    (lambda: top_k_accuracy(PREDICTIONS, 0), "k=0"),
    (lambda: figures(PREDICTIONS, k=0), "k=0"),
    (lambda: reliability_curve(PREDICTIONS, num_bins=0), "num_bins=0"),
    (lambda: metrics.balanced_accuracy(np.zeros((2, 2))), "empty"),
    (lambda: metrics.matthews(np.zeros((2, 3))), "of shape \\(2, 3\\)"),
    (lambda: metrics.average_f_beta(decision_counts(MULTI_HOT, MULTI_HOT), average="median"), "'median'"),
    (lambda: decision_counts(MULTI_HOT, MULTI_HOT[:3]), "do not fit"),
    (lambda: samples_f_beta(NOTHING, NOTHING), "empty"),
    (lambda: metrics.hamming_loss(NOTHING, NOTHING), "empty"),
    (lambda: search_threshold(NOTHING, NOTHING), "empty"),
    (lambda: search_threshold(LOGITS, MULTI_HOT), "not logits"),
    (lambda: search_threshold(PROBABILITIES, MULTI_HOT), "do not fit"),
    (lambda: search_threshold(PROBABILITIES, PROBABILITIES), "must be 0 or 1"),
    (lambda: search_threshold(PROBABILITIES, MULTI_HOT[:12], beta=-1), "beta=-1"),
    (lambda: metrics.roc_auc([], []), "empty"),
    (lambda: metrics.roc_auc([np.nan, 0.0], [0, 1]), "score number 0 is NaN"),
    (lambda: metrics.roc_auc([0.5], [0, 1]), "must both be"),
    (lambda: metrics.roc_auc_one_vs_rest(PREDICTIONS, average="micro"), "'micro'"),
    (lambda: classification_report(PREDICTIONS, CLASSES[:2]), "2 class names"),
    (lambda: metrics.accuracy_standard_error(1.1, 5), "accuracy=1.1"),
    (lambda: metrics.accuracy_standard_error(0.5, 0), "num_examples=0"),
    (lambda: metrics.mean_and_standard_error([1.0]), "at least two"),
    (lambda: metrics.mean_and_standard_error([1.0, np.nan]), "finite"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
