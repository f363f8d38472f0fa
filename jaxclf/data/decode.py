"""From a file to uint8 RGB pixels: every Pillow mode, EXIF orientation, one resize. Only here images are opened."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from jaxclf.config import Preprocess
from jaxclf.data.folders import ImageBytes

#: What can be classified: a file, a PIL image, or uint8 pixels [h, w, 3] or [h, w].
Picture = str | os.PathLike[str] | Image.Image | np.ndarray | ImageBytes

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
#: Training pictures are kept this much larger than the network's input, so that rotation and zoom have pixels to use.
PRESIZE_RATIO = 1.15


def read_image(path: str | os.PathLike[str] | ImageBytes) -> Image.Image:
    """Opens an image file as RGB, turned upright by its EXIF orientation.

    Raises:
      ValueError: naming the path, if the file is missing, empty, cut short, too large to be a photo, or not a picture.
    """
    path = Path(path) if isinstance(path, str | os.PathLike) else path
    try:
        if isinstance(path, Path):
            size, file = path.stat().st_size, path
        else:
            data = path.read_bytes()
            size, file = len(data), io.BytesIO(data)  # type: ignore[assignment]
        if size == 0:
            raise ValueError(f"image {path} is empty (0 bytes); restore or remove it")
        with Image.open(file) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise ValueError(f"image {path} does not exist") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {path} is too large to be a photo: {error}") from error
    except MemoryError:
        raise
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise _unreadable(path, error) from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, ... for damaged files
        raise _unreadable(path, error) from error


def _unreadable(path: object, error: Exception) -> ValueError:
    return ValueError(
        f"image {path} cannot be read: {type(error).__name__}: {error}; it is damaged or not a picture: restore or "
        "remove it"
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB, as a person would see it.

    Transparency is laid over white; 16-bit and 32-bit integer grey is scaled from 0 .. 65535; float grey is taken as
    0 .. 255 and clipped; LAB goes through its colour profile.
    """
    mode = image.mode
    if mode == "RGB":
        return image
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        # Premultiplied modes convert to RGB only by way of their plain twin.
        plain = {"La": "LA", "RGBa": "RGBA"}.get(mode)
        opaque = (image.convert(plain) if plain else image).convert("RGBA")
        white = Image.new("RGBA", opaque.size, "white")
        return Image.alpha_composite(white, opaque).convert("RGB")
    if mode.startswith("I"):  # I, I;16, I;16L, I;16B, I;16N
        grey = np.asarray(image).astype(np.float64) / 257.0
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if mode == "F":
        grey = np.nan_to_num(np.asarray(image, np.float64))
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # None only for inPlace=True
        return converted
    return image.convert("RGB")


def resize_shorter_side(image: Image.Image, side: int, interpolation: str) -> Image.Image:
    """Scales the shorter side to `side` pixels and the longer one to floor(side * longer / shorter), as torch does.

    Antialiased: Pillow widens the filter when it shrinks.
    """
    width, height = image.size
    shorter, longer = min(width, height), max(width, height)
    other = max(int(side * longer / shorter), side)
    size = (side, other) if width <= height else (other, side)
    return image if image.size == size else image.resize(size, RESAMPLING[interpolation])


def crop_center(image: Image.Image, side: int) -> Image.Image:
    """The middle `side` x `side` pixels, rounded as torchvision's CenterCrop rounds."""
    left, top = (round((length - side) / 2.0) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def pixels(image: Picture) -> Image.Image:
    """A path, a PIL image or a uint8 [h, w, 3] array as an RGB PIL image.

    Raises:
      ValueError: for an array that is not uint8 [h, w, 3] or [h, w], or a file that cannot be read.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)):
            raise ValueError(
                f"an image array must be uint8 [h, w, 3] or [h, w]; found {image.dtype} {list(image.shape)}"
            )
        return to_rgb(Image.fromarray(image))
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    return read_image(image)


def evaluation_pixels(image: Picture, preprocess: Preprocess) -> np.ndarray:
    """What the network is evaluated on: one resize, then the centre crop. uint8 [image_size, image_size, 3]."""
    side = round(preprocess.image_size / preprocess.crop_fraction)
    resized = resize_shorter_side(pixels(image), side, preprocess.interpolation)
    return np.asarray(crop_center(resized, preprocess.image_size))


def presized_pixels(image: Picture, preprocess: Preprocess) -> np.ndarray:
    """What augmentation starts from: the shorter side at `presize(image_size)`, centre crop. uint8 [s, s, 3]."""
    side = presize(preprocess.image_size)
    return np.asarray(crop_center(resize_shorter_side(pixels(image), side, preprocess.interpolation), side))


def presize(image_size: int) -> int:
    """Side in pixels of the pictures kept for training at `image_size`.

    >>> presize(224)
    258
    """
    return round(image_size * PRESIZE_RATIO)
