"""BatchNorm against an independent NumPy formula: masks, unbiased running variance, corner cases, frozen statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf.models import BatchNorm, create_classifier, init_variables
from jaxclf.models.norm import masked_moments

Stats = dict[str, Any]


def make_variables(channels: int, seed: int = 0) -> Stats:
    rng = np.random.default_rng(seed)
    return {
        "params": {
            "scale": rng.uniform(0.5, 1.5, channels).astype(np.float32),
            "bias": rng.normal(size=channels).astype(np.float32),
        },
        "batch_stats": {
            "mean": rng.normal(size=channels).astype(np.float32),
            "var": rng.uniform(0.5, 2.0, channels).astype(np.float32),
        },
    }


def train(variables: Stats, x: Any, mask: Any = None, **options: Any) -> tuple[np.ndarray, Stats]:
    y, updates = BatchNorm(**options).apply(
        variables, jnp.asarray(x), use_running_average=False, mask=mask, mutable=["batch_stats"]
    )
    return np.asarray(y), jax.tree.map(np.asarray, updates["batch_stats"])


def numpy_batch_norm(variables: Stats, x: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Stats]:
    """torch's BatchNorm over the valid rows, in float64."""
    params, stats = variables["params"], variables["batch_stats"]
    valid = x[mask.astype(bool)].astype(np.float64).reshape(-1, x.shape[-1])
    mean, biased, unbiased = valid.mean(0), valid.var(0), valid.var(0, ddof=1)
    y = (x - mean) / np.sqrt(biased + 1e-5) * params["scale"] + params["bias"]
    return y, {"mean": 0.9 * stats["mean"] + 0.1 * mean, "var": 0.9 * stats["var"] + 0.1 * unbiased}


def assert_stats_close(actual: Stats, expected: Stats, rtol: float = 1e-5) -> None:
    for name in ("mean", "var"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=rtol, atol=1e-6, err_msg=name)


@settings(deadline=None, max_examples=40)
@given(side=st.sampled_from([None, 3]), mean=st.sampled_from([0.0, 300.0]), seed=st.integers(0, 99))
def test_training_follows_the_formula(side: int | None, mean: float, seed: int) -> None:
    # A mean far above the deviation is where E[x^2] - E[x]^2 has no digits left, but the running mean is near it;
    # ddof=1 shows at these small counts.
    rng = np.random.default_rng(seed)
    shape = (3, 4) if side is None else (2, side, side + 1, 4)
    x = rng.normal(mean, 1.0, shape).astype(np.float32)
    variables = make_variables(4, seed)
    variables["batch_stats"]["mean"] += np.float32(mean)
    y, stats = train(variables, x)
    expected, expected_stats = numpy_batch_norm(variables, x, np.ones(len(x)))
    # The mean is known to float32's rounding of its own size; what that makes of y grows as the deviation shrinks.
    deviation = x.reshape(-1, 4).std(0, dtype=np.float64)
    tolerance = 1e-5 + 1e-4 * np.abs(expected) + 4 * np.finfo(np.float32).eps * np.abs(x).max() / deviation
    assert (np.abs(y - expected) <= tolerance).all()
    assert_stats_close(stats, expected_stats)


@pytest.mark.parametrize("off", [0.0, 3.0, 30.0, 300.0])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1e4])
def test_the_variance_is_as_exact_as_the_shift_is_near(off: float, mean: float) -> None:
    """Against float64: a relative error of at most 16 (1 + (off / deviation)^2) 2^-24."""
    x = np.random.default_rng(9).normal(mean, 1.0, (16, 24, 24, 4)).astype(np.float32)
    exact = x.astype(np.float64)
    shift = (exact.mean((0, 1, 2)) + off).astype(np.float32)
    found = masked_moments(jnp.asarray(x), None, jnp.asarray(shift))
    bound = 16 * (1 + off**2) * 2.0**-24
    np.testing.assert_allclose(found.variance, exact.var((0, 1, 2)), rtol=bound)
    np.testing.assert_allclose(found.mean, exact.mean((0, 1, 2)), rtol=2.0**-22, atol=16 * max(off, 1.0) * 2.0**-24)


def test_without_a_shift_the_variance_is_exact_wherever_the_mean_is() -> None:
    x = np.random.default_rng(10).normal(1e4, 1.0, (16, 24, 24, 4)).astype(np.float32)
    found = masked_moments(jnp.asarray(x))
    np.testing.assert_allclose(found.variance, x.astype(np.float64).var((0, 1, 2)), rtol=1e-5)


def test_from_scratch_the_first_statistics_are_exact() -> None:
    """The running means are 0 then, and what the convolutions make of pictures has means of about its deviation."""
    model = create_classifier("resnet18", 3)
    images = jnp.asarray(np.random.default_rng(11).normal(0.5, 1.5, (4, 48, 48, 3)), jnp.float32)
    variables = init_variables(model, jax.random.key(0), image_size=48)
    seen: list[np.ndarray] = []

    def watched(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            seen.append(np.asarray(args[0]))
        return call(*args, **kwargs)

    with nn.intercept_methods(watched):
        model.apply(variables, images, train=True, mutable=["batch_stats"])
    assert len(seen) == 20
    for x in seen:
        found, exact = masked_moments(jnp.asarray(x), None, jnp.zeros(x.shape[-1])), x.astype(np.float64)
        np.testing.assert_allclose(found.mean, exact.mean((0, 1, 2)), rtol=1e-5, atol=1e-6 * exact.std())
        np.testing.assert_allclose(found.variance, exact.var((0, 1, 2)), rtol=2e-5)


@pytest.mark.parametrize("rows", [[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
@pytest.mark.parametrize("shape", [(4, 5), (4, 3, 2, 5)])
def test_the_written_gradient_is_the_automatic_one(rows: list[int], shape: tuple[int, ...]) -> None:
    """That of the formula, in float64, masked positions' cotangents included."""
    rng = np.random.default_rng(12)
    x, at_y = rng.normal(2.0, 3.0, (2, *shape))
    variables, mask = make_variables(5), np.array(rows)

    def formula(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        axes = tuple(range(x.ndim - 1))
        if mask.any():
            mean, variance = x[mask == 1].mean(axes), x[mask == 1].var(axes)
        else:
            mean, variance = (jnp.asarray(variables["batch_stats"][name], x.dtype) for name in ("mean", "var"))
        return jnp.sum(at_y * ((x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias))

    def layer(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        given = {"params": {"scale": scale, "bias": bias}, "batch_stats": variables["batch_stats"]}
        y, _ = BatchNorm().apply(given, x, use_running_average=False, mask=jnp.asarray(mask), mutable=["batch_stats"])
        return jnp.sum(at_y.astype(np.float32) * y)

    arguments = (x, variables["params"]["scale"], variables["params"]["bias"])
    with jax.enable_x64(True):
        expected = jax.grad(formula, (0, 1, 2))(*(jnp.asarray(each, jnp.float64) for each in arguments))
        expected = [np.asarray(each) for each in expected]
    found = jax.grad(layer, (0, 1, 2))(*(jnp.asarray(each, jnp.float32) for each in arguments))
    for ours, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=2e-5 * np.abs(exact).max())


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.float32])
@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 2, 4)])
def test_a_masked_batch_gives_the_statistics_of_its_valid_part(shape: tuple[int, ...], dtype: Any) -> None:
    x = np.random.default_rng(1).normal(2.0, 3.0, shape).astype(np.float32)
    mask = np.array([1, 0, 1, 1, 0])
    x[mask == 0] = 1e6  # anything may stand in padding
    variables = make_variables(4)
    y, stats = train(variables, x, mask.astype(dtype))
    y_valid, stats_valid = train(variables, x[mask == 1])
    np.testing.assert_allclose(y[mask == 1], y_valid, rtol=1e-5, atol=1e-5)
    assert_stats_close(stats, stats_valid)
    expected, expected_stats = numpy_batch_norm(variables, x, mask)
    np.testing.assert_allclose(y[mask == 1], expected[mask == 1], rtol=1e-4, atol=1e-4)
    assert_stats_close(stats, expected_stats)


def test_not_even_nan_in_padding_reaches_statistics_or_gradients() -> None:
    x = np.random.default_rng(2).normal(size=(3, 2, 2, 4)).astype(np.float32)
    x[1] = np.nan
    mask = jnp.array([1, 0, 1])
    variables = make_variables(4)
    _, stats = train(variables, x, mask)
    assert all(np.isfinite(leaf).all() for leaf in stats.values())

    def loss(x: jax.Array) -> jax.Array:
        mean, variance, _ = masked_moments(x, mask)
        return jnp.sum(mean + variance)

    assert np.isfinite(jax.grad(loss)(jnp.asarray(x))).all()


def test_padding_leaves_the_gradients_alone() -> None:
    rng = np.random.default_rng(8)
    x, weight = rng.normal(size=(2, 5, 3, 3, 4)).astype(np.float32)
    x[3:] = 50.0
    variables = make_variables(4)

    def loss(params: Any, x: Any, mask: Any) -> jax.Array:
        options: Any = {"use_running_average": False, "mask": mask, "mutable": ["batch_stats"]}
        y, _ = BatchNorm().apply({"params": params, "batch_stats": variables["batch_stats"]}, x, **options)
        return jnp.sum((y * weight[: len(x)])[:3])

    gradients = jax.grad(loss, argnums=(0, 1))
    params, at_x = gradients(variables["params"], x[:3], None)
    masked_params, masked_at_x = gradients(variables["params"], x, jnp.array([1, 1, 1, 0, 0]))
    np.testing.assert_allclose(masked_at_x[:3], at_x, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(masked_at_x[3:], 0.0)
    for name in params:
        np.testing.assert_allclose(masked_params[name], params[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_an_empty_batch_changes_nothing_and_is_finite() -> None:
    x = np.random.default_rng(3).normal(size=(3, 2, 2, 4)).astype(np.float32)
    variables = make_variables(4)
    y, stats = train(variables, x, jnp.zeros(3))
    for name, leaf in stats.items():
        np.testing.assert_array_equal(leaf, variables["batch_stats"][name])
    # Normalised with the running statistics, so that a deep network of such layers stays finite as well.
    np.testing.assert_array_equal(y, BatchNorm().apply(variables, jnp.asarray(x), use_running_average=True))


@pytest.mark.parametrize("shape", [(0, 3, 3, 4), (2, 0, 3, 4), (0, 4)])
def test_of_nothing_the_moments_are_zero(shape: tuple[int, ...]) -> None:
    for moment in masked_moments(jnp.zeros(shape)):
        np.testing.assert_array_equal(moment, 0.0)


@pytest.mark.parametrize("side", [31, 33, 45])  # fewer positions than are added up at once, and more: 1,089 and 2,025
def test_sums_in_two_steps_are_sums(side: int) -> None:
    x = np.random.default_rng(14).normal(3.0, 2.0, (2, side, side, 3)).astype(np.float32)
    found = masked_moments(jnp.asarray(x), None, jnp.full(3, 3.0))
    np.testing.assert_allclose(found.mean, x.mean((0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(found.variance, x.var((0, 1, 2), dtype=np.float64), rtol=1e-5)


def test_a_variance_that_overflows_shows() -> None:
    x = np.random.default_rng(13).normal(size=(3, 2, 2, 4)).astype(np.float32)
    x[..., 1] *= 1e20  # finite, and its square is not
    y, _ = train(make_variables(4), x)
    assert np.isnan(y[..., 1]).all() and np.isfinite(y[..., [0, 2, 3]]).all()


def test_a_single_value_moves_the_mean_and_leaves_the_variance() -> None:
    x = np.random.default_rng(4).normal(size=(2, 4)).astype(np.float32)
    variables = make_variables(4)
    y, stats = train(variables, x, jnp.array([1, 0]))
    np.testing.assert_allclose(y[0], variables["params"]["bias"], rtol=1e-6)
    np.testing.assert_array_equal(stats["var"], variables["batch_stats"]["var"])
    np.testing.assert_allclose(stats["mean"], 0.9 * variables["batch_stats"]["mean"] + 0.1 * x[0], rtol=1e-6)


def test_running_statistics_normalise_and_stay() -> None:
    x = np.random.default_rng(5).normal(size=(3, 2, 2, 4)).astype(np.float32)
    variables = make_variables(4)
    params, stats = variables["params"], variables["batch_stats"]
    y, updates = BatchNorm().apply(variables, jnp.asarray(x), use_running_average=True, mutable=["batch_stats"])
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(updates["batch_stats"][name], stats[name])


def test_bfloat16_in_and_out_but_float32_statistics() -> None:
    # 2,048 values near 100: summed in bfloat16 (8 bits of mantissa) the mean would be off by whole units.
    x = jnp.asarray(np.random.default_rng(6).normal(100.0, 1.0, (2, 32, 32, 4)), jnp.bfloat16)
    variables = make_variables(4)
    variables["batch_stats"]["mean"] += np.float32(100.0)
    y, stats = train(variables, x, dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in stats.values()} == {np.dtype(np.float32)}
    _, expected = numpy_batch_norm(variables, np.asarray(x, np.float32), np.ones(2))
    assert_stats_close(stats, expected)


def test_initial_values_and_dtypes() -> None:
    variables = BatchNorm(dtype=jnp.bfloat16).init(jax.random.key(0), jnp.full((2, 3), 7.0), use_running_average=False)
    expected = {"params": {"scale": 1.0, "bias": 0.0}, "batch_stats": {"mean": 0.0, "var": 1.0}}
    for collection, leaves in expected.items():
        assert set(variables[collection]) == set(leaves)
        for name, value in leaves.items():
            np.testing.assert_array_equal(variables[collection][name], np.full(3, value, np.float32), strict=True)


def test_jit_equals_eager() -> None:
    x = jnp.asarray(np.random.default_rng(7).normal(size=(4, 3, 3, 4)), jnp.float32)
    variables, mask = make_variables(4), jnp.array([1, 1, 0, 1])
    eager_y, eager_stats = train(variables, x, mask)

    @jax.jit
    def step(variables: Stats, x: jax.Array, mask: jax.Array) -> Any:
        return BatchNorm().apply(variables, x, use_running_average=False, mask=mask, mutable=["batch_stats"])

    y, updates = step(variables, x, mask)
    np.testing.assert_allclose(y, eager_y, rtol=1e-5, atol=1e-6)
    assert_stats_close(jax.tree.map(np.asarray, updates["batch_stats"]), eager_stats)


def test_a_mask_of_another_length_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"mask: expected shape \(3,\).*got \(2,\)"):
        train(make_variables(4), np.zeros((3, 4), np.float32), jnp.ones(2))
