"""What a step costs, told from shapes alone: parameters, memory and FLOPs, before anything is compiled or run.

Read off JAX's traces of the network, on no array at all. FLOPs are those of convolutions and matrix products, two per
multiply-add, padding included: the convention of published figures (resnet50 at 224 pixels: 8.2 GFLOP a picture, "4.1
GMACs"). XLA's own count leaves out what meets padding and adds what is elementwise, a few per cent either way.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from jaxclf.config import CUTS, MODULES, Preprocess, Recipe, cut_prefix
from jaxclf.data.order import num_batches
from jaxclf.models.classifier import Classifier, create_classifier, init_variables
from jaxclf.models.trees import Tree, combine, num_parameters, partition
from jaxclf.schedules import constant
from jaxclf.training.flops import count_flops, products
from jaxclf.training.lr_finder import finder_range, worth_a_test
from jaxclf.training.optimizer import make_transformation

#: What can be frozen and leaves something to train: nothing, the stem, .., the whole body.
FREEZINGS = tuple(MODULES[:number] for number in range(len(MODULES)))


class StepCost(NamedTuple):
    """What one train step costs. Memory in bytes, for the whole batch.

    Attributes:
      frozen: the modules that are not trained.
      start: the cut that the batches are cached at; None: they are pictures.
      num_parameters: of the whole network.
      num_trainable: of what is trained.
      parameter_bytes: parameters and BatchNorm's running statistics, float32.
      optimizer_bytes: the optimizer's state.
      gradient_bytes: one gradient of what is trained.
      activation_bytes: inputs and outputs of every convolution and matrix product that is trained, once each, as the
        backward pass needs them, and those of the largest one for work. What lies between is elementwise and is
        taken to be computed anew, as XLA's fusions do.
      activation_bound: the same with all that JAX's linearisation keeps, nothing computed anew.
      flops: of convolutions and matrix products, forwards and backwards.
    """

    frozen: tuple[str, ...]
    start: str | None
    num_parameters: int
    num_trainable: int
    parameter_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    activation_bytes: int
    activation_bound: int
    flops: int

    @property
    def fixed_bytes(self) -> int:
        """What does not depend on the batch: parameters, optimizer state, gradient."""
        return self.parameter_bytes + self.optimizer_bytes + self.gradient_bytes


def step_cost(
    model: Classifier,
    *,
    image_size: int,
    batch_size: int,
    frozen: tuple[str, ...] = (),
    start: str | None = None,
    optimizer: str = "sgd",
) -> StepCost:
    """What a train step costs; its passes through the network are traced, and neither compiled nor run.

    Memory is an estimate. In a dozen cases compiled for a CPU (three networks, float32, 32 to 96 pixels) the
    compiler took, beside the gradient, .7 to 2.1 times `activation_bytes`, and about `activation_bound` at most.

    Args:
      model: the classifier; its `dtype` is what activations are kept in.
      image_size: side of the network's input, in pixels.
      batch_size: pictures per step.
      frozen: a prefix of `MODULES`.
      start: the cut that cached activations come from; None: pictures.
      optimizer: "sgd" or "adamw".

    Raises:
      ValueError: for an argument out of range, or nothing that is left to train.

    >>> from jaxclf.models import create_classifier
    >>> model = create_classifier("resnet10t", 2)
    >>> full, head = (step_cost(model, image_size=64, batch_size=8, frozen=f) for f in (FREEZINGS[0], FREEZINGS[5]))
    >>> head.num_trainable, round(head.flops / full.flops, 2)
    (1026, 0.33)
    """
    _check(image_size, batch_size, frozen, start)
    variables = abstract_variables(model)
    trainable, _ = partition(variables["params"], frozen)
    opt_state = jax.eval_shape(make_transformation(constant(), (1.0,), optimizer=optimizer).init, trainable)
    traces = (_forward(model, image_size, batch_size, frozen, *cuts) for cuts in _stretches(frozen, start))
    ends = [[(product.invars[0], product.outvars[0]) for product in products(trace)] for trace in traces]
    largest = max((_num_bytes(pair) for stretch in ends for pair in stretch), default=0)
    kept = _num_bytes({id(v): v for pair in ends[-1] for v in pair})  # what several products read counts once
    both, residual_bytes = _backward(model, image_size, batch_size, frozen, start)
    return StepCost(
        frozen=frozen,
        start=start,
        num_parameters=num_parameters(variables["params"]),
        num_trainable=num_parameters(trainable),
        parameter_bytes=_num_bytes(variables),
        optimizer_bytes=_num_bytes(opt_state),
        gradient_bytes=_num_bytes(trainable),
        activation_bytes=kept + largest,
        activation_bound=max(residual_bytes, kept) + largest,
        flops=count_flops(both),
    )


def freezing_costs(
    model: Classifier, *, image_size: int, batch_size: int, optimizer: str = "sgd"
) -> tuple[StepCost, ...]:
    """`step_cost` of every freezing, from nothing to the whole body; last, of the head on cached activations."""
    cost = functools.partial(step_cost, model, image_size=image_size, batch_size=batch_size, optimizer=optimizer)
    return *(cost(frozen=frozen) for frozen in FREEZINGS), cost(frozen=FREEZINGS[-1], start="pooled")


def step_flops(
    model: Classifier, *, image_size: int, batch_size: int, frozen: tuple[str, ...] = (), start: str | None = None
) -> int:
    """The FLOPs alone of `step_cost`."""
    _check(image_size, batch_size, frozen, start)
    return count_flops(_backward(model, image_size, batch_size, frozen, start)[0])


def forward_flops(model: Classifier, *, image_size: int, start: str | None = None, stop: str | None = None) -> int:
    """FLOPs of one picture in evaluation mode, whole or between two cuts: of a prediction, or of an extraction.

    >>> from jaxclf.models import create_classifier
    >>> round(forward_flops(create_classifier("resnet50", 1000), image_size=224) / 1e9, 2)
    8.18
    """
    _check(image_size, 1, (), None)
    return count_flops(_forward(model, image_size, 1, MODULES, start, stop))


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
    above the cut; solving a head costs next to nothing beside them. A search for a rate counts as many steps as it has
    at most. Decoding, augmentation, and test-time augmentation after the phases are not counted.

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
    counts = {"num_train": (num_train, 1), "num_classes": (num_classes, 1), "num_valid": (num_valid, 0)}
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    settings = recipe.settings.for_photos(num_train)
    model = create_classifier(settings.arch, num_classes, head=settings.head)  # FLOPs are the same in any precision
    batch_size = settings.batch(num_train)
    steps = num_batches(num_train, batch_size)
    one_step = functools.cache(functools.partial(step_flops, model, batch_size=batch_size))
    picture = functools.cache(functools.partial(forward_flops, model))
    unit = steps * one_step(image_size=settings.image_size)
    costs = []
    for number, phase in enumerate(recipe.phases):
        size = phase.image_size or settings.image_size
        num_steps = phase.num_epochs * steps
        if phase.lr_from == "find" and worth_a_test(phase, steps, over := finder_range(settings, stands=number > 0)):
            num_steps += over.num_steps
        flops = num_steps * one_step(image_size=size, frozen=phase.frozen, start=phase.cut)
        known = "pooled" if phase.caches_validation else None
        flops += phase.num_epochs * num_valid * picture(image_size=size, start=phase.cut or known)
        flops += num_valid * picture(image_size=size, stop=known) if known else 0
        if phase.cut is not None:
            num_pictures = num_train * phase.num_views + (0 if phase.solve else num_valid)
            flops += num_pictures * picture(image_size=size, stop=phase.cut)
        if phase.cut is not None or known or size != settings.image_size:  # judged on whole pictures at the end
            flops += num_valid * picture(image_size=settings.image_size)
        costs.append(PhaseCost(phase.name, flops, flops / unit))
    return costs


def _backward(
    model: Classifier, image_size: int, batch_size: int, frozen: tuple[str, ...], start: str | None
) -> tuple[ClosedJaxpr, int]:
    """The trace of the loss and its gradient, and the bytes of all that is kept from one for the other."""
    variables = abstract_variables(model)
    trainable, fixed = partition(variables["params"], frozen)
    apply = _train_apply(model, frozen, start)

    def gradient(trainable: Tree, fixed: Tree, *others: Any) -> Any:
        def total(trainable: Tree) -> tuple[jax.Array, Any]:
            logits, updated = apply(combine(fixed, trainable), *others)
            return logits.sum(), updated

        value, backward, _ = jax.vjp(total, trainable, has_aux=True)
        return jax.tree.leaves(backward), backward(jnp.ones_like(value))

    others = (variables["batch_stats"], *_abstract_batch(model, image_size, batch_size, start))
    traced, shapes = jax.make_jaxpr(gradient, return_shape=True)(trainable, fixed, *others)
    given = {id(variable) for variable in (*traced.jaxpr.invars, *traced.jaxpr.constvars)}
    residuals = [v for v in traced.jaxpr.outvars[: len(shapes[0])] if not isinstance(v, Literal)]
    return traced, _num_bytes({id(v): v for v in residuals if id(v) not in given})


def _forward(
    model: Classifier, image_size: int, batch_size: int, frozen: tuple[str, ...], start: str | None, stop: str | None
) -> ClosedJaxpr:
    """The trace of a stretch of the network; what is not frozen, as it runs in training."""
    variables, batch = abstract_variables(model), _abstract_batch(model, image_size, batch_size, start)
    apply = _train_apply(model, frozen, start, stop)
    return jax.make_jaxpr(apply)(variables["params"], variables["batch_stats"], *batch)


def _train_apply(
    model: Classifier, frozen: tuple[str, ...], start: str | None, stop: str | None = None
) -> Callable[..., Any]:
    def apply(params: Tree, batch_stats: Tree, inputs: jax.Array, key: jax.Array) -> Any:
        return model.apply(
            {"params": params, "batch_stats": batch_stats},
            inputs,
            train=True,
            frozen=frozen,
            start=start,
            stop=stop,
            mask=jnp.ones(len(inputs)),
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )

    return apply


def _stretches(frozen: tuple[str, ...], start: str | None) -> list[tuple[str | None, str | None]]:
    """(start, stop) of what runs forward only, if anything does, and of what is trained."""
    cut = CUTS[len(frozen) - 1] if frozen else None
    cut = "pooled" if cut == CUTS[-2] else cut
    return [(None, None)] if cut is None else [(cut, None)] if start == cut else [(start, cut), (cut, None)]


@functools.lru_cache(maxsize=8)
def abstract_variables(model: Classifier) -> Any:
    """Shapes and types of a classifier's variables."""
    return jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))


def _abstract_batch(model: Classifier, image_size: int, batch_size: int, start: str | None) -> tuple[Any, Any]:
    """A normalised batch, of pictures or of activations at `start`, and a random key."""
    inputs = jax.ShapeDtypeStruct((batch_size, image_size, image_size, model.config.in_channels), jnp.float32)
    if start is not None:
        inputs = jax.eval_shape(functools.partial(model.apply, stop=start), abstract_variables(model), inputs)
    return inputs, jax.eval_shape(lambda: jax.random.key(0))


def _check(image_size: int, batch_size: int, frozen: tuple[str, ...], start: str | None) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if "head" in frozen:
        raise ValueError(f"frozen={frozen!r} holds the head too: nothing is left to train")
    if cut_prefix(start) != frozen[: len(cut_prefix(start))]:
        raise ValueError(f"start={start!r}: what lies below must be frozen, and frozen={frozen!r} trains some of it")
    Preprocess(image_size=image_size)  # raises for a size out of range


def _num_bytes(tree: Any) -> int:
    """Of arrays, of their shapes, or of a trace's variables."""
    shapes: list[Any] = [getattr(leaf, "aval", leaf) for leaf in jax.tree.leaves(tree)]
    return sum(shape.size * shape.dtype.itemsize for shape in shapes)
