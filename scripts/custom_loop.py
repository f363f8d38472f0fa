"""A training loop of one's own: gradients clipped by hand, a record of its own, stopped and gone on with to the bit.

    python scripts/custom_loop.py PHOTOS [--arch resnet10t] [--weights tiny-imagenet] [--image-size 96]
                                  [--stop-at STEP] [--checkpoint custom_loop]

Stopped at a step, it leaves a checkpoint; the same command without --stop-at goes on from there. The loop needs five
names: make_program, train, Epoch, save_snapshot, restore_snapshot. `jaxclf.fit` is the same loop, drained.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxclf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos")
parser.add_argument("--arch", default="resnet10t")
parser.add_argument("--weights", default="tiny-imagenet")
parser.add_argument("--image-size", type=int, default=96)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--stop-at", type=int, help="after so many steps")
parser.add_argument("--checkpoint", type=Path, default=Path("custom_loop"))
args = parser.parse_args()
jaxclf.enable_compilation_cache()

data = jaxclf.open_data(args.photos)
pretrained = jaxclf.load_weights(args.weights, args.arch)
preprocess = dataclasses.replace(pretrained.config.preprocess, image_size=args.image_size)
common = {"batch_size": args.batch_size, "image_size": args.image_size, "preprocess": preprocess}
train = jaxclf.Loader(data.train, train=True, **common)
valid = jaxclf.Loader(data.valid, train=False, **common)
model = jaxclf.create_classifier(args.arch, len(data.train.classes))
variables = jaxclf.init_variables(model, jax.random.key(0), image_size=args.image_size)
variables = jaxclf.merge_variables(variables, pretrained.variables)

# No value of the gradient may exceed 0.01. Any optax transformation will do; this one is written by hand.
clip = optax.stateless(lambda gradients, params: jax.tree.map(lambda leaf: jnp.clip(leaf, -0.01, 0.01), gradients))
phase = jaxclf.Phase("all layers", lrs=(0.001, 0.01, 0.1), num_cycles=2, cycle_mult=2, keep_best=True)
program = jaxclf.make_program(model, phase, train, gradients=clip)

start: Any = program.init(variables)
if args.checkpoint.exists():
    start = jaxclf.restore_snapshot(args.checkpoint, start)
    print(f"going on from {args.checkpoint}: epoch {start.epoch + 1}, batch {start.batch + 1}")
for event in jaxclf.train(program, start, train, valid):
    for row in event.rows:
        if row["kind"] == "step":
            print(f"step {row['step'] + 1:4d}: loss {row['loss']:.6f}, rate of the head {row['lrs'][-1]:.4f}")
    if isinstance(event, jaxclf.Epoch):
        print(f"epoch {event.epoch + 1}: validation loss {event.figures['valid_loss']:.6f}")
        if event.last:
            state, predictions = event.result()  # of the best epoch, whose variables are state.variables
            print(f"the best epoch has a validation loss of {event.best.loss:.6f}")
    elif args.stop_at == event.step:
        where = jaxclf.save_snapshot(args.checkpoint, event.snapshot())
        print(f"stopped; the same command without --stop-at goes on from {where}")
        break
