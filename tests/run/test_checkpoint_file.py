import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxclf import schedules
from jaxclf.config import MODULES
from jaxclf.models.trees import leaf_paths
from jaxclf.run.checkpoint_file import load_variables, read_metadata, restore_checkpoint, save_checkpoint
from jaxclf.training.optimizer import make_optimizer
from jaxclf.training.state import create_train_state

METADATA = {"classes": ["a", "b", "ü"], "progress": {"phase": 1, "epoch": 3, "seed": 7}}


def make_state(tiny, frozen=(), optimizer="sgd", momentum=0.9, ema=False):
    """A state whose every array is different from a fresh one's, and the average from the variables."""
    _, variables = tiny
    transform = make_optimizer(
        variables["params"], schedules.constant(), (0.1,) * 3, frozen=frozen, optimizer=optimizer, momentum=momentum
    )
    state = create_train_state(variables, transform, frozen=frozen, ema=ema)
    state = jax.tree.map(lambda leaf: leaf + jnp.asarray(3, leaf.dtype), state)
    return dataclasses.replace(state, ema=jax.tree.map(lambda leaf: 2 * leaf, state.ema))


@pytest.fixture
def saved(tiny, tmp_path):
    state = make_state(tiny, MODULES[:2])
    return state, save_checkpoint(tmp_path / "deep" / "phase1", state, METADATA)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "adamw", "momentum": schedules.one_cycle_momentum(9)}, {"ema": True}],
    ids=["sgd", "adamw with a momentum schedule", "ema"],
)
def test_round_trip_is_bit_exact(tiny, tmp_path, options):
    state = make_state(tiny, MODULES[:2], **options)
    path = save_checkpoint(tmp_path / "c", state, METADATA)
    assert read_metadata(path) == METADATA
    target = jax.eval_shape(lambda: state)
    assert_same(restore_checkpoint(path, target), state)
    assert_same(load_variables(path), state.averaged)
    if "ema" in options:
        assert_same(load_variables(path), state.ema)
        with pytest.raises(ValueError, match="training/raw/.*: in the checkpoint only"):
            restore_checkpoint(path, dataclasses.replace(target, ema=None))


def test_variables_alone(saved):
    state, path = saved
    assert_same(load_variables(path), state.variables)


def test_relative_paths_work(saved, monkeypatch):
    state, path = saved
    monkeypatch.chdir(path.parent)
    assert_same(load_variables(path.name), state.variables)


def test_a_checkpoint_is_never_overwritten(saved):
    state, path = saved
    with pytest.raises(ValueError, match="exists already"):
        save_checkpoint(path, state, {})
    assert read_metadata(path) == METADATA


def test_wrong_shapes_dtypes_and_keys_are_listed_not_cast(tiny, saved):
    state, path = saved

    def refused(target, *lines):
        with pytest.raises(ValueError, match="does not fit") as error:
            restore_checkpoint(path, target)
        for line in lines:
            assert line in str(error.value)

    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim > 1 else leaf, state)
    refused(half, "conv1/kernel: wanted bfloat16[", "the checkpoint has float32[")
    refused(make_state(tiny, optimizer="adamw"), "missing in the checkpoint", "in the checkpoint only")
    params = {**state.params, "head": {"fc": {"kernel": jnp.ones((16, 5))}}}
    wider = dataclasses.replace(state, params=params)
    refused(wider, "float32[16, 5]", "variables/params/head/fc/bias: in the checkpoint only")


def test_missing_and_foreign_checkpoints_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for bad in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(ValueError, match=str(bad)):
            load_variables(bad)
    from orbax.checkpoint import v1 as ocp

    ocp.save(str(tmp_path / "foreign"), {"a": np.ones(3)})
    with pytest.raises(ValueError, match="not written by jaxclf"):
        load_variables(tmp_path / "foreign")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
def test_a_checkpoint_that_lost_files_is_refused(saved, tmp_path):
    _, path = saved
    files = sorted(file for file in (path / "variables").rglob("*") if file.is_file())
    assert files
    for number, file in enumerate(files):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(path, copy)
        (copy / file.relative_to(path)).unlink()
        try:
            variables = load_variables(copy)
        except ValueError as error:
            assert str(copy) in str(error)  # noqa: PT017  # either outcome may be right
        else:  # a file that the arrays do not need
            assert_same(variables, load_variables(path))
    shutil.rmtree(path / "variables")
    with pytest.raises(ValueError, match=str(path)):
        load_variables(path)


def test_the_manifest_names_every_array(saved):
    state, path = saved
    record = json.loads((path / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    assert set(record["manifest"]["variables"]) == {name for name, _ in leaf_paths(state.variables)}
    assert "step" in record["manifest"]["training"]
