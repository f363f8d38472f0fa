"""A recipe from start to end: data in, phases one after another, everything a RUN folder holds out."""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import jax

from jaxclf._jax import enable_determinism
from jaxclf.config import Recipe
from jaxclf.data.devices import check_divisible, data_mesh
from jaxclf.data.manifest import Roster, make_roster
from jaxclf.data.sources import fingerprint
from jaxclf.inference.recalibrate import recalibrate_batch_norm
from jaxclf.models.trees import Tree, tree_digest
from jaxclf.run.checkpoint_file import load_variables
from jaxclf.run.checkpoints import Keeper, phase_path
from jaxclf.run.folder import SUMMARY, check_out, create_run
from jaxclf.run.observer import Interrupted, Observer, StopSignals
from jaxclf.run.phase import phase_pictures, run_phase
from jaxclf.run.prepare import Prepared, RunContext, check_outside, decode, hardware, make_loaders, prepare, versions
from jaxclf.run.processes import any_process, is_writer
from jaxclf.run.resume import Point, Request, check_recipe, check_same, read_request, resume_point, write_request
from jaxclf.run.run_state import RunState
from jaxclf.run.summary import finish
from jaxclf.training.fit import NonFiniteLoss


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
    started: float | None = None,
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
      started: `time.perf_counter()` from when on the summary's `seconds_to_first_step` count; None: from this call.

    Returns:
      What `summary.json` holds.

    Raises:
      ValueError: naming what is wrong with the input, and the way out; with `resume`, for a run that was begun with
        another recipe, data, classes or weights, listing the differences.
    """
    observer, started = observer or Observer(), time.perf_counter() if started is None else started
    if not recipe.phases:
        raise ValueError("the recipe has no phases: there is nothing to run")
    if not checkpoint_every >= 0:
        raise ValueError(f"checkpoint_every={checkpoint_every} minutes must not be negative")
    if recipe.settings.deterministic:
        enable_determinism()
    mesh = data_mesh(num_devices)
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
    splits, asked = prepared.splits, recipe
    recipe = dataclasses.replace(asked, settings=asked.settings.for_photos(len(splits.train)))
    check_divisible(recipe.settings.batch(len(splits.train)), mesh)
    pictures = sum(len(part) for part in (splits.train, splits.valid, splits.test) if part is not None)
    with observer.task("reading", pictures) as progress:
        roster = make_roster(splits, progress)
    request = make_request(data, asked, prepared)
    if begun is not None:
        for line in check_same(folder, begun, request, roster):
            observer.note(line)
    loaders = make_loaders(splits, recipe, prepared.spec.preprocess, mesh if mesh.size > 1 else None)
    with observer.task("decoding", sum(len(loader.dataset) for loader in loaders.all())) as progress:
        loaders, bad = decode(loaders, recipe.settings, progress)
    keeper = Keeper(folder, _metadata(prepared), every=checkpoint_every, stop=stop)
    context = RunContext(
        folder=folder,
        data=str(data),
        settings=recipe.settings,
        prepared=prepared,
        model=prepared.spec.create(),
        loaders=loaders,
        bad=bad,
        keeper=keeper,
        observer=observer,
        stop=stop,
        started=started,
    )
    return _run(context, _begin(context, recipe, request, roster, resumed=begun is not None))


def _begin(context: RunContext, recipe: Recipe, request: Request, roster: Roster, *, resumed: bool) -> Point:
    """Starts the RUN folder, or finds where the run in it goes on."""
    any_process(False)  # all have looked at the folder
    if resumed:
        point = resume_point(context.folder, recipe, context.keeper, context.observer.note)
        context.observer.note(f"resuming the run in {context.folder}: {point.describe()}")
        return point
    if is_writer():
        create_run(context.folder, recipe)
        write_request(context.folder, request, roster)
    any_process(False)
    return Point(RunState(recipe))


def _run(context: RunContext, point: Point) -> dict[str, Any]:
    """All phases from a point on, and the summary."""
    run = point.run
    inside = point.path if point.place is not None else None
    held = _start(context, run) if run.best is None else load_variables(phase_path(context.folder, run.best))
    with _explained(context):
        while not run.finished:
            ended = run_phase(context, run, held, inside)
            held = ended if run.best == run.number - 1 else held
            inside = None
        return finish(context, run, held)


def _start(context: RunContext, run: RunState) -> Tree:
    """What the first phase starts from."""
    variables, settings = context.prepared.initial_variables(context.settings.seed), context.settings
    if not settings.bn_recalibrate:
        return variables
    loader = phase_pictures(context, run.recipe.phases[0])
    with context.observer.task("recalibrating BatchNorm", len(loader.kept)) as progress:
        variables = recalibrate_batch_norm(context.model, variables, loader, on_progress=progress)
    context.observer.note(
        f"BatchNorm's running statistics are taken anew over the {len(loader.kept)} training pictures (AdaBN)"
    )
    return variables


def _metadata(prepared: Prepared) -> dict[str, Any]:
    """What every checkpoint says."""
    return {
        "classifier": prepared.spec.to_metadata(),
        "data": {"fingerprint": fingerprint(prepared.splits.whole), "layout": prepared.splits.layout},
    }


def make_request(data: str | os.PathLike[str], recipe: Recipe, prepared: Prepared) -> Request:
    """What a run is asked for, to be compared when it is resumed."""
    pretrained = prepared.pretrained
    return Request(
        recipe=recipe,
        classes=tuple(prepared.spec.classes),
        classifier=prepared.spec.to_metadata(),
        weights="" if pretrained is None else tree_digest(pretrained.variables),
        versions={"hardware": hardware(), **versions()},
        data=str(data),
    )


@contextlib.contextmanager
def _explained(context: RunContext) -> Iterator[None]:
    """Says of a failure what the last good checkpoint is, and how to go on."""
    keeper, settings = context.keeper, context.settings
    again = f"go on with `jaxclf fit {context.data} --out {context.folder} --resume`"
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
            f"out of memory with batch_size={settings.batch_size} at image_size={settings.image_size}: "
            f"{str(error).splitlines()[0] if str(error) else 'the host has no more'}. Take a smaller --batch-size, or "
            f"--accumulate 2, which runs each batch in two parts. {keeper.last_good()}"
        ) from error
