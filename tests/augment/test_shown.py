"""Presized pictures, shown plainly, are what evaluation shows: the same piece of the photo, pixel by pixel."""

import jax
import numpy as np
import pytest

from jaxclf.augment import make_augment
from jaxclf.config import Preprocess
from jaxclf.data.decode import PRESIZE_RATIO, evaluation_pixels, presized_pixels

SIZE = 64


def graded(height: int, width: int) -> np.ndarray:
    """A photo whose colours say where they are, x in red and y in green: uint8 [h, w, 3]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([np.rint(255 * x / (width - 1)), np.rint(255 * y / (height - 1)), 0 * x], -1).astype(np.uint8)


@pytest.mark.parametrize("shape", [(300, 400), (411, 300)])
@pytest.mark.parametrize(
    "preprocess",
    [
        *(Preprocess(SIZE, crop_fraction=share) for share in (0.6, 0.875, 1 / PRESIZE_RATIO, 0.95, 1.0)),
        *(Preprocess(SIZE, resize=resize, crop_fraction=0.875) for resize in ("squish", "pad")),
    ],
    ids=lambda preprocess: f"{preprocess.resize}-{preprocess.crop_fraction:.3g}",
)
def test_a_presized_picture_shown_plainly_is_what_evaluation_shows(preprocess, shape):
    photo = graded(*shape)
    presized, evaluated = (made(photo, preprocess) for made in (presized_pixels, evaluation_pixels))
    plain = make_augment("none", SIZE, shown=preprocess.shown)
    shown = 255 * np.asarray(plain(jax.random.key(0), presized[None]))[0]
    inner = slice(12, -12)  # within the mirrored borders of "pad"
    for colour, axis in ((0, 1), (1, 0)):
        ours, theirs = (
            np.diff(picture[inner, inner, colour], axis=axis).mean() for picture in (shown, evaluated / 1.0)
        )
        assert theirs > 1 and ours == pytest.approx(theirs, rel=0.02), "things are as large, but for rounding"
        apart = (shown - evaluated)[inner, inner, colour] / theirs
        assert abs(apart.mean()) < 1.01, "in the same place, within a pixel: both round where they cut"


def test_evaluation_shows_the_crop_s_share_and_all_where_nothing_is_cropped():
    assert Preprocess(crop_fraction=0.875).shown == 0.875
    assert Preprocess(crop_fraction=0.875, resize="squish").shown == 1.0
    assert Preprocess(crop_fraction=0.875, resize="pad").shown == 1.0
