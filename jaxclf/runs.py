"""The RUN folder: what a run leaves behind, and how to predict from it."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.checkpoint import load_variables, read_metadata
from jaxclf.config import Preprocess, Recipe, from_dict, from_json, to_json
from jaxclf.data.decode import Picture, evaluation_pixels
from jaxclf.files import write_atomic, write_npz
from jaxclf.metrics import Predictions, label_probabilities, probabilities
from jaxclf.models.classifier import Classifier, create_classifier
from jaxclf.steps import make_predict_step
from jaxclf.trees import Tree

RECIPE = "recipe.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions.npz"
SUMMARY = "summary.json"
RATES = "lr_curves.json"
SUBMISSION = "submission.csv"
REPORT = "report.html"
#: Everything a run writes, and all that `--overwrite` removes.
CONTENTS = (RECIPE, METRICS, CHECKPOINTS, PREDICTIONS, RATES, SUBMISSION, REPORT, SUMMARY)


class ClassifierSpec(NamedTuple):
    """All that is needed to build a run's network again and to feed it; part of every checkpoint's metadata."""

    arch: str
    classes: tuple[str, ...]
    head: str
    dropout: float
    precision: str
    preprocess: Preprocess
    multi_label: bool = False
    threshold: float = 0.5

    def create(self) -> Classifier:
        """The network, without its arrays."""
        return create_classifier(
            self.arch,
            len(self.classes),
            head=self.head,  # type: ignore[arg-type]  # checked when the recipe was read
            dropout=self.dropout,
            dtype=jnp.bfloat16 if self.precision == "bfloat16" else jnp.float32,
        )

    def to_metadata(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self._asdict(), "classes": list(self.classes), "preprocess": dataclasses.asdict(self.preprocess)}

    @classmethod
    def from_metadata(cls, data: Mapping[str, Any]) -> "ClassifierSpec":
        """Back from `to_metadata`."""
        preprocess = from_dict(Preprocess, data["preprocess"], "preprocess.")
        return cls(**{**data, "classes": tuple(data["classes"]), "preprocess": preprocess})


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
        state = "a finished run" if SUMMARY in present else "a run that did not finish"
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


def append_metrics(out: Path, row: Mapping[str, Any]) -> None:
    """Adds a line to `metrics.jsonl`."""
    with open(out / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_predictions(out: Path, predictions: Predictions, names: Sequence[str], classes: Sequence[str]) -> Path:
    """Writes `predictions.npz`: logits, labels, index, `files` (name of each example) and `classes`."""
    arrays = {**predictions._asdict(), "files": np.array(list(names)), "classes": np.array(list(classes))}
    return write_npz(out / PREDICTIONS, arrays)


def write_summary(out: Path, summary: Mapping[str, Any]) -> Path:
    """Writes `summary.json`, last of all: a run without it did not finish."""
    return write_atomic(out / SUMMARY, json.dumps(summary, indent=1) + "\n")


class Prediction(NamedTuple):
    """What a run says of a picture.

    Attributes:
      label: the class; of a multi-label run, the labels in one string, "|" between them, "" for none.
      probability: of the class; of a multi-label run, of its most probable label.
      probabilities: float64 [c], in the order of the run's `classes`.
      labels: the class as a tuple of one, or all labels whose probability reaches the run's threshold.
    """

    label: str
    probability: float
    probabilities: np.ndarray
    labels: tuple[str, ...]


class Run:
    """A finished run, ready to predict.

    Attributes:
      folder, recipe, summary: what the RUN folder holds.
      spec: the network and its preprocessing; `classes` are its classes.
      model, variables: for use with the functions of jaxclf.
    """

    def __init__(self, folder: Path, recipe: Recipe, summary: dict[str, Any], spec: ClassifierSpec, variables: Tree):
        self.folder = folder
        self.recipe = recipe
        self.summary = summary
        self.spec = spec
        self.classes = spec.classes
        self.variables = variables
        self.model = spec.create()
        self.predict_step = make_predict_step(self.model, preprocess=spec.preprocess)

    def pixels(self, picture: Picture) -> np.ndarray:
        """What the network sees of a picture: uint8 [s, s, 3]. Raises ValueError, naming the file, if unreadable."""
        return evaluation_pixels(picture, self.spec.preprocess)

    def predict(self, picture: Picture) -> Prediction:
        """Class and probabilities of one picture: a path, a PIL image, or uint8 [h, w, 3] pixels.

        Raises:
          ValueError: naming the file, if it cannot be read.
        """
        return next(self.predict_pixels([self.pixels(picture)], batch_size=1))

    def predict_pixels(self, pictures: Iterable[np.ndarray], *, batch_size: int | None = None) -> Iterator[Prediction]:
        """Predicts a stream of `pixels`, batch by batch; all batches have one shape, so one compile serves all."""
        batch_size = batch_size or self.recipe.batch_size
        buffer: list[np.ndarray] = []
        for picture in pictures:
            buffer.append(picture)
            if len(buffer) == batch_size:
                yield from self._predict_batch(np.stack(buffer), batch_size)
                buffer = []
        if buffer:
            yield from self._predict_batch(np.stack(buffer), batch_size)

    def _predict_batch(self, images: np.ndarray, batch_size: int) -> Iterator[Prediction]:
        padding = [(0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)]
        logits = jax.device_get(self.predict_step(self.variables, np.pad(images, padding)))[: len(images)]
        rows = label_probabilities(logits) if self.spec.multi_label else probabilities(logits)
        for row in rows:
            best = int(row.argmax())
            if self.spec.multi_label:
                labels = tuple(self.classes[i] for i in np.flatnonzero(row >= self.spec.threshold))
            else:
                labels = (self.classes[best],)
            yield Prediction("|".join(labels), float(row[best]), row, labels)


def load_run(run: str | os.PathLike[str]) -> Run:
    """Opens a finished RUN folder.

    Raises:
      ValueError: naming the folder, if it is missing, is no run, or the run did not finish.

    Example (not run here: it needs a run):
      jaxclf.load_run("runs/pets").predict("cat.jpg").label
    """
    folder = Path(run)
    if not folder.is_dir():
        raise ValueError(f"run {folder} does not exist; make one with `jaxclf fit DATA --out {folder}`")
    if not (folder / RECIPE).is_file():
        raise ValueError(f"{folder} is not a run: it holds no {RECIPE}; give the --out folder of a `jaxclf fit`")
    if not (folder / SUMMARY).is_file():
        raise ValueError(f"the run in {folder} did not finish: it has no {SUMMARY}; run `jaxclf fit` again")
    try:
        recipe = from_json(Recipe, (folder / RECIPE).read_text(encoding="utf-8"))
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"the run in {folder} is damaged: {error}") from error
    if not isinstance(summary, dict) or "checkpoint" not in summary:
        raise ValueError(f"the run in {folder} is damaged: {SUMMARY} does not name a checkpoint")
    checkpoint = folder / summary["checkpoint"]
    try:
        spec = ClassifierSpec.from_metadata(read_metadata(checkpoint)["classifier"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"checkpoint {checkpoint} does not describe a classifier: {error!r}") from error
    return Run(folder, recipe, summary, spec, load_variables(checkpoint))
