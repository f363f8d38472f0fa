import warnings

import numpy as np
import pytest
from PIL import Image

from jaxclf.config import Preprocess
from jaxclf.data.decode import evaluation_pixels, pixels, presize, presized_pixels, read_image, to_rgb

# Left dark red, right light green: modes and orientations show.
PICTURE = np.zeros((20, 30, 3), np.uint8)
PICTURE[:, :15] = (120, 20, 30)
PICTURE[:, 15:] = (150, 220, 140)


def grey_of(image: Image.Image) -> tuple[float, float]:
    array = np.asarray(image.convert("L"), float)
    return array[:, :12].mean(), array[:, 18:].mean()


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "La", "RGBa"]
)
def test_every_mode_becomes_the_same_picture(mode):
    image = Image.fromarray(PICTURE)
    if mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    elif mode in ("P", "PA"):
        image = image.quantize(8)
    converted = to_rgb(image.convert(mode))
    assert converted.mode == "RGB" and converted.size == (30, 20)
    left, right = grey_of(converted)
    assert right - left > 80
    if mode not in ("1", "L", "LA", "La"):
        np.testing.assert_allclose(np.asarray(converted)[10, 5], PICTURE[10, 5], atol=6)


def test_lab_goes_through_its_profile():
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert np.asarray(to_rgb(lab)).min() > 250  # L = 100: white


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_sixteen_bit_grey_is_scaled_not_clipped(mode):
    values = np.linspace(0, 65535, 16).reshape(4, 4)
    dtype = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (4, 4), values.astype(dtype).tobytes())
    np.testing.assert_allclose(np.asarray(to_rgb(image))[..., 0], values / 257, atol=0.5)


def test_float_grey_is_clipped():
    image = Image.fromarray(np.array([[-5.0, 0.4], [254.6, np.nan]], np.float32))
    assert np.asarray(to_rgb(image))[..., 2].tolist() == [[0, 0], [255, 0]]


def test_sixteen_bit_png_from_disk(tmp_path):
    Image.fromarray(np.full((5, 5), 32896, np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(read_image(tmp_path / "deep.png")).tolist() == [[[128] * 3] * 5] * 5


def test_transparency_is_laid_over_white(tmp_path):
    pixels_ = np.zeros((4, 4, 4), np.uint8)
    pixels_[:, :2, 3] = 255  # black where opaque, nothing elsewhere
    for name in ("a.png", "a.webp"):
        Image.fromarray(pixels_).save(tmp_path / name, lossless=True)
        out = np.asarray(read_image(tmp_path / name))
        assert out[:, :2].max() == 0 and out[:, 2:].min() == 255
    palette = Image.fromarray(PICTURE).quantize(8)
    palette.info["transparency"] = palette.getpixel((0, 0))
    palette.save(tmp_path / "p.png")
    out = np.asarray(read_image(tmp_path / "p.png"))
    assert out[:, :12].min() == 255 and out[:, 18:].max() < 255


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tiff", "ppm"])
def test_file_formats(tmp_path, suffix):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(PICTURE).save(path)
    left, right = grey_of(read_image(path))
    assert right - left > 80


TURNS = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}  # what a camera stores for each EXIF orientation  # fmt: skip


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation_is_honoured(tmp_path, orientation):
    upright = PICTURE.copy()
    upright[:5] = 250  # a bright top, so that all eight differ
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNS[orientation](upright)))
    stored.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.png")), upright)


def test_evaluation_is_one_resize_then_the_centre():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150, 3)).astype(np.uint8))
    preprocess = Preprocess(image_size=28, crop_fraction=0.875, interpolation="bicubic")
    expected = np.asarray(image.resize((48, 32), Image.Resampling.BICUBIC))[2:30, 10:38]
    np.testing.assert_array_equal(evaluation_pixels(image, preprocess), expected)
    tall = image.transpose(Image.Transpose.ROTATE_90)
    assert evaluation_pixels(tall, preprocess).shape == (28, 28, 3)


def test_presize_covers_the_whole_shorter_side():
    out = presized_pixels(PICTURE, Preprocess(image_size=16))
    assert out.shape == (presize(16), presize(16), 3) == (18, 18, 3)
    assert out[9, 0, 0] < 130 and out[9, -1, 1] > 200


def test_tiny_and_thin_pictures_work():
    for shape in ((1, 1), (1, 400), (300, 2)):
        assert evaluation_pixels(np.zeros((*shape, 3), np.uint8), Preprocess(image_size=32)).shape == (32, 32, 3)


def test_pixels_takes_paths_images_and_arrays(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    for picture in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(PICTURE), PICTURE):
        np.testing.assert_array_equal(np.asarray(pixels(picture)), PICTURE)
    assert pixels(PICTURE[..., 0]).mode == "RGB"
    with pytest.raises(ValueError, match="float32"):
        pixels(PICTURE.astype(np.float32))


def damage(path):
    data = path.read_bytes()
    yield "empty", b""
    yield "cut", data[: len(data) // 2]
    yield "head only", data[:20]
    yield "text", b"this is not a picture"
    yield "html", b"<!DOCTYPE html><html></html>" * 20


def test_damaged_files_are_named(tmp_path):
    for suffix in ("jpg", "png", "webp", "gif"):
        path = tmp_path / f"good.{suffix}"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path)
        for kind, data in damage(path):
            bad = tmp_path / f"{kind}.{suffix}"
            bad.write_bytes(data)
            with pytest.raises(ValueError, match="image") as error:
                read_image(bad)
            assert str(bad) in str(error.value)


def test_missing_folder_and_bomb(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="cannot be read"):
        read_image(tmp_path)
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"a\.png is too large to be a photo"):
            read_image(tmp_path / "a.png")
