"""What a step costs, told from shapes alone: parameters, memory and FLOPs, before anything is compiled or run.

Everything is read off JAX's traces of the network, forwards and backwards, on no array at all. FLOPs are those of
convolutions and matrix products, two per multiply-add, padding included: the convention of published figures (resnet50
at 224 pixels: 8.2 GFLOP a picture, "4.1 GMACs"). XLA's own count leaves out what meets padding and adds what is
elementwise, a few per cent either way. How many of them a device does in a second is not told here.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal

from jaxclf import schedules
from jaxclf.config import CUTS, MODULES, Preprocess, cut_prefix
from jaxclf.models.classifier import Classifier, init_variables
from jaxclf.models.trees import Tree, combine, num_parameters, partition
from jaxclf.training.flops import count_flops, products
from jaxclf.training.optimizer import make_optimizer

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
    transformation = make_optimizer(
        variables["params"], schedules.constant(), (1.0,), frozen=frozen, optimizer=optimizer
    )
    forward = [_forward(model, image_size, batch_size, frozen, *cuts) for cuts in _stretches(frozen, start)]
    largest = max((sum(pair) for part in forward for pair in _product_bytes(part)), default=0)
    kept = _kept_bytes(forward[-1])
    both, residual_bytes = _backward(model, image_size, batch_size, frozen, start)
    return StepCost(
        frozen=frozen,
        start=start,
        num_parameters=num_parameters(variables["params"]),
        num_trainable=num_parameters(trainable),
        parameter_bytes=_num_bytes(variables),
        optimizer_bytes=_num_bytes(jax.eval_shape(transformation.init, trainable)),
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
    model: Classifier,
    *,
    image_size: int,
    batch_size: int,
    frozen: tuple[str, ...] = (),
    start: str | None = None,
) -> int:
    """The FLOPs alone of `step_cost`, which see."""
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


def _product_bytes(jaxpr: ClosedJaxpr) -> list[tuple[int, int]]:
    """Bytes of the input and the output of every product."""
    return [(_num_bytes(equation.invars[0].aval), _num_bytes(equation.outvars[0].aval)) for equation in products(jaxpr)]


def _kept_bytes(jaxpr: ClosedJaxpr) -> int:
    """Bytes of the inputs and outputs of all products; what several read counts once."""
    kept = {id(v): v for e in products(jaxpr) for v in (e.invars[0], e.outvars[0])}
    return sum(_num_bytes(variable.aval) for variable in kept.values())


def _backward(
    model: Classifier, image_size: int, batch_size: int, frozen: tuple[str, ...], start: str | None
) -> tuple[ClosedJaxpr, int]:
    """The trace of the loss and its gradient, and the bytes of all that is kept from one for the other."""
    variables = abstract_variables(model)
    trainable, fixed = partition(variables["params"], frozen)
    inputs = _abstract_inputs(model, image_size, batch_size, start)

    def gradient(trainable: Tree, fixed: Tree, batch_stats: Tree, inputs: jax.Array, key: jax.Array) -> Any:
        def total(trainable: Tree) -> tuple[jax.Array, Any]:
            logits, updated = _apply_train(model, combine(fixed, trainable), batch_stats, inputs, key, frozen, start)
            return logits.sum(), updated

        value, backward, _ = jax.vjp(total, trainable, has_aux=True)
        return jax.tree.leaves(backward), backward(jnp.ones_like(value))

    key = _abstract_key()
    traced, shapes = jax.make_jaxpr(gradient, return_shape=True)(
        trainable, fixed, variables["batch_stats"], inputs, key
    )
    given = {id(variable) for variable in (*traced.jaxpr.invars, *traced.jaxpr.constvars)}
    residuals = [v for v in traced.jaxpr.outvars[: len(shapes[0])] if not isinstance(v, Literal)]
    return traced, _num_bytes([v.aval for v in {id(v): v for v in residuals if id(v) not in given}.values()])


def _forward(
    model: Classifier,
    image_size: int,
    batch_size: int,
    frozen: tuple[str, ...],
    start: str | None,
    stop: str | None,
) -> ClosedJaxpr:
    """The trace of a stretch of the network; what is not frozen, as it runs in training."""
    variables = abstract_variables(model)
    apply = functools.partial(_apply_train, model, frozen=frozen, start=start, stop=stop)
    inputs = _abstract_inputs(model, image_size, batch_size, start)
    return jax.make_jaxpr(apply)(variables["params"], variables["batch_stats"], inputs, _abstract_key())


def _apply_train(
    model: Classifier,
    params: Tree,
    batch_stats: Tree,
    inputs: jax.Array,
    key: jax.Array,
    frozen: tuple[str, ...],
    start: str | None,
    stop: str | None = None,
) -> Any:
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


def _stretches(frozen: tuple[str, ...], start: str | None) -> list[tuple[str | None, str | None]]:
    """(start, stop) of what runs forward only, if anything does, and of what is trained."""
    cut = CUTS[len(frozen) - 1] if frozen else None
    cut = "pooled" if cut == CUTS[-2] else cut
    return [(None, None)] if cut is None else [(cut, None)] if start == cut else [(start, cut), (cut, None)]


@functools.lru_cache(maxsize=8)
def abstract_variables(model: Classifier) -> Any:
    """Shapes and types of a classifier's variables."""
    return jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))


def _abstract_inputs(model: Classifier, image_size: int, batch_size: int, start: str | None) -> jax.ShapeDtypeStruct:
    """A normalised batch: pictures, or activations at `start`."""
    pictures = jax.ShapeDtypeStruct((batch_size, image_size, image_size, model.config.in_channels), jnp.float32)
    if start is None:
        return pictures
    return jax.eval_shape(functools.partial(model.apply, stop=start), abstract_variables(model), pictures)


def _abstract_key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _check(image_size: int, batch_size: int, frozen: tuple[str, ...], start: str | None) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if "head" in frozen:
        raise ValueError(f"frozen={frozen!r} holds the head too: nothing is left to train")
    if cut_prefix(start) != frozen[: len(cut_prefix(start))]:
        raise ValueError(f"start={start!r}: what lies below must be frozen, and frozen={frozen!r} trains some of it")
    Preprocess(image_size=image_size)  # raises for a size out of range


def _num_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
