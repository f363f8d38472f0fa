"""`jaxclf cost`: what training a network would need, without data, weights or the device it would run on."""

import json
from typing import Any, Literal

from jaxclf.cli.arguments import UsageError, command, wrong_usage

FORMAT_VERSION = 1


@command
class Cost:
    """Parameters, memory and FLOPs of a train step, for everything that can be frozen. Nothing is trained or run.

    Memory is an estimate from shapes: what the backward pass needs at least, and what it would need if the compiler
    computed nothing anew. FLOPs are those of convolutions and matrix products, two per multiply-add.

    Example: jaxclf cost --arch resnet50 --batch-size 128 --precision bfloat16

    Attributes:
      arch: architecture, for example resnet18.
      image_size: side of the square input, in pixels.
      batch_size: pictures per step.
      head: "pools" (one dense layer on both pools), "linear" (on the average pool) or "concat" (fastai's).
      num_classes: classes that are told apart.
      precision: compute type; fit takes bfloat16 on GPU and TPU, float32 on CPU.
      optimizer: "sgd" (Nesterov momentum) or "adamw".
      format: how to print; json has bytes and FLOPs as whole numbers.
    """

    arch: str = "resnet34"
    image_size: int = 224
    batch_size: int = 64
    head: Literal["pools", "linear", "concat"] = "pools"
    num_classes: int = 2
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    format: Literal["table", "json"] = "table"

    def __call__(self) -> int:
        import jax.numpy as jnp

        from jaxclf.models import create_classifier
        from jaxclf.training.cost import forward_flops, freezing_costs

        if self.num_classes < 1:
            raise UsageError(f"num_classes={self.num_classes} must be at least 1")
        size, batch_size = self.image_size, self.batch_size
        with wrong_usage():
            dtype = jnp.dtype(self.precision)
            model = create_classifier(self.arch, self.num_classes, head=self.head, dtype=dtype)
            rows = freezing_costs(model, image_size=size, batch_size=batch_size, optimizer=self.optimizer)
        per_picture = forward_flops(model, image_size=size)
        if self.format == "json":
            steps = [{**row._asdict(), "relative_flops": row.flops / rows[0].flops} for row in rows]
            choices = {name: value for name, value in vars(self).items() if name != "format"}
            content = {"format_version": FORMAT_VERSION, **choices, "inference_flops": per_picture, "steps": steps}
            print(json.dumps(content, indent=1))  # noqa: T201
        else:
            _show(vars(self), rows, per_picture)
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
