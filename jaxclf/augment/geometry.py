"""Random geometry as matrices: each operation is `(key, num) -> float32 [num, 3, 3]`, so operations compose by product.

A matrix maps a point of the output to the point of the input that is shown there, in homogeneous columns (x, y, 1). x
runs right and y down, and the picture is the square [-1, 1] x [-1, 1], its edges being the pixels' outer edges. As
sampling by A and then by B shows the input at A (B p), the product A @ B reads in the order of application.

The coordinates are relative to each side, so rotations are true for square pictures, which the loader's are.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxclf.augment.draws import Range, box_sides, chosen, symmetric

#: (key, number of images) -> float32 [num, 3, 3], output -> input coordinates in [-1, 1].
Geometry = Callable[[jax.Array, int], jax.Array]


def matrices(rows: tuple[tuple[jax.typing.ArrayLike, ...], ...], num: int) -> jax.Array:
    """float32 [num, 3, 3] from three rows of three entries, each a number or [num]."""
    entries = [[jnp.broadcast_to(jnp.asarray(entry, jnp.float32), (num,)) for entry in row] for row in rows]
    return jnp.stack([jnp.stack(row, axis=-1) for row in entries], axis=-2)


def identity(num: int) -> jax.Array:
    """`num` times the matrix that changes nothing: float32 [num, 3, 3]."""
    return jnp.broadcast_to(jnp.eye(3, dtype=jnp.float32), (num, 3, 3))


def product(*factors: jax.Array) -> jax.Array:
    """The matrix of several operations applied in the order given: float32 [b, 3, 3] each, at least one."""
    result = factors[0]
    for factor in factors[1:]:
        result = jnp.matmul(result, factor, precision=jax.lax.Precision.HIGHEST)  # never TF32: it moves pixels
    return result


def random_flip(key: jax.Array, num: int, *, probability: float = 0.5) -> jax.Array:
    """Left and right exchanged with the given probability."""
    mirror = jnp.where(chosen(key, num, probability), -1.0, 1.0)
    return matrices(((mirror, 0, 0), (0, 1, 0), (0, 0, 1)), num)


def dihedral(which: jax.typing.ArrayLike) -> jax.Array:
    """The eight symmetries of the square by number: bit 0 mirrors x, bit 1 mirrors y, bit 2 exchanges x and y after.

    All entries are 0, 1 or -1, so sampling to the input's own size permutes pixels and changes none of their values.

    Args:
      which: int [b], 0 (nothing) to 7.

    Returns:
      float32 [b, 3, 3].

    >>> dihedral(jnp.array([0, 6]))[:, :2, :2].astype(int).tolist()
    [[[1, 0], [0, 1]], [[0, 1], [-1, 0]]]
    """
    which = jnp.asarray(which)
    mirror_x, mirror_y = 1 - 2 * (which & 1), 1 - 2 * ((which >> 1) & 1)
    exchange = (which >> 2) & 1
    keep = 1 - exchange
    return matrices(
        ((mirror_x * keep, mirror_x * exchange, 0), (mirror_y * exchange, mirror_y * keep, 0), (0, 0, 1)),
        which.shape[0],
    )


def random_dihedral(key: jax.Array, num: int) -> jax.Array:
    """One of the eight symmetries of the square, each as likely as the others: for pictures without an up."""
    return dihedral(jax.random.randint(key, (num,), 0, 8))


def random_rotate(key: jax.Array, num: int, *, max_degrees: float = 10.0, probability: float = 0.75) -> jax.Array:
    """Turned about the centre by U(-max_degrees, max_degrees) with the given probability, else not at all."""
    angle = jnp.deg2rad(symmetric(key, num, max_degrees, probability))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return matrices(((cos, -sin, 0), (sin, cos, 0), (0, 0, 1)), num)


def random_zoom(key: jax.Array, num: int, *, max_zoom: float = 1.1, probability: float = 0.75) -> jax.Array:
    """Magnified by U(1, max_zoom) with the given probability; the part that is left is placed anywhere in the picture.

    Raises:
      ValueError: for a zoom below 1 or a probability outside [0, 1].
    """
    if not 1.0 <= max_zoom < math.inf:
        raise ValueError(f"max_zoom={max_zoom!r} must be at least 1")
    zoom_key, chosen_key, place_key = jax.random.split(key, 3)
    zoom = jax.random.uniform(zoom_key, (num,), minval=1.0, maxval=max_zoom)
    side = 1.0 / jnp.where(chosen(chosen_key, num, probability), zoom, 1.0)
    return _crop(place_key, side, side)


def piece(num: int, side: float) -> jax.Array:
    """The middle of the picture, `side` of its side: float32 [num, 3, 3]."""
    return matrices(((side, 0, 0), (0, side, 0), (0, 0, 1)), num)


def random_piece(key: jax.Array, num: int, *, side: float) -> jax.Array:
    """A square piece of the picture, `side` of its side, from anywhere in it: magnified by 1 / side.

    Raises:
      ValueError: for a side outside (0, 1].
    """
    if not 0.0 < side <= 1.0:
        raise ValueError(f"side={side!r} must lie in (0, 1]")
    sides = jnp.full((num,), side, jnp.float32)
    return _crop(key, sides, sides)


def random_resized_crop(
    key: jax.Array, num: int, *, area: Range = (0.35, 1.0), aspect: Range = (3 / 4, 4 / 3)
) -> jax.Array:
    """A part of the picture with a random area, shape and place, stretched to the output.

    The sampling is bilinear without antialiasing: right while the part has up to about as many pixels as the output,
    which presized pictures see to (1.15 times the output's side); a much larger picture would alias.

    Args:
      key, num: a JAX key and the number of images.
      area: (smallest, largest) share of the picture, drawn uniformly; training from scratch on ImageNet uses .08.
      aspect: (smallest, largest) width / height, drawn log-uniformly within what fits; see `draws.box_sides`.

    Returns:
      float32 [num, 3, 3].

    Raises:
      ValueError: for a range that is empty or out of bounds.

    References: Szegedy et al., arXiv:1409.4842 (2014).
    """
    sides_key, place_key = jax.random.split(key)
    width, height = box_sides(sides_key, num, area, aspect)
    return _crop(place_key, width, height)


def random_warp(key: jax.Array, num: int, *, max_warp: float = 0.2, probability: float = 0.75) -> jax.Array:
    """Seen at an angle: a perspective in which straight lines stay straight and corners move by up to `max_warp`.

    With u, v ~ U(-max_warp, max_warp), the output's corner (x, y) shows the input at (x (1 + u y), y (1 + v x)); the
    four corners determine the matrix. 1 is half the picture's side.

    Args:
      key, num: a JAX key and the number of images.
      max_warp: in [0, .5); from .5 on the horizon could enter the picture.
      probability: of warping at all, in [0, 1].

    Raises:
      ValueError: for a warp or probability outside these bounds.
    """
    if not 0.0 <= max_warp < 0.5:
        raise ValueError(f"max_warp={max_warp!r} must lie in [0, .5)")
    chosen_key, *warp_keys = jax.random.split(key, 3)
    touched = chosen(chosen_key, num, probability)
    u, v = (jnp.where(touched, symmetric(warp_key, num, max_warp, 1.0), 0.0) for warp_key in warp_keys)
    return matrices(((1 - u * u, -u * v, -v), (-u * v, 1 - v * v, -u), (-v, -u, 1)), num)


def _crop(key: jax.Array, width: jax.Array, height: jax.Array) -> jax.Array:
    """Shows a box of the given sides (float [num], fractions of the picture's) at a random place inside the picture."""
    num = width.shape[0]
    place = jax.random.uniform(key, (num, 2), minval=-1.0, maxval=1.0)
    x, y = place[:, 0] * (1.0 - width), place[:, 1] * (1.0 - height)
    return matrices(((width, 0, x), (0, height, y), (0, 0, 1)), num)
