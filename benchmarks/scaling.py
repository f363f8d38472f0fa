"""What does dividing a batch among devices cost? Time per train step on virtual devices of one CPU, beside no mesh.

The batch is the same for all, whole, and the devices share the machine's cores; so there is nothing to be gained, and
what a step takes longer than without a mesh is the overhead: starting more programs, each on fewer rows, and waiting
for each other at each of BatchNorm's and the gradient's sums. No speed-up is claimed or can be read from it.

A step goes from uint8 pictures on the devices to new parameters: side-on augmentation, forward, cross-entropy,
backward, Nesterov momentum, BatchNorm over the whole batch, all layers trained.
"""

import dataclasses

import jax
from harness import Run
from steps import step_run

TURNS = 15
SMOKE = {"image_size": 32, "batch_size": 8}


@dataclasses.dataclass(frozen=True)
class Case:
    devices: int = 1
    arch: str = "resnet10t"
    batch_size: int = 32
    image_size: int = 64


def cases() -> list[Case]:
    return [Case(devices) for devices in (1, 2, 4, 8)]


def prepare() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_platforms", "cpu")


def ours(case: Case) -> Run:
    return step_run(f"{case.devices} devices", case, devices=case.devices, augment="side_on")


def peer(case: Case) -> Run:
    return step_run("no mesh", dataclasses.replace(case, devices=0), augment="side_on")
