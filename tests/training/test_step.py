"""One train step: what it computes, what it leaves alone, and what it costs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxclf import schedules
from jaxclf.augment import make_augment, normalize
from jaxclf.config import MODULES, Preprocess, Settings
from jaxclf.data.batches import Batch
from jaxclf.inference.predict import make_predict_step
from jaxclf.models import create_classifier, init_variables
from jaxclf.models.trees import leaf_paths, partition
from jaxclf.training.losses import softmax_cross_entropy
from jaxclf.training.optimizer import make_optimizer
from jaxclf.training.state import create_train_state
from jaxclf.training.step import _make_prepare, make_train_step

PREPROCESS = Preprocess(image_size=32)
KEY = jax.random.key(1)
AUGMENT = make_augment("side_on", 32)


def make_batch(size=8, padding=0):
    total = size + padding
    images = np.random.default_rng(3).integers(0, 256, (size, 32, 32, 3)).astype(np.uint8)
    labels = (np.arange(size) % 3).astype(np.int32)
    filler = np.full((padding, 32, 32, 3), 255, np.uint8)
    return Batch(
        np.concatenate([images, filler]),
        np.concatenate([labels, np.zeros(padding, np.int32)]),
        (np.arange(total) < size).astype(np.float32),
        np.where(np.arange(total) < size, np.arange(total), -1).astype(np.int32),
    )


#: What a step reads of the settings.
OF_SETTINGS = ("bn_frozen", "accumulate", "ema_decay")
#: What `setup` has built, so that tests that want the same step compile it once.
BUILT = {}


def setup(tiny, frozen=(), lrs=(0.01, 0.02, 0.03), clip_norm=None, **options):
    """A train step, shared by all tests that ask for the same one, and a fresh state."""
    model, variables = tiny
    key = (frozen, lrs, clip_norm, tuple(sorted(options.items())))
    if key not in BUILT:
        schedule = schedules.sgdr(10, 1)
        optimizer = make_optimizer(variables["params"], schedule, lrs, frozen=frozen, clip_norm=clip_norm)
        chosen = Settings(**{name: options[name] for name in options if name in OF_SETTINGS})
        rest = {name: value for name, value in options.items() if name not in OF_SETTINGS}
        common = {"preprocess": PREPROCESS, "settings": chosen, "schedule": schedule, "lrs": lrs, "frozen": frozen}
        step = make_train_step(model, optimizer, **common, **rest)
        BUILT[key] = step, optimizer
    step, optimizer = BUILT[key]
    return step, create_train_state(variables, optimizer, frozen=frozen, ema="ema_decay" in options)


def changed(before, after):
    return {path for (path, a), (_, b) in zip(leaf_paths(before), leaf_paths(after), strict=True) if (a != b).any()}


def of_modules(tree, modules):
    """Paths of the leaves that belong to some modules."""
    return {path for path, _ in leaf_paths(tree) if any(part in modules for part in path.split("/"))}


@pytest.mark.parametrize("number", range(6))
def test_frozen_modules_stay_to_the_bit_and_the_others_all_move(tiny, number):
    frozen = MODULES[:number]
    _, variables = tiny
    step, state = setup(tiny, frozen)
    for _ in range(2):
        state, _ = step(state, make_batch(), KEY)
    assert not any(leaf.is_deleted() for _, leaf in leaf_paths(variables)), "the caller's arrays survive donation"
    trainable = set(MODULES) - set(frozen)
    assert changed(variables["params"], state.params) == of_modules(variables["params"], trainable)
    assert changed(variables["batch_stats"], state.batch_stats) == of_modules(variables["batch_stats"], trainable)


def test_bn_frozen_trains_scales_but_not_statistics(tiny):
    _, variables = tiny
    step, state = setup(tiny, bn_frozen=True)
    state, _ = step(state, make_batch(), KEY)
    assert changed(variables["batch_stats"], state.batch_stats) == set()
    assert changed(variables["params"], state.params) == {path for path, _ in leaf_paths(variables["params"])}


def test_a_step_is_sgd_on_the_mean_loss(tiny):
    """Against a gradient taken by hand over the whole tree."""
    model, variables = tiny
    batch = make_batch()
    inputs = (batch.inputs / np.float32(255) - np.float32(PREPROCESS.mean)) / np.float32(PREPROCESS.std)

    def loss_fn(params):
        logits, _ = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, inputs, train=True, mutable=["batch_stats"]
        )
        return softmax_cross_entropy(logits, batch.labels).mean()

    loss, gradients = jax.jit(jax.value_and_grad(loss_fn))(variables["params"])
    step, state = setup(tiny)
    state, metrics = step(state, batch, KEY)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    rates = {"stem": 0.01, "stage3": 0.02, "head": 0.03}
    for module, lr in rates.items():
        trees = (variables["params"], gradients, state.params)
        before, gradient, after = (tree["head"] if module == "head" else tree["body"][module] for tree in trees)
        # Nesterov's first step with momentum .9 moves by 1.9 gradients.
        expected = jax.tree.map(lambda p, g, lr=lr: p - lr * 1.9 * g, before, gradient)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after, expected)


@pytest.mark.parametrize("frozen", [(), MODULES[:5]], ids=["all", "head"])
def test_padding_changes_nothing(tiny, frozen):
    step, state = setup(tiny, frozen)
    plain_state, plain = step(state, make_batch(), KEY)
    step, state = setup(tiny, frozen)
    padded_state, padded = step(state, make_batch(padding=5), KEY)
    for name in ("loss", "correct", "count"):
        np.testing.assert_allclose(plain[name], padded[name], rtol=1e-5)
    for tree in ("params", "batch_stats"):
        pairs = zip(leaf_paths(getattr(plain_state, tree)), leaf_paths(getattr(padded_state, tree)), strict=True)
        for (path, a), (_, b) in pairs:
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6, err_msg=path)


def test_metrics(tiny):
    model, variables = tiny
    step, state = setup(tiny, MODULES[:5])
    batch = make_batch(padding=5)
    logits = make_predict_step(model, preprocess=PREPROCESS)(variables, batch.inputs)
    state, metrics = step(state, batch, KEY)
    assert metrics["count"] == 8
    assert metrics["correct"] == (np.asarray(logits).argmax(-1) == batch.labels)[:8].sum()
    np.testing.assert_allclose(metrics["lrs"], [0.01, 0.02, 0.03], rtol=1e-6)
    _, metrics = step(state, batch, KEY)
    factor = float(schedules.sgdr(10, 1)(1))
    np.testing.assert_allclose(metrics["lrs"], np.array([0.01, 0.02, 0.03]) * factor, rtol=1e-6)


def count_products(jaxpr) -> int:
    """Convolutions and matrix products, which convolutions on small maps are."""
    total = 0
    for equation in jaxpr.eqns:
        total += equation.primitive.name in ("conv_general_dilated", "dot_general")
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += count_products(inner)
    return total


def test_a_frozen_step_holds_no_gradient_convolutions(tiny):
    """In the jaxpr, before XLA could hide gradients that are computed and thrown away; with clipping on."""
    model, variables = tiny
    images = jnp.zeros((8, 32, 32, 3))
    forward = count_products(jax.make_jaxpr(lambda v, x: model.apply(v, x))(variables, images).jaxpr)
    assert forward == 1 + 4 * 2 + 3 + 1  # the stem, two a block, the shortcuts of stages 2 to 4, the head
    counts = []
    for number in range(6):
        step, state = setup(tiny, MODULES[:number], clip_norm=1.0)
        counts.append(count_products(jax.make_jaxpr(step)(state, make_batch(), KEY).jaxpr))
    assert counts[5] == forward + 1  # the gradient of the head's kernel
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 3 * forward - 1  # weight and input gradients, but none for the image


def test_flops_fall_with_every_frozen_module():
    """XLA's own count, for a real architecture: relative to a full step .94, .75, .58, .43, .34."""
    model = create_classifier("resnet18", 3)
    variables = jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
    flops = []
    for number in range(6):
        frozen = MODULES[:number]
        optimizer = make_optimizer(variables["params"], schedules.constant(), (0.1,), frozen=frozen, clip_norm=1.0)
        step = make_train_step(model, optimizer, preprocess=PREPROCESS, frozen=frozen)
        state = jax.eval_shape(lambda v, o=optimizer, f=frozen: create_train_state(v, o, frozen=f), variables)
        flops.append(step.lower(state, make_batch(32), KEY).cost_analysis()["flops"])
    relative = np.array(flops) / flops[0]
    assert (np.diff(relative) < -0.04).all()
    assert relative[5] < 0.4


def test_presized_pictures_that_are_not_augmented_show_what_evaluation_shows():
    """Pictures of another size than the network's: the middle of them, as much as evaluation crops."""
    preprocess = Preprocess(32, crop_fraction=0.8)
    presized = np.random.default_rng(3).integers(0, 256, (4, 37, 37, 3)).astype(np.uint8)
    batch, key = Batch(presized, np.arange(4) % 3, np.ones(4, np.float32), np.arange(4)), jax.random.key(0)
    found = _make_prepare(3, preprocess, None, None, None)(batch, key, key).inputs
    shown = make_augment("none", 32, shown=0.8)(key, presized)
    np.testing.assert_array_equal(found, normalize(shown, preprocess.mean, preprocess.std))
    assert (found != normalize(presized[:, 2:34, 2:34] / np.float32(255), preprocess.mean, preprocess.std)).any()


def test_augmentation_follows_the_key_and_the_step_number(tiny):
    step, state = setup(tiny, MODULES[:5], augment=AUGMENT)
    losses = []
    for key, number in ((KEY, 0), (KEY, 0), (jax.random.key(2), 0), (KEY, 1)):
        fresh = dataclasses.replace(jax.tree.map(jnp.array, state), step=jnp.int32(number))
        losses.append(float(step(fresh, make_batch(), key)[1]["loss"]))
    assert losses[0] == losses[1] and len(set(losses)) == 3


def test_state_holds_arrays_only(tiny):
    _, state = setup(tiny, MODULES[:3])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    trainable, _ = partition(state.params, MODULES[:3])
    momentum = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert len(momentum) == len(jax.tree.leaves(trainable))
