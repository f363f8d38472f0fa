"""The recipes by name: from settings, a rate and a length to the phases of a run."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from jaxclf.config import Phase, Recipe, Settings, frozen_prefix

#: Rates of the last layer group by optimizer and start, see `default_lr`. AdamW divides each gradient by its own size:
#: its rate is about the step that a parameter takes, smaller than SGD's, and the same where gradients are larger, as
#: they are from scratch.
DEFAULT_LR = {
    "sgd": {"pretrained": 0.01, "scratch": 0.05, "solved": 0.003},
    "adamw": {"pretrained": 0.001, "scratch": 0.001, "solved": 0.0003},
}
#: Rates of the three layer groups relative to the last one's, for photos like ImageNet's, and unlike them.
LIKE_IMAGENET = (0.01, 0.1, 1.0)
UNLIKE_IMAGENET = (1 / 9, 1 / 3, 1.0)
#: After a solved head, which is at its optimum and has no start to make up for, the last two groups share a rate.
LIKE_IMAGENET_SOLVED = (0.1, 1.0, 1.0)
UNLIKE_IMAGENET_SOLVED = (1 / 3, 1.0, 1.0)
BODY = frozen_prefix("stage4")
#: The phases of "eight-steps" by name, and which of fast.ai's steps each does.
EIGHT_STEPS: dict[str, tuple[int, ...]] = {
    "head, precomputed": (1, 2, 3),
    "head, augmented": (4,),
    "all layers": (5, 6, 7, 8),
}
#: Rows of each picture in the bank that the second step solves: the plain one and augmented ones.
BANK_VIEWS = 3


def default_lr(settings: Settings, *, solved: bool = False) -> float:
    """The rate of the last layer group where none is given and none is found; `solved`: its head is at its optimum."""
    start = "scratch" if settings.weights == "none" else "solved" if solved else "pretrained"
    return DEFAULT_LR[settings.optimizer][start]


def eight_steps(
    settings: Settings, *, lr: float | None = None, epochs: int | None = None, unlike_imagenet: bool = False
) -> Recipe:
    """fast.ai's lesson 2: find a rate; the head from cached activations; the head with augmentation; then all layers.

    The steps by number: augmentation on, and precompute (1); find a rate (2); the head from precomputed activations,
    2 epochs (3), and with augmentation, 3 epochs (4); unfreeze (5), earlier layers at lower rates (6); find a rate
    again (7); cycles of 1, 2 and 4 epochs of all layers, whose end is used if it is better than the heads (8).
    Without pretrained weights there is nothing to freeze: one phase at one rate.

    Args:
      settings: every other choice. `weights="none"` means from scratch.
      lr: rate of the last layer group; None finds it.
      epochs: length of the last phase as a single cosine cycle; None takes cycles of 1, 2 and 4 epochs.
      unlike_imagenet: of three layer groups the first learns at 1/3 of the last one's rate (satellite or medical
        pictures), and not at 1/10. With a head that cannot be solved they learn at 1/9, 1/3 and 1, and not at 1/100,
        1/10 and 1: a head from nothing needs higher rates than what lies below it, one at its optimum does not.
    """
    if settings.weights == "none":
        return two_phase(settings, lr=lr, epochs=epochs)
    rates = _rates(_ratios(settings, unlike_imagenet), lr)
    precomputed, augmented, everything = EIGHT_STEPS
    if can_solve(settings):
        heads = (_solved(precomputed), _solved(augmented, num_views=BANK_VIEWS, augment="side_on"))
    else:
        again = rates if lr is not None else rates | {"lr_from": "previous"}
        heads = (
            Phase(precomputed, frozen=BODY, augment="none", cut="pooled", num_cycles=2, **rates),
            Phase(augmented, frozen=BODY, num_cycles=3, **again),
        )
    last = Phase(everything, **_cycles(epochs, 3), **rates)
    return Recipe(settings, (*heads, last))


def can_solve(settings: Settings) -> bool:
    """Whether a head with these settings is a convex problem, and solved: `jaxclf.solve_head`."""
    return settings.head != "concat" and settings.loss in ("softmax", "sigmoid")


def _solved(name: str, **bank: Any) -> Phase:
    """The phase of a head that is solved on cached activations."""
    return Phase(name, lrs=(0.0,), frozen=BODY, cut="pooled", solve=True, **({"augment": "none"} | bank))


def _head_at(size: int, settings: Settings, rates: dict[str, Any]) -> Phase:
    """The head at an image size of progressive resizing, solved where that can be."""
    name = f"head at {size}"
    if can_solve(settings):
        return _solved(name, image_size=size, num_views=BANK_VIEWS, augment="side_on")
    return Phase(name, frozen=BODY, image_size=size, **rates)


def fine_tune(
    settings: Settings, *, lr: float | None = None, epochs: int | None = None, unlike_imagenet: bool = False
) -> Recipe:
    """fastai 2's fine_tune: the head for one epoch, then all layers for `epochs` (3) in one cycle, at half the rate.

    The first phase rises over 99 % of its steps; the second starts at a fifth of its rate and rises over 30 %. The
    layer groups' rates are spread geometrically from 1/100 of the last one's (`unlike_imagenet`: from 1/9).
    """
    if settings.weights == "none":
        raise ValueError("recipe 'fine-tune' needs pretrained weights; set --weights, or take --recipe eight-steps")
    rate = _positive(default_lr(settings) if lr is None else lr)
    ratios = UNLIKE_IMAGENET if unlike_imagenet else LIKE_IMAGENET
    head, all_layers = (tuple(peak * ratio for ratio in ratios) for peak in (rate, rate / 2))
    phases = (
        Phase("head", lrs=head, frozen=BODY, schedule="one_cycle", pct_start=0.99),
        Phase("all layers", all_layers, cycle_epochs=_length(epochs, 3), schedule="one_cycle", pct_start=0.3, div=5.0),
    )
    return Recipe(settings, phases)


def head_only(
    settings: Settings, *, lr: float | None = None, epochs: int | None = None, unlike_imagenet: bool = False
) -> Recipe:
    """Only the head of a pretrained network, from activations that are computed once: steps 1 to 3 of `eight_steps`.

    It is solved. With a rate or a number of epochs, and where it cannot be solved, it is trained: along one cosine over
    `epochs`; None takes two cycles of one epoch.
    """
    if settings.weights == "none":
        raise ValueError(
            "recipe 'head-only' needs pretrained weights: a frozen random body is of no use; set --weights"
        )
    if can_solve(settings) and lr is None and epochs is None:
        return Recipe(settings, (_solved("head, precomputed"),))
    rates = _rates(UNLIKE_IMAGENET if unlike_imagenet else LIKE_IMAGENET, lr)
    cycles: dict[str, Any] = {"num_cycles": 2} if epochs is None else {"cycle_epochs": _length(epochs, 1)}
    phase = Phase("head, precomputed", frozen=BODY, augment="none", cut="pooled", **cycles, **rates)
    return Recipe(settings, (phase,))


def progressive(
    settings: Settings,
    *,
    lr: float | None = None,
    epochs: int | None = None,
    unlike_imagenet: bool = False,
    sizes: tuple[int, ...] = (),
) -> Recipe:
    """Progressive resizing: at each size the head, then all layers, with the parameters of the size before.

    Args:
      settings, lr, unlike_imagenet: as for `eight_steps`.
      epochs: of all layers at each size (2).
      sizes: growing, in pixels; default: about .43, .71 and 1 of the settings' image size (96, 160, 224).
    """
    smaller = (max(round(settings.image_size * share / 32) * 32, 32) for share in (0.43, 0.71))
    sizes = sizes or (*smaller, settings.image_size)
    if any(later <= earlier for earlier, later in itertools.pairwise(sizes)):
        raise ValueError(f"sizes={sizes} must grow")
    ratios = (1.0, 1.0, 1.0) if settings.weights == "none" else _ratios(settings, unlike_imagenet)
    rates, phases = _rates(ratios, lr), list[Phase]()
    for size in sizes:
        if settings.weights != "none":
            phases.append(_head_at(size, settings, rates))
        trained = bool(phases) and not phases[-1].solve
        rates = rates | {"lr_from": "previous"} if lr is None and trained else rates
        phases.append(
            Phase(f"all layers at {size}", cycle_epochs=_length(epochs, 2), image_size=size, keep_best=True, **rates)
        )
        rates = rates if lr is not None else rates | {"lr_from": "previous"}
    # What is evaluated and predicted afterwards is the last size.
    return Recipe(dataclasses.replace(settings, image_size=sizes[-1]), tuple(phases))


def two_phase(
    settings: Settings, *, lr: float | None = None, epochs: int | None = None, unlike_imagenet: bool = False
) -> Recipe:
    """Pretrained: the head on a frozen body, then everything with discriminative rates. From scratch: one phase.

    Args:
      settings: every other choice. `weights="none"` means from scratch.
      lr: rate of the last layer group; None takes `default_lr`.
      epochs: length of the last phase as a single cosine cycle; None runs cycles of 1, 2 and 4 epochs (pretrained) or
        1, 2, 4 and 8 (scratch).
      unlike_imagenet: as for `eight_steps`.
    """
    scratch = settings.weights == "none"
    rate = _positive(default_lr(settings) if lr is None else lr)
    if scratch:
        # Nothing is pretrained, so there is nothing to freeze and no layer that deserves a lower rate.
        return Recipe(settings, (Phase("from scratch", lrs=(rate,) * 3, **_cycles(epochs, 4)),))
    lrs = tuple(rate * factor for factor in (UNLIKE_IMAGENET if unlike_imagenet else LIKE_IMAGENET))
    head = Phase("head", lrs=lrs, frozen=BODY, num_cycles=2)
    return Recipe(settings, (head, Phase("all layers", lrs=lrs, **_cycles(epochs, 3))))


def _ratios(settings: Settings, unlike_imagenet: bool) -> tuple[float, ...]:
    """The rates of all layers relative to the last group's, after a head that was trained or solved."""
    if can_solve(settings):
        return UNLIKE_IMAGENET_SOLVED if unlike_imagenet else LIKE_IMAGENET_SOLVED
    return UNLIKE_IMAGENET if unlike_imagenet else LIKE_IMAGENET


def _rates(ratios: tuple[float, ...], lr: float | None) -> dict[str, Any]:
    """A phase's `lrs` and `lr_from`: by the rate that was given, or still to be found."""
    if lr is None:
        return {"lrs": ratios, "lr_from": "find"}
    return {"lrs": tuple(_positive(lr) * ratio for ratio in ratios)}


def _cycles(epochs: int | None, num_cycles: int) -> dict[str, Any]:
    """One cycle of so many epochs; without a number, cycles of 1, 2, 4, .. epochs."""
    return {"num_cycles": num_cycles, "cycle_mult": 2} if epochs is None else {"cycle_epochs": _length(epochs, 1)}


def _length(epochs: int | None, default: int) -> int:
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs={epochs} must be at least 1")
    return default if epochs is None else epochs


def _positive(lr: float) -> float:
    if lr <= 0:
        raise ValueError(f"lr={lr} must be positive")
    return lr


#: The recipes by name: (settings, lr=, epochs=, unlike_imagenet=) -> Recipe.
RECIPES: dict[str, Callable[..., Recipe]] = {
    "eight-steps": eight_steps,
    "fine-tune": fine_tune,
    "head-only": head_only,
    "progressive": progressive,
    "two-phase": two_phase,
}
