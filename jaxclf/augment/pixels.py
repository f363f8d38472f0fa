"""Pixel values and the middle of a picture: what every pipeline starts or ends with, nothing of it random."""

import jax
import jax.numpy as jnp


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
