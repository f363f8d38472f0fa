import jax
import numpy as np
import pytest
from sklearn import metrics as sk

from jaxclf.analysis import confusion_matrix, most_confused
from jaxclf.losses import masked_mean, softmax_cross_entropy
from jaxclf.metrics import Predictions, accuracy, example_losses, probabilities, summarize

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(0, 3, (200, 5)).astype(np.float32)
LABELS = GENERATOR.integers(0, 5, 200).astype(np.int32)
PREDICTIONS = Predictions(LOGITS, LABELS, np.arange(200, dtype=np.int32))


def test_summary_agrees_with_scikit_learn():
    summary = summarize(PREDICTIONS)
    assert summary["accuracy"] == pytest.approx(sk.accuracy_score(LABELS, LOGITS.argmax(-1)), abs=1e-12)
    expected = sk.log_loss(LABELS, probabilities(LOGITS), labels=range(5))
    assert summary["loss"] == pytest.approx(expected, rel=1e-9)
    assert summary["num_examples"] == 200


def test_confusion_matrix_agrees_with_scikit_learn():
    matrix = confusion_matrix(PREDICTIONS)
    np.testing.assert_array_equal(matrix, sk.confusion_matrix(LABELS, LOGITS.argmax(-1)))
    pairs = most_confused(matrix, tuple("abcde"), min_count=5)
    assert all(count >= 5 and actual != predicted for actual, predicted, count in pairs)
    assert [count for *_, count in pairs] == sorted((count for *_, count in pairs), reverse=True)
    assert sum(count for *_, count in most_confused(matrix, tuple("abcde"))) == matrix.sum() - np.trace(matrix)


def test_probabilities_survive_large_logits():
    np.testing.assert_allclose(probabilities(np.array([[1e4, 0.0], [-1e4, 0.0]])), [[1, 0], [0, 1]])


def test_training_loss_equals_the_reported_one():
    np.testing.assert_allclose(softmax_cross_entropy(LOGITS, LABELS), example_losses(PREDICTIONS), rtol=2e-5, atol=1e-6)


def test_label_smoothing_is_the_soft_target_formula():
    target = np.full((200, 5), 0.1 / 5)
    target[np.arange(200), LABELS] += 0.9
    expected = -(target * np.log(probabilities(LOGITS))).sum(-1)
    np.testing.assert_allclose(softmax_cross_entropy(LOGITS, LABELS, label_smoothing=0.1), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="label_smoothing=1"):
        softmax_cross_entropy(LOGITS, LABELS, label_smoothing=1.0)


def test_masked_mean_ignores_what_is_masked():
    values = np.array([1.0, 2.0, np.inf], np.float32)
    assert masked_mean(values[:2], np.array([1.0, 0.0])) == 1.0
    assert masked_mean(values[:2], np.zeros(2)) == 0.0
    gradient = jax.grad(lambda v: masked_mean(v, np.array([1.0, 1.0, 0.0])))(values[:2].repeat(2)[:3])
    np.testing.assert_allclose(gradient, [0.5, 0.5, 0.0])


def test_unlabelled_and_empty_sets_are_refused():
    unlabelled = PREDICTIONS._replace(labels=np.full(200, -1, np.int32))
    for function in (summarize, confusion_matrix):
        with pytest.raises(ValueError, match="labels"):
            function(unlabelled)
    with pytest.raises(ValueError, match="empty"):
        summarize(Predictions(LOGITS[:0], LABELS[:0], LABELS[:0]))


def test_ties_go_to_the_lower_class():
    assert accuracy(Predictions(np.zeros((2, 3)), np.array([0, 1]), np.arange(2))) == 0.5
