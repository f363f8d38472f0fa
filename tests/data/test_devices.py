"""One device and eight give the same; what is compared is computed by mesh_script.py, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import SUPPORT

import jaxclf
from jaxclf.data import devices as mesh

#: Measured: 1.5e-6 in 50 losses, 6e-7 in the variables after them, 9e-6 in SGD's momentum; on an AVX-512 machine, where
#: the CPU's sums run in bands, 2.5e-5 at most.
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What the script has to say."""
    script = SUPPORT / "mesh_script.py"
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(jaxclf.__file__).parents[1]),
    }
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path_factory.mktemp("mesh"))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    return json.loads(done.stdout)


def test_training_is_the_same_on_eight_devices(found):
    """50 steps with augmentation and trained BatchNorm: losses, variables, optimizer state, predictions."""
    train = found["train"]
    assert train["steps"] == 50 and train["moved"] > 0.5
    assert max(train[name] for name in ("loss", "variables", "optimizer", "logits")) < TOLERANCE
    assert train["valid"][0] == train["valid"][1] > 0.6


def test_batch_norm_sees_the_whole_batch(found):
    """With moments of each device's own rows, the first loss already is another one."""
    train = found["train"]
    assert min(train["loss_of_parts"]) > 1000 * TOLERANCE and train["variables_of_parts"] > 1000 * TOLERANCE


def test_a_step_is_compiled_once_and_its_state_stays_on_every_device(found):
    train = found["train"]
    assert train["compiled"] == {"train_step": 1, "predict_step": 1}
    assert train["replicated"] and train["devices"] == [8]


def test_devices_share_the_rows_of_a_batch(found):
    """Each has two of sixteen pictures and convolves only these; what devices exchange is as large as parameters."""
    program = found["program"]
    assert program["shards"] == [[2, 37, 37, 3]] * 8
    assert program["first_rows"] == program["index"]
    assert program["convolutions"] == ["2"]
    assert 0 < program["reduced"] <= 3 * 3 * 16 * 16
    assert program["moved"] == []


def test_evaluation_counts_every_example_once_however_they_are_divided(found):
    """13 examples in batches of 8 on one and eight devices, and of 9 on three."""
    one = found["evaluation"]["None"]
    for index, logits, scores in found["evaluation"].values():
        assert index == list(range(13)) and scores["num_examples"] == 13
        assert scores["accuracy"] == one[2]["accuracy"]
        assert scores["loss"] == pytest.approx(one[2]["loss"], rel=1e-6)
        np.testing.assert_allclose(logits, one[1], rtol=1e-5, atol=1e-6)


def test_features_and_what_is_trained_from_them(found):
    """An augmented bank; a head on it in one dispatch and step by step; a learning-rate test; predictions."""
    features = found["features"]
    assert features.pop("placement") == "device"
    assert max(features.values()) < 2e-6, features


def test_learning_rate_test_views_and_sweep(found):
    assert found["finder"]["curve"] < 1e-6 and found["finder"]["steps"] == [20, 20]
    assert found["views"]["logits"] < 2e-6 < 0.1 < found["views"]["between_views"]
    assert found["views"]["index"] == [list(range(13))] * 2
    assert found["sweep"]["losses"] < 1e-6 and found["sweep"]["head"] < 1e-6
    assert found["sweep"]["best"][0] == found["sweep"]["best"][1]


def test_checkpoints_go_from_eight_devices_to_one_and_back(found):
    assert found["checkpoints"] == {"devices": [[8], [1], [8]], "same": True}


def test_wrong_numbers_name_the_way_out(tiny):
    with pytest.raises(ValueError, match=r"num_devices=99 must lie in 1 \.\. \d+: .* XLA_FLAGS"):
        mesh.data_mesh(99)
    with pytest.raises(ValueError, match="num_devices=0"):
        mesh.data_mesh(0)
    eight = jax.sharding.AbstractMesh((8,), (mesh.AXIS,))
    with pytest.raises(ValueError, match="batch_size=20 cannot be divided evenly among 8 devices; take 16 or 24"):
        mesh.check_divisible(20, eight)
    with pytest.raises(ValueError, match="take 8$"):
        mesh.check_divisible(3, eight)
    mesh.check_divisible(16, eight)


def test_a_mesh_of_one_device_and_none_leave_values_as_they_are():
    tree = {"a": np.arange(3), "b": np.ones((3, 2), np.float32)}
    assert mesh.replicate(tree, None) is tree
    one = mesh.data_mesh(1)
    for moved in (mesh.shard_batch(tree, None), mesh.shard_batch(tree, one), mesh.replicate(tree, one)):
        assert isinstance(moved["a"], jax.Array)
        np.testing.assert_array_equal(moved["a"], tree["a"])
        np.testing.assert_array_equal(moved["b"], tree["b"])
