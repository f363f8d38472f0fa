"""Fine-tune a pretrained ResNet on a folder of photos, with the public functions only: the main job in one sitting.

    python scripts/fit_folder.py PHOTOS [--arch resnet10t] [--weights tiny-imagenet] [--image-size 96] [--epochs 3]

PHOTOS holds train/CLASS/* and valid/CLASS/*, or just CLASS/*. Nothing is written; `jaxclf fit` keeps a record.
"""

import argparse
import dataclasses

import jax

import jaxclf
from jaxclf import Phase

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("photos")
parser.add_argument("--arch", default="resnet10t")
parser.add_argument("--weights", default="tiny-imagenet")
parser.add_argument("--image-size", type=int, default=96)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--lr", type=float, default=0.02)
args = parser.parse_args()
jaxclf.enable_compilation_cache()

# The data: one class list for both parts, pictures decoded once and kept as uint8.
data = jaxclf.open_data(args.photos)
pretrained = jaxclf.load_weights(args.weights, args.arch)
preprocess = dataclasses.replace(pretrained.config.preprocess, image_size=args.image_size)
common = {"batch_size": args.batch_size, "image_size": args.image_size, "preprocess": preprocess}
train = jaxclf.Loader(data.train, train=True, **common)
valid = jaxclf.Loader(data.valid, train=False, **common)

# The network: the body from the file, the head new.
model = jaxclf.create_classifier(args.arch, len(data.train.classes))
variables = jaxclf.init_variables(model, jax.random.key(0), image_size=args.image_size)
variables = jaxclf.merge_variables(variables, pretrained.variables)

# First the head on a frozen body, then all layers, the earlier ones at lower rates.
rates = jaxclf.discriminative_lrs(args.lr / 100, args.lr, 3)
phases = [
    Phase("head", lrs=rates, frozen=jaxclf.frozen_prefix("stage4")),
    Phase("all layers", lrs=rates, cycle_epochs=args.epochs),
]
for number, phase in enumerate(phases):
    result = jaxclf.fit(model, variables, phase, train, valid, phase_number=number, first_epoch=number)
    variables = result.state.variables
    for row in result.epochs:
        loss, accuracy = row["valid_loss"], row["valid_accuracy"]
        print(f"{phase.name:10s} epoch {row['epoch'] + 1}: loss {loss:.4f}, accuracy {accuracy:.3f}")

matrix = jaxclf.confusion_matrix(result.predictions)
for name, counts in zip(data.valid.classes, matrix, strict=True):
    taken_for = ", ".join(f"{other}: {count}" for other, count in zip(data.valid.classes, counts, strict=True))
    print(f"{name:>12s} was taken for {taken_for}")
