"""The commands. Each function's signature and docstring are its flags and its help; each returns what to run."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from jaxclf.cli.arguments import DataArgument, RunArgument, UsageError, Work
from jaxclf.cli.check import check
from jaxclf.cli.cost import cost
from jaxclf.cli.export import export
from jaxclf.cli.find_lr import find_lr
from jaxclf.cli.predict import predict
from jaxclf.cli.report import report
from jaxclf.cli.sweep import sweep
from jaxclf.config import Recipe, Settings


def fit(
    data: DataArgument,
    /,
    out: str,
    settings: tyro.conf.OmitArgPrefixes[Settings] = Settings(),  # noqa: B008  # a frozen dataclass
    recipe: str = "eight-steps",
    lr: float | None = None,
    epochs: int | None = None,
    like_imagenet: bool = False,
    unlike_imagenet: bool = False,
    sizes: tuple[int, ...] = (),
    plan: bool = False,
    overwrite: bool = False,
) -> Work:
    """Train a classifier on photos, and write a RUN folder.

    DATA is a folder, or a zip of one, that holds train/CLASS/* and valid/CLASS/* (or val, validation), or just
    CLASS/*: then a share of each class is held back for validation. Or a CSV file with the columns file,label[,split],
    where "|" stands between several labels (train those with --loss sigmoid). Or tfds:NAME, a prepared data set of
    tensorflow-datasets. With pretrained weights a rate is found, the head is trained first, then all layers at lower
    rates for the earlier ones; without, all layers at one rate.

    Example: jaxclf fit photos --out runs/photos --arch resnet18 --weights none --image-size 96

    Args:
      data: folder, zip or CSV of photos, or tfds:NAME.
      out: the RUN folder to make.
      recipe: "eight-steps" (the head from cached activations, with augmentation, then all layers), "fine-tune"
        (fastai 2's), "head-only", "progressive" (growing image sizes), "two-phase" (no search for a rate), or the
        recipe.json of another run, which brings its own settings and phases.
      lr: learning rate of the last layer group; none finds it, or takes 0.01 (0.05 from scratch).
      epochs: length of the last phase, as one cosine cycle; none takes the recipe's cycles.
      like_imagenet: earlier layer groups learn at 1/100 and 1/10 of the rate, for photos like ImageNet's (default).
      unlike_imagenet: at 1/9 and 1/3 of it, for satellite or medical pictures.
      sizes: growing image sizes of "progressive"; none takes about .43, .71 and 1 of the image size.
      plan: print the phases and stop.
      overwrite: replace a run that is already in RUN.
    """
    if like_imagenet and unlike_imagenet:
        raise UsageError("give one of --like-imagenet and --unlike-imagenet, not both")
    options: dict[str, Any] = {"lr": lr, "epochs": epochs, "unlike_imagenet": unlike_imagenet}
    if sizes and recipe != "progressive":
        raise UsageError(f"sizes={sizes} are for the recipe 'progressive', not for {recipe!r}")
    options |= {"sizes": sizes} if sizes else {}
    return functools.partial(_fit, data, out, settings, recipe, options, plan, overwrite)


def _fit(
    data: str,
    out: str,
    settings: Settings,
    recipe_name: str,
    options: dict[str, Any],
    plan: bool,
    overwrite: bool,
) -> int:
    from jaxclf.cli.terminal import Terminal
    from jaxclf.recipe import run_recipe
    from jaxclf.report import write_report

    recipe = _recipe(recipe_name, settings, options)
    terminal = Terminal()
    if plan:
        terminal.show_plan(recipe)
        return 0
    summary = run_recipe(data, out, recipe, overwrite=overwrite, observer=terminal)
    terminal.show_summary(summary)
    write_report(out, data=data)
    terminal.show_files(out)
    return 0


def _recipe(name: str, settings: Settings, options: dict[str, Any]) -> Recipe:
    from jaxclf.config import from_json
    from jaxclf.models import get_config
    from jaxclf.recipes import RECIPES

    if name in RECIPES:
        try:
            get_config(settings.arch)
            return RECIPES[name](settings, **options)
        except ValueError as error:
            raise UsageError(str(error)) from error
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"recipe={name!r} is neither a file nor one of {', '.join(RECIPES)}")
    if any(options.values()) or settings != Settings():
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
    "sweep": sweep,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "check": check,
    "cost": cost,
    "report": report,
    "weights": weights,
    "demo": demo,
}
