"""Figures of predictions with one label per example, each agreeing with scikit-learn's.

All raise ValueError for an empty set, unknown or several labels, or logits that are not finite.
"""

import math

import numpy as np

from jaxclf.metrics.confusion import (
    average_f_beta,
    balanced_accuracy,
    confusion_matrix,
    matthews,
    one_vs_rest_counts,
)
from jaxclf.metrics.predictions import Predictions, check_not_empty, check_single_label, example_losses, probabilities


def accuracy(predictions: Predictions) -> float:
    """Share of examples whose largest logit is the label's (ties go to the lower class number)."""
    _check(predictions)
    return float(np.mean(predictions.logits.argmax(-1) == predictions.labels))


def error_rate(predictions: Predictions) -> float:
    """1 - `accuracy`."""
    return 1.0 - accuracy(predictions)


def top_k_accuracy(predictions: Predictions, k: int = 5) -> float:
    """Share of examples whose label is among the k largest logits (of equal ones the lower class numbers come first).

    Raises:
      ValueError: for a k below 1. A k of c or more gives 1.

    >>> predictions = Predictions(np.array([[3.0, 2.0, 1.0]]), np.array([1]), np.array([0]))
    >>> top_k_accuracy(predictions, 1), top_k_accuracy(predictions, 2)
    (0.0, 1.0)
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    _check(predictions)
    logits, labels = predictions.logits, predictions.labels[:, None]
    own = np.take_along_axis(logits, labels, -1)
    before = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels))
    return float(np.mean(before.sum(-1) < k))


def log_loss(predictions: Predictions) -> float:
    """Mean of -log p(label), in nats; from the logits, so that no probability is clipped."""
    _check(predictions)
    return float(example_losses(predictions).mean())


def figures(predictions: Predictions, *, k: int = 5) -> dict[str, float]:
    """`top_k_accuracy`, `balanced_accuracy`, `macro_f1` and `matthews`: what a report shows beside loss and accuracy.

    Args:
      predictions: of one label per example.
      k: of the top-k accuracy.
    """
    top_k = top_k_accuracy(predictions, k)
    confusion = confusion_matrix(predictions)
    return {
        "top_k_accuracy": top_k,
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": average_f_beta(one_vs_rest_counts(confusion), average="macro"),
        "matthews": matthews(confusion),
    }


def roc_auc(scores: np.typing.ArrayLike, positives: np.typing.ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive scores higher than a negative, ties counting one half.

    Exact, by ranks: (R - p (p + 1) / 2) / (p q) with R the sum of the p positives' mid-ranks among all p + q scores.

    Args:
      scores: float [n], higher for a positive; no NaN.
      positives: bool or 0/1 [n].

    Returns:
      In [0, 1]; nan (undefined, as in scikit-learn) unless there are both positives and negatives.

    Raises:
      ValueError: for an empty set, different lengths, or a score that is NaN.

    References: Hanley and McNeil, 1982.

    >>> roc_auc([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1])
    0.875
    """
    scores, positives = np.asarray(scores, np.float64), np.asarray(positives).astype(bool)
    if scores.ndim != 1 or scores.shape != positives.shape:
        raise ValueError(f"scores of shape {scores.shape} and positives of shape {positives.shape} must both be [n]")
    check_not_empty(len(scores))
    if np.isnan(scores).any():
        raise ValueError(f"score number {np.isnan(scores).argmax()} is NaN: it has no place in an order")
    num_positives = int(positives.sum())
    num_negatives = len(positives) - num_positives
    if num_positives == 0 or num_negatives == 0:
        return math.nan
    _, groups, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(sizes) - (sizes - 1) / 2
    rank_sum = mid_ranks[groups][positives].sum()
    return float((rank_sum - num_positives * (num_positives + 1) / 2) / (num_positives * num_negatives))


def roc_auc_one_vs_rest(predictions: Predictions, *, average: str = "macro") -> float:
    """The mean over the classes of the area under the ROC curve of "this class or another", by softmax probability.

    Args:
      predictions: one label per example.
      average: "macro" is the plain mean; "weighted" weighs each class by its examples.

    Returns:
      In [0, 1]. Classes whose area is undefined, having no examples or all of them, are left out; nan if all are.

    Raises:
      ValueError: for an unknown average.
    """
    if average not in ("macro", "weighted"):
        raise ValueError(f"average={average!r} is not known; choose one of macro, weighted")
    _check(predictions)
    truth = predictions.labels[:, None] == np.arange(predictions.logits.shape[1])
    areas = np.array([roc_auc(*pair) for pair in zip(probabilities(predictions.logits).T, truth.T, strict=True)])
    defined = np.isfinite(areas)
    if not defined.any():
        return math.nan
    return float(np.average(areas[defined], weights=truth.sum(0)[defined] if average == "weighted" else None))


def _check(predictions: Predictions) -> None:
    check_not_empty(len(predictions.labels))
    check_single_label(predictions)
