"""Checkpoints on disk, and the only module that talks to Orbax.

A checkpoint is one folder that appears complete or not at all (Orbax writes beside it and renames). It holds two parts:
`variables` (parameters and BatchNorm statistics, all that prediction needs) and `training` (step and optimizer state),
and as metadata a manifest of every array's path, shape and dtype beside whatever the caller wants to find again.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxclf.models.trees import Tree
from jaxclf.training.state import TrainState

FORMAT_VERSION = 2


def _flatten(tree: Any) -> dict[str, Any]:
    """Any pytree as {"a/0/b": leaf}: names from dict keys, tuple positions and dataclass or namedtuple fields."""

    def name(key: Any) -> str:
        for attribute in ("key", "idx", "name"):
            if hasattr(key, attribute):
                return str(getattr(key, attribute))
        return str(key)

    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(name(key) for key in path): leaf for path, leaf in leaves}


def _unflatten_dict(leaves: Mapping[str, Any]) -> Tree:
    """Nested dicts from {"a/b": leaf}."""
    tree: Tree = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _manifest(leaves: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {path: [list(np.shape(leaf)), str(leaf.dtype)] for path, leaf in leaves.items()}


def _parts(state: TrainState) -> dict[str, dict[str, Any]]:
    """`variables` are what prediction uses, so the running average where there is one; the rest is for training."""
    training = {"step": state.step, "opt_state": state.opt_state, "failed_at": state.failed_at}
    if state.ema is not None:
        training["raw"] = state.variables
    return {"variables": _flatten(state.averaged), "training": _flatten(training)}


def save_checkpoint(
    path: str | os.PathLike[str],
    state: TrainState,
    metadata: Mapping[str, Any],
    *,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Writes a checkpoint; it is there whole when this returns, and not at all if it fails.

    Args:
      path: the folder to make. It must not exist.
      state: the training state.
      metadata: JSON values to keep beside it: phase, epoch, seed, classes, preprocessing, ...
      extra: further named trees of arrays, for `load_part`.

    Returns:
      The absolute path.

    Raises:
      ValueError: if `path` exists.
      OSError: if it cannot be written, naming `path`.
    """
    return start_checkpoint(path, state, metadata, extra=extra).result()


class PendingCheckpoint:
    """A checkpoint that is being written in the background."""

    def __init__(self, path: Path, response: Any):
        self.path = path
        self._response = response

    def result(self) -> Path:
        """Waits until it is there whole; returns its absolute path. Raises OSError, naming it, if writing failed."""
        try:
            self._response.result()
        except Exception as error:  # Orbax, TensorStore and the file system each have their own
            raise _cannot_write(self.path, error) from error
        return self.path


def start_checkpoint(
    path: str | os.PathLike[str],
    state: TrainState,
    metadata: Mapping[str, Any],
    *,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> PendingCheckpoint:
    """Like `save_checkpoint`, but returns as soon as the arrays are copied; the state may be donated then."""
    from orbax.checkpoint import v1 as ocp

    folder = Path(path).absolute()
    if folder.exists():
        raise ValueError(f"checkpoint {folder} exists already; choose another path or remove it")
    parts = _parts(state) | {name: _flatten(tree) for name, tree in (extra or {}).items()}
    # Copies: the host's view of an array on a CPU is the array, whose buffer the next step is to have.
    host = {name: {leaf: np.array(value) for leaf, value in leaves.items()} for name, leaves in parts.items()}
    manifest = {name: _manifest(leaves) for name, leaves in host.items()}
    record = {"format_version": FORMAT_VERSION, "manifest": manifest, "metadata": dict(metadata)}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return PendingCheckpoint(folder, ocp.save_checkpointables_async(str(folder), host, custom_metadata=record))
    except Exception as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: Exception) -> OSError:
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        text = error.strerror or text
    elif "No space left" in text:
        text = "No space left on device"
    elif "File too large" in text:
        text = "File too large"
    return OSError(f"checkpoint {folder} cannot be written: {text.splitlines()[0] if text else type(error).__name__}")


def find_checkpoints(folder: str | os.PathLike[str]) -> list[tuple[Path, dict[str, Any]]]:
    """The complete checkpoints in a folder, with their metadata, by name. What was cut short is none."""
    found = []
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
        try:
            found.append((path, read_metadata(path)))
        except ValueError:
            continue
    return found


def _record(path: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    from orbax.checkpoint import v1 as ocp

    folder = Path(path).absolute()
    if not folder.is_dir():
        raise ValueError(f"checkpoint {folder} does not exist")
    if not ocp.is_orbax_checkpoint(str(folder)):
        raise ValueError(f"{folder} is not a checkpoint, or was cut short while it was written")
    record = ocp.checkpointables_metadata(str(folder)).custom_metadata
    if not isinstance(record, dict) or "manifest" not in record:
        raise ValueError(f"checkpoint {folder} was not written by jaxclf: it has no manifest")
    if record.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint {folder} has format version {record.get('format_version')}; this jaxclf reads {FORMAT_VERSION}"
        )
    return folder, record


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_checkpoint` was given as `metadata`, without reading the arrays.

    Raises:
      ValueError: if there is no complete checkpoint of jaxclf's at `path`.
    """
    return _record(path)[1]["metadata"]


def _load(folder: Path, manifest: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The arrays that `manifest` names, on this process's default device."""
    from orbax.checkpoint import v1 as ocp

    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = {
        part: {
            leaf: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype), sharding=sharding)
            for leaf, (shape, dtype) in leaves.items()
        }
        for part, leaves in manifest.items()
    }
    try:
        loaded = ocp.load_checkpointables(str(folder), abstract)
    except Exception as error:  # Orbax, TensorStore and the file system each have their own
        raise ValueError(f"checkpoint {folder} cannot be read: {type(error).__name__}: {error}") from error
    # Through the host: arrays that are committed to a device would make jit compile every step once more.
    return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), loaded)


def load_variables(path: str | os.PathLike[str]) -> Tree:
    """The `{"params", "batch_stats"}` of a checkpoint, on this process's default device.

    Raises:
      ValueError: if there is no complete checkpoint of jaxclf's at `path`.
    """
    loaded = load_part(path, "variables")
    assert loaded is not None  # every checkpoint has them
    return loaded


def load_part(path: str | os.PathLike[str], name: str) -> Tree | None:
    """A named tree of a checkpoint as nested dicts, on this process's default device; None if it holds no such part.

    Raises:
      ValueError: if there is no complete checkpoint of jaxclf's at `path`.
    """
    folder, record = _record(path)
    if name not in record["manifest"]:
        return None
    return _unflatten_dict(_load(folder, {name: record["manifest"][name]})[name])


def restore_checkpoint(path: str | os.PathLike[str], target: TrainState) -> TrainState:
    """The state of a checkpoint, with exactly the structure, shapes and dtypes of `target`.

    Args:
      path: from `save_checkpoint`.
      target: a state, or `jax.eval_shape` of one; only its structure is read.

    Raises:
      ValueError: listing what is missing, unexpected or of another shape or dtype. Nothing is cast or left out.
    """
    folder, record = _record(path)
    wanted = {name: _manifest(leaves) for name, leaves in _parts(target).items()}
    problems = [
        problem for part in wanted for problem in _differences(part, wanted[part], record["manifest"].get(part, {}))
    ]
    if problems:
        raise ValueError(f"checkpoint {folder} does not fit this model and optimizer:\n  " + "\n  ".join(problems))
    loaded = _load(folder, wanted)
    structure = jax.tree.structure(target)
    by_path = {f"{part}/{leaf}": value for part, leaves in loaded.items() for leaf, value in leaves.items()}
    paths = {name: f"training/{name}" for name in ("step", "opt_state", "failed_at")} | {"ema": "variables"}
    if target.ema is not None:
        paths |= {name: f"training/raw/{name}" for name in ("params", "batch_stats")}

    def find(leaf_path: str) -> Any:
        first, _, rest = leaf_path.partition("/")
        start = paths.get(first, f"variables/{first}")
        return by_path[f"{start}/{rest}" if rest else start]

    return jax.tree.unflatten(structure, [find(leaf_path) for leaf_path in _flatten(target)])


def _differences(part: str, wanted: Mapping[str, Any], found: Mapping[str, Any], most: int = 4) -> list[str]:
    """What two manifests disagree on, the first `most` lines of each kind."""
    kinds = (
        [f"{part}/{path}: missing in the checkpoint" for path in wanted if path not in found],
        [f"{part}/{path}: in the checkpoint only" for path in found if path not in wanted],
        [
            f"{part}/{path}: wanted {_describe(wanted[path])}, the checkpoint has {_describe(found[path])}"
            for path in wanted
            if path in found and list(wanted[path]) != list(found[path])
        ],
    )
    more = [[f".. and {len(lines) - most} more of these"] if len(lines) > most else [] for lines in kinds]
    return [line for lines, rest in zip(kinds, more, strict=True) for line in (*lines[:most], *rest)]


def _describe(entry: Any) -> str:
    shape, dtype = entry
    return f"{dtype}{list(shape)}"
