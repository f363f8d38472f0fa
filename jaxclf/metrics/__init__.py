"""Metrics as pure functions of `Predictions`: predict once, then count. Exact per epoch, in float64 on the host.

Figures that add up over batches are made of `Sums`, `BinaryCounts` or a confusion matrix, merged and divided once.
"""

from jaxclf.metrics.calibration import (
    ReliabilityCurve,
    brier,
    calibration_error,
    expected_calibration_error,
    prediction_reliability,
    reliability_curve,
)
from jaxclf.metrics.classification import (
    accuracy,
    average_f_beta,
    balanced_accuracy,
    cohen_kappa,
    error_rate,
    f_beta,
    log_loss,
    matthews,
    precision,
    recall,
    top_k_accuracy,
)
from jaxclf.metrics.comparison import Comparison, compare_predictions
from jaxclf.metrics.confusion import confusion_matrix, most_confused
from jaxclf.metrics.counts import (
    BinaryCounts,
    Sums,
    confusion_counts,
    decision_counts,
    label_ranks,
    merge,
    one_vs_rest_counts,
    sums,
)
from jaxclf.metrics.examples import (
    Examples,
    most_correct,
    most_incorrect,
    most_uncertain,
    top_losses,
    uncertainty,
)
from jaxclf.metrics.multilabel import (
    ThresholdSearch,
    decide,
    exact_match,
    hamming_loss,
    samples_f_beta,
    search_threshold,
)
from jaxclf.metrics.predictions import (
    Predictions,
    example_losses,
    label_probabilities,
    log_probabilities,
    probabilities,
)
from jaxclf.metrics.ranking import average_precision, roc_auc, roc_auc_one_vs_rest, roc_auc_per_class
from jaxclf.metrics.summary import classification_report, figures, summarize
from jaxclf.metrics.temperature import CrossFit, calibrated, cross_fit_temperature, fit_temperature
from jaxclf.metrics.uncertainty import Estimate, accuracy_standard_error, mean_and_standard_error, paired_difference

__all__ = [
    "BinaryCounts",
    "Comparison",
    "CrossFit",
    "Estimate",
    "Examples",
    "Predictions",
    "ReliabilityCurve",
    "Sums",
    "ThresholdSearch",
    "accuracy",
    "accuracy_standard_error",
    "average_f_beta",
    "average_precision",
    "balanced_accuracy",
    "brier",
    "calibrated",
    "calibration_error",
    "classification_report",
    "cohen_kappa",
    "compare_predictions",
    "confusion_counts",
    "confusion_matrix",
    "cross_fit_temperature",
    "decide",
    "decision_counts",
    "error_rate",
    "exact_match",
    "example_losses",
    "expected_calibration_error",
    "f_beta",
    "figures",
    "fit_temperature",
    "hamming_loss",
    "label_probabilities",
    "label_ranks",
    "log_loss",
    "log_probabilities",
    "matthews",
    "mean_and_standard_error",
    "merge",
    "most_confused",
    "most_correct",
    "most_incorrect",
    "most_uncertain",
    "one_vs_rest_counts",
    "paired_difference",
    "precision",
    "prediction_reliability",
    "probabilities",
    "recall",
    "reliability_curve",
    "roc_auc",
    "roc_auc_one_vs_rest",
    "roc_auc_per_class",
    "samples_f_beta",
    "search_threshold",
    "summarize",
    "sums",
    "top_k_accuracy",
    "top_losses",
    "uncertainty",
]
