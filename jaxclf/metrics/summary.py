"""The figures of a data set as plain JSON values: a few for the record, and a row per class for the report."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxclf.metrics.classification import accuracy
from jaxclf.metrics.confusion import (
    average_f_beta,
    confusion_matrix,
    decision_counts,
    f_beta,
    one_vs_rest_counts,
    precision,
    recall,
)
from jaxclf.metrics.multilabel import decide, hamming_loss, samples_f_beta
from jaxclf.metrics.predictions import Predictions, check_labels, check_not_empty, example_losses


def summarize(predictions: Predictions, *, beta: float = 2.0) -> dict[str, float]:
    """`loss`, `accuracy` and `num_examples`, from sums and counts over the whole set.

    Args:
      predictions: of one label per example: then `loss` is the mean of -log p(label), `accuracy` the share of right
        classes. Or of several: then `loss` is the mean binary cross-entropy over examples and classes, `accuracy` the
        share of right decisions over examples and classes (1 - `hamming_loss`), and `f_beta` the samples F-beta.
      beta: of `f_beta`.

    Raises:
      ValueError: for an empty set, labels that are unknown or of the other kind, or logits that are not finite.
    """
    check_not_empty(len(predictions.labels))
    loss, number = float(example_losses(predictions).mean()), len(predictions.labels)
    if not predictions.multi_label:
        return {"loss": loss, "accuracy": accuracy(predictions), "num_examples": number}
    decisions = decide(predictions.probabilities(), predictions.threshold)
    return {
        "loss": loss,
        "accuracy": 1.0 - hamming_loss(decisions, predictions.labels),
        "f_beta": samples_f_beta(decisions, predictions.labels, beta),
        "num_examples": number,
    }


def classification_report(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Precision, recall, F1 and support of every class, and their averages, as JSON values.

    Args:
      predictions: of one label per example, or several.
      classes: names, one per logit.

    Returns:
      `classes`: a row per class, in order, with `class`, `precision`, `recall`, `f1`, `support` (labels of the class).
      `macro`, `weighted`: rows of the plain mean and of the mean by support. `accuracy`: of one label per example;
      with several, `micro` and `samples` F1 instead. `num_examples`.

    Raises:
      ValueError: as `summarize`, and for a wrong number of names.
    """
    check_not_empty(len(predictions.labels))
    if len(classes) != predictions.logits.shape[-1]:
        raise ValueError(f"{len(classes)} class names do not fit the logits of {predictions.logits.shape[-1]} classes")
    check_labels(predictions)
    if predictions.multi_label:
        decisions = decide(predictions.probabilities(), predictions.threshold)
        counts = decision_counts(decisions, predictions.labels)
        samples = samples_f_beta(decisions, predictions.labels)
        extra = {"micro": average_f_beta(counts, average="micro"), "samples": samples}
    else:
        counts = one_vs_rest_counts(confusion_matrix(predictions))
        extra = {"accuracy": accuracy(predictions)}
    columns = {"precision": precision(counts), "recall": recall(counts), "f1": f_beta(counts)}
    rows = [
        {"class": name, **{key: float(values[k]) for key, values in columns.items()}, "support": int(counts.support[k])}
        for k, name in enumerate(classes)
    ]
    total = int(counts.support.sum())
    shares = counts.support / total if total else np.zeros(len(counts.support))
    return {
        "classes": rows,
        "macro": {**{key: float(values.mean()) for key, values in columns.items()}, "support": total},
        "weighted": {**{key: float(values @ shares) for key, values in columns.items()}, "support": total},
        **extra,
        "num_examples": len(predictions.labels),
    }
