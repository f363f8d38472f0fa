import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxclf.config import MODULES, frozen_prefix
from jaxclf.models.trees import combine, leaf_paths, num_parameters, partition

TREE = {
    "body": {name: {"kernel": np.full(3, i), "bn": {"scale": np.ones(2)}} for i, name in enumerate(MODULES[:-1])},
    "head": {"dense": {"bias": np.zeros(4)}},
}


@given(st.integers(0, len(MODULES)))
def test_partition_then_combine_is_the_identity(number):
    frozen = MODULES[:number]
    trainable, fixed = partition(TREE, frozen)
    assert dict(leaf_paths(combine(fixed, trainable))).keys() == dict(leaf_paths(TREE)).keys()
    for tree, modules in ((fixed, frozen), (trainable, MODULES[number:])):
        held = {*tree.get("body", {}), *(name for name in tree if name != "body")}
        assert held == set(modules)


def test_leaves_are_shared_not_copied():
    trainable, _ = partition(TREE, ("stem",))
    assert trainable["body"]["stage1"]["kernel"] is TREE["body"]["stage1"]["kernel"]


@pytest.mark.parametrize("frozen", [("stage1",), ("stem", "stage2"), ("head",), ("nonsense",)])
def test_only_prefixes_can_be_frozen(frozen):
    with pytest.raises(ValueError, match="not a prefix"):
        partition(TREE, frozen)


def test_combine_refuses_overlap():
    with pytest.raises(ValueError, match="body/stem"):
        combine(TREE, partition(TREE, ("stem",))[1])
    with pytest.raises(ValueError, match="module head"):
        combine({"head": 1}, {"head": 1})


def test_frozen_prefix_rejects_unknown_modules():
    assert frozen_prefix("head") == MODULES
    with pytest.raises(ValueError, match="stage9"):
        frozen_prefix("stage9")


def test_num_parameters():
    assert num_parameters(TREE) == 5 * (3 + 2) + 4
