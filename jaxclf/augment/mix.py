"""Mixing pictures of a batch with their targets: `(key, images, targets, mask) -> (images, targets)`.

Each real row gets one partner among the other real rows; padding (mask 0) is no one's partner and stays as it is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

#: (key, float [b, h, w, c], float targets [b, classes], mask [b]) -> (images, targets), shapes kept.
Mix = Callable[[jax.Array, jax.Array, jax.Array, jax.typing.ArrayLike], tuple[jax.Array, jax.Array]]


def partners(key: jax.Array, mask: jax.typing.ArrayLike) -> jax.Array:
    """Who is mixed with whom: the real rows form one random cycle, so nobody is their own partner (unless alone).

    Args:
      key: a JAX key.
      mask: [b], not 0 for real rows.

    Returns:
      int32 [b], a permutation of the rows; padding maps to itself.
    """
    real = jnp.asarray(mask) != 0
    num, num_real = real.shape[0], real.sum()
    # The real rows in random order, then the padding.
    order = jnp.argsort(jnp.where(real, jax.random.uniform(key, (num,)), 2.0)).astype(jnp.int32)
    position = jnp.arange(num, dtype=jnp.int32)
    following = jnp.where(position + 1 < num_real, position + 1, 0)
    return jnp.zeros(num, jnp.int32).at[order].set(jnp.where(position < num_real, order[following], order))


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, mask: jax.typing.ArrayLike, *, alpha: float = 0.4
) -> tuple[jax.Array, jax.Array]:
    """lambda * own + (1 - lambda) * partner's, for images and targets, lambda ~ Beta(alpha, alpha) for each image.

    Of lambda and 1 - lambda the larger is taken, so that a picture stays mostly itself.

    Args:
      key: a JAX key.
      images: float [b, h, w, c], normalised or not.
      targets: float [b, classes]: one-hot, smoothed or multi-hot.
      mask: [b], not 0 for real rows.
      alpha: positive; the smaller, the less is mixed.

    Returns:
      (images, targets), float32 in the input's shapes; each row of targets keeps the sum that both rows had.

    Raises:
      ValueError: for `alpha` not positive, or counts that differ.

    References: Zhang et al., arXiv:1710.09412 (2017).
    """
    real = _check(images, targets, mask, alpha)
    partner_key, share_key = jax.random.split(key)
    partner = partners(partner_key, real)
    share = jax.random.beta(share_key, alpha, alpha, (images.shape[0],), jnp.float32)
    share = jnp.where(real, jnp.maximum(share, 1.0 - share), 1.0)
    return _weigh(images, images[partner], share), _weigh(targets, targets[partner], share)


def cutmix(
    key: jax.Array, images: jax.Array, targets: jax.Array, mask: jax.typing.ArrayLike, *, alpha: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """A box of the picture replaced by its partner's, and the targets weighed by the share of pixels each has.

    The box has the picture's proportions and, before it is cut at the border, 1 - lambda of its area, with lambda ~
    Beta(alpha, alpha) for each image; its centre is anywhere. The targets follow the pixels that really changed.
    Arguments, result and errors are those of `mixup`.

    References: Yun et al., arXiv:1905.04899 (2019).
    """
    real = _check(images, targets, mask, alpha)
    num, height, width, _ = images.shape
    partner_key, share_key, place_key = jax.random.split(key, 3)
    partner = partners(partner_key, real)
    side = jnp.sqrt(1.0 - jax.random.beta(share_key, alpha, alpha, (num,), jnp.float32))
    place = jax.random.uniform(place_key, (num, 2))
    rows, columns = _span(side, place[:, 0], height), _span(side, place[:, 1], width)
    replaced = rows[:, :, None] & columns[:, None, :] & real[:, None, None]  # [b, h, w]
    share = jnp.maximum(1.0 - replaced.mean((1, 2), dtype=jnp.float32), 0.0)  # the mean of ones may round above 1
    return jnp.where(replaced[..., None], images[partner], images), _weigh(targets, targets[partner], share)


def _check(images: jax.Array, targets: jax.Array, mask: jax.typing.ArrayLike, alpha: float) -> jax.Array:
    """The mask as bool [b], after looking at the arguments."""
    if not alpha > 0:
        raise ValueError(f"alpha={alpha!r} must be positive; to mix nothing, leave the mixing out")
    mask = jnp.asarray(mask)
    if mask.ndim != 1 or targets.ndim != 2 or not images.shape[0] == targets.shape[0] == mask.shape[0]:
        raise ValueError(
            f"images [b, h, w, c], targets [b, classes] and mask [b] must have the same b; found "
            f"{list(images.shape)}, {list(targets.shape)} and {list(mask.shape)} (class numbers: jax.nn.one_hot first)"
        )
    return mask != 0


def _weigh(own: jax.Array, others: jax.Array, share: jax.Array) -> jax.Array:
    """share * own + (1 - share) * others, with share [b] along the first axis."""
    share = share.reshape((-1,) + (1,) * (own.ndim - 1))
    return share * own + (1.0 - share) * others


def _span(side: jax.Array, centre: jax.Array, length: int) -> jax.Array:
    """Which of `length` pixels lie within side / 2 (fractions of the length, [b]) of a centre: bool [b, length]."""
    middles = (jnp.arange(length, dtype=jnp.float32) + 0.5) / length
    return jnp.abs(middles - centre[:, None]) < side[:, None] / 2
