"""From a file to uint8 RGB pixels: every Pillow mode, EXIF orientation, one resize. Only here images are opened."""

import contextlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from jaxclf.config import Preprocess
from jaxclf.data.folders import ImageBytes

#: What can be classified: a file, an encoded file, a PIL image, or uint8 pixels [h, w, 3] or [h, w].
Picture = str | os.PathLike[str] | ImageBytes | Image.Image | np.ndarray

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
#: Training pictures are kept this much larger than the network's input, so that rotation and zoom have pixels to use.
PRESIZE_RATIO = 1.15
#: What a block without data decodes to.
GREY = 128
#: Rows that a whole file may leave undecoded when its end marker is cut off: three rows of 16 x 16 units.
SLACK = 48
_START_OF_SCAN, _END_OF_IMAGE, _RESTARTS = 0xDA, 0xD9, range(0xD0, 0xD8)
_JPEG = ("JPEG", "MPO")  # MPO: several JPEG pictures in one file, as phones write them; the first is the photo


def read_image(source: str | os.PathLike[str] | ImageBytes, *, covering: int | None = None) -> Image.Image:
    """Opens an image file as RGB, turned upright by its EXIF orientation.

    Args:
      source: a path, or something with `read_bytes()`.
      covering: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its shorter side keeps at least so many
        pixels: much faster, and the pixels differ a little from a full decode and resize. None decodes it whole.

    Raises:
      ValueError: naming the path, if the file is missing, empty, cut short, too large to be a photo, or not a picture.
    """
    name = str(source)
    try:
        data = Path(source).read_bytes() if isinstance(source, str | os.PathLike) else source.read_bytes()
        if not data:
            raise ValueError(f"image {name} is empty (0 bytes); restore or remove it")
        with Image.open(io.BytesIO(data)) as image:
            if covering is not None and image.format in _JPEG and min(image.size) >= 2 * covering:
                image.draft(None, (covering, covering))
            image.load()
            if image.format in _JPEG and is_cut_short(data, image):
                raise ValueError(f"image {name} is cut short: its lower part is missing; restore or remove it")
            # Looking for an orientation costs a tenth of a decode; a JPEG without these has none.
            plain = image.format in _JPEG and not image.info.keys() & {"exif", "xmp"}
            return to_rgb(image if plain else ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise ValueError(f"image {name} does not exist") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {name} is too large to be a photo: {error}") from error
    except MemoryError:
        raise
    except ValueError as error:
        if name in str(error):
            raise
        raise _unreadable(name, error) from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, ... for damaged files
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"image {name} cannot be read: {type(error).__name__}: {error}; it is damaged or not a picture: restore or "
        "remove it"
    )


def grey_rows(image: Image.Image) -> int:
    """How many rows at the bottom are exactly mid-grey from side to side; 0 for nearly every photo."""
    corner = image.getpixel((image.width - 1, image.height - 1))
    if any(value != GREY for value in (corner if isinstance(corner, tuple) else (corner,))):
        return 0
    flat = (np.asarray(image).reshape(image.height, -1) == GREY).all(1)
    return int(np.argmin(flat[::-1])) if not flat.all() else image.height


def is_cut_short(data: bytes, image: Image.Image) -> bool:
    """Whether the grey bottom of `image`, which `data` decoded to, is missing data and not part of the picture.

    libjpeg draws what it has no data for as mid-grey and only warns, and Pillow does not pass the warning on: a flipped
    byte that makes an end marker, or a height in the header larger than what was stored, would go unseen. A grey
    bottom is therefore looked at twice: the file is decoded again without its end marker, and rows that were really
    stored come out all the same. Progressive files cannot be tried like that; they count as cut short if more than
    half of the picture is such grey.
    """
    rows = grey_rows(image)
    if rows == 0:
        return False
    if image.info.get("progressive") or image.info.get("progression"):
        return rows > image.height / 2
    end = _scan_end(data)
    whole = Image.open(io.BytesIO(data[:end]))
    tail = round(rows * whole.height / image.height)
    if tail <= SLACK + 32:
        return False
    with contextlib.suppress(OSError):  # always: the end marker is missing
        whole.load()
    first_grey = whole.height - tail
    probe = whole.im.getpixel((0, first_grey + (tail - SLACK) // 2 + 16))
    return not any(probe if isinstance(probe, tuple) else (probe,))


def _scan_end(data: bytes) -> int:
    """Offset of the marker that ends the first scan's compressed data; the end of the file if there is none."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 2 + length
        if marker == _START_OF_SCAN:
            break
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        if data[position + 1] != 0 and data[position + 1] not in _RESTARTS and data[position + 1] != 0xFF:
            return position
        position += 1 if data[position + 1] == 0xFF else 2
    return len(data)


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
    size = _resized(image.size, side)
    return image if image.size == size else image.resize(size, RESAMPLING[interpolation])


def _resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    width, height = size
    shorter, longer = min(size), max(size)
    other = max(int(side * longer / shorter), side)
    return (side, other) if width <= height else (other, side)


def crop_center(image: Image.Image, side: int) -> Image.Image:
    """The middle `side` x `side` pixels, rounded as torchvision's CenterCrop rounds."""
    left, top = (round((length - side) / 2.0) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def pixels(image: Picture, *, covering: int | None = None) -> Image.Image:
    """A path, an encoded file, a PIL image or a uint8 [h, w, 3] array as an RGB PIL image.

    `covering` allows a file to be decoded at a reduced size, see `read_image`.

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
    return read_image(image, covering=covering)


def evaluation_pixels(image: Picture, preprocess: Preprocess) -> np.ndarray:
    """What the network is evaluated on, from the whole picture with one resize: uint8 [image_size, image_size, 3].

    With `resize="crop"` the shorter side becomes round(image_size / crop_fraction) and the centre is cut out. "squish"
    and "pad" show everything there is, so the crop fraction does not apply to them.
    """
    side = preprocess.image_size
    if preprocess.resize == "crop":
        shorter = round(side / preprocess.crop_fraction)
        return np.asarray(crop_center(resize_shorter_side(pixels(image), shorter, preprocess.interpolation), side))
    return _whole(pixels(image), side, preprocess)


def presized_pixels(image: Picture, preprocess: Preprocess) -> np.ndarray:
    """What augmentation starts from: uint8 [s, s, 3], s = presize(image_size).

    The centre square of the picture ("crop"), or all of it ("squish", "pad"). JPEG files are decoded at the smallest
    size that covers s, so pixels differ a little from those of a full decode.
    """
    side = presize(preprocess.image_size)
    if preprocess.resize == "crop":
        return np.asarray(resize_center_square(pixels(image, covering=side), side, preprocess.interpolation))
    return _whole(pixels(image, covering=side if preprocess.resize == "squish" else None), side, preprocess)


def resize_center_square(image: Image.Image, side: int, interpolation: str) -> Image.Image:
    """What `resize_shorter_side` and `crop_center` give, without resizing what is then cut away.

    At the cut edges the filter sees no pixels from beyond, a difference of a level or two in the outermost pixels.
    """
    if image.size == (side, side):
        return image
    resized = _resized(image.size, side)
    offsets = [round((length - side) / 2.0) for length in resized]
    scales = [length / new for length, new in zip(image.size, resized, strict=True)]
    left, top = (offset * scale for offset, scale in zip(offsets, scales, strict=True))
    right, bottom = ((offset + side) * scale for offset, scale in zip(offsets, scales, strict=True))
    box = (left, top, min(right, image.width), min(bottom, image.height))
    return image.resize((side, side), RESAMPLING[interpolation], box=box)


def _whole(image: Image.Image, side: int, preprocess: Preprocess) -> np.ndarray:
    """All of a picture in a square: its proportions changed ("squish"), or kept, with mirrored borders ("pad")."""
    method = RESAMPLING[preprocess.interpolation]
    if preprocess.resize == "squish":
        return np.asarray(image if image.size == (side, side) else image.resize((side, side), method))
    width, height = image.size
    scale = side / max(width, height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    scaled = np.asarray(image.resize(size, method))
    left, top = ((side - length) // 2 for length in size)
    # "symmetric" repeats as often as it takes, so thin pictures work too.
    return np.pad(scaled, ((top, side - size[1] - top), (left, side - size[0] - left), (0, 0)), mode="symmetric")


def presize(image_size: int) -> int:
    """Side in pixels of the pictures kept for training at `image_size`.

    >>> presize(224)
    258
    """
    return round(image_size * PRESIZE_RATIO)


def jpeg_thumbnail(pixels: np.ndarray, *, side: int = 160, quality: int = 80) -> bytes:
    """A JPEG file of uint8 [h, w, 3] pixels, of quality 1 to 95; made smaller where the longer side exceeds `side`."""
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
