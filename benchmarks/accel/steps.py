"""jaxclf's own programs as (function, abstract arguments, donated arguments): train steps and the evaluation step."""

from typing import Any

import jax
import jax.numpy as jnp
from steps import PARTS

from jaxclf.config import Preprocess, Settings, frozen_prefix
from jaxclf.data.batches import Batch
from jaxclf.data.decode import presize
from jaxclf.inference.predict import make_predict_step
from jaxclf.models import create_classifier, init_variables
from jaxclf.training.hyperparameters import Hyperparameters
from jaxclf.training.shared import StepKind, shared_step
from jaxclf.training.state import create_train_state

NUM_CLASSES = 1000
NUM_GROUPS = 3


def own_program(part: str, arch: str, size: int, batch: int, dtype: str, augment: str) -> tuple[Any, tuple[Any, ...]]:
    """The function of a train step, or of evaluation ("eval"), and its arguments as ShapeDtypeStructs."""
    model = create_classifier(arch, NUM_CLASSES, dtype=jnp.dtype(dtype))
    preprocess = Preprocess(image_size=size)
    variables = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), image_size=size))
    shape: Any = jax.ShapeDtypeStruct
    if part == "eval":
        step: Any = make_predict_step(model, preprocess=preprocess)
        return step.__wrapped__, (variables, shape((batch, size, size, 3), jnp.uint8))
    frozen = frozen_prefix(PARTS[part])
    settings = Settings(weight_decay=1e-4)
    kind = StepKind(model, preprocess, settings, frozen, NUM_GROUPS, augment, cut=None, gradients=None, mesh=None)
    state = jax.eval_shape(lambda given: create_train_state(given, kind.optimizer(), frozen=frozen), variables)
    side = size if augment == "none" else presize(size)
    rows = [shape((batch,), number) for number in (jnp.int32, jnp.float32, jnp.int32)]
    told = Hyperparameters(shape((NUM_GROUPS,), jnp.float32), shape((), jnp.float32))
    key = jax.eval_shape(lambda: jax.random.key(0))
    trained: Any = shared_step(kind)
    return trained.__wrapped__, (state, Batch(shape((batch, side, side, 3), jnp.uint8), *rows), key, told)
