"""What a classifier gets right and wrong, and how far it can be trusted: pure functions of `Predictions`.

Everything here is arrays; `jaxclf.plots` draws them.
"""

from jaxclf.analysis.comparison import Comparison, compare_predictions
from jaxclf.analysis.confusion import confusion_matrix, most_confused
from jaxclf.analysis.examples import (
    Examples,
    most_correct,
    most_incorrect,
    most_uncertain,
    top_losses,
    uncertainty,
)
from jaxclf.analysis.temperature import CrossFit, calibrated, cross_fit_temperature, fit_temperature

__all__ = [
    "Comparison",
    "CrossFit",
    "Examples",
    "calibrated",
    "compare_predictions",
    "confusion_matrix",
    "cross_fit_temperature",
    "fit_temperature",
    "most_confused",
    "most_correct",
    "most_incorrect",
    "most_uncertain",
    "top_losses",
    "uncertainty",
]
