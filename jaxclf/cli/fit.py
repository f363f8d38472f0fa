"""`jaxclf fit`: a recipe run from start to end, or on from where it was stopped."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxclf.cli.arguments import DataArgument, SettingsFlags, UsageError, check_arch, command, wrong_usage
from jaxclf.cli.clock import STARTED
from jaxclf.config import Recipe, Settings


@command
class Fit:
    """Train a classifier on photos, and write a RUN folder.

    DATA is a folder, or a zip of one, that holds train/CLASS/* and valid/CLASS/* (or val, validation), or just
    CLASS/*: then a share of each class is held back for validation. Or a CSV file with the columns file,label[,split],
    where "|" stands between several labels (train those with --loss sigmoid). Or tfds:NAME, a prepared data set of
    tensorflow-datasets.

    With pretrained weights a rate is found, the head is trained first, then all layers at lower rates for the earlier
    ones; without, all layers at one rate. --plan shows the phases beforehand.

    Example: jaxclf fit photos --out runs/photos --arch resnet18 --weights none --image-size 96

    Attributes:
      data: folder, zip or CSV of photos, or tfds:NAME.
      out: the RUN folder to make.
      recipe: "eight-steps" (the head from cached activations, with augmentation, then all layers), "fine-tune"
        (fastai 2's), "head-only", "progressive" (growing image sizes), "two-phase" (no search for a rate), or the
        recipe.json of another run, which brings its own settings and phases.
      lr: learning rate of the last layer group; none finds it, or takes 0.01 (from scratch 0.05; with
        adamw 0.001).
      epochs: length of the last phase, as one cosine cycle ("progressive": at each size); none takes the recipe's
        cycles.
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

    data: DataArgument
    out: str
    settings: SettingsFlags
    recipe: str = "eight-steps"
    lr: float | None = None
    epochs: int | None = None
    like_imagenet: bool = False
    unlike_imagenet: bool = False
    sizes: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ..", help_behavior_hint="(default: none)")] = ()
    plan: bool = False
    resume: bool = False
    checkpoint_every: float = 10.0
    devices: int | None = None
    distributed: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    overwrite: bool = False

    def __call__(self) -> int:
        from jaxclf._jax import enable_determinism
        from jaxclf.cli.terminal import Terminal
        from jaxclf.run import processes
        from jaxclf.run.observer import Observer

        self._check()
        recipe = self._recipe()
        if recipe.settings.deterministic:
            enable_determinism()
        if self._several:
            processes.initialize(self.coordinator, self.num_processes, self.process_id)
        if self.plan:
            return self._show_plan(recipe)
        return self._train(recipe, Terminal() if not self._several or processes.is_writer() else Observer())

    def _check(self) -> None:
        if self.like_imagenet and self.unlike_imagenet:
            raise UsageError("give one of --like-imagenet and --unlike-imagenet, not both")
        if self.sizes and self.recipe != "progressive":
            raise UsageError(f"sizes={self.sizes} are for the recipe 'progressive', not for {self.recipe!r}")
        if self.resume and self.overwrite:
            raise UsageError("give one of --resume and --overwrite: one keeps the run that is there, one does not")
        if not self.checkpoint_every >= 0:
            raise UsageError(f"checkpoint_every={self.checkpoint_every} minutes must not be negative")
        if self.devices is not None and self.devices < 1:
            raise UsageError(f"devices={self.devices} must be at least 1")
        if self.coordinator is None and (self.num_processes is not None or self.process_id is not None):
            raise UsageError("num_processes and process_id go with --coordinator HOST:PORT")

    @property
    def _several(self) -> bool:
        """Whether this is one of several processes."""
        return self.distributed or self.coordinator is not None

    @property
    def _options(self) -> dict[str, Any]:
        """What a recipe by name takes beside the settings."""
        options: dict[str, Any] = {"lr": self.lr, "epochs": self.epochs, "unlike_imagenet": self.unlike_imagenet}
        return options | ({"sizes": self.sizes} if self.sizes else {})

    def _recipe(self) -> Recipe:
        from jaxclf.config import from_json
        from jaxclf.run.recipes import RECIPES
        from jaxclf.run.resume import read_request

        typed = [value for value in self._options.values() if value is not None and value is not False]
        flags = bool(typed) or self.settings != Settings()
        begun = read_request(Path(self.out)) if self.resume else None
        if begun is not None and self.recipe == "eight-steps" and not flags:
            return begun.recipe
        if self.recipe in RECIPES:
            check_arch(self.settings.arch)
            with wrong_usage():
                return RECIPES[self.recipe](self.settings, **self._options)
        path = Path(self.recipe)
        if not path.is_file():
            raise UsageError(f"recipe={self.recipe!r} is neither a file nor one of {', '.join(RECIPES)}")
        if flags:
            raise UsageError(f"recipe {path} brings its own settings and phases; edit the file instead of giving flags")
        try:
            return from_json(Recipe, path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"recipe {path}: {error}") from error

    def _show_plan(self, recipe: Recipe) -> int:
        from jaxclf.cli.terminal import Terminal
        from jaxclf.data.splits import open_data
        from jaxclf.training.cost import phase_costs

        splits = open_data(self.data, valid_fraction=recipe.settings.valid_fraction, seed=recipe.settings.seed)
        costs = phase_costs(recipe, len(splits.train), len(splits.train.classes), num_valid=len(splits.valid))
        Terminal().show_plan(recipe, costs)
        return 0

    def _train(self, recipe: Recipe, observer: Any) -> int:
        from jaxclf.cli.report import make_report
        from jaxclf.cli.terminal import Terminal
        from jaxclf.run.folder import REPORT, SUMMARY
        from jaxclf.run.observer import StopSignals
        from jaxclf.run.run import run_recipe

        finished = self.resume and (Path(self.out) / SUMMARY).is_file() and (Path(self.out) / REPORT).is_file()
        with StopSignals() as stop:
            summary = run_recipe(
                self.data,
                self.out,
                recipe,
                overwrite=self.overwrite,
                resume=self.resume,
                checkpoint_every=self.checkpoint_every,
                num_devices=self.devices,
                stop=stop,
                observer=observer,
                started=STARTED,
            )
            if not isinstance(observer, Terminal):
                return 0
            observer.show_summary(summary)
            if finished:
                return 0
            make_report(self.out, self.data, observer, apart=self._several)
        observer.show_files(self.out)
        return 0
