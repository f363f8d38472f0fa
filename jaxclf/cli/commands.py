"""The commands. Each function's signature and docstring are its flags and its help; each returns what to run."""

import csv
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxclf.cli.arguments import DataArgument, RunArgument, UsageError, Work, positional
from jaxclf.cli.check import check
from jaxclf.cli.find_lr import find_lr
from jaxclf.cli.report import report
from jaxclf.config import Recipe, Settings


def fit(
    data: DataArgument,
    /,
    out: str,
    settings: tyro.conf.OmitArgPrefixes[Settings] = Settings(),  # noqa: B008  # a frozen dataclass
    recipe: str = "two-phase",
    lr: float | None = None,
    epochs: int | None = None,
    plan: bool = False,
    overwrite: bool = False,
) -> Work:
    """Train a classifier on photos, and write a RUN folder.

    DATA is a folder, or a zip of one, that holds train/CLASS/* and valid/CLASS/* (or val, validation), or just
    CLASS/*: then a share of each class is held back for validation. Or a CSV file with the columns file,label[,split],
    where "|" stands between several labels (train those with --loss sigmoid). Or tfds:NAME, a prepared data set of
    tensorflow-datasets. With pretrained weights the head is trained first, then all layers at lower rates for the
    earlier ones; without, all layers at one rate.

    Example: jaxclf fit photos --out runs/photos --arch resnet18 --weights none --image-size 96

    Args:
      data: folder, zip or CSV of photos, or tfds:NAME.
      out: the RUN folder to make.
      recipe: "two-phase", "head-only", or the recipe.json of another run, which brings its own settings and phases.
      lr: learning rate of the last layer group; none takes 0.01 with pretrained weights, 0.05 without.
      epochs: length of the last phase, as one cosine cycle; none takes the recipe's cycles.
      plan: print the phases and stop.
      overwrite: replace a run that is already in RUN.
    """
    return functools.partial(_fit, data, out, settings, recipe, lr, epochs, plan, overwrite)


def _fit(
    data: str,
    out: str,
    settings: Settings,
    recipe_name: str,
    lr: float | None,
    epochs: int | None,
    plan: bool,
    overwrite: bool,
) -> int:
    from jaxclf.cli.terminal import Terminal
    from jaxclf.recipe import run_recipe

    recipe = _recipe(recipe_name, settings, lr, epochs)
    terminal = Terminal()
    if plan:
        terminal.show_plan(recipe)
        return 0
    summary = run_recipe(data, out, recipe, overwrite=overwrite, observer=terminal)
    terminal.show_summary(summary)
    terminal.show_files(out)
    return 0


def _recipe(name: str, settings: Settings, lr: float | None, epochs: int | None) -> Recipe:
    from jaxclf.config import from_json
    from jaxclf.models import get_config
    from jaxclf.recipes import RECIPES

    if name in RECIPES:
        try:
            get_config(settings.arch)
            return RECIPES[name](settings, lr=lr, epochs=epochs)
        except ValueError as error:
            raise UsageError(str(error)) from error
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"recipe={name!r} is neither a file nor one of {', '.join(RECIPES)}")
    if lr is not None or epochs is not None or settings != Settings():
        raise UsageError(f"recipe {path} brings its own settings and phases; edit the file instead of giving flags")
    try:
        return from_json(Recipe, path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"recipe {path}: {error}") from error


def evaluate(
    run: RunArgument,
    data: DataArgument,
    /,
    split: Literal["auto", "train", "valid", "all"] = "auto",
    format: Literal["table", "json"] = "table",
    on_bad_image: Literal["error", "skip"] = "error",
) -> Work:
    """Loss and accuracy of a run on labelled photos.

    On the data the run was trained on, these are the figures of its validation pictures, the same as in summary.json.

    Example: jaxclf evaluate runs/photos photos

    Args:
      run: the RUN folder.
      data: folder of photos, as for fit.
      split: which part; "auto" is the validation part, or everything where DATA is new and has none.
      format: how to print.
      on_bad_image: "skip" leaves out photos that cannot be read and lists them; the figures are then not those of the
        whole data set.
    """
    return functools.partial(_evaluate, run, data, split, format, on_bad_image)


def _evaluate(run: str, data: str, split: str, format: str, on_bad_image: Literal["error", "skip"]) -> int:
    from jaxclf.evaluation import evaluate_run
    from jaxclf.runs import load_run

    result = evaluate_run(load_run(run), data, split, on_bad_image=on_bad_image)
    for reason in result.get("skipped", ()):
        sys.stderr.write(f"jaxclf: skipped: {reason}\n")
    if format == "json":
        print(json.dumps(result))  # noqa: T201
    else:
        beta = f"  F2 {result['f_beta']:.4f}" if "f_beta" in result else ""
        skipped = f", {len(result['skipped'])} of them skipped" if "skipped" in result else ""
        print(  # noqa: T201
            f"accuracy {result['accuracy']:.4f}{beta}  loss {result['loss']:.4f}  on {result['examples']}{skipped}"
        )
    return 0


def predict(
    run: RunArgument,
    images: Annotated[tuple[str, ...], tyro.conf.Positional, positional("IMAGES")],
    /,
    top: int = 1,
    format: Literal["table", "json", "csv"] = "table",
) -> Work:
    """Class and probability of photos.

    Example: jaxclf predict runs/photos cat.jpg holiday/*.jpg --top 3 --format csv

    Args:
      run: the RUN folder.
      images: files, or folders, which are searched for pictures.
      top: how many classes to print per photo.
      format: how to print.
    """
    return functools.partial(_predict, run, images, top, format)


def _predict(run_folder: str, images: tuple[str, ...], top: int, format: str) -> int:
    from jaxclf.runs import load_run

    if not images:
        raise UsageError("no images were given; name files or folders after RUN")
    if top < 1:
        raise UsageError(f"top={top} must be at least 1")
    paths = _picture_paths(images)
    run = load_run(run_folder)
    failed: list[str] = []
    read: list[Path] = []

    def pixels() -> Iterator[Any]:
        for path in paths:
            try:
                picture = run.pixels(path)
            except ValueError as error:
                failed.append(str(error))
                sys.stderr.write(f"jaxclf: skipped: {error}\n")
                continue
            read.append(path)
            yield picture

    batch_size = 1 if len(paths) == 1 else min(run.recipe.batch_size, 32)
    predictions = run.predict_pixels(pixels(), batch_size=batch_size)
    rows = (
        (str(read[number]), prediction.label, _best(run.classes, prediction, top))
        for number, prediction in enumerate(predictions)
    )
    WRITERS[format](rows)
    if failed:
        raise ValueError(f"{len(failed)} of {len(paths)} files could not be read (listed above)")
    return 0


def _picture_paths(images: tuple[str, ...]) -> list[Path]:
    from jaxclf.data.sources import image_files

    paths: list[Path] = []
    for name in images:
        path = Path(name)
        if path.is_dir():
            found = image_files(path)
            if not found:
                raise ValueError(f"folder {path} holds no pictures")
            paths += found
        else:
            paths.append(path)
    return paths


#: File, its label (several with "|" between them), and (class, probability) of the most probable classes.
Rows = Iterator[tuple[str, str, list[tuple[str, float]]]]


def _best(classes: tuple[str, ...], prediction: Any, top: int) -> list[tuple[str, float]]:
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


def demo(out: str = "jaxclf-demo", seed: int = 0) -> Work:
    """Draw cats and dogs, train a classifier on them, and show what it learned. Needs no data and no network.

    Example: jaxclf demo --out /tmp/demo

    Args:
      out: folder for the drawings and the run; an earlier demo in it is replaced.
      seed: of the drawings and of the training.
    """
    return functools.partial(_demo, out, seed)


def _demo(out: str, seed: int) -> int:
    from jaxclf.cli.demo import run_demo

    return run_demo(Path(out), seed)


def weights() -> Work:
    """Weights by name and in files: list, show, convert, export. See `jaxclf weights --help`.

    Example: jaxclf weights list
    """
    raise UsageError("weights needs one of list, show, convert, export; see `jaxclf weights --help`")


COMMANDS: dict[str, Callable[..., Work]] = {
    "fit": fit,
    "find-lr": find_lr,
    "evaluate": evaluate,
    "predict": predict,
    "check": check,
    "report": report,
    "weights": weights,
    "demo": demo,
}
