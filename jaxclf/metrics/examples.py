"""Which pictures to look at: those with the largest losses, the surest right and wrong ones, the undecided ones."""

from typing import Literal, NamedTuple, get_args

import numpy as np

from jaxclf.metrics.multilabel import decide
from jaxclf.metrics.predictions import (
    Predictions,
    check_single_label,
    example_losses,
    log_probabilities,
    probabilities,
)

#: Figures that agree to so many decimals are equal: far above the rounding of their sums, which depends on the machine.
DECIMALS = 12
#: How undecided a classifier is: by its largest probability, by the lead of that over the next, or by all of them.
Uncertainty = Literal["confidence", "margin", "entropy"]


class Examples(NamedTuple):
    """Examples picked out of predictions, the most telling one first. All arrays have k rows.

    Attributes:
      row: int64 [k], the row of the predictions.
      index: int32 [k], the example's position in its data source.
      label: int32 [k], the actual class, -1 where it is not known; with several labels multi-hot float32 [k, c].
      predicted: int64 [k], the most probable class; with several labels the decisions, bool [k, c].
      loss: float64 [k], -log p(label) in nats, nan where the label is not known; with several labels the mean binary
        cross-entropy.
      probability: float64 [k], of the predicted class (that of the label is exp(-loss)); with several labels [k, c],
        of every class.
    """

    row: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # the field hides tuple.index, which nobody needs here
    label: np.ndarray
    predicted: np.ndarray
    loss: np.ndarray
    probability: np.ndarray


def top_losses(predictions: Predictions, k: int = 9) -> Examples:
    """The k examples with the largest losses: wrong labels, odd pictures, and what the classifier does not know.

    Args:
      predictions: of one label per example, or several.
      k: at most so many, >= 1.

    Returns:
      In order of decreasing loss; of equal ones the lower `index` comes first, whatever the order of the rows.

    Raises:
      ValueError: for a k below 1, unknown labels, or logits that are not finite.

    >>> logits = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    >>> top_losses(Predictions(logits, np.array([0, 0, 0]), np.array([7, 8, 9])), 2).index.tolist()
    [8, 9]
    """
    losses = example_losses(predictions)
    if not predictions.multi_label:
        return _pick(predictions, k, -losses)
    _check_k(k)
    rows = np.lexsort((predictions.index, np.round(-losses, DECIMALS)))[:k]
    picked = predictions.rows(rows)
    chosen = picked.probabilities()
    return Examples(rows, picked.index, picked.labels, decide(chosen, picked.threshold), losses[rows], chosen)


def most_correct(predictions: Predictions, k: int = 9, *, label: int | None = None) -> Examples:
    """The rightly classified examples with the largest probability of their label.

    Args:
      predictions: one label per example.
      k: at most so many, >= 1.
      label: class number; only examples that are of this class. None: of all classes.

    Returns:
      As `top_losses`, in order of increasing loss; fewer than k rows, or none, where there are no more.

    Raises:
      ValueError: as `top_losses`, and for a class that does not exist.
    """
    check_single_label(predictions)
    losses = example_losses(predictions)
    return _pick(predictions, k, losses, _of_class(predictions, label) & _right(predictions))


def most_incorrect(predictions: Predictions, k: int = 9, *, label: int | None = None) -> Examples:
    """The wrongly classified examples with the smallest probability of their label. As `most_correct`."""
    check_single_label(predictions)
    losses = example_losses(predictions)
    return _pick(predictions, k, -losses, _of_class(predictions, label) & ~_right(predictions))


def most_uncertain(
    predictions: Predictions, k: int = 9, *, label: int | None = None, by: Uncertainty = "confidence"
) -> Examples:
    """The examples between whose classes the classifier can decide least. Labels may be unknown.

    Args:
      predictions, k, label: as in `most_correct`.
      by: see `uncertainty`.

    Returns:
      As `top_losses`, in order of decreasing uncertainty.

    Raises:
      ValueError: as `most_correct` (but unknown labels are fine), and for another `by`.
    """
    return _pick(predictions, k, -uncertainty(predictions.logits, by=by), _of_class(predictions, label))


def uncertainty(logits: np.ndarray, *, by: Uncertainty = "confidence") -> np.ndarray:
    """How undecided each row of logits is; larger is less decided.

    With p the probabilities of c classes and p1 >= p2 the two largest:

    - "confidence": 1/c - p1. fast.ai takes two classes and the smallest |p - 1/2|, which is the same for either class;
      with more classes the largest probability stands for p. It never lies below 1/c, so |p1 - 1/c| = p1 - 1/c.
    - "margin": p2 - p1. The classifier hesitates between two classes, however sure it is that it is one of them.
    - "entropy": -sum p log p, in nats. It hesitates between many.

    All three put two classes in the same order.

    Args:
      logits: float [n, c].
      by: one of these.

    Returns:
      float64 [n], at its largest (0, 0 and log c) where all classes are equally probable.

    Raises:
      ValueError: for another `by`, or fewer than two classes by "margin".

    >>> uncertainty(np.log([[0.5, 0.25, 0.25]]), by="margin").tolist()
    [-0.25]
    """
    if by not in get_args(Uncertainty):
        raise ValueError(f"by={by!r} is not known; choose one of {', '.join(get_args(Uncertainty))}")
    logs = log_probabilities(logits)
    if by == "entropy":
        return -(np.exp(logs) * logs).sum(-1)
    if by == "confidence":
        return 1.0 / logs.shape[-1] - np.exp(logs.max(-1))
    if logs.shape[-1] < 2:
        raise ValueError("by='margin' needs two classes: there is no second one to compare with")
    second, first = np.moveaxis(np.sort(np.exp(logs), -1)[:, -2:], -1, 0)
    return second - first


def _right(predictions: Predictions) -> np.ndarray:
    return predictions.logits.argmax(-1) == predictions.labels


def _of_class(predictions: Predictions, label: int | None) -> np.ndarray:
    """Which rows are of a class: bool [n]."""
    num_classes = predictions.logits.shape[-1]
    if label is None:
        return np.ones(len(predictions.logits), bool)
    if not 0 <= label < num_classes:
        raise ValueError(f"label={label} is not the number of a class: there are classes 0 to {num_classes - 1}")
    return np.asarray(predictions.labels == label)


def _pick(predictions: Predictions, k: int, order: np.ndarray, allowed: np.ndarray | None = None) -> Examples:
    """The k allowed rows with the smallest `order`; of equal ones those with the lower index."""
    _check_k(k)
    known = np.asarray(predictions.labels) >= 0
    known_labels = predictions._replace(labels=np.where(known, predictions.labels, 0))
    check_single_label(known_labels)
    losses = example_losses(known_labels)
    losses = np.where(known, losses, np.nan)
    rows = np.lexsort((predictions.index, np.round(order, DECIMALS)))
    rows = rows[allowed[rows]][:k] if allowed is not None else rows[:k]
    predicted = predictions.logits[rows].argmax(-1)
    chosen = np.take_along_axis(probabilities(predictions.logits[rows]), predicted[:, None], -1)[:, 0]
    return Examples(rows, predictions.index[rows], predictions.labels[rows], predicted, losses[rows], chosen)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
