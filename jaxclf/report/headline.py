"""The top of the page, which answers in ten seconds: how good is it, where does it fail, what was done."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxclf._words import count, duration, loss_text, number, percent, percent_with_error
from jaxclf.metrics import (
    accuracy_standard_error,
    classification_report,
    confusion_matrix,
    decide,
    example_losses,
    mean_and_standard_error,
    most_confused,
)
from jaxclf.report.content import ReportContent
from jaxclf.run.outcome import TTA, final_with_views

#: Without a single mistake, the true error rate may be as large as this says, 19 times out of 20.
CONFIDENCE = 0.95


class Score(NamedTuple):
    """The figure to remember.

    Attributes:
      value: with its standard error, "93.2 ± 0.8 %".
      label: what it is, and on which pictures.
      optimistic: whether the same pictures picked rates and epochs.
      notes: sentences below it.
    """

    value: str
    label: str
    optimistic: bool
    notes: tuple[str, ...]


def score(content: ReportContent) -> Score | None:
    """The test score where there is a test split, else that of validation; None where neither is known.

    That of validation is with test-time augmentation where this lowered the loss; then those of plain pictures, which
    all other parts of the report are about, stand below it. The test part is judged plain.
    """
    test = content.summary.get("test") or {}
    on_test = test.get("accuracy") is not None and bool(test.get("num_examples"))
    figures = test if on_test else content.summary
    with_views = None if on_test else final_with_views(content.summary)
    accuracy = (figures if with_views is None else with_views).get("accuracy")
    if accuracy is None:
        return None
    number_of_pictures = int(figures["num_examples"] if on_test else figures.get("num_valid") or 0)
    notes = []
    error = None
    if content.multi_label:
        what = "of all decisions (picture by label) are right"
        error = None if on_test or with_views is not None else _decision_error(content)
        if figures.get("f_beta") is not None:
            notes.append(f"F2 {number(figures['f_beta'])} at threshold {number(content.threshold, 3)}")
    else:
        what = "accuracy"
        if number_of_pictures:
            error = accuracy_standard_error(float(accuracy), number_of_pictures)
            notes.append(_mistakes(float(accuracy), number_of_pictures))
        notes += _guessing(content)
    part = "test" if on_test else "validation"
    pictures = count(number_of_pictures, f"{part} picture") if number_of_pictures else f"the {part} pictures"
    value = percent_or_with_error(accuracy, error)
    if with_views is not None:
        what = f"{what}, with {TTA}"
        if figures.get("accuracy") is not None:
            notes.insert(0, _plain_figures(figures))
    if on_test and content.summary.get("accuracy") is not None:
        notes.append(
            f"on the validation pictures, which picked rates and epochs: {percent(content.summary['accuracy'])}"
        )
    return Score(value, f"{what}, on {pictures}", not on_test, tuple(notes))


def _plain_figures(summary: Mapping[str, Any]) -> str:
    """The figures without views, and what they are good for."""
    loss = "" if summary.get("loss") is None else f", loss {loss_text(summary['loss'])}"
    return (
        "jaxclf predict judges so with --tta; without, on plain pictures, which everything below is about: "
        f"{percent(summary['accuracy'])}{loss}"
    )


def _mistakes(accuracy: float, pictures: int) -> str:
    wrong = round((1.0 - accuracy) * pictures)
    if wrong:
        return f"{wrong:,} of {pictures:,} wrong"
    bound = 1.0 - (1.0 - CONFIDENCE) ** (1.0 / pictures)
    return f"none of {pictures:,} wrong; so few pictures rule out no error rate below {percent(bound)}"


def _guessing(content: ReportContent) -> list[str]:
    if content.judged is None:
        return []
    most = np.bincount(content.judged.labels).max() / len(content.judged.labels)
    return [f"always naming the most frequent class: {percent(float(most))}"]


def _decision_error(content: ReportContent) -> float | None:
    predictions = content.judged
    if predictions is None or len(predictions.labels) < 2:
        return None
    decisions = decide(predictions.probabilities(), predictions.threshold)
    return mean_and_standard_error((decisions == (predictions.labels > 0)).mean(-1)).standard_error


def percent_or_with_error(share: float | None, error: float | None) -> str:
    """A percentage, with its standard error where there is one; a dash where there is no share."""
    if share is not None and error:
        return percent_with_error(share, error)
    return percent(np.nan if share is None else share)


def loss_with_error(content: ReportContent) -> str:
    """The validation loss, with its standard error where there are predictions."""
    predictions = content.judged
    if predictions is None or len(predictions.labels) < 2:
        return number(content.summary.get("loss"))
    estimate = mean_and_standard_error(example_losses(predictions))
    return f"{estimate.mean:.4f} ± {estimate.standard_error:.4f}"


def failures(content: ReportContent) -> list[str]:
    """Where it fails: the most frequent confusions and the class that is worst off, in words."""
    predictions = content.judged
    if predictions is None:
        return []
    if content.multi_label:
        rows = classification_report(predictions, content.classes)
        worst = sorted((row for row in rows["classes"] if row["support"]), key=lambda row: row["f1"])[:3]
        return [
            f"{row['class']}: {percent(row['recall'])} of its {row['support']:,} found, "
            f"{percent(row['precision'])} of what is called so is right"
            for row in worst
        ]
    matrix = confusion_matrix(predictions)
    totals = matrix.sum(1)
    of_class = dict(zip(content.classes, totals.tolist(), strict=True))
    pairs = most_confused(matrix, content.classes)[:3]
    lines = [f"{actual} taken for {predicted}: {times:,} of {of_class[actual]:,}" for actual, predicted, times in pairs]
    present = np.flatnonzero(totals)
    recall = matrix.diagonal()[present] / totals[present]
    if len(present) and recall.min() < 1.0:
        worst_class = int(present[recall.argmin()])
        lines.append(f"worst class: {content.classes[worst_class]}, {percent(float(recall.min()))} found")
    return lines or ["not on these pictures: no mistake was made"]


def work(content: ReportContent) -> list[str]:
    """What was done, in a few lines."""
    summary, recipe = content.summary, content.recipe
    lines = []
    if recipe is not None:
        lines.append(f"{recipe.settings.arch} at {recipe.settings.image_size} pixels, {_weights(summary, recipe)}")
    if summary.get("num_train"):
        text = f"{count(int(summary['num_train']), 'training picture')}"
        lines.append(f"{text} of {count(len(content.classes), 'class', 'classes')}" if content.classes else text)
    steps = [str(step.get("name", "")) for step in summary.get("steps") or ()]
    if steps:
        names = " → ".join(steps if len(steps) <= 4 else [steps[0], "…", steps[-1]])
        lines.append(f"{count(len(steps), 'step')}: {names}")
    best, phases = summary.get("best"), [name for name in steps if name != TTA]
    if best and best in phases[:-1]:
        lines.append(f"it holds what {best} ended with: no later step was better")
    if summary.get("seconds") is not None:
        hardware = f" on {summary['hardware']}" if summary.get("hardware") else ""
        lines.append(f"{duration(summary['seconds'])}{hardware}")
    return lines


def _weights(summary: Any, recipe: Any) -> str:
    origin = str(summary.get("weights") or recipe.settings.weights)
    return "from scratch" if origin.startswith("none") else f"from {origin}"
