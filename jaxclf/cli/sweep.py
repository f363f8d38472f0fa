"""`jaxclf sweep`: which learning rate and weight decay for the head, by cross-validation on cached features."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxclf.cli.arguments import DataArgument, UsageError, Work
from jaxclf.cli.find_lr import check_folder, settings_only
from jaxclf.cli.settings import SettingsFlags
from jaxclf.config import Settings

#: What the command writes into its `out` folder.
TABLE, PICTURE = "sweep.json", "sweep.png"
FORMAT_VERSION = 1
#: Rows of the table on the terminal.
MAX_ROWS = 8


def sweep(
    data: DataArgument,
    /,
    settings: SettingsFlags,
    lrs: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1),
    weight_decays: tuple[float, ...] = (0.0, 0.0001, 0.001, 0.01),
    heads: Annotated[
        tuple[Literal["linear", "concat"], ...],
        tyro.conf.arg(metavar="{linear,concat} ..", help_behavior_hint="(default: none)"),
    ] = (),
    seeds: int = 3,
    folds: int = 5,
    epochs: int = 20,
    patience: int | None = None,
    own_order: bool = False,
    out: str = "sweep",
) -> Work:
    """Try many settings of the head at once, on features that the body computes a single time.

    The body is frozen and photos are not augmented, so this answers for training the head alone. Every setting is
    trained from each seed and for each fold, and judged on the fold it has not seen, all within the training part of
    DATA. The network is trained afterwards, with fit, by the numbers this prints.

    Example: jaxclf sweep photos --arch resnet10t --weights tiny-imagenet --image-size 64

    Args:
      data: folder of photos, as for fit; its training part is used.
      lrs: learning rates to try.
      weight_decays: to try; never on BatchNorm and biases.
      heads: kinds of head to compare; none given takes --head. Concat heads take far longer.
      seeds: how many, from --seed on.
      folds: parts of the cross-validation.
      epochs: passes over the photos, as one cosine cycle.
      patience: stop a head after so many epochs without a new lowest held-out loss; none runs to the end.
      own_order: give each seed its own order of the photos; slower, since heads then share no batches.
      out: folder for sweep.json and sweep.png, replacing older ones.
    """
    options: dict[str, Any] = {
        "lrs": lrs,
        "weight_decays": weight_decays,
        "head": heads or (settings.head,),
        "seeds": tuple(range(settings.seed, settings.seed + max(seeds, 0))),
        "num_folds": folds,
        "epochs": epochs,
        "patience": patience,
        "own_order": own_order,
    }
    return functools.partial(_sweep, data, settings, options, out)


def _sweep(data: str, settings: Settings, options: dict[str, Any], out: str) -> int:
    from jaxclf.cli.terminal import Terminal
    from jaxclf.data.activations import ActivationDataset
    from jaxclf.data.devices import all_devices
    from jaxclf.models import get_config
    from jaxclf.run.prepare import prepare
    from jaxclf.training.sweep import HeadTraining, SweepGrid, sweep_heads

    if settings.weight_decay:
        raise UsageError("weight_decay is what is looked for; give --weight-decays to try")
    swept = {name: options[name] for name in ("lrs", "weight_decays", "seeds", "num_folds")}
    try:
        get_config(settings.arch)
        grid = SweepGrid(heads=options["head"], **swept, fold_seed=settings.seed, dropout=settings.dropout)
        training = HeadTraining(
            **{name: options[name] for name in ("epochs", "patience", "own_order")},
            batch_size=settings.batch_size,
            optimizer=settings.optimizer,
            momentum=settings.momentum,
            order_seed=settings.seed,
        )
    except ValueError as error:
        raise UsageError(str(error).replace("num_folds=", "folds=")) from error
    terminal = Terminal()
    folder = check_folder(data, Path(out))
    prepared = prepare(data, settings, terminal)
    features, labels, loss = _features(prepared, settings, terminal)
    data_set = ActivationDataset(features, labels, classes=prepared.spec.classes, cut="pooled", mesh=all_devices())
    heads = len(grid.heads) * len(grid.lrs) * len(grid.weight_decays) * len(grid.seeds) * grid.num_folds
    with terminal.task(f"training {heads} heads", 1) as advance:
        result = sweep_heads(data_set, grid, dataclasses.replace(training, loss=loss), on_progress=advance)
    folder.mkdir(parents=True, exist_ok=True)
    _write_table(folder / TABLE, result, {"data": data, **options, "settings": settings_only(settings)})
    _write_picture(folder / PICTURE, result)
    _show(terminal, result)
    for name in (TABLE, PICTURE):
        terminal.note(f"wrote {folder / name}")
    return 0


def _features(prepared: Any, settings: Settings, terminal: Any) -> tuple[Any, Any, Any]:
    """Pooled features float32 [n, 2c] and labels of the training pictures, and the loss that the settings name."""
    from jaxclf.data.devices import all_devices
    from jaxclf.data.loader import Loader
    from jaxclf.training.program import make_settings_loss

    loader = Loader(
        prepared.splits.train,
        batch_size=settings.batch_size,
        image_size=prepared.spec.preprocess.image_size,
        train=False,
        preprocess=prepared.spec.preprocess,
        cache=settings.cache,
        mesh=all_devices(settings.batch_size),
    )
    with terminal.task("decoding", len(loader.dataset)) as progress:
        bad = loader.fill_cache(progress, on_bad_image=settings.on_bad_image)
    loss = make_settings_loss(settings, loader)
    loader = loader.without([picture.index for picture in bad])
    for picture in bad:
        terminal.note(f"skipped: {picture.reason}")
    with terminal.task("computing features", loader.num_examples) as progress:
        features, labels = pooled_features(
            prepared.spec.create(), prepared.initial_variables(settings.seed), loader, progress
        )
    return features, labels, loss


def pooled_features(model: Any, variables: Any, loader: Any, on_progress: Any) -> tuple[Any, Any]:
    """The body's pooled activations of a loader's pictures, float32 [n, 2c], and their labels."""
    import numpy as np

    from jaxclf.inference.features import extract_features

    found = extract_features(model, variables, loader, cut="pooled", dtype="float32", on_progress=on_progress)
    return np.asarray(found.rows(np.arange(len(found)))), found.labels


def _write_table(path: Path, result: Any, origin: dict[str, Any]) -> None:
    import numpy as np

    from jaxclf._files import write_atomic

    def plain(values: Any) -> Any:
        """JSON has no infinity: what diverged is null."""
        array = np.asarray(values, object)
        array[~np.isfinite(values)] = None
        return array.tolist()

    rows = [
        {name: value if isinstance(value, str) else plain(value) for name, value in row._asdict().items()}
        for row in result.rows
    ]
    content = {
        "format_version": FORMAT_VERSION,
        "best": result.best,
        "close": list(result.close),
        "best_epochs": result.best_epochs,
        "rows": rows,
        "losses": plain(result.losses),
        "accuracies": plain(result.accuracies),
        "epochs_judged": result.epochs.tolist(),
        **origin,
    }
    write_atomic(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _write_picture(path: Path, result: Any) -> None:
    from jaxclf.plots import plot_sweep, save_figure

    ax: Any = plot_sweep(result)
    save_figure(ax.figure, path)


def _show(terminal: Any, result: Any) -> None:
    from rich.table import Table

    table = Table("head", "rate", "weight decay", "loss", "accuracy", "epochs", "")
    order = sorted(range(len(result.rows)), key=lambda number: result.rows[number].loss)
    for number in order[:MAX_ROWS]:
        row = result.rows[number]
        what = "best" if number == result.best else "as good" if number in result.close else ""
        table.add_row(
            row.head,
            f"{row.lr:.3g}",
            f"{row.weight_decay:.3g}",
            f"{row.loss:.4f} ± {row.loss_error:.4f}",
            f"{row.accuracy:.4f} ± {row.accuracy_error:.4f}",
            f"{row.epochs:.1f}",
            what,
        )
    terminal.console.print(table)
    _, seeds, folds = result.losses.shape
    terminal.note(
        f"means over {seeds} seeds and {folds} folds, ± their standard error over folds; figures of the settings, not "
        "of a finished network, and the best of many looks a little better than it is"
    )
    others = len(result.close) - 1
    if others:
        terminal.note(f"{others} others of {len(result.rows)} settings lie within one standard error of the best")
    best = result.best_row
    terminal.note(
        f"best, after {best.epochs:.3g} epochs: fit with --head {best.head} --lr {best.lr:.3g} --weight-decay "
        f"{best.weight_decay:.3g}"
    )
