"""A classifier in one file: uint8 pixels in, calibrated probabilities out, on CPU, CUDA and TPU, without its code.

The file holds the network as `jax.export` writes it (StableHLO, for any batch of at least one), and its arrays beside
the program, as arguments: as constants they would be copied by every pass of the compiler. See `inference.export_file`.

Reading a file runs no Python from it: JSON, flatbuffers, MLIR bytecode and safetensors hold data only. Its program is
compiled by XLA and run on the device when it predicts; one that calls anything outside itself (a StableHLO custom call
could name a function inside the process) is refused when it is loaded.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from jaxclf.config import Preprocess
from jaxclf.data.decode import Picture, evaluation_pixels
from jaxclf.inference.decision import Prediction, decide
from jaxclf.inference.export_file import Description, read_export, write_export
from jaxclf.inference.predict import make_predict_step
from jaxclf.models.classifier import Classifier
from jaxclf.models.trees import leaf_paths

#: Where an exported classifier can run, unless told otherwise; `jax.export` also knows "rocm".
PLATFORMS = ("cpu", "cuda", "tpu")
#: Pictures that `ExportedClassifier.predict` shows the network at a time.
BATCH_SIZE = 32
#: What `jax.export` itself puts in, to check that a batch is at least 1; XLA removes it before running anything.
_ALLOWED_CALLS = re.compile(r"stablehlo\.custom_call @shape_assertion\(")


def export_classifier(
    path: str | os.PathLike[str],
    model: Classifier,
    variables: Mapping[str, Any],
    *,
    preprocess: Preprocess,
    classes: Sequence[str],
    temperature: float = 1.0,
    multi_label: bool = False,
    threshold: float = 0.5,
    platforms: Sequence[str] = PLATFORMS,
    overwrite: bool = False,
) -> Path:
    """Writes a classifier to one file, for `load_exported`: p = softmax(logits / temperature), or sigmoid.

    Args:
      path: the file; its folder must exist.
      model, variables: the classifier, with logits for each of `classes`.
      preprocess: how pictures were prepared for it.
      classes: names, in the order of the logits.
      temperature: from `cross_fit_temperature`; 1 leaves the probabilities as they are.
      multi_label: the probabilities are sigmoids, and those that reach `threshold` are labels.
      threshold: in (0, 1), on the scale of temperature 1: see `jaxclf.inference.decision.calibrated_threshold`.
      platforms: where it shall run; needs none of them here.
      overwrite: replace a file that exists.

    Raises:
      ValueError: for classes that do not fit the model, values out of range, unknown platforms, a missing folder, or a
        file that exists.
    """
    path, classes = Path(path), tuple(classes)
    if len(classes) != model.num_classes or len(set(classes)) != len(classes):
        raise ValueError(f"classes={classes!r} must be {model.num_classes} different names, one for each logit")
    unknown = sorted(set(platforms) - {*PLATFORMS, "rocm"})
    if unknown or not platforms:
        raise ValueError(f"platforms={tuple(platforms)!r} must be some of {', '.join(PLATFORMS)}, rocm")
    check_target(path, overwrite=overwrite)
    description = Description(
        arch=model.config.arch,
        precision=jnp.dtype(model.dtype).name,
        classes=classes,
        preprocess=preprocess,
        temperature=float(temperature),
        multi_label=multi_label,
        threshold=float(threshold),
        platforms=tuple(platforms),
        jax_version=jax.__version__,
    )
    program = lower_classifier(model, variables, description).serialize()
    return write_export(path, description, bytes(program), dict(leaf_paths(jax.device_get(variables))))


def check_target(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Makes sure that a file may be written to `path`; changes nothing.

    Raises:
      ValueError: for a folder, a missing folder, or a file that exists and `overwrite` is False.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"file {path} is a folder; give a file in it")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"folder {path.parent} does not exist; make it first")
    if path.exists() and not overwrite:
        raise ValueError(f"file {path} exists already; choose another name, or replace it with --overwrite")
    return path


class ExportedClassifier:
    """A classifier out of a file, ready to predict; made by `load_exported`.

    Attributes:
      path: the file.
      description: see `Description`; `classes`, `preprocess` and `multi_label` are its own.
    """

    def __init__(
        self, path: Path, description: Description, exported: jax_export.Exported, arrays: Sequence[np.ndarray]
    ):
        self.path = path
        self.description = description
        self.classes = description.classes
        self.preprocess = description.preprocess
        self.multi_label = description.multi_label
        self._arrays = jax.device_put(list(arrays))
        self._call = jax.jit(exported.call)

    def pixels(self, picture: Picture) -> np.ndarray:
        """What the network sees of a picture: uint8 [s, s, 3]. Raises ValueError, naming the file, if unreadable."""
        return evaluation_pixels(picture, self.preprocess)

    def probabilities(self, images: np.ndarray, *, batch_size: int | None = None) -> np.ndarray:
        """uint8 [b, s, s, 3] pixels -> float32 [b, c] calibrated probabilities; compiled once for each b >= 1.

        Args:
          images: the pixels.
          batch_size: rows that the network sees; the missing ones are padding, so that one compile serves all.

        Raises:
          ValueError: for pixels of another type or shape.
        """
        images, side = np.asarray(images), self.preprocess.image_size
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3) or not len(images):
            raise ValueError(
                f"images must be uint8 [b, {side}, {side}, 3] with b >= 1; found {images.dtype} {list(images.shape)}"
            )
        padding = [(0, (batch_size or len(images)) - len(images)), (0, 0), (0, 0), (0, 0)]
        return np.asarray(self._call(self._arrays, np.pad(images, padding)))[: len(images)]

    @overload
    def predict(self, pictures: Picture) -> Prediction: ...
    @overload
    def predict(self, pictures: list[Picture] | tuple[Picture, ...]) -> list[Prediction]: ...
    def predict(self, pictures: Picture | list[Picture] | tuple[Picture, ...]) -> Prediction | list[Prediction]:
        """Class and probabilities of a picture, or of each of a list of pictures, prepared here.

        Args:
          pictures: a path, an encoded file, a PIL image, or uint8 [h, w, 3] pixels; or a list or tuple of these.

        Raises:
          ValueError: naming the file, if one cannot be read.
        """
        if not isinstance(pictures, list | tuple):
            return self.predict([pictures])[0]
        images = [self.pixels(picture) for picture in pictures]
        found: list[Prediction] = []
        for start in range(0, len(images), BATCH_SIZE):
            batch = np.stack(images[start : start + BATCH_SIZE])
            found += self.decide(self.probabilities(batch, batch_size=1 << (len(batch) - 1).bit_length()))
        return found

    def decide(self, probabilities: np.ndarray) -> list[Prediction]:
        """The predictions that follow from `probabilities`."""
        return list(
            decide(
                probabilities,
                self.classes,
                multi_label=self.multi_label,
                threshold=self.description.threshold,
                temperature=self.description.temperature,
            )
        )


def load_exported(path: str | os.PathLike[str]) -> ExportedClassifier:
    """Opens a file from `export_classifier` or `jaxclf export`. The network is compiled when it is first used.

    Raises:
      ValueError: naming the path, if it is missing, something else, damaged, from a newer jaxclf, not for this
        process's device, or calls anything but itself.

    Example (not run here: it needs a file):
      jaxclf.load_exported("pets.jaxclf").predict("cat.jpg").label
    """
    path = Path(path)
    try:
        description, program, named = read_export(path)
        exported = _deserialize(program)
        arrays = [named[name] for name in sorted(named, key=lambda name: name.split("/"))]  # as jax.tree has them
        _check(description, exported, arrays)
    except ValueError as error:
        raise ValueError(f"exported classifier {path} {error}") from error
    return ExportedClassifier(path, description, exported, arrays)


def lower_classifier(model: Classifier, variables: Mapping[str, Any], description: Description) -> jax_export.Exported:
    """The network as a program: (list of arrays, uint8 [b, s, s, 3]) -> float32 [b, c]; only shapes are read."""
    leaves, structure = jax.tree.flatten(variables)
    predict_step = make_predict_step(model, preprocess=description.preprocess)

    def classify(arrays: list[jax.Array], images: jax.Array) -> jax.Array:
        logits = predict_step(jax.tree.unflatten(structure, arrays), images) / description.temperature
        return jax.nn.sigmoid(logits) if description.multi_label else jax.nn.softmax(logits, axis=-1)

    (batch,) = jax_export.symbolic_shape("b", constraints=["b >= 1"])
    side = description.preprocess.image_size
    return jax_export.export(jax.jit(classify), platforms=description.platforms)(
        [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves],
        jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8),
    )


def _deserialize(program: bytes) -> jax_export.Exported:
    try:
        exported = jax_export.deserialize(bytearray(program))
        text = exported.mlir_module()
    except MemoryError:
        raise
    except Exception as error:  # flatbuffers and MLIR have many kinds of their own
        raise ValueError(f"holds a program that JAX {jax.__version__} cannot read: {error}") from error
    if text.count("custom_call") != len(_ALLOWED_CALLS.findall(text)):
        raise ValueError("holds a program that calls functions outside itself; it was refused")
    return exported


def _check(description: Description, exported: jax_export.Exported, arrays: Sequence[np.ndarray]) -> None:
    """Makes sure that program, arrays and header belong together, and that this process can run it."""
    side = description.preprocess.image_size
    wanted = [(array.shape, array.dtype) for array in arrays] + [((side, side, 3), np.dtype(np.uint8))]
    found = [(aval.shape, aval.dtype) for aval in exported.in_avals]
    if found and len(found[-1][0]) == 4:
        found[-1] = (found[-1][0][1:], found[-1][1])
    outputs = [(aval.shape[1:], aval.dtype) for aval in exported.out_avals]
    if found != wanted or outputs != [((len(description.classes),), np.dtype(np.float32))]:
        raise ValueError("is inconsistent: its program, its arrays and its header do not belong together")
    here = jax_export.default_export_platform()
    if here not in exported.platforms:
        raise ValueError(f"was exported for {', '.join(exported.platforms)}, and JAX runs on {here} here")
