"""The properties are the specification: see RECIPE.md's formulas in the docstrings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxclf import schedules

settings.register_profile("schedules", max_examples=40, deadline=None)
settings.load_profile("schedules")

cycles = st.tuples(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4))
LONGEST = schedules.cycle_boundaries(60, 5, 4)[-1] + 5
finals = st.floats(0.0, 0.875, width=32)


def sgdr_by_hand(step: int, cycle_steps: int, num_cycles: int, cycle_mult: int, final: float) -> float:
    """The formula in double precision, cycle by cycle."""
    start = 0
    for cycle in range(num_cycles):
        length = cycle_steps * cycle_mult**cycle
        if step < start + length:
            return final + (1 - final) * (1 + math.cos(math.pi * (step - start) / length)) / 2
        start += length
    return final


@given(cycles)
def test_boundaries_are_geometric_sums(cycle):
    steps, number, mult = cycle
    ends = schedules.cycle_boundaries(steps, number, mult)
    expected = [steps * (mult ** (i + 1) - 1) // (mult - 1) if mult > 1 else steps * (i + 1) for i in range(number)]
    assert list(ends) == expected


@given(cycles, finals)
def test_sgdr_is_the_formula_everywhere(cycle, final):
    steps, number, mult = cycle
    schedule = schedules.sgdr(steps, number, cycle_mult=mult, final=final)
    end = schedules.cycle_boundaries(steps, number, mult)[-1]
    at = np.linspace(0, end + 3, 200).astype(int)
    expected = [sgdr_by_hand(int(t), steps, number, mult, final) for t in at]
    np.testing.assert_allclose(schedule(at), expected, rtol=2e-6, atol=2e-7)


@given(cycles, finals)
def test_sgdr_restarts_exactly_falls_within_a_cycle_and_holds_final(cycle, final):
    steps, number, mult = cycle
    schedule = schedules.sgdr(steps, number, cycle_mult=mult, final=final)
    ends = schedules.cycle_boundaries(steps, number, mult)
    values = np.asarray(schedule(np.arange(LONGEST)))  # one shape, one compile
    starts = (0, *ends[:-1])
    assert (values[list(starts)] == 1.0).all()
    for start, end in zip(starts, ends, strict=True):
        assert (np.diff(values[start:end]) <= 0).all()
    assert (values[ends[-1] :] == np.float32(final)).all()
    assert values.min() >= np.float32(final) and values.max() <= 1.0


@pytest.mark.parametrize("cycle_mult", [1, 2, 3])
def test_sgdr_is_exact_at_far_boundaries(cycle_mult):
    """Float32 steps would be off by one beyond 2**24; the boundary is subtracted as an integer."""
    number = {1: 30, 2: 5, 3: 4}[cycle_mult]
    ends = schedules.cycle_boundaries(333_333, number, cycle_mult)
    assert ends[-1] > 9_000_000
    schedule = jax.jit(schedules.sgdr(333_333, number, cycle_mult=cycle_mult))
    for end in ends[:-1]:
        assert schedule(end) == 1.0
        assert schedule(end - 1) < 1e-6
        assert 0.99999 < schedule(end + 1) <= 1.0
    assert schedule(ends[-1]) == 0.0


FACTORIES = {
    "constant": lambda: schedules.constant(),
    "linear": lambda: schedules.linear(37, final=0.1),
    "cosine": lambda: schedules.cosine(37, final=0.1),
    "exponential": lambda: schedules.exponential(37, initial=1e-3),
    "sgdr": lambda: schedules.sgdr(7, 3, cycle_mult=2, final=0.05, warmup_steps=2),
    "one_cycle": lambda: schedules.one_cycle(37),
    "one_cycle_momentum": lambda: schedules.one_cycle_momentum(37),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_jit_equals_eager_equals_vectorised(name):
    schedule = FACTORIES[name]()
    steps = np.arange(60)
    vectorised = np.asarray(schedule(steps))
    assert vectorised.dtype == np.float32
    # XLA's vector and scalar exp and cos differ in the last bits.
    np.testing.assert_allclose(vectorised, [schedule(int(t)) for t in steps], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(vectorised, jax.jit(schedule)(steps), rtol=1e-5, atol=1e-9)
    assert vectorised.min() >= 0.0 and vectorised.max() <= 1.0


@pytest.mark.parametrize("name", FACTORIES)
def test_optax_takes_it_as_a_schedule(name):
    schedule = FACTORIES[name]()
    transform = optax.scale_by_schedule(schedule)
    state = transform.init(jnp.ones(()))
    for step in range(3):
        update, state = transform.update(jnp.ones(()), state)
        np.testing.assert_allclose(update, schedule(step), rtol=1e-6)


def test_cosine_agrees_with_optax():
    ours, theirs = schedules.cosine(50, final=0.1), optax.cosine_decay_schedule(1.0, 50, alpha=0.1)
    steps = np.arange(60)
    np.testing.assert_allclose(ours(steps), theirs(steps), rtol=1e-5, atol=1e-6)


def test_one_cycle_agrees_with_optax():
    """optax's final factor is relative to the start, ours to the maximum."""
    ours = schedules.one_cycle(100, pct_start=0.25, div=25.0, div_final=1e5)
    theirs = optax.cosine_onecycle_schedule(100, 1.0, pct_start=0.25, div_factor=25.0, final_div_factor=1e5 / 25.0)
    steps = np.arange(105)
    np.testing.assert_allclose(ours(steps), [theirs(step) for step in steps], rtol=1e-4, atol=1e-6)


shapes = st.tuples(st.integers(2, 300), st.floats(0.01, 0.99), st.floats(1.01, 50.0), st.floats(1.01, 1e6))


@given(shapes)
def test_one_cycle_rises_to_one_then_falls_and_holds(shape):
    num_steps, pct_start, div, div_final = shape
    schedule = schedules.one_cycle(num_steps, pct_start=pct_start, div=div, div_final=div_final)
    values = np.asarray(schedule(np.arange(310)))
    peak = int(values.argmax())
    assert values[peak] == 1.0 and 1 <= peak < num_steps
    assert abs(peak - pct_start * num_steps) <= 1.0
    assert values[0] == np.float32(1 / div)
    assert (np.diff(values[: peak + 1]) >= 0).all() and (np.diff(values[peak:]) <= 0).all()
    assert (values[num_steps:] == values[num_steps]).all() and values.min() > 0.0
    np.testing.assert_allclose(values[num_steps], 1 / div_final, rtol=1e-6)


@given(shapes, st.floats(0.0, 0.9), st.floats(0.0, 0.09))
def test_momentum_is_the_mirror_image_of_one_cycle(shape, low, width):
    """high - (high - low) * how far the rate is from its end to its maximum, on either side."""
    num_steps, pct_start, _, _ = shape
    high, at = low + width, np.arange(310)
    momentum = schedules.one_cycle_momentum(num_steps, pct_start=pct_start, high=high, low=low)
    rates = np.asarray(schedules.one_cycle(num_steps, pct_start=pct_start, div=1e6, div_final=1e6)(at), np.float64)
    values = np.asarray(momentum(at))
    np.testing.assert_allclose(values, high - width * rates, rtol=1e-5, atol=2e-6)
    assert values[0] == values[num_steps] == values[-1] == np.float32(high) and values[rates.argmax()] == np.float32(
        low
    )


def test_one_cycle_is_exact_at_far_boundaries():
    """A rise of 2.5 of ten million steps, where a float32 has no room for halves any more."""
    rate, momentum = (jax.jit(make(10_000_000)) for make in (schedules.one_cycle, schedules.one_cycle_momentum))
    for step, multiplier, value in ((0, 0.04, 0.95), (2_500_000, 1.0, 0.85), (10_000_000, 1e-5, 0.95)):
        assert rate(step) == np.float32(multiplier) and momentum(step) == np.float32(value)
    ends = rate(9_999_999), rate(10_000_001)
    assert ends[0] >= ends[1] == np.float32(1e-5)


def test_one_cycle_ends():
    schedule = schedules.one_cycle(80, pct_start=0.3, div=5.0, div_final=100.0)
    np.testing.assert_allclose(
        [schedule(0), schedule(24), schedule(80), schedule(99)], [0.2, 1.0, 0.01, 0.01], rtol=1e-5
    )


@given(st.integers(2, 500), st.floats(1e-7, 0.5))
def test_exponential_is_geometric(num_steps, initial):
    values = np.asarray(schedules.exponential(num_steps, initial=initial)(np.arange(500)), np.float64)[:num_steps]
    expected = initial ** (1 - np.arange(num_steps) / (num_steps - 1))
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert values[-1] == 1.0


def test_linear_is_a_line():
    values = np.asarray(schedules.linear(10, final=0.2)(np.arange(12)))
    np.testing.assert_allclose(values, [1 - 0.08 * min(t, 10) for t in range(12)], rtol=1e-6)
    assert values[10] == values[11] == np.float32(0.2)


def test_warmup_runs_low_then_joins_the_cosine():
    plain, warm = schedules.sgdr(20, 2), schedules.sgdr(20, 2, warmup_steps=3)
    steps = np.arange(45)
    np.testing.assert_array_equal(warm(steps)[:3], np.float32(0.01))
    np.testing.assert_array_equal(warm(steps)[3:], plain(steps)[3:])


def test_one_step_cycles_are_always_one():
    np.testing.assert_array_equal(schedules.sgdr(1, 4)(np.arange(5)), [1, 1, 1, 1, 0])


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: schedules.sgdr(0, 1), "cycle_steps=0"),
        (lambda: schedules.sgdr(5, 0), "num_cycles=0"),
        (lambda: schedules.sgdr(5, 1, cycle_mult=1.5), "cycle_mult=1.5"),
        (lambda: schedules.sgdr(5, 1, final=2.0), "final=2.0"),
        (lambda: schedules.sgdr(5, 1, warmup_steps=5), "warmup_steps=5"),
        (lambda: schedules.sgdr(5, 40, cycle_mult=2), "32-bit"),
        (lambda: schedules.linear(0), "num_steps=0"),
        (lambda: schedules.exponential(1, initial=0.1), "num_steps=1"),
        (lambda: schedules.exponential(9, initial=0.0), "initial=0.0"),
        (lambda: schedules.one_cycle(9, pct_start=1.0), "pct_start=1.0"),
        (lambda: schedules.one_cycle(9, div=0.5), "div=0.5"),
        (lambda: schedules.one_cycle(1), "num_steps=1"),
        (lambda: schedules.one_cycle_momentum(1), "num_steps=1"),
        (lambda: schedules.one_cycle_momentum(9, pct_start=0.0), "pct_start=0.0"),
        (lambda: schedules.one_cycle_momentum(9, high=1.0), "high=1.0"),
        (lambda: schedules.one_cycle_momentum(9, low=0.96), "low=0.96"),
    ],
)
def test_bad_arguments_are_named(make, argument):
    with pytest.raises(ValueError, match=argument.replace(".", r"\.")):
        make()
