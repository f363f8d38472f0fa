"""The end of a run: test-time augmentation, the test part, calibration, and the summary."""

import csv
import io
import time
from typing import Any

import jax
import numpy as np

from jaxclf.data.sources import DataSource, fingerprint
from jaxclf.inference.predict import predict
from jaxclf.metrics import (
    Predictions,
    accuracy_standard_error,
    compare_predictions,
    cross_fit_temperature,
    label_probabilities,
    probabilities,
    search_threshold,
    summarize,
)
from jaxclf.models.trees import Tree, num_parameters
from jaxclf.run.folder import CHECKPOINTS, write_predictions, write_submission, write_summary
from jaxclf.run.outcome import TTA
from jaxclf.run.prepare import RunContext, hardware, versions
from jaxclf.run.processes import is_writer
from jaxclf.run.run_state import RunState
from jaxclf.run.selection import Selected, select_state, view_preset


def finish(context: RunContext, run: RunState, variables: Tree) -> dict[str, Any]:
    """Judges what a run's phases ended with, and writes all but the phases' own files, `summary.json` last.

    Args:
      context: what all phases shared.
      run: whose phases have all ended.
      variables: those of the phase that ended best on plain pictures.

    Returns:
      What `summary.json` holds.
    """
    splits, spec, started = context.prepared.splits, context.prepared.spec, time.perf_counter()
    selected = select_state(context, run, variables)
    names = [splits.valid.name(int(index)) for index in selected.plain.index]
    if is_writer():
        write_predictions(context.folder, selected.plain, names, spec.classes)
    figures = _figures(context, run, selected, time.perf_counter() - started)
    context.keeper.wait()
    summary = figures | _about(context, run, selected)
    if is_writer():
        write_summary(context.folder, summary)
    return summary


def _figures(context: RunContext, run: RunState, selected: Selected, seconds: float) -> dict[str, Any]:
    """What the run brought: its phases, test-time augmentation, the test part, calibration."""
    settings, splits, plain = context.settings, context.prepared.splits, selected.plain
    held, tta = run.steps[selected.number], None
    steps, final = _steps(run, selected), {name: held[name] for name in ("name", "loss", "accuracy")}
    if selected.views is not None:
        tta = {
            **selected.scores[selected.number],
            "num_views": settings.tta_views,
            "augment": view_preset(run.recipe),
            **difference(plain, selected.views),
            "used": selected.uses_views,
        }
        brought = {name: tta[name] for name in ("loss", "accuracy", "loss_difference")}
        steps.append({"name": TTA, "seconds": seconds, **brought, "kept": tta["used"]})
        if tta["used"]:
            final = {"name": TTA, "loss": tta["loss"], "accuracy": tta["accuracy"]}
    return {
        "accuracy": held["accuracy"],
        "loss": held["loss"],
        "final": final,
        **(_multi_label_figures(plain) if plain.multi_label else {}),
        "num_classes": len(splits.train.classes),
        "classes": list(splits.train.classes),
        "num_train": len(splits.train) - len(context.bad["train"]),
        "num_valid": len(splits.valid) - len(context.bad["valid"]),
        "seconds": run.total_seconds(),
        "seconds_to_first_step": run.seconds_to_first_step,
        "steps": steps,
        "tta": tta,
        **_judge_test(context, selected.variables),
        "calibration": _score_calibration(plain, settings.seed),
    }


def _steps(run: RunState, selected: Selected) -> list[dict[str, Any]]:
    """The phases' steps, with what test-time augmentation makes of their ends, and which one the run holds."""
    steps = []
    for number, step in enumerate(run.steps):
        scores = selected.scores.get(number)
        views = {} if scores is None else {"tta": {name: scores[name] for name in ("loss", "accuracy")}}
        steps.append({**step, **views, "held": number == selected.number})
    return steps


def _about(context: RunContext, run: RunState, selected: Selected) -> dict[str, Any]:
    """What the run was made of, and where what it made is."""
    splits, pretrained = context.prepared.splits, context.prepared.pretrained
    return {
        "rates": [{name: rate[name] for name in ("phase", "lr", "rule", "seconds")} for rate in run.rates],
        "cached": run.cached,
        "checkpoint": f"{CHECKPOINTS}/phase{selected.number + 1}",
        "best": run.steps[selected.number]["name"],
        "data": {"path": context.data, "layout": splits.layout, "fingerprint": fingerprint(splits.whole)},
        "skipped_images": {
            part: [{"name": picture.name, "reason": picture.reason} for picture in pictures]
            for part, pictures in context.bad.items()
        },
        "weights": pretrained.config.origin if pretrained is not None else "none (from scratch)",
        "seed": context.settings.seed,
        "num_parameters": num_parameters(selected.variables["params"]),
        "precision": context.prepared.spec.precision,
        "hardware": hardware(),
        "versions": versions(),
    }


def difference(before: Predictions, after: Predictions) -> dict[str, Any]:
    """`loss_difference`: [mean, standard error] of the per-image loss, after - before; below 0 is better."""
    compared = compare_predictions(before, after)
    return {"loss_difference": [float(compared.loss.mean), float(compared.loss.standard_error)]}


def _score_calibration(predictions: Predictions, seed: int) -> dict[str, Any] | None:
    """The temperature, and what it brings on held-out folds; None for too few examples to hold any out."""
    if len(predictions.labels) < 10:
        return None
    found = cross_fit_temperature(predictions, seed=seed)
    return {
        "temperature": found.temperature,
        "at_bound": found.at_bound,
        "loss_before": found.loss_before,
        "loss_after": found.loss_after,
        "ece_before": found.ece_before,
        "ece_after": found.ece_after,
    }


def _judge_test(context: RunContext, variables: Tree) -> dict[str, Any]:
    """`test`: the figures of the test part, None where it has no labels; then `submission.csv` is written.

    Whatever fails here costs the test's figures but not the run's: `test_error` then says what it was.
    """
    loader = context.loaders.test
    if loader is None:
        return {"test": None}
    try:
        with context.observer.task("judging the test part", loader.num_examples) as progress:
            threshold = context.settings.threshold
            predictions = predict(context.model, variables, loader, threshold=threshold, on_progress=progress)
        if loader.dataset.multi_label or (loader.dataset.labels >= 0).all():
            return {"test": _test_figures(predictions)}
        if is_writer():
            write_submission(context.folder, _submission(predictions, loader.dataset))
    except Exception as error:
        if jax.process_count() > 1:  # the others wait for this one
            raise
        text = f"{type(error).__name__}: {error}"
        context.observer.note(
            f"the test part could not be judged ({text}); `jaxclf evaluate` and `jaxclf predict` can, once it is mended"
        )
        return {"test": None, "test_error": text}
    return {"test": None}


def _test_figures(predictions: Predictions) -> dict[str, Any]:
    scores: dict[str, Any] = summarize(predictions)
    if not predictions.multi_label:
        scores["accuracy_standard_error"] = accuracy_standard_error(scores["accuracy"], len(predictions.labels))
    return scores


def _submission(predictions: Predictions, source: DataSource) -> str:
    """A line per picture: file, label (or labels with "|" between them), and the probability of each class.

    A picture that could not be read and was skipped has its line too, with nothing but the file.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "label", *source.classes])
    rows = (label_probabilities if predictions.multi_label else probabilities)(predictions.logits)
    found = dict(zip(predictions.index.tolist(), rows, strict=True))
    for index in range(len(source)):
        values, label = [""] * len(source.classes), ""
        if index in found:
            row = found[index]
            chosen = np.flatnonzero(row >= predictions.threshold) if predictions.multi_label else [row.argmax()]
            values, label = [f"{value:.6f}" for value in row], "|".join(source.classes[i] for i in chosen)
        writer.writerow([source.name(index), label, *values])
    return table.getvalue()


def _multi_label_figures(predictions: Predictions) -> dict[str, Any]:
    """F-beta at the run's threshold, and the threshold that would have been best on the same pictures (optimistic)."""
    found = search_threshold(label_probabilities(predictions.logits), predictions.labels)
    return {
        "f_beta": summarize(predictions)["f_beta"],
        "threshold": predictions.threshold,
        "best_threshold": {"threshold": float(found.threshold), "f_beta": float(found.score)},
    }
