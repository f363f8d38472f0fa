"""One phase of a run: its loaders, activations computed once where it asks for them, its rate, its training."""

import time
from pathlib import Path
from typing import Any

from jaxclf._progress import OnProgress, silent
from jaxclf.config import CutName, Phase
from jaxclf.data.activations import ActivationDataset, ActivationLoader, AnyLoader
from jaxclf.data.loader import Loader
from jaxclf.inference.extract import below
from jaxclf.inference.features import extend_features, extract_features
from jaxclf.inference.predict import predict
from jaxclf.metrics import Predictions, summarize
from jaxclf.models.trees import Tree, tree_digest
from jaxclf.run.folder import append_metrics
from jaxclf.run.head import describe_solution, solve_phase, solved_state
from jaxclf.run.prepare import RunContext
from jaxclf.run.processes import is_writer
from jaxclf.run.rates import with_rates
from jaxclf.run.run_state import RunState
from jaxclf.run.snapshots import restore_snapshot
from jaxclf.run.summary import difference
from jaxclf.training.events import Epoch, Snapshot
from jaxclf.training.fit import train
from jaxclf.training.program import make_program
from jaxclf.training.state import TrainState


def run_phase(context: RunContext, run: RunState, variables: Tree, checkpoint: Path | None) -> Tree:
    """Runs the phase under way and saves what it ends with; `run` has then gone past it.

    Args:
      context: what all phases share.
      run: how far the run has come.
      variables: to start from.
      checkpoint: of a snapshot inside this phase, to go on from; None: from its start.

    Returns:
      The variables it ends with.

    Raises:
      ValueError: see `jaxclf.train`; for `lr_from="previous"` without a phase before.
      Interrupted: when asked to stop, after a checkpoint was written.
    """
    number = run.number
    if mixing := run.recipe.mixing(run.phase):
        context.observer.note(f"phase {run.phase.name!r}: {mixing}")
    if run.phase.solve:
        return _solve(context, run, variables)
    train_loader, valid_loader, cached = _loaders(context, run.phase, variables)
    phase = with_rates(context, run, variables, train_loader)
    program = make_program(
        context.model, phase, train_loader, context.settings, phase_number=number, first_epoch=run.first_epoch
    )
    first = program.init(variables)
    start: TrainState | Snapshot = first if checkpoint is None else restore_snapshot(checkpoint, first)
    with context.saving():  # from here until the phase is saved, a signal waits
        with context.observer.phase(phase, number, len(run.recipe.phases)) as show:
            for event in train(program, start, train_loader, valid_loader):
                run.first_step(context.started)
                show(event)
                if is_writer():
                    append_metrics(context.folder, event.rows)
                if isinstance(event, Epoch):
                    context.observer.epoch(event.figures)
                context.keeper.at(run, event)
        assert isinstance(event, Epoch)  # a phase has an epoch
        state, predictions = event.result()
        _judge(context, run, state.averaged, predictions, cached)
        if event.stopped:
            context.observer.note(f"phase {phase.name!r} ended after epoch {event.epoch + 1}: {event.stopped}")
        context.keeper.phase_end(run, number, event.epoch + 1, state)
        context.keeper.stop_if_asked(f"stopped after phase {phase.name!r}")
    return state.averaged


def _solve(context: RunContext, run: RunState, variables: Tree) -> Tree:
    """A phase whose head is solved and not trained."""
    number, phase = run.number, run.phase
    with context.saving(), context.observer.phase(phase, number, len(run.recipe.phases)):
        features, cached = _activations(context, phase, variables, phase_pictures(context, phase))
        solved = solve_phase(context, phase, variables, features)
        run.first_step(context.started)
        _judge(context, run, solved.variables, None, cached, {"solved": describe_solution(solved)})
        context.keeper.phase_end(run, number, 0, solved_state(phase, solved.variables))
        context.keeper.stop_if_asked(f"stopped after phase {phase.name!r}")
    return solved.variables


def _judge(
    context: RunContext,
    run: RunState,
    variables: Tree,
    predictions: Predictions | None,
    cached: dict[str, Any] | None,
    more: dict[str, Any] | None = None,
) -> None:
    """What the phase has brought goes into the run's state, and the phase is over."""
    settings, phase = context.settings, run.phase
    on_the_way = phase.image_size not in (None, settings.image_size)
    if predictions is None or phase.cut is not None or phase.caches_validation or on_the_way:
        # Every phase is judged on the same: whole pictures, at the size that is used afterwards.
        valid_loader = context.loaders.valid[settings.image_size]
        predictions = predict(context.model, variables, valid_loader, threshold=settings.threshold)
    assert predictions is not None  # there is a validation loader
    scores = summarize(predictions)
    brought = {"name": phase.name, "seconds": run.total_phase_seconds()}
    brought |= {name: scores[name] for name in ("loss", "accuracy")} | (more or {})
    if run.latest is not None:
        brought |= difference(run.latest, predictions)
    run.cached += [cached] if cached is not None else []
    before = run.best
    if not run.end_phase(brought, predictions, on_the_way=on_the_way):
        assert before is not None  # there is something to go back to
        kept = run.steps[before]
        context.observer.note(
            f"phase {phase.name!r} ended with validation loss {scores['loss']:.4f}, no lower than {kept['loss']:.4f} "
            f"of {kept['name']!r}: the run goes on from that"
        )


def _loaders(context: RunContext, phase: Phase, variables: Tree) -> tuple[AnyLoader, AnyLoader, dict[str, Any] | None]:
    """The phase's loaders, of pictures or of activations; and what was computed for these."""
    train_loader, settings = phase_pictures(context, phase), context.settings
    if phase.cut is None:
        valid_loader = context.loaders.valid[phase.image_size or settings.image_size]
        # The body need not see the same pictures again in every epoch.
        held_back = _held_back(context, phase, variables, "pooled") if phase.caches_validation else valid_loader
        return train_loader, held_back, None
    features, cached = _activations(context, phase, variables, train_loader)
    sampled: dict[str, Any] = {"batch_size": settings.batch_size, "seed": settings.seed, "sampling": settings.sampling}
    held_back = _held_back(context, phase, variables, phase.cut)
    return ActivationLoader(features, train=True, **sampled), held_back, cached


def _held_back(context: RunContext, phase: Phase, variables: Tree, cut: CutName) -> ActivationLoader:
    """The validation pictures' activations."""
    pictures = context.loaders.valid[phase.image_size or context.settings.image_size]
    with context.observer.task(f"computing activations at {cut}", len(pictures.kept)) as progress:
        features = extract_features(context.model, variables, pictures, cut=cut, on_progress=progress)
    return ActivationLoader(features, batch_size=pictures.batch_size, train=False)


def phase_pictures(context: RunContext, phase: Phase) -> Loader:
    """The training loader of a phase."""
    return context.loaders.train[phase.image_size or context.settings.image_size, phase.augment != "none"]


def _activations(
    context: RunContext, phase: Phase, variables: Tree, train_loader: Loader
) -> tuple[ActivationDataset, dict[str, Any]]:
    """The training pictures' activations, computed once, and what that took."""
    assert phase.cut is not None
    started, total = time.perf_counter(), len(train_loader.kept) * phase.num_views
    with context.observer.task(f"computing activations at {phase.cut}", total) as progress:
        if phase.num_views == 1:
            features = _plain(context, phase.cut, variables, train_loader, progress)
        else:
            features = _bank(context, phase, variables, train_loader, progress)
    seconds = time.perf_counter() - started
    cached = {
        "phase": phase.name,
        "cut": phase.cut,
        "rows": total,
        "bytes": features.nbytes,
        "dtype": str(features.dtype),
        "placement": features.placement,
        "seconds": seconds,
        # Every epoch, and the search for a rate, would have computed them again.
        "seconds_saved": seconds * max(phase.num_epochs - 1 + (phase.lr_from == "find"), 0),
    }
    return features, cached


def _plain(
    context: RunContext, cut: CutName, variables: Tree, loader: Loader, on_progress: OnProgress
) -> ActivationDataset:
    """The plain pictures' activations, computed once for all phases with this body."""
    key = f"{cut} {loader.preprocess.image_size} {tree_digest(below(variables, cut))}"  # a run's pictures stay
    if key not in context.known:
        context.known.clear()  # of another body: nobody asks for them again
        found = extract_features(context.model, variables, loader, cut=cut, on_progress=on_progress)
        context.known[key] = found
    return context.known[key]


def _bank(
    context: RunContext, phase: Phase, variables: Tree, loader: Loader, on_progress: OnProgress
) -> ActivationDataset:
    """The activations of a phase's views: of the plain ones evaluation's own pixels, where these are at hand."""
    assert phase.cut is not None
    pictures = context.loaders.train.get((loader.preprocess.image_size, False))
    drawn: dict[str, Any] = {"num_views": phase.num_views, "augment": phase.augment, "seed": context.settings.seed}
    if pictures is None or phase.cut != "pooled":
        return extract_features(context.model, variables, loader, cut=phase.cut, on_progress=on_progress, **drawn)
    plain = _plain(context, phase.cut, variables, pictures, silent)
    return extend_features(plain, context.model, variables, loader, on_progress=on_progress, **drawn)
