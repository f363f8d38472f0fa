"""Layer groups: which parameters share a learning rate, and what those rates are."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxclf.config import MODULES
from jaxclf.models.trees import Tree

#: Modules of each group, earliest layers first, by the number of groups.
GROUPS: dict[int, tuple[tuple[str, ...], ...]] = {
    1: (MODULES,),
    2: (MODULES[:5], ("head",)),
    3: (("stem", "stage1", "stage2"), ("stage3", "stage4"), ("head",)),
    6: tuple((module,) for module in MODULES),
}


def group_name(number: int) -> str:
    """The label of layer group `number`, counted from the input.

    >>> group_name(0)
    'group0'
    """
    return f"group{number}"


def layer_groups(params: Mapping[str, Any], *, num_groups: int = 3) -> Tree:
    """Labels every leaf of a parameter tree with its layer group.

    Three groups are {stem, stage1, stage2}, {stage3, stage4}, {head}; two are body and head; six are every module.

    Args:
      params: a parameter tree or its trainable part.
      num_groups: 1, 2, 3 or 6.

    Returns:
      A tree of the same structure with leaves "group0", "group1", ...

    Raises:
      ValueError: for another number of groups, or a module that is not one of the six.
    """
    if num_groups not in GROUPS:
        raise ValueError(f"num_groups={num_groups} must be one of {', '.join(map(str, GROUPS))}")
    labels = {module: group_name(i) for i, group in enumerate(GROUPS[num_groups]) for module in group}

    def label(module: str, leaves: Any) -> Any:
        if module not in labels:
            raise ValueError(f"params hold a module {module!r}; every module must be one of {', '.join(MODULES)}")
        return jax.tree.map(lambda _: labels[module], leaves)

    tree: Tree = {}
    for name, value in params.items():
        tree[name] = {m: label(m, leaves) for m, leaves in value.items()} if name == "body" else label(name, value)
    return tree


def discriminative_lrs(low: float, high: float, num_groups: int) -> tuple[float, ...]:
    """Rates from `low` for the earliest group to `high` for the head, each the same factor above the one before.

    lr_i = low * (high / low) ** (i / (num_groups - 1)); the ends are `low` and `high` to the bit.

    Raises:
      ValueError: for rates that are not positive, or fewer than one group.

    >>> [round(lr, 6) for lr in discriminative_lrs(1e-4, 1e-2, 3)]
    [0.0001, 0.001, 0.01]
    """
    if not (low > 0 and high > 0):
        raise ValueError(f"low={low!r} and high={high!r} must both be positive")
    if num_groups < 1:
        raise ValueError(f"num_groups={num_groups} must be at least 1")
    if num_groups == 1:
        return (float(high),)
    inner = (low * (high / low) ** (i / (num_groups - 1)) for i in range(1, num_groups - 1))
    return (float(low), *inner, float(high))


def group_lrs(lrs: float | Sequence[float], num_groups: int) -> tuple[float, ...]:
    """One rate per group: a number serves all, a pair (low, high) is spread geometrically, a list is taken as it is.

    Raises:
      ValueError: for a list whose length is neither 2 nor `num_groups`.

    >>> group_lrs(0.1, 3)
    (0.1, 0.1, 0.1)
    """
    if isinstance(lrs, int | float):
        return (float(lrs),) * num_groups
    if len(lrs) == num_groups:
        return tuple(float(lr) for lr in lrs)
    if len(lrs) == 2:
        return discriminative_lrs(lrs[0], lrs[1], num_groups)
    raise ValueError(
        f"{len(lrs)} learning rates were given for {num_groups} layer groups; give one, two or {num_groups}"
    )
