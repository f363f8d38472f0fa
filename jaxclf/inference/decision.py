"""What a classifier says of one picture: from a row of probabilities to its class, or its labels."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Prediction(NamedTuple):
    """What a classifier says of a picture.

    Attributes:
      label: the class; of a multi-label classifier, the labels in one string, "|" between them, "" for none.
      probability: of the class; of a multi-label classifier, of its most probable label.
      probabilities: float64 [c], in the order of the classifier's `classes`.
      labels: the class as a tuple of one, or all labels whose probability reaches the threshold.
    """

    label: str
    probability: float
    probabilities: np.ndarray
    labels: tuple[str, ...]


def decide(
    probabilities: np.ndarray,
    classes: Sequence[str],
    *,
    multi_label: bool = False,
    threshold: float = 0.5,
    temperature: float = 1.0,
) -> Iterator[Prediction]:
    """One prediction per row of probabilities.

    Args:
      probabilities: float [n, c]: of softmax, or of sigmoids with `multi_label`.
      classes: c names.
      multi_label: every class whose probability reaches the threshold is a label, instead of the most probable one.
      threshold: in (0, 1), on the scale of temperature 1.
      temperature: what the logits were divided by; it moves the threshold too, see `calibrated_threshold`.

    >>> [found.label for found in decide(np.array([[0.3, 0.7], [0.6, 0.4]]), ("cat", "dog"))]
    ['dog', 'cat']
    >>> next(decide(np.array([[0.6, 0.7]]), ("cat", "dog"), multi_label=True)).label
    'cat|dog'
    """
    reached = calibrated_threshold(threshold, temperature)
    for row in np.asarray(probabilities, np.float64):
        best = int(row.argmax())
        chosen = np.flatnonzero(row >= reached).tolist() if multi_label else [best]
        labels = tuple(classes[number] for number in chosen)
        yield Prediction("|".join(labels), float(row[best]), row, labels)


def calibrated_threshold(threshold: float, temperature: float) -> float:
    """sigmoid(logit(threshold) / temperature): a threshold on calibrated probabilities that decides as before.

    A temperature says how sure to be, not what to decide, so the figures of an evaluation stay those of the labels.

    Raises:
      ValueError: for a threshold outside (0, 1), or a temperature that is not positive and finite.

    >>> calibrated_threshold(0.2, 1.0), calibrated_threshold(0.5, 3.0)
    (0.2, 0.5)
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"threshold={threshold!r} must lie between 0 and 1")
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature!r} must be positive and finite")
    if temperature == 1.0:
        return threshold
    return 1.0 / (1.0 + ((1.0 - threshold) / threshold) ** (1.0 / temperature))
