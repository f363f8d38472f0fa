"""The demo data set as a folder: drawings of cats and dogs in `train/` and `valid/`, made once and reused."""

import json
import os
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from jaxclf._progress import OnProgress
from jaxclf.data.demo.drawing import KINDS, draw_face

FORMAT = 1  # raise it whenever the drawings change, so that an older folder is not taken for a new one


def write_drawings(
    folder: str | os.PathLike[str],
    *,
    num_train: int = 1000,
    num_valid: int = 200,
    size: int = 96,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Path:
    """Writes the demo data set as `folder`/{train,valid}/{cat,dog}/NNNN.jpg, or reuses it if it is already there.

    The folder appears in one step when all drawings are done: they are made in `.NAME.partial-PID-RANDOM` beside it,
    which is removed on failure and never read again. A set with fewer drawings holds the first ones of a larger set.

    Args:
      folder: where the set belongs; returned as a path.
      num_train, num_valid: drawings for training and for validation, even and at least 2: half cats, half dogs.
      size: height and width in pixels, at least 16.
      seed: which data set, 0 or more.
      on_progress: called with (drawings done, all drawings) now and then and at the end, not on reuse.

    Raises:
      ValueError: if an argument is out of range, or `folder` exists and is anything else; it is left untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as scratch:
    ...     folder = write_drawings(f"{scratch}/faces", num_train=2, num_valid=2, size=16)
    ...     sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    ['train/cat/0000.jpg', 'train/dog/0000.jpg', 'valid/cat/0000.jpg', 'valid/dog/0000.jpg']
    """
    record = {"format": FORMAT, "num_train": num_train, "num_valid": num_valid, "size": size, "seed": seed}
    for name, least in (("num_train", 2), ("num_valid", 2), ("size", 16), ("seed", 0)):
        if record[name] < least or (least == 2 and record[name] % 2):
            raise ValueError(f"{name} must be {'even and ' * (least == 2)}at least {least}, got {record[name]}")
    folder, todo = Path(folder), {}
    for split, count in enumerate((num_train, num_valid)):
        for i in range(count):  # the number of a drawing: set, split and place never overlap
            name = f"{('train', 'valid')[split]}/{KINDS[i % 2]}/{i // 2:04d}.jpg"
            todo[name] = (KINDS[i % 2], ((2 * seed + split) << 32) + i)
    if _holds(folder, record, todo):
        return folder
    if os.path.lexists(folder):
        raise ValueError(
            f"folder {folder} exists and is not a complete set of these drawings ({json.dumps(record)}); "
            "choose another folder, or move or delete this one yourself"
        )
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        for done, (name, (kind, number)) in enumerate(todo.items(), 1):
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_face(kind, number, size=size).save(path, quality=90)
            if on_progress is not None and (done % 50 == 0 or done == len(todo)):
                on_progress(done, len(todo))
        (partial / "drawings.json").write_text(json.dumps(record), encoding="utf-8")
        partial.rename(folder)
    except OSError:
        if not _holds(folder, record, todo):  # else another process has just finished the same set
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _holds(folder: Path, record: dict[str, int], names: Iterable[str]) -> bool:
    """Whether `folder` holds exactly the drawings that `record` describes."""
    try:
        same = json.loads((folder / "drawings.json").read_text(encoding="utf-8")) == record
    except (OSError, ValueError):
        return False
    return same and {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")} == set(names)
