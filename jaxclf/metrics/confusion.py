"""Right and wrong decisions, counted: which classes are taken for which, and the figures that divide the counts once.

All agree with scikit-learn when it is told of all c classes (`labels=range(c)`) and `zero_division=0`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxclf.metrics.predictions import Predictions, check_not_empty, check_single_label

AVERAGES = ("micro", "macro", "weighted")


class BinaryCounts(NamedTuple):
    """Right and wrong decisions of each of k yes-or-no questions, all int64 [k]; usually one question per class."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    true_negatives: np.ndarray

    @property
    def support(self) -> np.ndarray:
        """How often the answer is yes, int64 [k]."""
        return self.true_positives + self.false_negatives


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """Counts of (actual, predicted): int64 [c, c], rows are the actual classes. Those of disjoint sets add up.

    Raises:
      ValueError: as `check_single_label`.

    >>> logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    >>> confusion_matrix(Predictions(logits, np.array([0, 1, 1]), np.arange(3))).tolist()
    [[1, 0], [1, 1]]
    """
    check_single_label(predictions)
    num_classes = predictions.logits.shape[1]
    flat = predictions.labels.astype(np.int64) * num_classes + predictions.logits.argmax(-1)
    counts = np.bincount(flat, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def most_confused(matrix: np.ndarray, classes: Sequence[str], *, min_count: int = 1) -> list[tuple[str, str, int]]:
    """The off-diagonal entries of a confusion matrix: (actual, predicted, count), most frequent first.

    >>> most_confused(np.array([[5, 2], [3, 9]]), ("cat", "dog"))
    [('dog', 'cat', 3), ('cat', 'dog', 2)]
    """
    pairs = [
        (classes[actual], classes[predicted], int(matrix[actual, predicted]))
        for actual, predicted in np.argwhere(matrix >= max(min_count, 1))
        if actual != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def one_vs_rest_counts(confusion: np.ndarray) -> BinaryCounts:
    """Each class against all others: int64 [c, c] -> counts of c questions "is it this class?"."""
    right = np.diag(confusion)
    predicted, actual = confusion.sum(0), confusion.sum(1)
    return BinaryCounts(right, predicted - right, actual - right, confusion.sum() - predicted - actual + right)


def decision_counts(decisions: np.ndarray, labels: np.ndarray, *, axis: int = 0) -> BinaryCounts:
    """Counts of yes-or-no decisions, summed over one axis.

    Args:
      decisions: bool [n, c].
      labels: multi-hot [n, c].
      axis: 0 counts per class ([c]), 1 per example ([n]).

    Raises:
      ValueError: for different shapes.
    """
    decisions, labels = np.asarray(decisions, bool), np.asarray(labels) > 0
    if decisions.shape != labels.shape:
        raise ValueError(f"decisions of shape {decisions.shape} do not fit labels of shape {labels.shape}")
    cells = (decisions & labels, decisions & ~labels, ~decisions & labels, ~decisions & ~labels)
    return BinaryCounts(*(cell.sum(axis, dtype=np.int64) for cell in cells))


def precision(counts: BinaryCounts) -> np.ndarray:
    """Of what was said to be the class, the share that is: tp / (tp + fp), float64 [k]; 0 where nothing was said."""
    return _ratio(counts.true_positives, counts.true_positives + counts.false_positives)


def recall(counts: BinaryCounts) -> np.ndarray:
    """Of what is the class, the share that was found: tp / (tp + fn), float64 [k]; 0 where there is none."""
    return _ratio(counts.true_positives, counts.support)


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
    scores = f_beta(counts, beta)
    weights = counts.support if average == "weighted" else np.ones_like(counts.support)
    return float((scores * weights).sum() / max(weights.sum(), 1))


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Mean recall over the classes that have examples.

    Args:
      confusion: int64 [c, c], rows are the actual classes (`confusion_matrix`).

    Raises:
      ValueError: for a matrix without examples.

    >>> balanced_accuracy(np.array([[8, 2], [0, 0]])), balanced_accuracy(np.array([[8, 2], [1, 1]]))
    (0.8, 0.65)
    """
    actual = _check_confusion(confusion).sum(1)
    present = actual > 0
    return float((np.diag(confusion)[present] / actual[present]).mean())


def matthews(confusion: np.ndarray) -> float:
    """Matthews' correlation of labels and decisions, for any number of classes: in [-1, 1], 0 for chance.

    0 also where labels or decisions are all of one class, which has no correlation. Arguments and errors as
    `balanced_accuracy`.

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


def _check_confusion(confusion: np.ndarray) -> np.ndarray:
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is [c, c], not of shape {confusion.shape}")
    check_not_empty(int(confusion.sum()))
    return confusion


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(whole), np.float64), where=whole > 0)
