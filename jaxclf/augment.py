"""Augmentation on the device: `(key, uint8 images) -> float images`, batched, drawn per image, one interpolation.

Geometry (flip, rotation, zoom and the crop it leaves room for) is composed into one affine map per image and sampled
once, so a picture is blurred once however many operations took part. What lies outside is reflected.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

#: (key, uint8 [b, h, w, c]) -> float32 [b, size, size, c] in [0, 1].
Augment = Callable[[jax.Array, jax.typing.ArrayLike], jax.Array]

MAX_ROTATION_DEGREES = 10.0
MAX_ZOOM = 1.1
MAX_LIGHTING = 0.05
PROBABILITY = 0.75


def to_float(images: jax.typing.ArrayLike) -> jax.Array:
    """uint8 0..255 -> float32 in [0, 1]."""
    return jnp.asarray(images).astype(jnp.float32) / 255.0


def normalize(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """(image - mean) / std per channel: float [b, h, w, c] in [0, 1] -> float32 of the same shape."""
    return (images - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def center_crop(images: jax.typing.ArrayLike, size: int) -> jax.Array:
    """The middle `size` x `size` pixels: [b, h, w, c] -> [b, size, size, c]."""
    images = jnp.asarray(images)
    top, left = ((side - size) // 2 for side in images.shape[1:3])
    if min(top, left) < 0:
        raise ValueError(f"cannot crop {size} pixels out of images of {images.shape[1]} x {images.shape[2]}")
    return images[:, top : top + size, left : left + size]


def random_affine(key: jax.Array, images: jax.Array, size: int, *, flip: bool = True) -> jax.Array:
    """Flip (p .5), rotate (+-10 degrees, p .75) and zoom (1 to 1.1, p .75, into a random place), sampled once.

    Without any of them the whole picture is scaled to the output size. Borders are reflected.

    Args:
      key: a JAX key; the same key gives the same pixels.
      images: float [b, h, w, c], any size.
      size: output side in pixels.
      flip: whether left and right may be exchanged.

    Returns:
      float32 [b, size, size, c], within the range of the input.
    """
    num, height, width, _ = images.shape
    keys = jax.random.split(key, 6)
    degrees = jax.random.uniform(keys[0], (num,), minval=-MAX_ROTATION_DEGREES, maxval=MAX_ROTATION_DEGREES)
    angle = jnp.deg2rad(jnp.where(jax.random.bernoulli(keys[1], PROBABILITY, (num,)), degrees, 0.0))
    zoom = jax.random.uniform(keys[2], (num,), minval=1.0, maxval=MAX_ZOOM)
    zoom = jnp.where(jax.random.bernoulli(keys[3], PROBABILITY, (num,)), zoom, 1.0)
    shift = jax.random.uniform(keys[4], (num, 2), minval=-1.0, maxval=1.0) * (1.0 - 1.0 / zoom)[:, None]
    mirror = jnp.where(jax.random.bernoulli(keys[5], 0.5, (num,)) & flip, -1.0, 1.0)

    # Output pixel centres in [-1, 1], mapped backwards: mirror, rotate, shrink by the zoom, move.
    centres = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (2.0 / size) - 1.0
    grid_y, grid_x = jnp.meshgrid(centres, centres, indexing="ij")  # [size, size]
    grid_x = grid_x * mirror[:, None, None]  # [b, size, size]
    cos, sin = jnp.cos(angle)[:, None, None], jnp.sin(angle)[:, None, None]
    source_y = (grid_x * sin + grid_y * cos) / zoom[:, None, None] + shift[:, 0, None, None]
    source_x = (grid_x * cos - grid_y * sin) / zoom[:, None, None] + shift[:, 1, None, None]
    rows = (source_y + 1.0) * (height / 2.0) - 0.5
    columns = (source_x + 1.0) * (width / 2.0) - 0.5

    def sample(channel: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
        return map_coordinates(channel, [y, x], order=1, mode="mirror")

    per_image = jax.vmap(sample, in_axes=(-1, None, None), out_axes=-1)  # over channels
    return jax.vmap(per_image)(images, rows, columns)


def random_lighting(key: jax.Array, images: jax.Array) -> jax.Array:
    """fastai 0.7's lighting: contrast about the image's mean, then brightness, each drawn from U(-.05, .05).

    out = clip((image - mean) * contrast + mean + b, 0, 1), contrast = 1 + c for c >= 0 and 1 / (1 - c) below.

    Args:
      key: a JAX key.
      images: float [b, h, w, c] in [0, 1].
    """
    brightness_key, contrast_key = jax.random.split(key)
    shape = (images.shape[0], 1, 1, 1)
    b = jax.random.uniform(brightness_key, shape, minval=-MAX_LIGHTING, maxval=MAX_LIGHTING)
    c = jax.random.uniform(contrast_key, shape, minval=-MAX_LIGHTING, maxval=MAX_LIGHTING)
    contrast = jnp.where(c >= 0.0, 1.0 + c, 1.0 / (1.0 - c))
    mean = images.mean((1, 2, 3), keepdims=True)
    return jnp.clip((images - mean) * contrast + mean + b, 0.0, 1.0)


def make_augment(name: str, image_size: int) -> Augment:
    """The preset `name` as a function `(key, uint8 images) -> float32 images` in [0, 1].

    Args:
      name: "side_on" (flip, rotate, zoom, lighting: photos taken from the side) or "none" (centre crop only).
      image_size: output side in pixels.

    Raises:
      ValueError: for another name.
    """
    if name == "none":
        return lambda key, images: to_float(center_crop(images, image_size))
    if name == "side_on":

        def side_on(key: jax.Array, images: jax.typing.ArrayLike) -> jax.Array:
            geometry_key, lighting_key = jax.random.split(key)
            return random_lighting(lighting_key, random_affine(geometry_key, to_float(images), image_size))

        return side_on
    raise ValueError(f"augment={name!r} is not a preset; choose 'none' or 'side_on'")
