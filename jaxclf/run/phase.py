"""One phase of a run: its loaders, activations computed once where it asks for them, its rate, its fit."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxclf.config import Phase, Recipe
from jaxclf.data.activations import ActivationLoader
from jaxclf.data.loader import Loader
from jaxclf.inference.features import extract_features
from jaxclf.models.classifier import Classifier
from jaxclf.models.trees import Tree
from jaxclf.run.observer import Observer
from jaxclf.run.prepare import Loaders
from jaxclf.run.recipes import DEFAULT_LR
from jaxclf.training.fit import FitResult, Row, fit
from jaxclf.training.lr_curve import LRCurve, Suggestion, suggestions
from jaxclf.training.lr_finder import find_lr, finder_steps
from jaxclf.training.program import make_phase_program
from jaxclf.training.snapshot import Boundary, Snapshot
from jaxclf.training.state import TrainState

#: The rules that are asked for a rate, in this order, where the settings' own does not apply.
RULES = ("valley", "steep", "minimum")


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


class PhaseResult(NamedTuple):
    """What a phase brought.

    Attributes:
      fit: from `jaxclf.fit`.
      phase: the phase as it was run, its rates found.
      rate: the learning-rate test before it, if there was one.
      cached: what was computed once for it: cut, rows, bytes, dtype, seconds, and about what that
        saved; None if it was trained from pictures.
    """

    fit: FitResult
    phase: Phase
    rate: FoundRate | None
    cached: dict[str, Any] | None


def run_phase(
    model: Classifier,
    variables: Tree,
    recipe: Recipe,
    number: int,
    loaders: Loaders,
    *,
    observer: Observer,
    previous_lr: float | None = None,
    mesh: Mesh | None = None,
    on_phase: Callable[[Phase, FoundRate | None], None] | None = None,
    on_log: Callable[[Row], None] | None = None,
    on_epoch: Callable[[Row, TrainState], None] | None = None,
    on_boundary: Callable[[Boundary, Callable[[], Snapshot]], None] | None = None,
    restore: Callable[[TrainState], Snapshot] | None = None,
    on_training: Callable[[], None] | None = None,
) -> PhaseResult:
    """Runs phase `number` of a recipe from these variables.

    Args:
      model, variables: the classifier.
      recipe: its phases before `number` say how many epochs went before.
      number: of the phase.
      loaders: of pictures.
      observer: told what happens.
      previous_lr: the last layer group's rate in the phase before, for `lr_from="previous"`.
      mesh: devices that share each batch.
      on_phase: called before training starts, with the phase as it is run and the test of rates before it.
      on_log, on_epoch, on_boundary: see `jaxclf.fit`.
      restore: from a state like the phase's first one to the snapshot to go on from, inside this phase.
      on_training: called when training begins, after activations were computed and a rate was found.

    Raises:
      ValueError: see `jaxclf.fit`; for `lr_from="previous"` without a phase before.
    """
    phase = recipe.phases[number]
    size = phase.image_size or recipe.settings.image_size
    train: Loader | ActivationLoader = loaders.train[size, phase.augment != "none"]
    valid: Loader | ActivationLoader = loaders.valid[size]
    cached = None
    if phase.cut is not None:
        assert isinstance(train, Loader) and isinstance(valid, Loader)
        train, valid, cached = _activations(model, variables, phase, recipe, train, valid, observer)
    rate = None
    if phase.lr_from == "find":
        rate = _find_rate(model, variables, phase, recipe, train, observer, mesh)
    lr = rate.lr if rate is not None else previous_lr
    if phase.lr_from != "given":
        if lr is None:
            raise ValueError(f"phase {phase.name!r} takes the rate of the phase before it, and there is none")
        lrs = tuple(lr * ratio for ratio in phase.lrs)
        phase = dataclasses.replace(phase, lrs=lrs, lr_from="given")
    if on_phase is not None:
        on_phase(phase, rate)
    start = None
    if restore is not None:
        program = make_phase_program(model, variables, phase, train, recipe.settings, phase_number=number, mesh=mesh)
        start = restore(jax.eval_shape(lambda: program.create_state(variables, phase, recipe.settings)))
    if on_training is not None:
        on_training()
    with observer.phase(phase, number, len(recipe.phases)) as on_step:
        result = fit(
            model,
            variables,
            phase,
            train,
            valid,
            settings=recipe.settings,
            phase_number=number,
            first_epoch=sum(earlier.num_epochs for earlier in recipe.phases[:number]),
            mesh=mesh,
            on_step=on_step,
            on_log=on_log,
            on_epoch=on_epoch,
            on_boundary=on_boundary,
            start=start,
        )
    return PhaseResult(result, phase, rate, cached)


def _activations(
    model: Classifier,
    variables: Tree,
    phase: Phase,
    recipe: Recipe,
    train: Loader,
    valid: Loader,
    observer: Observer,
) -> tuple[ActivationLoader, ActivationLoader, dict[str, Any]]:
    """The phase's loaders of activations, and what they are."""
    assert phase.cut is not None
    started = time.perf_counter()
    total = len(train.kept) * phase.num_views + len(valid.kept)
    with observer.task(f"computing activations at {phase.cut}", total) as progress:
        bank = {"num_views": phase.num_views, "augment": phase.augment} if phase.num_views > 1 else {}
        features = extract_features(
            model,
            variables,
            train,
            cut=phase.cut,
            seed=recipe.settings.seed,
            on_progress=lambda done, _: progress(done, total),
            **bank,  # type: ignore[arg-type]  # the two fields
        )
        before = len(train.kept) * phase.num_views
        held_back = extract_features(
            model,
            variables,
            valid,
            cut=phase.cut,
            on_progress=lambda done, _: progress(before + done, total),
        )
    seconds = time.perf_counter() - started
    cached = {
        "phase": phase.name,
        "cut": phase.cut,
        "rows": len(features) * phase.num_views + len(held_back),
        "bytes": features.nbytes + held_back.nbytes,
        "dtype": str(features.dtype),
        "placement": features.placement,
        "seconds": seconds,
        # Every epoch, and the search for a rate, would have computed them again.
        "seconds_saved": seconds * (phase.num_epochs - 1 + (phase.lr_from == "find")),
    }
    return (
        ActivationLoader(
            features,
            batch_size=recipe.settings.batch_size,
            train=True,
            seed=recipe.settings.seed,
            sampling=recipe.settings.sampling,
        ),
        ActivationLoader(held_back, batch_size=recipe.settings.batch_size, train=False),
        cached,
    )


def _find_rate(
    model: Classifier,
    variables: Tree,
    phase: Phase,
    recipe: Recipe,
    train: Loader | ActivationLoader,
    observer: Observer,
    mesh: Mesh | None,
) -> FoundRate:
    started = time.perf_counter()
    steps = finder_steps(phase, len(train))
    with observer.task("finding the rate", steps) as progress:
        curve = find_lr(
            model,
            variables,
            train,
            lrs=phase.lrs,
            frozen=phase.frozen,
            num_steps=steps,
            settings=recipe.settings,
            augment=phase.augment,
            mesh=mesh,
            on_step=lambda at: progress(at.step, at.num_steps),
        )
    found = suggestions(curve)
    rules = (recipe.settings.lr_rule, *(name for name in RULES if name != recipe.settings.lr_rule))
    rule = next((name for name in rules if found[name].lr is not None), None)
    lr = (
        DEFAULT_LR["scratch" if recipe.settings.weights == "none" else "pretrained"] if rule is None else found[rule].lr
    )
    assert lr is not None
    why = found[recipe.settings.lr_rule].reason if rule is None else found[rule].reason
    suggested = f"no rule applies ({why}); the default" if rule is None else f"rule {rule}"
    observer.note(f"rate for {phase.name!r}: {lr:.2g} by {suggested}, from {len(curve.lrs)} steps")
    return FoundRate(phase.name, lr, rule, curve, found, time.perf_counter() - started)
