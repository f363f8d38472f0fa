"""The report's sections as plain values for the template; None where there is nothing to show."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxclf._words import count, duration, loss_text, number, percent, setting
from jaxclf.config import Phase, Settings
from jaxclf.data.check.report import Report
from jaxclf.metrics import (
    accuracy_standard_error,
    classification_report,
    confusion_matrix,
    cross_fit_temperature,
    figures,
    most_confused,
    reliability_curve,
)
from jaxclf.report.charts import (
    confusion_chart,
    rate_chart,
    reliability_chart,
    ridge_chart,
    step_charts,
    training_charts,
)
from jaxclf.report.content import ReportContent
from jaxclf.report.headline import loss_with_error, percent_or_with_error
from jaxclf.report.pictures import cards, picked
from jaxclf.run.head import read_solution
from jaxclf.run.outcome import final_with_views, step_marks

#: Up to so many classes the confusion matrix is a table; beyond, a picture.
MAX_TABLE_CLASSES = 20
#: Opacity of a cell that holds all of its row: text on it stays legible, light or dark.
MAX_SHADE = 0.5
MAX_PAIRS = 12
#: Findings of the data check, skipped pictures, and paths of a finding that are listed.
MAX_FINDINGS, MAX_PATHS = 30, 5
#: Validation sets below this many pictures are not calibrated: five folds of them say nothing.
MIN_CALIBRATION = 50


def figures_table(content: ReportContent) -> list[tuple[str, str]]:
    """Further figures of the validation pictures: (what, value)."""
    summary, rows = content.summary, []
    if summary.get("loss") is not None or content.judged is not None:
        plain = "" if final_with_views(summary) is None else ", plain pictures"
        rows.append((f"Validation loss ± standard error{plain}", loss_with_error(content)))
    if content.judged is not None and not content.multi_label:
        more = figures(content.judged)
        if len(content.classes) > 5:
            rows.append(("Right class among the first five", percent(more["top_k_accuracy"])))
        rows.append(("Balanced accuracy (mean over the classes)", percent(more["balanced_accuracy"])))
        rows.append(("Macro F1", number(more["macro_f1"])))
        rows.append(("Matthews correlation", number(more["matthews"])))
    best = summary.get("best_threshold")
    if content.multi_label and best:
        text = f"{number(best.get('f_beta'))} at {number(best.get('threshold'), 3)}"
        rows.append(("F2 at the best threshold (found on the same pictures: optimistic)", text))
    for name, title in (("test", "Test split"), ("tta", "With test-time augmentation (validation)")):
        found = summary.get(name) or {}
        if found.get("accuracy") is not None:
            unused = "; no better: not used" if found.get("used") is False else ""
            rows.append((title, _accuracy_and_loss(found, content) + unused))
    return rows


def _accuracy_and_loss(found: dict[str, Any], content: ReportContent) -> str:
    pictures = found.get("num_examples") or 0
    error = accuracy_standard_error(found["accuracy"], pictures) if pictures and not content.multi_label else 0.0
    text = percent_or_with_error(found["accuracy"], error)
    return text if found.get("loss") is None else f"{text}, loss {loss_text(found['loss'])}"


def steps_section(content: ReportContent) -> dict[str, Any] | None:
    """What each step brought: rows for a table, and charts."""
    steps = content.summary.get("steps") or []
    if not steps:
        return None
    pictures = None if content.multi_label else content.summary.get("num_valid")
    longest = max((float(step.get("seconds") or 0.0) for step in steps), default=0.0) or 1.0
    rows, marks = [], step_marks(steps)
    for position, step in enumerate(steps, 1):
        accuracy, difference = step.get("accuracy"), step.get("loss_difference")
        error = accuracy_standard_error(accuracy, pictures) if pictures and accuracy is not None else 0.0
        rows.append(
            {
                "position": position,
                "name": str(step.get("name", "")),
                "mark": marks[position - 1],
                "loss": loss_text(step.get("loss")),
                "accuracy": percent_or_with_error(accuracy, error),
                "with_views": loss_text((step.get("tta") or {}).get("loss")) if step.get("tta") else "",
                "difference": None if difference is None else _difference(*difference),
                "seconds": duration(step.get("seconds")),
                "share": 100.0 * float(step.get("seconds") or 0.0) / longest,
            }
        )
    paired = any(row["difference"] for row in rows)
    views = any(row["with_views"] for row in rows)
    charts = step_charts(steps, pictures)
    return {"rows": rows, "paired": paired, "views": views, "marked": any(marks), "charts": charts}


def _difference(mean: float, error: float) -> dict[str, str]:
    """A change of the loss, judged image by image."""
    verdict = "may be chance" if abs(mean) <= 2 * error else "better" if mean < 0 else "worse"
    return {"text": f"{mean:+.4f} ± {error:.4f}", "verdict": verdict}


def confusion_section(content: ReportContent) -> dict[str, Any] | None:
    """The confusion matrix as a table or a picture, and its largest mistakes. None with several labels each."""
    predictions = content.judged
    if predictions is None or content.multi_label:
        return None
    matrix = confusion_matrix(predictions)
    totals = np.maximum(matrix.sum(1), 1)
    names, small = content.classes, len(content.classes) <= MAX_TABLE_CLASSES
    of_class = dict(zip(names, matrix.sum(1).tolist(), strict=True))

    def cell(actual: int, predicted: int) -> dict[str, Any]:
        value = matrix[actual, predicted]
        shade = round(MAX_SHADE * float(np.sqrt(value / totals[actual])), 3)
        return {"count": int(value), "shade": shade, "right": actual == predicted}

    rows = [
        {
            "name": name,
            "cells": [cell(actual, other) for other in range(len(names))],
            "total": int(matrix[actual].sum()),
        }
        for actual, name in enumerate(names if small else ())
    ]
    pairs = [
        {"actual": actual, "predicted": predicted, "count": times, "share": percent(times / of_class[actual])}
        for actual, predicted, times in most_confused(matrix, names)[:MAX_PAIRS]
    ]
    chart = None if small else confusion_chart(matrix, names)
    return {"classes": names, "rows": rows, "pairs": pairs, "chart": chart}


def classes_section(content: ReportContent) -> dict[str, Any] | None:
    """Precision, recall and F1 per class, and their means."""
    if content.judged is None:
        return None
    report = classification_report(content.judged, content.classes)

    def row(name: str, values: dict[str, Any]) -> dict[str, Any]:
        shares = {key: percent(values[key]) for key in ("precision", "recall", "f1")}
        return {"name": name, **shares, "support": f"{values['support']:,}", "fill": 100.0 * values["f1"]}

    means = [row("Mean of the classes", report["macro"]), row("Mean by pictures", report["weighted"])]
    return {"rows": [row(each["class"], each) for each in report["classes"]], "means": means}


def pictures_section(content: ReportContent) -> list[dict[str, Any]]:
    """The largest losses and the least certain, as pictures where there are some, else as a table."""
    titles = {
        "losses": ("Top losses", "Wrong labels, odd pictures, and what the classifier does not know."),
        "uncertain": ("Most uncertain", "Where it can decide least: more pictures like these would teach it most."),
    }
    sections = []
    for kind, examples in picked(content).items():
        title, text = titles[kind]
        shown = cards(content, examples)
        with_picture = [card for card in shown if card.picture is not None]
        sections.append({"id": f"pictures-{kind}", "title": title, "text": text, "cards": with_picture, "rows": shown})
    return sections


def calibration_section(content: ReportContent) -> dict[str, Any] | None:
    """Whether the probabilities mean what they say, before and after temperature scaling, cross-fitted."""
    predictions = content.judged
    if predictions is None or len(predictions.labels) < MIN_CALIBRATION:
        return None
    fitted = cross_fit_temperature(predictions, seed=0 if content.recipe is None else content.recipe.settings.seed)
    curves = [reliability_curve(each, num_bins=10) for each in (predictions, fitted.predictions)]
    if fitted.at_bound:
        verdict = "these pictures do not say how sure to be (the best temperature lies at the end of its range)"
    elif fitted.temperature > 1.05:
        verdict = "it is surer than it should be"
    elif fitted.temperature < 0.95:
        verdict = "it is less sure than it could be"
    else:
        verdict = "it is about as sure as it should be"
    sentence = (
        f"The expected calibration error is {percent(fitted.ece_before)}, and {percent(fitted.ece_after)} once "
        f"probabilities are scaled by a temperature of {number(fitted.temperature, 3)}: {verdict}."
    )
    rows = [
        ("as trained", percent(fitted.ece_before), loss_text(fitted.loss_before)),
        ("calibrated, on held-out folds", percent(fitted.ece_after), loss_text(fitted.loss_after)),
    ]
    return {"text": sentence, "rows": rows, "chart": reliability_chart(curves[0], curves[1], sentence)}


def training_section(content: ReportContent) -> dict[str, Any] | None:
    """The ridges of heads that were solved, learning-rate tests and training curves."""
    solved = [step for step in content.summary.get("steps") or () if step.get("solved")]
    found = [(str(step.get("name", "")), read_solution(step["solved"])) for step in solved]
    drawn = [(name, head) for name, head in found if np.isfinite(head.losses).any()]
    ridges = [ridge_chart(name, head, position) for position, (name, head) in enumerate(drawn, 1)]
    tests = [rate_chart(test, position) for position, test in enumerate(content.rate_tests, 1) if len(test.curve.lrs)]
    curves = training_charts(content.rows)
    return {"ridges": ridges, "tests": tests, "curves": curves} if ridges or tests or curves else None


def data_section(content: ReportContent) -> dict[str, Any] | None:
    """What the data is: sizes, classes per split, findings of the check, pictures that were left out."""
    summary, check = content.summary, content.check
    skipped = [
        {"part": part, "name": str(picture.get("name", "")), "reason": str(picture.get("reason", ""))}
        for part, pictures in (summary.get("skipped_images") or {}).items()
        for picture in pictures
    ]
    origin = summary.get("data") or {}
    drawn = {"split": "with a validation part of its own", "drawn": "validation drawn from it, stratified"}
    facts = [
        ("Data", origin.get("path")),
        ("Parts", drawn.get(origin.get("layout", ""), origin.get("layout"))),
        ("Training pictures", f"{summary['num_train']:,}" if "num_train" in summary else None),
        ("Validation pictures", f"{summary['num_valid']:,}" if "num_valid" in summary else None),
    ]
    shown = [(name, str(value)) for name, value in facts if value is not None]
    if not shown and not skipped and check is None:
        return None
    return {
        "facts": shown,
        "skipped": skipped[:MAX_FINDINGS],
        "num_skipped": len(skipped),
        "check": None if check is None else _check(check),
    }


def _check(check: Report) -> dict[str, Any]:
    names = list(dict.fromkeys(name for of_split in check.counts.values() for name in of_split))
    findings = [("error", each) for each in check.errors] + [("warning", each) for each in check.warnings]
    return {
        "num_images": count(check.num_images, "picture"),
        "splits": list(check.counts),
        "counts": [
            {"name": name, "counts": [of_split.get(name, 0) for of_split in check.counts.values()]} for name in names
        ],
        "sizes": [(size, f"{pictures:,}") for size, pictures in check.sizes.items() if pictures],
        "num_errors": count(len(check.errors), "error"),
        "num_warnings": count(len(check.warnings), "warning"),
        "more": max(len(findings) - MAX_FINDINGS, 0),
        "findings": [
            {"level": level, "kind": each.kind, "message": each.message, "paths": each.paths[:MAX_PATHS]}
            | {"more": max(len(each.paths) - MAX_PATHS, 0)}
            for level, each in findings[:MAX_FINDINGS]
        ],
    }


def recipe_section(content: ReportContent) -> dict[str, Any] | None:
    """The phases and the settings; what was chosen, not left at its default, is marked."""
    recipe = content.recipe
    if recipe is None:
        return None
    usual = _usual(recipe.settings, content.summary)
    values = [(field.name, getattr(recipe.settings, field.name)) for field in dataclasses.fields(Settings)]
    settings = [
        {"name": name, "value": setting(value), "chosen": value not in (getattr(Settings(), name), usual[name])}
        for name, value in values
    ]
    return {"phases": [_phase(phase, recipe.mixing(phase)) for phase in recipe.phases], "settings": settings}


def _usual(settings: Settings, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults, of those that follow the number of photos what they come to in this run."""
    skipped = len((summary.get("skipped_images") or {}).get("train") or ())
    free = dataclasses.replace(Settings(), weights=settings.weights)
    return vars(free.for_photos(int(summary.get("num_train") or 0) + skipped)) | {"weights": Settings().weights}


def _phase(phase: Phase, mixing: str) -> dict[str, str]:
    views = f"{phase.num_views} views" if phase.num_views > 1 else ""
    if phase.solve:
        how = {"lrs": "none", "epochs": "none", "schedule": "solved, the ridge by cross-validation"}
        return {"name": phase.name, "frozen": f"up to {phase.frozen[-1]}", **how} | {
            "augment": ", ".join(filter(None, (phase.augment, views)))
        }
    return {
        "name": phase.name,
        "frozen": f"up to {phase.frozen[-1]}" if phase.frozen else "nothing",
        "lrs": ", ".join(f"{lr:.2g}" for lr in phase.lrs),
        "epochs": f"{phase.num_epochs} in {count(phase.num_cycles, 'cycle')}",
        "schedule": phase.schedule,
        "augment": ", ".join(filter(None, (phase.augment, views, mixing))),
    }


def provenance(content: ReportContent) -> list[tuple[str, str]]:
    """Seed, weights, precision, hardware, versions: what it takes to do it again."""
    summary, recipe = content.summary, content.recipe
    parameters = summary.get("num_parameters")
    rows = [
        ("Seed", None if recipe is None else recipe.settings.seed),
        ("Weights", summary.get("weights")),
        ("Parameters", None if parameters is None else f"{parameters:,}"),
        ("Precision", summary.get("precision")),
        ("Hardware", summary.get("hardware")),
        ("Time", None if summary.get("seconds") is None else duration(summary["seconds"])),
        ("Checkpoint", summary.get("checkpoint")),
        ("Data fingerprint", (summary.get("data") or {}).get("fingerprint")),
        *((str(name), version) for name, version in (summary.get("versions") or {}).items()),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]
