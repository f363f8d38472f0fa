"""A recipe from start to end: data in, phases one after another, everything a RUN folder holds out."""

import dataclasses
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
from jaxclf.config import Recipe
from jaxclf.data.sources import fingerprint
from jaxclf.data.splits import Splits
from jaxclf.inference import predict
from jaxclf.loop import NonFiniteLoss, Row
from jaxclf.metrics import Predictions, label_probabilities, search_threshold, summarize
from jaxclf.runs import (
    CHECKPOINTS,
    ClassifierSpec,
    append_metrics,
    check_out,
    create_run,
    write_predictions,
    write_rates,
    write_recipe,
    write_submission,
    write_summary,
)
from jaxclf.scoring import difference, score_calibration, score_test, score_tta
from jaxclf.setup import Observer, check_outside, decode, make_loaders, prepare
from jaxclf.state import TrainState
from jaxclf.steps import make_predict_step
from jaxclf.training import FoundRate, run_phase
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
    valid = loaders.valid[recipe.image_size]
    steps: list[dict[str, Any]] = []
    rates: list[FoundRate] = []
    cached: list[dict[str, Any]] = []
    latest: Predictions | None = None
    for number in range(len(recipe.phases)):
        phase_started = time.perf_counter()

        epochs = recipe.phases[number].num_epochs

        def on_epoch(row: Row, state: TrainState, number: int = number, epochs: int = epochs) -> None:
            append_metrics(folder, row)
            observer.epoch(row)
            if row["cycle_end"] and row["epoch"] + 1 < epochs:
                keeper.snapshot(number, row["epoch"] + 1, state)

        try:
            done = run_phase(
                model,
                variables,
                recipe,
                number,
                loaders,
                observer=observer,
                previous_lr=recipe.phases[number - 1].lrs[-1] if number else None,
                predict_step=predict_step,
                on_log=lambda row: append_metrics(folder, row),
                on_epoch=on_epoch,
            )
        except NonFiniteLoss as error:
            raise ValueError(f"{error}. {keeper.last_good()}") from error
        phases = (*recipe.phases[:number], done.phase, *recipe.phases[number + 1 :])
        recipe = dataclasses.replace(recipe, phases=phases)
        write_recipe(folder, recipe)  # with the rate that was found: what was really run
        if done.rate is not None:
            rates.append(done.rate)
            write_rates(folder, [rate.to_dict() for rate in rates])
        cached += [done.cached] if done.cached is not None else []
        variables = done.fit.state.averaged
        checkpoint = keeper.phase_end(number, len(done.fit.epochs), done.fit.state)
        predictions = done.fit.predictions
        if done.phase.cut is not None or (done.phase.image_size or recipe.image_size) != recipe.image_size:
            # Every phase is judged on the same: whole pictures, at the size that is used afterwards.
            predictions = predict(model, variables, valid, predict_step=predict_step)
        assert predictions is not None  # there is a validation loader
        scores = summarize(predictions, multi_label=recipe.multi_label, threshold=recipe.threshold)
        seconds = time.perf_counter() - phase_started
        step = {"name": done.phase.name, "seconds": seconds, "loss": scores["loss"], "accuracy": scores["accuracy"]}
        steps.append(step if latest is None else step | difference(latest, predictions, recipe))
        latest = predictions
        if done.fit.stopped:
            observer.note(f"phase {done.phase.name!r} ended after epoch {len(done.fit.epochs)}: {done.fit.stopped}")
    assert latest is not None  # there is a phase
    names = [splits.valid.name(int(index)) for index in latest.index]
    write_predictions(folder, latest, names, spec.classes)
    final = steps[-1]
    with observer.task("augmenting validation pictures", 1):
        tta_started = time.perf_counter()
        tta = score_tta(model, variables, valid, recipe, latest, predict_step)
    tta_step = {name: tta[name] for name in ("loss", "accuracy", "loss_difference")}
    steps.append({"name": "test-time augmentation", "seconds": time.perf_counter() - tta_started, **tta_step})
    test = None
    if splits.test is not None:
        test, submission = score_test(model, variables, splits.test, recipe, valid, predict_step)
        if submission is not None:
            write_submission(folder, submission)
    extra = multi_label_figures(latest, recipe.threshold) if recipe.multi_label else {}
    summary = {
        "accuracy": final["accuracy"],
        "loss": final["loss"],
        **extra,
        "num_classes": len(spec.classes),
        "classes": list(spec.classes),
        "num_train": len(splits.train) - len(bad["train"]),
        "num_valid": len(splits.valid) - len(bad["valid"]),
        "seconds": time.perf_counter() - started,
        "steps": steps,
        "tta": tta,
        "test": test,
        "calibration": score_calibration(latest, recipe),
        "rates": [{name: rate.to_dict()[name] for name in ("phase", "lr", "rule", "seconds")} for rate in rates],
        "cached": cached,
        "checkpoint": checkpoint,
        "data": {"path": str(data), "layout": splits.layout, "fingerprint": fingerprint(splits.whole)},
        "skipped_images": {
            part: [{"name": picture.name, "reason": picture.reason} for picture in pictures]
            for part, pictures in bad.items()
        },
        "weights": pretrained.config.origin if pretrained is not None else "none (from scratch)",
        "seed": recipe.seed,
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
