"""Pixels to floats, normalised, cropped; and the one interpolation: pictures shown through matrices, bilinearly."""

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


def sample(images: jax.typing.ArrayLike, matrices: jax.typing.ArrayLike, size: int) -> jax.Array:
    """Each picture as its matrix shows it, interpolated bilinearly once.

    The output's pixel centres lie at ((i + .5) * 2 / size - 1) in [-1, 1]; the matrix takes them to the input, where
    pixel k of n has its centre at ((k + .5) * 2 / n - 1). What lies outside is reflected about the centre of the border
    pixel (d c b | a b c d | c b a: NumPy's pad mode "reflect", SciPy's "mirror"). An identity to the input's own size
    returns the input bit for bit, and the symmetries of the square return its pixels permuted.

    There is no antialiasing: shrink by much more than 1.5 with an antialiased resize before (`data.decode` does).

    Args:
      images: uint8 0..255, or float of any range: [b, h, w, c] with sides of at least 2 and any number of channels.
      matrices: float [b, 3, 3], output -> input coordinates; see `augment.geometry`.
      size: the output's side in pixels.

    Returns:
      float32 [b, size, size, c]; uint8 becomes [0, 1], float keeps its range.

    Raises:
      ValueError: for shapes other than these.
    """
    images, matrices = jnp.asarray(images), jnp.asarray(matrices, jnp.float32)
    if images.ndim != 4 or min(images.shape[1:3]) < 2:
        raise ValueError(f"images must be [b, h, w, c] with sides of at least 2; found {list(images.shape)}")
    num, height, width, channels = images.shape
    if matrices.shape != (num, 3, 3):
        raise ValueError(f"matrices must be [{num}, 3, 3], one for each image; found {list(matrices.shape)}")
    if size < 1:
        raise ValueError(f"size={size} must be at least 1")
    # Converted before the gathers: XLA's CPU backend fuses gathers of float into what follows, those of uint8 not.
    values = to_float(images) if images.dtype == jnp.uint8 else images.astype(jnp.float32)

    x, y = _source(matrices, height, width, size)  # [b, size, size]
    left, across = _neighbour(x, width)
    top, down = _neighbour(y, height)
    first = top * width + left
    pixels = values.reshape(num, height * width, channels)

    def corner(offset: int) -> jax.Array:
        # Picture by picture: of pixels numbered through the batch, every device would gather those of all pictures.
        return jax.vmap(lambda picture, at: picture.at[at].get(mode="promise_in_bounds"))(pixels, first + offset)

    across, down = across[..., None], down[..., None]
    upper = _between(corner(0), corner(1), across)
    lower = _between(corner(width), corner(width + 1), across)
    return _between(upper, lower, down)


def _source(matrices: jax.Array, height: int, width: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Where each output pixel lies in the input, in pixels (0 = centre of the first): x and y, [b, size, size]."""
    # In pixels from the centre these are multiples of 1/2, so matrices of 0, 1 and -1 move pixels exactly.
    centres = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2
    x, y = centres[None, None, :], centres[None, :, None]
    m = matrices[:, :, :, None, None]
    x_in = (m[:, 0, 0] * x + m[:, 0, 1] * y) * (width / size) + m[:, 0, 2] * (width / 2)
    y_in = (m[:, 1, 0] * x + m[:, 1, 1] * y) * (height / size) + m[:, 1, 2] * (height / 2)
    depth = (m[:, 2, 0] * x + m[:, 2, 1] * y) * (2 / size) + m[:, 2, 2]
    return x_in / depth + (width - 1) / 2, y_in / depth + (height - 1) / 2


def _neighbour(position: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """The pixel before a position, reflected into 0 .. length - 1, and how far between it and the next it lies."""
    period = 2.0 * (length - 1)
    position = jnp.abs(position)
    position = position - period * jnp.floor(position / period)
    position = jnp.minimum(position, period - position)
    before = jnp.clip(position.astype(jnp.int32), 0, length - 2)  # in bounds even where the position is not a number
    return before, position - before


def _between(start: jax.Array, end: jax.Array, share: jax.Array) -> jax.Array:
    return start * (1.0 - share) + end * share  # exactly `start` at 0 and `end` at 1
