"""How fast does a photo become presized pixels, against plain Pillow (full decode, the same resize, the same crop)?

A turn decodes all photos of a folder, or those whose shorter side is at least twice the presize, or the others, in one
thread; processor time is disturbed less than the clock by other programs. Noted is how far the pixels differ.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Run, find_folder
from PIL import Image, ImageOps

from jaxclf.config import Preprocess
from jaxclf.data.decode import crop_center, presize, presized_pixels, resize_shorter_side, to_rgb
from jaxclf.data.folders import Directory

SMOKE = {"presize": 32}


@dataclasses.dataclass(frozen=True)
class Case:
    photos: str = "all"
    presize: int = 128
    data: str = "../shared/data/photos"

    def preprocess(self) -> Preprocess:
        return Preprocess(image_size=next(size for size in range(8, 4096) if presize(size) >= self.presize))

    def paths(self) -> list[Path]:
        def is_large(path: Path) -> bool:
            with Image.open(path) as image:
                return min(image.size) >= 2 * self.presize

        wanted = {"all": (True, False), "large": (True,), "small": (False,)}[self.photos]
        folder = find_folder(self.data)
        return [path for name in Directory(folder).pictures() if is_large(path := folder / name) in wanted]


def cases() -> list[Case]:
    return [Case(), Case("large"), Case("small")]


def ours(case: Case) -> Run:
    preprocess = case.preprocess()
    pairs = [(presized_pixels(path, preprocess), pillow(path, preprocess)) for path in case.paths()]
    differences = [float(np.abs(mine.astype(int) - theirs).mean()) for mine, theirs in pairs]
    notes = {"mean difference of the pixels, of 255": sum(differences) / len(pairs), "worst photo": max(differences)}
    return dataclasses.replace(_run("jaxclf", presized_pixels, case), notes=notes)


def peer(case: Case) -> Run:
    return _run("Pillow", pillow, case)


def pillow(path: Path, preprocess: Preprocess) -> np.ndarray:
    side = presize(preprocess.image_size)
    with Image.open(path) as image:
        upright = to_rgb(ImageOps.exif_transpose(image))
    return np.asarray(crop_center(resize_shorter_side(upright, side, preprocess.interpolation), side))


def _run(name: str, function: Callable[[Path, Preprocess], np.ndarray], case: Case) -> Run:
    paths, preprocess = case.paths(), case.preprocess()

    def turn(number: int) -> None:
        for path in paths:
            function(path, preprocess)

    return Run(name, turn, items=len(paths))
