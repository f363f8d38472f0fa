"""Random changes of pixel values: `(key, float images) -> float images`, each image with its own draws."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxclf.augment.draws import Range, box_sides, chosen

#: (key, float32 [b, h, w, c] in [0, 1]) -> the same shape and range.
Colour = Callable[[jax.Array, jax.Array], jax.Array]


def random_lighting(key: jax.Array, images: jax.Array, *, max_change: float = 0.05) -> jax.Array:
    """fastai 0.7's lighting: contrast about the image's mean, then brightness, each drawn from U(-.05, .05).

    out = clip((image - mean) * contrast + mean + b, 0, 1), contrast = 1 + c for c >= 0 and 1 / (1 - c) below.

    Args:
      key: a JAX key.
      images: float [b, h, w, c] in [0, 1].
      max_change: the largest |b| and |c|, in [0, 1]; fastai 2 uses .2.

    Returns:
      float32 [b, h, w, c] in [0, 1].

    Raises:
      ValueError: for `max_change` outside [0, 1].
    """
    if not 0.0 <= max_change <= 1.0:
        raise ValueError(f"max_change={max_change!r} must lie in [0, 1]")
    brightness_key, contrast_key = jax.random.split(key)
    shape = (images.shape[0], 1, 1, 1)
    b = jax.random.uniform(brightness_key, shape, minval=-max_change, maxval=max_change)
    c = jax.random.uniform(contrast_key, shape, minval=-max_change, maxval=max_change)
    contrast = jnp.where(c >= 0.0, 1.0 + c, 1.0 / (1.0 - c))
    mean = images.mean((1, 2, 3), keepdims=True)
    return jnp.clip((images - mean) * contrast + mean + b, 0.0, 1.0)


def random_erasing(
    key: jax.Array,
    images: jax.Array,
    *,
    probability: float = 0.25,
    area: Range = (0.02, 1 / 3),
    aspect: Range = (0.3, 1 / 0.3),
    fill: float | None = None,
) -> jax.Array:
    """A random box painted over, so that no single detail is enough to recognise a picture.

    In a pipeline this acts on [0, 1], before normalisation. By default the box takes the image's own mean colour, which
    normalisation brings near 0: the picture's overall colour stays, and the values stay in range whatever the range is.

    Args:
      key: a JAX key.
      images: float [b, h, w, c].
      probability: of erasing at all, in [0, 1].
      area: (smallest, largest) share of the picture, in (0, 1]; the box is rounded to whole pixels, at least one.
      aspect: (smallest, largest) width / height, in fractions of the picture's sides.
      fill: the value painted in every channel; None: the image's mean per channel.

    Returns:
      [b, h, w, c], of the input's type.

    Raises:
      ValueError: for a range or probability out of bounds.

    References: Zhong et al., arXiv:1708.04896 (2017).
    """
    num, height, width, _ = images.shape
    chosen_key, sides_key, place_key = jax.random.split(key, 3)
    box_width, box_height = box_sides(sides_key, num, area, aspect)
    touched = chosen(chosen_key, num, probability)
    place = jax.random.uniform(place_key, (num, 2))
    columns = _interval(box_width, place[:, 0], width)
    rows = _interval(box_height, place[:, 1], height)
    erased = rows[:, :, None] & columns[:, None, :] & touched[:, None, None]  # [b, h, w]
    paint = images.mean((1, 2), keepdims=True) if fill is None else jnp.asarray(fill, images.dtype)
    return jnp.where(erased[..., None], paint, images)


def _interval(side: jax.Array, place: jax.Array, length: int) -> jax.Array:
    """Which of `length` pixels a side covers (both fractions, [b]), at a place in [0, 1) of those that fit."""
    covered = jnp.clip(jnp.round(side * length), 1, length)
    start = jnp.floor(place * (length - covered + 1))[:, None]
    pixels = jnp.arange(length)
    return (pixels >= start) & (pixels < start + covered[:, None])
