"""The compiled train steps: found by what shapes them, so that whoever needs the same one compiles it once."""

import dataclasses
import functools
from typing import Any

import optax
from jax.sharding import Mesh

from jaxclf.augment import Augment, Mix, cutmix, make_augment, mixup
from jaxclf.config import Phase, Preprocess, Settings
from jaxclf.data.activations import AnyLoader
from jaxclf.models.classifier import Classifier
from jaxclf.training.losses import Loss, make_loss
from jaxclf.training.optimizer import make_steered
from jaxclf.training.step import TrainStep, make_train_step

#: Settings that no step knows: they choose data, network, what is an argument, or what is done with the result.
OUTSIDE = (
    "arch", "weights", "image_size", "seed", "valid_fraction", "head", "dropout", "precision", "class_weights",
    "sampling", "lr_rule", "tta_views", "resize", "on_bad_image", "on_bad_valid_image", "deterministic", "cache",
    "bn_recalibrate",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StepKind:
    """All that is constant in a compiled step. Equal ones are one program per shape of batch and state.

    Attributes:
      model, preprocess: the network and what it expects.
      settings: those a step knows; the others, `OUTSIDE`, hold their defaults.
      frozen, num_groups, augment: of the phase; `augment` is None for activations.
      cut: where the activations come from; None: pictures.
      gradients: a transformation of one's own, before the optimizer.
      mesh: devices that share each batch.
    """

    model: Classifier
    preprocess: Preprocess
    settings: Settings
    frozen: tuple[str, ...]
    num_groups: int
    augment: str | None
    cut: str | None
    gradients: optax.GradientTransformation | None
    mesh: Mesh | None

    def optimizer(self) -> optax.GradientTransformationExtraArgs:
        """Its `update` is told `lrs` and `momentum`."""
        steered = make_steered(
            self.num_groups,
            optimizer=self.settings.optimizer,
            momentum=self.settings.momentum > 0,
            weight_decay=self.settings.weight_decay,
            clip_norm=self.settings.clip_norm,
        )
        return steered if self.gradients is None else optax.chain(self.gradients, steered)


def step_kind(
    model: Classifier,
    phase: Phase,
    train: AnyLoader,
    settings: Settings,
    *,
    momentum: bool,
    gradients: optax.GradientTransformation | None = None,
) -> StepKind:
    """What a phase's step is made of; `momentum`: whether there is any."""
    defaults: dict[str, Any] = {name: getattr(Settings(), name) for name in OUTSIDE}
    known = dataclasses.replace(settings, **defaults, momentum=Settings().momentum if momentum else 0.0)
    return StepKind(
        model=model,
        preprocess=train.preprocess,
        settings=known,
        frozen=phase.frozen,
        num_groups=len(phase.lrs),
        augment=phase.augment if train.cut is None else None,
        cut=train.cut,
        gradients=gradients,
        mesh=train.mesh,
    )


@functools.lru_cache(maxsize=16)
def shared_step(kind: StepKind) -> TrainStep:
    """The jitted `(state, batch, key, hyperparameters) -> (state, metrics)` of this kind."""
    return make_train_step(
        kind.model,
        kind.optimizer(),
        preprocess=kind.preprocess,
        settings=kind.settings,
        frozen=kind.frozen,
        augment=None if kind.augment is None else _augment(kind.augment, kind.preprocess),
        mix=make_mix(kind.settings) if kind.cut is None else None,
        loss=named_loss(kind.settings),
        start=kind.cut,
        mesh=kind.mesh,
    )


def _augment(name: str, preprocess: Preprocess) -> Augment:
    return make_augment(name, preprocess.image_size, shown=preprocess.shown)


def named_loss(settings: Settings, class_weights: Any = None) -> Loss:
    """The loss that the settings name."""
    gamma = settings.focal_gamma
    return make_loss(
        settings.loss, label_smoothing=settings.label_smoothing, class_weights=class_weights, focal_gamma=gamma
    )


def make_mix(settings: Settings) -> Mix | None:
    """mixup or cutmix, if the settings ask for one of them."""
    if settings.mixup > 0:
        return functools.partial(mixup, alpha=settings.mixup)
    return functools.partial(cutmix, alpha=settings.cutmix) if settings.cutmix > 0 else None
