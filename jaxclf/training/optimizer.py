"""Layer groups and optimizers: which parameters share a learning rate, and how those that are trained move."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxclf.config import MODULES
from jaxclf.models.trees import Tree, partition
from jaxclf.schedules import Schedule

#: Modules of each group, earliest layers first, by the number of groups.
GROUPS: dict[int, tuple[tuple[str, ...], ...]] = {
    1: (MODULES,),
    2: (MODULES[:5], ("head",)),
    3: (("stem", "stage1", "stage2"), ("stage3", "stage4"), ("head",)),
    6: tuple((module,) for module in MODULES),
}


def group_name(number: int) -> str:
    """The label of layer group `number`, counted from the input.

    >>> group_name(0)
    'group0'
    """
    return f"group{number}"


def layer_groups(params: Mapping[str, Any], *, num_groups: int = 3) -> Tree:
    """Labels every leaf of a parameter tree with its layer group.

    Three groups are {stem, stage1, stage2}, {stage3, stage4}, {head}; two are body and head; six are every module.

    Args:
      params: a parameter tree or its trainable part.
      num_groups: 1, 2, 3 or 6.

    Returns:
      A tree of the same structure with leaves "group0", "group1", ...

    Raises:
      ValueError: for another number of groups, or a module that is not one of the six.
    """
    if num_groups not in GROUPS:
        raise ValueError(f"num_groups={num_groups} must be one of {', '.join(map(str, GROUPS))}")
    labels = {module: group_name(i) for i, group in enumerate(GROUPS[num_groups]) for module in group}

    def label(module: str, leaves: Any) -> Any:
        if module not in labels:
            raise ValueError(f"params hold a module {module!r}; every module must be one of {', '.join(MODULES)}")
        return jax.tree.map(lambda _: labels[module], leaves)

    tree: Tree = {}
    for name, value in params.items():
        tree[name] = {m: label(m, leaves) for m, leaves in value.items()} if name == "body" else label(name, value)
    return tree


def discriminative_lrs(low: float, high: float, num_groups: int) -> tuple[float, ...]:
    """Rates from `low` for the earliest group to `high` for the head, each the same factor above the one before.

    lr_i = low * (high / low) ** (i / (num_groups - 1)); the ends are `low` and `high` to the bit.

    Raises:
      ValueError: for rates that are not positive, or fewer than one group.

    >>> [round(lr, 6) for lr in discriminative_lrs(1e-4, 1e-2, 3)]
    [0.0001, 0.001, 0.01]
    """
    if not (low > 0 and high > 0):
        raise ValueError(f"low={low!r} and high={high!r} must both be positive")
    if num_groups < 1:
        raise ValueError(f"num_groups={num_groups} must be at least 1")
    if num_groups == 1:
        return (float(high),)
    inner = (low * (high / low) ** (i / (num_groups - 1)) for i in range(1, num_groups - 1))
    return (float(low), *inner, float(high))


def group_lrs(lrs: float | Sequence[float], num_groups: int) -> tuple[float, ...]:
    """One rate per group: a number serves all, a pair (low, high) is spread geometrically, a list is taken as it is.

    Raises:
      ValueError: for a list whose length is neither 2 nor `num_groups`.

    >>> group_lrs(0.1, 3)
    (0.1, 0.1, 0.1)
    """
    if isinstance(lrs, int | float):
        return (float(lrs),) * num_groups
    if len(lrs) == num_groups:
        return tuple(float(lr) for lr in lrs)
    if len(lrs) == 2:
        return discriminative_lrs(lrs[0], lrs[1], num_groups)
    raise ValueError(
        f"{len(lrs)} learning rates were given for {num_groups} layer groups; give one, two or {num_groups}"
    )


def decays(params: Any) -> Any:
    """Which leaves get weight decay: kernels, but neither BatchNorm scales nor any bias (True where ndim > 1)."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def make_optimizer(
    params: Mapping[str, Any],
    schedule: Schedule,
    lrs: Sequence[float],
    *,
    frozen: tuple[str, ...] = (),
    optimizer: str = "sgd",
    momentum: float | Schedule = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """The optimizer of one phase, to be used on the trainable sub-tree `partition(params, frozen)[0]`.

    Group g moves by -lrs[g] * schedule(step) * direction. The direction is Nesterov momentum (sgd) or AdamW's; clipping
    uses the global norm of all trainable gradients; the rates are applied last, by `optax.multi_transform`, so equal
    rates give the plain optimizer to the bit. SGD adds weight decay to the gradient, AdamW adds it to the direction.

    Args:
      params: the full parameter tree; only its structure is read.
      schedule: step -> multiplier, one for all groups.
      lrs: one rate per layer group, earliest layers first: 1, 2, 3 or 6 of them.
      frozen: modules left out, a prefix of `MODULES`. Their groups' rates go unused.
      optimizer: "sgd" or "adamw" (b2 .99, eps 1e-5, as fastai 2).
      momentum: SGD's momentum, or AdamW's b1, in [0, 1); or a function step -> momentum, as one_cycle wants it
        (`jaxclf.schedules.one_cycle_momentum`).
      weight_decay: >= 0; never applied to BatchNorm and biases.
      clip_norm: maximum global norm of the gradient, > 0; None does not clip.

    Raises:
      ValueError: for a wrong number of rates or an argument out of range.

    References: decoupled weight decay, Loshchilov & Hutter, arXiv:1711.05101.
    """
    transformation = make_transformation(
        schedule, lrs, optimizer=optimizer, momentum=momentum, weight_decay=weight_decay, clip_norm=clip_norm
    )
    layer_groups(partition(params, frozen)[0], num_groups=len(lrs))  # raises for modules it does not know
    return transformation


def make_transformation(
    schedule: Schedule,
    lrs: Sequence[float],
    *,
    optimizer: str = "sgd",
    momentum: float | Schedule = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """`make_optimizer` before it has seen parameters: every leaf's group is read off the tree that `init` is given.

    Raises:
      ValueError: for a wrong number of rates or an argument out of range.
    """
    if not callable(momentum) and not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum!r} must lie in [0, 1)")
    inner = _inner(optimizer, momentum)
    return _chained(
        [_scale_by_lr(schedule, lr) for lr in lrs],
        inner if momentum or optimizer == "adamw" else None,
        optimizer=optimizer,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )


def make_steered(
    num_groups: int,
    *,
    optimizer: str = "sgd",
    momentum: bool = True,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`make_transformation` whose rates and momentum are told at every update, and so are no constants of a program.

    `update(gradients, state, params, lrs=.., momentum=..)` with lrs float32 [groups]; schedules are the caller's. With
    the same values it moves as `make_transformation` does, and its state has the same structure.

    Args:
      num_groups: layer groups: 1, 2, 3 or 6.
      momentum: False leaves SGD's out.
      optimizer, weight_decay, clip_norm: as for `make_optimizer`.

    Raises:
      ValueError: for a wrong number of groups or an argument out of range.
    """
    scales = [_told(functools.partial(_scale_of_group, i), num_groups) for i in range(num_groups)]
    inner = _told(lambda lrs, momentum: _inner(optimizer, momentum), num_groups)
    chained = _chained(
        scales,
        inner if momentum or optimizer == "adamw" else None,
        optimizer=optimizer,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
    )
    return optax.with_extra_args_support(chained)


def _chained(
    scales: Sequence[optax.GradientTransformation],
    inner: optax.GradientTransformation | None,
    *,
    optimizer: str,
    weight_decay: float,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    """Clipping, decay and momentum or Adam, then each group's scale."""
    if len(scales) not in GROUPS:
        raise ValueError(f"{len(scales)} learning rates were given; give one per layer group: 1, 2, 3 or 6")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm={clip_norm!r} must be positive, or None")
    if weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay!r} must not be negative")
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm is not None else []
    decay = [optax.add_decayed_weights(weight_decay, mask=decays)] if weight_decay else []
    moved = [inner] if inner is not None else []
    direction = [*decay, *moved] if optimizer == "sgd" else [*moved, *decay]
    groups = functools.partial(layer_groups, num_groups=len(scales))
    by_group = {group_name(i): scale for i, scale in enumerate(scales)}
    return optax.chain(*clip, *direction, optax.multi_transform(by_group, groups))


def _inner(optimizer: str, momentum: Any) -> optax.GradientTransformation:
    """SGD's momentum or Adam, without the decay."""
    if optimizer == "adamw":
        return _adam(momentum)
    if optimizer != "sgd":
        raise ValueError(f"optimizer={optimizer!r} is not known; choose 'sgd' or 'adamw'")
    return _trace(momentum)


def _told(make: Callable[[Any, Any], optax.GradientTransformation], num_groups: int) -> optax.GradientTransformation:
    """The transformation that `make(lrs, momentum)` makes of what each update is told."""

    def update(updates: Any, state: Any, params: Any = None, *, lrs: Any, momentum: Any, **_: Any) -> Any:
        return make(lrs, momentum).update(updates, state, params)

    return optax.GradientTransformationExtraArgs(make((0.0,) * num_groups, 0.0).init, update)


def _scale_by_lr(schedule: Schedule, lr: Any) -> optax.GradientTransformation:
    return optax.scale_by_schedule(lambda step: -lr * schedule(step))


def _scale_of_group(group: int, lrs: Any, momentum: Any) -> optax.GradientTransformation:
    return optax.scale_by_schedule(lambda step: -lrs[group])


def _trace(momentum: Any) -> optax.GradientTransformation:
    if callable(momentum):
        return optax.inject_hyperparams(optax.trace, static_args=("nesterov",))(decay=momentum, nesterov=True)
    return optax.trace(momentum, nesterov=True)


def _adam(momentum: Any) -> optax.GradientTransformation:
    if callable(momentum):
        return optax.inject_hyperparams(optax.scale_by_adam)(b1=momentum, b2=0.99, eps=1e-5)
    return optax.scale_by_adam(b1=momentum, b2=0.99, eps=1e-5)
