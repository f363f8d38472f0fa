"""Going on with a run that was stopped: is it the same run, and where was it?"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxclf._files import write_atomic, write_npz
from jaxclf.config import Recipe, from_dict
from jaxclf.data.manifest import Roster, roster_differences, roster_of
from jaxclf.run.checkpoint_file import find_checkpoints, load_part
from jaxclf.run.checkpoints import Keeper, phase_path, remove_checkpoint
from jaxclf.run.folder import (
    CHECKPOINTS,
    RATES,
    RECORDS,
    REQUEST,
    SUMMARY,
    check_metrics,
    truncate_metrics,
    write_recipe,
)
from jaxclf.run.processes import any_process, is_writer
from jaxclf.run.run_state import RunState
from jaxclf.run.snapshots import load_predictions

#: Of request.json. 3: an epoch shows every picture, so a run that was begun before has other steps.
FORMAT_VERSION = 3


class Request(NamedTuple):
    """What a run was asked to do, and with what; `to resume` means: this again.

    Attributes:
      recipe: as it was asked for, rates still to be found.
      classes: of the data.
      classifier: `ClassifierSpec.to_metadata`.
      weights: digest of the pretrained variables, "" from scratch.
      versions: of what computes, and the hardware: a change is told, not refused.
      data: DATA as it was given, for messages.
    """

    recipe: Recipe
    classes: tuple[str, ...]
    classifier: dict[str, Any]
    weights: str
    versions: dict[str, str]
    data: str


def write_request(out: Path, request: Request, roster: Roster) -> None:
    """Writes `records.npz`, then `request.json`: from then on the run can be resumed."""
    write_npz(out / RECORDS, roster)
    record = {**request._asdict(), "recipe": dataclasses.asdict(request.recipe), "format_version": FORMAT_VERSION}
    write_atomic(out / REQUEST, json.dumps(record, indent=1) + "\n")


def read_request(out: Path) -> Request | None:
    """What `out` was asked for; None if no run was begun there that could be resumed.

    Raises:
      ValueError: if the file is damaged, or an older jaxclf's run lies there.
    """
    path = out / REQUEST
    if not path.is_file():
        if (out / CHECKPOINTS).is_dir() and not (out / SUMMARY).is_file():
            raise ValueError(f"the run in {out} has no {REQUEST}, so it cannot be resumed; replace it with --overwrite")
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record.pop("format_version")
        if version == FORMAT_VERSION or (version == 2 and (out / SUMMARY).is_file()):  # finished: nothing to go on with
            recipe = from_dict(Recipe, record["recipe"], "recipe.")
            return Request(**{**record, "recipe": recipe, "classes": tuple(record["classes"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}; replace the run with --overwrite") from error
    raise ValueError(
        f"the run in {out} was begun by another version of jaxclf (format {version}, this one goes on with format "
        f"{FORMAT_VERSION}); finish it with that version, or start anew with --overwrite"
    )


def recipe_differences(before: Recipe, after: Recipe) -> list[str]:
    """What two recipes disagree on, a line per setting: `name: was X, now Y`."""
    old, new = (
        _flat({**vars(recipe.settings), "phases": dataclasses.asdict(recipe)["phases"]}) for recipe in (before, after)
    )
    return [
        f"{name}: was {old.get(name, 'not there')!r}, now {new.get(name, 'not there')!r}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(f"{name}.{key}" if name else key, item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        items = [(f"{name}[{number}]", item) for number, item in enumerate(value)]
    else:
        return {name: value}
    return {key: leaf for path, item in items for key, leaf in _flat(item, path).items()}


def check_same(out: Path, before: Request, now: Request, roster: Roster) -> list[str]:
    """Refuses to go on with other classes, weights, training or validation data.

    Returns:
      What may change the last digits (other versions or hardware), and that the test part changed, which no training
      sees.

    Raises:
      ValueError: with a line for each difference.
    """
    problems = []
    if before.classes != now.classes:
        problems.append(f"classes: were {', '.join(before.classes)}, now {', '.join(now.classes)}")
    if before.weights != now.weights:
        problems.append("weights: the pretrained values are not the same")
    if not problems:
        old, new = _flat(before.classifier), _flat(json.loads(json.dumps(now.classifier)))
        problems = [
            f"network {name}: was {old.get(name)!r}, now {new.get(name)!r}"
            for name in new
            if old.get(name) != new[name]
        ]
    try:
        with np.load(out / RECORDS, allow_pickle=False) as saved:
            begun = dict(saved)
        learned, tested = (
            roster_differences(*(roster_of(each, parts) for each in (begun, roster)))
            for parts in (("train", "valid"), ("test",))
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{out / RECORDS} is damaged: {error}; replace the run with --overwrite") from error
    _refuse(out, problems + [f"data: {line}" for line in learned])
    changed = [f"the test part has changed, which training does not see: {'; '.join(tested)}"] if tested else []
    return changed + [
        f"{name} was {before.versions.get(name)}, now {value}: the last digits may differ"
        for name, value in now.versions.items()
        if before.versions.get(name) != value
    ]


def check_recipe(out: Path, before: Recipe, now: Recipe) -> None:
    """Refuses to go on with another recipe.

    Raises:
      ValueError: with a line for each difference.
    """
    _refuse(out, [f"recipe {line}" for line in recipe_differences(before, now)])


def _refuse(out: Path, problems: list[str]) -> None:
    if problems:
        raise ValueError(
            f"the run in {out} cannot be resumed: it was begun otherwise\n  "
            + "\n  ".join(problems)
            + "\nrepeat the command it was begun with, or start anew with --overwrite"
        )


class Point(NamedTuple):
    """Where a run goes on.

    Attributes:
      run: how far it had come.
      path: the checkpoint; None: from the start.
      place: where inside the phase under way, its epoch and batch; None: the phase has not begun.
    """

    run: RunState
    path: Path | None = None
    place: tuple[int, int] | None = None

    def describe(self) -> str:
        """In words."""
        if self.run.finished:
            return "all phases have ended"
        where = f"phase {self.run.number + 1} of {len(self.run.recipe.phases)}"
        if self.place is None:
            return f"from the start of {where}"
        return f"{where}, epoch {self.place[0] + 1}, batch {self.place[1] + 1}"


def resume_point(out: Path, recipe: Recipe, keeper: Keeper, note: Callable[[str], None]) -> Point:
    """Finds the newest checkpoint that can be read, and takes the RUN folder back to that moment.

    What is newer than it (lines of the record, a checkpoint that was cut short or is damaged) is removed.
    """
    folder = out / CHECKPOINTS
    found = sorted(find_checkpoints(folder), key=lambda entry: _moment(entry[1]))
    point, size = Point(RunState(recipe)), 0
    for path, metadata in reversed(found):
        try:
            settings = recipe.settings
            labels = {"multi_label": settings.multi_label, "threshold": settings.threshold}
            latest = load_predictions(path, "latest_predictions", labels)
            load_part(path, "training")
            load_part(path, "variables")
            record, place = metadata["run"], metadata["snapshot"]
            rates = json.loads((out / RATES).read_text(encoding="utf-8")) if record["num_rates"] else []
            run = RunState.from_dict(record, recipe, rates, latest)
            check_metrics(out, record["metrics_size"])
            if run.best is not None:  # from which the run goes on
                load_part(phase_path(out, run.best), "variables")
        except (ValueError, OSError, KeyError) as error:
            note(f"checkpoint {path} cannot be used, so an older one is taken: {error}")
            continue
        point = Point(run, path, None if place is None else (place["epoch"], place["batch"]))
        size = record["metrics_size"]
        break
    kept = [entry for entry in found if point.path is not None and _moment(entry[1]) <= _moment(_at(found, point.path))]
    if point.path is not None:
        snapshots = [
            (data["progress"]["phase_number"], data["run"]["valid_loss"], path)
            for path, data in kept
            if data["snapshot"] is not None
        ]
        keeper.adopt(point.path, snapshots)
    any_process(False)  # all have read
    if is_writer():
        _clean(out, point, [entry[0] for entry in kept], size)
    any_process(False)
    return point


def _clean(out: Path, point: Point, kept: list[Path], size: int) -> None:
    """Takes the RUN folder back to the moment of a point."""
    truncate_metrics(out, size)
    for path in (out / CHECKPOINTS).glob("*"):
        if path not in kept:
            remove_checkpoint(path) if not path.suffix else shutil.rmtree(path, ignore_errors=True)
    write_recipe(out, point.run.recipe)


def _moment(metadata: dict[str, Any]) -> tuple[int, int, int]:
    """What orders checkpoints in time."""
    progress = metadata["progress"]
    ended = metadata["snapshot"] is None
    return progress["phase_number"] + ended, 0 if ended else progress["step"], 0 if ended else progress["phase_epoch"]


def _at(found: list[tuple[Path, dict[str, Any]]], path: Path) -> dict[str, Any]:
    return next(metadata for where, metadata in found if where == path)
