"""Split and join parameter trees along the six modules of a classifier.

A classifier's parameters are `{"body": {"stem", "stage1", .., "stage4"}, "head"}`. Freezing means taking the frozen
modules *out* of the tree before differentiating, so they cost a forward pass and nothing else.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxclf.config import MODULES, check_frozen, cut_prefix, frozen_prefix, module_path

__all__ = [
    "MODULES",
    "Tree",
    "check_frozen",
    "combine",
    "cut_prefix",
    "frozen_prefix",
    "leaf_paths",
    "module_path",
    "num_parameters",
    "partition",
    "tree_digest",
]

Tree = dict[str, Any]


def partition(tree: Mapping[str, Any], frozen: tuple[str, ...]) -> tuple[Tree, Tree]:
    """Splits a tree of modules into (trainable, frozen) trees that share no leaf.

    Args:
      tree: `params` or `batch_stats`. Modules without an entry are passed over.
      frozen: a prefix of `MODULES`.

    Returns:
      Two trees of the same nesting; `combine` joins them again. An empty module group is left out.

    >>> partition({"body": {"stem": 1, "stage1": 2}, "head": 3}, ("stem",))
    ({'body': {'stage1': 2}, 'head': 3}, {'body': {'stem': 1}})
    """
    frozen = check_frozen(frozen)
    kept: Tree = {}
    taken: Tree = {}
    for name, value in tree.items():
        if name != "body":
            (taken if name in frozen else kept)[name] = value
            continue
        for module, leaves in value.items():
            (taken if module in frozen else kept).setdefault("body", {})[module] = leaves
    return kept, taken


def combine(*trees: Mapping[str, Any]) -> Tree:
    """Joins trees made by `partition`; raises ValueError where two of them hold the same module.

    >>> combine({"body": {"stage1": 2}}, {"body": {"stem": 1}, "head": 3})
    {'body': {'stage1': 2, 'stem': 1}, 'head': 3}
    """
    joined: Tree = {}
    for tree in trees:
        for name, value in tree.items():
            if name == "body":
                body = joined.setdefault("body", {})
                for module, leaves in value.items():
                    if module in body:
                        raise ValueError(f"cannot combine: module body/{module} is in two trees")
                    body[module] = leaves
            elif name in joined:
                raise ValueError(f"cannot combine: module {name} is in two trees")
            else:
                joined[name] = value
    return joined


def leaf_paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("a/b/c", leaf) for nested dicts, in sorted order.

    >>> list(leaf_paths({"b": {"x": 1}, "a": 2}))
    [('a', 2), ('b/x', 1)]
    """
    for name in sorted(tree):
        value = tree[name]
        if isinstance(value, Mapping):
            yield from leaf_paths(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def num_parameters(tree: Mapping[str, Any]) -> int:
    """The number of values in a tree of arrays."""
    return sum(int(leaf.size) for _, leaf in leaf_paths(tree))


def tree_digest(tree: Mapping[str, Any]) -> str:
    """sha256 over every leaf's path, type, shape and bytes."""
    digest = hashlib.sha256()
    for path, leaf in leaf_paths(tree):
        value = np.asarray(leaf)
        digest.update(f"{path} {value.dtype.name} {value.shape}\n".encode() + value.tobytes())
    return digest.hexdigest()
