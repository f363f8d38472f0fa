"""Temperature scaling: one number that makes probabilities mean what they say, judged on pictures it was not fit on."""

from typing import NamedTuple

import numpy as np

from jaxclf.data.order import epoch_order
from jaxclf.metrics.calibration import expected_calibration_error
from jaxclf.metrics.predictions import Predictions, check_labels, check_not_empty, example_losses, probabilities

#: The smallest and the largest temperature that is fit.
BOUNDS = (0.01, 100.0)
#: Relative precision of a temperature.
PRECISION = 1e-12


class CrossFit(NamedTuple):
    """A temperature, and what it brings on examples that took no part in finding it.

    Attributes:
      temperature: fit on all examples, or 1 where they do not determine it: the one to keep for pictures to come.
      at_bound: whether the fit ended at one of `BOUNDS`, and so did not determine it: see `fit_temperature`.
      fold_temperatures: float64 [num_folds], each fit on the other folds, or 1 likewise.
      folds: int32 [n], the fold that each example is in.
      predictions: the same examples with float64 logits / temperature of the example's own fold, so that every figure
        of them is of held-out examples.
      probabilities: float64 [n, c], of `predictions`.
      loss_before, loss_after: mean loss of the predictions as they were, and of the held-out calibrated ones.
      ece_before, ece_after: expected calibration errors, likewise (15 bins of equal width; of several labels over all
        their probabilities).
    """

    temperature: float
    at_bound: bool
    fold_temperatures: np.ndarray
    folds: np.ndarray
    predictions: Predictions
    probabilities: np.ndarray
    loss_before: float
    loss_after: float
    ece_before: float
    ece_after: float


def fit_temperature(predictions: Predictions) -> float:
    """The temperature T in `BOUNDS` with the smallest loss: the mean of -log softmax(logits / T)[label].

    With several labels it is the binary cross-entropy of sigmoid(logits / T).

    The loss is convex in b = 1 / T. Its derivative, the mean of (expected logit under p) - (label's logit), grows with
    b, so its zero is found by Newton's method kept between bounds, in float64.

    Where there is no minimum the bound that the loss falls towards is returned. If every label has the largest logit,
    any sharpening helps and T is the lower bound: the examples are too few, or too easy, to say how sure to be. If
    labels have logits below the average, it is the upper one. If all logits of every row are equal, T changes nothing,
    and is 1.

    Raises:
      ValueError: for no examples, labels that are unknown or of the other kind, or logits that are not finite.

    References: Guo et al., On Calibration of Modern Neural Networks, arXiv:1706.04599, 2017.

    >>> logits = np.repeat([[4.0, 0.0]], 4, axis=0)  # 98 % sure, and right 3 times out of 4
    >>> temperature = fit_temperature(Predictions(logits, np.array([0, 0, 0, 1]), np.arange(4)))
    >>> probabilities(logits / temperature)[0].round(6).tolist()
    [0.75, 0.25]
    """
    labels = predictions.labels
    check_not_empty(len(labels))
    check_labels(predictions)
    z = np.asarray(predictions.logits, np.float64)
    if predictions.multi_label:  # each label is a choice between 0 and its logit
        z = np.stack([np.zeros(z.size), z.reshape(-1)], axis=-1)
        labels = labels.reshape(-1).astype(np.int64)
    z = z - np.take_along_axis(z, labels[:, None], -1)  # the label's logit is 0
    if not z.any():
        return 1.0
    low, high = 1.0 / BOUNDS[1], 1.0 / BOUNDS[0]
    if _slope(z, low)[0] >= 0.0:
        return BOUNDS[1]
    if _slope(z, high)[0] <= 0.0:
        return BOUNDS[0]
    b = 1.0
    while high - low > PRECISION * b:
        slope, curvature = _slope(z, b)
        low, high = (b, high) if slope < 0.0 else (low, b)
        step = slope / curvature if curvature > 0.0 else np.inf
        if abs(step) <= 0.5 * PRECISION * b:
            break
        b = b - step if low < b - step < high else np.sqrt(low * high)
    return float(1.0 / b)


def cross_fit_temperature(predictions: Predictions, *, num_folds: int = 5, seed: int = 0) -> CrossFit:
    """Fits the temperature, and measures it on examples held out: each by the temperature fit on the other folds.

    In every fold it is the temperature that would be used, 1 where the other folds do not determine one.

    Folds are drawn without looking at labels, so an example's own label has no part in its calibrated probabilities.

    Args:
      predictions: of validation examples; not of those the classifier was trained on, where it is too sure.
      num_folds: 2 .. n.
      seed: of the folds, >= 0. They depend on it and on the order of `index` only, not on that of the rows.

    Raises:
      ValueError: for a number of folds outside these bounds, and as `fit_temperature`.
    """
    number = len(predictions.labels)
    if not 2 <= num_folds <= number:
        raise ValueError(f"num_folds={num_folds} must lie between 2 and the number of examples ({number})")
    fitted = fit_temperature(predictions)
    folds = np.empty(number, np.int32)
    folds[np.argsort(predictions.index, kind="stable")[epoch_order(seed, 0, number)]] = np.arange(number) % num_folds
    fold_temperatures = np.array(
        [_usable(fit_temperature(predictions.rows(folds != fold))) for fold in range(num_folds)]
    )
    held_out = predictions._replace(
        logits=np.asarray(predictions.logits, np.float64) / fold_temperatures[folds][:, None]
    )
    return CrossFit(
        temperature=_usable(fitted),
        at_bound=fitted in BOUNDS,
        fold_temperatures=fold_temperatures,
        folds=folds,
        predictions=held_out,
        probabilities=held_out.probabilities(),
        loss_before=float(example_losses(predictions).mean()),
        loss_after=float(example_losses(held_out).mean()),
        ece_before=expected_calibration_error(predictions),
        ece_after=expected_calibration_error(held_out),
    )


def _usable(fitted: float) -> float:
    """The temperature to use: at a bound the examples do not say what it should be (all of them right, for example)."""
    return 1.0 if fitted in BOUNDS else fitted


def _slope(z: np.ndarray, b: float) -> tuple[float, float]:
    """First and second derivative in b of the mean of logsumexp(b z): the mean of z under softmax(b z), and variance.

    With the label's logit subtracted from each row of z, that is the loss.
    """
    p = probabilities(b * z)
    mean = (p * z).sum(-1, keepdims=True)
    return float(mean.mean()), float((p * (z - mean) ** 2).sum(-1).mean())
