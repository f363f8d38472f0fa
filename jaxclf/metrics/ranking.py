"""Figures of an ordering: how well scores put the positives before the negatives, at every threshold at once."""

import math

import numpy as np

from jaxclf.metrics.predictions import Predictions, check_not_empty, check_single_label, probabilities

AVERAGES = ("macro", "weighted")


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
    scores, positives = _check_scores(scores, positives)
    num_positives = int(positives.sum())
    num_negatives = len(positives) - num_positives
    if num_positives == 0 or num_negatives == 0:
        return math.nan
    _, groups, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(sizes) - (sizes - 1) / 2
    rank_sum = mid_ranks[groups][positives].sum()
    return float((rank_sum - num_positives * (num_positives + 1) / 2) / (num_positives * num_negatives))


def average_precision(scores: np.typing.ArrayLike, positives: np.typing.ArrayLike) -> float:
    """sum_k (recall_k - recall_(k-1)) precision_k over the thresholds from high to low, equal scores together.

    Args:
      scores: float [n], higher for a positive; no NaN.
      positives: bool or 0/1 [n].

    Returns:
      In [0, 1]; 0 (as in scikit-learn) without positives.

    Raises:
      ValueError: as `roc_auc`.

    >>> average_precision([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1]).__round__(4)
    0.8333
    """
    scores, positives = _check_scores(scores, positives)
    if not positives.any():
        return 0.0
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each equal score
    found = np.cumsum(positives[order])[ends]
    return float((np.diff(found, prepend=0) * found / (ends + 1)).sum() / positives.sum())


def roc_auc_per_class(scores: np.typing.ArrayLike, labels: np.typing.ArrayLike) -> np.ndarray:
    """`roc_auc` of every class by itself: float64 [c], nan for a class that no example has, or all.

    Args:
      scores: float [n, c].
      labels: multi-hot [n, c].
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or scores.shape != labels.shape:
        raise ValueError(f"scores of shape {scores.shape} do not fit multi-hot labels of shape {labels.shape}")
    return np.array([roc_auc(scores[:, k], labels[:, k]) for k in range(scores.shape[1])], np.float64)


def roc_auc_one_vs_rest(predictions: Predictions, *, average: str = "macro") -> float:
    """The mean over the classes of the area under the ROC curve of "this class or another", by softmax probability.

    Args:
      predictions: one label per example.
      average: "macro" is the plain mean; "weighted" weighs each class by its examples.

    Returns:
      In [0, 1]. Classes whose area is undefined, having no examples or all of them, are left out; nan if all are.

    Raises:
      ValueError: for an empty set, unknown labels, logits that are not finite, or an unknown average.
    """
    if average not in AVERAGES:
        raise ValueError(f"average={average!r} is not known; choose one of {', '.join(AVERAGES)}")
    check_not_empty(len(predictions.labels))
    check_single_label(predictions)
    labels = predictions.labels[:, None] == np.arange(predictions.logits.shape[1])
    areas = roc_auc_per_class(probabilities(predictions.logits), labels)
    defined = np.isfinite(areas)
    if not defined.any():
        return math.nan
    weights = labels.sum(0)[defined] if average == "weighted" else None
    return float(np.average(areas[defined], weights=weights))


def _check_scores(scores: np.typing.ArrayLike, positives: np.typing.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    scores, positives = np.asarray(scores, np.float64), np.asarray(positives).astype(bool)
    if scores.ndim != 1 or scores.shape != positives.shape:
        raise ValueError(f"scores of shape {scores.shape} and positives of shape {positives.shape} must both be [n]")
    check_not_empty(len(scores))
    if np.isnan(scores).any():
        raise ValueError(f"score number {np.isnan(scores).argmax()} is NaN: it has no place in an order")
    return scores, positives
