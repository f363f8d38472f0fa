"""Small JPEG pictures of pixels."""

import io

import numpy as np
from PIL import Image


def jpeg_thumbnail(pixels: np.ndarray, *, side: int = 160, quality: int = 80) -> bytes:
    """A JPEG file of uint8 [h, w, 3] pixels, made smaller where its longer side exceeds `side`.

    Args:
      pixels: the picture.
      side: the longest side in pixels, >= 1.
      quality: of the JPEG, 1 to 95.

    Raises:
      ValueError: for other pixels, or settings out of range.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"pixels must be uint8 [h, w, 3]; found {pixels.dtype} {list(pixels.shape)}")
    if side < 1 or not 1 <= quality <= 95:
        raise ValueError(f"side={side} must be at least 1 and quality={quality} in 1 .. 95")
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
