"""What do the Tiny ImageNet weights score in jaxclf, the float32 originals and the half-precision copy that is bundled?

Evaluated as their README describes: each 64 x 64 uint8 image to float, enlarged bilinearly by 1.5 (half-pixel centres,
no antialiasing), then normalised; classes are the folder names in sorted order. Held against what PyTorch in float32
gave, from the same README.
"""

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Run, find_folder
from PIL import Image

from jaxclf.augment import normalize
from jaxclf.models import Variables, create_classifier
from jaxclf.weights.load import Pretrained, load_weights

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
DATA = SHARED / "data" / "tiny-imagenet-val.zip"
WEIGHTS = SHARED / "weights" / "resnet10t-tiny-imagenet.safetensors"
#: The figures of PyTorch, float32, from the weights' README: top-1, top-5, log loss.
TORCH = (0.5169, 0.7686, 2.0322)
NAMES = ("top-1", "top-5", "log loss")
TURNS = 1
WARM_UP = 0
SMOKE = {"num_images": 100}


@dataclasses.dataclass(frozen=True)
class Case:
    """Every k-th image where fewer than all are asked for; all for 0."""

    weights: str = str(WEIGHTS)
    num_images: int = 0
    data: str = str(DATA)


def cases() -> list[Case]:
    return [Case(), Case("tiny-imagenet")]


def ours(case: Case) -> Run:
    images, labels = read_images(find_folder(case.data), case.num_images)
    pretrained = load_weights(case.weights, "resnet10t")

    def turn(number: int) -> dict[str, float]:
        with jax.default_matmul_precision("highest"):
            return dict(zip(NAMES, score(pretrained, images, labels), strict=True))

    return Run("jaxclf", turn, items=len(images))


def peer(case: Case) -> Run:
    return Run("PyTorch, as its README says", lambda number: dict(zip(NAMES, TORCH, strict=True)))


def read_images(path: Path, num_images: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [n, 64, 64, 3] and int32 [n]; every k-th image where fewer than all are asked for."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".JPEG"))
        classes = sorted({name.split("/")[1] for name in names})
        names = names[:: max(len(names) // num_images, 1)] if num_images else names
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    return np.stack(images), np.array([classes.index(name.split("/")[1]) for name in names], np.int32)


def score(pretrained: Pretrained, images: np.ndarray, labels: np.ndarray, batch_size: int = 250) -> tuple[float, ...]:
    """Top-1 and top-5 accuracy and mean log loss."""
    variables, config = pretrained
    model = create_classifier(config.arch, len(config.classes))
    side = config.preprocess.image_size

    @jax.jit
    def evaluate(variables: Variables, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        shape = (images.shape[0], side, side, 3)
        inputs = jax.image.resize(images.astype(jnp.float32) / 255.0, shape, "bilinear", antialias=False)
        logits: Any = model.apply(variables, normalize(inputs, config.preprocess.mean, config.preprocess.std))
        of_label = jnp.take_along_axis(logits, labels[:, None], 1)
        rank = (logits > of_label).sum(1)  # how many classes are thought likelier
        losses = jax.nn.logsumexp(logits, 1) - of_label[:, 0]
        return (rank < 1).sum(), (rank < 5).sum(), losses.sum()

    starts = range(0, len(images), batch_size)
    sums = [evaluate(variables, images[i : i + batch_size], labels[i : i + batch_size]) for i in starts]
    return tuple(float(sum(column)) / len(images) for column in zip(*sums, strict=True))
