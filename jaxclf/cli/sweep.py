"""`jaxclf sweep`: which learning rate and weight decay for the head, by cross-validation on cached features."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxclf.cli.arguments import DataArgument, LeftOut, UsageError, check_arch, command, settings_without
from jaxclf.cli.find_lr import check_folder, decoded, write_results
from jaxclf.config import MAX_BATCH, Settings

#: What the command writes into its `out` folder.
TABLE, PICTURE, RIDGES = "sweep.json", "sweep.png", "ridge.png"
FORMAT_VERSION = 1
FROM_SCRATCH = "no recipe of fit trains the head alone on a body from scratch; give --weights"
#: Rows of the table on the terminal, of heads that were trained.
MAX_ROWS = 8
#: What is looked for itself, and what these heads are trained without.
UNUSED = (
    *("weight_decay", "clip_norm", "accumulate", "ema_decay", "bn_frozen", "bn_recalibrate", "sampling"),
    *("mixup", "cutmix", "lr_rule", "on_bad_valid_image", "tta_views", "threshold"),
)


@command
class Sweep:
    """Try many settings of the head at once, on features that the body computes a single time.

    The body is frozen and photos are not augmented, so this answers for training the head alone. Every setting is
    trained from each seed and for each fold, and judged on the fold it has not seen, all within the training part of
    DATA. Linear heads are also solved, which takes no rate, and judged in the same folds. The network is trained
    afterwards, by the command this prints: the head alone, since its rate is none for all layers.

    Example: jaxclf sweep photos --arch resnet10t --weights tiny-imagenet --image-size 64

    Attributes:
      data: folder of photos, as for fit; its training part is used.
      lrs: learning rates to try.
      weight_decays: to try; never on BatchNorm and biases.
      heads: kinds of head to compare; none given takes --head. Concat heads take far longer.
      seeds: how many, from --seed on.
      folds: parts of the cross-validation.
      epochs: passes over the photos, as one cosine cycle.
      patience: stop a head after so many epochs without a new lowest held-out loss; none runs to the end.
      own_order: give each seed its own order of the photos; slower, since heads then share no batches.
      out: folder for sweep.json, sweep.png and ridge.png, replacing older ones.
    """

    data: DataArgument
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes, settings_without(*UNUSED), LeftOut(UNUSED)]
    lrs: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    weight_decays: tuple[float, ...] = (0.0, 0.0001, 0.001, 0.01)
    heads: Annotated[
        tuple[Literal["linear", "pools", "concat"], ...],
        tyro.conf.arg(metavar="{linear,pools,concat} ..", help_behavior_hint="(default: none)"),
    ] = ()
    seeds: int = 3
    folds: int = 5
    epochs: int = 20
    patience: int | None = None
    own_order: bool = False
    out: str = "sweep"

    def __call__(self) -> int:
        from jaxclf._jax import enable_determinism
        from jaxclf.cli.terminal import Terminal
        from jaxclf.data.activations import ActivationDataset
        from jaxclf.data.devices import all_devices
        from jaxclf.run.prepare import prepare
        from jaxclf.training.program import make_settings_loss
        from jaxclf.training.sweep import sweep_heads
        from jaxclf.training.sweep.solved import solve_heads

        settings = self._settings
        grid, training = self._parts()
        if settings.deterministic:  # before anything is computed
            enable_determinism()
        terminal = Terminal()
        folder = check_folder(self.data, Path(self.out))
        prepared = prepare(self.data, settings, terminal)
        source, spec = prepared.splits.train, prepared.spec
        mesh = all_devices(settings.batch(len(source)))
        loader = decoded(source, settings, spec.preprocess, terminal, train=False, mesh=mesh)
        loss = make_settings_loss(settings, loader)
        with terminal.task("computing features", loader.num_examples) as progress:
            variables = prepared.initial_variables(settings.seed)
            features, labels = pooled_features(spec.create(), variables, loader, progress)
        cached = ActivationDataset(features, labels, classes=spec.classes, cut="pooled", mesh=all_devices())
        heads = len(grid.heads) * len(grid.lrs) * len(grid.weight_decays) * len(grid.seeds) * grid.num_folds
        with terminal.task("solving heads", 1) as progress:
            solved = solve_heads(cached, grid, settings, on_progress=progress)
        with terminal.task(f"training {heads} heads", 1) as progress:
            result = sweep_heads(cached, grid, dataclasses.replace(training, loss=loss), on_progress=progress)
        self._write(folder, result, solved, grid)
        _show(terminal, result, solved)
        for line in self._advice(result, solved):
            terminal.note(line)
        for name in (TABLE, PICTURE, *([RIDGES] if solved else [])):
            terminal.note(f"wrote {folder / name}")
        return 0

    @property
    def _settings(self) -> Settings:
        """The settings, with the batch size that suits heads."""
        auto = self.settings.batch_size == "auto"
        return dataclasses.replace(self.settings, batch_size=MAX_BATCH) if auto else self.settings

    def _parts(self) -> tuple[Any, Any]:
        """What is tried, and how each head is trained."""
        from jaxclf.training.sweep import HeadTraining, SweepGrid

        settings = self._settings
        check_arch(settings.arch)
        try:
            grid = SweepGrid(
                lrs=self.lrs,
                weight_decays=self.weight_decays,
                heads=self.heads or (settings.head,),
                seeds=tuple(range(settings.seed, settings.seed + max(self.seeds, 0))),
                num_folds=self.folds,
                fold_seed=settings.seed,
                dropout=settings.dropout,
            )
            training = HeadTraining(
                epochs=self.epochs,
                patience=self.patience,
                own_order=self.own_order,
                batch_size=settings.batch(0),
                optimizer=settings.optimizer,
                momentum=settings.momentum,
                order_seed=settings.seed,
            )
        except ValueError as error:
            raise UsageError(str(error).replace("num_folds=", "folds=")) from error
        return grid, training

    def _advice(self, result: Any, solved: Sequence[Any] = ()) -> list[str]:
        """How to come by the best head, solved or trained, which is another command than for all layers."""
        best, epochs = result.best_row, result.best_epochs
        optimum = min(solved, key=lambda row: row.loss, default=None)
        if optimum is not None and optimum.loss <= best.loss:
            return self._advice_solved(optimum)
        found = f"best, after {best.epochs:.3g} epochs: {best.head} head, rate {best.lr:.3g}, weight decay "
        found += f"{best.weight_decay:.3g}"
        if self.settings.weights == "none":
            return [found, FROM_SCRATCH]
        chosen: dict[str, Any] = {"head": best.head, "weight_decay": best.weight_decay}
        if best.head == "concat":
            chosen["dropout"] = 0.0  # it is the linear heads'
        settings = dataclasses.replace(self._settings, **chosen)
        own = ["--recipe", "head-only", "--lr", repr(best.lr), "--epochs", str(epochs)]
        words = ["jaxclf", "fit", self.data, "--out", str(Path(self.out) / "run"), *own, *_flags(settings)]
        early = ", whose cosine is as long as the best heads took" if epochs < self.epochs else ""
        return [
            f"{found}; a network with such a head is trained by the following{early}. The rate is the head's alone, "
            "and none for all layers: other recipes find theirs",
            f"  {shlex.join(words)}",
        ]

    def _advice_solved(self, row: Any) -> list[str]:
        found = f"best: {row.head} head, solved, ridge {row.solved.ridge:.3g}"
        if self.settings.weights == "none":
            return [found, FROM_SCRATCH]
        settings = dataclasses.replace(self.settings, head=row.head)
        words = ["jaxclf", "fit", self.data, "--out", str(Path(self.out) / "run"), "--recipe", "head-only"]
        return [
            f"{found}; a network with such a head is made by the following, which solves it again. It takes no rate, "
            "and other recipes find theirs",
            f"  {shlex.join([*words, *_flags(settings)])}",
        ]

    def _write(self, folder: Path, result: Any, solved: Sequence[Any], grid: Any) -> None:
        from jaxclf.plots import plot_ridge, plot_sweep
        from jaxclf.run.head import describe_solution

        rows = [
            {name: value if isinstance(value, str) else _plain(value) for name, value in row._asdict().items()}
            for row in result.rows
        ]
        content = {
            "format_version": FORMAT_VERSION,
            "best": result.best,
            "close": list(result.close),
            "best_epochs": result.best_epochs,
            "rows": rows,
            "solved": [
                {name: value for name, value in row._asdict().items() if name != "solved"}
                | describe_solution(row.solved)
                for row in solved
            ],
            "losses": _plain(result.losses),
            "accuracies": _plain(result.accuracies),
            "epochs_judged": result.epochs.tolist(),
            "data": self.data,
            "lrs": self.lrs,
            "weight_decays": self.weight_decays,
            "head": grid.heads,
            "seeds": grid.seeds,
            "num_folds": self.folds,
            "epochs": self.epochs,
            "patience": self.patience,
            "own_order": self.own_order,
            "settings": vars(self.settings),
        }
        pictures = {PICTURE: plot_sweep(result)}
        if solved:
            pictures[RIDGES] = plot_ridge(min(solved, key=lambda row: row.loss).solved)
        write_results(folder, {TABLE: content}, pictures)


def pooled_features(model: Any, variables: Any, loader: Any, on_progress: Any) -> tuple[Any, Any]:
    """The body's pooled activations of a loader's pictures, float32 [n, 2c], and their labels."""
    import numpy as np

    from jaxclf.inference.features import extract_features

    found = extract_features(model, variables, loader, cut="pooled", dtype="float32", on_progress=on_progress)
    return np.asarray(found.rows(np.arange(len(found)))), found.labels


def _flags(settings: Settings) -> list[str]:
    """The flags that make these settings of the defaults."""
    words: list[str] = []
    for field in dataclasses.fields(Settings):
        value = getattr(settings, field.name)
        if value != field.default:
            flag = f"--{field.name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)] if value is not False else [f"--no-{flag[2:]}"]
    return words


def _plain(values: Any) -> Any:
    """Figures as JSON holds them, which has no infinity: what diverged is null."""
    import numpy as np

    array = np.asarray(values, object)
    array[~np.isfinite(values)] = None
    return array.tolist()


def _show(terminal: Any, result: Any, solved: Sequence[Any]) -> None:
    from rich.table import Table

    table = Table("head", "rate", "weight decay", "loss", "accuracy", "epochs", "")
    lowest = min([row.loss for row in solved], default=float("inf"))
    near = result.best_row.loss + result.best_row.loss_error
    for optimum in solved:
        table.add_row(
            optimum.head,
            "solved",
            f"ridge {optimum.solved.ridge:.3g}",
            f"{optimum.loss:.4f} ± {optimum.loss_error:.4f}",
            f"{optimum.accuracy:.4f} ± {optimum.accuracy_error:.4f}",
            "",
            "best" if optimum.loss == min(lowest, result.best_row.loss) else "as good" if optimum.loss <= near else "",
        )
    best = "best trained" if lowest <= result.best_row.loss else "best"
    order = sorted(range(len(result.rows)), key=lambda number: result.rows[number].loss)
    for number in order[:MAX_ROWS]:
        row = result.rows[number]
        table.add_row(
            row.head,
            f"{row.lr:.3g}",
            f"{row.weight_decay:.3g}",
            f"{row.loss:.4f} ± {row.loss_error:.4f}",
            f"{row.accuracy:.4f} ± {row.accuracy_error:.4f}",
            f"{row.epochs:.1f}",
            best if number == result.best else "as good" if number in result.close else "",
        )
    terminal.console.print(table)
    _, seeds, folds = result.losses.shape
    terminal.note(
        f"means over {seeds} seeds and {folds} folds, ± their standard error over folds; figures of the settings, not "
        "of a finished network, and the best of many looks a little better than it is; solved heads are judged in the "
        "same folds"
    )
    others = len(result.close) - 1
    if others:
        terminal.note(f"{others} others of {len(result.rows)} settings lie within one standard error of the best")
