"""What BatchNorm layers see: the moments of their inputs, and a tree of statistics made of such."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from jaxclf.models.classifier import Classifier
from jaxclf.models.norm import BatchNorm, masked_moments
from jaxclf.models.trees import Tree

#: Of each layer, by the path of its statistics: mean [c], biased variance [c] and number of positions [].
Moments = dict[str, tuple[jax.Array, jax.Array, jax.Array]]


def norm_moments(model: Classifier, variables: Mapping[str, Any], x: jax.Array, mask: jax.Array | None) -> Moments:
    """The moments of what each BatchNorm of the body is given for images x [b, h, w, c].

    As in training, each layer normalises by the batch's own statistics, so the layers after it see what they will be
    given once it has them. Examples with `mask` [b] of 0 (padding) are left out. Works under jit.
    """
    found: Moments = {}

    def watched(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            found["/".join(context.module.path)] = masked_moments(args[0], mask)
        return call(*args, **kwargs)

    with nn.intercept_methods(watched):
        model.apply(variables, x, train=True, stop="pooled", mask=mask, mutable=["batch_stats"])
    return found


def with_statistics(batch_stats: Mapping[str, Any], found: Mapping[str, tuple[Any, Any]]) -> Tree:
    """`batch_stats` with mean and variance of the layers whose paths are in `found`; the others are as they were."""

    def filled(tree: Mapping[str, Any], path: str) -> Tree:
        if path in found:
            mean, variance = found[path]
            return {**tree, "mean": mean, "var": variance}
        below = {
            name: filled(branch, f"{path}{'/' * bool(path)}{name}") for name, branch in tree.items() if is_tree(branch)
        }
        return {**tree, **below}

    def is_tree(branch: Any) -> bool:
        return isinstance(branch, Mapping)

    return filled(batch_stats, "")
