"""JPEG files that end before their picture does, which libjpeg fills up with grey without a word."""

import contextlib
import io

import numpy as np
from PIL import Image

#: What a block without data decodes to.
GREY = 128
#: Rows that a whole file may leave undecoded when its end marker is cut off: three rows of 16 x 16 units.
SLACK = 48
_START_OF_SCAN, _END_OF_IMAGE, _RESTARTS = 0xDA, 0xD9, range(0xD0, 0xD8)


def grey_rows(image: Image.Image) -> int:
    """How many rows at the bottom are exactly mid-grey from side to side; 0 for nearly every photo."""
    corner = image.getpixel((image.width - 1, image.height - 1))
    if any(value != GREY for value in (corner if isinstance(corner, tuple) else (corner,))):
        return 0
    flat = (np.asarray(image).reshape(image.height, -1) == GREY).all(1)
    return int(np.argmin(flat[::-1])) if not flat.all() else image.height


def is_cut_short(data: bytes, image: Image.Image) -> bool:
    """Whether a decoded JPEG's grey bottom is missing data and not part of the picture.

    libjpeg draws what it has no data for as mid-grey and only warns, and Pillow does not pass the warning on: a flipped
    byte that makes an end marker, or a height in the header larger than what was stored, would go unseen. A grey
    bottom is therefore looked at twice: the file is decoded again without its end marker, and rows that were really
    stored come out all the same. Progressive files cannot be tried like that; they count as cut short if more than
    half of the picture is such grey.

    Args:
      data: the whole file.
      image: what it decoded to, at any scale.
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
