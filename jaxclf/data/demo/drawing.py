"""Deterministic Pillow drawings of cats and dogs, the embedded demo data.

A drawing has two independent parts. The *scene* (background, fur, colours, pose, light, clutter, grain) comes from a
random stream that never learns the class. The *face* comes from a second stream: `jaxclf.data.demo.faces` returns
outlines only, in named inks whose colours the scene has chosen. So colour, brightness, size and place say next to
nothing about the class: a linear model on pixels is right two times in three, while a small convolutional network
learns the shapes.
"""

import colorsys
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from jaxclf.data.demo.faces import (
    SQUARE,
    Colour,
    Dice,
    Part,
    Pose,
    cat_face,
    dog_face,
    leaf,
    mix,
    near,
    oval,
    pick,
    smooth,
    to_xy,
    uniform,
    vary,
    whole,
)

KINDS = ("cat", "dog")
_SUPER = 2  # supersampling factor
_BLACK, _WHITE = (20, 16, 20), (255, 250, 244)
_FURS: tuple[Colour, ...] = (
    *((66, 60, 62), (90, 86, 90), (132, 129, 132), (188, 186, 186), (238, 233, 224), (230, 208, 174)),
    *((216, 170, 112), (208, 126, 62), (146, 94, 60), (104, 72, 56), (168, 150, 128), (112, 120, 138)),
)
_IRISES: tuple[Colour, ...] = ((218, 174, 78), (148, 182, 102), (122, 174, 200), (188, 124, 72), (138, 96, 62))
_NOSES: tuple[Colour, ...] = ((38, 32, 34), (38, 32, 34), (54, 42, 42), (104, 64, 56), (206, 128, 126))
_BANDS: tuple[Colour, ...] = ((176, 52, 56), (52, 96, 160), (60, 130, 96), (214, 172, 70), (60, 56, 66))


def _background(dice: Dice, side: int) -> tuple[Image.Image, list[Colour]]:
    """A backdrop [side, side] (room, leaves, grass, lights or stripes, more or less out of focus) and its palette."""
    hue, sat = pick(dice, (0.3, 0.25, 0.56, 0.08, 0.11, dice.random())), uniform(dice, 0.12, 0.6)
    tones = [
        ((hue + uniform(dice, -0.12, 0.12)) % 1, sat * uniform(dice, 0.4, 1.3), uniform(dice, 0.3, 0.97))
        for _ in range(8)
    ]
    colours: list[Colour] = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(*tone)) for tone in tones]
    style, middle, marks = pick(dice, ("room", "leaves", "grass", "lights", "stripes")), 0.5 + 0.5j, []
    if style == "room":
        floor = uniform(dice, 0.6, 0.9)
        marks.append(middle + SQUARE * 1.2 + 1j * (floor + 0.1))
        for _ in range(int(uniform(dice, 2, 6))):
            item = vary(dice, SQUARE * 0.32, 0.6)
            spot = complex(dice.random(), pick(dice, (floor + 0.04 + float(np.min(item.imag)), uniform(dice, 0, 0.5))))
            marks += [spot + item, spot + item * 0.76]
    elif style == "leaves":
        marks += [leaf(middle + near(dice, 0.6, 0.6), near(dice, 0.22, 0.22), 0.3) for _ in range(45)]
    elif style == "grass":
        marks += [leaf(0.5 + 0.82j + near(dice, 0.6, 0.28), near(dice, 0.12, 0.18) - 0.32j, 0.07) for _ in range(60)]
    elif style == "lights":
        sizes = [uniform(dice, 0.03, 0.16) for _ in range(16)]
        marks += [oval(middle + near(dice, 0.6, 0.6), size, size) for size in sizes]
    else:
        step, angle = uniform(dice, 0.08, 0.25), uniform(dice, -math.pi, math.pi)
        bar = np.array([-1, 1, 1 + 0.5j * step, -1 + 0.5j * step]) - 0.75j
        turn = complex(math.cos(angle), math.sin(angle))
        marks += [middle + (bar + 1j * i * step) * turn for i in range(int(1.5 / step) + 1)]
    for _ in range(int(uniform(dice, 0, 6))):  # clutter
        corners = [near(dice, 0.15, 0.15) for _ in range(pick(dice, (3, 3, 4, 5)))]
        marks.append(middle + near(dice, 0.6, 0.6) + smooth(corners, pick(dice, (0, 1, 3))))
    image = Image.new("RGB", (2, 2))
    image.putdata(colours[:4])
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    draw, alpha = ImageDraw.Draw(image, "RGBA"), int(uniform(dice, 90, 255))
    for mark in marks:
        colour = mix(pick(dice, colours), pick(dice, (_BLACK, _WHITE)), uniform(dice, 0, 0.25))
        draw.polygon(to_xy(mark * side), (*colour, alpha))
    return _blur(image, uniform(dice, 0, 0.022) * side), colours


def _blur(image: Image.Image, radius: float) -> Image.Image:
    """A Gaussian blur of `radius` pixels, taken at the final size, where it is cheap."""
    small = image.reduce(_SUPER).filter(ImageFilter.GaussianBlur(radius / _SUPER))
    return small.resize(image.size, Image.Resampling.BILINEAR)


def _mask(side: int, outlines: Iterable[list[float]]) -> Image.Image:
    """White where any outline covers, black elsewhere [side, side]."""
    mask = Image.new("L", (side, side))
    for outline in outlines:
        ImageDraw.Draw(mask).polygon(outline, 255)
    return mask


def _place(dice: Dice, side: int, outlines: Sequence[Part]) -> Pose:
    """A pose in which the area and the centre of the head, ears included, do not depend on its shape."""
    angle, target = math.radians(uniform(dice, -25, 25)), uniform(dice, 0.6, 0.85) * side
    centre = side * (0.5 + 0.5j + near(dice, 0.11, 0.11))
    pose = Pose(
        uniform(dice, -0.4, 0.4), uniform(dice, -0.2, 0.22), 12 * complex(math.cos(angle), math.sin(angle)), 32 + 32j
    )
    rows, columns = np.nonzero(np.asarray(_mask(64, (pose(part.points, part.depth) for part in outlines))))
    scale, middle = target / math.sqrt(len(rows)), complex(columns.mean(), rows.mean()) - 31.5 - 31.5j
    return pose._replace(turn=pose.turn * scale, shift=centre - middle * scale)


def _fur(dice: Dice, side: int, pose: Pose, base: Colour, second: Colour) -> Image.Image:
    """Fur that covers the whole picture [side, side]: tabby, spotted, patched, with a blaze and bib, or plain."""
    image = Image.new("RGB", (side, side), base)
    draw, style = ImageDraw.Draw(image, "RGBA"), dice.random()
    dark, light, marks = mix(base, _BLACK if sum(base) > 240 else _WHITE, 0.38), mix(base, _WHITE, 0.25), []
    if style < 0.3:
        marks = [leaf(i * 0.2 - 0.95j, i * -0.07 + 1j * (0.53 - 0.06 * abs(i)), 0.12) for i in range(-2, 3)]
        rows = [(-1) ** i * 1.2 + 1j * (0.22 * (i // 2) - 0.15 + uniform(dice, -0.04, 0.04)) for i in range(8)]
        marks += [leaf(start, -0.45 * start.real + 0.05j, 0.1) for start in rows]
    elif style < 0.42:
        marks = [oval(near(dice, 1.2, 1.2), uniform(dice, 0.04, 0.12), uniform(dice, 0.04, 0.1)) for _ in range(22)]
    elif style < 0.62:
        marks = [oval(near(dice, 0.9, 0.9), uniform(dice, 0.25, 0.55), uniform(dice, 0.25, 0.6)) for _ in range(4)]
    elif style < 0.8:
        marks = [whole([-0.9j, 0.1 - 0.8j, 0.12 - 0.2j, 0.5 + 0.3j, 0.9 + 1.2j, 1.6j])]
    for mark in marks:
        draw.polygon(pose(mark), (*(dark if style < 0.42 else second), 225))
    roots = (dice.random(90) - 0.5 + 1j * (dice.random(90) - 0.5)) * 2.6
    hairs = pose(np.stack([roots, roots + roots / (abs(roots) + 0.3) * 0.16], 1).ravel().astype(np.complex128))
    for i in range(90):
        draw.line(hairs[4 * i : 4 * i + 4], (*(dark, light, second)[i % 3], 50), max(1, side // 96))
    return image


def _inks(dice: Dice, base: Colour, second: Colour) -> dict[str, Colour]:
    """A colour for every ink that a face may use, chosen without knowing the face."""
    muzzles = (mix(base, _WHITE, 0.55), mix(base, _WHITE, 0.15), mix(base, _BLACK, 0.22), mix(second, base, 0.35))
    muzzle, ears = pick(dice, muzzles), (base, mix(base, _BLACK, 0.25), mix(base, _WHITE, 0.15), second)
    lining = mix(pick(dice, ((192, 130, 124), mix(base, _BLACK, 0.45))), base, 0.3)
    inks = {"muzzle": muzzle, "line": mix(muzzle, _BLACK, 0.7), "ear": pick(dice, ears), "lining": lining}
    inks |= {"nose": pick(dice, _NOSES), "gloss": (*_WHITE, 130), "mouth": (92, 30, 34), "tongue": (226, 116, 124)}
    inks |= {"iris": pick(dice, _IRISES), "lid": mix(base, _BLACK, 0.8), "pupil": _BLACK, "glint": _WHITE}
    return inks | {"whisker": (*(_WHITE if sum(base) < 420 else _BLACK), 95)}


def _bust(dice: Dice, canvas: Image.Image, fur: Image.Image, chin: complex, unit: float) -> None:
    """Paints neck and shoulders below the head, and often a collar, onto `canvas`."""
    neck, breast, bare, band = uniform(dice, 0.26, 0.34), uniform(dice, 0.42, 0.6), dice.random(), pick(dice, _BANDS)
    body = whole([-0.1j, neck, neck + 0.2j, neck + 0.25j, breast + 0.55j, breast + 0.1 + 2j, 2j])
    shaded = Image.blend(fur, Image.new("RGB", fur.size, _BLACK), 0.18)
    if bare < 0.85:
        canvas.paste(shaded, mask=_mask(canvas.width, [to_xy(chin + body * unit)]))
    if bare < 0.45:
        collar = whole([0.16j, neck + 0.16j, neck + 0.03 + 0.2j, neck + 0.25j, 0.32j])
        ImageDraw.Draw(canvas).polygon(to_xy(chin + collar * unit), band)
        ImageDraw.Draw(canvas).polygon(to_xy(chin + oval(0.35j, 0.045, 0.05) * unit), (226, 188, 84))


def _head(canvas: Image.Image, fur: Image.Image, face: Sequence[Part], pose: Pose, inks: dict[str, Colour]) -> None:
    """Paints a face onto `canvas`: shadow behind it, its parts in order, and darker towards its rim."""
    draw, side, unit = ImageDraw.Draw(canvas, "RGBA"), canvas.width, abs(pose.turn)
    mask = _mask(side, (pose(part.points, part.depth) for part in face if part.ink in ("ear", "head")))
    soft = _blur(mask, 0.13 * unit)
    canvas.paste(_BLACK, mask=soft.point(lambda v: v // 2))
    for part in face:
        xy = pose(part.points, part.depth)
        if part.ink == "head":
            canvas.paste(fur, mask=_mask(side, [xy]))
        elif part.width:
            draw.line(xy, inks[part.ink], max(1, side // 96, round(part.width * unit)), joint="curve")
        else:
            if part.ink in ("ear", "muzzle"):
                draw.polygon(pose(part.points + 0.03j, part.depth), (*_BLACK, 60))
            draw.polygon(xy, inks[part.ink])
    canvas.paste(_BLACK, mask=ImageChops.multiply(mask, ImageChops.invert(soft)).point(lambda v: v * 3 // 4))


def _light(dice: Dice, image: Image.Image) -> Image.Image:
    """Light and camera: a slanting gradient, vignette, contrast, colour cast, blur and grain."""
    image = image.filter(ImageFilter.GaussianBlur(max(0.0, uniform(dice, -0.6, 0.6)) * image.width / 96))
    spans = ((-0.25, 0.25), (-0.25, 0.25), (0, 0.2), (0, 0.06), (0.8, 1.2), (0.42, 0.6))
    across, down, corner, grain, contrast, level = (np.float32(uniform(dice, *span)) for span in spans)
    x = np.linspace(-1, 1, image.width, dtype=np.float32)
    y = x[:, None]
    field = (1 + across * x + down * y - corner * (x * x + y * y))[..., None]  # [size, size, 1]
    cast = field * (0.92 + 0.16 * dice.random(3)).astype(np.float32)  # [size, size, 3]
    noise = dice.random(cast.shape, np.float32) - dice.random(field.shape, np.float32)
    lit = ((np.asarray(image, np.float32) / 255 - np.float32(0.5)) * contrast + level) * cast + noise * grain
    return Image.fromarray((lit.clip(0, 1) * 255 + np.float32(0.5)).astype(np.uint8))


def draw_face(kind: str, seed: int, *, size: int = 96) -> Image.Image:
    """Draws one cat or dog face: a pure function of its arguments, the same in every process.

    Args:
      kind: "cat" or "dog". With the same seed both have the same background, fur, colours, light and pose.
      seed: which drawing, 0 or more.
      size: height and width of the RGB picture in pixels, at least 16.

    >>> drawing = draw_face("cat", 7)
    >>> drawing.size, drawing == draw_face("cat", 7), drawing == draw_face("cat", 8)
    ((96, 96), True, False)
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be 'cat' or 'dog', got {kind!r}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, got {size}")
    face = (cat_face if kind == "cat" else dog_face)(np.random.default_rng([1, seed]))
    dice, side = np.random.default_rng([0, seed]), size * _SUPER
    canvas, palette = _background(dice, side)
    pose = _place(dice, side, [part for part in face if part.ink in ("ear", "head")])
    base, second = (mix(pick(dice, _FURS), pick(dice, _FURS), uniform(dice, 0, 0.15)) for _ in range(2))
    inks, fur = _inks(dice, base, second), _fur(dice, side, pose, base, second)
    _bust(dice, canvas, fur, complex(*pose(oval(0.3j, 0, 0)[:1])), uniform(dice, 0.76, 1.0) * side)
    _head(canvas, fur, face, pose, inks)
    for _ in range(pick(dice, (0, 0, 0, 0, 3, 6))):  # grass in front
        blade = leaf(complex(dice.random(), 1.03), near(dice, 0.1, 0.08) - 0.16j, 0.08)
        ImageDraw.Draw(canvas).polygon(to_xy(blade * side), pick(dice, palette))
    return _light(dice, canvas.reduce(_SUPER))
