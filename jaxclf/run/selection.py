"""Which of its states a run ends with: its phases' ends are judged as they will be used, by augmented views too."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxclf._progress import within
from jaxclf.config import AugmentName, Recipe
from jaxclf.data.activations import AnyLoader
from jaxclf.inference.extract import below
from jaxclf.inference.predict import predict
from jaxclf.inference.tta import predict_tta
from jaxclf.inference.view_activations import view_activations
from jaxclf.metrics import Predictions, summarize
from jaxclf.models.trees import Tree, tree_digest
from jaxclf.run.checkpoint_file import load_variables
from jaxclf.run.checkpoints import phase_path
from jaxclf.run.outcome import TTA
from jaxclf.run.prepare import RunContext
from jaxclf.run.processes import any_process
from jaxclf.run.run_state import RunState


class Selected(NamedTuple):
    """The state that a run ends with.

    Attributes:
      number: of the phase that ended with it.
      variables: of the network.
      plain: what it predicts of the validation pictures.
      views: the same with test-time augmentation; None without.
      scores: of each phase that was compared, the figures with test-time augmentation.
    """

    number: int
    variables: Tree
    plain: Predictions
    views: Predictions | None = None
    scores: Mapping[int, Mapping[str, Any]] = {}

    @property
    def uses_views(self) -> bool:
        """Whether test-time augmentation lowers its validation loss: then the final figures are those with it."""
        return self.views is not None and _loss(self.views) < _loss(self.plain)


def select_state(context: RunContext, run: RunState, held: Tree) -> Selected:
    """The state of lowest validation loss, on plain pictures or with test-time augmentation, whichever serves it best.

    Compared are the ends of the phases since the last one that was on the way to another image size. Of equal states
    it is the earliest. Without test-time augmentation it is the one that the run has gone on from all along.

    Args:
      context: what all phases shared.
      run: whose phases have all ended.
      held: the variables of the best phase on plain pictures.
    """
    assert run.best is not None and run.latest is not None  # there is a phase
    if not context.settings.tta_views:
        return Selected(run.best, held, run.latest)
    context.observer.note(f"{TTA}: the plain picture and {context.settings.tta_views} views")
    context.keeper.wait()  # the last phase's checkpoint is read too,
    any_process(False)  # by every process
    found = dict(_with_views(context, run))
    scores = {number: summarize(found[number]) for number in sorted(found)}
    number = min(scores, key=lambda number: min(run.steps[number]["loss"], scores[number]["loss"]))
    variables, plain = held, run.latest
    if number != run.best:
        variables = load_variables(phase_path(context.folder, number))
        pictures = context.loaders.valid[context.settings.image_size]
        plain = predict(context.model, variables, pictures, threshold=context.settings.threshold)
        name, other = run.steps[number]["name"], run.steps[run.best]["name"]
        context.observer.note(f"{name!r} has a lower validation loss with {TTA} than {other!r}: the run holds that")
    return Selected(number, variables, plain, found[number], scores)


def view_preset(recipe: Recipe) -> AugmentName:
    """The augmentation of a run's views: that of its last phase that had one."""
    return next((phase.augment for phase in reversed(recipe.phases) if phase.augment != "none"), "side_on")


def candidates(run: RunState) -> range:
    """The numbers of the phases that a run may end with."""
    passed = [number for number, step in enumerate(run.steps) if step["on_the_way"]]
    first = max(passed, default=-1) + 1
    return range(first if first < len(run.steps) else first - 1, len(run.steps))


def _with_views(context: RunContext, run: RunState) -> Iterator[tuple[int, Predictions]]:
    """What each state that a run may end with predicts by augmented views."""
    settings, model = context.settings, context.model
    pictures = context.loaders.valid[settings.image_size]
    drawn: dict[str, Any] = {"num_views": settings.tta_views, "seed": settings.seed}
    drawn["augment"] = view_preset(run.recipe)
    bodies = _by_body(context, run)
    each = pictures.num_examples * (settings.tta_views + 1)
    with context.observer.task(TTA, each * len(bodies)) as progress:
        for place, numbers in enumerate(bodies):
            shown = within(progress, place * each, len(bodies) * each)
            loader: AnyLoader = pictures
            for number in numbers:
                variables = load_variables(phase_path(context.folder, number))
                if len(numbers) > 1 and loader is pictures:  # the body sees each view once, for all heads on it
                    loader = view_activations(model, variables, pictures, **drawn, on_progress=shown)
                views = predict_tta(model, variables, loader, **drawn, threshold=settings.threshold, on_progress=shown)
                yield number, views


def _by_body(context: RunContext, run: RunState) -> list[list[int]]:
    """The candidates, those together that have the same network below the head."""
    found: dict[str, list[int]] = {}
    for number in candidates(run):
        variables = load_variables(phase_path(context.folder, number))
        found.setdefault(tree_digest(below(variables, "pooled")), []).append(number)
    return list(found.values())


def _loss(predictions: Predictions) -> float:
    return float(summarize(predictions)["loss"])
