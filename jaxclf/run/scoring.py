"""What a finished classifier is worth: test-time augmentation, calibration, the test part."""

import csv
import io
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxclf._progress import OnProgress
from jaxclf.config import Recipe
from jaxclf.data.loader import Loader
from jaxclf.data.sources import DataSource
from jaxclf.inference.predict import PredictStep, predict
from jaxclf.inference.tta import predict_tta
from jaxclf.metrics import (
    Predictions,
    accuracy_standard_error,
    compare_predictions,
    cross_fit_temperature,
    label_probabilities,
    probabilities,
    summarize,
)
from jaxclf.models.classifier import Classifier
from jaxclf.models.trees import Tree


def difference(before: Predictions, after: Predictions, recipe: Recipe) -> dict[str, Any]:
    """`loss_difference`: [mean, standard error] of the per-image loss, after - before; below 0 is better."""
    compared = compare_predictions(
        before, after, multi_label=recipe.settings.multi_label, threshold=recipe.settings.threshold
    )
    return {"loss_difference": [float(compared.loss.mean), float(compared.loss.standard_error)]}


def score_tta(
    model: Classifier,
    variables: Tree,
    loader: Loader,
    recipe: Recipe,
    plain: Predictions,
    predict_step: PredictStep,
    on_progress: OnProgress | None = None,
    mesh: Mesh | None = None,
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
        on_progress=on_progress,
        multi_label=recipe.settings.multi_label,
        predict_step=predict_step,
        mesh=mesh,
    )
    scores = summarize(views, multi_label=recipe.settings.multi_label, threshold=recipe.settings.threshold)
    return {**scores, "num_views": recipe.settings.tta_views, "augment": augment, **difference(plain, views, recipe)}


def score_calibration(predictions: Predictions, recipe: Recipe) -> dict[str, Any] | None:
    """The temperature, and what it brings on held-out folds; None for too few examples to hold any out."""
    if len(predictions.labels) < 10:
        return None
    found = cross_fit_temperature(predictions, seed=recipe.settings.seed, multi_label=recipe.settings.multi_label)
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
    predict_step: PredictStep,
    on_progress: OnProgress | None = None,
    mesh: Mesh | None = None,
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
    )
    predictions = predict(model, variables, loader, predict_step=predict_step, on_progress=on_progress, mesh=mesh)
    if not source.multi_label and (predictions.labels < 0).any():
        return None, _submission(predictions, source, recipe)
    scores: dict[str, Any] = summarize(
        predictions, multi_label=recipe.settings.multi_label, threshold=recipe.settings.threshold
    )
    if not recipe.settings.multi_label:
        scores["accuracy_standard_error"] = accuracy_standard_error(scores["accuracy"], len(predictions.labels))
    return scores, None


def _submission(predictions: Predictions, source: DataSource, recipe: Recipe) -> str:
    """A line per picture: file, label (or labels with "|" between them), and the probability of each class."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "label", *source.classes])
    rows = (label_probabilities if recipe.settings.multi_label else probabilities)(predictions.logits)
    for index, row in zip(predictions.index, rows, strict=True):
        chosen = np.flatnonzero(row >= recipe.settings.threshold) if recipe.settings.multi_label else [row.argmax()]
        label = "|".join(source.classes[i] for i in chosen)
        writer.writerow([source.name(int(index)), label, *(f"{value:.6f}" for value in row)])
    return table.getvalue()
