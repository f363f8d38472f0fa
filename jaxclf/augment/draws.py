"""What several operations draw alike, one entry per image: whether it is touched at all, and the sides of a box."""

import math

import jax
import jax.numpy as jnp

Range = tuple[float, float]


def check_probability(probability: float) -> None:
    """Raises ValueError unless `probability` lies in [0, 1]."""
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability={probability!r} must lie in [0, 1]")


def check_range(name: str, values: Range, low: float, high: float) -> None:
    """Raises ValueError unless low < values[0] <= values[1] <= high."""
    if not low < values[0] <= values[1] <= high:
        raise ValueError(f"{name}={values!r} must be (smallest, largest), above {low:g} and at most {high:g}")


def chosen(key: jax.Array, num: int, probability: float) -> jax.Array:
    """Which images an operation touches: bool [num], each true with the given probability."""
    check_probability(probability)
    return jax.random.bernoulli(key, probability, (num,))


def symmetric(key: jax.Array, num: int, limit: float, probability: float) -> jax.Array:
    """float32 [num] from U(-limit, limit), and 0 where the operation leaves the image alone."""
    value_key, chosen_key = jax.random.split(key)
    values = jax.random.uniform(value_key, (num,), minval=-limit, maxval=limit)
    return jnp.where(chosen(chosen_key, num, probability), values, 0.0)


def box_sides(key: jax.Array, num: int, area: Range, aspect: Range) -> tuple[jax.Array, jax.Array]:
    """Width and height, as fractions of a square picture's, of boxes that always fit into it.

    The area is drawn from U(area) and kept; the aspect ratio r = width / height is then drawn log-uniformly (wide and
    tall are alike) from the part of `aspect` in which a box of that area fits: area <= r <= 1 / area.

    Args:
      key: a JAX key.
      num: number of boxes.
      area: (smallest, largest) share of the picture, in (0, 1].
      aspect: (smallest, largest) width / height, positive.

    Returns:
      (width, height): float32 [num] each, in (0, 1], with width * height = area and width / height = r.

    Raises:
      ValueError: for an empty range or one outside these bounds.
    """
    check_range("area", area, 0.0, 1.0)
    check_range("aspect", aspect, 0.0, math.inf)
    area_key, aspect_key = jax.random.split(key)
    areas = jax.random.uniform(area_key, (num,), minval=area[0], maxval=area[1])
    low, high = (jnp.clip(limit, areas, 1.0 / areas) for limit in aspect)
    position = jax.random.uniform(aspect_key, (num,))
    ratio = low * (high / low) ** position
    return jnp.minimum(jnp.sqrt(areas * ratio), 1.0), jnp.minimum(jnp.sqrt(areas / ratio), 1.0)
