"""Agreement with scikit-learn, over random data with ties, absent classes and imbalance."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from jaxclf import metrics
from jaxclf.metrics import Predictions, probabilities

N, C = 60, 5
CLASSES = tuple("abcde")
CLOSE = {"abs": 1e-6}


@st.composite
def single_label(draw):
    """Logits on a coarse grid (ties) or fine, and labels that may leave classes out or be all alike."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shares = generator.dirichlet(np.full(C, draw(st.sampled_from([0.05, 0.5, 10.0]))))
    labels = generator.choice(C, N, p=shares).astype(np.int32)
    logits = generator.normal(0, 2, (N, C)) + 2 * np.eye(C)[labels]
    if draw(st.booleans()):
        logits = np.round(logits)
    return Predictions(logits.astype(np.float32), labels, np.arange(N))


@st.composite
def multi_label(draw):
    """(probabilities, multi-hot labels), with examples and classes that have no label."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shares = generator.beta(draw(st.sampled_from([0.1, 1.0])), 2.0, C)
    labels = (generator.random((N, C)) < shares).astype(np.float32)
    chances = np.clip(0.3 * labels + generator.random((N, C)) * 0.8, 0, 1)
    return (np.round(chances, 1) if draw(st.booleans()) else chances), labels


def quietly(function, *args, **kwargs):
    """scikit-learn warns of what it leaves undefined, which is what these cases are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


@given(single_label())
@settings(max_examples=40, deadline=None)
def test_figures_of_decisions(predictions):
    labels, decided = predictions.labels, predictions.logits.argmax(-1)
    confusion = metrics.confusion_matrix(predictions)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(labels, decided, labels=range(C)))
    assert metrics.accuracy(predictions) == pytest.approx(sk.accuracy_score(labels, decided), **CLOSE)
    assert metrics.error_rate(predictions) == pytest.approx(sk.zero_one_loss(labels, decided), **CLOSE)
    assert metrics.balanced_accuracy(confusion) == pytest.approx(
        quietly(sk.balanced_accuracy_score, labels, decided), **CLOSE
    )
    assert metrics.matthews(confusion) == pytest.approx(sk.matthews_corrcoef(labels, decided), **CLOSE)


@given(single_label(), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=30, deadline=None)
def test_precision_recall_and_f(predictions, beta):
    labels, decided = predictions.labels, predictions.logits.argmax(-1)
    counts = metrics.one_vs_rest_counts(metrics.confusion_matrix(predictions))
    cells = sk.multilabel_confusion_matrix(labels, decided, labels=range(C))
    np.testing.assert_array_equal(counts.true_negatives, cells[:, 0, 0])
    options = {"labels": range(C), "beta": beta, "zero_division": 0}
    precision, recall, score, support = sk.precision_recall_fscore_support(labels, decided, **options)
    np.testing.assert_allclose(metrics.precision(counts), precision, atol=1e-6)
    np.testing.assert_allclose(metrics.recall(counts), recall, atol=1e-6)
    np.testing.assert_allclose(metrics.f_beta(counts, beta), score, atol=1e-6)
    np.testing.assert_array_equal(counts.true_positives + counts.false_negatives, support)
    for average in ("micro", "macro", "weighted"):
        expected = sk.fbeta_score(labels, decided, average=average, **options)
        assert metrics.average_f_beta(counts, beta, average=average) == pytest.approx(expected, **CLOSE)


@given(single_label(), st.integers(1, C))
@settings(max_examples=30, deadline=None)
def test_figures_of_probabilities(predictions, k):
    labels, p = predictions.labels, probabilities(predictions.logits)
    assert metrics.log_loss(predictions) == pytest.approx(sk.log_loss(labels, p, labels=range(C)), **CLOSE)
    assert metrics.summarize(predictions)["loss"] == metrics.log_loss(predictions)
    # scikit-learn puts the higher class first where scores are equal, so it is shown the classes backwards.
    expected = quietly(sk.top_k_accuracy_score, C - 1 - labels, predictions.logits[:, ::-1], k=k, labels=range(C))
    assert metrics.top_k_accuracy(predictions, k) == pytest.approx(expected, **CLOSE)
    confidence, correct = p.max(-1), predictions.logits.argmax(-1) == labels
    curve = metrics.reliability_curve(predictions, num_bins=7)
    accuracy, mean = calibration_curve(correct, confidence, n_bins=7, pos_label=True)
    np.testing.assert_allclose(curve.accuracy[curve.counts > 0], accuracy, atol=1e-6)
    np.testing.assert_allclose(curve.confidence[curve.counts > 0], mean, atol=1e-6)


@given(single_label())
@settings(max_examples=30, deadline=None)
def test_areas_one_class_against_the_rest(predictions):
    p = probabilities(predictions.logits)
    multi_hot = predictions.labels[:, None] == np.arange(C)
    for k in range(C):
        expected = quietly(sk.roc_auc_score, multi_hot[:, k], p[:, k])
        assert metrics.roc_auc(p[:, k], multi_hot[:, k]) == pytest.approx(expected, nan_ok=True, **CLOSE)
    if multi_hot.any(0).all():  # otherwise scikit-learn has no answer
        for average in ("macro", "weighted"):
            expected = sk.roc_auc_score(predictions.labels, p, multi_class="ovr", average=average)
            assert metrics.roc_auc_one_vs_rest(predictions, average=average) == pytest.approx(expected, **CLOSE)


@given(multi_label(), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.2, 0.5]))
@settings(max_examples=30, deadline=None)
def test_several_labels(data, beta, threshold):
    p, labels = data
    decisions = metrics.decide(p, threshold)
    counts = metrics.decision_counts(decisions, labels)
    options = {"beta": beta, "zero_division": 0}
    assert metrics.samples_f_beta(decisions, labels, beta) == pytest.approx(
        sk.fbeta_score(labels, decisions, average="samples", **options), **CLOSE
    )
    for average in ("micro", "macro", "weighted"):
        expected = sk.fbeta_score(labels, decisions, average=average, **options)
        assert metrics.average_f_beta(counts, beta, average=average) == pytest.approx(expected, **CLOSE)
    assert metrics.hamming_loss(decisions, labels) == pytest.approx(sk.hamming_loss(labels, decisions), **CLOSE)
    for k in range(C):
        expected = quietly(sk.roc_auc_score, labels[:, k], p[:, k])
        assert metrics.roc_auc(p[:, k], labels[:, k]) == pytest.approx(expected, nan_ok=True, **CLOSE)


def assert_rows_agree(report, expected):
    found = {row["class"]: row for row in report["classes"]}
    for ours, theirs in [
        *((found[name], expected[name]) for name in CLASSES),
        (report["macro"], expected["macro avg"]),
        (report["weighted"], expected["weighted avg"]),
    ]:
        for key, other in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1", "f1-score"),
            ("support", "support"),
        ):
            assert ours[key] == pytest.approx(theirs[other], **CLOSE)
    assert json.loads(json.dumps(report)) == report


@given(single_label())
@settings(max_examples=15, deadline=None)
def test_report(predictions):
    report = metrics.classification_report(predictions, CLASSES)
    options = {"labels": range(C), "target_names": CLASSES, "output_dict": True, "zero_division": 0}
    expected = sk.classification_report(predictions.labels, predictions.logits.argmax(-1), **options)
    assert_rows_agree(report, expected)
    assert report["accuracy"] == metrics.accuracy(predictions)


@given(multi_label())
@settings(max_examples=15, deadline=None)
def test_multi_label_report(data):
    p, labels = data
    logits = np.log(np.clip(p, 0.01, 0.99)) - np.log1p(-np.clip(p, 0.01, 0.99))
    predictions = Predictions(logits, labels, np.arange(N), multi_label=True, threshold=0.33)
    report = metrics.classification_report(predictions, CLASSES)
    options = {"target_names": CLASSES, "output_dict": True, "zero_division": 0}
    expected = sk.classification_report(labels, p >= 0.33, **options)
    assert_rows_agree(report, expected)
    assert report["micro"] == pytest.approx(expected["micro avg"]["f1-score"], **CLOSE)
    assert report["samples"] == pytest.approx(expected["samples avg"]["f1-score"], **CLOSE)
