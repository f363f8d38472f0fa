"""`load_weights`: from a file, a bundled name, a hub id or "auto" to checked variables and what is known about them."""

import dataclasses
import difflib
import os
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.config import PretrainedConfig
from jaxclf.models import ResNetConfig, Variables, get_config
from jaxclf.weights.catalogue import best_weights, bundled_names, known_weights, read_bundled, read_config
from jaxclf.weights.files import file_sha256, read_state_dict
from jaxclf.weights.hub import fetch_weights, is_hub_id
from jaxclf.weights.state_dict import convert_state_dict

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class Pretrained(NamedTuple):
    """Variables (float32, NumPy) and how to use them."""

    variables: Variables
    config: PretrainedConfig


def load_weights(source: str | os.PathLike[str], arch: str | ResNetConfig) -> Pretrained:
    """Pretrained variables for an architecture, complete or not at all.

    Args:
      source: a weights file (.safetensors, .pth, ..; a `.json` of the same name or a `config.json` beside it is read as
        its description); the name of bundled weights; `owner/name[@revision]` on the hub; or "auto" for the best known
        ImageNet weights of the architecture.
      arch: a name from `list_archs()`, or a configuration.

    Returns:
      The variables as float32 NumPy arrays, with the file's own classifier head if it has one, and their
      `PretrainedConfig`, whose `sha256` is the file's.

    Raises:
      ValueError: if `source` is none of these or could be two of them; if the file is damaged or not what was promised;
        or if it does not fit the architecture, listing both sides.
    """
    arch_name = get_config(arch).arch
    match _kind(source):
        case "file":
            path = Path(source).expanduser()
            state_dict, config = read_state_dict(path), _file_config(path, arch_name)
        case "bundled":
            state_dict, config = read_bundled(str(source))
        case "auto":
            return load_weights(best_weights(arch_name).hub_id, arch)
        case _:
            state_dict, config = _from_hub(str(source), arch_name)
    try:
        variables = convert_state_dict(state_dict, arch, allow_headless=True)
        if config.arch != arch_name:  # the same names and shapes, but another computation
            raise ValueError(f"its description says arch={config.arch!r}, not {arch_name!r}")
        _check_classes(variables, config)
        return Pretrained(jax.tree.map(_as_float32, variables), config)
    except ValueError as error:
        raise ValueError(f"weights {source}: {error}") from error


def _kind(source: str | os.PathLike[str]) -> str:
    """Which of "file", "bundled", "auto" and "hub" a source is."""
    if not isinstance(source, str):
        return "file"
    path = Path(source).expanduser()
    if source.startswith((".", "/", "~")) or path.is_absolute() or path.suffix.lower() in WEIGHTS_SUFFIXES:
        return "file"
    meanings = {
        "auto": source == "auto",
        "bundled": source in bundled_names(),
        "hub": is_hub_id(source),
        "file": path.is_file(),
    }
    kinds = [kind for kind, fits in meanings.items() if fits]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise ValueError(f"weights={source!r} may mean a file here or not: write ./{source} for the file, or rename it")
    choices = {
        **{name: name for name in bundled_names()},
        **{row.hub_id.split("/")[1]: row.hub_id for row in known_weights()},
    }
    close = [choices[name] for name in difflib.get_close_matches(source.lower(), choices, n=3)]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(
        f"weights={source!r} is nothing that is known.{hint} It can be a file ({', '.join(WEIGHTS_SUFFIXES)}), bundled "
        f"weights ({', '.join(bundled_names())}), a hub id (owner/name, such as timm/resnet34.a1_in1k) or auto"
    )


def _file_config(path: Path, arch: str) -> PretrainedConfig:
    """The description beside a file, or ImageNet's preprocessing."""
    sha256 = file_sha256(path)
    beside = next((p for p in (path.with_suffix(".json"), path.parent / "config.json") if p.is_file()), None)
    if beside is None:
        origin = (
            f"{path.name}; nothing is said about its pictures: ImageNet's mean, standard deviation and crop are assumed"
        )
        return PretrainedConfig(arch, origin=origin, sha256=sha256)
    config = read_config(beside)
    origin = f"{path.name}, described by {beside.name}" if config.origin == "unknown" else config.origin
    return dataclasses.replace(config, origin=origin, sha256=sha256)


def _from_hub(hub_id: str, arch: str) -> tuple[dict[str, np.ndarray], PretrainedConfig]:
    """State dict and description of a repository; the licence from the table where config.json names none."""
    hub_files = fetch_weights(hub_id)
    origin = f"{hub_id} on the Hugging Face hub" + (f", commit {hub_files.commit[:12]}" if hub_files.commit else "")
    if hub_files.config is None:
        config = PretrainedConfig(arch)
        origin += "; it has no config.json: ImageNet's mean, standard deviation and crop are assumed"
    else:
        config = read_config(hub_files.config)
    licence, repo = config.licence, hub_id.partition("@")[0]
    if licence == "unknown":
        licence = next((row.licence for row in known_weights() if row.hub_id == repo), licence)
    config = dataclasses.replace(config, licence=licence, origin=origin, sha256=hub_files.sha256)
    return read_state_dict(hub_files.weights), config


def _check_classes(variables: Variables, config: PretrainedConfig) -> None:
    """The head, if there is one, must have one output for each named class."""
    biases = [layer["bias"].shape[0] for layer in variables["params"].get("head", {}).values() if "kernel" in layer]
    if biases and config.classes and biases[-1] != len(config.classes):
        raise ValueError(f"its head has {biases[-1]} outputs, its description names {len(config.classes)} classes")


def _as_float32(leaf: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(f"it holds {leaf.dtype} values where floating point ones belong")
    return np.asarray(leaf, np.float32)
