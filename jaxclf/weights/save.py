"""Weights out of jaxclf: a .safetensors file that torchvision and timm load, and its description beside it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxclf._files import write_atomic
from jaxclf.config import PretrainedConfig, to_json
from jaxclf.weights.readers import file_sha256


def save_state_dict(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, np.ndarray],
    config: PretrainedConfig,
    *,
    overwrite: bool = False,
) -> Path:
    """Writes a state dict as .safetensors, and `config` as .json beside it; `load_weights` reads both.

    Args:
      path: the file; it must end in .safetensors.
      state_dict: entry name -> array, from `to_state_dict`; `load_state_dict(.., strict=True)` takes it in PyTorch.
      config: what is to be known about the weights; its `sha256` is replaced by the file's.
      overwrite: replace files that exist.

    Returns:
      The path.

    Raises:
      ValueError: for another suffix, a missing folder, or a file that exists.
    """
    from safetensors.numpy import save

    path = Path(path)
    description = path.with_suffix(".json")
    if path.suffix != ".safetensors":
        raise ValueError(f"file {path} must end in .safetensors")
    if not path.parent.is_dir():
        raise ValueError(f"folder {path.parent} does not exist; make it first")
    existing = next((file for file in (path, description) if file.exists()), None)
    if existing is not None and not overwrite:
        raise ValueError(f"file {existing} exists already; choose another name, or replace it with --overwrite")
    write_atomic(path, save(dict(state_dict), {"format": "pt"}))
    write_atomic(description, to_json(dataclasses.replace(config, sha256=file_sha256(path))))
    return path
