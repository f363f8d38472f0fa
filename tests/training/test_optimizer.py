import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf import schedules
from jaxclf.config import MODULES
from jaxclf.models.trees import leaf_paths, partition
from jaxclf.training.optimizer import (
    discriminative_lrs,
    group_lrs,
    layer_groups,
    make_optimizer,
    make_transformation,
)

GENERATOR = np.random.default_rng(0)


def leaves(kernel=(4, 3), bias=(3,)):
    return {
        "kernel": jnp.asarray(GENERATOR.normal(size=kernel), jnp.float32),
        "bias": jnp.asarray(GENERATOR.normal(size=bias), jnp.float32),
    }


PARAMS = {"body": {name: leaves() for name in MODULES[:-1]}, "head": leaves()}
GRADIENTS = jax.tree.map(lambda leaf: leaf * 3.0, PARAMS)


def run(optimizer, params, gradients, steps=4):
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
def test_groups_are_consecutive_modules_and_cover_everything(num_groups):
    labels = layer_groups(PARAMS, num_groups=num_groups)
    assert jax.tree.structure(labels) == jax.tree.structure(PARAMS)
    by_module = [labels["body"][name]["kernel"] for name in MODULES[:-1]] + [labels["head"]["bias"]]
    assert sorted(set(by_module)) == [f"group{i}" for i in range(num_groups)]
    assert by_module == sorted(by_module)


def test_three_groups_are_the_stated_ones():
    labels = layer_groups(PARAMS, num_groups=3)
    by_module = {name: labels["body"][name]["kernel"] for name in MODULES[:-1]} | {"head": labels["head"]["kernel"]}
    assert by_module == {
        "stem": "group0", "stage1": "group0", "stage2": "group0", "stage3": "group1", "stage4": "group1",
        "head": "group2",
    }  # fmt: skip


def test_odd_groups_and_modules_are_refused():
    with pytest.raises(ValueError, match="num_groups=4"):
        layer_groups(PARAMS, num_groups=4)
    with pytest.raises(ValueError, match="'neck'"):
        layer_groups({"body": {"neck": leaves()}})


@given(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0), st.integers(2, 6))
def test_discriminative_lrs_are_geometric(low, high, number):
    lrs = discriminative_lrs(low, high, number)
    assert len(lrs) == number and lrs[0] == low and lrs[-1] == high
    ratios = np.array(lrs[1:]) / np.array(lrs[:-1])
    np.testing.assert_allclose(ratios, (high / low) ** (1 / (number - 1)), rtol=1e-9)


def test_group_lrs_takes_a_number_a_pair_or_a_list():
    assert group_lrs(0.1, 3) == (0.1, 0.1, 0.1)
    assert group_lrs((0.1, 0.2, 0.3), 3) == (0.1, 0.2, 0.3)
    np.testing.assert_allclose(group_lrs((0.01, 1.0), 3), (0.01, 0.1, 1.0))
    with pytest.raises(ValueError, match="4 learning rates were given for 3"):
        group_lrs((0.1,) * 4, 3)


@pytest.mark.parametrize("num_groups", [1, 2, 3, 6])
def test_equal_rates_are_plain_sgd_to_the_bit(num_groups):
    schedule = schedules.sgdr(3, 2)
    ours = make_optimizer(PARAMS, schedule, (0.1,) * num_groups)
    plain = optax.sgd(lambda step: 0.1 * schedule(step), momentum=0.9, nesterov=True)
    assert same(run(ours, PARAMS, GRADIENTS), run(plain, PARAMS, GRADIENTS))


def test_momentum_follows_its_schedule():
    """Nesterov by hand: m_t = mu(t) m_(t-1) + g, and a move by g + mu(t) m_t."""
    momentum = schedules.one_cycle_momentum(4, pct_start=0.5, high=0.9, low=0.1)
    moved = run(make_optimizer(PARAMS, schedules.constant(), (0.01,), momentum=momentum), PARAMS, GRADIENTS)
    trace, expected = 0.0, jax.tree.map(np.asarray, PARAMS)
    for mu in (0.9, 0.5, 0.1, 0.5):
        trace = mu * trace + 1.0  # in gradients, which are the same at every step
        expected = jax.tree.map(lambda p, g, by=1.0 + mu * trace: p - 0.01 * by * g, expected, GRADIENTS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), moved, expected)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_momentum_that_stays_is_plain_momentum(name):
    fixed, scheduled = (
        run(make_optimizer(PARAMS, schedules.constant(), (0.01,), optimizer=name, momentum=momentum), PARAMS, GRADIENTS)
        for momentum in (0.9, lambda step: jnp.float32(0.9))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), fixed, scheduled)


def test_each_group_moves_at_its_own_rate():
    lrs = (0.0, 0.01, 0.1)
    moved = run(make_optimizer(PARAMS, schedules.constant(), lrs, momentum=0.0), PARAMS, GRADIENTS, steps=1)
    for module, lr in (("stem", 0.0), ("stage2", 0.0), ("stage3", 0.01), ("stage4", 0.01)):
        expected = PARAMS["body"][module]["kernel"] - lr * GRADIENTS["body"][module]["kernel"]
        np.testing.assert_allclose(moved["body"][module]["kernel"], expected, rtol=1e-6)
    expected = PARAMS["head"]["kernel"] - 0.1 * GRADIENTS["head"]["kernel"]
    np.testing.assert_allclose(moved["head"]["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize("frozen", [(), MODULES[:3], MODULES[:5]])
def test_a_transformation_reads_the_groups_off_whatever_is_trained(frozen):
    """Made before any tree is known, it has make_optimizer's state and moves each group at its rate."""
    trainable, gradients = (partition(tree, frozen)[0] for tree in (PARAMS, GRADIENTS))
    lrs, options = (0.001, 0.01, 0.1), {"weight_decay": 0.1, "clip_norm": 1.0}
    known = make_optimizer(PARAMS, schedules.constant(), lrs, frozen=frozen, **options)
    unknown = make_transformation(schedules.constant(), lrs, **options)
    assert jax.tree.structure(unknown.init(trainable)) == jax.tree.structure(known.init(trainable))
    given_labels = optax.multi_transform(
        {f"group{i}": optax.scale_by_schedule(lambda step, lr=lr: -lr) for i, lr in enumerate(lrs)},
        layer_groups(trainable, num_groups=3),
    )
    plain = optax.chain(optax.clip_by_global_norm(1.0), _decayed(), optax.trace(0.9, nesterov=True), given_labels)
    assert jax.tree.structure(unknown.init(trainable)) == jax.tree.structure(plain.init(trainable))
    assert same(run(unknown, trainable, gradients), run(plain, trainable, gradients))


def _decayed():
    return optax.add_decayed_weights(0.1, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 5))
def test_no_state_for_frozen_modules(number):
    frozen = MODULES[:number]
    trainable, _ = partition(PARAMS, frozen)
    optimizer = make_optimizer(PARAMS, schedules.constant(), (0.1, 0.1, 0.1), frozen=frozen)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(optimizer.init(trainable)))
    expected = sum(leaf.size for leaf in jax.tree.leaves(trainable))
    assert expected <= sizes < expected + 10  # one momentum buffer per trainable value, and the step counters


def test_weight_decay_spares_biases():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for name in ("sgd", "adamw"):
        optimizer = make_optimizer(PARAMS, schedules.constant(), (0.1,), optimizer=name, momentum=0.0, weight_decay=0.5)
        moved = run(optimizer, PARAMS, zeros, steps=1)
        for path, leaf in leaf_paths(moved):
            before = dict(leaf_paths(PARAMS))[path]
            factor = 0.95 if path.endswith("kernel") else 1.0
            np.testing.assert_allclose(leaf, before * factor, rtol=1e-6)


def test_adamw_is_optax_adamw():
    ours = make_optimizer(PARAMS, schedules.constant(), (0.01,) * 3, optimizer="adamw", weight_decay=0.1)
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, PARAMS)
    theirs = optax.adamw(0.01, b1=0.9, b2=0.99, eps=1e-5, weight_decay=0.1, mask=mask)
    a, b = run(ours, PARAMS, GRADIENTS), run(theirs, PARAMS, GRADIENTS)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


def test_clipping_counts_the_trainable_gradients_only():
    frozen = MODULES[:5]
    trainable, _ = partition(PARAMS, frozen)
    gradients, _ = partition(GRADIENTS, frozen)
    norm = float(optax.tree.norm(gradients))
    assert norm < 0.5 * float(optax.tree.norm(GRADIENTS))
    optimizer = make_optimizer(
        PARAMS, schedules.constant(), (1.0, 1.0, 1.0), frozen=frozen, momentum=0.0, clip_norm=norm / 2
    )
    moved = run(optimizer, trainable, gradients, steps=1)
    expected = trainable["head"]["kernel"] - gradients["head"]["kernel"] / 2
    np.testing.assert_allclose(moved["head"]["kernel"], expected, rtol=1e-5)


def test_clipping_is_global_over_groups():
    norm = float(optax.tree.norm(GRADIENTS))
    optimizer = make_optimizer(PARAMS, schedules.constant(), (1.0,) * 3, momentum=0.0, clip_norm=norm / 4)
    moved = run(optimizer, PARAMS, GRADIENTS, steps=1)
    delta = jax.tree.map(jnp.subtract, PARAMS, moved)
    np.testing.assert_allclose(float(optax.tree.norm(delta)), norm / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lrs": (0.1,) * 4}, "4 learning rates"),
        ({"optimizer": "lion"}, "'lion'"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"frozen": ("head",)}, "not a prefix"),
        ({"params": {"neck": leaves()}}, "'neck'"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"params": PARAMS, "schedule": schedules.constant(), "lrs": (0.1,), **change}
    with pytest.raises(ValueError, match=message):
        make_optimizer(**arguments)
