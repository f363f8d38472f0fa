"""Whether probabilities mean what they say: of the pictures at 80 %, are 80 % right?"""

from typing import NamedTuple

import numpy as np

from jaxclf.metrics.predictions import Predictions, check_labels, check_not_empty


class ReliabilityCurve(NamedTuple):
    """Confidence against accuracy, bin by bin.

    Attributes:
      edges: float64 [bins + 1], from 0 to 1; bin k holds edges[k] < confidence <= edges[k + 1], and the first one also
        0 itself.
      counts: int64 [bins], examples per bin.
      confidence, accuracy: float64 [bins], their means per bin; nan where a bin is empty.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability_curve(predictions: Predictions, *, num_bins: int = 15) -> ReliabilityCurve:
    """Sorts decisions by confidence into bins of equal width.

    Args:
      predictions: of one label per example: a decision is the most probable class, with its probability. Of several:
        a decision is each label of each example, with its probability, and right where the label is there.
      num_bins: >= 1.

    Raises:
      ValueError: for an empty set, labels that are unknown or of the other kind, logits that are not finite, or no bin.

    >>> logits = np.log([[0.6, 0.4], [0.1, 0.9], [0.1, 0.9]])
    >>> reliability_curve(Predictions(logits, np.array([0, 1, 0]), np.arange(3)), num_bins=4).accuracy.tolist()
    [nan, nan, 1.0, 0.5]
    """
    check_not_empty(len(predictions.labels))
    check_labels(predictions)
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins} must be at least 1")
    chances = np.minimum(predictions.probabilities(), 1.0)  # a sum of roundings may pass it
    if predictions.multi_label:
        confidence, correct = chances.reshape(-1), predictions.labels.reshape(-1) > 0
    else:
        confidence, correct = chances.max(-1), predictions.logits.argmax(-1) == predictions.labels
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(bins, minlength=num_bins).astype(np.int64)
    empty = np.where(counts > 0, 1.0, np.nan)
    sums = (np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, correct))
    return ReliabilityCurve(edges, counts, *(total / np.maximum(counts, 1) * empty for total in sums))


def calibration_error(curve: ReliabilityCurve) -> float:
    """Mean of |accuracy - confidence| over the bins, each weighing its share of the decisions: in [0, 1]."""
    filled = curve.counts > 0
    gaps = np.abs(curve.accuracy - curve.confidence)[filled]
    return float((gaps * curve.counts[filled]).sum() / curve.counts.sum())


def expected_calibration_error(predictions: Predictions, *, num_bins: int = 15) -> float:
    """`calibration_error` of `reliability_curve`. A biased estimate: small sets and many bins make it larger.

    References: Naeini et al., 2015; Guo et al., arXiv:1706.04599, 2017 (15 bins of equal width).
    """
    return calibration_error(reliability_curve(predictions, num_bins=num_bins))
