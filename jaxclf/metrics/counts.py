"""Sums and counts that add up over batches, shards and machines, and are divided once, at the end."""

from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxclf.metrics.predictions import Predictions, check_single_label, example_losses

T = TypeVar("T", "BinaryCounts", "Sums")


class BinaryCounts(NamedTuple):
    """Right and wrong decisions of each of k yes-or-no questions, all int64 [k]; usually one question per class."""

    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray
    true_negatives: np.ndarray


class Sums(NamedTuple):
    """What the figures of a data set with one label per example are made of.

    Attributes:
      confusion: int64 [c, c], examples of (actual, predicted) class; rows are the actual classes.
      ranks: int64 [c], examples whose label has rank 0 (the largest logit), 1, ...; see `label_ranks`.
      loss: float64 [], the sum of -log p(label).
    """

    confusion: np.ndarray
    ranks: np.ndarray
    loss: np.ndarray


def merge(first: T, *others: T) -> T:
    """Adds up the `Sums` or `BinaryCounts` of disjoint sets of examples, field by field.

    Counts are integers, so their sums do not depend on order or grouping at all; the sum of the losses depends on it
    by float64 rounding only.

    Raises:
      ValueError: for parts of different kinds or numbers of classes.

    >>> part = BinaryCounts(*np.array([[1], [0], [2], [3]]))
    >>> merge(part, part).false_negatives.tolist()
    [4]
    """
    shapes = [np.shape(field) for field in first]
    for other in others:
        if type(other) is not type(first) or [np.shape(field) for field in other] != shapes:
            raise ValueError(
                f"cannot merge {type(first).__name__} of shape {shapes[0]} with {type(other).__name__} of shape "
                f"{np.shape(other[0])}: they count different classes"
            )
    return type(first)(*(_add(fields) for fields in zip(first, *others, strict=True)))


def sums(predictions: Predictions, *, mask: np.typing.ArrayLike | None = None) -> Sums:
    """Counts a batch or a whole data set with one label per example.

    Args:
      predictions: n rows; none at all is fine here.
      mask: [n], 0 for rows that are padding, whatever they hold; `None` counts all.

    Raises:
      ValueError: for unknown labels or logits that are not finite, in a row that counts.
    """
    if mask is not None:
        keep = np.asarray(mask) > 0
        predictions = predictions.rows(keep)
    check_single_label(predictions)
    losses = example_losses(predictions)
    logits, labels = predictions.logits, predictions.labels
    num_classes = logits.shape[1]
    return Sums(
        confusion_counts(logits.argmax(-1), labels, num_classes),
        np.bincount(label_ranks(logits, labels), minlength=num_classes).astype(np.int64),
        np.asarray(losses.sum()),
    )


def confusion_counts(predicted: np.typing.ArrayLike, labels: np.typing.ArrayLike, num_classes: int) -> np.ndarray:
    """Counts of (actual, predicted): class numbers int [n] and int [n] -> int64 [c, c], rows are the actual classes.

    Raises:
      ValueError: for a number outside 0 .. c - 1, -1 (unknown) included.

    >>> confusion_counts([0, 1, 0], [0, 1, 1], 2).tolist()
    [[1, 0], [1, 1]]
    """
    predicted, labels = np.asarray(predicted, np.int64), np.asarray(labels, np.int64)
    for name, numbers in (("predicted", predicted), ("labels", labels)):
        if numbers.size and (numbers.min() < 0 or numbers.max() >= num_classes):
            raise ValueError(f"{name} holds {numbers.min()} to {numbers.max()}; classes are 0 to {num_classes - 1}")
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


def label_ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the label: int64 [n]. Larger logits do, and of equal ones the lower class numbers.

    So rank 0 is what `argmax` picks.
    """
    own = np.take_along_axis(logits, labels[:, None], -1)
    lower = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & lower)).sum(-1)


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


def _add(fields: tuple[Any, ...]) -> np.ndarray:
    return np.asarray(sum(fields[1:], start=fields[0]))
