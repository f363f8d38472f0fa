"""Whether probabilities mean what they say: of the pictures at 80 %, are 80 % right?"""

from typing import NamedTuple

import numpy as np

from jaxclf.metrics.predictions import Predictions, check_not_empty, check_single_label, probabilities

STRATEGIES = ("width", "mass")


class ReliabilityCurve(NamedTuple):
    """Confidence against accuracy, bin by bin.

    Attributes:
      edges: float64 [bins + 1], from low to high; bin k holds edges[k] < confidence <= edges[k + 1], and the first
        one also edges[0] itself.
      counts: int64 [bins], examples per bin.
      confidence, accuracy: float64 [bins], their means per bin; nan where a bin is empty.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def brier(predictions: Predictions) -> float:
    """Mean squared distance of the probabilities from the one-hot truth, sum_k (p_k - y_k)^2: in [0, 2], 0 is perfect.

    For two classes this is twice the score of the second class's probability alone.

    Raises:
      ValueError: for an empty set, unknown labels, or logits that are not finite.

    References: Brier, 1950.

    >>> brier(Predictions(np.zeros((1, 2)), np.array([0]), np.array([0])))
    0.5
    """
    check_not_empty(len(predictions.labels))
    check_single_label(predictions)
    truth = predictions.labels[:, None] == np.arange(predictions.logits.shape[1])
    return float(((probabilities(predictions.logits) - truth) ** 2).sum(-1).mean())


def reliability_curve(
    confidence: np.typing.ArrayLike, correct: np.typing.ArrayLike, *, num_bins: int = 15, strategy: str = "width"
) -> ReliabilityCurve:
    """Sorts decisions into bins by confidence.

    Args:
      confidence: float [n] in [0, 1]: the largest probability; or, for several labels, each label's own, flattened.
      correct: bool or 0/1 [n]: whether the decision was right; or whether the label is there.
      num_bins: >= 1.
      strategy: "width" for bins of equal width on [0, 1]; "mass" for bins between quantiles of the confidence, which
        hold about equally many (equal confidences stay together, so some may be empty).

    Raises:
      ValueError: for an empty set, different lengths, confidences outside [0, 1], or unknown settings.

    >>> reliability_curve([0.2, 0.9, 0.9], [0, 1, 0], num_bins=2).accuracy.tolist()
    [0.0, 0.5]
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct).astype(bool)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(f"confidence of shape {confidence.shape} and correct of {correct.shape} must both be [n]")
    check_not_empty(len(confidence))
    if not ((confidence >= 0.0) & (confidence <= 1.0)).all():
        raise ValueError("confidence must lie in [0, 1]: give probabilities, not logits")
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins} must be at least 1")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} is not known; choose one of {', '.join(STRATEGIES)}")
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    if strategy == "mass":
        edges = np.quantile(confidence, edges)
    bins = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(bins, minlength=num_bins)
    means = [
        np.divide(
            np.bincount(bins, weights=values, minlength=num_bins),
            counts,
            out=np.full(num_bins, np.nan),
            where=counts > 0,
        )
        for values in (confidence, correct)
    ]
    return ReliabilityCurve(edges, counts.astype(np.int64), *means)


def calibration_error(curve: ReliabilityCurve) -> float:
    """Mean of |accuracy - confidence| over the bins, each weighing its share of the examples: in [0, 1]."""
    filled = curve.counts > 0
    gaps = np.abs(curve.accuracy - curve.confidence)[filled]
    return float((gaps * curve.counts[filled]).sum() / curve.counts.sum())


def expected_calibration_error(predictions: Predictions, *, num_bins: int = 15, strategy: str = "width") -> float:
    """`calibration_error` of the most probable classes. A biased estimate: small sets and many bins make it larger.

    Args:
      predictions: one label per example.
      num_bins, strategy: as in `reliability_curve`.

    Raises:
      ValueError: as `brier` and `reliability_curve`.

    References: Naeini et al., 2015; Guo et al., arXiv:1706.04599, 2017 (15 bins of equal width); Nguyen and O'Connor,
    2015 (equal mass).
    """
    return calibration_error(prediction_reliability(predictions, num_bins=num_bins, strategy=strategy))


def prediction_reliability(
    predictions: Predictions, *, num_bins: int = 15, strategy: str = "width"
) -> ReliabilityCurve:
    """`reliability_curve` of the most probable classes. Arguments and errors as `expected_calibration_error`."""
    check_not_empty(len(predictions.labels))
    check_single_label(predictions)
    confidence = np.minimum(probabilities(predictions.logits).max(-1), 1.0)
    correct = predictions.logits.argmax(-1) == predictions.labels
    return reliability_curve(confidence, correct, num_bins=num_bins, strategy=strategy)
