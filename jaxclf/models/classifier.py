"""The classifier: a ResNet body and a head, with freezing as an argument and cuts where activations leave or enter."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxclf.config import CUTS, MODULES, check_frozen
from jaxclf.models.heads import HEADS, ConcatHead, HeadKind, LinearHead, create_head
from jaxclf.models.pool import average_half
from jaxclf.models.registry import get_config
from jaxclf.models.resnet import ResNet, ResNetConfig

Variables = dict[str, Any]
"""`{"params": {"body": {"stem", "stage1", ..}, "head"}, "batch_stats": {..}}`, plain nested dicts of arrays."""


class Classifier(nn.Module):
    """Image classifier: `ResNet` body and a head; `apply` runs it whole or between two cuts.

    The parameter tree is `{"body": {"stem", "stage1", .., "stage4"}, "head"}` whatever is run. `init` must run
    image -> logits (use `init_variables`), since Linen creates only what is called. Parameters and batch statistics
    are float32.

    Attributes:
      config: of the body.
      num_classes: logits per image. None or 0: headless, there is no `head` in the tree, and where logits would be
        returned the average-pooled features are, float32 [b, c].
      head: `linear` (average pool -> dropout -> Dense), `pools` (the same from maximum and average pool) or `concat`
        (fastai's, with its own dropout).
      dropout: of the linear heads.
      dtype: of the body's arithmetic and activations. `pooled`, the head and logits are float32.

    Raises:
      ValueError: naming the attribute, for values that describe no classifier.
    """

    config: ResNetConfig
    num_classes: int | None
    head_kind: HeadKind = "linear"
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if not isinstance(self.config, ResNetConfig):
            raise ValueError(f"config: expected a ResNetConfig (see create_classifier), got {self.config!r}")
        if self.num_classes is not None and self.num_classes < 0:
            raise ValueError(f"num_classes: expected a positive integer, 0 or None (headless), got {self.num_classes}")
        if self.head_kind not in HEADS:
            raise ValueError(f"head: expected one of {HEADS}, got {self.head_kind!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: expected a share in [0, 1), got {self.dropout}")
        if self.head_kind == "concat" and self.dropout:
            raise ValueError(f"dropout: the concat head has its own (.25 and .5); leave 0, got {self.dropout}")
        super().__post_init__()

    def setup(self) -> None:
        self.body = ResNet(self.config, self.dtype)
        if self.num_classes:
            self.head = create_head(self.head_kind, self.num_classes, dropout=self.dropout)

    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        frozen: tuple[str, ...] = (),
        start: str | None = None,
        stop: str | None = None,
        mask: jax.Array | None = None,
        bn_frozen: bool = False,
    ) -> jax.Array:
        """Logits of images, or any stretch of the network between two cuts.

        All arguments but `x` and `mask` are static. In training `batch_stats` must be mutable, and dropout needs the
        `dropout` key.

        Args:
          x: [b, h, w, in_channels], normalised, floating point; or the activation of the cut `start`.
          train: use batch statistics and dropout, except in frozen modules.
          frozen: a prefix of `MODULES`. In these BatchNorm uses the running statistics and never updates them, and
            the head drops nothing: they compute the same in training as in evaluation.
          start: the cut x comes from; None: x is images.
          stop: the cut to return; None: logits. `stop == start` returns x.
          mask: [b] of 0/1; examples with 0 (padding) are left out of the batch statistics.
          bn_frozen: treat every BatchNorm of the body as if frozen, whatever is trained. Not the concat head's: that
            starts at mean 0 and variance 1, which no features have.

        Returns:
          Logits, float32 [b, num_classes]; or the activation at `stop`: [b, h, w, c] in `dtype`, float32
          [b, 2c] at `pooled`.

        Raises:
          ValueError: naming the argument, its value and what is allowed.
        """
        self._check(x, start, stop, mask)
        frozen = check_frozen(frozen)
        running = frozen if train else MODULES
        if bn_frozen:
            running = tuple(name for name in MODULES if name in running or name != "head")
        x = self.body(x, running=running, start=start, stop=stop or "pooled", mask=mask)
        if stop is not None:
            return x
        if not self.num_classes:
            return average_half(x)
        return self.head(x, train="head" not in running, mask=mask)

    def _check(self, x: jax.Array, start: str | None, stop: str | None, mask: jax.Array | None) -> None:
        """Reject what would otherwise fail deep inside, or not at all."""
        for name, cut in (("start", start), ("stop", stop)):
            if cut is not None and cut not in CUTS:
                raise ValueError(f"{name}: expected None or one of {CUTS}, got {cut!r}")
        if start is not None and stop is not None and CUTS.index(start) > CUTS.index(stop):
            raise ValueError(f"start, stop: {start!r} comes after {stop!r}; the order is {CUTS}")
        what = "images" if start is None else f"activations of start={start!r}"
        channels = self.config.in_channels if start is None else self.config.cut_width(start)
        rank = 2 if start == "pooled" else 4
        if x.ndim != rank or x.shape[-1] != channels:
            expected = f"[b, {channels}]" if rank == 2 else f"[b, h, w, {channels}]"
            raise ValueError(f"x: expected {what} of shape {expected}, got {x.shape}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"x: expected {what} as normalised floating point, got {x.dtype}")
        if mask is not None and mask.shape != x.shape[:1]:
            raise ValueError(f"mask: expected shape {x.shape[:1]}, one entry per example, got {mask.shape}")


def create_classifier(
    arch: str | ResNetConfig,
    num_classes: int | None,
    *,
    head: HeadKind = "linear",
    dropout: float = 0.0,
    in_channels: int = 3,
    dtype: Any = jnp.float32,
) -> Classifier:
    """A classifier for an architecture by name; it holds no arrays, see `init_variables`.

    Args:
      arch: a name from `list_archs()`, or a `ResNetConfig` of your own.
      num_classes: logits per image; None or 0 for a network that returns pooled features.
      head: `linear`, `pools` (linear on maximum and average pool), or `concat` (fastai's two-layer head with its own
        dropout).
      dropout: of the linear head, in [0, 1).
      in_channels: channels of the images; pretrained weights fit 3.
      dtype: of the body's arithmetic, float32 or bfloat16; parameters are float32 in any case.

    Raises:
      ValueError: for an unknown architecture (with the names that look like it) or a value out of range.

    Example:
      >>> create_classifier("resnet18", 37).config.stage_sizes
      (2, 2, 2, 2)
    """
    config = replace(get_config(arch), in_channels=in_channels)
    return Classifier(config, num_classes, head_kind=head, dropout=dropout, dtype=dtype)


def init_variables(model: Classifier, key: jax.Array, *, image_size: int = 224) -> Variables:
    """Random initial variables: He-normal (fan out) convolutions, BatchNorm 1 and 0, LeCun-normal Dense, zero biases.

    The same distributions as `model.init`, drawn in one piece for the body and one for the head: compiling a draw per
    kernel takes XLA 20 to 60 seconds for a resnet50 on CPU, this takes about two. The body does not depend on the
    head, nor the head on the body. Works under jit and eval_shape.

    Args:
      model: the classifier.
      key: random key.
      image_size: height and width of the images it is traced with; the variables do not depend on it.

    Returns:
      `{"params": .., "batch_stats": ..}`, float32.

    Raises:
      ValueError: if image_size is not positive.
    """
    if image_size < 1:
        raise ValueError(f"image_size: expected a positive number of pixels, got {image_size}")
    images = jax.ShapeDtypeStruct((1, image_size, image_size, model.config.in_channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    params = {
        name: _draw(jax.random.fold_in(key, i), shapes["params"][name])
        for i, name in enumerate(("body", "head"))
        if name in shapes["params"]
    }
    stats = jax.tree.map_with_path(_constant, shapes["batch_stats"])
    return {"params": params, "batch_stats": stats}


def init_head(head: LinearHead | ConcatHead, key: jax.Array, width: int) -> Variables:
    """Random initial variables of a head: to the bit what `init_variables(classifier, key)` gives its head.

    Args:
      head: from `create_head`.
      key: random key.
      width: 2c, columns of the pooled features.

    Returns:
      `{"params": .., "batch_stats": ..}` of the head alone, float32; a linear head has no statistics, `{}`.
    """
    pooled = jax.ShapeDtypeStruct((1, width), jnp.float32)
    shapes = jax.eval_shape(lambda key, x: head.init(key, x, train=False), jax.random.key(0), pooled)
    return {
        "params": _draw(jax.random.fold_in(key, 1), shapes["params"]),
        "batch_stats": _draw(key, shapes["batch_stats"]) if "batch_stats" in shapes else {},
    }


def _draw(key: jax.Array, shapes: Variables) -> Variables:
    """Kernels from one draw of normals cut into pieces, everything else constant."""
    leaves, structure = jax.tree.flatten_with_path(shapes)
    flat: Any = jax.random.normal(
        key, (sum(math.prod(leaf.shape) for path, leaf in leaves if path[-1].key == "kernel"),)
    )
    if not isinstance(flat, jax.core.Tracer):
        flat = np.asarray(flat)  # cutting on the host: nothing to compile
    values, used = [], 0
    for path, leaf in leaves:
        if path[-1].key != "kernel":
            values.append(_constant(path, leaf))
            continue
        size, fan_out = math.prod(leaf.shape), math.prod(leaf.shape[:-2]) * leaf.shape[-1]
        variance = 2.0 / fan_out if len(leaf.shape) == 4 else 1.0 / leaf.shape[0]
        values.append(jnp.asarray(flat[used : used + size].reshape(leaf.shape) * np.float32(math.sqrt(variance))))
        used += size
    return jax.tree.unflatten(structure, values)


def _constant(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.asarray(np.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype))
