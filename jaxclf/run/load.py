"""A finished run: its network and settings out of the RUN folder, ready to predict."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.config import Preprocess, Recipe, from_dict, from_json
from jaxclf.data.decode import Picture, evaluation_pixels
from jaxclf.data.devices import all_devices, data_mesh, replicate, shard_batch
from jaxclf.inference.decision import Prediction, decide
from jaxclf.inference.predict import make_predict_step
from jaxclf.metrics import label_probabilities, probabilities
from jaxclf.models.classifier import Classifier, create_classifier
from jaxclf.models.trees import Tree
from jaxclf.run.checkpoint_file import load_variables, read_metadata
from jaxclf.run.folder import RECIPE, SUMMARY


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


class Run:
    """A finished run, ready to predict.

    Attributes:
      folder, recipe, summary: what the RUN folder holds.
      spec: the network and its preprocessing; `classes` are its classes.
      model, variables: for use with the functions of jaxclf.
      temperature: what logits are divided by before they become probabilities, 1 where the run fit none.
    """

    def __init__(self, folder: Path, recipe: Recipe, summary: dict[str, Any], spec: ClassifierSpec, variables: Tree):
        self.folder = folder
        self.recipe = recipe
        self.summary = summary
        self.spec = spec
        self.classes = spec.classes
        self.variables = variables
        self.temperature = _temperature(folder, summary)
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
        batch_size = batch_size or self.recipe.settings.batch(self.summary["num_train"])
        buffer: list[np.ndarray] = []
        for picture in pictures:
            buffer.append(picture)
            if len(buffer) == batch_size:
                yield from self.decide(self.probabilities(np.stack(buffer), batch_size=batch_size))
                buffer = []
        if buffer:
            yield from self.decide(self.probabilities(np.stack(buffer), batch_size=batch_size))

    def probabilities(self, images: np.ndarray, *, batch_size: int | None = None) -> np.ndarray:
        """uint8 [b, s, s, 3] `pixels` -> float64 [b, c] probabilities, calibrated by the run's temperature.

        Args:
          images: at least one picture.
          batch_size: rows that the network sees; the missing ones are padding, so that one compile serves all.
        """
        padding = [(0, (batch_size or len(images)) - len(images)), (0, 0), (0, 0), (0, 0)]
        padded: Any = np.pad(images, padding)
        mesh = all_devices(len(padded))
        variables = self.variables if mesh is None else self._replicated
        padded = padded if mesh is None else shard_batch(padded, mesh)
        logits = jax.device_get(self.predict_step(variables, padded))[: len(images)]
        scaled = np.asarray(logits, np.float64) / self.temperature
        return label_probabilities(scaled) if self.spec.multi_label else probabilities(scaled)

    @functools.cached_property
    def _replicated(self) -> Tree:
        """The variables on every device."""
        return replicate(self.variables, data_mesh())

    def decide(self, probabilities: np.ndarray) -> Iterator[Prediction]:
        """The predictions that follow from calibrated `probabilities`."""
        return decide(
            probabilities,
            self.classes,
            multi_label=self.spec.multi_label,
            threshold=self.spec.threshold,
            temperature=self.temperature,
        )


def _temperature(folder: Path, summary: Mapping[str, Any]) -> float:
    """What `summary.json` says of calibration: 1 where it says nothing."""
    calibration = summary.get("calibration")
    value = calibration.get("temperature", 1.0) if isinstance(calibration, Mapping) else 1.0
    if type(value) not in (int, float) or not 0.0 < value < float("inf"):
        raise ValueError(
            f"the run in {folder} is damaged: {SUMMARY} gives the calibration temperature {value!r}, which is not a "
            "positive number"
        )
    return float(value)


def load_recipe(run: str | os.PathLike[str]) -> Recipe:
    """The recipe of a finished RUN folder. Raises ValueError as `load_run` does."""
    folder = Path(run)
    if not folder.is_dir():
        raise ValueError(f"run {folder} does not exist; make one with `jaxclf fit DATA --out {folder}`")
    if not (folder / RECIPE).is_file():
        raise ValueError(f"{folder} is not a run: it holds no {RECIPE}; give the --out folder of a `jaxclf fit`")
    if not (folder / SUMMARY).is_file():
        raise ValueError(
            f"the run in {folder} did not finish: it has no {SUMMARY}; go on with `jaxclf fit` and --resume"
        )
    try:
        return from_json(Recipe, (folder / RECIPE).read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"the run in {folder} is damaged: {error}") from error


def load_run(run: str | os.PathLike[str]) -> Run:
    """Opens a finished RUN folder.

    Raises:
      ValueError: naming the folder, if it is missing, is no run, or the run did not finish.

    Example (not run here: it needs a run):
      jaxclf.load_run("runs/pets").predict("cat.jpg").label
    """
    folder = Path(run)
    recipe = load_recipe(folder)
    try:
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
