"""A recipe from start to end: data in, phases one after another, everything a RUN folder holds out."""

import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxclf import __version__
from jaxclf.checkpoint import save_checkpoint
from jaxclf.config import Phase, Preprocess, Recipe, Settings
from jaxclf.data.loader import Loader
from jaxclf.data.sources import DataSource, fingerprint
from jaxclf.data.splits import Splits, open_data, open_parts
from jaxclf.inference import evaluate
from jaxclf.loop import Progress, Row, fit
from jaxclf.models.classifier import init_variables
from jaxclf.runs import (
    CHECKPOINTS,
    ClassifierSpec,
    Run,
    append_metrics,
    check_out,
    create_run,
    write_predictions,
    write_summary,
)
from jaxclf.state import TrainState
from jaxclf.steps import make_predict_step
from jaxclf.trees import Tree, frozen_prefix, num_parameters
from jaxclf.weights.load import Pretrained, load_weights
from jaxclf.weights.state_dict import merge_variables

#: Rates of the last layer group when none is given (SGD with Nesterov momentum .9).
DEFAULT_LR = {"pretrained": 0.01, "scratch": 0.05}
#: Rates of the three layer groups relative to the last one's, for photos like ImageNet's.
LIKE_IMAGENET = (0.01, 0.1, 1.0)


class Observer:
    """What a run tells while it goes. This one is silent; the command line has one that draws progress bars."""

    def note(self, text: str) -> None:
        """A line about what was decided."""

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """Something that takes a while; the yielded function is called with (done, total)."""
        yield lambda done, total: None

    @contextlib.contextmanager
    def phase(self, phase: Phase, number: int, num_phases: int) -> Iterator[Callable[[Progress], None]]:
        """A phase of training; the yielded function is called after each step."""
        yield lambda progress: None

    def epoch(self, row: Row) -> None:
        """An epoch ended."""


def two_phase(settings: Settings, *, lr: float | None = None, epochs: int | None = None) -> Recipe:
    """Pretrained: the head on a frozen body, then everything with discriminative rates. From scratch: one phase.

    Args:
      settings: every other choice. `weights="none"` means from scratch.
      lr: rate of the last layer group; None takes `DEFAULT_LR`.
      epochs: length of the last phase as a single cosine cycle; None runs cycles of 1, 2 and 4 epochs (pretrained) or
        1, 2, 4 and 8 (scratch).
    """
    scratch = settings.weights == "none"
    rate = DEFAULT_LR["scratch" if scratch else "pretrained"] if lr is None else lr
    if rate <= 0:
        raise ValueError(f"lr={rate} must be positive")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs={epochs} must be at least 1")
    cycles: dict[str, Any] = (
        {"cycle_epochs": epochs} if epochs else {"num_cycles": 4 if scratch else 3, "cycle_mult": 2}
    )
    if scratch:
        # Nothing is pretrained, so there is nothing to freeze and no layer that deserves a lower rate.
        return Recipe(**dataclasses.asdict(settings), phases=(Phase("from scratch", lrs=(rate,) * 3, **cycles),))
    lrs = tuple(rate * factor for factor in LIKE_IMAGENET)
    head = Phase("head", lrs=lrs, frozen=frozen_prefix("stage4"), num_cycles=2)
    return Recipe(**dataclasses.asdict(settings), phases=(head, Phase("all layers", lrs=lrs, **cycles)))


def head_only(settings: Settings, *, lr: float | None = None, epochs: int | None = None) -> Recipe:
    """Only the head of a pretrained network, on a frozen body: the first phase of `two_phase`, `epochs` long (2)."""
    if settings.weights == "none":
        raise ValueError(
            "recipe 'head-only' needs pretrained weights: a frozen random body is of no use; set --weights"
        )
    phase = two_phase(settings, lr=lr).phases[0]
    return Recipe(**dataclasses.asdict(settings), phases=(dataclasses.replace(phase, num_cycles=epochs or 2),))


#: The recipes by name: (settings, lr=, epochs=) -> Recipe.
RECIPES: dict[str, Callable[..., Recipe]] = {"two-phase": two_phase, "head-only": head_only}


def resolve_precision(precision: str) -> str:
    """ "auto" is bfloat16 on GPU and TPU, float32 on CPU; anything else stays."""
    if precision != "auto":
        return precision
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


class Prepared(NamedTuple):
    """Data and network of a run, before anything is decoded or computed.

    Attributes:
      splits: the data's parts.
      spec: the network and its preprocessing.
      pretrained: the weights to start from; None from scratch.
    """

    splits: Splits
    spec: ClassifierSpec
    pretrained: Pretrained | None

    def initial_variables(self, seed: int) -> Tree:
        """The variables that training starts from: random ones by the seed, pretrained where there are weights."""
        image_size = self.spec.preprocess.image_size
        variables = init_variables(self.spec.create(), jax.random.key(seed), image_size=image_size)
        return variables if self.pretrained is None else merge_variables(variables, self.pretrained.variables)


def prepare(data: str | os.PathLike[str], settings: Settings, observer: Observer) -> Prepared:
    """Opens the data and the weights that the settings name, tells the observer what they are, and writes nothing.

    Raises:
      ValueError: naming what is wrong with the input, and the way out.
    """
    splits = open_data(data, valid_fraction=settings.valid_fraction, seed=settings.seed)
    pretrained = None if settings.weights == "none" else load_weights(settings.weights, settings.arch)
    if pretrained is None:
        preprocess = Preprocess(image_size=settings.image_size, crop_fraction=1.0)
    else:
        preprocess = dataclasses.replace(pretrained.config.preprocess, image_size=settings.image_size)
    precision = resolve_precision(settings.precision)
    spec = ClassifierSpec(settings.arch, splits.train.classes, settings.head, settings.dropout, precision, preprocess)
    _note_plan(observer, splits, spec, pretrained)
    return Prepared(splits, spec, pretrained)


def check_outside(data: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Raises ValueError if the folder `out` lies inside the data, where it would become a class."""
    if Path(data).is_dir() and Path(data).resolve() in (Path(out).resolve(), *Path(out).resolve().parents):
        raise ValueError(f"out={out} lies inside the data {data}, where it would become a class; choose another folder")


def make_loaders(splits: Splits, recipe: Recipe, preprocess: Preprocess) -> tuple[dict[bool, Loader], Loader]:
    """Training loaders, by whether the phase augments, and the validation loader."""
    common: dict[str, Any] = {
        "batch_size": recipe.batch_size,
        "image_size": recipe.image_size,
        "preprocess": preprocess,
    }
    train = {
        augmented: Loader(splits.train, train=True, seed=recipe.seed, presized=augmented, **common)
        for augmented in {phase.augment != "none" for phase in recipe.phases}
    }
    return train, Loader(splits.valid, train=False, **common)


def run_recipe(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Runs a recipe on a data set and writes the RUN folder.

    Whatever can be wrong with the input (folder, classes, weights, damaged pictures) is found before anything is
    written to `out`.

    Args:
      data: the folder of pictures, see `jaxclf.data.splits.open_data`.
      out: the RUN folder to make.
      recipe: settings and phases.
      overwrite: replace a run that `out` holds.
      observer: told what happens.

    Returns:
      What `summary.json` holds.

    Raises:
      ValueError: naming what is wrong with the input, and the way out.
    """
    observer = observer or Observer()
    started = time.perf_counter()
    if not recipe.phases:
        raise ValueError("the recipe has no phases: there is nothing to run")
    folder = check_out(out, overwrite=overwrite)
    check_outside(data, folder)
    splits, spec, pretrained = prepared = prepare(data, recipe, observer)
    preprocess = spec.preprocess
    train, valid = make_loaders(splits, recipe, preprocess)
    with observer.task("decoding", sum(len(loader.dataset) for loader in (*train.values(), valid))) as progress:
        _fill_caches([*train.values(), valid], progress)

    model = spec.create()
    variables = prepared.initial_variables(recipe.seed)
    predict_step = make_predict_step(model, preprocess=preprocess)
    create_run(folder, recipe)
    steps: list[dict[str, Any]] = []
    first_epoch = 0
    for number, phase in enumerate(recipe.phases):
        phase_started = time.perf_counter()

        def on_epoch(row: Row, state: TrainState) -> None:
            append_metrics(folder, row)
            observer.epoch(row)

        with observer.phase(phase, number, len(recipe.phases)) as on_step:
            result = fit(
                model,
                variables,
                phase,
                train[phase.augment != "none"],
                valid,
                settings=recipe,
                phase_number=number,
                first_epoch=first_epoch,
                predict_step=predict_step,
                on_step=on_step,
                on_log=lambda row: append_metrics(folder, row),
                on_epoch=on_epoch,
            )
        variables = result.state.variables
        first_epoch += phase.num_epochs
        checkpoint = f"{CHECKPOINTS}/phase{number + 1}"
        metadata = {
            "classifier": spec.to_metadata(),
            "progress": {
                "phase_number": number,
                "phase": phase.name,
                "phase_epoch": phase.num_epochs,
                "epoch": first_epoch,
                "step": int(result.state.step),
                "seed": recipe.seed,
            },
            "data": {"fingerprint": fingerprint(splits.whole), "layout": splits.layout},
        }
        save_checkpoint(folder / checkpoint, result.state, metadata)
        last = result.epochs[-1]
        seconds = time.perf_counter() - phase_started
        steps.append(
            {"name": phase.name, "seconds": seconds, "loss": last["valid_loss"], "accuracy": last["valid_accuracy"]}
        )
    assert result.predictions is not None  # there is a validation loader
    names = [splits.valid.name(int(index)) for index in result.predictions.index]
    write_predictions(folder, result.predictions, names, spec.classes)
    summary = {
        "accuracy": steps[-1]["accuracy"],
        "loss": steps[-1]["loss"],
        "num_classes": len(spec.classes),
        "classes": list(spec.classes),
        "num_train": len(splits.train),
        "num_valid": len(splits.valid),
        "seconds": time.perf_counter() - started,
        "steps": steps,
        "checkpoint": checkpoint,
        "data": {"path": str(data), "layout": splits.layout, "fingerprint": fingerprint(splits.whole)},
        "weights": pretrained.config.origin if pretrained is not None else "none (from scratch)",
        "num_parameters": num_parameters(variables["params"]),
        "precision": spec.precision,
        "hardware": f"{jax.devices()[0].device_kind} x {jax.device_count()}, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "jaxclf": __version__,
            **{name: version(name) for name in ("jax", "flax", "optax")},
        },
    }
    write_summary(folder, summary)
    return summary


def evaluation_source(run: Run, data: str | os.PathLike[str], split: str = "auto") -> tuple[DataSource, str]:
    """The examples of DATA that a run is to be judged on, and a sentence that says which they are.

    Args:
      run: the run; its classes decide the label numbers.
      data: a data folder as for `fit`.
      split: "train" or "valid" as `fit` would split the data; "all": every picture of a folder of class folders;
        "auto": the validation part, unless DATA is a plain folder of class folders the run was not trained on, which
        is taken whole.

    Raises:
      ValueError: for data that cannot be opened, or classes the run does not have.
    """
    if split not in ("auto", "train", "valid", "all"):
        raise ValueError(f"split={split!r} must be auto, train, valid or all")
    recipe = run.recipe
    whole, held_back = open_parts(data, classes=run.classes)
    if split == "all" and held_back is not None:
        raise ValueError(f"split='all' is for a folder of class folders; {data} has a validation part of its own")
    trained_on = fingerprint(whole) == run.summary["data"]["fingerprint"]
    if held_back is None and (split == "all" or (split == "auto" and not trained_on)):
        return whole, f"all {len(whole)} pictures"
    splits = open_data(data, valid_fraction=recipe.valid_fraction, seed=recipe.seed, classes=run.classes)
    part = splits.train if split == "train" else splits.valid
    kind = "training" if split == "train" else "validation"
    drawn = f", drawn from the data with seed {recipe.seed}" if held_back is None else ""
    return part, f"the {len(part)} {kind} pictures{drawn}"


def evaluate_run(run: Run, data: str | os.PathLike[str], split: str = "auto") -> dict[str, Any]:
    """Figures of a run on a data set: `loss`, `accuracy`, `num_examples`, and `examples`, which says on what."""
    source, sentence = evaluation_source(run, data, split)
    loader = Loader(
        source,
        batch_size=run.recipe.batch_size,
        image_size=run.spec.preprocess.image_size,
        train=False,
        preprocess=run.spec.preprocess,
        cache="none",
    )
    return {**evaluate(run.model, run.variables, loader, predict_step=run.predict_step), "examples": sentence}


def _fill_caches(loaders: list[Loader], progress: Callable[[int, int], None]) -> None:
    total, before = sum(len(loader.dataset) for loader in loaders), 0
    for loader in loaders:

        def advance(done: int, _: int, before: int = before) -> None:
            progress(min(before + done, total), total)

        loader.fill_cache(advance)
        before += len(loader.dataset)


def _note_plan(observer: Observer, splits: Splits, spec: ClassifierSpec, pretrained: Pretrained | None) -> None:
    counts = np.bincount(splits.train.labels, minlength=len(spec.classes))
    shown = ", ".join(f"{name} {count}" for name, count in list(zip(spec.classes, counts, strict=True))[:10])
    rest = "" if len(counts) <= 10 else f", .. ({len(counts)} classes)"
    held = "of its own" if splits.layout == "split" else "drawn from the data, stratified"
    observer.note(
        f"training on {len(splits.train)} pictures ({shown}{rest}); {len(splits.valid)} for validation, {held}"
    )
    if pretrained is None:
        observer.note(f"{spec.arch} from scratch (--weights none): nothing is frozen, all layers learn at one rate")
    else:
        observer.note(f"{spec.arch} with pretrained weights: {pretrained.config.origin}; the head is new")
