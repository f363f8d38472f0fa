"""What a turn says of the pictures of valid/, sorted by CLASS/FILE, so that sides can be compared one by one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxclf._files import write_npz

JUDGED = "judged.npz"


class Said(NamedTuple):
    """What a turn says of the pictures.

    Attributes:
      names: of the states, in the order of training: phases, by their ends.
      plain, augmented: float32 [k, n, c] log probabilities, without and with test-time augmentation.
      labels: int [n].
      files: CLASS/FILE of each.
    """

    names: np.ndarray
    plain: np.ndarray
    augmented: np.ndarray
    labels: np.ndarray
    files: np.ndarray


def write_said(folder: Path, said: Said) -> None:
    """Keeps it, in the order of the files."""
    order = np.argsort(said.files)
    rows = {"plain": said.plain[:, order], "augmented": said.augmented[:, order]}
    write_npz(folder / JUDGED, {"names": said.names, **rows, "labels": said.labels[order], "files": said.files[order]})


def read_said(folder: Path) -> Said:
    """What `write_said` kept."""
    with np.load(folder / JUDGED, allow_pickle=False) as stored:
        return Said(**{name: stored[name] for name in Said._fields})


def file_name(path: str) -> str:
    """CLASS/FILE."""
    return "/".join(Path(path).parts[-2:])
