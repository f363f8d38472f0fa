"""The end of a run: predictions, test-time augmentation, the test part, calibration, and the summary."""

import os
import time
from pathlib import Path
from typing import Any

from jaxclf.data.cache import BadImage
from jaxclf.data.loader import Loader
from jaxclf.data.sources import fingerprint
from jaxclf.metrics import Predictions, search_threshold, summarize
from jaxclf.models.classifier import Classifier
from jaxclf.models.trees import Tree, num_parameters
from jaxclf.run.checkpoints import Keeper
from jaxclf.run.course import Course
from jaxclf.run.folder import CHECKPOINTS, write_predictions, write_submission, write_summary
from jaxclf.run.observer import Observer
from jaxclf.run.prepare import Prepared
from jaxclf.run.processes import is_writer
from jaxclf.run.scoring import score_calibration, score_test, score_tta


def finish(
    folder: Path,
    data: str | os.PathLike[str],
    course: Course,
    variables: Tree,
    *,
    model: Classifier,
    prepared: Prepared,
    valid: Loader,
    bad: dict[str, tuple[BadImage, ...]],
    keeper: Keeper,
    observer: Observer,
    machine: dict[str, Any],
) -> dict[str, Any]:
    """Judges what a run's phases ended with, and writes all but the phases' own files, `summary.json` last.

    Args:
      folder, data: RUN and DATA.
      course: whose phases have all ended.
      variables: what the last one ended with.
      model, prepared, valid, bad: the network, the data, the validation pictures, what was skipped.
      keeper: waited for, so that the checkpoint that the summary names is there.
      observer: told what happens. Of several processes only one writes.
      machine: `hardware` and `versions`, for the summary.

    Returns:
      What `summary.json` holds.
    """
    splits, spec, pretrained = prepared
    recipe, latest = course.recipe, course.latest
    assert latest is not None  # there is a phase
    names = [splits.valid.name(int(index)) for index in latest.index]
    if is_writer():
        write_predictions(folder, latest, names, spec.classes)
    final, steps = course.steps[-1], list(course.steps)
    tta = None
    if recipe.settings.tta_views:
        tta_started = time.perf_counter()
        observer.note(f"test-time augmentation: the plain picture and {recipe.settings.tta_views} views")
        with observer.task("test-time augmentation", len(latest.labels) * (recipe.settings.tta_views + 1)) as progress:
            tta = score_tta(model, variables, valid, recipe, latest, progress)
        brought = {name: tta[name] for name in ("loss", "accuracy", "loss_difference")}
        steps.append({"name": "test-time augmentation", "seconds": time.perf_counter() - tta_started, **brought})
    test = None
    if splits.test is not None:
        with observer.task("judging the test part", len(splits.test)) as progress:
            test, submission = score_test(model, variables, splits.test, recipe, valid, progress)
        if submission is not None and is_writer():
            write_submission(folder, submission)
    extra = multi_label_figures(latest) if recipe.settings.multi_label else {}
    keeper.wait()
    summary = {
        "accuracy": final["accuracy"],
        "loss": final["loss"],
        **extra,
        "num_classes": len(spec.classes),
        "classes": list(spec.classes),
        "num_train": len(splits.train) - len(bad["train"]),
        "num_valid": len(splits.valid) - len(bad["valid"]),
        "seconds": course.total_seconds(),
        "steps": steps,
        "tta": tta,
        "test": test,
        "calibration": score_calibration(latest, recipe),
        "rates": [{name: rate[name] for name in ("phase", "lr", "rule", "seconds")} for rate in course.rates],
        "cached": course.cached,
        "checkpoint": f"{CHECKPOINTS}/phase{course.number}",
        "data": {"path": str(data), "layout": splits.layout, "fingerprint": fingerprint(splits.whole)},
        "skipped_images": {
            part: [{"name": picture.name, "reason": picture.reason} for picture in pictures]
            for part, pictures in bad.items()
        },
        "weights": pretrained.config.origin if pretrained is not None else "none (from scratch)",
        "seed": recipe.settings.seed,
        "num_parameters": num_parameters(variables["params"]),
        "precision": spec.precision,
        **machine,
    }
    if is_writer():
        write_summary(folder, summary)
    return summary


def multi_label_figures(predictions: Predictions) -> dict[str, Any]:
    """F-beta at the run's threshold, and the threshold that would have been best on the same pictures (optimistic)."""
    found = search_threshold(predictions.probabilities(), predictions.labels)
    scores = summarize(predictions)
    return {
        "f_beta": scores["f_beta"],
        "threshold": predictions.threshold,
        "best_threshold": {"threshold": float(found.threshold), "f_beta": float(found.score)},
    }
