"""Losses per example, in float32. Masking, summing and dividing is the caller's, and happens once (`weighted_mean`).

Which loss applies is chosen by name, never guessed from the shape of the labels: `softmax_cross_entropy` takes class
numbers; `soft_cross_entropy`, `focal_loss` and everything from `make_loss` take targets [b, c], which
`targets_from_labels` makes of class numbers; the `sigmoid_*` losses take multi-hot targets [b, c].
"""

from jaxclf.training.losses.choice import (
    MULTI_LABEL_LOSSES,
    SINGLE_LABEL_LOSSES,
    Loss,
    balanced_class_weights,
    make_loss,
    masked_mean,
    targets_from_labels,
    weighted_mean,
)
from jaxclf.training.losses.functions import (
    focal_loss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    soft_cross_entropy,
    softmax_cross_entropy,
)

__all__ = [
    "MULTI_LABEL_LOSSES",
    "SINGLE_LABEL_LOSSES",
    "Loss",
    "balanced_class_weights",
    "focal_loss",
    "make_loss",
    "masked_mean",
    "sigmoid_cross_entropy",
    "sigmoid_focal_loss",
    "soft_cross_entropy",
    "softmax_cross_entropy",
    "targets_from_labels",
    "weighted_mean",
]
