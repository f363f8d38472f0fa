"""Count what a trace computes: the convolutions and matrix products of a jaxpr, and their FLOPs."""

import math
from collections.abc import Iterator
from typing import Any, cast

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

#: The primitives that nearly all work is done in.
PRODUCTS = ("conv_general_dilated", "dot_general")


def count_flops(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """FLOPs of the convolutions and matrix products of a trace, two per multiply-add.

    A convolution of an input that was spread by zeros (the gradient of one with a stride) counts without the zeros.
    Of the branches of a `cond` the dearest counts, of those for platforms the one for any that is not named; a `scan`
    counts as often as it runs, a `while` once.

    >>> import jax
    >>> x, kernel = jax.ShapeDtypeStruct((3, 5), "float32"), jax.ShapeDtypeStruct((5, 7), "float32")
    >>> count_flops(jax.make_jaxpr(jax.numpy.dot)(x, kernel)) == 2 * 3 * 5 * 7
    True
    """
    total = 0
    for equation in _open(jaxpr).eqns:
        inner = [count_flops(part) for part in _parts(equation)]
        if equation.primitive.name == "cond":
            total += max(inner)
        elif equation.primitive.name == "scan":
            total += equation.params["length"] * sum(inner)
        else:
            total += sum(inner) + _own_flops(equation)
    return total


def _own_flops(equation: JaxprEqn) -> int:
    if equation.primitive.name not in PRODUCTS:
        return 0
    left, right, out = (cast(Any, variable.aval) for variable in (*equation.invars, equation.outvars[0]))
    dimensions = equation.params["dimension_numbers"]
    if equation.primitive.name == "dot_general":
        taken = math.prod(left.shape[axis] for axis in dimensions[0][0])
    else:
        _, features, *spatial = (right.shape[axis] for axis in dimensions.rhs_spec)
        taken = features * math.prod(spatial)
    spread = math.prod(equation.params.get("lhs_dilation") or ())
    return 2 * out.size * taken // spread


def _open(jaxpr: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def _parts(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The traces within an equation: of a jitted function, a loop's body, branches.

    Of branches for platforms (`lax.platform_dependent`) only that for any other: counted are accelerators' costs.
    """
    params = equation.params
    if platforms := params.get("branches_platforms"):
        params = {"branches": [params["branches"][platforms.index(None)]]}
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                yield _open(part)


def products(jaxpr: ClosedJaxpr | Jaxpr) -> Iterator[JaxprEqn]:
    """The convolutions and matrix products of a trace, in order, each once, whatever loop or branch it is in."""
    for equation in _open(jaxpr).eqns:
        if equation.primitive.name in PRODUCTS:
            yield equation
        for part in _parts(equation):
            yield from products(part)
