"""What does decoding once save? An epoch from JPEG files, from the memory cache and from the disk cache.

    python benchmarks/loader.py [PHOTOS] [--image-size 224] [--pairs 5]

PHOTOS is a folder of pictures (default: ../shared/data/photos). The loaders take turns in one run; each hands out the
same batches of 20 for training, ready for the device. The disk cache is built before, in a temporary folder.
"""

import argparse
import tempfile
import time
from pathlib import Path

from machine import describe, spread

from jaxclf.data.cache import default_num_threads
from jaxclf.data.folders import Directory
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ImageFiles

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos", nargs="?", default="../shared/data/photos", type=Path)
parser.add_argument("--image-size", type=int, default=224)
parser.add_argument("--pairs", type=int, default=5)
args = parser.parse_args()

source = ImageFiles([args.photos / path for path in Directory(args.photos).pictures()], classes=("a", "b"))
print(describe("pillow", "grain"))
print(f"{len(source)} photos, training at {args.image_size} px, {default_num_threads()} threads")


def epoch_seconds(loader: Loader, epoch: int) -> float:
    started = time.perf_counter()
    for _ in loader.epoch(epoch):
        pass
    return time.perf_counter() - started


with tempfile.TemporaryDirectory() as folder:
    common = {"batch_size": 20, "image_size": args.image_size, "train": True, "cache_dir": folder}
    loaders = {kind: Loader(source, cache=kind, **common) for kind in ("none", "memory", "disk")}
    for loader in loaders.values():
        loader.fill_cache()
        epoch_seconds(loader, 0)
    turns = [{kind: epoch_seconds(loader, turn) for kind, loader in loaders.items()} for turn in range(args.pairs)]
names = {"none": "JPEG files", "memory": "memory cache", "disk": "disk cache"}
for kind, name in names.items():
    seconds = [turn[kind] for turn in turns]
    rate = len(source) / sorted(seconds)[len(seconds) // 2]
    print(f"an epoch from {name}: {spread(seconds, 's', 4)}, {rate:.0f} images/s")
for kind in ("memory", "disk"):
    print(f"{names[kind]} over JPEG files, of each turn: {spread([t['none'] / t[kind] for t in turns], 'x', 1)}")
