"""The peer: a ResNet's train step as Flax's ImageNet example has it, written anew from its description.

Linen layers, BatchNorm with Flax's own statistics, `max_pool` with SAME padding, softmax cross-entropy plus a penalty
on kernels, Nesterov momentum; parameters float32, compute bfloat16. Its pictures come normalised from the host, so it
has neither normalisation nor augmentation on the device, nor masks, nor a check that the result is finite.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

SIZES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


class Residual(nn.Module):
    """A basic or bottleneck block, of which the last normalisation begins at 0."""

    width: int
    stride: int
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype
        )
        out, strides = self.width * (4 if self.bottleneck else 1), (self.stride, self.stride)
        if self.bottleneck:
            y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
            y = nn.relu(norm()(conv(self.width, (3, 3), strides)(y)))
            y = conv(out, (1, 1))(y)
        else:
            y = nn.relu(norm()(conv(self.width, (3, 3), strides)(x)))
            y = conv(out, (3, 3))(y)
        y = norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = norm(name="norm_proj")(conv(out, (1, 1), strides, name="conv_proj")(x))
        return nn.relu(x + y)


class Network(nn.Module):
    """Stem, four stages, mean, and a dense layer."""

    arch: str
    num_classes: int = 1000
    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = nn.Conv(64, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], use_bias=False, dtype=self.dtype)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)(x)
        x = nn.max_pool(nn.relu(x), (3, 3), strides=(2, 2), padding="SAME")
        for stage, blocks in enumerate(SIZES[self.arch]):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = Residual(64 * 2**stage, stride, self.arch == "resnet50", self.dtype)(x, train)
        x = jnp.mean(x, axis=(1, 2))
        return jnp.asarray(nn.Dense(self.num_classes, dtype=self.dtype)(x), jnp.float32)


def example_step(arch: str, size: int, batch: int, dtype: Any = jnp.bfloat16) -> tuple[Any, tuple[Any, ...]]:
    """The step (parameters, statistics, momentum, images, labels) -> the first three and the loss; its arguments."""
    network, optimizer = Network(arch, dtype=dtype), optax.sgd(0.1, momentum=0.9, nesterov=True)

    def step(params: Any, stats: Any, momentum: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss_fn(params: Any) -> Any:
            variables = {"params": params, "batch_stats": stats}
            logits, updated = network.apply(variables, images, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])).mean()
            kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
            return loss + 0.5e-4 * sum(jnp.sum(kernel**2) for kernel in kernels), updated["batch_stats"]

        (loss, stats_now), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, momentum_now = optimizer.update(gradients, momentum, params)
        return optax.apply_updates(params, updates), stats_now, momentum_now, loss

    images = jax.ShapeDtypeStruct((batch, size, size, 3), dtype)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(images.shape, dtype)))
    momentum = jax.eval_shape(optimizer.init, variables["params"])
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return step, (variables["params"], variables["batch_stats"], momentum, images, labels)
