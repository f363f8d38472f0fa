"""Many logistic regressions with ridge side by side, brought to their optimum by L-BFGS in one compiled loop.

Parameters are theta [p, c, r] of p problems, c classes and r columns; what belongs to examples has them last, [.., n],
so that the loops over examples are the long ones also where there are two classes.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

#: Pairs of steps and gradient changes that L-BFGS remembers.
MEMORY = 10
#: A problem that has not arrived after so many iterations is left as it is; its gradient norm says so.
MAX_ITERATIONS = 500
#: A line search ends where the slope has fallen to this share of that at its beginning.
SLOPE_SHARE = 0.3
MAX_TRIALS = 8


class Examples(NamedTuple):
    """What the loss is made of: `weights * normaliser(logits) - targets * logits`, summed.

    The normaliser is log-sum-exp over the classes, or softplus of each logit where there are several labels.

    Attributes:
      z: float32 [n, r], the last column ones; best the others are orthogonal, see `make_columns`.
      targets: float32 [c, n], times their weights; smoothed or soft as may be.
      weights: float32 [1, n], the sum of the targets over the classes; for several labels [c, 1], of each label.
    """

    z: jax.Array
    targets: jax.Array
    weights: jax.Array


class Solution(NamedTuple):
    """Optima of p problems: theta [p, c, r], logits [p, c, n], gradient norm and iterations [p].

    The gradient norm is relative to that of the model without a kernel, whose bias says how common each class is.
    """

    theta: jax.Array
    logits: jax.Array
    gradient_norm: jax.Array
    iterations: jax.Array


class _State(NamedTuple):
    theta: jax.Array  # [p, c, r]
    logits: jax.Array  # [p, c, n]
    gradient: jax.Array  # [p, c, r]
    steps: jax.Array  # [MEMORY, p, c, r], a ring
    changes: jax.Array  # [MEMORY, p, c, r], of the gradient
    inverse_products: jax.Array  # [MEMORY, p], 1 / <step, change>; 0 where there is none
    scale: jax.Array  # [p]
    active: jax.Array  # [p]
    iterations: jax.Array  # [p]


class _Search(NamedTuple):
    trial: jax.Array  # []
    length: jax.Array  # [p], to be tried next
    low: jax.Array  # [p], where the slope is negative
    high: jax.Array  # [p], where it is positive
    done: jax.Array  # [p]


def problem_bytes(number: int, num_classes: int, columns: int) -> int:
    """An estimate, rather too high, of what a problem takes while it is solved: eight times its logits, and history."""
    return 4 * num_classes * (8 * number + (2 * MEMORY + 16) * columns)


def probabilities(logits: jax.Array, multi_label: bool) -> jax.Array:
    """Softmax over the classes, or the sigmoid of each: [.., c, n]."""
    return jax.nn.sigmoid(logits) if multi_label else jax.nn.softmax(logits, axis=-2)


@functools.partial(jax.jit, static_argnames="multi_label")
def losses(logits: jax.Array, examples: Examples, *, multi_label: bool) -> jax.Array:
    """The loss of every example, summed over labels where there are several: [p, n] of logits [p, c, n]."""
    normaliser = jax.nn.softplus(logits) if multi_label else jax.nn.logsumexp(logits, axis=-2, keepdims=True)
    return (examples.weights * normaliser).sum(-2) - (examples.targets * logits).sum(-2)


@functools.partial(jax.jit, static_argnames="multi_label")
def null_theta(examples: Examples, masks: jax.typing.ArrayLike, *, multi_label: bool) -> jax.Array:
    """The best model without a kernel, [p, c, r], of each mask [p, n]; a class without examples has a thousandth."""
    masks = jnp.asarray(masks)
    total = (masks[:, None] * examples.weights).sum(-1)
    least = 1e-3 / examples.z.shape[0]
    share = jnp.clip((masks[:, None] * examples.targets).sum(-1) / jnp.maximum(total, 1e-30), least, 1 - least)
    bias = jnp.log(share) - jnp.log1p(-share) if multi_label else jnp.log(share)  # [p, c]
    return jnp.zeros((*bias.shape, examples.z.shape[1])).at[..., -1].set(bias)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return (a * b).sum((-2, -1))


def _norm(a: jax.Array) -> jax.Array:
    return jnp.sqrt(_dot(a, a))


def _spread(values: jax.Array) -> jax.Array:
    return values[:, None, None]


@functools.partial(jax.jit, static_argnames="multi_label")
def minimise(
    examples: Examples,
    masks: jax.typing.ArrayLike,
    ridge: jax.typing.ArrayLike,
    start: jax.typing.ArrayLike,
    tolerance: jax.typing.ArrayLike,
    *,
    multi_label: bool,
) -> Solution:
    """Minimises sum_i mask_i loss_i + ridge / 2 ||kernel||^2 for p masks, by L-BFGS in one compiled loop.

    Logits are linear in theta, so a line search needs no product of matrices: an iteration costs two, however many
    lengths it tries. The first guess at the inverse Hessian is the diagonal one that the rotated columns have if an
    example's curvature does not depend on it, p (1 - p) averaged at the start.

    Args:
      examples: to learn from.
      masks: float32 [p, n], 0 or 1; a problem without examples is done at once.
      ridge: > 0, of everything but the bias.
      start: [p, c, r], where to begin.
      tolerance: a problem ends with its gradient norm at this share of that of the model without a kernel.
      multi_label: sigmoid instead of softmax.
    """
    z, targets, weights = examples
    masks = jnp.asarray(masks)
    penalty = jnp.full(z.shape[1], ridge, jnp.float32).at[-1].set(0.0)
    weights, targets = masks[:, None] * weights, masks[:, None] * targets

    def make_logits(theta: jax.Array) -> jax.Array:
        return jnp.einsum("pcr,nr->pcn", theta, z, precision=lax.Precision.HIGHEST)

    def make_gradient(theta: jax.Array, logits: jax.Array) -> jax.Array:
        residual = weights * probabilities(logits, multi_label) - targets
        return jnp.einsum("pcn,nr->pcr", residual, z, precision=lax.Precision.HIGHEST) + penalty * theta

    null = null_theta(examples, masks, multi_label=multi_label)
    null_logits = jnp.broadcast_to(null[..., -1:], (*null.shape[:-1], z.shape[0]))
    # Where there is nothing to learn all that is left is rounding, of a ten-millionth of the examples' weight.
    reference = jnp.maximum(_norm(make_gradient(null, null_logits)), 0.1 * weights.sum((-2, -1)))
    theta = jnp.asarray(start)
    logits = make_logits(theta)
    gradient = make_gradient(theta, logits)
    inverse = 1 / _diagonal(logits, weights, z, penalty, multi_label)

    def body(state: _State) -> _State:
        direction = _direction(state, inverse)
        change = make_logits(direction)
        length = _line_search(state, direction, change, weights, targets, penalty, multi_label)
        step = _spread(length) * direction
        theta, logits = state.theta + step, state.logits + _spread(length) * change
        gradient = make_gradient(theta, logits)
        active = state.active & (_norm(gradient) > tolerance * reference)
        return _remember(state, inverse, step, gradient)._replace(theta=theta, logits=logits, active=active)

    count, classes, columns = theta.shape
    ring = jnp.zeros((MEMORY, count, classes, columns))
    state = _State(
        theta,
        logits,
        gradient,
        ring,
        ring,
        inverse_products=jnp.zeros((MEMORY, count)),
        scale=jnp.ones(count),
        active=_norm(gradient) > tolerance * reference,
        iterations=jnp.zeros(count, jnp.int32),
    )
    state = lax.while_loop(lambda s: s.active.any() & (s.iterations.max() < MAX_ITERATIONS), body, state)
    return Solution(state.theta, state.logits, _norm(state.gradient) / reference, state.iterations)


def _diagonal(logits: jax.Array, weights: jax.Array, z: jax.Array, penalty: jax.Array, multi_label: bool) -> jax.Array:
    """The Hessian's diagonal [p, c, r] if every example had the mean curvature; never below a millionth of its top."""
    chance = probabilities(logits, multi_label)
    curvature = (weights * chance * (1 - chance)).sum(-1, keepdims=True)  # [p, c, 1]
    diagonal = curvature * (z * z).mean(0) + penalty
    return jnp.maximum(diagonal, jnp.maximum(1e-6 * diagonal.max(-1, keepdims=True), 1e-30))


def _direction(state: _State, inverse: jax.Array) -> jax.Array:
    """Minus the inverse Hessian times the gradient, by the two loops of L-BFGS; 0 for problems that are done."""
    newest = state.iterations.max() - 1

    def back(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        vector, factors = carry
        at = (newest - i) % MEMORY
        factor = state.inverse_products[at] * _dot(state.steps[at], vector)
        return vector - _spread(factor) * state.changes[at], factors.at[at].set(factor)

    def forth(i: jax.Array, vector: jax.Array) -> jax.Array:
        at = (newest + 1 + i) % MEMORY
        factor = state.inverse_products[at] * _dot(state.changes[at], vector)
        return vector + _spread(factors[at] - factor) * state.steps[at]

    vector, factors = lax.fori_loop(0, MEMORY, back, (state.gradient, jnp.zeros_like(state.inverse_products)))
    vector = lax.fori_loop(0, MEMORY, forth, _spread(state.scale) * inverse * vector)
    downhill = _dot(vector, state.gradient) > 0  # rounding can turn it near the optimum
    vector = jnp.where(_spread(downhill), vector, inverse * state.gradient)
    return jnp.where(_spread(state.active), -vector, 0.0)


def _remember(state: _State, inverse: jax.Array, step: jax.Array, gradient: jax.Array) -> _State:
    """The state with this step in its history, and everything else that follows from the new gradient."""
    change = gradient - state.gradient
    product, size = _dot(step, change), _dot(change, inverse * change)
    useful = (product > 0) & (size > 0)
    at = state.iterations.max() % MEMORY
    return state._replace(
        gradient=gradient,
        steps=state.steps.at[at].set(step),
        changes=state.changes.at[at].set(change),
        inverse_products=state.inverse_products.at[at].set(jnp.where(useful, 1 / jnp.where(useful, product, 1.0), 0.0)),
        scale=jnp.where(useful, product / jnp.where(useful, size, 1.0), state.scale),
        iterations=state.iterations + state.active,
    )


def _line_search(
    state: _State,
    direction: jax.Array,
    change: jax.Array,
    weights: jax.Array,
    targets: jax.Array,
    penalty: jax.Array,
    multi_label: bool,
) -> jax.Array:
    """Lengths [p] along `direction`, `change` in logits, at which the slope has nearly gone.

    Newton's method in one dimension, kept between the ends where the slope is negative and positive: the objective is
    convex, so its minimum is where the slope is 0, and float32 knows slopes where values are all alike.
    """
    linear, square = _dot(penalty * state.theta, direction), _dot(penalty * direction, direction)

    def slope_and_curvature(length: jax.Array) -> tuple[jax.Array, jax.Array]:
        chance = probabilities(state.logits + _spread(length) * change, multi_label)
        slope = ((weights * chance - targets) * change).sum((-2, -1)) + linear + length * square
        if multi_label:
            curvature = (weights * chance * (1 - chance) * change**2).sum((-2, -1))
        else:
            mean = (chance * change).sum(-2, keepdims=True)
            curvature = (weights * chance * (change - mean) ** 2).sum((-2, -1))
        return slope, curvature + square

    return _root(slope_and_curvature, _dot(state.gradient, direction), ~state.active)


def _root(function: Callable[[jax.Array], tuple[jax.Array, jax.Array]], start: jax.Array, done: jax.Array) -> jax.Array:
    """Where rising functions [p], of value `start` < 0 at 0, are nearly zero; `function` gives values and slopes.

    The first try is 1, which L-BFGS aims at, and mostly the last.
    """
    enough = SLOPE_SHARE * jnp.abs(start)

    def body(carry: _Search) -> _Search:
        slope, curvature = function(carry.length)
        done = carry.done | (jnp.abs(slope) <= enough)
        low = jnp.where(slope <= 0, carry.length, carry.low)
        high = jnp.where(slope > 0, carry.length, carry.high)
        newton = carry.length - slope / jnp.maximum(curvature, 1e-30)
        beyond = 4 * jnp.maximum(carry.length, 1.0)
        inside = (newton > low) & (newton < jnp.minimum(high, 2.5 * beyond))
        other = jnp.where(jnp.isinf(high), beyond, (low + high) / 2)
        length = jnp.where(done, carry.length, jnp.where(inside, newton, other))
        return _Search(carry.trial + 1, length, low, high, done)

    one = jnp.ones(done.shape)
    first = _Search(jnp.int32(0), one, 0 * one, jnp.inf * one, done)
    return lax.while_loop(lambda carry: (carry.trial < MAX_TRIALS) & ~carry.done.all(), body, first).length
