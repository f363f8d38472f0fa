"""The jitted train step, built once per phase."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxclf._jax import jit_network
from jaxclf.augment import Augment, Mix, make_augment, normalize
from jaxclf.config import Preprocess, Settings, check_frozen, cut_prefix
from jaxclf.data.batches import Batch
from jaxclf.data.devices import replicated
from jaxclf.models.classifier import Classifier
from jaxclf.models.trees import Tree, combine, partition
from jaxclf.schedules import Schedule
from jaxclf.training.hyperparameters import Hyperparameters
from jaxclf.training.losses import Loss, make_loss, targets_from_labels
from jaxclf.training.state import TrainState

#: Sums and counts of one step, on the device.
Metrics = dict[str, jax.Array]
#: (state, batch, key) or (state, batch, key, hyperparameters) -> (state, metrics).
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_train_step(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    *,
    preprocess: Preprocess,
    settings: Settings | None = None,
    schedule: Schedule | None = None,
    lrs: Sequence[float] = (),
    frozen: tuple[str, ...] = (),
    augment: Augment | None = None,
    mix: Mix | None = None,
    loss: Loss | None = None,
    start: str | None = None,
    mesh: Mesh | None = None,
) -> TrainStep:
    """A jitted `(state, batch, key, hyperparameters=None) -> (state, metrics)`; the state's buffers are donated.

    With `Hyperparameters`, the optimizer's update is told their `lrs` and `momentum` (see `make_steered`), and the loss
    their class weights: they are no constants of what is compiled. Without, the optimizer has rates of its own.

    Only the trainable part of the parameters is differentiated: frozen modules run forward, with their running
    BatchNorm statistics, and are handed through untouched. The step's own key is `fold_in(key, state.step)`.

    A step whose loss is not finite (BatchNorm sees to it that it is not where its statistics are not), or whose
    gradient or rates have a number whose square is not (above 1.8e19), changes nothing but `state.failed_at`, which
    stops all later steps too; so the state can be asked now and then instead of at every step. What the optimizers of
    this library make of other numbers is finite.

    Args:
      model: the classifier.
      optimizer: from `make_optimizer` with the same `frozen`.
      preprocess: input size and normalisation.
      settings: five of them are read; default: `Settings()`. `multi_label` counts right decisions per label, at the
        `threshold`, and not right classes, for the metric `correct` only. `bn_frozen` keeps the body's BatchNorm, not
        the head's, on running statistics also where it is trained. `accumulate` runs the batch in so many parts, one
        after another, for memory's sake: the gradient is that of the whole batch; BatchNorm that is trained sees the
        parts one by one. With `ema_decay` the state's `ema` follows its variables, ema = d * ema + (1 - d) * variables
        with d = min(ema_decay, (1 + t) / (10 + t)) at step t, so that short runs are not held at their start.
      schedule, lrs: what `make_optimizer` was given; only reported, as the metric `lrs`.
      frozen: a prefix of `MODULES`.
      augment: from `jaxclf.augment.make_augment`; `None` takes the centre crop.
      mix: `(key, images, targets, mask) -> (images, targets)`, mixup or cutmix.
      loss: from `jaxclf.losses.make_loss`; `None` takes softmax cross-entropy.
      start: the cut that the batches' inputs come from; None: they are pictures. Activations are used as they are,
        and of the state only what is above the cut is read, so it may hold no more than that.
      mesh: devices that share each batch, see `jaxclf.data.devices`: then the state comes `replicate`d and the batch
        sharded, and state and metrics leave replicated.

    Returns:
      The step. Its metrics, all on the device: `loss` (mean over the batch's examples, what the gradient is of),
      `correct`, `weight` and `count` (sums over the examples: right answers, what the loss divides by, and examples),
      `failed_at`, and `lrs` (float32 [groups], the rates this step used).

    Raises:
      ValueError: for a headless model, or a `start` whose modules are not all frozen or that comes with changes of
        pictures.
    """
    settings = settings or Settings()
    frozen = check_frozen(frozen)
    _check_start(start, frozen, augment is not None, mix is not None)
    if not model.num_classes:
        raise ValueError("a headless classifier has nothing to train: create it with num_classes")
    prepare = _make_prepare(model.num_classes, preprocess, augment, mix, start)
    loss = loss or make_loss("softmax")
    differentiate = _make_differentiate(model, frozen, start, settings)

    def train_step(
        state: TrainState, batch: Batch, key: jax.Array, hyperparameters: Hyperparameters | None = None
    ) -> tuple[TrainState, Metrics]:
        augment_key, mix_key, dropout_key = step_keys(key, state.step)
        examples = prepare(batch, augment_key, mix_key)
        trainable, fixed = partition(state.params, frozen)
        told, weighted_loss = _told(hyperparameters, loss)
        found = differentiate(weighted_loss, trainable, fixed, state.batch_stats, examples, dropout_key)
        found = found._replace(gradients=_laid_out(found.gradients))
        weight = jnp.where(found.weight > 0.0, found.weight, 1.0)
        # Not a division by leaf: XLA would not repeat it for parameters and momentum, but write it out between them.
        share = 1.0 / weight
        gradients = jax.tree.map(lambda leaf: leaf * share, found.gradients)
        mean_loss = found.total / weight
        updates, opt_state = optimizer.update(gradients, state.opt_state, trainable, **told)
        proposed = (optax.apply_updates(trainable, updates), found.batch_stats, opt_state)

        # The gradient of the sum: that of the mean is divided within the update, and never stands by itself.
        rates = _rates(state.step, hyperparameters, schedule, lrs)
        finite = jnp.isfinite(mean_loss) & _representable((found.gradients, rates))
        applied = finite & (state.failed_at < 0)
        trained, batch_stats, opt_state = jax.tree.map(
            lambda new, old: jnp.where(applied, new, old), proposed, (trainable, state.batch_stats, state.opt_state)
        )
        failed_at = jnp.where((state.failed_at < 0) & ~finite, state.step, state.failed_at)
        params = combine(fixed, trained)
        ema = _follow(state, params, batch_stats, applied, settings.ema_decay)
        metrics = {
            "loss": mean_loss,
            "correct": (_correct(found.logits, jnp.asarray(batch.labels), settings) * examples.mask).sum(),
            "weight": weight,
            "count": examples.mask.sum(),
            "failed_at": failed_at,
        }
        if rates is not None:
            metrics["lrs"] = rates
        step = state.step + applied.astype(jnp.int32)
        return TrainState(step, params, batch_stats, opt_state, failed_at, ema), metrics

    return jit_network(train_step, donate_argnums=0, out_shardings=None if mesh is None else replicated(mesh))


class _Examples(NamedTuple):
    """Of a batch: normalised inputs [b, s, s, 3] or activations, targets [b, c], and the mask [b]."""

    inputs: jax.Array
    targets: jax.Array
    mask: jax.Array


class _Found(NamedTuple):
    """Of the sum of losses: its gradient, updated statistics, the sum, the sum of weights, and logits [b, c]."""

    gradients: Tree
    batch_stats: Tree
    total: jax.Array
    weight: jax.Array
    logits: jax.Array


def _make_prepare(
    num_classes: int, preprocess: Preprocess, augment: Augment | None, mix: Mix | None, start: str | None
) -> Callable[[Batch, jax.Array, jax.Array], _Examples]:
    augment = augment or make_augment("none", preprocess.image_size, shown=preprocess.shown)

    def prepare(batch: Batch, augment_key: jax.Array, mix_key: jax.Array) -> _Examples:
        labels, mask = jnp.asarray(batch.labels), jnp.asarray(batch.mask)
        targets = labels if labels.ndim == 2 else targets_from_labels(labels, num_classes)
        if start is not None:
            return _Examples(jnp.asarray(batch.inputs), targets, mask)
        images = augment(augment_key, batch.inputs)
        if mix is not None:
            images, targets = mix(mix_key, images, targets, mask)
        return _Examples(normalize(images, preprocess.mean, preprocess.std), targets, mask)

    return prepare


def _told(hyperparameters: Hyperparameters | None, loss: Loss) -> tuple[dict[str, jax.Array], Loss]:
    """What the optimizer is told at a step, and the loss with the step's class weights."""
    if hyperparameters is None:
        return {}, loss
    weights = hyperparameters.class_weights
    weighted_loss = loss if weights is None else functools.partial(loss, class_weights=weights)
    return {"lrs": hyperparameters.lrs, "momentum": hyperparameters.momentum}, weighted_loss


def _rates(
    step: jax.Array, hyperparameters: Hyperparameters | None, schedule: Schedule | None, lrs: Sequence[float]
) -> jax.Array | None:
    """The rates of a step, float32 [groups], as far as it is known what they are."""
    if hyperparameters is not None:
        return hyperparameters.lrs
    return None if schedule is None else schedule(step) * jnp.asarray(lrs, jnp.float32)


def _make_differentiate(
    model: Classifier, frozen: tuple[str, ...], start: str | None, settings: Settings
) -> Callable[[Loss, Tree, Tree, Tree, _Examples, jax.Array], _Found]:
    def one_part(
        loss: Loss, trainable: Tree, fixed: Tree, batch_stats: Tree, examples: _Examples, key: jax.Array
    ) -> _Found:
        def loss_fn(trainable: Tree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Tree]]:
            logits, updated = model.apply(
                {"params": combine(fixed, trainable), "batch_stats": batch_stats},
                examples.inputs,
                train=True,
                frozen=frozen,
                start=start,
                bn_frozen=bool(settings.bn_frozen),
                mask=examples.mask,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            losses, weights = loss(logits, examples.targets)
            sums = (losses * examples.mask).sum(), (weights * examples.mask).sum()
            # Without any BatchNorm there is nothing to update.
            return sums[0], (sums[1], logits, updated.get("batch_stats", batch_stats))

        (total, (weight, logits, updated)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(trainable)
        return _Found(gradients, updated, total, weight, logits)

    def in_parts(
        loss: Loss, trainable: Tree, fixed: Tree, batch_stats: Tree, examples: _Examples, key: jax.Array
    ) -> _Found:
        parts, count = list[_Found](), settings.accumulate
        inputs, targets, mask = examples
        for part in range(count):
            rows = slice(part * len(mask) // count, (part + 1) * len(mask) // count)
            if part > 0:  # one part after the other, so that only one part's activations are alive
                inputs, batch_stats = jax.lax.optimization_barrier((inputs, batch_stats))
            some = _Examples(inputs[rows], targets[rows], mask[rows])
            part_key = jax.random.fold_in(key, part)
            parts.append(one_part(loss, trainable, fixed, batch_stats, some, part_key))
            batch_stats = parts[-1].batch_stats
        gradients, total, weight = sum_trees([(part.gradients, part.total, part.weight) for part in parts])
        return _Found(gradients, batch_stats, total, weight, jnp.concatenate([part.logits for part in parts]))

    return one_part if settings.accumulate == 1 else in_parts


def _follow(state: TrainState, params: Tree, batch_stats: Tree, applied: jax.Array, decay: float | None) -> Any:
    """The running average after a step."""
    if decay is None or state.ema is None:
        return state.ema
    now = {"params": params, "batch_stats": batch_stats}
    kept = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    # Written as a difference, so that what is frozen stays to the bit.
    return jax.tree.map(lambda old, new: jnp.where(applied, old + (1.0 - kept) * (new - old), old), state.ema, now)


def _check_start(start: str | None, frozen: tuple[str, ...], augmented: bool, mixed: bool) -> None:
    """Raises ValueError unless activations of the cut `start` can be trained from."""
    missing = [module for module in cut_prefix(start) if module not in frozen]
    if missing:
        raise ValueError(
            f"start={start!r}: activations were computed with {', '.join(missing)} as they were, but frozen={frozen!r} "
            f"trains these; freeze {cut_prefix(start)!r}, or train from pictures"
        )
    if start is not None and augmented:
        raise ValueError(
            f"start={start!r}: pictures are augmented before they become activations, see extract_features"
        )
    if start is not None and mixed:
        raise ValueError(f"start={start!r}: mixup and cutmix mix pictures, not activations; train from pictures")


def step_keys(key: jax.Array, step: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A step's keys, of augmentation, mixing and dropout, from the phase's key and the step's number."""
    prepare_key, dropout_key = jax.random.split(jax.random.fold_in(key, step))
    augment_key, mix_key = jax.random.split(prepare_key)
    return augment_key, mix_key, dropout_key


def sum_trees(trees: Sequence[Any]) -> Any:
    """The leaf by leaf sum of one or more trees."""
    return jax.tree.map(lambda first, *rest: sum(rest, start=first), *trees)


def _laid_out(gradients: Tree) -> Tree:
    """The same, each kernel's in the order of its parameters.

    A GPU's convolutions have an order of their own for a kernel's axes. Left to itself, XLA updates parameters and
    momentum in that one too, and copies both there and back; so the gradient alone is brought over, as a flat array.
    """
    leaves, structure = jax.tree.flatten(gradients)
    kernels = [number for number, leaf in enumerate(leaves) if leaf.ndim > 1]
    flat = jax.lax.optimization_barrier([leaves[number].ravel() for number in kernels])
    for number, leaf in zip(kernels, flat, strict=True):
        leaves[number] = leaf.reshape(leaves[number].shape)
    return jax.tree.unflatten(structure, leaves)


def _representable(tree: Any) -> jax.Array:
    """Whether all numbers and their squares are finite: with such gradients an optimizer's state stays finite as well.

    A GPU takes all leaves in one reduction, since one for each would be hundreds of kernels; to a CPU the copy that
    this needs is dearer than they are.
    """
    largest = jax.lax.platform_dependent(*jax.tree.leaves(tree), cpu=_largest_by_leaf, default=_largest_at_once)
    return jnp.isfinite(jnp.square(largest))


def _largest_at_once(*leaves: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(jnp.concatenate([leaf.ravel() for leaf in leaves])))


def _largest_by_leaf(*leaves: jax.Array) -> jax.Array:
    # Without the barriers XLA computes it anew within the update of every leaf, and compiles three times as long.
    found = jax.lax.optimization_barrier(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    largest: jax.Array = jax.lax.optimization_barrier(jnp.max(found))
    return largest


def _correct(logits: jax.Array, labels: jax.Array, settings: Settings) -> jax.Array:
    """Per example: 1 for the right class; of several labels, the share of right decisions. float32 [b]."""
    if settings.multi_label:
        least = math.log(settings.threshold / (1.0 - settings.threshold))  # the threshold's logit
        return ((logits >= least) == (labels > 0.5)).mean(-1, dtype=jnp.float32)
    classes = labels.argmax(-1) if labels.ndim == 2 else labels
    return (logits.argmax(-1) == classes).astype(jnp.float32)
