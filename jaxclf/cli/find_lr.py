"""`jaxclf find-lr`: the learning-rate test on a folder of photos, as numbers and as a picture."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxclf.cli.arguments import DataArgument, LeftOut, UsageError, check_arch, command, settings_without
from jaxclf.config import Settings

#: What the command writes into its `out` folder.
CURVE, PICTURE = "lr_curve.json", "lr_curve.png"
FORMAT_VERSION = 1
#: What decides nothing here: nothing is judged, and the average follows what is trained.
UNUSED = ("on_bad_valid_image", "ema_decay", "bn_recalibrate", "tta_views", "threshold")


@command
class FindLr:
    """Find a learning rate: train for a few steps at a growing rate, and read off where the loss falls best.

    Nothing is kept of that training. The rate is the last layer group's: with pretrained weights the earlier groups
    learn at 1/10 and 1/100 of it, as in fit; from scratch all learn at one rate.

    Example: jaxclf find-lr photos --arch resnet18 --weights none --image-size 96

    Attributes:
      data: folder of photos, as for fit; its training part is used.
      run: start from this RUN's trained network, with the settings of the run.
      frozen: do not train the layers up to and including this one; none trains all.
      out: folder for lr_curve.json and lr_curve.png, replacing older ones; none is RUN where one is given, else
        "find-lr".
      low: first rate.
      high: last rate.
      steps: number of steps, at least 20.
      rule: the rule to follow where they disagree; none is that of --lr-rule, or RUN's own.
    """

    data: DataArgument
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes, settings_without(*UNUSED), LeftOut(UNUSED)]
    run: Annotated[str | None, tyro.conf.arg(metavar="RUN")] = None
    frozen: Literal["stem", "stage1", "stage2", "stage3", "stage4"] | None = None
    out: str | None = None
    low: float = 1e-6
    high: float = 10.0
    steps: int = 100
    rule: Literal["valley", "minimum", "steep", "slide", "edge"] | None = None

    def __call__(self) -> int:
        from jaxclf._jax import enable_determinism
        from jaxclf.cli.terminal import Terminal
        from jaxclf.config import frozen_prefix
        from jaxclf.run.load import load_recipe
        from jaxclf.training import lr_finder
        from jaxclf.training.lr_curve import growing_lrs

        try:
            growing_lrs(self.low, self.high, self.steps)
        except ValueError as error:
            raise UsageError(str(error).replace("num_steps", "steps")) from error
        if self.run is not None and self.settings != Settings():
            raise UsageError(f"run {self.run} brings its own settings; leave the other flags away, or --run")
        settings = self.settings if self.run is None else load_recipe(self.run).settings
        if settings.deterministic:  # before anything is computed
            enable_determinism()
        terminal = Terminal()
        folder = check_folder(self.data, Path(self.out or self.run or "find-lr"))
        model, variables, loader = self._start(settings, terminal)
        settings = settings.for_photos(loader.num_examples)
        with terminal.task("finding the rate", self.steps) as advance:
            curve = lr_finder.find_lr(
                model,
                variables,
                loader,
                lrs=_ratios(settings),
                frozen=frozen_prefix(self.frozen),
                low=self.low,
                high=self.high,
                num_steps=self.steps,
                settings=settings,
                on_progress=advance,
            )
        found = lr_finder.suggestions(curve)
        auto = "valley" if self.run is None else "edge"  # of a trained network there is no fall to look for
        rule = self.rule or (auto if settings.lr_rule == "auto" else settings.lr_rule)
        self._write(folder, curve, found, settings, rule)
        _show(terminal, curve, found, rule)
        for name in (CURVE, PICTURE):
            terminal.note(f"wrote {folder / name}")
        return 0

    def _start(self, settings: Settings, terminal: Any) -> tuple[Any, Any, Any]:
        """Network, variables and training loader: as `fit` would start, or as the run ended."""
        from jaxclf.data.splits import open_data
        from jaxclf.run.load import load_run
        from jaxclf.run.prepare import prepare

        if self.run is None:
            check_arch(settings.arch)
            prepared = prepare(self.data, settings, terminal)
            source, spec = prepared.splits.train, prepared.spec
            model, variables = spec.create(), prepared.initial_variables(settings.seed)
        else:
            run = load_run(self.run)
            spec, model, variables = run.spec, run.model, run.variables
            fraction, seed = settings.valid_fraction, settings.seed
            source = open_data(self.data, valid_fraction=fraction, seed=seed, classes=run.classes).train
            terminal.note(f"{spec.arch} as trained in {self.run}, on {len(source)} training pictures")
        return model, variables, decoded(source, settings, spec.preprocess, terminal, train=True)

    def _write(self, folder: Path, curve: Any, found: Any, settings: Settings, rule: str) -> None:
        from jaxclf.plots import plot_lr_curve

        content = {
            "format_version": FORMAT_VERSION,
            "rule": rule,
            "suggestions": {name: {"lr": s.lr, "reason": s.reason} for name, s in found.items()},
            **{name: value.tolist() if hasattr(value, "tolist") else value for name, value in curve._asdict().items()},
            "data": self.data,
            "run": self.run,
            "frozen": self.frozen,
            "settings": vars(settings),
        }
        ax = plot_lr_curve(curve, suggestions={name: suggestion.lr for name, suggestion in found.items()})
        write_results(folder, {CURVE: content}, {PICTURE: ax})


def check_folder(data: str, folder: Path) -> Path:
    """Raises ValueError if results cannot be written to the folder."""
    from jaxclf.run.prepare import check_outside

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={folder} is a file; give a folder")
    check_outside(data, folder)
    return folder


def decoded(source: Any, settings: Settings, preprocess: Any, terminal: Any, **options: Any) -> Any:
    """A `loader_for` of what can be read of a source, as the settings say; the rest is listed, or an error."""
    from jaxclf.data.loader import loader_for

    loader = loader_for(source, settings, preprocess, **options)
    with terminal.task("decoding", len(source)) as progress:
        bad = loader.fill_cache(progress, on_bad_image=settings.on_bad_image)
    for picture in bad:
        terminal.note(f"skipped: {picture.reason}")
    return loader.without([picture.index for picture in bad])


def write_results(folder: Path, contents: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Writes JSON files by their names, and the figures of axes, into a folder, which it makes."""
    from jaxclf._files import write_atomic
    from jaxclf.plots import save_figure

    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomic(folder / name, json.dumps(content, indent=1, allow_nan=False) + "\n")
    for name, ax in pictures.items():
        save_figure(ax.figure, folder / name)


def _ratios(settings: Settings) -> tuple[float, ...]:
    """Relative rates of the three layer groups, as `fit` has them."""
    from jaxclf.run.recipes import LIKE_IMAGENET

    return LIKE_IMAGENET if settings.weights != "none" else (1.0, 1.0, 1.0)


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
