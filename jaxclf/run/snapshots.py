"""Snapshots of a training as checkpoints: where it was goes into the metadata, its arrays beside the state's."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxclf.metrics import Predictions
from jaxclf.run.checkpoint_file import load_part, read_metadata, restore_checkpoint, save_checkpoint
from jaxclf.training.events import Best, Snapshot
from jaxclf.training.state import TrainState


def save_snapshot(path: str | os.PathLike[str], snapshot: Snapshot, metadata: Mapping[str, Any] | None = None) -> Path:
    """Writes a snapshot as a checkpoint, whole or not at all; `restore_snapshot` brings it back, to the bit.

    Args:
      path: the folder to make. It must not exist.
      snapshot: from an event of `jaxclf.train`.
      metadata: further JSON values to keep beside it.

    Returns:
      The absolute path.

    Raises:
      ValueError: if `path` exists.
      OSError: if it cannot be written, naming `path`.
    """
    place, extra = snapshot_parts(snapshot)
    return save_checkpoint(path, snapshot.state, {**(metadata or {}), **place}, extra=extra)


def restore_snapshot(path: str | os.PathLike[str], target: TrainState) -> Snapshot:
    """The snapshot of a checkpoint: hand it to `jaxclf.train` to go on from there.

    Args:
      path: from `save_snapshot`.
      target: a state as the program makes it, or `jax.eval_shape` of one; only its structure is read.

    Raises:
      ValueError: if there is no snapshot at `path`, or listing what of it does not fit the target.
    """
    place = read_metadata(path).get("snapshot")
    if place is None:
        raise ValueError(f"checkpoint {path} was not taken inside a training: there is nothing in it to go on with")
    best = Best()
    if place["best"] is not None:
        epoch, loss = place["best"]
        predictions = load_predictions(path, "best_predictions", place["best_labels"])
        best = Best(epoch, loss, load_part(path, "best") or {}, predictions)
    loss, weight, correct, count = place["totals"]
    totals = (loss, weight, correct, count)
    return Snapshot(restore_checkpoint(path, target), place["epoch"], place["batch"], totals, best)


def snapshot_parts(snapshot: Snapshot) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a snapshot beside its state goes into a checkpoint's metadata, and into its extra arrays."""
    best = snapshot.best
    place = {
        "epoch": snapshot.epoch,
        "batch": snapshot.batch,
        "totals": list(snapshot.totals),
        "best": None if best.epoch is None else [best.epoch, best.loss],
        "best_labels": None if best.predictions is None else labels_of(best.predictions),
    }
    extra: dict[str, Any] = {"best": best.kept} if best.kept else {}
    if best.predictions is not None:
        extra["best_predictions"] = best.predictions.arrays()
    return {"snapshot": place}, extra


def labels_of(predictions: Predictions) -> dict[str, Any]:
    """What predictions know beside their arrays."""
    return {"multi_label": predictions.multi_label, "threshold": predictions.threshold}


def load_predictions(path: str | os.PathLike[str], name: str, labels: dict[str, Any] | None) -> Predictions | None:
    """The predictions that a checkpoint holds by this name; `labels` are `labels_of` them."""
    arrays = load_part(path, name)
    if arrays is None:
        return None
    fields: dict[str, Any] = {field: np.asarray(value) for field, value in arrays.items()}
    return Predictions(**fields, **(labels or {}))
