"""Decode once: pictures transformed to one size and kept, in memory or on disk, so that later epochs touch no file."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from jaxclf._jax import default_cache_dir
from jaxclf._progress import OnProgress, within
from jaxclf.data.array_file import ArrayFileError, ArrayOnDisk, ArrayWriter, open_array
from jaxclf.data.sources import DataSource, Example

#: Caches in memory take at most this share of the machine's memory; what does not fit goes to disk.
MEMORY_SHARE = 0.25

#: Example.image -> uint8 [side, side, 3].
Transform = Callable[..., np.ndarray]
OnBadImage = Literal["error", "skip"]
SUFFIX = ".pictures"


class BadImage(NamedTuple):
    """A picture that could not be read: its position in the source, its name, and why (with the path)."""

    index: int  # type: ignore[assignment]  # the field hides tuple.index, which nobody needs here
    name: str
    reason: str


def default_num_threads() -> int:
    """Decoder threads: one per core this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores, 1), 16)


def physical_memory() -> int:
    """Bytes of memory in this machine; 4 GiB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def fits_in_memory(num_examples: int, side: int) -> bool:
    """Whether `num_examples` pictures of `side` x `side` x 3 bytes stay within `MEMORY_SHARE` of the memory."""
    return num_examples * side * side * 3 <= MEMORY_SHARE * physical_memory()


def pictures_dir() -> Path:
    """The user's own folder for caches of pictures: `$XDG_CACHE_HOME/jaxclf/pictures`, or under `~/.cache`."""
    return default_cache_dir().parent / "pictures"


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

    def fill(
        self, *, num_threads: int, on_progress: OnProgress | None = None, on_bad_image: OnBadImage = "error"
    ) -> tuple[BadImage, ...]:
        """Transforms every picture once, to find those that cannot be read; nothing is kept. As `Loader.fill_cache`."""
        return self._each(range(len(self)), lambda index: self[index], num_threads, on_progress, on_bad_image)

    def _each(
        self,
        indices: "range | np.ndarray",
        work: Callable[[int], object],
        num_threads: int,
        on_progress: OnProgress | None,
        on_bad_image: OnBadImage,
    ) -> tuple[BadImage, ...]:
        """`work` on each; the bad pictures, in order. Those of the data set that are not among `indices` are done."""
        bad: list[BadImage] = []
        on_progress = within(on_progress, len(self) - len(indices), len(self))
        with ThreadPoolExecutor(num_threads) as pool:
            jobs = [(int(index), pool.submit(work, int(index))) for index in indices]
            try:
                for done, (index, job) in enumerate(jobs, 1):
                    try:
                        job.result()
                    except ValueError as error:
                        if on_bad_image == "error" or isinstance(error, ArrayFileError):
                            raise
                        bad.append(BadImage(index, self.name(index), str(error)))
                    on_progress(done, len(jobs))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return tuple(bad)


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
        return Example(self._images[index], self.labels[index])


class DiskCache(Prepared):
    """`Prepared`, kept in a file. Until `fill` has run, pictures are transformed at every access.

    Args:
      source, transform, side: as for `Prepared`.
      key: what the pixels depend on, see `jaxclf.data.manifest`. A file with another key is never used.
      folder: where the file is kept; default: `pictures_dir()`.
    """

    def __init__(
        self,
        source: DataSource,
        transform: Transform,
        side: int,
        *,
        key: str,
        folder: str | os.PathLike[str] | None = None,
    ):
        super().__init__(source, transform, side)
        self.key = key
        self.path = Path(folder if folder is not None else pictures_dir()) / f"{key[:32]}{SUFFIX}"
        self._rows: ArrayOnDisk | None = None

    def __getitem__(self, index: int) -> Example:
        if self._rows is None:
            return super().__getitem__(index)
        return Example(self._rows[index], self.labels[index])

    def fill(
        self, *, num_threads: int, on_progress: OnProgress | None = None, on_bad_image: OnBadImage = "error"
    ) -> tuple[BadImage, ...]:
        """Opens the file, or builds it if it is missing, stale, cut short or damaged. See `Prepared.fill`.

        A picture that cannot be read is left out with "skip"; the file is then not kept, so that a mended picture
        shows at the next run.
        """
        if self._rows is not None:
            return ()
        self._rows = open_array(self.path, self.key, on_progress)
        if self._rows is not None:
            return ()
        writer = ArrayWriter(self.path, (len(self), self.side, self.side, 3), np.uint8, self.key)

        def work(index: int) -> None:
            writer.write(index, self.transform(self.source[index].image))

        try:
            bad = self._each(writer.missing, work, num_threads, on_progress, on_bad_image)
            writer.finish(without=[picture.index for picture in bad])
        finally:
            writer.close()
        self._rows = open_array(self.path, self.key)
        if self._rows is None:
            raise ValueError(f"the cache {self.path} was damaged while it was written; remove it and try again")
        if bad:
            self.path.unlink(missing_ok=True)  # it stays readable as long as it is open
        return bad

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_rows": None, "_opened": self._rows is not None}  # a copy opens it itself

    def __setstate__(self, state: dict[str, object]) -> None:
        opened = state.pop("_opened")
        self.__dict__.update(state)
        self._rows = open_array(self.path, self.key) if opened else None
