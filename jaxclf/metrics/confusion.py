"""Which classes are taken for which."""

from collections.abc import Sequence

import numpy as np

from jaxclf.metrics.counts import confusion_counts
from jaxclf.metrics.predictions import Predictions


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """Counts of (actual, predicted): int64 [c, c], rows are the actual classes.

    >>> logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    >>> confusion_matrix(Predictions(logits, np.array([0, 1, 1]), np.arange(3))).tolist()
    [[1, 0], [1, 1]]

    Raises:
      ValueError: where a label is not known, or examples have several.
    """
    labels = np.asarray(predictions.labels)
    if labels.ndim != 1:
        raise ValueError(
            f"a confusion matrix needs one label per example, not labels of shape {labels.shape}; for several use "
            "jaxclf.metrics.decision_counts"
        )
    if (labels < 0).any():
        raise ValueError("a confusion matrix needs labels, and this data set has examples without")
    return confusion_counts(predictions.logits.argmax(-1), labels, predictions.logits.shape[1])


def most_confused(matrix: np.ndarray, classes: Sequence[str], *, min_count: int = 1) -> list[tuple[str, str, int]]:
    """The off-diagonal entries of a confusion matrix: (actual, predicted, count), most frequent first.

    >>> most_confused(np.array([[5, 2], [3, 9]]), ("cat", "dog"))
    [('dog', 'cat', 3), ('cat', 'dog', 2)]
    """
    pairs = [
        (classes[actual], classes[predicted], int(matrix[actual, predicted]))
        for actual, predicted in np.argwhere(matrix >= max(min_count, 1))
        if actual != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))
