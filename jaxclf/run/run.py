"""A recipe from start to end: data in, phases one after another, everything a RUN folder holds out."""

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxclf import __version__
from jaxclf._jax import enable_determinism
from jaxclf.config import Phase, Recipe
from jaxclf.data.devices import check_divisible, data_mesh
from jaxclf.data.manifest import make_roster
from jaxclf.data.sources import fingerprint
from jaxclf.inference.features import variables_digest
from jaxclf.inference.predict import predict
from jaxclf.metrics import summarize
from jaxclf.models.classifier import Classifier
from jaxclf.models.trees import Tree
from jaxclf.run.checkpoint_file import load_variables
from jaxclf.run.checkpoints import Keeper
from jaxclf.run.course import Course
from jaxclf.run.finish import finish
from jaxclf.run.folder import SUMMARY, append_metrics, check_out, create_run, write_rates, write_recipe
from jaxclf.run.observer import Interrupted, Observer, StopSignals
from jaxclf.run.phase import FoundRate, PhaseResult, run_phase
from jaxclf.run.prepare import Loaders, Prepared, check_outside, decode, make_loaders, prepare
from jaxclf.run.processes import any_process, is_writer
from jaxclf.run.resume import Point, Request, check_recipe, check_same, read_request, resume_point, write_request
from jaxclf.run.scoring import difference
from jaxclf.training.fit import NonFiniteLoss
from jaxclf.training.state import TrainState


class _Work(NamedTuple):
    """What all phases of a run share."""

    folder: Path
    model: Classifier
    loaders: Loaders
    keeper: Keeper
    observer: Observer
    stop: StopSignals | None
    mesh: Mesh | None


def run_recipe(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    recipe: Recipe,
    *,
    overwrite: bool = False,
    resume: bool = False,
    checkpoint_every: float = 10.0,
    num_devices: int | None = None,
    stop: StopSignals | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Runs a recipe on a data set and writes the RUN folder.

    Whatever can be wrong with the input (folder, classes, weights, damaged pictures) is found before anything is
    written to `out`. A run that was killed, at whatever moment, and is resumed ends with the same parameters, record
    and predictions, to the bit, as one that was left alone, on the same hardware and versions.

    Args:
      data: the folder of pictures, see `jaxclf.data.splits.open_data`.
      out: the RUN folder to make.
      recipe: settings and phases.
      overwrite: replace a run that `out` holds.
      resume: go on with the run that `out` holds, if there is one; of a finished one, return the summary.
      checkpoint_every: minutes between checkpoints inside a phase; cycle ends and phase ends make one in any case.
      num_devices: devices that share each batch, in equal parts; None takes all there are.
      stop: entered signals; when one comes during training, the step is finished, a checkpoint written, and
        `Interrupted` raised.
      observer: told what happens.

    Returns:
      What `summary.json` holds.

    Raises:
      ValueError: naming what is wrong with the input, and the way out; with `resume`, for a run that was begun with
        another recipe, data, classes or weights, listing the differences.
    """
    observer = observer or Observer()
    if not recipe.phases:
        raise ValueError("the recipe has no phases: there is nothing to run")
    if not checkpoint_every >= 0:
        raise ValueError(f"checkpoint_every={checkpoint_every} minutes must not be negative")
    if recipe.settings.deterministic:
        enable_determinism()
    mesh = data_mesh(num_devices)
    check_divisible(recipe.settings.batch_size, mesh)
    folder = check_out(out, overwrite=overwrite or resume)
    begun = read_request(folder) if resume else None
    if begun is not None:
        check_recipe(folder, begun.recipe, recipe)
    if resume and (folder / SUMMARY).is_file():
        observer.note(f"the run in {folder} is finished: there is nothing to resume")
        finished: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return finished
    check_outside(data, folder)
    prepared = prepare(data, recipe.settings, observer)
    splits, spec, _ = prepared
    pictures = sum(len(part) for part in (splits.train, splits.valid, splits.test) if part is not None)
    with observer.task("reading", pictures) as progress:
        roster = make_roster(splits, progress)
    request = make_request(data, recipe, prepared)
    if begun is not None:
        for line in check_same(folder, begun, request, roster):
            observer.note(line)
    shared = mesh if mesh.size > 1 else None
    loaders = make_loaders(splits, recipe, spec.preprocess, shared)
    with observer.task("decoding", sum(len(loader.dataset) for loader in loaders.all())) as progress:
        loaders, bad = decode(loaders, recipe.settings, progress)

    metadata = {
        "classifier": spec.to_metadata(),
        "data": {"fingerprint": fingerprint(splits.whole), "layout": splits.layout},
    }
    keeper = Keeper(folder, metadata, every=checkpoint_every, stop=stop)
    any_process(False)  # all have looked at the folder
    if begun is None:
        if is_writer():
            create_run(folder, recipe)
            write_request(folder, request, roster)
        any_process(False)
        point = Point(Course(recipe), None, None)
    else:
        point = resume_point(folder, recipe, keeper, observer.note)
        observer.note(f"resuming the run in {folder}: {_describe(point)}")
    model = spec.create()
    variables = prepared.initial_variables(recipe.settings.seed) if point.path is None else load_variables(point.path)
    work = _Work(folder, model, loaders, keeper, observer, stop, shared)
    course = point.course
    with _explained(keeper, data, folder, recipe):
        while not course.finished:
            variables = _run_phase(work, variables, course, point)
            point = point._replace(fit=None)
        return finish(
            folder, data, course, variables, model=model, prepared=prepared,
            valid=loaders.valid[recipe.settings.image_size], bad=bad, keeper=keeper,
            observer=observer, machine={"hardware": hardware(), "versions": versions()},
        )  # fmt: skip


def make_request(data: str | os.PathLike[str], recipe: Recipe, prepared: Prepared) -> Request:
    """What a run is asked for, to be compared when it is resumed."""
    pretrained = prepared.pretrained
    return Request(
        recipe=recipe,
        classes=tuple(prepared.spec.classes),
        classifier=prepared.spec.to_metadata(),
        weights="" if pretrained is None else variables_digest(pretrained.variables),
        versions={"hardware": hardware(), **versions()},
        data=str(data),
    )


def _run_phase(work: _Work, variables: Tree, course: Course, point: Point) -> Tree:
    """Runs the phase under way, from a point inside it if there is one; returns the variables it ends with."""
    number, observer, folder = course.number, work.observer, work.folder

    def on_phase(phase: Phase, rate: FoundRate | None) -> None:
        """The phase as it will really run: its rates are found."""
        course.set_phase(phase)
        course.rates += [] if rate is None else [rate.to_dict()]
        if is_writer():
            write_recipe(folder, course.recipe)
            write_rates(folder, course.rates) if course.rates else None

    def on_log(row: dict[str, Any]) -> None:
        if is_writer():
            append_metrics(folder, row)

    def on_epoch(row: dict[str, Any], state: TrainState) -> None:
        on_log(row)
        observer.epoch(row)

    with contextlib.ExitStack() as until_saved:

        def on_training() -> None:
            """From here until the phase is saved, a signal waits."""
            if work.stop is not None:
                until_saved.enter_context(work.stop.deferred())

        done = run_phase(
            work.model,
            variables,
            course.recipe,
            number,
            work.loaders,
            observer=observer,
            previous_lr=course.previous_lr,
            mesh=work.mesh,
            on_phase=on_phase,
            on_log=on_log,
            on_epoch=on_epoch,
            on_boundary=lambda boundary, take: work.keeper.at_boundary(course, boundary, take),
            restore=point.restore if point.fit is not None else None,
            on_training=on_training,
        )
        variables = done.fit.state.averaged
        _judge(work, variables, course, done)
        work.keeper.phase_end(course, number, done.fit.epochs[-1]["epoch"] + 1, done.fit.state)
        work.keeper.stop_if_asked(f"stopped after phase {done.phase.name!r}")
    return variables


def _judge(work: _Work, variables: Tree, course: Course, done: PhaseResult) -> None:
    """What the phase has brought goes into the course, and the phase is over."""
    recipe, fit = course.recipe, done.fit
    predictions = fit.predictions
    if (
        done.phase.cut is not None
        or (done.phase.image_size or recipe.settings.image_size) != recipe.settings.image_size
    ):
        # Every phase is judged on the same: whole pictures, at the size that is used afterwards.
        valid = work.loaders.valid[recipe.settings.image_size]
        predictions = predict(work.model, variables, valid, threshold=recipe.settings.threshold)
    assert predictions is not None  # there is a validation loader
    scores = summarize(predictions)
    step = {
        "name": done.phase.name,
        "seconds": course.total_phase_seconds(),
        "loss": scores["loss"],
        "accuracy": scores["accuracy"],
    }
    if course.latest is not None:
        step |= difference(course.latest, predictions)
    course.cached += [done.cached] if done.cached is not None else []
    course.end_phase(step, predictions)
    if fit.stopped:
        work.observer.note(f"phase {done.phase.name!r} ended after epoch {fit.epochs[-1]['epoch'] + 1}: {fit.stopped}")


def _describe(point: Point) -> str:
    course = point.course
    if course.finished:
        return "all phases have ended"
    where = f"phase {course.number + 1} of {len(course.recipe.phases)}"
    if point.fit is None:
        return f"from the start of {where}"
    return f"{where}, epoch {point.fit['epoch'] + 1}, batch {point.fit['batch'] + 1}"


@contextlib.contextmanager
def _explained(keeper: Keeper, data: str | os.PathLike[str], folder: Path, recipe: Recipe) -> Iterator[None]:
    """Says of a failure what the last good checkpoint is, and how to go on."""
    again = f"go on with `jaxclf fit {data} --out {folder} --resume`"
    try:
        yield
    except NonFiniteLoss as error:  # it would diverge again
        raise ValueError(f"{error}. {keeper.last_good()}") from error
    except Interrupted as error:
        raise Interrupted(error.signum, f"{error}. {keeper.last_good()}; {again}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}. {keeper.last_good()}; when that is mended, {again}") from error
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(
            f"out of memory with batch_size={recipe.settings.batch_size} at image_size={recipe.settings.image_size}: "
            f"{str(error).splitlines()[0] if str(error) else 'the host has no more'}. Take a smaller --batch-size, or "
            f"--accumulate 2, which runs each batch in two parts. {keeper.last_good()}"
        ) from error


def hardware() -> str:
    """The devices a run computes on."""
    return f"{jax.devices()[0].device_kind} x {jax.device_count()}, {platform.machine()}"


def versions() -> dict[str, str]:
    """Of what decides a run's digits."""
    return {
        "python": platform.python_version(),
        "jaxclf": __version__,
        **{name: version(name) for name in ("jax", "flax", "optax")},
    }
