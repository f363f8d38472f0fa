"""The embedded demo data set: deterministic Pillow drawings of cat and dog faces.

A drawing has two independent parts. The *scene* (background, fur, colours, pose, light, clutter, grain) comes from a
random stream that never learns the class. The *face* comes from a second stream: `_cat` and `_dog` return outlines
only, in named inks whose colours the scene has chosen. So colour, brightness, size and place say next to nothing about
the class: a linear model on pixels is right two times in three, while a small convolutional network learns the shapes.
"""

import colorsys
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Points = NDArray[np.complex128]  # x + iy with y down; a head reaches about 1 to each side of 0
Outline = Points | Sequence[complex]
Colour = tuple[int, ...]
Dice = np.random.Generator
T = TypeVar("T")

KINDS = ("cat", "dog")
_FORMAT = 1  # raise it whenever the drawings change, so that an older folder is not taken for a new one
_SUPER = 2  # supersampling factor
_BLACK, _WHITE = (20, 16, 20), (255, 250, 244)
_FURS: tuple[Colour, ...] = (
    *((66, 60, 62), (90, 86, 90), (132, 129, 132), (188, 186, 186), (238, 233, 224), (230, 208, 174)),
    *((216, 170, 112), (208, 126, 62), (146, 94, 60), (104, 72, 56), (168, 150, 128), (112, 120, 138)),
)
_IRISES: tuple[Colour, ...] = ((218, 174, 78), (148, 182, 102), (122, 174, 200), (188, 124, 72), (138, 96, 62))
_NOSES: tuple[Colour, ...] = ((38, 32, 34), (38, 32, 34), (54, 42, 42), (104, 64, 56), (206, 128, 126))
_BANDS: tuple[Colour, ...] = ((176, 52, 56), (52, 96, 160), (60, 130, 96), (214, 172, 70), (60, 56, 66))
_CIRCLE: Points = np.array([complex(math.cos(i * math.pi / 12), math.sin(i * math.pi / 12)) for i in range(24)])
_SQUARE: Points = np.array([-0.5 - 0.5j, 0.5 - 0.5j, 0.5 + 0.5j, -0.5 + 0.5j])


class Part(NamedTuple):
    """One outline of a face in head coordinates; `depth` is towards the viewer, `width` 0 fills, else it strokes."""

    ink: str
    points: Points
    depth: float = 0.0
    width: float = 0.0


class Pose(NamedTuple):
    """From head coordinates to pixels: the head turns (yaw) and nods, then the picture rotates, zooms and shifts."""

    yaw: float
    nod: float
    turn: complex
    shift: complex

    def __call__(self, points: Points, depth: float = 0.0) -> list[float]:
        x = points.real * math.cos(self.yaw) + depth * math.sin(self.yaw)
        y = points.imag * math.cos(self.nod) + depth * math.sin(self.nod)
        return _xy((x + 1j * y) * self.turn + self.shift)


def _xy(points: Points) -> list[float]:
    """Flat coordinates for Pillow, in eighths of a pixel: drops the last bits, in which machines may differ."""
    flat: list[float] = (np.rint(points.view(np.float64) * 8) / 8).tolist()
    return flat


def _u(dice: Dice, low: float, high: float) -> float:
    return low + (high - low) * dice.random()


def _near(dice: Dice, x: float, y: float) -> complex:
    return complex(_u(dice, -x, x), _u(dice, -y, y))


def _pick(dice: Dice, options: Sequence[T]) -> T:
    return options[int(dice.random() * len(options))]


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def _oval(centre: complex, rx: float, ry: float) -> Points:
    return centre + rx * _CIRCLE.real + 1j * (ry * _CIRCLE.imag)


def _smooth(corners: Outline, rounds: int = 3) -> Points:
    """Rounds a closed outline by cutting its corners (Chaikin, 1974); a doubled corner stays sharper."""
    points = np.asarray(corners, np.complex128)
    for _ in range(rounds):
        after, cut = np.concatenate([points[1:], points[:1]]), np.empty(2 * len(points), np.complex128)
        cut[0::2], cut[1::2] = 0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after
        points = cut
    return points


_LEAF = _smooth([0, 0, 0.5 - 1j, 1, 1, 0.5 + 1j], 2)


def _leaf(start: complex, reach: complex, width: float) -> Points:
    """A stroke pointed at both ends; `width` is relative to its length."""
    return start + reach * (_LEAF.real + 1j * (width * _LEAF.imag))


def _vary(dice: Dice, outline: Outline, by: float) -> Points:
    """Stretches an outline at random, across and along, by a factor of 1 - `by` to 1 + `by` each."""
    points = np.asarray(outline, np.complex128)
    return points.real * _u(dice, 1 - by, 1 + by) + 1j * (points.imag * _u(dice, 1 - by, 1 + by))


def _whole(right: Outline) -> Points:
    """A closed, rounded outline from its right half, listed from top to bottom."""
    half = np.asarray(right, np.complex128)
    return _smooth(np.concatenate([half, -half[::-1].conj()]))


def _both(*parts: Part) -> list[Part]:
    """Each part and its mirror image."""
    return [side for part in parts for side in (part, part._replace(points=-part.points.conj()))]


# --- the two faces: the only code that knows the class ---------------------------------------------------------------


def _ears(dice: Dice, root: complex, outline: Outline, rounds: int, by: float, *, lined: bool = False) -> list[Part]:
    """Two ears of one form at `root` and its mirror image, each tilted a little by itself."""
    form, tilt, parts = _smooth(_vary(dice, outline, by), rounds), _u(dice, -0.25, 0.25), []
    for side in (0, 1):
        ear = root + form * complex(1, tilt + _u(dice, -0.1, 0.1))
        parts.append(_both(Part("ear", ear, 0.0 if lined else 0.05))[side])
        if lined:
            parts.append(_both(Part("lining", ear.mean() + (ear - ear.mean()) * 0.58 + 0.04j, 0.03))[side])
    return parts


def _eyes(dice: Dice, centre: complex, outline: Points, pupil: float, height: float) -> list[Part]:
    """Both eyes: lid, iris, pupil and glint; now and then shut."""
    if dice.random() < 0.03:
        arc = centre + np.array([-0.2 - 0.02j, -0.1 + 0.07j, 0.1 + 0.07j, 0.2 - 0.02j])
        return _both(Part("line", arc, 0.35, 0.05))
    parts = _both(Part("lid", centre + outline * 1.25, 0.33), Part("iris", centre + outline, 0.36))
    gaze = _near(dice, 0.03, 0.02)
    for ball in (centre + gaze, gaze - centre.conjugate()):
        parts.append(Part("pupil", _oval(ball, pupil, height), 0.37))
        parts.append(Part("glint", _oval(ball + 0.04 - 0.06j, 0.05, 0.05), 0.38))
    return parts


def _whiskers(dice: Dice, length: float, root: complex) -> list[Part]:
    """Three whiskers on each side, from `root` outwards."""
    parts = []
    for i in (-1, 0, 1):
        start, reach = root + 0.07j * i, complex(length * _u(dice, 0.85, 1.1), 0.2 * i + _u(dice, -0.12, 0.12))
        parts.append(Part("whisker", np.array([start, start + 0.5 * reach - 0.03j, start + reach]), 0.5, 0.02))
    return _both(*parts)


def _cat(dice: Dice) -> list[Part]:
    half = _vary(dice, [-0.74j, 0.5 - 0.78j, 0.92 - 0.42j, 1.05 + 0.22j, 0.76 + 0.66j, 0.36 + 0.88j, 0.86j], 0.07)
    head, wide, low = Part("head", _whole(half)), float(np.max(half.real)) / 1.05, 1j * _u(dice, 0.38, 0.46)
    if dice.random() < 0.03:  # lop ears
        lop = [-0.4 - 0.3j, -0.05 - 0.58j, 0.4 - 0.3j, 0.44 + 0.3j, 0.26 + 0.05j, 0.26 + 0.05j, -0.1 - 0.12j]
        parts = [head, *_ears(dice, 0.55 * wide - 0.46j, lop, 2, 0.1)]
    else:
        peak = [-0.42 - 0.22j, -0.16 - 0.62j, 0.26 - 1.14j, 0.26 - 1.14j, 0.4 - 0.4j, 0.4 + 0.28j]
        parts = [*_ears(dice, 0.56 * wide - 0.44j, peak, 2, 0.14, lined=True), head]
    puffs = _both(Part("muzzle", _oval(low + 0.18 + 0.05j, 0.25, 0.19), 0.48))
    parts += [Part("muzzle", _oval(low + 0.2j, 0.2, 0.17), 0.4), *puffs]
    if dice.random() < 0.14:
        mew = _smooth(low + np.array([-0.14 + 0.14j, 0.14 + 0.14j, 0.46j]), 2)
        parts += [Part("mouth", mew, 0.5), Part("tongue", _oval(low + 0.28j, 0.06, 0.07), 0.5)]
    parts += _both(Part("line", low + np.array([0.06j, 0.04 + 0.13j, 0.15 + 0.16j, 0.27 + 0.09j]), 0.5, 0.035))
    nose = _smooth(low + _vary(dice, [-0.15 - 0.17j, 0.15 - 0.17j, 0.02j, 0.02j], 0.12), 2)
    parts += [Part("line", low + np.array([0, 0.07j]), 0.53, 0.035), Part("nose", nose, 0.56)]
    almond = _vary(dice, [-1 + 0.25j, -0.5 - 0.5j, 0.3 - 0.78j, 1 - 0.28j, 0.6 + 0.46j, -0.3 + 0.68j], 0.12)
    lens = _smooth(almond * complex(0.27, -_u(dice, 0.02, 0.13)), 2)
    eye = complex(_u(dice, 0.4, 0.47), _u(dice, -0.14, 0))
    parts += _eyes(dice, eye, lens, _u(dice, 0.04, 0.12), 0.16)
    return parts + (_whiskers(dice, _u(dice, 0.6, 0.94), low + 0.28 + 0.05j) if dice.random() < 0.9 else [])


def _dog(dice: Dice) -> list[Part]:
    half = _vary(dice, [-0.84j, 0.44 - 0.88j, 0.82 - 0.52j, 0.82 + 0.05j, 0.68 + 0.5j, 0.42 + 0.98j, 0.98j], 0.1)
    head, wide, style = Part("head", _whole(half)), float(np.max(half.real)) / 0.82, dice.random()
    if style < 0.78:  # hanging
        hang = [-0.26 - 0.14j, 0.14 - 0.28j, 0.52 + 0.12j, 0.58 + 0.9j, 0.32 + 1.3j, 0.1 + 1j, 0.06 + 0.5j]
        parts = [head, *_ears(dice, 0.62 * wide - 0.7j, hang, 3, 0.2)]
    elif style < 0.92:  # folded: the tips fall forward
        fold = [-0.34 - 0.06j, -0.16 - 0.42j, 0.26 - 0.5j, 0.56 - 0.14j, 0.5 + 0.46j, 0.5 + 0.46j, 0.16 + 0.18j]
        parts = [head, *_ears(dice, 0.56 * wide - 0.66j, fold, 2, 0.14)]
    else:  # erect: round as a bulldog's, or pricked as a shepherd's
        blunt = 0.12 if style < 0.96 else 0.05
        bat = [-0.3 - 0.12j, -0.04 - blunt - 0.6j, 0.12 - blunt - 0.94j, 0.12 + blunt - 0.92j, 0.26 - 0.3j, 0.3 + 0.22j]
        parts = [*_ears(dice, 0.5 * wide - 0.6j, bat, 3, 0.12, lined=True), head]
    nose = 1j * _u(dice, 0.22, 0.34)
    lip = nose + 1j * _u(dice, 0.3, 0.38)
    if dice.random() < 0.4:
        tongue = _smooth(lip + _vary(dice, [-0.16, 0.16, 0.19 + 0.36j, 0.02 + 0.52j, -0.17 + 0.38j], 0.12))
        parts += [Part("mouth", _oval(lip + 0.1j, 0.3, 0.24), 0.42), Part("tongue", tongue, 0.5)]
    snout = lip + 1.12 * _vary(dice, [-0.62j, 0.2 - 0.58j, 0.42 - 0.32j, 0.54, 0.34 + 0.28j, 0.07j], 0.12)
    jowl = Part("line", lip + np.array([0, 0.08 + 0.08j, 0.24 + 0.1j, 0.38 - 0.02j]), 0.52, 0.04)
    parts += [Part("muzzle", _whole(snout), 0.5), Part("line", np.array([nose, lip]), 0.6, 0.04), *_both(jowl)]
    if dice.random() < 0.85:  # freckles
        dots = (lip + complex(0.2 + 0.09 * i, -0.07 + 0.08 * (i % 2)) for i in range(3))
        parts += _both(*(Part("line", _oval(dot, 0.025, 0.025), 0.52) for dot in dots))
    if dice.random() < 0.8:  # brows
        brow = np.array([0.2 - 0.5j, 0.32 - 0.57j, 0.48 - 0.5j]) + _near(dice, 0.04, 0.05)
        parts += _both(Part("line", brow, 0.3, 0.035))
    oval = _smooth(nose + _vary(dice, [-0.21 - 0.11j, 0.21 - 0.11j, 0.23 + 0.06j, 0.19j, -0.23 + 0.06j], 0.14))
    parts += [Part("nose", oval, 0.68), Part("gloss", _oval(nose - 0.05 - 0.07j, 0.1, 0.035), 0.7)]
    ball, eye = _u(dice, 0.16, 0.2), complex(_u(dice, 0.34, 0.42), _u(dice, -0.26, -0.14))
    parts += _eyes(dice, eye, _oval(0, ball, ball), 0.64 * ball, 0.66 * ball)
    return parts + (_whiskers(dice, _u(dice, 0.4, 0.6), nose + 0.36 + 0.16j) if dice.random() < 0.1 else [])


# --- the scene: everything that the classes share --------------------------------------------------------------------


def _background(dice: Dice, side: int) -> tuple[Image.Image, list[Colour]]:
    """A backdrop [side, side] (room, leaves, grass, lights or stripes, more or less out of focus) and its palette."""
    hue, sat = _pick(dice, (0.3, 0.25, 0.56, 0.08, 0.11, dice.random())), _u(dice, 0.12, 0.6)
    tones = [((hue + _u(dice, -0.12, 0.12)) % 1, sat * _u(dice, 0.4, 1.3), _u(dice, 0.3, 0.97)) for _ in range(8)]
    colours: list[Colour] = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(*tone)) for tone in tones]
    style, middle, marks = _pick(dice, ("room", "leaves", "grass", "lights", "stripes")), 0.5 + 0.5j, []
    if style == "room":
        floor = _u(dice, 0.6, 0.9)
        marks.append(middle + _SQUARE * 1.2 + 1j * (floor + 0.1))
        for _ in range(int(_u(dice, 2, 6))):
            item = _vary(dice, _SQUARE * 0.32, 0.6)
            spot = complex(dice.random(), _pick(dice, (floor + 0.04 + float(np.min(item.imag)), _u(dice, 0, 0.5))))
            marks += [spot + item, spot + item * 0.76]
    elif style == "leaves":
        marks += [_leaf(middle + _near(dice, 0.6, 0.6), _near(dice, 0.22, 0.22), 0.3) for _ in range(45)]
    elif style == "grass":
        marks += [_leaf(0.5 + 0.82j + _near(dice, 0.6, 0.28), _near(dice, 0.12, 0.18) - 0.32j, 0.07) for _ in range(60)]
    elif style == "lights":
        sizes = [_u(dice, 0.03, 0.16) for _ in range(16)]
        marks += [_oval(middle + _near(dice, 0.6, 0.6), size, size) for size in sizes]
    else:
        step, angle = _u(dice, 0.08, 0.25), _u(dice, -math.pi, math.pi)
        bar = np.array([-1, 1, 1 + 0.5j * step, -1 + 0.5j * step]) - 0.75j
        turn = complex(math.cos(angle), math.sin(angle))
        marks += [middle + (bar + 1j * i * step) * turn for i in range(int(1.5 / step) + 1)]
    for _ in range(int(_u(dice, 0, 6))):  # clutter
        corners = [_near(dice, 0.15, 0.15) for _ in range(_pick(dice, (3, 3, 4, 5)))]
        marks.append(middle + _near(dice, 0.6, 0.6) + _smooth(corners, _pick(dice, (0, 1, 3))))
    image = Image.new("RGB", (2, 2))
    image.putdata(colours[:4])
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    draw, alpha = ImageDraw.Draw(image, "RGBA"), int(_u(dice, 90, 255))
    for mark in marks:
        colour = _mix(_pick(dice, colours), _pick(dice, (_BLACK, _WHITE)), _u(dice, 0, 0.25))
        draw.polygon(_xy(mark * side), (*colour, alpha))
    return _blur(image, _u(dice, 0, 0.022) * side), colours


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
    angle, target = math.radians(_u(dice, -25, 25)), _u(dice, 0.6, 0.85) * side
    centre = side * (0.5 + 0.5j + _near(dice, 0.11, 0.11))
    pose = Pose(_u(dice, -0.4, 0.4), _u(dice, -0.2, 0.22), 12 * complex(math.cos(angle), math.sin(angle)), 32 + 32j)
    rows, columns = np.nonzero(np.asarray(_mask(64, (pose(part.points, part.depth) for part in outlines))))
    scale, middle = target / math.sqrt(len(rows)), complex(columns.mean(), rows.mean()) - 31.5 - 31.5j
    return pose._replace(turn=pose.turn * scale, shift=centre - middle * scale)


def _fur(dice: Dice, side: int, pose: Pose, base: Colour, second: Colour) -> Image.Image:
    """Fur that covers the whole picture [side, side]: tabby, spotted, patched, with a blaze and bib, or plain."""
    image = Image.new("RGB", (side, side), base)
    draw, style = ImageDraw.Draw(image, "RGBA"), dice.random()
    dark, light, marks = _mix(base, _BLACK if sum(base) > 240 else _WHITE, 0.38), _mix(base, _WHITE, 0.25), []
    if style < 0.3:
        marks = [_leaf(i * 0.2 - 0.95j, i * -0.07 + 1j * (0.53 - 0.06 * abs(i)), 0.12) for i in range(-2, 3)]
        rows = [(-1) ** i * 1.2 + 1j * (0.22 * (i // 2) - 0.15 + _u(dice, -0.04, 0.04)) for i in range(8)]
        marks += [_leaf(start, -0.45 * start.real + 0.05j, 0.1) for start in rows]
    elif style < 0.42:
        marks = [_oval(_near(dice, 1.2, 1.2), _u(dice, 0.04, 0.12), _u(dice, 0.04, 0.1)) for _ in range(22)]
    elif style < 0.62:
        marks = [_oval(_near(dice, 0.9, 0.9), _u(dice, 0.25, 0.55), _u(dice, 0.25, 0.6)) for _ in range(4)]
    elif style < 0.8:
        marks = [_whole([-0.9j, 0.1 - 0.8j, 0.12 - 0.2j, 0.5 + 0.3j, 0.9 + 1.2j, 1.6j])]
    for mark in marks:
        draw.polygon(pose(mark), (*(dark if style < 0.42 else second), 225))
    roots = (dice.random(90) - 0.5 + 1j * (dice.random(90) - 0.5)) * 2.6
    hairs = pose(np.stack([roots, roots + roots / (abs(roots) + 0.3) * 0.16], 1).ravel().astype(np.complex128))
    for i in range(90):
        draw.line(hairs[4 * i : 4 * i + 4], (*(dark, light, second)[i % 3], 50), max(1, side // 96))
    return image


def _inks(dice: Dice, base: Colour, second: Colour) -> dict[str, Colour]:
    """A colour for every ink that a face may use, chosen without knowing the face."""
    muzzles = (_mix(base, _WHITE, 0.55), _mix(base, _WHITE, 0.15), _mix(base, _BLACK, 0.22), _mix(second, base, 0.35))
    muzzle, ears = _pick(dice, muzzles), (base, _mix(base, _BLACK, 0.25), _mix(base, _WHITE, 0.15), second)
    lining = _mix(_pick(dice, ((192, 130, 124), _mix(base, _BLACK, 0.45))), base, 0.3)
    inks = {"muzzle": muzzle, "line": _mix(muzzle, _BLACK, 0.7), "ear": _pick(dice, ears), "lining": lining}
    inks |= {"nose": _pick(dice, _NOSES), "gloss": (*_WHITE, 130), "mouth": (92, 30, 34), "tongue": (226, 116, 124)}
    inks |= {"iris": _pick(dice, _IRISES), "lid": _mix(base, _BLACK, 0.8), "pupil": _BLACK, "glint": _WHITE}
    return inks | {"whisker": (*(_WHITE if sum(base) < 420 else _BLACK), 95)}


def _bust(dice: Dice, canvas: Image.Image, fur: Image.Image, chin: complex, unit: float) -> None:
    """Paints neck and shoulders below the head, and often a collar, onto `canvas`."""
    neck, breast, bare, band = _u(dice, 0.26, 0.34), _u(dice, 0.42, 0.6), dice.random(), _pick(dice, _BANDS)
    body = _whole([-0.1j, neck, neck + 0.2j, neck + 0.25j, breast + 0.55j, breast + 0.1 + 2j, 2j])
    shaded = Image.blend(fur, Image.new("RGB", fur.size, _BLACK), 0.18)
    if bare < 0.85:
        canvas.paste(shaded, mask=_mask(canvas.width, [_xy(chin + body * unit)]))
    if bare < 0.45:
        collar = _whole([0.16j, neck + 0.16j, neck + 0.03 + 0.2j, neck + 0.25j, 0.32j])
        ImageDraw.Draw(canvas).polygon(_xy(chin + collar * unit), band)
        ImageDraw.Draw(canvas).polygon(_xy(chin + _oval(0.35j, 0.045, 0.05) * unit), (226, 188, 84))


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
    image = image.filter(ImageFilter.GaussianBlur(max(0.0, _u(dice, -0.6, 0.6)) * image.width / 96))
    spans = ((-0.25, 0.25), (-0.25, 0.25), (0, 0.2), (0, 0.06), (0.8, 1.2), (0.42, 0.6))
    across, down, corner, grain, contrast, level = (np.float32(_u(dice, *span)) for span in spans)
    x = np.linspace(-1, 1, image.width, dtype=np.float32)
    y = x[:, None]
    field = (1 + across * x + down * y - corner * (x * x + y * y))[..., None]  # [size, size, 1]
    cast = field * (0.92 + 0.16 * dice.random(3)).astype(np.float32)  # [size, size, 3]
    noise = dice.random(cast.shape, np.float32) - dice.random(field.shape, np.float32)
    lit = ((np.asarray(image, np.float32) / 255 - np.float32(0.5)) * contrast + level) * cast + noise * grain
    return Image.fromarray((lit.clip(0, 1) * 255 + np.float32(0.5)).astype(np.uint8))


# --- the public functions --------------------------------------------------------------------------------------------


def draw_face(kind: str, seed: int, *, size: int = 96) -> Image.Image:
    """Draws one cat or dog face: a pure function of its arguments, the same in every process.

    Args:
      kind: "cat" or "dog". With the same seed both have the same background, fur, colours, light and pose.
      seed: Which drawing, 0 or more.
      size: Height and width in pixels, at least 16.

    Returns:
      An RGB picture [size, size].

    Raises:
      ValueError: If an argument is out of range.

    Example:
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
    face = (_cat if kind == "cat" else _dog)(np.random.default_rng([1, seed]))
    dice, side = np.random.default_rng([0, seed]), size * _SUPER
    canvas, palette = _background(dice, side)
    pose = _place(dice, side, [part for part in face if part.ink in ("ear", "head")])
    base, second = (_mix(_pick(dice, _FURS), _pick(dice, _FURS), _u(dice, 0, 0.15)) for _ in range(2))
    inks, fur = _inks(dice, base, second), _fur(dice, side, pose, base, second)
    _bust(dice, canvas, fur, complex(*pose(_oval(0.3j, 0, 0)[:1])), _u(dice, 0.76, 1.0) * side)
    _head(canvas, fur, face, pose, inks)
    for _ in range(_pick(dice, (0, 0, 0, 0, 3, 6))):  # grass in front
        blade = _leaf(complex(dice.random(), 1.03), _near(dice, 0.1, 0.08) - 0.16j, 0.08)
        ImageDraw.Draw(canvas).polygon(_xy(blade * side), _pick(dice, palette))
    return _light(dice, canvas.reduce(_SUPER))


def write_drawings(
    folder: str | os.PathLike[str],
    *,
    num_train: int = 1000,
    num_valid: int = 200,
    size: int = 96,
    seed: int = 0,
    on_progress: Callable[[int, int], object] | None = None,
) -> Path:
    """Writes the demo data set as `folder`/{train,valid}/{cat,dog}/NNNN.jpg, or reuses it if it is already there.

    The folder appears in one step when all drawings are done: they are made in `.NAME.partial-PID-RANDOM` beside it,
    which is removed on failure and never read again. A set with fewer drawings holds the first ones of a larger set.

    Args:
      folder: Where the set belongs. Reused as it is if it already holds exactly these drawings.
      num_train: Number of training drawings, even and at least 2: half cats, half dogs.
      num_valid: Number of validation drawings, likewise; none of them is among the training drawings.
      size: Height and width in pixels, at least 16.
      seed: Which data set, 0 or more.
      on_progress: Called with (drawings done, all drawings) now and then and at the end, not on reuse.

    Returns:
      `folder` as a path.

    Raises:
      ValueError: If an argument is out of range, or `folder` exists and is anything else; it is left untouched.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as scratch:
      ...     folder = write_drawings(f"{scratch}/faces", num_train=2, num_valid=2, size=16)
      ...     sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
      ['train/cat/0000.jpg', 'train/dog/0000.jpg', 'valid/cat/0000.jpg', 'valid/dog/0000.jpg']
    """
    record = {"format": _FORMAT, "num_train": num_train, "num_valid": num_valid, "size": size, "seed": seed}
    for name, least in (("num_train", 2), ("num_valid", 2), ("size", 16), ("seed", 0)):
        if record[name] < least or (least == 2 and record[name] % 2):
            raise ValueError(f"{name} must be {'even and ' * (least == 2)}at least {least}, got {record[name]}")
    folder, todo = Path(folder), {}
    for split, count in enumerate((num_train, num_valid)):
        for i in range(count):  # the number of a drawing: set, split and place never overlap
            name = f"{('train', 'valid')[split]}/{KINDS[i % 2]}/{i // 2:04d}.jpg"
            todo[name] = (KINDS[i % 2], ((2 * seed + split) << 32) + i)
    if _holds(folder, record, todo):
        return folder
    if os.path.lexists(folder):
        raise ValueError(
            f"folder {folder} exists and is not a complete set of these drawings ({json.dumps(record)}); "
            "choose another folder, or move or delete this one yourself"
        )
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        for done, (name, (kind, number)) in enumerate(todo.items(), 1):
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_face(kind, number, size=size).save(path, quality=90)
            if on_progress is not None and (done % 50 == 0 or done == len(todo)):
                on_progress(done, len(todo))
        (partial / "drawings.json").write_text(json.dumps(record), encoding="utf-8")
        partial.rename(folder)
    except OSError:
        if not _holds(folder, record, todo):  # else another process has just finished the same set
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _holds(folder: Path, record: dict[str, int], names: Iterable[str]) -> bool:
    """Whether `folder` holds exactly the drawings that `record` describes."""
    try:
        same = json.loads((folder / "drawings.json").read_text(encoding="utf-8")) == record
    except (OSError, ValueError):
        return False
    return same and {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")} == set(names)
