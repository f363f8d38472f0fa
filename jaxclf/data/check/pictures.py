"""What can be said of pictures without keeping their pixels: readable or not, size, mode, hashes; which look the same.

A pair looks the same though its pixels differ (saved anew, or at another size) when at most `MAX_BITS` of the 64
gradient bits differ and the thumbnails differ by less than `MAX_DIFFERENCE` on average. Why these: of 800 different
photos no two differ in fewer than 9 bits, while 99 % of them differ from themselves, saved anew at quality 30 to 75 or
at half the size, in at most 3.
"""

import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxclf.data.decode import to_rgb

#: Sides in pixels of the thumbnail that near-duplicates are compared by.
THUMBNAIL = 8
MAX_BITS = 3
MAX_DIFFERENCE = 8.0
#: Candidates each picture is compared with per band: bounds the work where thousands of pictures are all alike.
MAX_CANDIDATES = 64
# With one band more than bits that may differ, two such hashes agree on at least one band entirely.
BANDS = MAX_BITS + 1
BAND_BITS = 64 // BANDS


class Facts(NamedTuple):
    """One picture, inspected.

    Attributes:
      error: why it cannot be read, or None; then the rest is known.
      size: (width, height) in pixels, upright.
      mode: Pillow's name for its pixel format, as stored.
      oddities: what is lost or guessed when it becomes RGB; empty for plain RGB and grey.
      file_hash: sha256 of the file, empty for arrays.
      pixel_hash: sha256 of size and RGB pixels, upright.
      gradients: 64-bit difference hash: whether each of 8 x 8 grey patches is brighter than its left neighbour.
      thumbnail: uint8 [THUMBNAIL * THUMBNAIL * 3].
    """

    error: str | None
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    oddities: tuple[str, ...] = ()
    file_hash: bytes = b""
    pixel_hash: bytes = b""
    gradients: int = 0
    thumbnail: np.ndarray = np.zeros(0, np.uint8)


def inspect_image(image: Any) -> Facts:
    """Reads a picture once and says what it is; nothing is raised for a damaged one.

    Args:
      image: a path or anything else with `read_bytes()`, uint8 pixels [h, w, 3] or [h, w], or a function that gets one.
    """
    try:
        if callable(image):
            image = image()
        if isinstance(image, np.ndarray):
            return _facts(Image.fromarray(image), b"")
        content = image.read_bytes()
        if not content:
            return Facts("it is empty (0 bytes)")
        with Image.open(io.BytesIO(content)) as opened:
            return _facts(opened, hashlib.sha256(content).digest())
    except MemoryError:
        raise
    except FileNotFoundError:
        return Facts("it does not exist (a broken link?)")
    except UnidentifiedImageError:  # its message names the memory that was read from, which tells nobody anything
        return Facts("it is not a picture")
    except OSError as error:  # also Pillow's "truncated", ..
        return Facts(error.strerror or str(error))
    except Exception as error:  # Pillow's readers raise SyntaxError, struct.error, ... for damaged files
        return Facts(f"{type(error).__name__}: {error}")


def _facts(image: Image.Image, file_hash: bytes) -> Facts:
    mode = image.mode
    # MPO is what phones write: the photo, then a preview or a second view of it.
    moving = getattr(image, "is_animated", False) and image.format != "MPO"
    image.load()
    oddities = ["several frames or pages: only the first is seen"] * moving + _odd_mode(image)
    rgb = to_rgb(ImageOps.exif_transpose(image))
    digest = hashlib.sha256(f"{rgb.width} x {rgb.height}".encode())
    digest.update(rgb.tobytes())
    # An area average first: cheap, and what a saved copy keeps.
    patches = np.asarray(rgb.convert("L").resize((9, 8), Image.Resampling.BOX))
    bits = (patches[:, 1:] > patches[:, :-1]).ravel()
    thumbnail = np.asarray(rgb.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).ravel()
    gradients = int.from_bytes(np.packbits(bits).tobytes())
    return Facts(None, rgb.size, mode, tuple(oddities), file_hash, digest.digest(), gradients, thumbnail)


def _odd_mode(image: Image.Image) -> list[str]:
    mode = image.mode
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = "transparency" not in image.info and image.getchannel(image.getbands()[-1]).getextrema()[0] == 255
        return [] if opaque else ["transparent parts: they are laid over white"]
    odd = {
        "1": "1-bit black and white",
        "CMYK": "CMYK, for print: colours are converted without its profile",
        "F": "floating-point grey: values are taken as 0 .. 255 and clipped",
        "HSV": "HSV colours",
        "LAB": "LAB colours: converted through a standard profile",
        "YCbCr": "YCbCr colours",
    }
    if mode in odd:
        return [odd[mode]]
    return ["16-bit or 32-bit grey: scaled down from 0 .. 65535"] if mode.startswith("I") else []


def near_groups(facts: Sequence[Facts]) -> list[list[int]]:
    """Groups of positions that look the same, directly or by way of others: each sorted, at least two, in order.

    Args:
      facts: readable pictures, no two with the same pixels.
    """
    buckets: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    parent = list(range(len(facts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, fact in enumerate(facts):
        for band in range(BANDS):
            bucket = buckets[band, (fact.gradients >> (band * BAND_BITS)) & (2**BAND_BITS - 1)]
            for other in bucket[-MAX_CANDIDATES:]:
                if root(other) != root(index) and _look_the_same(fact, facts[other]):
                    parent[root(index)] = root(other)
            bucket.append(index)
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(facts)):
        groups[root(index)].append(index)
    return sorted(group for group in groups.values() if len(group) > 1)


def _look_the_same(one: Facts, other: Facts) -> bool:
    if (one.gradients ^ other.gradients).bit_count() > MAX_BITS:
        return False
    difference = np.abs(one.thumbnail.astype(np.int16) - other.thumbnail.astype(np.int16))
    return float(difference.mean()) < MAX_DIFFERENCE
