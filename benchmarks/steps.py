"""Train steps and epochs of one compiled program, as sides of a comparison. Used by several questions."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import Run, pictures

from jaxclf.config import Phase, Settings, frozen_prefix
from jaxclf.data.activations import AnyLoader
from jaxclf.data.batches import Batch
from jaxclf.data.decode import presize
from jaxclf.data.devices import data_mesh, shard_batch
from jaxclf.data.loader import Loader
from jaxclf.data.sources import ArrayDataset
from jaxclf.models import create_classifier, init_variables
from jaxclf.training.program import make_program

NUM_CLASSES = 10
RATE = 1e-3
#: What is trained -> the last frozen module.
PARTS = {"full": None, "stage4+head": "stage3", "head": "stage4"}
SETTINGS = Settings(momentum=0.9, weight_decay=1e-4)


class Program:
    """The compiled program of a phase with Nesterov momentum, and its state."""

    def __init__(self, model: Any, variables: Any, train: AnyLoader, *, batch: Batch | None = None, **phase: Any):
        described = Phase("measured", cycle_epochs=1000, lrs=(RATE,), **phase)
        self.program = make_program(model, described, train, SETTINGS)
        self.state = self.program.init(variables)
        first = next(iter(train.epoch(0))) if batch is None else batch
        self.train, self.batch = train, shard_batch(first, train.mesh, batch_size=train.batch_size)
        started = time.perf_counter()
        step: Any = self.program.shared_step
        told = self.program.hyperparameters(self.state.step)
        self.compiled = step.lower(self.state, self.batch, self.program.key, told).compile()
        seconds, flops = time.perf_counter() - started, self.compiled.cost_analysis()["flops"]
        self.notes = {"compile s": seconds, "GFLOP of a step": flops / 1e9}

    def step(self, number: int) -> None:
        """One step on the same batch, until its new state is there."""
        told = self.program.hyperparameters(self.state.step)
        self.state, metrics = self.compiled(self.state, self.batch, self.program.key, told)
        jax.block_until_ready((self.state, metrics))

    def epoch(self, number: int) -> None:
        """One epoch, until its last loss is on the host."""
        *_, (self.state, metrics) = self.program.epoch(self.state, self.train, number)
        float(metrics["loss"])


@functools.lru_cache(2)  # a peer that is the same for all cases is made once
def step_run(
    name: str,
    case: Any,
    *,
    through: str | None = None,
    augment: str = "none",
    dtype: str = "float32",
    devices: int = 0,
) -> Run:
    """Steps of `case.arch` on noise of `case.image_size`, `case.batch_size` at once, frozen through a module."""
    count, size = case.batch_size, case.image_size
    model = create_classifier(case.arch, NUM_CLASSES, dtype=jnp.dtype(dtype))
    variables = init_variables(model, jax.random.key(0), image_size=size)
    mesh = data_mesh(devices) if devices else None
    augmented = augment != "none"
    images = pictures(count, presize(size) if augmented else size)
    labels, index = np.arange(count, dtype=np.int32) % NUM_CLASSES, np.arange(count, dtype=np.int32)
    data = ArrayDataset(images, labels)
    train = Loader(data, batch_size=count, image_size=size, train=True, presized=augmented, mesh=mesh)
    # By hand, so that the step is measured without Grain where that is not installed.
    batch = Batch(images, labels, np.ones(count, np.float32), index)
    program = Program(model, variables, train, batch=batch, frozen=frozen_prefix(through), augment=augment)
    return Run(name, program.step, items=count, notes=program.notes)
