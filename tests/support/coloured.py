"""Pictures that are told apart by their colour, their loaders, and a phase that is cheap to compile."""

import numpy as np

from jaxclf.config import MODULES, Phase, Settings
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset

IMAGE_SIZE = 32
#: Cheap to compile, where it does not matter what is trained.
HEAD = Phase("head", lrs=(0.01,) * 3, frozen=MODULES[:5])
#: Of a network with random weights: on few photos, the BatchNorm of a pretrained body would keep still.
SCRATCH = Settings(weights="none")


def coloured(count: int, seed: int = 0) -> ArrayDataset:
    """Three classes told apart by colour."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(seed).normal(0, 30, (count, 40, 40, 3))
    return ArrayDataset(np.clip(np.eye(3)[labels][:, None, None] * 120 + 60 + noise, 0, 255).astype(np.uint8), labels)


def loaders(presized=True, count=46):
    train = Loader(coloured(count), batch_size=8, image_size=IMAGE_SIZE, train=True, presized=presized)
    return train, Loader(coloured(19, seed=1), batch_size=8, image_size=IMAGE_SIZE, train=False)
