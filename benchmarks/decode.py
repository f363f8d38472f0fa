"""How fast does a photo become presized pixels, against plain Pillow (full decode, the same resize, the same crop)?

    python benchmarks/decode.py [PHOTOS] [--presize 128] [--pairs 7]

PHOTOS is a folder of pictures (default: ../shared/data/photos). One thread, in processor time (other programs count
less than by the clock); the two take turns photo by photo, each going first every other time, since the second finds
the file in the processor's cache. Also: how far the pixels differ, and an epoch of a loader with one and with two
threads, by the clock.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import describe, spread
from PIL import Image, ImageOps

from jaxclf.config import Preprocess
from jaxclf.data.decode import crop_center, presize, presized_pixels, resize_shorter_side, to_rgb
from jaxclf.data.folders import Directory
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ImageFiles

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", nargs="?", default="../shared/data/photos", type=Path)
parser.add_argument("--presize", type=int, default=128)
parser.add_argument("--pairs", type=int, default=7)
args = parser.parse_args()

image_size = next(size for size in range(8, 4096) if presize(size) >= args.presize)
preprocess = Preprocess(image_size=image_size)
side = presize(image_size)
paths = [args.photos / path for path in Directory(args.photos).pictures()]


def ours(path: Path) -> np.ndarray:
    return presized_pixels(path, preprocess)


def pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        upright = to_rgb(ImageOps.exif_transpose(image))
    return np.asarray(crop_center(resize_shorter_side(upright, side, preprocess.interpolation), side))


def milliseconds(function: Callable[[Path], np.ndarray], path: Path) -> float:
    started = time.thread_time()
    function(path)
    return (time.thread_time() - started) * 1e3


print(describe("pillow"))
print(f"{len(paths)} photos to {side} x {side}, {preprocess.interpolation}, one thread, {args.pairs} pairs a photo")
times: dict[Path, tuple[float, float]] = {}
totals: list[tuple[float, float]] = []
samples = {path: ([], []) for path in paths}  # type: dict[Path, tuple[list[float], list[float]]]
for path in paths:
    ours(path), pillow(path)
for pair in range(args.pairs):
    for path in paths:
        for kind in (0, 1) if pair % 2 else (1, 0):
            samples[path][kind].append(milliseconds((ours, pillow)[kind], path))
times = {path: (statistics.median(mine), statistics.median(theirs)) for path, (mine, theirs) in samples.items()}
totals = [(sum(s[0][k] for s in samples.values()), sum(s[1][k] for s in samples.values())) for k in range(args.pairs)]
print(f"all photos: ours {spread([t[0] for t in totals], 'ms', 0)}, Pillow {spread([t[1] for t in totals], 'ms', 0)}")
print(f"all photos, ratio Pillow / ours of each pair: {spread([t[1] / t[0] for t in totals], 'x', 2)}")
ratios = {path: theirs / mine for path, (mine, theirs) in times.items()}
shorter = {path: min(Image.open(path).size) for path in paths}
large = [ratio for path, ratio in ratios.items() if shorter[path] >= 2 * side]
small = [ratio for path, ratio in ratios.items() if shorter[path] < 2 * side]
for name, group in (("shorter side >= 2 x presize", large), ("shorter side < 2 x presize", small)):
    if group:
        print(f"{name}: ratio per photo {spread(group, 'x', 2)}")
mine, theirs = (sum(times[path][k] for path in paths if shorter[path] >= 2 * side) for k in (0, 1))
print(f"shorter side >= 2 x presize, all together: {theirs / mine:.2f} x")
slowest = min(ratios, key=lambda path: ratios[path])
print(f"slowest beside Pillow: {slowest.name}, {Image.open(slowest).size}, {ratios[slowest]:.2f} x")
differences = [np.abs(ours(path).astype(int) - pillow(path).astype(int)).mean() for path in paths]
print(f"mean absolute difference of the pixels: {np.mean(differences):.2f} of 255 (worst photo {max(differences):.2f})")

source = ImageFiles(paths, classes=("a", "b"))
epochs: dict[int, list[float]] = {1: [], 2: []}
for _ in range(args.pairs):
    for threads, seconds in epochs.items():
        loader = Loader(source, batch_size=20, image_size=image_size, train=True, cache="none", num_threads=threads)
        started = time.perf_counter()
        list(loader.epoch(0))
        seconds.append(time.perf_counter() - started)
print(f"an epoch, 1 thread: {spread(epochs[1])}; 2 threads: {spread(epochs[2])}")
speedups = [one / two for one, two in zip(epochs[1], epochs[2], strict=True)]
print(f"2 threads over 1, of each pair: {spread(speedups, 'x', 2)}")
