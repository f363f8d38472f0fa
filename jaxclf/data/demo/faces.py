"""Outlines of cat and dog faces for the drawn demo data: shape is all that differs between the classes.

A face is a list of `Part`s in head coordinates, in named inks. Colours, pose, light and background are the scene's, in
`jaxclf.data.demo.drawing`, which never learns the class.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.complex128]  # x + iy with y down; a head reaches about 1 to each side of 0
Outline = Points | Sequence[complex]
Colour = tuple[int, ...]
Dice = np.random.Generator
T = TypeVar("T")

_CIRCLE: Points = np.array([complex(math.cos(i * math.pi / 12), math.sin(i * math.pi / 12)) for i in range(24)])
SQUARE: Points = np.array([-0.5 - 0.5j, 0.5 - 0.5j, 0.5 + 0.5j, -0.5 + 0.5j])


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
        return to_xy((x + 1j * y) * self.turn + self.shift)


def to_xy(points: Points) -> list[float]:
    """Flat coordinates for Pillow, in eighths of a pixel: drops the last bits, in which machines may differ."""
    flat: list[float] = (np.rint(points.view(np.float64) * 8) / 8).tolist()
    return flat


def uniform(dice: Dice, low: float, high: float) -> float:
    return low + (high - low) * dice.random()


def near(dice: Dice, x: float, y: float) -> complex:
    return complex(uniform(dice, -x, x), uniform(dice, -y, y))


def pick(dice: Dice, options: Sequence[T]) -> T:
    return options[int(dice.random() * len(options))]


def mix(a: Colour, b: Colour, t: float) -> Colour:
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def oval(centre: complex, rx: float, ry: float) -> Points:
    return centre + rx * _CIRCLE.real + 1j * (ry * _CIRCLE.imag)


def smooth(corners: Outline, rounds: int = 3) -> Points:
    """Rounds a closed outline by cutting its corners (Chaikin, 1974); a doubled corner stays sharper."""
    points = np.asarray(corners, np.complex128)
    for _ in range(rounds):
        after, cut = np.concatenate([points[1:], points[:1]]), np.empty(2 * len(points), np.complex128)
        cut[0::2], cut[1::2] = 0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after
        points = cut
    return points


_LEAF = smooth([0, 0, 0.5 - 1j, 1, 1, 0.5 + 1j], 2)


def leaf(start: complex, reach: complex, width: float) -> Points:
    """A stroke pointed at both ends; `width` is relative to its length."""
    return start + reach * (_LEAF.real + 1j * (width * _LEAF.imag))


def vary(dice: Dice, outline: Outline, by: float) -> Points:
    """Stretches an outline at random, across and along, by a factor of 1 - `by` to 1 + `by` each."""
    points = np.asarray(outline, np.complex128)
    return points.real * uniform(dice, 1 - by, 1 + by) + 1j * (points.imag * uniform(dice, 1 - by, 1 + by))


def whole(right: Outline) -> Points:
    """A closed, rounded outline from its right half, listed from top to bottom."""
    half = np.asarray(right, np.complex128)
    return smooth(np.concatenate([half, -half[::-1].conj()]))


def _both(*parts: Part) -> list[Part]:
    """Each part and its mirror image."""
    return [side for part in parts for side in (part, part._replace(points=-part.points.conj()))]


def _ears(dice: Dice, root: complex, outline: Outline, rounds: int, by: float, *, lined: bool = False) -> list[Part]:
    """Two ears of one form at `root` and its mirror image, each tilted a little by itself."""
    form, tilt, parts = smooth(vary(dice, outline, by), rounds), uniform(dice, -0.25, 0.25), []
    for side in (0, 1):
        ear = root + form * complex(1, tilt + uniform(dice, -0.1, 0.1))
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
    gaze = near(dice, 0.03, 0.02)
    for ball in (centre + gaze, gaze - centre.conjugate()):
        parts.append(Part("pupil", oval(ball, pupil, height), 0.37))
        parts.append(Part("glint", oval(ball + 0.04 - 0.06j, 0.05, 0.05), 0.38))
    return parts


def _whiskers(dice: Dice, length: float, root: complex) -> list[Part]:
    """Three whiskers on each side, from `root` outwards."""
    parts = []
    for i in (-1, 0, 1):
        start, reach = (
            root + 0.07j * i,
            complex(length * uniform(dice, 0.85, 1.1), 0.2 * i + uniform(dice, -0.12, 0.12)),
        )
        parts.append(Part("whisker", np.array([start, start + 0.5 * reach - 0.03j, start + reach]), 0.5, 0.02))
    return _both(*parts)


def cat_face(dice: Dice) -> list[Part]:
    half = vary(dice, [-0.74j, 0.5 - 0.78j, 0.92 - 0.42j, 1.05 + 0.22j, 0.76 + 0.66j, 0.36 + 0.88j, 0.86j], 0.07)
    head, wide, low = Part("head", whole(half)), float(np.max(half.real)) / 1.05, 1j * uniform(dice, 0.38, 0.46)
    if dice.random() < 0.03:  # lop ears
        lop = [-0.4 - 0.3j, -0.05 - 0.58j, 0.4 - 0.3j, 0.44 + 0.3j, 0.26 + 0.05j, 0.26 + 0.05j, -0.1 - 0.12j]
        parts = [head, *_ears(dice, 0.55 * wide - 0.46j, lop, 2, 0.1)]
    else:
        peak = [-0.42 - 0.22j, -0.16 - 0.62j, 0.26 - 1.14j, 0.26 - 1.14j, 0.4 - 0.4j, 0.4 + 0.28j]
        parts = [*_ears(dice, 0.56 * wide - 0.44j, peak, 2, 0.14, lined=True), head]
    puffs = _both(Part("muzzle", oval(low + 0.18 + 0.05j, 0.25, 0.19), 0.48))
    parts += [Part("muzzle", oval(low + 0.2j, 0.2, 0.17), 0.4), *puffs]
    if dice.random() < 0.14:
        mew = smooth(low + np.array([-0.14 + 0.14j, 0.14 + 0.14j, 0.46j]), 2)
        parts += [Part("mouth", mew, 0.5), Part("tongue", oval(low + 0.28j, 0.06, 0.07), 0.5)]
    parts += _both(Part("line", low + np.array([0.06j, 0.04 + 0.13j, 0.15 + 0.16j, 0.27 + 0.09j]), 0.5, 0.035))
    nose = smooth(low + vary(dice, [-0.15 - 0.17j, 0.15 - 0.17j, 0.02j, 0.02j], 0.12), 2)
    parts += [Part("line", low + np.array([0, 0.07j]), 0.53, 0.035), Part("nose", nose, 0.56)]
    almond = vary(dice, [-1 + 0.25j, -0.5 - 0.5j, 0.3 - 0.78j, 1 - 0.28j, 0.6 + 0.46j, -0.3 + 0.68j], 0.12)
    lens = smooth(almond * complex(0.27, -uniform(dice, 0.02, 0.13)), 2)
    eye = complex(uniform(dice, 0.4, 0.47), uniform(dice, -0.14, 0))
    parts += _eyes(dice, eye, lens, uniform(dice, 0.04, 0.12), 0.16)
    return parts + (_whiskers(dice, uniform(dice, 0.6, 0.94), low + 0.28 + 0.05j) if dice.random() < 0.9 else [])


def dog_face(dice: Dice) -> list[Part]:
    half = vary(dice, [-0.84j, 0.44 - 0.88j, 0.82 - 0.52j, 0.82 + 0.05j, 0.68 + 0.5j, 0.42 + 0.98j, 0.98j], 0.1)
    head, wide, style = Part("head", whole(half)), float(np.max(half.real)) / 0.82, dice.random()
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
    nose = 1j * uniform(dice, 0.22, 0.34)
    lip = nose + 1j * uniform(dice, 0.3, 0.38)
    if dice.random() < 0.4:
        tongue = smooth(lip + vary(dice, [-0.16, 0.16, 0.19 + 0.36j, 0.02 + 0.52j, -0.17 + 0.38j], 0.12))
        parts += [Part("mouth", oval(lip + 0.1j, 0.3, 0.24), 0.42), Part("tongue", tongue, 0.5)]
    snout = lip + 1.12 * vary(dice, [-0.62j, 0.2 - 0.58j, 0.42 - 0.32j, 0.54, 0.34 + 0.28j, 0.07j], 0.12)
    jowl = Part("line", lip + np.array([0, 0.08 + 0.08j, 0.24 + 0.1j, 0.38 - 0.02j]), 0.52, 0.04)
    parts += [Part("muzzle", whole(snout), 0.5), Part("line", np.array([nose, lip]), 0.6, 0.04), *_both(jowl)]
    if dice.random() < 0.85:  # freckles
        dots = (lip + complex(0.2 + 0.09 * i, -0.07 + 0.08 * (i % 2)) for i in range(3))
        parts += _both(*(Part("line", oval(dot, 0.025, 0.025), 0.52) for dot in dots))
    if dice.random() < 0.8:  # brows
        brow = np.array([0.2 - 0.5j, 0.32 - 0.57j, 0.48 - 0.5j]) + near(dice, 0.04, 0.05)
        parts += _both(Part("line", brow, 0.3, 0.035))
    nose_tip = smooth(nose + vary(dice, [-0.21 - 0.11j, 0.21 - 0.11j, 0.23 + 0.06j, 0.19j, -0.23 + 0.06j], 0.14))
    parts += [Part("nose", nose_tip, 0.68), Part("gloss", oval(nose - 0.05 - 0.07j, 0.1, 0.035), 0.7)]
    ball, eye = uniform(dice, 0.16, 0.2), complex(uniform(dice, 0.34, 0.42), uniform(dice, -0.26, -0.14))
    parts += _eyes(dice, eye, oval(0, ball, ball), 0.64 * ball, 0.66 * ball)
    return parts + (_whiskers(dice, uniform(dice, 0.4, 0.6), nose + 0.36 + 0.16j) if dice.random() < 0.1 else [])
