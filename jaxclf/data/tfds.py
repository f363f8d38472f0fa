"""TensorFlow data sets without TensorFlow: prepared ones, read at random from array_record files."""

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxclf.data.sources import UNKNOWN_LABEL, EncodedImage, Example, listing

#: Names of a data set's splits, by the part they serve as.
SPLITS = {"train": ("train",), "valid": ("validation", "valid", "val"), "test": ("test",)}
#: Records read at once while the labels are collected.
_CHUNK = 256

_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>\w[\w.+-]*))?(:(?P<version>\d+\.\d+\.\d+))?")


def default_data_dir() -> Path:
    """Where prepared data sets lie: `TFDS_DATA_DIR`, or `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets").expanduser()


def prepare_command(name: str, data_dir: Path) -> str:
    """The command that downloads a data set and writes it in a form that can be read at random."""
    code = (
        f"import tensorflow_datasets as tfds; tfds.builder({json.dumps(name)}, data_dir={json.dumps(str(data_dir))}, "
        'file_format="array_record").download_and_prepare()'
    )
    return f"python -c {shlex.quote(code)}"


def find_prepared(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a prepared data set: `data_dir/NAME[/CONFIG]/VERSION`. Looks at folders only, not at the network.

    Args:
      name: `NAME[/CONFIG][:VERSION]`. Without a version the newest is taken; without a config, the only one there is.
      data_dir: `None` takes `default_data_dir()`.

    Raises:
      ValueError: for a malformed name; for several configs to choose from; or if it is not prepared, with the command.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"tfds:{name} is not a data set's name; write tfds:NAME[/CONFIG][:VERSION]")
    root = Path(data_dir) if data_dir is not None else default_data_dir()
    folder = root / match["name"]
    if match["config"]:
        folder /= match["config"]
    elif not _versions(folder):
        configs = sorted(entry.name for entry in folder.iterdir() if _versions(entry)) if folder.is_dir() else []
        if len(configs) > 1:
            raise ValueError(f"tfds:{name} is prepared in several configs; choose one of {listing(configs)} ({folder})")
        folder = folder / configs[0] if configs else folder
    versions = _versions(folder)
    wanted = match["version"] or max(versions, key=_version_key, default=None)
    if wanted not in versions:
        found = f" (prepared: {listing(versions)})" if versions else ""
        raise ValueError(
            f"tfds:{name} is not prepared in {root}{found}. Prepare it once, in a Python environment of its own, since "
            "most data sets need TensorFlow for that (pip install tensorflow tensorflow-datasets array_record): "
            f"{prepare_command(name, root)} - or set TFDS_DATA_DIR to where it lies"
        )
    return folder / wanted


def _versions(folder: Path) -> list[str]:
    """The versions that are prepared in a folder."""
    found = folder.glob("*/dataset_info.json") if folder.is_dir() else ()
    return sorted(
        (path.parent.name for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)), key=_version_key
    )


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _builder(name: str, path: Path) -> Any:
    """The reader of a prepared folder; the data set's own code is neither needed nor run."""
    import tensorflow_datasets as tfds  # takes a while to import, so only where it is used

    try:
        json.loads((path / "features.json").read_text(encoding="utf-8"), object_hook=_check_feature)
        return tfds.builder_from_directory(path)
    except Exception as error:  # whatever its parsers raise for damaged metadata
        raise ValueError(
            f"tfds:{name}: {path} cannot be read ({type(error).__name__}: {error}); delete it and prepare it again"
        ) from error


def _check_feature(values: dict[str, Any]) -> dict[str, Any]:
    """Refuses metadata that names a class outside tensorflow_datasets, whose module would be imported."""
    for key in ("pythonClassName", "python_class_name", "type"):
        name = values.get(key, "tensorflow_datasets.")
        if isinstance(name, str) and not name.startswith("tensorflow_datasets."):
            raise ValueError(f"feature class {name!r} is not one of tensorflow_datasets")
    return values


def split_names(name: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names of a prepared data set's splits, see `find_prepared`."""
    return tuple(_builder(name, find_prepared(name, data_dir)).info.splits)


class TfdsSource:
    """One split of a prepared TensorFlow data set. TensorFlow is not needed and not imported.

    The labels are read once at the start, which reads every record; pictures come as the encoded bytes they are stored
    as, so that they are decoded as a file would be. It pickles as the folder's path and opens its files anew.

    Args:
      name: `NAME[/CONFIG][:VERSION]`, with or without a leading `tfds:`.
      split: as the data set names it, e.g. "train" or "test".
      data_dir: where prepared data sets lie; `None` takes `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      classes: class names and their order, when another split or a run decided them; `None` takes the data set's.

    Raises:
      ValueError: if it is not prepared (the message holds the command), is stored in a form without random access, has
        no such split, or has no one picture and no one label per record.
    """

    def __init__(
        self,
        name: str,
        *,
        split: str = "train",
        data_dir: str | os.PathLike[str] | None = None,
        classes: Sequence[str] | None = None,
    ):
        self.dataset = name.removeprefix("tfds:")
        self.path = find_prepared(self.dataset, data_dir)
        self.split = split
        info = _builder(self.dataset, self.path).info
        if split not in info.splits:
            raise ValueError(f"tfds:{self.dataset} has no split {split!r}; it has {', '.join(info.splits)}")
        self._image, self._label, self.multi_label, names = self._features(info)
        self.classes = tuple(names) if classes is None else tuple(classes)
        if len(self.classes) < 2:
            raise ValueError(f"tfds:{self.dataset} has one class only ({names[0]!r}); a classifier needs at least two")
        self._reader = self._open()
        self.labels = self._read_labels(names)

    def _features(self, info: Any) -> tuple[str, str, bool, list[str]]:
        """(picture's key, label's key, multi-label?, class names) of the records."""
        import tensorflow_datasets as tfds

        features = dict(info.features)
        supervised = info.supervised_keys if info.supervised_keys and len(info.supervised_keys) == 2 else (None, None)
        images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        labels = [key for key, feature in features.items() if _class_label(feature) is not None]
        image, label = (
            next((key for key in (given, usual) if key in found), found[0] if len(found) == 1 else None)
            for given, usual, found in zip(supervised, ("image", "label"), (images, labels), strict=True)
        )
        classes = _class_label(features[label]) if label is not None else None
        if image is None or label is None or classes is None or classes.names is None:
            raise ValueError(
                f"tfds:{self.dataset} is no classification data set: it needs one picture and one class label per "
                f"record, and has {listing([f'{key} ({type(value).__name__})' for key, value in features.items()])}"
            )
        return image, label, classes is not features[label], list(classes.names)

    def _open(self) -> tuple[Any, Any, Any]:
        """(array_record reader, the two features that are wanted, how to leave the picture encoded)."""
        import tensorflow_datasets as tfds

        builder = _builder(self.dataset, self.path)
        wanted = {key: builder.info.features[key] for key in (self._image, self._label)}
        features = tfds.features.FeaturesDict(wanted)  # whatever else a record holds is not even parsed
        try:
            records = builder.as_data_source(
                self.split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES, file_format="array_record"
            )
        except (NotImplementedError, ValueError) as error:
            formats = listing(sorted(form.value for form in builder.info.available_file_formats()))
            raise ValueError(
                f"tfds:{self.dataset} is stored in {self.path} as {formats}, which is not read at random; delete it, "
                "or choose another folder by TFDS_DATA_DIR, and prepare it again as array_record: "
                f"{prepare_command(self.dataset, default_data_dir())}"
            ) from error
        return records, features, {self._image: tfds.decode.SkipDecoding()}

    def _read_labels(self, names: list[str]) -> np.ndarray:
        total = len(self._reader[0])
        numbers = np.array([self.classes.index(name) if name in self.classes else -2 for name in names], np.int32)
        rows = np.zeros((total, len(self.classes)), np.float32) if self.multi_label else None
        labels = np.full(total, UNKNOWN_LABEL, np.int32)
        for start in range(0, total, _CHUNK):
            chunk = range(start, min(start + _CHUNK, total))
            for index, record in zip(chunk, self._read(chunk), strict=True):
                for label in np.atleast_1d(record[self._label]):
                    if not self.multi_label and label < 0:
                        continue  # how unlabelled test splits say that they do not know
                    if not 0 <= label < len(names) or numbers[label] < 0:
                        shown = repr(names[label]) if 0 <= label < len(names) else f"number {label}"
                        raise ValueError(
                            f"{self.name(index)}: class {shown} is not among the known ones ({listing(self.classes)})"
                        )
                    if rows is None:
                        labels[index] = numbers[label]
                    else:
                        rows[index, numbers[label]] = 1
        return labels if rows is None else rows

    def _read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        records, features, decoders = self._reader
        try:
            found = records.__getitems__(list(indices))
            return [features.deserialize_example_np(record, decoders=decoders) for record in found]
        except Exception as error:  # its reader raises RuntimeError, its parser whatever comes
            raise ValueError(
                f"{self.name(indices[0])} cannot be read ({type(error).__name__}: {error}); files in {self.path} are "
                "missing or damaged: delete it and prepare it again"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reader = self._open()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        label = self.labels[index]
        picture = EncodedImage(self._read([index])[0][self._image], self.name(index))
        return Example(picture, label if self.multi_label else int(label))

    def name(self, index: int) -> str:
        """`NAME/VERSION/SPLIT/NUMBER`: records have no names of their own."""
        return f"tfds:{self.dataset.split(':')[0]}:{self.path.name}/{self.split}/{index}"


def _class_label(feature: Any) -> Any:
    """The ClassLabel of a label feature, or of each label in a sequence of them; `None` for anything else."""
    import tensorflow_datasets as tfds

    feature = getattr(feature, "feature", feature)
    return feature if isinstance(feature, tfds.features.ClassLabel) else None
