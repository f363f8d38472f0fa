"""`jaxclf find-lr`: the learning-rate test on a folder of photos, as numbers and as a picture."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxclf.cli.arguments import DataArgument, UsageError, Work
from jaxclf.cli.settings import SettingsFlags
from jaxclf.config import Settings

#: What the command writes into its `out` folder.
CURVE, PICTURE = "lr_curve.json", "lr_curve.png"
FORMAT_VERSION = 1


def find_lr(
    data: DataArgument,
    /,
    settings: SettingsFlags,
    run: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None,
    frozen: Literal["stem", "stage1", "stage2", "stage3", "stage4"] | None = None,
    out: str | None = None,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 100,
    rule: Literal["valley", "minimum", "steep", "slide"] = "valley",
) -> Work:
    """Find a learning rate: train for a few steps at a growing rate, and read off where the loss falls best.

    Nothing is kept of that training. The rate is the last layer group's: with pretrained weights the earlier groups
    learn at 1/10 and 1/100 of it, as in fit; from scratch all learn at one rate.

    Example: jaxclf find-lr photos --arch resnet18 --weights none --image-size 96

    Args:
      data: folder of photos, as for fit; its training part is used.
      run: start from this RUN's trained network, with the settings of the run.
      frozen: do not train the layers up to and including this one; none trains all.
      out: folder for lr_curve.json and lr_curve.png, replacing older ones; none is RUN where one is given, else
        "find-lr".
      low: first rate.
      high: last rate.
      steps: number of steps, at least 20.
      rule: the rule to follow where they disagree.
    """
    return functools.partial(_find_lr, data, settings, run, frozen, out, low, high, steps, rule)


def _find_lr(
    data: str,
    settings: Settings,
    run_folder: str | None,
    frozen: str | None,
    out: str | None,
    low: float,
    high: float,
    steps: int,
    rule: str,
) -> int:
    from jaxclf.cli.terminal import Terminal
    from jaxclf.config import frozen_prefix
    from jaxclf.training import lr_finder
    from jaxclf.training.lr_curve import growing_lrs

    try:
        growing_lrs(low, high, steps)
    except ValueError as error:
        raise UsageError(str(error).replace("num_steps", "steps")) from error
    if run_folder is not None and settings != Settings():
        raise UsageError(f"run {run_folder} brings its own settings; leave the other flags away, or --run")
    terminal = Terminal()
    folder = check_folder(data, Path(out or run_folder or "find-lr"))
    model, variables, loader, settings = _start(data, settings, run_folder, terminal)
    with terminal.task("finding the rate", steps) as advance:
        curve = lr_finder.find_lr(
            model,
            variables,
            loader,
            lrs=_ratios(settings),
            frozen=frozen_prefix(frozen),
            low=low,
            high=high,
            num_steps=steps,
            settings=settings,
            on_step=lambda progress: advance(progress.step, progress.num_steps),
        )
    found = lr_finder.suggestions(curve)
    origin = {"data": data, "run": run_folder, "frozen": frozen, "settings": settings_only(settings)}
    folder.mkdir(parents=True, exist_ok=True)
    _write_curve(folder / CURVE, curve, found, rule, origin)
    _write_picture(folder / PICTURE, curve, found)
    _show(terminal, curve, found, rule)
    for name in (CURVE, PICTURE):
        terminal.note(f"wrote {folder / name}")
    return 0


def check_folder(data: str, folder: Path) -> Path:
    from jaxclf.run.prepare import check_outside

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={folder} is a file; give a folder")
    check_outside(data, folder)
    return folder


def _start(data: str, settings: Settings, run_folder: str | None, terminal: Any) -> tuple[Any, Any, Any, Settings]:
    """Network, variables, training loader and settings: as `fit` would start, or as the run ended."""
    from jaxclf.data.loader import Loader
    from jaxclf.data.splits import open_data
    from jaxclf.models import get_config
    from jaxclf.run.load import load_run
    from jaxclf.run.prepare import prepare

    if run_folder is None:
        try:
            get_config(settings.arch)
        except ValueError as error:
            raise UsageError(str(error)) from error
        prepared = prepare(data, settings, terminal)
        source, spec = prepared.splits.train, prepared.spec
        model, variables = spec.create(), prepared.initial_variables(settings.seed)
    else:
        run = load_run(run_folder)
        settings, spec, model, variables = run.recipe.settings, run.spec, run.model, run.variables
        splits = open_data(data, valid_fraction=settings.valid_fraction, seed=settings.seed, classes=run.classes)
        source = splits.train
        terminal.note(f"{spec.arch} as trained in {run_folder}, on {len(source)} training pictures")
    loader = Loader(
        source,
        batch_size=settings.batch_size,
        image_size=spec.preprocess.image_size,
        train=True,
        seed=settings.seed,
        preprocess=spec.preprocess,
    )
    with terminal.task("decoding", len(source)) as progress:
        loader.fill_cache(progress)
    return model, variables, loader, settings


def _ratios(settings: Settings) -> tuple[float, ...]:
    """Relative rates of the three layer groups, as `fit` has them."""
    from jaxclf.run.recipes import LIKE_IMAGENET

    return LIKE_IMAGENET if settings.weights != "none" else (1.0, 1.0, 1.0)


def settings_only(settings: Settings) -> dict[str, Any]:
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(Settings)}


def _write_curve(path: Path, curve: Any, found: Any, rule: str, origin: dict[str, Any]) -> None:
    from jaxclf._files import write_atomic

    content = {
        "format_version": FORMAT_VERSION,
        "rule": rule,
        "suggestions": {name: {"lr": s.lr, "reason": s.reason} for name, s in found.items()},
        **{name: value.tolist() if hasattr(value, "tolist") else value for name, value in curve._asdict().items()},
        **origin,
    }
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write_picture(path: Path, curve: Any, found: Any) -> None:
    from jaxclf.plots import plot_lr_curve, save_figure

    ax: Any = plot_lr_curve(curve, suggestions={name: suggestion.lr for name, suggestion in found.items()})
    save_figure(ax.figure, path)


def _show(terminal: Any, curve: Any, found: Any, rule: str) -> None:
    from rich.table import Table

    ended = "" if len(curve.lrs) == curve.num_steps else f" at rate {curve.lrs[-1]:.3g}" if len(curve.lrs) else ""
    terminal.note(f"{len(curve.lrs)} of {curve.num_steps} steps{ended}: {curve.reason}")
    table = Table("rule", "rate", "why")
    for name, suggestion in found.items():
        table.add_row(name, "-" if suggestion.lr is None else f"{suggestion.lr:.2g}", suggestion.reason)
    terminal.console.print(table)
    chosen = found[rule]
    if chosen.lr is None:
        terminal.note(f"rule {rule} suggests no rate: {chosen.reason}; look at the picture")
    else:
        terminal.note(f"rule {rule} suggests --lr {chosen.lr:.2g}")
