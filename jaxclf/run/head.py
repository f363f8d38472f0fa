"""A phase whose head is solved: its features computed once, its ridge by cross-validation, its record."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from jaxclf.config import Phase
from jaxclf.data.activations import ActivationDataset
from jaxclf.models.trees import Tree
from jaxclf.run.folder import append_metrics
from jaxclf.run.prepare import RunContext
from jaxclf.run.processes import is_writer
from jaxclf.training.logistic import RIDGES, SolvedHead
from jaxclf.training.solve import solve_head
from jaxclf.training.state import TrainState, create_train_state


def solve_phase(context: RunContext, phase: Phase, variables: Tree, features: ActivationDataset) -> SolvedHead:
    """The head at its optimum on the phase's features; told to the observer, and in the run's record."""
    with context.observer.task("solving the head", len(RIDGES) + 1) as progress:
        solved = solve_head(context.model, variables, features, settings=context.settings, on_progress=progress)
    edge = ", the end of what was tried" if solved.at_edge else ""
    context.observer.note(
        f"  solved on {len(features)} pictures"
        + (f" in {features.num_views} views each" if features.num_views > 1 else "")
        + f": ridge {solved.ridge:.3g}{edge}, held-out loss {solved.loss:.4f}"
    )
    if is_writer():
        append_metrics(context.folder, ({"kind": "solve", "phase": phase.name, **describe_solution(solved)},))
    return solved


def describe_solution(solved: SolvedHead) -> dict[str, Any]:
    """How the ridge was chosen, as JSON values."""
    return {
        "ridge": solved.ridge,
        "ridges": solved.ridges.tolist(),
        "losses": solved.losses.tolist(),
        "errors": solved.errors.tolist(),
        "num_folds": solved.num_folds,
        "num_held_out": solved.num_held_out,
        "gradient_norm": solved.gradient_norm,
        "iterations": solved.iterations,
    }


def read_solution(values: Mapping[str, Any]) -> SolvedHead:
    """Back from `describe_solution`, without variables."""
    arrays = {name: np.asarray(values[name], np.float64) for name in ("ridges", "losses", "errors")}
    return SolvedHead(variables={}, **{**values, **arrays})


def solved_state(phase: Phase, variables: Tree) -> TrainState:
    """What a checkpoint holds of a phase that took no steps."""
    return create_train_state(variables, optax.identity(), frozen=phase.frozen)
