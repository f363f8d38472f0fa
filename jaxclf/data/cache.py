"""Decode once: prepared pictures kept in memory, so that later epochs touch no file."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxclf.data.sources import DataSource, Example

#: The cache takes at most this share of the machine's memory; a larger data set is decoded anew every epoch.
MEMORY_SHARE = 0.25

#: Example.image -> uint8 [side, side, 3].
Transform = Callable[..., np.ndarray]


def physical_memory() -> int:
    """Bytes of memory in this machine; 4 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def fits_in_memory(num_examples: int, side: int) -> bool:
    """Whether `num_examples` pictures of `side` x `side` x 3 bytes stay within `MEMORY_SHARE` of the memory."""
    return num_examples * side * side * 3 <= MEMORY_SHARE * physical_memory()


class Prepared:
    """A data source whose pictures come transformed to one size, anew at every access."""

    def __init__(self, source: DataSource, transform: Transform, side: int):
        self.source = source
        self.transform = transform
        self.side = side
        self.classes = source.classes
        self.labels = source.labels
        self.multi_label = source.multi_label

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        return Example(self.transform(example.image), example.label)

    def name(self, index: int) -> str:
        return self.source.name(index)


class RamCache(Prepared):
    """`Prepared`, but each picture is transformed at its first access only and then kept as uint8.

    Two threads that ask for the same picture at once may both transform it; they write the same bytes.
    """

    def __init__(self, source: DataSource, transform: Transform, side: int):
        super().__init__(source, transform, side)
        self._images = np.empty((len(source), side, side, 3), np.uint8)
        self._filled = np.zeros(len(source), bool)

    def __getitem__(self, index: int) -> Example:
        if not self._filled[index]:
            self._images[index] = self.transform(self.source[index].image)
            self._filled[index] = True
        return Example(self._images[index], int(self.labels[index]))

    def fill(self, *, num_threads: int, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Transforms whatever is missing. `on_progress(done, total)` is called after each picture.

        Raises:
          ValueError: for the first picture, in order, that cannot be read.
        """
        with ThreadPoolExecutor(num_threads) as pool:
            jobs = [pool.submit(self.__getitem__, index) for index in range(len(self))]
            try:
                for done, job in enumerate(jobs, 1):
                    job.result()
                    if on_progress is not None:
                        on_progress(done, len(self))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
