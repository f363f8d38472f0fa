"""`jaxclf cost`: what training a network would need, without data, weights or the device it would run on."""

import functools
import json
from typing import Any, Literal

from jaxclf.cli.arguments import UsageError, Work

FORMAT_VERSION = 1


def cost(
    arch: str = "resnet34",
    image_size: int = 224,
    batch_size: int = 64,
    head: Literal["linear", "concat"] = "linear",
    num_classes: int = 2,
    precision: Literal["float32", "bfloat16"] = "float32",
    optimizer: Literal["sgd", "adamw"] = "sgd",
    format: Literal["table", "json"] = "table",
) -> Work:
    """Parameters, memory and FLOPs of a train step, for everything that can be frozen. Nothing is trained or run.

    Memory is an estimate from shapes: what the backward pass needs at least, and what it would need if the compiler
    computed nothing anew. FLOPs are those of convolutions and matrix products, two per multiply-add.

    Example: jaxclf cost --arch resnet50 --batch-size 128 --precision bfloat16

    Args:
      arch: architecture, for example resnet18.
      image_size: side of the square input, in pixels.
      batch_size: pictures per step.
      head: "linear" (average pool, one dense layer) or "concat" (fastai's two-layer head).
      num_classes: classes that are told apart.
      precision: compute type; fit takes bfloat16 on GPU and TPU, float32 on CPU.
      optimizer: "sgd" (Nesterov momentum) or "adamw".
      format: how to print; json has bytes and FLOPs as whole numbers.
    """
    choices = {"head": head, "num_classes": num_classes, "precision": precision, "optimizer": optimizer}
    return functools.partial(
        _cost, {"arch": arch, "image_size": image_size, "batch_size": batch_size, **choices}, format
    )


def _cost(choices: dict[str, Any], format: str) -> int:
    import jax.numpy as jnp

    from jaxclf.models import create_classifier
    from jaxclf.training.cost import forward_flops, freezing_costs

    if choices["num_classes"] < 1:
        raise UsageError(f"num_classes={choices['num_classes']} must be at least 1")
    try:
        dtype = jnp.dtype(choices["precision"])
        model = create_classifier(choices["arch"], choices["num_classes"], head=choices["head"], dtype=dtype)
        sizes = {name: choices[name] for name in ("image_size", "batch_size")}
        rows = freezing_costs(model, **sizes, optimizer=choices["optimizer"])
    except ValueError as error:
        raise UsageError(str(error)) from error
    per_picture = forward_flops(model, image_size=choices["image_size"])
    if format == "json":
        steps = [{**row._asdict(), "relative_flops": row.flops / rows[0].flops} for row in rows]
        content = {"format_version": FORMAT_VERSION, **choices, "inference_flops": per_picture, "steps": steps}
        print(json.dumps(content, indent=1))  # noqa: T201
    else:
        _show(choices, rows, per_picture)
    return 0


def _show(choices: dict[str, Any], rows: Any, per_picture: int) -> None:
    from rich.table import Table

    from jaxclf._words import describe_bytes, describe_count, describe_flops
    from jaxclf.cli.terminal import Terminal

    terminal = Terminal()
    title = "{arch}, {image_size} px, batch {batch_size}, {precision}, {optimizer}, {head} head".format(**choices)
    table = Table("frozen", "trained", "fixed", "activations", "at most", "a step", "share", title=title)
    for row in rows:
        table.add_row(
            _frozen(row),
            describe_count(row.num_trainable),
            describe_bytes(row.fixed_bytes),
            describe_bytes(row.activation_bytes),
            describe_bytes(row.activation_bound),
            describe_flops(row.flops),
            f"{row.flops / rows[0].flops:.2g}",
        )
    terminal.console.print(table)
    terminal.note(f"{rows[0].num_parameters:,} parameters; a prediction takes {describe_flops(per_picture)} a picture")
    terminal.note("fixed memory: parameters, running statistics, optimizer state, gradient (1 GB is 10^9 bytes)")
    terminal.note("activations: what the backward pass needs; at most: if the compiler computes nothing anew")
    terminal.note('all of it is estimated from shapes, so leave room; "cached" trains the head on stored activations')
    terminal.note("the time of a step: its FLOPs over what your device does in a second, which is not assumed here")


def _frozen(row: Any) -> str:
    if row.start is not None:
        return "cached"
    return f"to {row.frozen[-1]}" if row.frozen else "nothing"
