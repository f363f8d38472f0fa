"""The embedded demo data set: deterministic Pillow drawings of cat and dog faces.

A drawing has two independent parts. The *scene* (background, fur, colours, pose, light, clutter, grain) comes from a
random stream that never learns the class. The *face* comes from a second stream: `_cat` and `_dog` return outlines
only, in named inks whose colours the scene has chosen. So colour, brightness, size and place say nothing about the
class: a linear model on pixels stays near chance, while a small convolutional network learns the shapes.
"""

import colorsys
import math
from collections.abc import Sequence
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
_IRISES: tuple[Colour, ...] = ((226, 172, 56), (146, 186, 88), (116, 182, 216), (206, 120, 48), (140, 88, 44))
_NOSES: tuple[Colour, ...] = ((34, 28, 30), (34, 28, 30), (52, 40, 40), (104, 64, 56), (206, 128, 126))
_CIRCLE: Points = np.array([complex(math.cos(i * math.pi / 12), math.sin(i * math.pi / 12)) for i in range(24)])


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
    turn: complex = 1
    shift: complex = 0

    def __call__(self, points: Points, depth: float = 0.0) -> list[float]:
        x = points.real * math.cos(self.yaw) + depth * math.sin(self.yaw)
        y = points.imag * math.cos(self.nod) + depth * math.sin(self.nod)
        pixels = (x + 1j * y) * self.turn + self.shift
        return (np.rint(pixels.view(np.float64) * 8) / 8).tolist()  # eighths: drops the last bits, which may differ


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


def _leaf(start: complex, end: complex, width: float) -> Points:
    """A stroke pointed at both ends; `width` is relative to its length."""
    return start + (end - start) * (_LEAF.real + 1j * (width * _LEAF.imag))


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
        parts += _both(Part("ear", ear, 0.0 if lined else 0.05))[side : side + 1]
        if lined:
            parts += _both(Part("lining", ear.mean() + (ear - ear.mean()) * 0.58 + 0.04j, 0.03))[side : side + 1]
    return parts


def _eyes(dice: Dice, centre: complex, outline: Points, pupil_x: float, pupil_y: float) -> list[Part]:
    """Both eyes: lid, iris, pupil and glint; now and then shut."""
    if dice.random() < 0.03:
        arc = centre + np.array([-0.2 - 0.02j, -0.1 + 0.07j, 0.1 + 0.07j, 0.2 - 0.02j])
        return _both(Part("line", arc, 0.35, 0.05))
    gaze, parts = _near(dice, 0.03, 0.02), _both(Part("lid", centre + outline * 1.25, 0.33), Part("iris", centre + outline, 0.36))
    for ball in (centre + gaze, gaze - centre.conjugate()):
        parts.append(Part("pupil", _oval(ball, pupil_x, pupil_y), 0.37))
        parts.append(Part("glint", _oval(ball + 0.04 - 0.06j, 0.05, 0.05), 0.38))
    return parts


def _whiskers(dice: Dice, length: float, root: complex) -> list[Part]:
    starts = [root + 0.07j * i for i in (-1, 0, 1)]
    reach = [complex(length * _u(dice, 0.85, 1.1), 0.2 * i + _u(dice, -0.12, 0.12)) for i in (-1, 0, 1)]
    lines = [np.array([a, a + 0.5 * b - 0.03j, a + b]) for a, b in zip(starts, reach, strict=True)]
    return _both(*(Part("whisker", line, 0.5, 0.02) for line in lines))


def _cat(dice: Dice) -> list[Part]:
    half = _vary(dice, [-0.74j, 0.5 - 0.78j, 0.92 - 0.42j, 1.05 + 0.22j, 0.76 + 0.66j, 0.36 + 0.88j, 0.86j], 0.07)
    head, wide, low = Part("head", _whole(half)), half.real.max() / 1.05, 1j * _u(dice, 0.38, 0.46)
    if dice.random() < 0.03:  # lop ears
        lop = [-0.4 - 0.3j, -0.05 - 0.58j, 0.4 - 0.3j, 0.44 + 0.3j, 0.26 + 0.05j, 0.26 + 0.05j, -0.1 - 0.12j]
        parts = [head, *_ears(dice, 0.55 * wide - 0.46j, lop, 2, 0.1)]
    else:
        peak = [-0.42 - 0.22j, -0.16 - 0.62j, 0.26 - 1.14j, 0.26 - 1.14j, 0.4 - 0.4j, 0.4 + 0.28j]
        parts = [*_ears(dice, 0.56 * wide - 0.44j, peak, 2, 0.14, lined=True), head]
    chin, puff = Part("muzzle", _oval(low + 0.2j, 0.2, 0.17), 0.4), Part("muzzle", _oval(low + 0.18 + 0.05j, 0.25, 0.19), 0.48)
    parts += [chin, *_both(puff)]
    if dice.random() < 0.14:
        mew = _smooth(low + np.array([-0.14 + 0.14j, 0.14 + 0.14j, 0.46j]), 2)
        parts += [Part("mouth", mew, 0.5), Part("tongue", _oval(low + 0.28j, 0.06, 0.07), 0.5)]
    parts += _both(Part("line", low + np.array([0.06j, 0.04 + 0.13j, 0.15 + 0.16j, 0.27 + 0.09j]), 0.5, 0.035))
    nose = _smooth(low + _vary(dice, [-0.15 - 0.17j, 0.15 - 0.17j, 0.02j, 0.02j], 0.12), 2)
    parts += [Part("line", low + np.array([0, 0.07j]), 0.53, 0.035), Part("nose", nose, 0.56)]
    almond = _vary(dice, [-1 + 0.25j, -0.5 - 0.5j, 0.3 - 0.78j, 1 - 0.28j, 0.6 + 0.46j, -0.3 + 0.68j], 0.12)
    lens = _smooth(almond * complex(0.28, -_u(dice, 0.02, 0.13)), 2)
    parts += _eyes(dice, complex(_u(dice, 0.4, 0.47), _u(dice, -0.14, 0.0)), lens, _u(dice, 0.04, 0.12), 0.165)
    return parts + (_whiskers(dice, _u(dice, 0.65, 1.0), low + 0.28 + 0.05j) if dice.random() < 0.9 else [])


def _dog(dice: Dice) -> list[Part]:
    half = _vary(dice, [-0.84j, 0.44 - 0.88j, 0.82 - 0.52j, 0.82 + 0.05j, 0.68 + 0.5j, 0.42 + 0.98j, 0.98j], 0.1)
    head, wide, style = Part("head", _whole(half)), half.real.max() / 0.82, dice.random()
    if style < 0.78:  # hanging
        hang = [-0.26 - 0.14j, 0.14 - 0.28j, 0.52 + 0.12j, 0.58 + 0.9j, 0.32 + 1.3j, 0.1 + 1j, 0.06 + 0.5j]
        parts = [head, *_ears(dice, 0.62 * wide - 0.7j, hang, 3, 0.2)]
    elif style < 0.93:  # half folded: the tips fall forward
        stem = [-0.36 - 0.1j, -0.1 - 0.62j, 0.32 - 0.56j, 0.36 + 0.2j]
        tip = [-0.16 - 0.62j, 0.3 - 0.7j, 0.56 - 0.3j, 0.42 + 0.1j, 0.12 - 0.2j]
        parts = [*_ears(dice, 0.56 * wide - 0.6j, stem, 2, 0.04), head, *_ears(dice, 0.56 * wide - 0.6j, tip, 2, 0.04)]
    else:  # erect: round as a bulldog's, or pricked as a shepherd's
        blunt = 0.13 if style < 0.97 else 0.05
        bat = [-0.3 - 0.12j, -0.04 - blunt - 0.6j, 0.12 - blunt - 0.9j, 0.12 + blunt - 0.88j, 0.26 - 0.3j, 0.3 + 0.22j]
        parts = [*_ears(dice, 0.5 * wide - 0.6j, bat, 3, 0.12, lined=True), head]
    nose = 1j * _u(dice, 0.22, 0.34)
    lip = nose + 1j * _u(dice, 0.3, 0.38)
    if dice.random() < 0.4:
        tongue = _smooth(lip + _vary(dice, [-0.16, 0.16, 0.19 + 0.36j, 0.02 + 0.52j, -0.17 + 0.38j], 0.12))
        parts += [Part("mouth", _oval(lip + 0.1j, 0.3, 0.24), 0.42), Part("tongue", tongue, 0.5)]
    snout = lip + _vary(dice, [-0.62j, 0.2 - 0.58j, 0.42 - 0.32j, 0.54, 0.34 + 0.28j, 0.07j], 0.12) * 1.12
    jowl = Part("line", lip + np.array([0, 0.08 + 0.08j, 0.24 + 0.1j, 0.38 - 0.02j]), 0.52, 0.04)
    parts += [Part("muzzle", _whole(snout), 0.5), Part("line", np.array([nose, lip]), 0.6, 0.04), *_both(jowl)]
    if dice.random() < 0.7:
        parts += _both(Part("line", np.array([0.2 - 0.5j, 0.32 - 0.57j, 0.48 - 0.5j]) + _near(dice, 0.04, 0.05), 0.3, 0.035))
    if dice.random() < 0.35:  # a wiry beard
        roots = [complex(_u(dice, 0.1, 0.5), _u(dice, 0.05, 0.2)) for _ in range(7)]
        parts += _both(*(Part("whisker", lip + np.array([z, z + 0.3 * z.real + 0.28j]), 0.5, 0.02) for z in roots))
    dots = (lip + complex(0.2 + 0.09 * i, -0.07 + 0.08 * (i % 2)) for i in range(3))
    parts += _both(*(Part("line", _oval(dot, 0.025, 0.025), 0.52) for dot in dots)) if dice.random() < 0.8 else []
    oval = nose + _vary(dice, [-0.2 - 0.11j, 0.2 - 0.11j, 0.22 + 0.06j, 0.19j, -0.22 + 0.06j], 0.14)
    parts += [Part("nose", _smooth(oval), 0.68), Part("gloss", _oval(nose - 0.05 - 0.07j, 0.1, 0.035), 0.7)]
    ball = _u(dice, 0.16, 0.2)
    parts += _eyes(dice, complex(_u(dice, 0.34, 0.42), _u(dice, -0.26, -0.14)), _oval(0, ball, ball), 0.64 * ball, 0.66 * ball)
    return parts + (_whiskers(dice, _u(dice, 0.4, 0.6), nose + 0.36 + 0.16j) if dice.random() < 0.1 else [])


# --- the scene: everything that the classes share --------------------------------------------------------------------


def _background(dice: Dice, side: int) -> tuple[Image.Image, list[Colour]]:
    """A backdrop [side, side] (room, leaves, grass, lights or stripes, more or less out of focus) and its palette."""
    hue, sat = _pick(dice, (0.3, 0.25, 0.56, 0.08, 0.11, dice.random())), _u(dice, 0.12, 0.6)
    tones = [((hue + _u(dice, -0.12, 0.12)) % 1, sat * _u(dice, 0.4, 1.3), _u(dice, 0.3, 0.97)) for _ in range(8)]
    colours: list[Colour] = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(*tone)) for tone in tones]
    image = Image.new("RGB", (2, 2))
    image.putdata(colours[:4])
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    style, marks = _pick(dice, ("room", "leaves", "grass", "lights", "stripes")), []
    if style == "room":
        square, floor = np.array([-0.5 - 0.5j, 0.5 - 0.5j, 0.5 + 0.5j, -0.5 + 0.5j]), _u(dice, 0.1, 0.4)
        marks.append(0.5 + 0.5j + square * 1.2 + 1j * (1.1 - floor))
        for _ in range(int(_u(dice, 2, 6))):
            item = _vary(dice, square * 0.32, 0.6)
            middle = complex(dice.random(), _pick(dice, (1.02 - floor + item.imag.min(), _u(dice, 0, 0.5))))
            marks += [middle + item, middle + item * 0.76]
    elif style == "leaves":
        starts = [0.5 + 0.5j + _near(dice, 0.6, 0.6) for _ in range(45)]
        marks += [_leaf(start, start + _near(dice, 0.22, 0.22), 0.3) for start in starts]
    elif style == "grass":
        starts = [0.5 + 0.82j + _near(dice, 0.6, 0.28) for _ in range(60)]
        marks += [_leaf(start, start - 0.32j + _near(dice, 0.12, 0.18), 0.07) for start in starts]
    elif style == "lights":
        sizes = [_u(dice, 0.03, 0.16) for _ in range(16)]
        marks += [_oval(0.5 + 0.5j + _near(dice, 0.6, 0.6), size, size) for size in sizes]
    else:
        step, angle = _u(dice, 0.08, 0.25), _u(dice, -math.pi, math.pi)
        bar = np.array([-1, 1, 1 + 0.5j * step, -1 + 0.5j * step]) - 0.75j
        turn = complex(math.cos(angle), math.sin(angle))
        marks += [0.5 + 0.5j + (bar + 1j * i * step) * turn for i in range(int(1.5 / step) + 1)]
    for _ in range(int(_u(dice, 0, 6))):  # clutter
        corners = [_near(dice, 0.15, 0.15) for _ in range(_pick(dice, (3, 3, 4, 5)))]
        marks.append(0.5 + 0.5j + _near(dice, 0.6, 0.6) + _smooth(corners, _pick(dice, (0, 1, 3))))
    draw, alpha = ImageDraw.Draw(image, "RGBA"), int(_u(dice, 90, 255))
    for mark in marks:
        colour = _mix(_pick(dice, colours), _pick(dice, (_BLACK, _WHITE)), _u(dice, 0, 0.25))
        draw.polygon((mark * side).view(np.float64).tolist(), (*colour, alpha))
    blurred = image.reduce(_SUPER).filter(ImageFilter.GaussianBlur(_u(dice, 0, 0.022) * side / _SUPER))
    return blurred.resize(image.size, Image.Resampling.BILINEAR), colours


def _fur(dice: Dice, side: int, pose: Pose, base: Colour, second: Colour) -> Image.Image:
    """Fur that covers the whole picture [side, side]: tabby, patched, spotted, with a blaze and bib, or plain."""
    image = Image.new("RGB", (side, side), base)
    draw, style = ImageDraw.Draw(image, "RGBA"), dice.random()
    dark, light, marks = _mix(base, _BLACK if sum(base) > 240 else _WHITE, 0.38), _mix(base, _WHITE, 0.25), []
    if style < 0.3:
        marks = [_leaf(i * 0.2 - 0.95j, i * 0.13 - 1j * (0.42 + 0.06 * abs(i)), 0.12) for i in range(-2, 3)]
        for i in range(8):
            edge, y = (-1) ** i, 1j * (0.22 * (i // 2) - 0.1 + _u(dice, -0.04, 0.04))
            marks.append(_leaf(edge * 1.2 + y - 0.05j, edge * 0.66 + y, 0.1))
    elif style < 0.5:
        marks = [_oval(_near(dice, 0.9, 0.9), _u(dice, 0.25, 0.55), _u(dice, 0.25, 0.6)) for _ in range(4)]
    elif style < 0.62:
        marks = [_oval(_near(dice, 1.2, 1.2), _u(dice, 0.04, 0.12), _u(dice, 0.04, 0.1)) for _ in range(22)]
    elif style < 0.8:
        marks = [_whole([-0.9j, 0.1 - 0.8j, 0.12 - 0.2j, 0.5 + 0.3j, 0.9 + 1.2j, 1.6j])]
    for mark in marks:
        draw.polygon(pose(mark), (*(dark if style < 0.3 or 0.5 <= style < 0.62 else second), 225))
    roots = (dice.random(90) - 0.5 + 1j * (dice.random(90) - 0.5)) * 2.6
    hairs = pose(np.stack([roots, roots + roots / (abs(roots) + 0.3) * 0.16], 1).ravel())
    for i in range(90):
        draw.line(hairs[4 * i : 4 * i + 4], (*(dark, light, second)[i % 3], 50), _SUPER)
    return image


def _inks(dice: Dice, base: Colour, second: Colour) -> dict[str, Colour]:
    """A colour for every ink that a face may use, chosen without knowing the face."""
    muzzles = (_mix(base, _WHITE, 0.65), _mix(base, _WHITE, 0.12), _mix(base, _BLACK, 0.3), _mix(second, base, 0.3))
    muzzle, ears = _pick(dice, muzzles), (base, _mix(base, _BLACK, 0.25), _mix(base, _WHITE, 0.15), second)
    return {
        "ear": _pick(dice, ears),
        "lining": _mix(_pick(dice, ((192, 130, 124), _mix(base, _BLACK, 0.45))), base, 0.3),
        "muzzle": muzzle,
        "line": _mix(muzzle, _BLACK, 0.7),
        "nose": _pick(dice, _NOSES),
        "gloss": (*_WHITE, 120),
        "lid": _mix(base, _BLACK, 0.8),
        "iris": _pick(dice, _IRISES),
        "pupil": _BLACK,
        "glint": _WHITE,
        "mouth": (92, 30, 34),
        "tongue": (226, 116, 124),
        "whisker": (*(_WHITE if sum(base) < 420 else _BLACK), 110),
    }


def _place(dice: Dice, side: int, outlines: Sequence[Part]) -> tuple[Pose, float]:
    """A pose that gives the whole head, ears included, a size and a place that do not depend on its shape."""
    angle, zoom = math.radians(_u(dice, -25, 25)), _u(dice, 0.76, 1.06) * side
    pose = Pose(_u(dice, -0.4, 0.4), _u(dice, -0.2, 0.22), complex(math.cos(angle), math.sin(angle)))
    trial = pose._replace(turn=pose.turn * 12, shift=32 + 32j)
    rows, columns = np.nonzero(np.asarray(_mask(64, *(trial(part.points, part.depth) for part in outlines))))
    scale, room = 0.8 * zoom / math.sqrt(len(rows)) * 12, 0.11 * side
    centre, middle = side / 2 * (1 + 1j) + _near(dice, room, room), complex(columns.mean() - 31.5, rows.mean() - 31.5) / 12
    return pose._replace(turn=pose.turn * scale, shift=centre - middle * scale), zoom


def _mask(side: int, *outlines: list[float]) -> Image.Image:
    mask = Image.new("L", (side, side))
    for outline in outlines:
        ImageDraw.Draw(mask).polygon(outline, 255)
    return mask


def _light(dice: Dice, image: Image.Image) -> Image.Image:
    """Light and camera: a slanting gradient, vignette, contrast, colour cast, blur and grain."""
    image = image.filter(ImageFilter.GaussianBlur(max(0.0, _u(dice, -0.6, 0.6)) * image.width / 96))
    spans = ((-0.25, 0.25), (-0.25, 0.25), (0, 0.2), (0, 0.06), (0.8, 1.2), (0.42, 0.6))
    across, down, corner, grain, contrast, level = np.float32([_u(dice, *span) for span in spans])
    x = np.linspace(-1, 1, image.width, dtype=np.float32)
    y = x[:, None]
    cast = (1 + across * x + down * y - corner * (x * x + y * y))[..., None] * np.float32(0.92 + 0.16 * dice.random(3))
    noise = dice.random(cast.shape, np.float32) - dice.random((*cast.shape[:2], 1), np.float32)
    lit = ((np.asarray(image, np.float32) / 255 - np.float32(0.5)) * contrast + level) * cast + noise * grain
    return Image.fromarray((lit.clip(0, 1) * 255 + np.float32(0.5)).astype(np.uint8))


def draw_face(kind: str, seed: int, *, size: int = 96) -> Image.Image:
    """Draws one cat or dog face; a pure function of its arguments."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    face = (_cat if kind == "cat" else _dog)(np.random.default_rng([1, seed]))
    dice, side = np.random.default_rng([0, seed]), size * _SUPER
    canvas, palette = _background(dice, side)
    outlines = [part for part in face if part.ink in ("ear", "head")]
    pose, zoom = _place(dice, side, outlines)
    base, second = (_mix(_pick(dice, _FURS), _pick(dice, _FURS), _u(dice, 0, 0.15)) for _ in range(2))
    inks, fur = _inks(dice, base, second), _fur(dice, side, pose, base, second)
    draw = ImageDraw.Draw(canvas, "RGBA")

    neck, breast, chin = _u(dice, 0.26, 0.34), _u(dice, 0.42, 0.6), complex(*pose(np.array([0.3j])))
    bust = [-0.1j, neck, neck + 0.2j, neck + 0.25j, breast + 0.55j, breast + 0.1 + 2j, 2j]
    collar = [neck + 0.03 + 0.15j, neck + 0.03 + 0.23j, 0.3 + 0.27j, 0.35j]

    def torso(outline: list[complex]) -> list[float]:
        return (chin + _whole(outline) * zoom).view(np.float64).tolist()

    if dice.random() < 0.85:  # the bust
        canvas.paste(Image.blend(fur, Image.new("RGB", fur.size, _BLACK), 0.18), mask=_mask(side, torso(bust)))
        band = [0.16j, neck + 0.16j, neck + 0.03 + 0.2j, neck + 0.25j, 0.32j]
        if dice.random() < 0.5:
            draw.polygon(torso(band), _pick(dice, ((176, 52, 56), (52, 96, 160), (60, 130, 96), (214, 172, 70), (60, 56, 66))))
            draw.polygon((chin + zoom * _oval(0.35j, 0.045, 0.05)).view(np.float64).tolist(), (226, 188, 84))
    head = _mask(side, *(pose(part.points, part.depth) for part in outlines))
    soft = head.reduce(_SUPER).filter(ImageFilter.GaussianBlur(zoom / _SUPER * 0.06)).resize(head.size, Image.Resampling.BILINEAR)
    canvas.paste(_BLACK, mask=soft.point(lambda v: v // 2))
    for part in face:
        xy = pose(part.points, part.depth)
        if part.ink == "head":
            canvas.paste(fur, mask=_mask(side, xy))
        elif part.width:
            draw.line(xy, inks[part.ink], max(_SUPER, round(part.width * abs(pose.turn))), joint="curve")
        else:
            if part.ink in ("ear", "muzzle"):
                draw.polygon(pose(part.points + 0.03j, part.depth), (*_BLACK, 60))
            draw.polygon(xy, inks[part.ink])
    canvas.paste(_BLACK, mask=ImageChops.multiply(head, ImageChops.invert(soft)).point(lambda v: v * 3 // 4))
    for _ in range(_pick(dice, (0, 0, 0, 0, 3, 6))):  # grass in front
        start = complex(dice.random(), 1.03) * side
        draw.polygon(_leaf(start, start + side * (_near(dice, 0.1, 0.08) - 0.16j), 0.08).view(np.float64).tolist(), _pick(dice, palette))
    return _light(dice, canvas.reduce(_SUPER))
