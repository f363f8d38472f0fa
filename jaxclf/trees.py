"""Split and join parameter trees along the six modules of a classifier.

A classifier's parameters are `{"body": {"stem", "stage1", .., "stage4"}, "head"}`. Freezing means taking the frozen
modules *out* of the tree before differentiating, so they cost a forward pass and nothing else.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Tree = dict[str, Any]

#: The modules of every classifier in depth order. A set of frozen modules is always a prefix of this tuple.
MODULES = ("stem", "stage1", "stage2", "stage3", "stage4", "head")


def frozen_prefix(through: str | None) -> tuple[str, ...]:
    """The frozen tuple that ends with module `through`; `None` freezes nothing.

    >>> frozen_prefix("stage1")
    ('stem', 'stage1')
    >>> frozen_prefix(None)
    ()
    """
    if through is None:
        return ()
    if through not in MODULES:
        raise ValueError(f"through={through!r} is not a module; choose one of {', '.join(MODULES)}")
    return MODULES[: MODULES.index(through) + 1]


def cut_prefix(cut: str | None) -> tuple[str, ...]:
    """The modules that make the activation at a cut, as a frozen tuple; `pooled` comes after stage4, `None` is images.

    >>> cut_prefix("stage1"), cut_prefix("pooled")[-1]
    (('stem', 'stage1'), 'stage4')
    """
    return frozen_prefix("stage4" if cut == "pooled" else cut)


def check_frozen(frozen: tuple[str, ...]) -> tuple[str, ...]:
    """Returns `frozen` as a tuple; raises ValueError unless it is a prefix of `MODULES`."""
    frozen = tuple(frozen)
    if frozen != MODULES[: len(frozen)]:
        raise ValueError(
            f"frozen={frozen!r} is not a prefix of {MODULES!r}: a module can be frozen only if all before it are, "
            f"for example frozen={MODULES[:3]!r}"
        )
    return frozen


def module_path(module: str) -> tuple[str, ...]:
    """Where a module's parameters live: `("head",)` or `("body", module)`."""
    return ("head",) if module == "head" else ("body", module)


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
