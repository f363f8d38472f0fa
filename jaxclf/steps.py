"""The jitted steps: train on a batch, predict a batch. Built once per phase (train) or per run (predict)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxclf.augment import Augment, make_augment, normalize, to_float
from jaxclf.config import Preprocess
from jaxclf.data.loader import Batch
from jaxclf.losses import masked_mean, softmax_cross_entropy
from jaxclf.models.classifier import Classifier
from jaxclf.schedules import Schedule
from jaxclf.state import TrainState
from jaxclf.trees import Tree, check_frozen, combine, partition

#: Sums and counts of one step, on the device.
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]
#: (variables, uint8 [b, h, w, 3]) -> float32 logits [b, c].
PredictStep = Callable[[Any, jax.typing.ArrayLike], jax.Array]


def make_train_step(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    *,
    preprocess: Preprocess,
    schedule: Schedule | None = None,
    lrs: Sequence[float] = (),
    frozen: tuple[str, ...] = (),
    augment: Augment | None = None,
    label_smoothing: float = 0.0,
    bn_frozen: bool = False,
) -> TrainStep:
    """A jitted `(state, batch, key) -> (state, metrics)`; the state's buffers are donated.

    Only the trainable part of the parameters is differentiated: frozen modules run forward, with their running
    BatchNorm statistics, and are handed through untouched. The step's own key is `fold_in(key, state.step)`.

    Args:
      model: the classifier.
      optimizer: from `make_optimizer` with the same `frozen`.
      preprocess: input size and normalisation.
      schedule, lrs: what `make_optimizer` was given; only reported, as the metric `lrs`.
      frozen: a prefix of `MODULES`.
      augment: from `jaxclf.augment.make_augment`; `None` takes the centre crop.
      label_smoothing: in [0, 1).
      bn_frozen: keep the body's BatchNorm on running statistics also where it is trained.

    Returns:
      The step. Its metrics: `loss` (mean over the batch's examples, what the gradient is of), `correct` and `count`
      (sums over the examples), and `lrs` (float32 [groups], the rates this step used), all on the device.
    """
    frozen = check_frozen(frozen)
    augment = augment or make_augment("none", preprocess.image_size)

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        inputs = normalize(augment(augment_key, batch.inputs), preprocess.mean, preprocess.std)
        trainable, fixed = partition(state.params, frozen)

        def loss_fn(trainable: Tree) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
            logits, updated = model.apply(
                {"params": combine(fixed, trainable), "batch_stats": state.batch_stats},
                inputs,
                train=True,
                frozen=frozen,
                bn_frozen=bn_frozen,
                mask=batch.mask,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            losses = softmax_cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)
            return masked_mean(losses, batch.mask), (logits, updated["batch_stats"])

        (loss, (logits, batch_stats)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(trainable)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trainable)
        params = combine(fixed, optax.apply_updates(trainable, updates))
        correct = ((logits.argmax(-1) == batch.labels) * batch.mask).sum()
        metrics = {"loss": loss, "correct": correct, "count": batch.mask.sum()}
        if schedule is not None:
            metrics["lrs"] = schedule(state.step) * jnp.asarray(lrs, jnp.float32)
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return jax.jit(train_step, donate_argnums=0)


def make_predict_step(model: Classifier, *, preprocess: Preprocess) -> PredictStep:
    """A jitted `(variables, uint8 [b, s, s, 3]) -> float32 logits [b, c]` in evaluation mode."""

    @jax.jit
    def predict_step(variables: Any, images: jax.typing.ArrayLike) -> jax.Array:
        inputs = normalize(to_float(images), preprocess.mean, preprocess.std)
        logits = model.apply(variables, inputs)
        assert isinstance(logits, jax.Array)  # nothing is mutable, so there is nothing beside the logits
        return logits

    return predict_step
