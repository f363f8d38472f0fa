"""What a run remembers of how far it has come."""

import time

from jaxclf.config import Recipe, Settings
from jaxclf.run.recipes import RECIPES
from jaxclf.run.run_state import RunState


def test_only_the_first_step_counts_also_of_a_resumed_run() -> None:
    recipe: Recipe = RECIPES["two-phase"](Settings(arch="resnet10t"))
    run = RunState(recipe)
    assert run.seconds_to_first_step is None
    run.first_step(time.perf_counter() - 5.0)
    told = run.seconds_to_first_step
    assert told is not None and 5.0 <= told < 60.0
    resumed = RunState.from_dict(run.to_dict(), recipe, [], None)
    resumed.first_step(time.perf_counter() - 99.0)
    assert resumed.seconds_to_first_step == told
