"""What do the Tiny ImageNet weights score in jaxclf, the float32 originals and the half-precision copy that is bundled?

    python benchmarks/tiny_imagenet_score.py [--data ZIP] [--weights FILE.safetensors] [--num-images 10000]

Evaluated as their README describes: each 64 x 64 uint8 image to float, enlarged bilinearly by 1.5 (half-pixel centres,
no antialiasing), then normalised; classes are the folder names in sorted order. PyTorch in float32 gave top-1 0.5169,
top-5 0.7686 and log loss 2.0322.
"""

import argparse
import io
import time
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import describe
from PIL import Image

from jaxclf.augment import normalize
from jaxclf.models import Variables, create_classifier
from jaxclf.weights.load import Pretrained, load_weights

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"
DATA = SHARED / "data" / "tiny-imagenet-val.zip"
WEIGHTS = SHARED / "weights" / "resnet10t-tiny-imagenet.safetensors"
#: The figures of PyTorch, float32, from the weights' README: top-1, top-5, log loss.
TORCH = (0.5169, 0.7686, 2.0322)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="tiny-imagenet-val.zip")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="the float32 weights")
    parser.add_argument("--num-images", type=int, default=None, help="take every k-th image; all without it")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    print(describe())
    images, labels = read_images(args.data, args.num_images)
    print(f"{len(images)} images of {args.data.name}")
    print(f"{'weights':24} {'top-1':>8} {'top-5':>8} {'log loss':>9} {'seconds':>8}")
    print(f"{'PyTorch (README)':24} {TORCH[0]:8.4f} {TORCH[1]:8.4f} {TORCH[2]:9.4f}")
    for name, source in (("float32", str(args.weights)), ("bundled tiny-imagenet", "tiny-imagenet")):
        start = time.perf_counter()
        top1, top5, loss = score(load_weights(source, "resnet10t"), images, labels)
        print(f"{name:24} {top1:8.4f} {top5:8.4f} {loss:9.4f} {time.perf_counter() - start:8.1f}")


if __name__ == "__main__":
    main()
