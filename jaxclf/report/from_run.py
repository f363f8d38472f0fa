"""From a RUN folder to a report: what is there is read, what is not is left out."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxclf._files import write_atomic
from jaxclf._progress import OnProgress, silent
from jaxclf.config import METRICS, Recipe, from_json
from jaxclf.data.check.listing import Finding
from jaxclf.data.check.report import Report
from jaxclf.data.sources import DataSource
from jaxclf.data.splits import open_data
from jaxclf.inference.gradcam import grad_cam
from jaxclf.metrics import Predictions
from jaxclf.plots import read_rows
from jaxclf.report.content import RateTest, ReportContent
from jaxclf.report.page import make_report
from jaxclf.report.pictures import shown_indices
from jaxclf.run.folder import CHECK, PREDICTIONS, RECIPE, REPORT, SUMMARY
from jaxclf.run.load import Run, load_run
from jaxclf.training.lr_curve import LRCurve

#: Learning-rate tests in a RUN, as `jaxclf find-lr` writes them, and a data check, as `jaxclf check --json` does.
RATE_TESTS = "lr_curve*.json"
#: Pictures whose heat maps are computed at once.
HEAT_BATCH = 8


def write_report(
    folder: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | DataSource | None = None,
    heat_maps: bool = True,
    check: Report | None = None,
    rate_tests: Iterable[RateTest] | None = None,
    on_progress: OnProgress = silent,
) -> Path:
    """Writes `report.html` into a finished RUN folder, replacing an older one. Arguments and errors as `collect`.

    Returns:
      Its path.
    """
    content = collect(
        folder, data=data, heat_maps=heat_maps, check=check, rate_tests=rate_tests, on_progress=on_progress
    )
    return write_atomic(Path(folder) / REPORT, make_report(content))


def collect(
    folder: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | DataSource | None = None,
    heat_maps: bool = True,
    check: Report | None = None,
    rate_tests: Iterable[RateTest] | None = None,
    on_progress: OnProgress = silent,
) -> ReportContent:
    """Reads a RUN folder, and the few pictures that a report shows.

    Args:
      folder: a finished RUN.
      data: where the run's validation pictures are: DATA as for `fit`, or their data source. None: no pictures.
        Pictures are matched by name; one that is gone, or cannot be read any more, is left out.
      heat_maps: also compute Grad-CAM of the pictures, which compiles the network anew.
      check: of the data; None takes `check.json` of the RUN, if there is one.
      rate_tests: learning-rate tests; None takes the RUN's `lr_curve*.json`.
      on_progress: called with (done, in all), where a picture counts twice: when it is read, and with its heat map.

    Raises:
      ValueError: naming the folder or file, for a folder that is no finished run, a damaged file, or data that cannot
        be opened.
    """
    folder = Path(folder)
    summary, recipe = _read_record(folder)
    predictions, names = _read_predictions(folder / PREDICTIONS, recipe)
    content = ReportContent(
        name=folder.resolve().name,
        summary=summary,
        recipe=recipe,
        rows=tuple(read_rows(folder)) if (folder / METRICS).is_file() else (),
        predictions=predictions,
        files=names,
        rate_tests=tuple(_read_rate_tests(folder) if rate_tests is None else rate_tests),
        check=_read_check(folder / CHECK) if check is None else check,
    )
    if data is None or content.judged is None:
        return content
    run = load_run(folder)
    if isinstance(data, str | os.PathLike):
        data = open_data(
            data, valid_fraction=run.recipe.settings.valid_fraction, seed=run.recipe.settings.seed, classes=run.classes
        ).valid
    content = content._replace(pictures=_pictures(run, data, content, on_progress))
    if heat_maps and content.pictures:
        content = content._replace(heat_maps=_heat_maps(run, content, on_progress))
    return content


def _read_record(folder: Path) -> tuple[dict[str, Any], Recipe]:
    if not (folder / RECIPE).is_file():
        raise ValueError(f"{folder} is not a run: it holds no {RECIPE}; give the --out folder of a `jaxclf fit`")
    if not (folder / SUMMARY).is_file():
        raise ValueError(
            f"the run in {folder} did not finish: it has no {SUMMARY}; go on with `jaxclf fit` and --resume"
        )
    recipe = _parsed(folder / RECIPE, lambda text: from_json(Recipe, text))
    summary = _parsed(folder / SUMMARY, json.loads)
    if not isinstance(summary, dict):
        raise ValueError(f"{folder / SUMMARY} is damaged: not a JSON object")
    return summary, recipe


def _parsed(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read_predictions(path: Path, recipe: Recipe) -> tuple[Predictions | None, tuple[str, ...]]:
    if not path.is_file():
        return None, ()
    try:
        with np.load(path, allow_pickle=False) as arrays:
            of = (recipe.settings.multi_label, recipe.settings.threshold)
            found = Predictions(arrays["logits"], arrays["labels"], arrays["index"], *of)
            return found, tuple(str(name) for name in arrays["files"])
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _read_rate_tests(folder: Path) -> list[RateTest]:
    """The tests before a run's phases (a list, in `RATES`), and those that `jaxclf find-lr` left in the folder."""

    def parse(content: Mapping[str, Any]) -> RateTest:
        suggestions = {str(rule): found["lr"] for rule, found in content.get("suggestions", {}).items()}
        values = content.get("curve", content)
        lrs, losses, smoothed = (np.asarray(values[name], np.float64) for name in ("lrs", "losses", "smoothed"))
        curve = LRCurve(lrs, losses, smoothed, str(content["reason"]))
        title = f"before {content['phase']}" if "phase" in content else "Learning-rate test"
        return RateTest(title, curve, suggestions, content.get("lr", suggestions.get(str(content.get("rule")))))

    def parse_all(text: str) -> list[RateTest]:
        content = json.loads(text)
        return [parse(test) for test in (content if isinstance(content, list) else [content])]

    return [test for path in sorted(folder.glob(RATE_TESTS)) for test in _parsed(path, parse_all)]


def _read_check(path: Path) -> Report | None:
    if not path.is_file():
        return None

    def findings(rows: list[Mapping[str, Any]]) -> tuple[Finding, ...]:
        return tuple(Finding(row["kind"], row["message"], tuple(row["paths"])) for row in rows)

    def parse(text: str) -> Report:
        content = json.loads(text)
        return Report(**{**content, "errors": findings(content["errors"]), "warnings": findings(content["warnings"])})

    found = _parsed(path, parse)
    assert isinstance(found, Report)
    return found


def _pictures(run: Run, source: DataSource, content: ReportContent, on_progress: OnProgress) -> dict[int, np.ndarray]:
    """Example index -> what the network sees of it, found in the source by name."""
    assert content.predictions is not None
    names = {int(index): name for index, name in zip(content.predictions.index, content.files, strict=True)}
    wanted = {names[index]: index for index in shown_indices(content)}
    pictures = {}
    for place in range(len(source)):
        index = wanted.get(source.name(place))
        if index is None:
            continue
        try:
            pictures[index] = run.pixels(source[place].image)
        except ValueError:  # it could be read when the run was made; the report does without
            continue
        on_progress(len(pictures), 2 * len(wanted))
    return pictures


def _heat_maps(run: Run, content: ReportContent, on_progress: OnProgress) -> dict[int, np.ndarray]:
    classes = shown_indices(content)
    found: dict[int, np.ndarray] = {}
    indices = sorted(content.pictures)
    for start in range(0, len(indices), HEAT_BATCH):
        batch = indices[start : start + HEAT_BATCH]
        padded = [*batch, *batch[:1] * (HEAT_BATCH - len(batch))]  # one shape, one compilation
        images = np.stack([content.pictures[index] for index in padded])
        chosen = np.array([classes[index] for index in padded], np.int32)
        maps = grad_cam(run.model, run.variables, images, chosen, preprocess=run.spec.preprocess)
        found |= dict(zip(batch, maps, strict=False))
        on_progress(len(indices) + len(found), 2 * len(indices))
    return found
