"""What a model said about a data set, and the probabilities and losses that follow from it."""

from typing import NamedTuple

import numpy as np

#: From which probability on a label counts: one number for all classes, or float [c], one for each.
Threshold = float | np.ndarray


class Predictions(NamedTuple):
    """What a model said about a data set, one row per example, padding already removed.

    Attributes:
      logits: float32 [n, c].
      labels: int32 [n], -1 where the truth is not known; or, with `multi_label`, multi-hot float32 [n, c].
      index: int32 [n], the example's position in its data source.
      multi_label: whether an example can have several labels. Said by the data source, never guessed.
      threshold: with `multi_label`, from which probability on a label counts as given.
    """

    logits: np.ndarray
    labels: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # the field hides tuple.index, which nobody needs here
    multi_label: bool = False
    threshold: Threshold = 0.5

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored of them: `logits`, `labels` and `index`."""
        return {"logits": self.logits, "labels": self.labels, "index": self.index}

    def rows(self, chosen: np.ndarray | slice) -> "Predictions":
        """Some of the rows, by number or mask, in that order."""
        return self._replace(logits=self.logits[chosen], labels=self.labels[chosen], index=self.index[chosen])

    def probabilities(self) -> np.ndarray:
        """float64 [n, c]: softmax; with `multi_label`, the sigmoid of each logit."""
        return (label_probabilities if self.multi_label else probabilities)(self.logits)


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


def label_probabilities(logits: np.ndarray) -> np.ndarray:
    """sigmoid in float64, each class by itself: float [n, c] -> float64 [n, c].

    >>> label_probabilities(np.array([[0.0, -1e4]])).tolist()
    [[0.5, 0.0]]
    """
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, np.float64)))


def example_losses(predictions: Predictions) -> np.ndarray:
    """The loss of each example in nats, float64 [n].

    It is -log p(label); with several labels the binary cross-entropy, averaged over the classes.

    Raises:
      ValueError: as `check_labels`.
    """
    check_labels(predictions)
    if not predictions.multi_label:
        return -log_probabilities(predictions.logits)[np.arange(len(predictions.labels)), predictions.labels]
    logits, labels = np.asarray(predictions.logits, np.float64), np.asarray(predictions.labels, np.float64)
    return (labels * np.logaddexp(0.0, -logits) + (1.0 - labels) * np.logaddexp(0.0, logits)).mean(-1)


def check_labels(predictions: Predictions) -> None:
    """Refuses what has no figures: labels of another kind than `multi_label` says, or logits that are not finite."""
    (check_multi_label if predictions.multi_label else check_single_label)(predictions)


def check_single_label(predictions: Predictions) -> None:
    """Refuses what has no figures with one label per example.

    Raises:
      ValueError: for labels that are not int [n] or not among the classes, or logits that are not finite.
    """
    logits, labels = predictions.logits, predictions.labels
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels of type {labels.dtype} and shape {labels.shape} are not one class number per example; if they are "
            "multi-hot, say so with Predictions(..., multi_label=True), and use the figures of several labels"
        )
    _check_logits(logits, len(labels))
    if (labels < 0).any():
        raise ValueError("the data set has no labels, so there is no loss or accuracy to report; use predict instead")
    if (labels >= logits.shape[1]).any():
        raise ValueError(f"label {labels.max()} is not among the {logits.shape[1]} classes the model has logits for")


def check_multi_label(predictions: Predictions) -> None:
    """Refuses what has no figures with several labels per example.

    Raises:
      ValueError: for labels that are not 0 or 1, [n, c] like the logits, or logits that are not finite.
    """
    logits, labels = predictions.logits, predictions.labels
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels of shape {labels.shape} are not multi-hot for logits of shape {logits.shape}; for one class "
            "number per example say multi_label=False"
        )
    _check_logits(logits, len(labels))
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("multi-hot labels must be 0 or 1: some are neither")


def check_not_empty(number: int) -> None:
    """Raises ValueError for a set of no examples: nothing can be divided by their number."""
    if number == 0:
        raise ValueError("no predictions to summarize: the data set is empty")


def _check_logits(logits: np.ndarray, number: int) -> None:
    if logits.ndim != 2 or len(logits) != number:
        raise ValueError(f"logits of shape {logits.shape} do not belong to {number} labels: they must be [n, c]")
    bad = np.flatnonzero(~np.isfinite(logits).all(-1))
    if len(bad):
        raise ValueError(f"the logits of row {bad[0]} are not finite ({len(bad)} such rows): the model has diverged")
