"""What a finished classifier is worth: test-time augmentation, calibration, the test part."""

import csv
import io
from typing import Any

import numpy as np

from jaxclf._progress import OnProgress
from jaxclf.config import Recipe
from jaxclf.data.loader import Loader
from jaxclf.data.sources import DataSource
from jaxclf.inference.predict import predict
from jaxclf.inference.tta import predict_tta
from jaxclf.metrics import (
    Predictions,
    accuracy_standard_error,
    compare_predictions,
    cross_fit_temperature,
    summarize,
)
from jaxclf.models.classifier import Classifier
from jaxclf.models.trees import Tree


def difference(before: Predictions, after: Predictions) -> dict[str, Any]:
    """`loss_difference`: [mean, standard error] of the per-image loss, after - before; below 0 is better."""
    compared = compare_predictions(before, after)
    return {"loss_difference": [float(compared.loss.mean), float(compared.loss.standard_error)]}


def score_tta(
    model: Classifier,
    variables: Tree,
    loader: Loader,
    recipe: Recipe,
    plain: Predictions,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Figures of test-time augmentation, and its paired difference to the plain pictures' predictions.

    `on_progress` is called with (views done, views in all), of which a picture has `recipe.settings.tta_views` + 1.
    """
    augment = next((phase.augment for phase in reversed(recipe.phases) if phase.augment != "none"), "side_on")
    views = predict_tta(
        model,
        variables,
        loader,
        num_views=recipe.settings.tta_views,
        augment=augment,
        seed=recipe.settings.seed,
        threshold=recipe.settings.threshold,
        on_progress=on_progress,
    )
    scores = summarize(views)
    return {**scores, "num_views": recipe.settings.tta_views, "augment": augment, **difference(plain, views)}


def score_calibration(predictions: Predictions, recipe: Recipe) -> dict[str, Any] | None:
    """The temperature, and what it brings on held-out folds; None for too few examples to hold any out."""
    if len(predictions.labels) < 10:
        return None
    found = cross_fit_temperature(predictions, seed=recipe.settings.seed)
    return {
        # At a bound the examples do not say what it should be (all of them right, for example).
        "temperature": 1.0 if found.at_bound else found.temperature,
        "at_bound": bool(found.at_bound),
        "loss_before": found.loss_before,
        "loss_after": found.loss_after,
        "ece_before": found.ece_before,
        "ece_after": found.ece_after,
    }


def score_test(
    model: Classifier,
    variables: Tree,
    source: DataSource,
    recipe: Recipe,
    like: Loader,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Any] | None, str | None]:
    """The test part: (figures, None) where it has labels, (None, the text of submission.csv) where it has none.

    `on_progress` is called with (pictures done, pictures in all).
    """
    loader = Loader(
        source,
        batch_size=recipe.settings.batch_size,
        image_size=recipe.settings.image_size,
        train=False,
        preprocess=like.preprocess,
        cache="none",
        mesh=like.mesh,
    )
    predictions = predict(model, variables, loader, threshold=recipe.settings.threshold, on_progress=on_progress)
    if not source.multi_label and (predictions.labels < 0).any():
        return None, _submission(predictions, source)
    scores: dict[str, Any] = summarize(predictions)
    if not recipe.settings.multi_label:
        scores["accuracy_standard_error"] = accuracy_standard_error(scores["accuracy"], len(predictions.labels))
    return scores, None


def _submission(predictions: Predictions, source: DataSource) -> str:
    """A line per picture: file, label (or labels with "|" between them), and the probability of each class."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "label", *source.classes])
    for index, row in zip(predictions.index, predictions.probabilities(), strict=True):
        chosen = np.flatnonzero(row >= predictions.threshold) if predictions.multi_label else [row.argmax()]
        label = "|".join(source.classes[i] for i in chosen)
        writer.writerow([source.name(int(index)), label, *(f"{value:.6f}" for value in row)])
    return table.getvalue()
