"""What does freezing save? Compile time, step time and FLOPs of a train step, by how much of the body is frozen.

float32, with side_on augmentation in the step; held against the step with nothing frozen.
"""

import dataclasses

from harness import Run
from steps import step_run

SMOKE = {"through": "stage4", "arch": "resnet10t", "image_size": 32, "batch_size": 2}


@dataclasses.dataclass(frozen=True)
class Case:
    through: str = "stage1"
    arch: str = "resnet18"
    image_size: int = 96
    batch_size: int = 32


def cases() -> list[Case]:
    return [Case("stage1"), Case("stage3"), Case("stage4")]


def ours(case: Case) -> Run:
    return step_run(f"frozen through {case.through}", case, through=case.through, augment="side_on")


def peer(case: Case) -> Run:
    return step_run("nothing frozen", dataclasses.replace(case, through=""), augment="side_on")
