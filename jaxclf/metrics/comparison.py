"""How far a figure can be trusted, and two models, or two steps of a run, judged on the same pictures one by one."""

import math
from typing import NamedTuple

import numpy as np

from jaxclf.metrics.multilabel import decide
from jaxclf.metrics.predictions import Predictions, example_losses


class Estimate(NamedTuple):
    """A mean and its standard error, in the same unit; the truth lies within two of them 19 times out of 20."""

    mean: float
    standard_error: float


class Comparison(NamedTuple):
    """What the second predictions have over the first, on the same examples.

    Attributes:
      loss: mean of loss(after) - loss(before) and its standard error; below 0 is better.
      accuracy: difference of the accuracies and its standard error, as shares; above 0 is better.
      mended, broken: examples that were wrong and are right, and the other way round.
      num_examples: of both.
    """

    loss: Estimate
    accuracy: Estimate
    mended: int
    broken: int
    num_examples: int


def accuracy_standard_error(accuracy: float, num_examples: int) -> float:
    """sqrt(a (1 - a) / n), the binomial standard error of a share; too small near 0 and 1, where it reaches 0.

    Raises:
      ValueError: for an accuracy outside [0, 1], or less than one example.

    >>> accuracy_standard_error(0.9, 100).__round__(6)
    0.03
    """
    if not 0.0 <= accuracy <= 1.0:
        raise ValueError(f"accuracy={accuracy!r} must lie in [0, 1]")
    if num_examples < 1:
        raise ValueError(f"num_examples={num_examples} must be at least 1")
    return math.sqrt(accuracy * (1.0 - accuracy) / num_examples)


def mean_and_standard_error(values: np.typing.ArrayLike) -> Estimate:
    """The mean, and s / sqrt(n) with s the standard deviation with n - 1.

    Args:
      values: float [n], n >= 2, of independent examples or runs.

    Raises:
      ValueError: for fewer than two values (one says nothing of the spread), or values that are not finite.

    >>> mean_and_standard_error([1.0, 3.0])
    Estimate(mean=2.0, standard_error=1.0)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a standard error needs at least two values [n], not an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("a standard error needs finite values, and some are not")
    return Estimate(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


def compare_predictions(before: Predictions, after: Predictions) -> Comparison:
    """The differences of two predictions of the same examples, image by image.

    What is hard for both cancels, so the standard errors are far below those of the two figures by themselves. A
    difference within two standard errors may be chance. They know of the choice of pictures only, not of how a run
    would have come out with another seed; and validation pictures that picked one of the two flatter it. With several
    labels an example is right where all of them are decided rightly.

    Args:
      before, after: in any order each; examples are matched by `index`.

    Raises:
      ValueError: for predictions of different examples or labels, an index that occurs twice, unknown labels, or fewer
        than two examples.

    >>> labels, index = np.array([0, 0]), np.arange(2)
    >>> before = Predictions(np.array([[0.0, 1.0], [1.0, 0.0]]), labels, index)
    >>> compare_predictions(before, before._replace(logits=np.array([[1.0, 0.0], [2.0, 0.0]]))).accuracy.mean
    0.5
    """
    before, after = _sorted(before, "before"), _sorted(after, "after")
    if before.index.shape != after.index.shape or (before.index != after.index).any():
        both = len(np.intersect1d(before.index, after.index))
        raise ValueError(
            f"before and after are not of the same examples: {len(before.index)} and {len(after.index)}, of which "
            f"{both} are in both; predict the same data set"
        )
    if before.labels.shape != after.labels.shape or (before.labels != after.labels).any():
        raise ValueError("before and after name different labels for the same examples: predict the same data set")
    losses = [example_losses(each) for each in (before, after)]
    right = [_right(each) for each in (before, after)]
    return Comparison(
        loss=mean_and_standard_error(losses[1] - losses[0]),
        accuracy=mean_and_standard_error(right[1].astype(np.float64) - right[0]),
        mended=int((right[1] & ~right[0]).sum()),
        broken=int((right[0] & ~right[1]).sum()),
        num_examples=len(before.index),
    )


def _sorted(predictions: Predictions, name: str) -> Predictions:
    ordered = predictions.rows(np.argsort(predictions.index, kind="stable"))
    twice = np.flatnonzero(np.diff(ordered.index) == 0)
    if len(twice):
        raise ValueError(f"{name} holds the example with index {ordered.index[twice[0]]} twice")
    return ordered


def _right(predictions: Predictions) -> np.ndarray:
    if predictions.multi_label:
        decisions = decide(predictions.probabilities(), predictions.threshold)
        return np.asarray((decisions == (predictions.labels > 0)).all(-1))
    return np.asarray(predictions.logits.argmax(-1) == predictions.labels)
