"""`jaxclf predict`: class and probability of any number of photos, batch by batch, in constant memory."""

import csv
import glob
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from jaxclf._progress import OnProgress, silent
from jaxclf.cli.arguments import RunArgument, UsageError, command
from jaxclf.data.folders import ImageBytes, is_image_name, open_tree
from jaxclf.run.observer import Observer

if TYPE_CHECKING:
    from jaxclf.inference.decision import Prediction
    from jaxclf.inference.export import ExportedClassifier
    from jaxclf.run.load import Run

#: Pictures that are in memory at a time, and rows of the network's batch.
BATCH_SIZE = 32
#: Augmented views beside the plain one, as in `predict_tta`.
NUM_VIEWS = 4


@command
class Predict:
    """Class and probability of photos. Any number of them takes no more memory than a few.

    Probabilities are calibrated where the run fit a temperature. Photos that cannot be read are reported and skipped,
    and make the exit code 1 at the end.

    Example: jaxclf predict runs/photos cat.jpg 'holiday/**/*.jpg' --top 3 --format csv

    Attributes:
      run: the RUN folder, or a file from `jaxclf export`.
      images: files; folders and zips, which are searched for pictures; patterns in quotes, where ** is any number of
        folders.
      top: how many classes to print per photo.
      tta: judge each photo by the mean over itself and four augmented views of it, drawn as in the run's training.
      format: how to print. Each photo is printed when its batch is done, in all three.
    """

    run: RunArgument
    images: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES", help_behavior_hint="(required)")
    ]
    top: int = 1
    tta: bool = False
    format: Literal["table", "json", "csv"] = "table"

    def __call__(self) -> int:
        if not self.images:
            raise UsageError("no images were given; name files or folders after RUN")
        if self.top < 1:
            raise UsageError(f"top={self.top} must be at least 1")
        pictures = find_pictures(self.images)
        judge = open_judge(self.run, tta=self.tta)
        bad: list[str] = []

        def on_bad(reason: str) -> None:
            bad.append(reason)
            sys.stderr.write(f"jaxclf: skipped: {reason}\n")

        with _observer().task("predicting", len(pictures)) as progress:
            judged = judge_pictures(judge, pictures, on_bad=on_bad, on_progress=progress)
            WRITERS[self.format]((name, found.label, _best(judge.classes, found, self.top)) for name, found in judged)
        if bad:
            raise ValueError(f"{len(bad)} of {len(pictures)} files could not be read (listed above)")
        return 0


def find_pictures(images: Iterable[str]) -> list[Path | ImageBytes]:
    """What is to be read, in the order it was named; folders, zips and patterns each sorted by path.

    A name is taken as it is when a file or folder of that name exists; otherwise `*`, `?`, `[..]` and `**` (any number
    of folders) make it a pattern, which matches files whose ending is a picture's. A file that is named itself need not
    exist: reading it says so.

    Raises:
      ValueError: naming the folder, zip or pattern that holds or matches no pictures.
    """
    found: list[Path | ImageBytes] = []
    for name in images:
        pictures = _named(name)
        if not pictures:
            raise ValueError(_nothing(name))
        found += pictures
    return found


def _named(name: str) -> Sequence[Path | ImageBytes]:
    path = Path(name)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        tree = open_tree(path)
        return [tree.image(inside) for inside in tree.pictures()]
    if not path.exists() and glob.has_magic(name):
        matches = map(Path, glob.iglob(name, recursive=True))
        return sorted(match for match in matches if is_image_name(match.name) and match.is_file())
    return [path]


def _nothing(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        return f"folder {path} holds no pictures"
    if path.exists():
        return f"zip {path} holds no pictures"
    return f"pattern {name!r} matches no pictures"


class Judge(NamedTuple):
    """What turns pictures into predictions: a run, a run with views, or an exported classifier.

    Attributes:
      classes: names of the classes.
      read: picture -> the uint8 arrays that `probabilities` wants of it; ValueError where it cannot be read.
      probabilities: (these arrays stacked, number of each picture, rows of the batch) -> float [n, c].
      decide: float [n, c] -> one prediction per row.
    """

    classes: tuple[str, ...]
    read: Callable[[Any], tuple[np.ndarray, ...]]
    probabilities: Callable[[tuple[np.ndarray, ...], np.ndarray, int], np.ndarray]
    decide: Callable[[np.ndarray], "Iterator[Prediction] | list[Prediction]"]


def open_judge(run: str, *, tta: bool = False) -> Judge:
    """Opens a RUN folder or an exported file.

    Raises:
      ValueError: if it is neither, or `tta` asks for views that it does not have.
    """
    from jaxclf.inference.export_file import is_export
    from jaxclf.run.load import load_run

    if not is_export(run):
        loaded = load_run(run)
        return _run_with_views(loaded) if tta else _from_pixels(loaded)
    from jaxclf.inference.export import load_exported

    if tta:
        raise UsageError(f"--tta needs a RUN folder: {run} is an exported file, which holds no augmentation")
    return _from_pixels(load_exported(run))


def _from_pixels(classifier: "Run | ExportedClassifier") -> Judge:
    return Judge(
        classifier.classes,
        lambda picture: (classifier.pixels(picture),),
        lambda images, _, batch_size: classifier.probabilities(images[0], batch_size=batch_size),
        classifier.decide,
    )


def _run_with_views(run: "Run") -> Judge:
    """The mean over the plain picture and its views, each view calibrated; a picture is decoded once for all of them.

    The draws of a picture depend on its number alone.
    """
    import jax

    from jaxclf.data.decode import evaluation_pixels, pixels, presized_pixels
    from jaxclf.inference.tta import Views, combine_views, make_view_step

    preprocess = run.spec.preprocess
    augment = run.recipe.phases[-1].augment
    if augment == "none":
        raise UsageError(f"run {run.folder} was trained without augmentation, so there are no views; leave --tta away")
    view_step = make_view_step(run.model, preprocess=preprocess, augment=augment)
    key = jax.random.key(0)

    def read(picture: Any) -> tuple[np.ndarray, ...]:
        whole = pixels(picture)
        return evaluation_pixels(whole, preprocess), presized_pixels(whole, preprocess)

    def views(images: tuple[np.ndarray, ...], numbers: np.ndarray, batch_size: int) -> np.ndarray:
        count = len(numbers)
        plain, presized, index = (_padded(array, batch_size) for array in (*images, numbers))
        logits = [run.predict_step(run.variables, plain)]
        logits += [view_step(run.variables, presized, index, key, view) for view in range(1, NUM_VIEWS + 1)]
        stacked = np.stack(jax.device_get(logits)).astype(np.float64)[:, :count] / run.temperature
        return combine_views(Views(stacked, np.full(count, -1), numbers, run.spec.multi_label)).probabilities()

    return Judge(run.classes, read, views, run.decide)


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    return np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])


def judge_pictures(
    judge: Judge,
    pictures: Sequence[Any],
    *,
    on_bad: Callable[[str], None],
    on_progress: OnProgress = silent,
) -> Iterator[tuple[str, "Prediction"]]:
    """(name, prediction) of each picture that can be read, in order. One batch of pictures is in memory at a time.

    Args:
      judge: see `open_judge`.
      pictures: paths or encoded pictures.
      on_bad: called with the reason where a picture cannot be read.
      on_progress: called with (pictures done, in all), after each batch.
    """
    from jaxclf.data.cache import default_num_threads

    rows = min(len(pictures), BATCH_SIZE)
    with ThreadPoolExecutor(default_num_threads()) as pool:
        for start in range(0, len(pictures), BATCH_SIZE):
            batch = pictures[start : start + BATCH_SIZE]
            yield from _judge_batch(judge, batch, start, rows, pool, on_bad)
            on_progress(start + len(batch), len(pictures))
            sys.stdout.flush()


def _judge_batch(
    judge: Judge,
    pictures: Sequence[Any],
    start: int,
    batch_size: int,
    pool: ThreadPoolExecutor,
    on_bad: Callable[[str], None],
) -> list[tuple[str, "Prediction"]]:
    """A batch of `judge_pictures`, whose first picture has the number `start`; its pixels end with this function."""

    def read(picture: Any) -> tuple[np.ndarray, ...] | ValueError:
        try:
            return judge.read(picture)
        except ValueError as error:
            return error

    numbers, arrays = [], []
    for number, result in enumerate(pool.map(read, pictures)):
        if isinstance(result, ValueError):
            on_bad(str(result))
        else:
            numbers.append(number)
            arrays.append(result)
    if not numbers:
        return []
    stacked = tuple(np.stack(parts) for parts in zip(*arrays, strict=True))
    found = judge.decide(judge.probabilities(stacked, np.array(numbers, np.int32) + start, batch_size))
    return [(str(pictures[number]), one) for number, one in zip(numbers, found, strict=True)]


def _observer() -> Observer:
    """Draws a bar on standard error, where that is a terminal and the results go elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        return Observer()
    from rich.console import Console

    from jaxclf.cli.terminal import Terminal

    return Terminal(Console(stderr=True))


#: File, its label (several with "|" between them), and (class, probability) of the most probable classes.
Rows = Iterator[tuple[str, str, list[tuple[str, float]]]]


def _best(classes: tuple[str, ...], prediction: "Prediction", top: int) -> list[tuple[str, float]]:
    """The `top` most probable classes; at least all those that a multi-label run gives the picture."""
    count = max(top, len(prediction.labels))
    return [(classes[i], float(prediction.probabilities[i])) for i in (-prediction.probabilities).argsort()[:count]]


def _write_table(rows: Rows) -> None:
    for file, label, best in rows:
        none = "" if label else "no label; most probable: "
        print(f"{file}  {none}" + "  ".join(f"{name} {probability:.4f}" for name, probability in best))  # noqa: T201


def _write_csv(rows: Rows) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "rank", "label", "probability"])
    for file, _, best in rows:
        for rank, (name, probability) in enumerate(best, 1):
            writer.writerow([file, rank, name, f"{probability:.6f}"])


def _write_json(rows: Rows) -> None:
    separator = "["
    for file, label, best in rows:
        top = [{"label": name, "probability": probability} for name, probability in best]
        row = {"file": file, "label": label, "probability": best[0][1], "top": top}
        print(separator + json.dumps(row), end="")  # noqa: T201
        separator = ",\n "
    print("]" if separator != "[" else "[]")  # noqa: T201


WRITERS: dict[str, Callable[[Rows], None]] = {"table": _write_table, "json": _write_json, "csv": _write_csv}
