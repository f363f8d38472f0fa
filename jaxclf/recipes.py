"""The recipes by name: from settings, a rate and a length to the phases of a run."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxclf.config import Phase, Recipe, Settings
from jaxclf.trees import frozen_prefix

#: Rates of the last layer group when none is given (SGD with Nesterov momentum .9).
DEFAULT_LR = {"pretrained": 0.01, "scratch": 0.05}
#: Rates of the three layer groups relative to the last one's, for photos like ImageNet's.
LIKE_IMAGENET = (0.01, 0.1, 1.0)


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
