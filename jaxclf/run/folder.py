"""The RUN folder: the names of what a run leaves behind, and how each is written."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxclf._files import write_atomic, write_npz
from jaxclf.config import METRICS, Recipe, to_json
from jaxclf.metrics import Predictions

RECIPE = "recipe.json"
CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions.npz"
SUMMARY = "summary.json"
RATES = "lr_curves.json"
SUBMISSION = "submission.csv"
REPORT = "report.html"
RECORDS = "records.npz"
REQUEST = "request.json"
CHECK = "check.json"
#: Everything a run writes, and all that `--overwrite` removes.
CONTENTS = (RECIPE, METRICS, CHECKPOINTS, PREDICTIONS, RATES, SUBMISSION, REPORT, CHECK, RECORDS, SUMMARY, REQUEST)


def check_out(out: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Makes sure that a run may be written to `out`; changes nothing.

    Raises:
      ValueError: if `out` is a file, holds a run and `overwrite` is False, or holds something else.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={folder} is a file; give a folder that does not exist yet")
    present = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    foreign = [name for name in present if name not in CONTENTS and not name.endswith(".partial")]
    if present and not any(name in CONTENTS for name in present):
        raise ValueError(f"out={folder} is not empty and holds no run (found {foreign[0]}); choose another folder")
    if present and not overwrite:
        state = "a finished run" if SUMMARY in present else "a run that did not finish: go on with it by --resume"
        raise ValueError(f"out={folder} already holds {state}; choose another folder, or replace it with --overwrite")
    ancestor = folder
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not os.access(ancestor, os.W_OK):
        raise ValueError(f"out={folder} cannot be written: no permission in {ancestor}")
    return folder


def create_run(out: Path, recipe: Recipe) -> Path:
    """Starts a RUN folder: removes an old run's files (see `check_out`), and writes `recipe.json`."""
    out.mkdir(parents=True, exist_ok=True)
    # The summary is what makes a run count as finished, so it goes first.
    for name in reversed(CONTENTS):
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_recipe(out, recipe)
    return out


def write_recipe(out: Path, recipe: Recipe) -> Path:
    """Writes `recipe.json`."""
    return write_atomic(out / RECIPE, to_json(recipe))


def write_rates(out: Path, rates: Sequence[Mapping[str, Any]]) -> Path:
    """Writes `lr_curves.json`: the learning-rate tests so far, with their curves."""
    return write_atomic(out / RATES, json.dumps(list(rates), allow_nan=False) + "\n")


def write_submission(out: Path, text: str) -> Path:
    """Writes `submission.csv`: what the run says of pictures without labels."""
    return write_atomic(out / SUBMISSION, text)


def append_metrics(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines to `metrics.jsonl`."""
    if rows:
        with open(out / METRICS, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


def metrics_size(out: Path) -> int:
    """Bytes of `metrics.jsonl` so far."""
    return (out / METRICS).stat().st_size if (out / METRICS).exists() else 0


def check_metrics(out: Path, size: int) -> None:
    """Raises ValueError if `metrics.jsonl` has fewer than `size` bytes."""
    if metrics_size(out) < size:
        raise ValueError(f"{out / METRICS} was cut short: it has {metrics_size(out)} bytes and had {size}")


def truncate_metrics(out: Path, size: int) -> None:
    """Takes `metrics.jsonl` back to what it was when it had `size` bytes."""
    if size or (out / METRICS).exists():
        os.truncate(out / METRICS, size)


def write_predictions(out: Path, predictions: Predictions, names: Sequence[str], classes: Sequence[str]) -> Path:
    """Writes `predictions.npz`: logits, labels, index, `files` (name of each example) and `classes`."""
    arrays = {**predictions.arrays(), "files": np.array(list(names)), "classes": np.array(list(classes))}
    return write_npz(out / PREDICTIONS, arrays)


def write_summary(out: Path, summary: Mapping[str, Any]) -> Path:
    """Writes `summary.json`, last of all: a run without it did not finish."""
    return write_atomic(out / SUMMARY, json.dumps(summary, indent=1) + "\n")
