import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxclf.config import Preprocess
from jaxclf.data.decode import (
    crop_center,
    evaluation_pixels,
    grey_rows,
    is_cut_short,
    pixels,
    presize,
    presized_pixels,
    read_image,
    resize_shorter_side,
    to_rgb,
)

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


@pytest.mark.parametrize("resize", ["crop", "squish", "pad"])
def test_tiny_and_thin_pictures_work(resize):
    for shape in ((1, 1), (1, 400), (300, 2)):
        preprocess = Preprocess(image_size=32, resize=resize)
        assert evaluation_pixels(np.zeros((*shape, 3), np.uint8), preprocess).shape == (32, 32, 3)
        assert presized_pixels(np.zeros((*shape, 3), np.uint8), preprocess).shape == (37, 37, 3)


def test_squish_shows_everything_in_other_proportions():
    preprocess = Preprocess(image_size=20, resize="squish", crop_fraction=0.5)
    expected = np.asarray(Image.fromarray(PICTURE).resize((20, 20), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(evaluation_pixels(PICTURE, preprocess), expected)


def test_pad_keeps_the_proportions_and_mirrors_the_borders():
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    out = evaluation_pixels(picture, Preprocess(image_size=30, resize="pad"))
    np.testing.assert_array_equal(out[5:25], picture)
    np.testing.assert_array_equal(out[:5], picture[:5][::-1])
    np.testing.assert_array_equal(out[25:], picture[15:][::-1])
    tall = evaluation_pixels(picture.transpose(1, 0, 2).copy(), Preprocess(image_size=30, resize="pad"))
    np.testing.assert_array_equal(tall, out.transpose(1, 0, 2))


def smooth_photo(width: int, height: int) -> Image.Image:
    """Something with the spectrum of a photo: noise enlarged."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("size", "scale"), [((640, 480), 4), ((300, 250), 2), ((460, 280), 2), ((200, 199), 1)])
def test_training_decodes_at_the_smallest_scale_that_covers(tmp_path, size, scale, monkeypatch):
    smooth_photo(*size).save(tmp_path / "a.jpg", quality=95)
    reduced = read_image(tmp_path / "a.jpg", covering=120)
    assert reduced.size == tuple(-(-side // scale) for side in size)
    assert min(reduced.size) >= 120 > min(size) / (2 * scale)
    preprocess = Preprocess(image_size=104)
    side = presize(104)
    expected = np.asarray(crop_center(resize_shorter_side(read_image(tmp_path / "a.jpg"), side, "bilinear"), side))
    assert np.abs(presized_pixels(tmp_path / "a.jpg", preprocess).astype(int) - expected).mean() < 2


def test_evaluation_never_decodes_at_a_reduced_size(tmp_path):
    smooth_photo(640, 480).save(tmp_path / "a.jpg", quality=95)
    preprocess = Preprocess(image_size=32)
    with Image.open(tmp_path / "a.jpg") as image:
        expected = evaluation_pixels(image.copy(), preprocess)
    np.testing.assert_array_equal(evaluation_pixels(tmp_path / "a.jpg", preprocess), expected)


def test_reduced_decoding_honours_the_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth_photo(640, 480).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", covering=100).size == (120, 160)


class Member:
    """An encoded picture with a name, as a zip's member is."""

    def __init__(self, data: bytes):
        self.data = data

    def read_bytes(self) -> bytes:
        return self.data

    def __str__(self) -> str:
        return "photos.zip/cat/1.png"


def test_encoded_pictures_are_read_and_named():
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "PNG")
    np.testing.assert_array_equal(np.asarray(pixels(Member(buffer.getvalue()))), PICTURE)
    with pytest.raises(ValueError, match=r"photos\.zip/cat/1\.png"):
        pixels(Member(buffer.getvalue()[:50]))


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


def jpeg(picture: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


HALF_GREY = np.full((320, 256, 3), 128, np.uint8)
HALF_GREY[:170] = np.random.default_rng(0).integers(0, 256, (170, 256, 3))
NOISE = np.random.default_rng(1).integers(0, 256, (320, 256, 3)).astype(np.uint8)


def early_end(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + b"\xff\xd9" + data[middle + 2 :]


def taller(data: bytes) -> bytes:
    """The header promises 512 rows, where 320 are stored."""
    start = data.index(b"\xff\xc0")
    return data[: start + 5] + (512).to_bytes(2, "big") + data[start + 7 :]


@pytest.mark.parametrize("covering", [None, 60])
@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("damage", [early_end, taller])
def test_missing_data_is_not_taken_for_grey(tmp_path, subsampling, damage, covering):
    path = tmp_path / "a.jpg"
    path.write_bytes(damage(jpeg(NOISE, subsampling=subsampling)))
    with Image.open(path) as image:
        assert grey_rows(image) > 90  # Pillow itself says nothing
    with pytest.raises(ValueError, match="cut short") as error:
        read_image(path, covering=covering)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_picture_that_really_is_grey_below_is_a_picture(tmp_path, options):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(HALF_GREY, **options))
    image = read_image(path)
    assert 140 <= grey_rows(image) <= 144
    assert not is_cut_short(path.read_bytes(), image)
    path.write_bytes(jpeg(np.full((200, 200), 128, np.uint8)))  # grey all over
    if not options.get("progressive"):
        assert read_image(path).size == (200, 200)


def damaged_copies(path: Path, count: int, generator: random.Random) -> list[tuple[str, bytes]]:
    data = path.read_bytes()
    copies = []
    for number in range(count):
        kind = ("cut", "flipped", "wrong extension", "empty")[number % 4]
        if kind == "cut":
            copies.append((path.suffix, data[: generator.randrange(1, len(data))]))
        elif kind == "flipped":
            changed = bytearray(data)
            for _ in range(generator.choice((1, 4, 30))):
                changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            copies.append((path.suffix, bytes(changed)))
        else:
            copies.append((generator.choice((".png", ".gif", ".tiff")), data if kind != "empty" else b""))
    return copies


def check_damaged(folder: Path, copies: list[tuple[str, bytes]]) -> dict[str, int]:
    """Each copy ends in an error that names it or in a picture that is not mostly grey; counts how many did which."""
    counts = {"named": 0, "picture": 0}
    for number, (suffix, data) in enumerate(copies):
        path = folder / f"{number}{suffix}"
        path.write_bytes(data)
        for read in (lambda p: presized_pixels(p, Preprocess(image_size=96)), read_image):
            try:
                array = np.asarray(read(path))
            except ValueError as error:
                counts["named"] += str(path) in str(error)
            else:
                assert (array == 128).all(-1).mean() < 0.5, f"copy {number} became a silent grey square"
                counts["picture"] += 1
    return counts


def test_damaged_drawings_end_in_a_name_or_a_picture(tmp_path):
    generator = random.Random(0)
    noise = np.clip(np.asarray(smooth_photo(200, 160), int) + generator.choice((-3, 3)), 0, 255).astype(np.uint8)
    copies = []
    for suffix in ("jpg", "png", "webp", "gif", "bmp", "tiff"):
        original = tmp_path / f"original.{suffix}"
        Image.fromarray(noise).save(original)
        copies += damaged_copies(original, 24, generator)
    counts = check_damaged(tmp_path, copies)
    assert sum(counts.values()) == 2 * len(copies) and min(counts.values()) > 20


def test_two_hundred_damaged_photos_end_in_a_name_or_a_picture(shared_photos, tmp_path):
    generator = random.Random(1)
    copies = [copy for path in sorted(shared_photos.iterdir()) for copy in damaged_copies(path, 4, generator)]
    generator.shuffle(copies)
    counts = check_damaged(tmp_path, copies[:200])
    assert sum(counts.values()) == 400 and min(counts.values()) > 50
