"""The rates of a run's phase: as given, as those of the phase before, or found by a learning-rate test."""

import dataclasses
import time
from typing import Any, NamedTuple

from jaxclf.config import Phase
from jaxclf.data.activations import AnyLoader
from jaxclf.models.trees import Tree
from jaxclf.run.folder import write_rates, write_recipe
from jaxclf.run.prepare import RunContext
from jaxclf.run.processes import is_writer
from jaxclf.run.recipes import default_lr
from jaxclf.run.run_state import RunState
from jaxclf.training.lr_curve import LRCurve, Suggestion, suggestions
from jaxclf.training.lr_finder import find_lr, finder_range, worth_a_test

#: The rules that are asked for a rate where the settings' own does not apply. Not `steep`, which spreads too far.
FALLBACKS = ("edge", "valley", "minimum")


class FoundRate(NamedTuple):
    """What a learning-rate test said. `rule` is None where no rule applied, and `lr` then the default."""

    phase: str
    lr: float
    rule: str | None
    curve: LRCurve
    suggestions: dict[str, Suggestion]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        curve = {name: values.tolist() for name, values in self.curve._asdict().items() if hasattr(values, "tolist")}
        return {
            "phase": self.phase,
            "lr": self.lr,
            "rule": self.rule,
            "seconds": self.seconds,
            "reason": self.curve.reason,
            "suggestions": {name: {"lr": s.lr, "reason": s.reason} for name, s in self.suggestions.items()},
            "curve": curve,
        }


def with_rates(context: RunContext, run: RunState, variables: Tree, train_loader: AnyLoader) -> Phase:
    """The phase as it is really run, its rates found; the run's record is told."""
    phase, lr = run.phase, run.previous_lr
    if phase.lr_from == "find":
        lr = find_rate(context, run, variables, train_loader)
    if phase.lr_from != "given":
        if lr is None:
            raise ValueError(f"phase {phase.name!r} takes the rate of the phase before it, and there is none")
        phase = dataclasses.replace(phase, lrs=tuple(lr * ratio for ratio in phase.lrs), lr_from="given")
    run.set_phase(phase)
    if is_writer():
        write_recipe(context.folder, run.recipe)
        if run.rates:
            write_rates(context.folder, run.rates)
    return phase


def find_rate(context: RunContext, run: RunState, variables: Tree, train_loader: AnyLoader) -> float:
    """The rate that a test suggests, told to the run's record; the default where a test is not worth its while.

    Unless a rule is asked for, a phase that goes on from a standing head takes a twentieth of the rate at which the
    loss leaves; the test ends where that is `HIGHEST_RATE`, and if the loss has not left by then, the default is taken.
    Networks with BatchNorm in training hardly ever break: a test of all rates would end far above any that is of use.
    """
    phase, settings, started, stands = run.phase, context.settings, time.perf_counter(), run.best is not None
    over = finder_range(settings, stands=stands)
    if not worth_a_test(phase, len(train_loader), over):
        default = default_lr(settings, solved=stands)
        context.observer.note(
            f"rate for {phase.name!r}: {default:.2g}, the default: with {phase.num_epochs * len(train_loader)} steps "
            "the phase is shorter than a search for a rate; --lr sets another"
        )
        return default
    with context.observer.task("finding the rate", over.num_steps) as progress:
        curve = find_lr(
            context.model,
            variables,
            train_loader,
            lrs=phase.lrs,
            frozen=phase.frozen,
            **over._asdict(),
            settings=settings,
            augment=phase.augment,
            on_progress=progress,
        )
    found = suggestions(curve)
    auto = settings.lr_rule == "auto"
    first = ("edge" if stands else "valley") if auto else settings.lr_rule
    rules = (first, *(name for name in FALLBACKS if name != first and not (auto and stands)))
    rule = next((name for name in rules if found[name].lr is not None), None)
    lr = default_lr(settings, solved=stands) if rule is None else float(found[rule])
    suggested = f"the default: {found[first].reason}" if rule is None else f"by rule {rule}"
    context.observer.note(f"rate for {phase.name!r}: {lr:.2g}, {suggested}, from {len(curve.lrs)} steps")
    run.rates.append(FoundRate(phase.name, lr, rule, curve, found, time.perf_counter() - started).to_dict())
    return lr
