"""What a run starts from: data, network, weights, loaders. Nothing is written, and whatever is wrong shows here."""

import contextlib
import dataclasses
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxclf import __version__
from jaxclf._progress import OnProgress, within
from jaxclf.config import Preprocess, Recipe, Settings
from jaxclf.data.activations import ActivationDataset
from jaxclf.data.cache import BadImage, OnBadImage, fits_in_memory
from jaxclf.data.decode import presize
from jaxclf.data.loader import CacheKind, Loader, loader_for
from jaxclf.data.sources import DataSource
from jaxclf.data.splits import Splits, open_data
from jaxclf.models.classifier import Classifier, init_variables
from jaxclf.models.trees import Tree
from jaxclf.run.checkpoints import Keeper
from jaxclf.run.load import ClassifierSpec
from jaxclf.run.observer import Observer, StopSignals
from jaxclf.weights.load import Pretrained, load_weights
from jaxclf.weights.state_dict import merge_variables

#: Evaluation and the augmented views show at most so much of a picture's shorter side, whatever the weights' own
#: fraction. Beside 1.0 the loss of the solved head falls by 5 % on one set of photos (500 of dogs and cats) and rises
#: by 1 % on another (200 of clothes); cross-validation finds it lower on both. With .87 the two are 8 % and 2.5 %.
MAX_CROP_FRACTION = 0.93


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
    settings.check_labels(splits.train.multi_label)
    pretrained = None if settings.weights == "none" else load_weights(settings.weights, settings.arch)
    preprocess = Preprocess(crop_fraction=1.0) if pretrained is None else pretrained.config.preprocess
    spec = ClassifierSpec(
        arch=settings.arch,
        classes=splits.train.classes,
        head=settings.head,
        dropout=settings.dropout,
        precision=resolve_precision(settings.precision),
        preprocess=dataclasses.replace(
            preprocess,
            image_size=settings.image_size,
            resize=settings.resize,
            crop_fraction=min(preprocess.crop_fraction, MAX_CROP_FRACTION),
        ),
        multi_label=settings.multi_label,
        threshold=settings.threshold,
    )
    _note_plan(observer, splits, spec, pretrained)
    return Prepared(splits, spec, pretrained)


def check_outside(data: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Raises ValueError if the folder `out` lies inside the data, where it would become a class."""
    if Path(data).is_dir() and Path(data).resolve() in (Path(out).resolve(), *Path(out).resolve().parents):
        raise ValueError(f"out={out} lies inside the data {data}, where it would become a class; choose another folder")


class Loaders(NamedTuple):
    """The loaders of a run.

    Attributes:
      train: the training loaders, by (image size, whether pictures are presized for augmentation).
      valid: the validation loaders, by image size.
      mesh: devices that share each batch; None: the default device.
      test: of the data's test part, if it has one.
    """

    train: dict[tuple[int, bool], Loader]
    valid: dict[int, Loader]
    mesh: Mesh | None = None
    test: Loader | None = None

    def all(self) -> list[Loader]:
        """Every loader."""
        return [*self.train.values(), *self.valid.values(), *([] if self.test is None else [self.test])]


def make_loaders(splits: Splits, recipe: Recipe, preprocess: Preprocess, mesh: Mesh | None = None) -> Loaders:
    """The loaders of the phases and of the test. Their caches share the memory: all are kept there, or all on disk."""
    settings = recipe.settings
    sizes = {phase.image_size or settings.image_size for phase in recipe.phases} | {settings.image_size}
    kinds = {(phase.image_size or settings.image_size, phase.augment != "none") for phase in recipe.phases}
    cache: CacheKind = settings.cache
    if cache == "auto":
        pixels = sum(len(splits.train) * (presize(size) if presized else size) ** 2 for size, presized in kinds)
        pixels += sum(len(splits.valid) * size**2 for size in sizes)
        pixels += 0 if splits.test is None else len(splits.test) * settings.image_size**2
        cache = "memory" if fits_in_memory(pixels, 1) else "disk"

    def make(source: DataSource, size: int, presized: bool, train: bool) -> Loader:
        at_size = dataclasses.replace(preprocess, image_size=size)
        return loader_for(source, settings, at_size, train=train, presized=presized, cache=cache, mesh=mesh)

    train = {(size, presized): make(splits.train, size, presized, True) for size, presized in sorted(kinds)}
    valid = {size: make(splits.valid, size, False, False) for size in sorted(sizes)}
    test = None if splits.test is None else make(splits.test, settings.image_size, False, False)
    return Loaders(train, valid, mesh, test)


#: What is said of an unreadable picture that is not for training.
BAD_VALID = "It is a validation picture; --on-bad-valid-image skip leaves those out too"
BAD_TEST = "It is a test picture; mend or remove it, or leave it out of the test by --on-bad-image skip"


def decode(
    loaders: Loaders, settings: Settings, on_progress: OnProgress
) -> tuple[Loaders, dict[str, tuple[BadImage, ...]]]:
    """Fills the caches: every picture is decoded once, here, those of the test part too.

    Returns:
      The loaders, without the pictures that could not be read where the settings skip them; and those pictures, of
      "train", "valid" and "test".

    Raises:
      ValueError: naming the first picture that cannot be read, where the settings do not skip it; or if none can.
    """
    total, before = sum(len(loader.dataset) for loader in loaders.all()), 0

    def fill(part: Iterable[Loader], on_bad_image: OnBadImage, hint: str = "") -> tuple[BadImage, ...]:
        nonlocal before
        found = dict[int, BadImage]()
        for loader in part:
            progress = within(on_progress, before, total)
            try:
                bad = loader.fill_cache(progress, on_bad_image=on_bad_image)
            except ValueError as error:
                if not hint:
                    raise
                raise ValueError(f"{error}. {hint}") from error
            found |= {picture.index: picture for picture in bad}
            before += len(loader.dataset)
        return tuple(found[index] for index in sorted(found))

    policy, policy_valid = settings.on_bad_image, settings.on_bad_valid_image
    bad = {
        "train": fill(loaders.train.values(), policy),
        "valid": fill(loaders.valid.values(), policy_valid, BAD_VALID if policy == "skip" else ""),
        "test": fill([] if loaders.test is None else [loaders.test], policy, BAD_TEST),
    }
    left_out = {part: [picture.index for picture in pictures] for part, pictures in bad.items()}
    train = {kind: loader.without(left_out["train"]) for kind, loader in loaders.train.items()}
    valid = {size: loader.without(left_out["valid"]) for size, loader in loaders.valid.items()}
    test = None if loaders.test is None else loaders.test.without(left_out["test"])
    _check_classes(next(iter(train.values())), bad["train"])
    return Loaders(train, valid, loaders.mesh, test), bad


def _check_classes(train: Loader, bad: tuple[BadImage, ...]) -> None:
    if not bad or train.dataset.multi_label:
        return
    classes = train.classes
    left = np.bincount(np.delete(train.dataset.labels, [picture.index for picture in bad]), minlength=len(classes))
    if (left == 0).any():
        raise ValueError(f"no picture of class {classes[int(left.argmin())]!r} can be read; the first: {bad[0].reason}")


def _note_plan(observer: Observer, splits: Splits, spec: ClassifierSpec, pretrained: Pretrained | None) -> None:
    labels = splits.train.labels
    counts = labels.sum(0).astype(int) if spec.multi_label else np.bincount(labels, minlength=len(spec.classes))
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


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What all phases of a run share.

    Attributes:
      folder, data: RUN, and DATA as it was given.
      settings: of the recipe.
      prepared: data and network.
      model: the network.
      loaders: of pictures, without those that could not be read.
      bad: these, of "train", "valid" and "test".
      keeper: writes the checkpoints.
      observer: told what happens.
      stop: signals that ask the run to end.
      started: `time.perf_counter` when the run, or the program that it is all of, began.
      known: activations of the plain pictures by key, for whoever needs them again.
    """

    folder: Path
    data: str
    settings: Settings
    prepared: Prepared
    model: Classifier
    loaders: Loaders
    bad: dict[str, tuple[BadImage, ...]]
    keeper: Keeper
    observer: Observer
    stop: StopSignals | None
    started: float
    known: dict[str, ActivationDataset] = dataclasses.field(default_factory=dict)

    def saving(self) -> contextlib.AbstractContextManager[None]:
        """While it is entered, a signal waits until whoever works asks the keeper, or to the end."""
        return contextlib.nullcontext() if self.stop is None else self.stop.deferred()


def hardware() -> str:
    """The devices a run computes on."""
    return f"{jax.devices()[0].device_kind} x {jax.device_count()}, {platform.machine()}"


def versions() -> dict[str, str]:
    """Of what decides a run's digits."""
    return {
        "python": platform.python_version(),
        "jaxclf": __version__,
        **{name: version(name) for name in ("jax", "flax", "optax")},
    }
