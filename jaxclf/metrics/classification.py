"""Figures of decisions. From a confusion matrix or counts, which add up over batches; each divides once.

All agree with scikit-learn when it is told of all c classes (`labels=range(c)`) and `zero_division=0`.
"""

import math

import numpy as np

from jaxclf.metrics.counts import BinaryCounts, label_ranks
from jaxclf.metrics.predictions import Predictions, check_not_empty, check_single_label, example_losses

AVERAGES = ("micro", "macro", "weighted")


def accuracy(predictions: Predictions) -> float:
    """Share of examples whose largest logit is the label's (ties go to the lower class number).

    Raises:
      ValueError: for an empty set, unknown labels, or logits that are not finite.
    """
    _check(predictions)
    return float(np.mean(predictions.logits.argmax(-1) == predictions.labels))


def error_rate(predictions: Predictions) -> float:
    """1 - `accuracy`."""
    return 1.0 - accuracy(predictions)


def top_k_accuracy(predictions: Predictions, k: int = 5) -> float:
    """Share of examples whose label is among the k largest logits (of equal ones the lower class numbers come first).

    Raises:
      ValueError: as `accuracy`, and for a k below 1. A k of c or more gives 1.

    >>> predictions = Predictions(np.array([[3.0, 2.0, 1.0]]), np.array([1]), np.array([0]))
    >>> top_k_accuracy(predictions, 1), top_k_accuracy(predictions, 2)
    (0.0, 1.0)
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    _check(predictions)
    return float(np.mean(label_ranks(predictions.logits, predictions.labels) < k))


def log_loss(predictions: Predictions) -> float:
    """Mean of -log p(label), in nats; from the logits, so that no probability is clipped. Raises as `accuracy`."""
    _check(predictions)
    return float(example_losses(predictions).mean())


def precision(counts: BinaryCounts) -> np.ndarray:
    """Of what was said to be the class, the share that is: tp / (tp + fp), float64 [k]; 0 where nothing was said."""
    return _ratio(counts.true_positives, counts.true_positives + counts.false_positives)


def recall(counts: BinaryCounts) -> np.ndarray:
    """Of what is the class, the share that was found: tp / (tp + fn), float64 [k]; 0 where there is none."""
    return _ratio(counts.true_positives, counts.true_positives + counts.false_negatives)


def f_beta(counts: BinaryCounts, beta: float = 1.0) -> np.ndarray:
    """Weighted harmonic mean of precision and recall: (1 + b^2) tp / ((1 + b^2) tp + b^2 fn + fp).

    Args:
      counts: of k questions, from `one_vs_rest_counts` or `decision_counts`.
      beta: > 0; 2 values recall over precision, 0.5 the other way round.

    Returns:
      float64 [k], 0 where there is neither a label nor a decision.

    Raises:
      ValueError: for beta <= 0.

    >>> f_beta(BinaryCounts(*np.array([[2], [1], [1], [6]]))).round(4).tolist()
    [0.6667]
    """
    check_beta(beta)
    square = beta * beta
    right = (1.0 + square) * counts.true_positives
    return _ratio(right, right + square * counts.false_negatives + counts.false_positives)


def average_f_beta(counts: BinaryCounts, beta: float = 1.0, *, average: str = "macro") -> float:
    """F-beta of all classes as one number.

    Args:
      counts: per class. Per example (`decision_counts(..., axis=1)`), "macro" is the samples average.
      beta: as in `f_beta`.
      average: "micro" adds up the counts first; "macro" is the plain mean over the classes, absent ones included;
        "weighted" weighs each class by its number of labels, 0 where there are none.

    Raises:
      ValueError: for an unknown average, beta <= 0 or counts of no class.
    """
    if average not in AVERAGES:
        raise ValueError(f"average={average!r} is not known; choose one of {', '.join(AVERAGES)}")
    check_not_empty(len(counts.true_positives))
    if average == "micro":
        counts = BinaryCounts(*(field.sum(keepdims=True) for field in counts))
    support = counts.true_positives + counts.false_negatives
    return _average(f_beta(counts, beta), support if average == "weighted" else np.ones_like(support))


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Mean recall over the classes that have examples.

    Args:
      confusion: int64 [c, c], rows are the actual classes (`confusion_counts`).

    Raises:
      ValueError: for a matrix without examples.

    >>> balanced_accuracy(np.array([[8, 2], [0, 0]])), balanced_accuracy(np.array([[8, 2], [1, 1]]))
    (0.8, 0.65)
    """
    actual = _check_confusion(confusion).sum(1)
    present = actual > 0
    return float((np.diag(confusion)[present] / actual[present]).mean())


def cohen_kappa(confusion: np.ndarray, *, weights: str | None = None) -> float:
    """Agreement beyond chance: 1 - (observed / expected disagreement); 1 is perfect, 0 is chance.

    Args:
      confusion: int64 [c, c].
      weights: how bad a confusion of classes i and j is: `None` 1 for all, "linear" |i - j|, "quadratic" (i - j)^2
        (for classes that have an order).

    Returns:
      At most 1; nan where chance would never disagree (labels and decisions are all of one and the same class).

    Raises:
      ValueError: for a matrix without examples, or unknown weights.

    References: Cohen, 1960; Cohen, 1968 (weights).
    """
    confusion = _check_confusion(confusion)
    distance = np.abs(np.subtract.outer(np.arange(len(confusion)), np.arange(len(confusion)))).astype(np.float64)
    if weights not in (None, "linear", "quadratic"):
        raise ValueError(f"weights={weights!r} is not known; choose None, 'linear' or 'quadratic'")
    cost = {None: distance > 0, "linear": distance, "quadratic": distance**2}[weights]
    expected = np.outer(confusion.sum(1), confusion.sum(0)) / confusion.sum()
    disagreement = float((cost * expected).sum())
    return 1.0 - float((cost * confusion).sum()) / disagreement if disagreement > 0.0 else math.nan


def matthews(confusion: np.ndarray) -> float:
    """Matthews' correlation of labels and decisions, for any number of classes: in [-1, 1], 0 for chance.

    0 also where labels or decisions are all of one class, which has no correlation.

    Args:
      confusion: int64 [c, c].

    Raises:
      ValueError: for a matrix without examples.

    References: Matthews, 1975; Gorodkin, 2004 (more than two classes).
    """
    confusion = _check_confusion(confusion).astype(np.float64)
    number, actual, predicted = confusion.sum(), confusion.sum(1), confusion.sum(0)
    spread = (number**2 - actual @ actual) * (number**2 - predicted @ predicted)
    return float((np.trace(confusion) * number - actual @ predicted) / math.sqrt(spread)) if spread > 0.0 else 0.0


def check_beta(beta: float) -> None:
    """Raises ValueError unless `beta` is positive and finite."""
    if not (beta > 0.0 and math.isfinite(beta)):
        raise ValueError(f"beta={beta!r} must be positive and finite")


def _check(predictions: Predictions) -> None:
    check_not_empty(len(predictions.labels))
    check_single_label(predictions)


def _check_confusion(confusion: np.ndarray) -> np.ndarray:
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is [c, c], not of shape {confusion.shape}")
    check_not_empty(int(confusion.sum()))
    return confusion


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(whole), np.float64), where=whole > 0)


def _average(values: np.ndarray, weights: np.ndarray) -> float:
    total = weights.sum()
    return float((values * weights).sum() / total) if total > 0 else 0.0
