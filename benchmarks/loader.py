"""What does decoding once save? An epoch from the memory or the disk cache beside one from JPEG files; and two threads.

Each epoch hands out the same batches of 20 for training, ready for the device. The caches are filled before.
"""

import dataclasses
import tempfile
from pathlib import Path

from harness import Run, find_folder

from jaxclf.data.cache import default_num_threads
from jaxclf.data.folders import Directory
from jaxclf.data.loader import CacheKind, Loader
from jaxclf.data.sources import ImageFiles

SMOKE = {"image_size": 24}


@dataclasses.dataclass(frozen=True)
class Case:
    cache: CacheKind = "memory"
    threads: int = default_num_threads()
    peer_threads: int = default_num_threads()
    image_size: int = 224
    data: str = "../shared/data/photos"


def cases() -> list[Case]:
    return [Case(), Case("disk"), Case("none", threads=2, peer_threads=1)]


def ours(case: Case) -> Run:
    return _epochs(case, case.cache, case.threads)


def peer(case: Case) -> Run:
    return _epochs(case, "none", case.peer_threads)


def _epochs(case: Case, cache: CacheKind, threads: int) -> Run:
    photos = find_folder(case.data)
    source = ImageFiles([photos / name for name in Directory(photos).pictures()], classes=("a", "b"))
    folder = tempfile.TemporaryDirectory()
    place = Path(folder.name) if cache == "disk" else cache
    loader = Loader(source, batch_size=20, image_size=case.image_size, train=True, cache=place, num_threads=threads)
    loader.fill_cache()

    def turn(number: int) -> None:
        for _ in loader.epoch(number):
            pass

    name = f"{'JPEG files' if cache == 'none' else f'{cache} cache'}, {threads} threads"
    return Run(name, turn, items=len(source), close=folder.cleanup)
