"""What a train step does on request: parts, averages, mixing, weights; and what it does with a step that failed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import AUGMENT, KEY, PREPROCESS, make_batch, setup

from jaxclf import schedules
from jaxclf.augment import cutmix, mixup
from jaxclf.config import MODULES
from jaxclf.inference.predict import make_predict_step
from jaxclf.models.trees import leaf_paths, partition
from jaxclf.training.losses import make_loss

HEAD, TOP = MODULES[:5], MODULES[:4]  # frozen: all but the head, all but stage4 and the head
WEIGHTED = make_loss("softmax", class_weights=(1.0, 2.0, 5.0))
SEVEN = make_batch(7)


@pytest.fixture(scope="module")
def log_probs(tiny):
    """Of the seven pictures at the start, in float64."""
    model, variables = tiny
    logits = np.asarray(make_predict_step(model, preprocess=PREPROCESS)(variables, SEVEN.inputs), np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def assert_same(a, b):
    """Two trees, to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def on_host(tree):
    """A copy that no donation can eat."""
    return jax.tree.map(np.array, tree)


def masked(batch, real):
    return batch._replace(mask=(np.arange(len(batch.mask)) < real).astype(np.float32))


def soft(batch, row=(1.0, 0.0, 0.0)):
    """The batch with targets [b, c] for labels, the first row's as given."""
    targets = np.eye(3, dtype=np.float32)[batch.labels]
    targets[0] = row
    return batch._replace(labels=targets)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_are_one_batch(tiny, parts):
    """Seven rows in parts of 3 and 4, or 2, 2 and 3; with four of them real one part is half padding, or all of it.

    The classes have weights, so a mean of the parts' means would differ. BatchNorm uses its running statistics.
    """
    for real in (7, 4):
        results = []
        for accumulate in (1, parts):
            step, state = setup(tiny, HEAD, loss=WEIGHTED, accumulate=accumulate)
            for _ in range(2):
                state, metrics = step(state, masked(SEVEN, real), KEY)
            results.append((state.params, {name: metrics[name] for name in ("loss", "correct", "weight", "count")}))
        (whole, whole_metrics), (split, split_metrics) = results
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), split, whole)
        for name, value in whole_metrics.items():
            np.testing.assert_allclose(split_metrics[name], value, rtol=1e-6, err_msg=name)
        assert whole_metrics["weight"] == (17.0 if real == 7 else 9.0)


#: One compile for trained statistics in two parts, for averaging, and for steps that fail. Clipping could hide those:
#: it divides a gradient by its norm, be that infinite.
AVERAGED = {"ema_decay": 0.15, "clip_norm": 1.0, "accumulate": 2}


def test_batch_statistics_see_one_part_after_the_other(tiny):
    model, variables = tiny
    batch = make_batch(8)
    step, state = setup(tiny, TOP, **AVERAGED)
    state, _ = step(state, soft(batch), KEY)

    @jax.jit
    def updated(batch_stats, images):
        inputs = (images / np.float32(255) - np.float32(PREPROCESS.mean)) / np.float32(PREPROCESS.std)
        held = {"params": variables["params"], "batch_stats": batch_stats}
        return model.apply(held, inputs, train=True, frozen=TOP, mutable=["batch_stats"])[1]["batch_stats"]

    expected = updated(updated(variables["batch_stats"], batch.inputs[:4]), batch.inputs[4:])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), state.batch_stats, expected)


def test_the_average_is_the_formula_and_leaves_frozen_modules_alone(tiny):
    _, variables = tiny
    step, state = setup(tiny, TOP, **AVERAGED)
    expected = on_host(variables)
    for decay in (1 / 10, 0.15, 0.15):  # min(ema_decay, (1 + t) / (10 + t))
        state, _ = step(state, soft(make_batch()), KEY)
        expected = jax.tree.map(lambda e, v, d=decay: d * e + (1 - d) * v, expected, on_host(state.variables))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.ema, expected)
    assert state.averaged is state.ema
    for part in ("params", "batch_stats"):
        assert_same(partition(state.ema[part], TOP)[1], partition(variables[part], TOP)[1])
        moved = zip(leaf_paths(state.ema[part]), leaf_paths(state.variables[part]), strict=True)
        trained = [path for (path, a), (_, b) in moved if (np.asarray(a) != np.asarray(b)).any()]
        assert trained and all("stage4" in path or "head" in path for path in trained)


def fails(tiny, step, state, bad, good):
    """Runs one bad step after one good one and looks at everything; returns the bad step's metrics."""
    state, metrics = step(state, good, KEY)
    assert metrics["failed_at"] == -1 and state.step == 1
    before = on_host(dataclasses.replace(state, failed_at=None))
    state, failed = step(state, bad, KEY)
    assert state.failed_at == failed["failed_at"] == 1
    assert_same(on_host(dataclasses.replace(state, failed_at=None)), before)
    for later in (good, bad):  # neither good steps nor bad ones have any effect from now on
        state, metrics = step(state, later, KEY)
        assert state.failed_at == metrics["failed_at"] == 1
        np.testing.assert_allclose(metrics["lrs"], failed["lrs"])
    assert_same(on_host(dataclasses.replace(state, failed_at=None)), before)
    np.testing.assert_allclose(failed["lrs"], np.array([0.01, 0.02, 0.03]) * schedules.sgdr(10, 1)(1), rtol=1e-6)
    return failed


def test_a_step_without_a_finite_loss_changes_nothing(tiny):
    good = soft(make_batch())
    metrics = fails(tiny, *setup(tiny, TOP, **AVERAGED), soft(make_batch(), (np.nan, 0, 0)), good)
    assert np.isnan(metrics["loss"])


def test_nor_does_one_whose_gradient_alone_overflows(tiny):
    """1e38 * loss / 8 is still a float32, its gradient's sums are not."""
    good = soft(make_batch())
    metrics = fails(tiny, *setup(tiny, TOP, **AVERAGED), soft(make_batch(), (1e38, 0, 0)), good)
    assert np.isfinite(metrics["loss"])


def test_nor_does_one_whose_update_alone_overflows(tiny):
    _, variables = tiny
    step, state = setup(tiny, HEAD, lrs=(3e38,) * 3)
    state, metrics = step(state, soft(make_batch(), (100.0, 0, 0)), KEY)
    assert np.isfinite(metrics["loss"]) and state.failed_at == 0 and state.step == 0
    assert_same(on_host(state.params), on_host(variables["params"]))


@pytest.mark.parametrize(
    "options",
    [{"mix": functools.partial(mixup, alpha=0.4), "augment": AUGMENT}, {"mix": cutmix}],
    ids=["mixup", "cutmix"],
)
def test_mixing_never_takes_from_padding(tiny, options):
    """Other pixels and labels in the padded rows: the same bits; other pixels in a real row: other bits."""
    results = []
    for rows, value in ((slice(8, 13), 0), (slice(8, 13), 200), (slice(0, 1), 200)):
        step, state = setup(tiny, HEAD, **options)
        batch = make_batch(8, padding=5)
        batch.inputs[rows], batch.labels[8:] = value, value % 3
        state, metrics = step(state, batch, KEY)
        results.append(on_host((state.params, metrics)))
    assert_same(results[0], results[1])
    assert results[0][1]["loss"] != results[2][1]["loss"]


def uniform(key, images, targets, mask):
    """In place of mixup: every target the same. The pictures are seen before normalisation, with the mask."""
    assert images.shape == (7, 32, 32, 3) and targets.shape == (7, 3) and mask.shape == (7,)
    return jnp.clip(images, 0.0, 1.0), jnp.full_like(targets, 1 / 3)


def test_the_loss_is_of_mixed_targets_and_accuracy_of_the_labels(tiny, log_probs):
    step, state = setup(tiny, HEAD, mix=uniform)
    _, metrics = step(state, SEVEN, KEY)
    np.testing.assert_allclose(metrics["loss"], -log_probs.mean(), rtol=1e-5)
    assert metrics["correct"] == (log_probs.argmax(-1) == SEVEN.labels).sum()


def test_class_weights_are_the_formula(tiny, log_probs):
    """Loss and gradient: sums of w_i l_i over the sum of the w_i."""
    weights = np.array([1.0, 2.0, 5.0])[SEVEN.labels]
    step, state = setup(tiny, HEAD, loss=WEIGHTED, accumulate=1)
    state, metrics = step(state, SEVEN, KEY)
    picked = log_probs[np.arange(7), SEVEN.labels]
    np.testing.assert_allclose(metrics["loss"], -(weights * picked).sum() / weights.sum(), rtol=1e-5)
    slope = (weights[:, None] * (np.exp(log_probs) - np.eye(3)[SEVEN.labels])).sum(0) / weights.sum()
    (bias,) = (leaf for path, leaf in leaf_paths(state.params["head"]) if path.endswith("bias"))
    np.testing.assert_allclose(bias, -0.03 * 1.9 * slope, rtol=1e-4)  # Nesterov's first step; the bias starts at 0
