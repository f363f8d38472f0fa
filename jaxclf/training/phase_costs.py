"""What the phases of a recipe will cost, before data or weights are opened: their FLOPs, counted in full epochs."""

import functools
from typing import NamedTuple

from jaxclf.config import Recipe
from jaxclf.data.order import num_batches
from jaxclf.models.classifier import create_classifier
from jaxclf.training.cost import forward_flops, step_flops
from jaxclf.training.lr_finder import finder_steps


class PhaseCost(NamedTuple):
    """What a phase is estimated to cost, at most: `patience` may end it earlier.

    Attributes:
      name: of the phase.
      flops: of all that it computes: activations that are cached, search for a rate, training, validation.
      full_epochs: the same in epochs of training the whole network at the recipe's image size.
    """

    name: str
    flops: int
    full_epochs: float


def phase_costs(recipe: Recipe, num_train: int, num_classes: int, *, num_valid: int = 0) -> list[PhaseCost]:
    """The estimated cost of each phase of a recipe.

    A phase that trains from a cached cut computes its activations once, all views of them, and then only what lies
    above the cut. A search for a rate counts as many steps as it has at most. Decoding and augmentation are not FLOPs
    of the network and are not counted, nor is test-time augmentation, which comes after the phases.

    Args:
      recipe: settings and phases.
      num_train: training pictures, at least 1.
      num_classes: at least 1.
      num_valid: validation pictures, which every epoch predicts; 0 leaves validation out.

    Raises:
      ValueError: for a number out of range or an unknown architecture.

    >>> from jaxclf.run.recipes import RECIPES
    >>> from jaxclf.config import Settings
    >>> settings = Settings(arch="resnet10t", image_size=64)
    >>> [(cost.name, round(cost.full_epochs, 1)) for cost in phase_costs(RECIPES["fine-tune"](settings), 6400, 2)]
    [('head', 0.3), ('all layers', 3.0)]
    """
    for name, value, least in (
        ("num_train", num_train, 1),
        ("num_classes", num_classes, 1),
        ("num_valid", num_valid, 0),
    ):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    model = create_classifier(
        recipe.settings.arch, num_classes, head=recipe.settings.head
    )  # in any precision the FLOPs are the same
    steps = num_batches(num_train, recipe.settings.batch_size, train=True)
    one_step = functools.cache(functools.partial(step_flops, model, batch_size=recipe.settings.batch_size))
    picture = functools.cache(functools.partial(forward_flops, model))
    unit = steps * one_step(image_size=recipe.settings.image_size)
    costs = []
    for phase in recipe.phases:
        size = phase.image_size or recipe.settings.image_size
        num_steps = phase.num_epochs * steps + (finder_steps(phase, steps) if phase.lr_from == "find" else 0)
        flops = num_steps * one_step(image_size=size, frozen=phase.frozen, start=phase.cut)
        flops += phase.num_epochs * num_valid * picture(image_size=size, start=phase.cut)
        if phase.cut is not None:
            flops += (num_train * phase.num_views + num_valid) * picture(image_size=size, stop=phase.cut)
        if phase.cut is not None or size != recipe.settings.image_size:  # judged on whole pictures at the end
            flops += num_valid * picture(image_size=recipe.settings.image_size)
        costs.append(PhaseCost(phase.name, flops, flops / unit))
    return costs
