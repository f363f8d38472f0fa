"""How far a figure can be trusted: standard errors, and differences judged example by example."""

import math
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean and its standard error, in the same unit; the truth lies within two of them 19 times out of 20."""

    mean: float
    standard_error: float


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


def paired_difference(first: np.typing.ArrayLike, second: np.typing.ArrayLike) -> Estimate:
    """Mean of `first - second` over the same examples, and its standard error.

    What two models find hard alike cancels, so this sees differences that two separate figures hide. It knows of the
    choice of examples only, not of how a model would come out with another seed.

    Args:
      first, second: float [n], losses or 0/1 errors of two models on the same examples in the same order.

    Raises:
      ValueError: as `mean_and_standard_error`, and for different lengths.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"values of shapes {first.shape} and {second.shape} are not of the same examples")
    return mean_and_standard_error(first - second)
