"""A recipe from start to end: data in, phases one after another, everything a RUN folder holds out."""

import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxclf import __version__
from jaxclf.checkpoint import save_checkpoint
from jaxclf.config import Phase, Recipe
from jaxclf.data.sources import fingerprint
from jaxclf.data.splits import Splits
from jaxclf.loop import NonFiniteLoss, Row, fit
from jaxclf.metrics import Predictions, label_probabilities, search_threshold, summarize
from jaxclf.runs import (
    CHECKPOINTS,
    ClassifierSpec,
    append_metrics,
    check_out,
    create_run,
    write_predictions,
    write_summary,
)
from jaxclf.setup import Observer, check_outside, decode, make_loaders, prepare
from jaxclf.state import TrainState
from jaxclf.steps import make_predict_step
from jaxclf.trees import num_parameters

#: Snapshots of cycle ends that a run keeps.
MAX_SNAPSHOTS = 3


def run_recipe(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Runs a recipe on a data set and writes the RUN folder.

    Whatever can be wrong with the input (folder, classes, weights, damaged pictures) is found before anything is
    written to `out`.

    Args:
      data: the folder of pictures, see `jaxclf.data.splits.open_data`.
      out: the RUN folder to make.
      recipe: settings and phases.
      overwrite: replace a run that `out` holds.
      observer: told what happens.

    Returns:
      What `summary.json` holds.

    Raises:
      ValueError: naming what is wrong with the input, and the way out.
    """
    observer = observer or Observer()
    started = time.perf_counter()
    if not recipe.phases:
        raise ValueError("the recipe has no phases: there is nothing to run")
    folder = check_out(out, overwrite=overwrite)
    check_outside(data, folder)
    splits, spec, pretrained = prepared = prepare(data, recipe, observer)
    loaders = make_loaders(splits, recipe, spec.preprocess)
    with observer.task("decoding", sum(len(loader.dataset) for loader in loaders.all())) as progress:
        loaders, bad = decode(loaders, recipe, progress)

    model = spec.create()
    variables = prepared.initial_variables(recipe.seed)
    predict_step = make_predict_step(model, preprocess=spec.preprocess)
    create_run(folder, recipe)
    keeper = Keeper(folder, spec, recipe, splits)
    steps: list[dict[str, Any]] = []
    for number, phase in enumerate(recipe.phases):
        phase_started = time.perf_counter()

        def on_epoch(row: Row, state: TrainState, number: int = number, phase: Phase = phase) -> None:
            append_metrics(folder, row)
            observer.epoch(row)
            if row["cycle_end"] and row["epoch"] + 1 < phase.num_epochs:
                keeper.snapshot(number, row["epoch"] + 1, state)

        try:
            with observer.phase(phase, number, len(recipe.phases)) as on_step:
                result = fit(
                    model,
                    variables,
                    phase,
                    loaders.train[phase.augment != "none"],
                    loaders.valid,
                    settings=recipe,
                    phase_number=number,
                    first_epoch=keeper.first_epoch(number),
                    predict_step=predict_step,
                    on_step=on_step,
                    on_log=lambda row: append_metrics(folder, row),
                    on_epoch=on_epoch,
                )
        except NonFiniteLoss as error:
            raise ValueError(f"{error}. {keeper.last_good()}") from error
        variables = result.state.averaged
        checkpoint = keeper.phase_end(number, len(result.epochs), result.state)
        best = result.epochs[-1 if result.best_epoch is None or not phase.keep_best else result.best_epoch]
        seconds = time.perf_counter() - phase_started
        steps.append(
            {"name": phase.name, "seconds": seconds, "loss": best["valid_loss"], "accuracy": best["valid_accuracy"]}
        )
        if result.stopped:
            observer.note(f"phase {phase.name!r} ended after epoch {len(result.epochs)}: {result.stopped}")
    assert result.predictions is not None  # there is a validation loader
    names = [splits.valid.name(int(index)) for index in result.predictions.index]
    write_predictions(folder, result.predictions, names, spec.classes)
    extra = multi_label_figures(result.predictions, recipe.threshold) if recipe.multi_label else {}
    summary = {
        "accuracy": steps[-1]["accuracy"],
        "loss": steps[-1]["loss"],
        **extra,
        "num_classes": len(spec.classes),
        "classes": list(spec.classes),
        "num_train": len(splits.train) - len(bad["train"]),
        "num_valid": len(splits.valid) - len(bad["valid"]),
        "seconds": time.perf_counter() - started,
        "steps": steps,
        "checkpoint": checkpoint,
        "data": {"path": str(data), "layout": splits.layout, "fingerprint": fingerprint(splits.whole)},
        "skipped_images": {
            part: [{"name": picture.name, "reason": picture.reason} for picture in pictures]
            for part, pictures in bad.items()
        },
        "weights": pretrained.config.origin if pretrained is not None else "none (from scratch)",
        "num_parameters": num_parameters(variables["params"]),
        "precision": spec.precision,
        "hardware": f"{jax.devices()[0].device_kind} x {jax.device_count()}, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "jaxclf": __version__,
            **{name: version(name) for name in ("jax", "flax", "optax")},
        },
    }
    write_summary(folder, summary)
    return summary


def multi_label_figures(predictions: Predictions, threshold: float) -> dict[str, Any]:
    """F-beta at the run's threshold, and the threshold that would have been best on the same pictures (optimistic)."""
    found = search_threshold(label_probabilities(predictions.logits), predictions.labels)
    scores = summarize(predictions, multi_label=True, threshold=threshold)
    return {
        "f_beta": scores["f_beta"],
        "threshold": threshold,
        "best_threshold": {"threshold": float(found.threshold), "f_beta": float(found.score)},
    }


class Keeper:
    """Writes a run's checkpoints: one at the end of each phase, and the last few of its cycle ends."""

    def __init__(self, folder: Path, spec: ClassifierSpec, recipe: Recipe, splits: Splits):
        self.folder, self.spec, self.recipe = folder, spec, recipe
        self.data = {"fingerprint": fingerprint(splits.whole), "layout": splits.layout}
        self.epochs: list[int] = []
        self.snapshots: list[Path] = []
        self.latest: Path | None = None

    def first_epoch(self, number: int) -> int:
        """Epochs before phase `number`, by the recipe: order does not depend on where a phase was stopped."""
        return sum(phase.num_epochs for phase in self.recipe.phases[:number])

    def snapshot(self, number: int, phase_epoch: int, state: TrainState) -> None:
        """Keeps the end of a cycle within a phase."""
        path = f"{CHECKPOINTS}/phase{number + 1}-epoch{phase_epoch}"
        self._save(path, number, phase_epoch, state)
        self.snapshots.append(self.folder / path)
        while len(self.snapshots) > MAX_SNAPSHOTS:
            shutil.rmtree(self.snapshots.pop(0))

    def phase_end(self, number: int, phase_epoch: int, state: TrainState) -> str:
        """Keeps what a phase ended with; returns its path within the run."""
        path = f"{CHECKPOINTS}/phase{number + 1}"
        self._save(path, number, phase_epoch, state)
        return path

    def last_good(self) -> str:
        """A sentence about the newest checkpoint."""
        return "No checkpoint was written yet" if self.latest is None else f"The last good checkpoint is {self.latest}"

    def _save(self, path: str, number: int, phase_epoch: int, state: TrainState) -> None:
        progress = {
            "phase_number": number,
            "phase": self.recipe.phases[number].name,
            "phase_epoch": phase_epoch,
            "epoch": self.first_epoch(number) + phase_epoch,
            "step": int(state.step),
            "seed": self.recipe.seed,
        }
        metadata = {"classifier": self.spec.to_metadata(), "progress": progress, "data": self.data}
        self.latest = save_checkpoint(self.folder / path, state, metadata)
