"""`jaxclf fit`: a recipe run from start to end, or on from where it was stopped."""

import functools
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxclf.cli.arguments import DataArgument, UsageError, Work
from jaxclf.cli.settings import SettingsFlags
from jaxclf.config import Recipe, Settings


def fit(
    data: DataArgument,
    /,
    out: str,
    settings: SettingsFlags,
    recipe: str = "eight-steps",
    lr: float | None = None,
    epochs: int | None = None,
    like_imagenet: bool = False,
    unlike_imagenet: bool = False,
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ..", help_behavior_hint="(default: none)")] = (),
    plan: bool = False,
    resume: bool = False,
    checkpoint_every: float = 10.0,
    devices: int | None = None,
    distributed: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    overwrite: bool = False,
) -> Work:
    """Train a classifier on photos, and write a RUN folder.

    DATA is a folder, or a zip of one, that holds train/CLASS/* and valid/CLASS/* (or val, validation), or just
    CLASS/*: then a share of each class is held back for validation. Or a CSV file with the columns file,label[,split],
    where "|" stands between several labels (train those with --loss sigmoid). Or tfds:NAME, a prepared data set of
    tensorflow-datasets.

    With pretrained weights a rate is found, the head is trained first, then all layers at lower rates for the earlier
    ones; without, all layers at one rate. --plan shows the phases beforehand.

    Example: jaxclf fit photos --out runs/photos --arch resnet18 --weights none --image-size 96

    Args:
      data: folder, zip or CSV of photos, or tfds:NAME.
      out: the RUN folder to make.
      recipe: "eight-steps" (the head from cached activations, with augmentation, then all layers), "fine-tune"
        (fastai 2's), "head-only", "progressive" (growing image sizes), "two-phase" (no search for a rate), or the
        recipe.json of another run, which brings its own settings and phases.
      lr: learning rate of the last layer group; none finds it, or takes 0.01 (0.05 from scratch).
      epochs: length of the last phase, as one cosine cycle; none takes the recipe's cycles.
      like_imagenet: earlier layer groups learn at 1/100 and 1/10 of the rate, for photos like ImageNet's; what
        is done unless told otherwise.
      unlike_imagenet: at 1/9 and 1/3 of it, for satellite or medical pictures.
      sizes: growing image sizes of "progressive"; none takes about .43, .71 and 1 of the image size.
      plan: print the phases and stop.
      resume: go on with the run in RUN where it was killed, to the same result to the bit; begin it if there is none.
        Give the flags it was begun with, or none.
      checkpoint_every: minutes between checkpoints within a phase; the end of a cycle or phase makes one anyway.
      devices: share each batch among so many devices; none takes all. The batch size is that of all together.
      distributed: this is one of several processes of one run, as SLURM, Open MPI, a TPU pod or Kubernetes starts them;
        process 0 writes RUN, which all must see.
      coordinator: HOST:PORT of process 0, to start several processes by hand.
      num_processes: how many there are.
      process_id: which of them this is, from 0.
      overwrite: replace a run that is already in RUN.
    """
    if like_imagenet and unlike_imagenet:
        raise UsageError("give one of --like-imagenet and --unlike-imagenet, not both")
    options: dict[str, Any] = {"lr": lr, "epochs": epochs, "unlike_imagenet": unlike_imagenet}
    if sizes and recipe != "progressive":
        raise UsageError(f"sizes={sizes} are for the recipe 'progressive', not for {recipe!r}")
    options |= {"sizes": sizes} if sizes else {}
    if resume and overwrite:
        raise UsageError("give one of --resume and --overwrite: one keeps the run that is there, the other does not")
    if not checkpoint_every >= 0:
        raise UsageError(f"checkpoint_every={checkpoint_every} minutes must not be negative")
    if devices is not None and devices < 1:
        raise UsageError(f"devices={devices} must be at least 1")
    if coordinator is None and (num_processes is not None or process_id is not None):
        raise UsageError("num_processes and process_id go with --coordinator HOST:PORT")
    processes = (coordinator, num_processes, process_id) if distributed or coordinator is not None else None
    keeping = {"overwrite": overwrite, "resume": resume, "checkpoint_every": checkpoint_every, "num_devices": devices}
    return functools.partial(_fit, data, out, settings, recipe, options, plan, keeping, processes)


def _fit(
    data: str,
    out: str,
    settings: Settings,
    recipe_name: str,
    options: dict[str, Any],
    plan: bool,
    keeping: dict[str, Any],
    processes: tuple[str | None, int | None, int | None] | None,
) -> int:
    from jaxclf._jax import enable_determinism
    from jaxclf.cli.report import make_report
    from jaxclf.cli.terminal import Terminal
    from jaxclf.data.splits import open_data
    from jaxclf.run import processes as distributed
    from jaxclf.run.folder import REPORT, SUMMARY
    from jaxclf.run.observer import Observer, StopSignals
    from jaxclf.run.resume import read_request
    from jaxclf.run.run import run_recipe
    from jaxclf.training.phase_costs import phase_costs

    begun = read_request(Path(out)) if keeping["resume"] else None
    no_flags = recipe_name == "eight-steps" and settings == Settings() and not any(options.values())
    recipe = begun.recipe if begun is not None and no_flags else _recipe(recipe_name, settings, options)
    if recipe.settings.deterministic:
        enable_determinism()
    if processes is not None:
        distributed.initialize(*processes)
    terminal = Terminal()
    if plan:
        splits = open_data(data, valid_fraction=recipe.settings.valid_fraction, seed=recipe.settings.seed)
        num_classes = len(splits.train.classes)
        costs = phase_costs(recipe, len(splits.train), num_classes, num_valid=len(splits.valid))
        terminal.show_plan(recipe, costs)
        return 0
    finished = keeping["resume"] and (Path(out) / SUMMARY).is_file() and (Path(out) / REPORT).is_file()
    with StopSignals() as stop:
        observer = terminal if processes is None or distributed.is_writer() else Observer()
        summary = run_recipe(data, out, recipe, stop=stop, observer=observer, **keeping)
        if observer is not terminal:
            return 0
        terminal.show_summary(summary)
        if finished:
            return 0
        make_report(out, data, terminal, apart=processes is not None)
    terminal.show_files(out)
    return 0


def _recipe(name: str, settings: Settings, options: dict[str, Any]) -> Recipe:
    from jaxclf.config import from_json
    from jaxclf.models import get_config
    from jaxclf.run.recipes import RECIPES

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
