"""Metrics as pure functions of `Predictions`: predict once, then count. Exact per epoch, in float64 on the host."""

from typing import NamedTuple

import numpy as np


class Predictions(NamedTuple):
    """What a model said about a data set, one row per example, padding already removed.

    Attributes:
      logits: float32 [n, c].
      labels: int32 [n]; -1 where the truth is not known.
      index: int32 [n], the example's position in its data source.
    """

    logits: np.ndarray
    labels: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # the field hides tuple.index, which nobody needs here


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log softmax in float64: float [n, c] -> float64 [n, c]."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def probabilities(logits: np.ndarray) -> np.ndarray:
    """softmax in float64: float [n, c] -> float64 [n, c], rows sum to 1.

    >>> probabilities(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    return np.exp(log_probabilities(logits))


def example_losses(predictions: Predictions) -> np.ndarray:
    """-log p(label) per example, float64 [n]."""
    return -log_probabilities(predictions.logits)[np.arange(len(predictions.labels)), predictions.labels]


def accuracy(predictions: Predictions) -> float:
    """Share of examples whose largest logit is the label's (ties go to the lower class number)."""
    return float(np.mean(predictions.logits.argmax(-1) == predictions.labels))


def summarize(predictions: Predictions) -> dict[str, float]:
    """`loss` (mean -log p of the label), `accuracy` and `num_examples`, from sums and counts over the whole set.

    Raises:
      ValueError: for an empty set or one with unknown labels.
    """
    if len(predictions.labels) == 0:
        raise ValueError("no predictions to summarize: the data set is empty")
    if (predictions.labels < 0).any():
        raise ValueError("the data set has no labels, so there is no loss or accuracy to report; use predict instead")
    return {
        "loss": float(example_losses(predictions).mean()),
        "accuracy": accuracy(predictions),
        "num_examples": len(predictions.labels),
    }
