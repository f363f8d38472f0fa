"""How far a run has come: what the next phase, the summary, and a resume after a kill need to know."""

import dataclasses
import time
from typing import Any

from jaxclf.config import Phase, Recipe, from_dict
from jaxclf.metrics import Predictions


@dataclasses.dataclass
class RunState:
    """A run under way.

    Attributes:
      recipe: with the rates that were found so far.
      number: of the phase under way, or to come next.
      steps: what each phase brought, as in `summary.json`.
      cached: what was computed once, for each phase that did.
      rates: the learning-rate tests, as in `lr_curves.json`.
      best: number of the ended phase whose result the run holds, from which the next one starts; None before the first.
      latest: that result's predictions for the validation pictures.
      seconds_to_first_step: from the run's beginning until a step was taken or a head solved; None before.
      seconds, phase_seconds: spent on the run, and on this phase, before this process took over.
    """

    recipe: Recipe
    number: int = 0
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    cached: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rates: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: int | None = None
    latest: Predictions | None = None
    seconds_to_first_step: float | None = None
    seconds: float = 0.0
    phase_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._started = self._phase_started = time.perf_counter()

    @property
    def phase(self) -> Phase:
        """The phase under way."""
        return self.recipe.phases[self.number]

    @property
    def finished(self) -> bool:
        """Whether all phases have ended."""
        return self.number == len(self.recipe.phases)

    @property
    def first_epoch(self) -> int:
        """Epochs before this phase, by the recipe: order does not depend on where a phase was stopped."""
        return sum(phase.num_epochs for phase in self.recipe.phases[: self.number])

    @property
    def previous_lr(self) -> float | None:
        """The last layer group's rate in the phase before that was trained; None without one."""
        trained = (phase for phase in reversed(self.recipe.phases[: self.number]) if not phase.solve)
        return next((phase.lrs[-1] for phase in trained), None)

    def set_phase(self, phase: Phase) -> None:
        """Puts in the phase under way as it is really run."""
        phases = (*self.recipe.phases[: self.number], phase, *self.recipe.phases[self.number + 1 :])
        self.recipe = dataclasses.replace(self.recipe, phases=phases)

    def start_clock(self) -> None:
        """A phase begins."""
        self._phase_started = time.perf_counter()

    def first_step(self, started: float) -> None:
        """A step has been taken, or a head solved, in a run that began at `started` of `time.perf_counter`."""
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = time.perf_counter() - started

    def total_seconds(self) -> float:
        """Spent on the run."""
        return self.seconds + time.perf_counter() - self._started

    def total_phase_seconds(self) -> float:
        """Spent on the phase under way."""
        return self.phase_seconds + time.perf_counter() - self._phase_started

    def end_phase(self, step: dict[str, Any], predictions: Predictions, *, on_the_way: bool = False) -> bool:
        """The phase under way has brought `step`. Returns whether the run goes on from it, not from what was before.

        It does where its validation loss is lower than that. A phase `on_the_way`, at another image size than the final
        one, is not held against others: it counts, and so does whatever comes after it.
        """
        before = None if self.best is None else self.steps[self.best]
        kept = before is None or on_the_way or before["on_the_way"] or step["loss"] < before["loss"]
        self.steps.append({**step, "on_the_way": on_the_way, "kept": kept})
        if kept:
            self.best, self.latest = self.number, predictions
        self.number += 1
        self.phase_seconds = 0.0
        self.start_clock()
        return kept

    def to_dict(self) -> dict[str, Any]:
        """All but arrays and curves, as JSON values; `num_rates` says how many of `lr_curves.json` count."""
        return {
            "number": self.number,
            "best": self.best,
            "phases": [dataclasses.asdict(phase) for phase in self.recipe.phases],
            "steps": list(self.steps),
            "cached": list(self.cached),
            "num_rates": len(self.rates),
            "seconds_to_first_step": self.seconds_to_first_step,
            "seconds": self.total_seconds(),
            "phase_seconds": self.total_phase_seconds(),
        }

    @classmethod
    def from_dict(
        cls, data: dict[str, Any], recipe: Recipe, rates: list[dict[str, Any]], latest: Predictions | None
    ) -> "RunState":
        """Back from `to_dict`, with the curves and arrays it leaves out."""
        phases = tuple(from_dict(Phase, phase, f"phases[{number}].") for number, phase in enumerate(data["phases"]))
        return cls(
            recipe=dataclasses.replace(recipe, phases=phases),
            number=data["number"],
            best=data["best"],
            steps=list(data["steps"]),
            cached=list(data["cached"]),
            rates=rates[: data["num_rates"]],
            latest=latest,
            seconds_to_first_step=data.get("seconds_to_first_step"),
            seconds=data["seconds"],
            phase_seconds=data["phase_seconds"],
        )
