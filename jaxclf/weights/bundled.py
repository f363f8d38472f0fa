"""Weights that come with the package, for demonstration and tests where no hub can be reached."""

from importlib.resources import files
from pathlib import Path

import numpy as np

from jaxclf.config import PretrainedConfig, from_json
from jaxclf.weights.readers import file_sha256, read_state_dict

#: Name -> file in `bundled/`, which holds the .safetensors, a .json beside it, and NOTICE.md on origin and terms.
_FILES = {"tiny-imagenet": "resnet10t-tiny-imagenet.safetensors"}


def bundled_names() -> tuple[str, ...]:
    """The names of the weights that come with the package.

    >>> bundled_names()
    ('tiny-imagenet',)
    """
    return tuple(_FILES)


def bundled_path(name: str) -> Path:
    """The file of bundled weights.

    Raises:
      ValueError: for an unknown name, or when the package is not installed as plain files.
    """
    if name not in _FILES:
        raise ValueError(f"name={name!r} is not bundled; there is {', '.join(_FILES)}")
    path = files("jaxclf.weights").joinpath("bundled", _FILES[name])
    if not isinstance(path, Path) or not path.is_file():
        raise ValueError(f"the bundled weights {name!r} are not installed at {path}: install jaxclf as plain files")
    return path


def bundled_config(name: str) -> PretrainedConfig:
    """What is known about bundled weights: architecture, preprocessing, classes, licence, origin and SHA-256.

    >>> bundled_config("tiny-imagenet").arch
    'resnet10t'

    Raises:
      ValueError: for an unknown name.
    """
    return from_json(PretrainedConfig, bundled_path(name).with_suffix(".json").read_text(encoding="utf-8"))


def read_bundled(name: str) -> tuple[dict[str, np.ndarray], PretrainedConfig]:
    """The state dict (kernels float16, the rest float32) and what is known about it.

    Raises:
      ValueError: for an unknown name, or if the file is not the one that was packed.
    """
    path, config = bundled_path(name), bundled_config(name)
    found = file_sha256(path)
    if found != config.sha256:
        raise ValueError(
            f"the bundled weights {path} were changed after packaging (SHA-256 {found}, expected {config.sha256}): "
            "install jaxclf again"
        )
    return read_state_dict(path), config
