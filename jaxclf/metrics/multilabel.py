"""Several labels per picture: decisions by threshold, their figures, and the threshold itself."""

from typing import NamedTuple

import numpy as np

from jaxclf.metrics.confusion import average_f_beta, check_beta, decision_counts
from jaxclf.metrics.predictions import Threshold, check_not_empty

#: Scores closer than this are equal: far above the rounding of their sums, far below what a decision changes.
SAME = 1e-12


class ThresholdSearch(NamedTuple):
    """The best threshold (one, or float64 [c]) and the score it reaches on the data it was searched on."""

    threshold: Threshold
    score: float


def decide(probabilities: np.typing.ArrayLike, threshold: Threshold = 0.5) -> np.ndarray:
    """Labels whose probability reaches the threshold: float [n, c] -> bool [n, c].

    Raises:
      ValueError: for probabilities that are not [n, c] in [0, 1], or a threshold outside [0, 1] or of another length.

    >>> decide([[0.2, 0.5, 0.9]], 0.5).tolist()
    [[False, True, True]]
    """
    probabilities = _check_probabilities(probabilities)
    threshold = np.asarray(threshold, np.float64)
    if threshold.ndim > 1 or (threshold.ndim == 1 and len(threshold) != probabilities.shape[1]):
        raise ValueError(
            f"threshold of shape {threshold.shape} must be one number, or one for each of {probabilities.shape[1]} "
            "classes"
        )
    if not ((threshold >= 0.0) & (threshold <= 1.0)).all():
        raise ValueError(f"threshold={threshold.tolist()} must lie in [0, 1]")
    return probabilities >= threshold


def hamming_loss(decisions: np.ndarray, labels: np.ndarray) -> float:
    """Share of decisions, over all examples and classes, that are wrong. bool [n, c], multi-hot [n, c]."""
    check_not_empty(len(decisions))
    counts = decision_counts(decisions, labels)
    return float((counts.false_positives + counts.false_negatives).sum() / np.size(decisions))


def samples_f_beta(decisions: np.ndarray, labels: np.ndarray, beta: float = 1.0) -> float:
    """Mean over the examples of each one's F-beta; an example without labels and decisions counts 0.

    Args:
      decisions: bool [n, c].
      labels: multi-hot [n, c].
      beta: > 0.

    Raises:
      ValueError: for an empty set, different shapes or beta <= 0.

    >>> samples_f_beta(np.array([[True, True], [False, True]]), np.array([[1, 0], [0, 1]])).__round__(4)
    0.8333
    """
    return average_f_beta(decision_counts(decisions, labels, axis=1), beta, average="macro")


def search_threshold(
    probabilities: np.typing.ArrayLike, labels: np.typing.ArrayLike, *, beta: float = 2.0, per_class: bool = False
) -> ThresholdSearch:
    """The threshold with the best F-beta, found by trying every one that makes a difference.

    Only the order of a threshold among the probabilities matters, so m different probabilities leave m + 1 intervals
    to try (below each, and above all). Of equally good intervals the one nearest to 0.5 is taken, then the lower one;
    the threshold is 0.5 where the interval holds it, otherwise the interval's middle, away from every probability.

    Args:
      probabilities: float [n, c] in [0, 1], best of a validation set: the score is optimistic for the set searched on.
      labels: multi-hot [n, c].
      beta: > 0.
      per_class: search each class's own best F-beta instead of one threshold for the best samples F-beta. A class
        without labels scores 0 at every threshold.

    Returns:
      A threshold and its samples F-beta; or float64 [c] and its macro F-beta.

    Raises:
      ValueError: for an empty set, different shapes, labels other than 0 and 1, probabilities outside [0, 1], or
        beta <= 0.

    >>> search_threshold([[0.9, 0.3], [0.2, 0.1]], [[1, 1], [1, 0]], beta=1)
    ThresholdSearch(threshold=0.15000000000000002, score=1.0)
    """
    check_beta(beta)
    probabilities, labels = _check_probabilities(probabilities), np.asarray(labels)
    if probabilities.shape != labels.shape:
        raise ValueError(f"probabilities of shape {probabilities.shape} do not fit labels of shape {labels.shape}")
    check_not_empty(probabilities.size)
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("multi-hot labels must be 0 or 1: some are neither")
    if per_class:
        # A class's F-beta is the samples F-beta of one example whose labels are the column.
        columns = zip(probabilities.T, labels.T, strict=True)
        thresholds = np.array([_best_threshold(row[None], truth[None], beta) for row, truth in columns])
        counts = decision_counts(decide(probabilities, thresholds), labels)
        return ThresholdSearch(thresholds, average_f_beta(counts, beta, average="macro"))
    threshold = _best_threshold(probabilities, labels, beta)
    return ThresholdSearch(threshold, samples_f_beta(decide(probabilities, threshold), labels, beta))


def _best_threshold(probabilities: np.ndarray, labels: np.ndarray, beta: float) -> float:
    """The threshold with the largest sum over the rows of their F-beta."""
    # As the threshold sinks, decisions are taken one by one; each changes its own row's F-beta only.
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    found = np.cumsum(np.take_along_axis(labels, order, -1), axis=-1, dtype=np.float64)
    taken = np.arange(1, probabilities.shape[1] + 1)
    square = beta * beta
    scores = (1.0 + square) * found / (square * labels.sum(-1, keepdims=True, dtype=np.float64) + taken)
    changes = np.diff(scores, axis=-1, prepend=0.0).ravel()
    values = np.take_along_axis(probabilities, order, -1).ravel()
    ascending = np.argsort(values, kind="stable")
    # Taking everything from one value upwards gives the sum of the changes from there on.
    reached = np.cumsum(changes[ascending][::-1])[::-1]
    levels, first = np.unique(values[ascending], return_index=True)
    low, high, totals = np.append(0.0, levels), np.append(levels, 1.0), np.append(reached[first], 0.0)
    middle = (low + high) / 2.0
    # A threshold t selects what is >= t: an interval holds its upper end and not its lower one.
    middle = np.where(middle > low, middle, high)
    holds_half = (low < 0.5) & (high >= 0.5)
    middle = np.where(holds_half, 0.5, middle)
    best = totals >= totals.max() - SAME * len(probabilities)
    distance = np.where(best, np.abs(middle - 0.5), np.inf)
    return float(middle[distance.argmin()])


def _check_probabilities(probabilities: np.typing.ArrayLike) -> np.ndarray:
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities of shape {probabilities.shape} must be [n, c]")
    if not ((probabilities >= 0.0) & (probabilities <= 1.0)).all():
        raise ValueError("probabilities must lie in [0, 1]: give label_probabilities(logits), not logits")
    return probabilities
