"""Optimizers with one learning rate per layer group, over the trainable part of the parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxclf.groups import GROUPS, group_name, layer_groups
from jaxclf.models.trees import partition
from jaxclf.schedules import Schedule


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
    if len(lrs) not in GROUPS:
        raise ValueError(f"{len(lrs)} learning rates were given; give one per layer group: 1, 2, 3 or 6")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm={clip_norm!r} must be positive, or None")
    if weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay!r} must not be negative")
    if not callable(momentum) and not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum!r} must lie in [0, 1)")
    trainable, _ = partition(params, frozen)
    labels = layer_groups(trainable, num_groups=len(lrs))
    rates = {group_name(i): _scale_by_lr(schedule, lr) for i, lr in enumerate(lrs)}
    decay = [optax.add_decayed_weights(weight_decay, mask=decays)] if weight_decay else []
    if optimizer == "sgd":
        direction = [*decay, _trace(momentum)] if momentum else decay
    elif optimizer == "adamw":
        direction = [_adam(momentum), *decay]
    else:
        raise ValueError(f"optimizer={optimizer!r} is not known; choose 'sgd' or 'adamw'")
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm is not None else []
    return optax.chain(*clip, *direction, optax.multi_transform(rates, labels))


def _scale_by_lr(schedule: Schedule, lr: float) -> optax.GradientTransformation:
    return optax.scale_by_schedule(lambda step: -lr * schedule(step))


def _trace(momentum: float | Schedule) -> optax.GradientTransformation:
    if callable(momentum):
        return optax.inject_hyperparams(optax.trace, static_args=("nesterov",))(decay=momentum, nesterov=True)
    return optax.trace(momentum, nesterov=True)


def _adam(momentum: float | Schedule) -> optax.GradientTransformation:
    if callable(momentum):
        return optax.inject_hyperparams(optax.scale_by_adam)(b1=momentum, b2=0.99, eps=1e-5)
    return optax.scale_by_adam(b1=momentum, b2=0.99, eps=1e-5)
