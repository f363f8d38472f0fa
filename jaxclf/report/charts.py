"""The report's charts: what `jaxclf.plots` draws, at a size that a phone shows, with a text that says what is seen."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxclf._words import count, number, percent
from jaxclf.metrics import ReliabilityCurve
from jaxclf.plots import (
    plot_confusion,
    plot_epochs,
    plot_losses,
    plot_lr_curve,
    plot_rates,
    plot_reliability,
    plot_ridge,
)
from jaxclf.plots.history import History, Metric, history, plot_steps
from jaxclf.plots.style import inline_svg, new_figure
from jaxclf.report.content import RateTest
from jaxclf.training.logistic import SolvedHead

#: Of a chart, in inches. At 72 units to the inch it fills a phone one to one, so its text is as small as intended.
WIDTH, HEIGHT = 4.5, 3.2
#: Logged steps that a chart shows: more would make the file large, and no line different.
MAX_STEPS = 600


class Chart(NamedTuple):
    """A drawn chart.

    Attributes:
      name: the part of its ids that no other chart has.
      title: short.
      alt: what is seen, for those who do not see it.
      body, view_box: of the `<svg>` element.
      wide: whether it needs all of the page's width.
    """

    name: str
    title: str
    alt: str
    body: str
    view_box: str
    wide: bool = False


def _draw(name: str, title: str, alt: str, plot: Callable[..., object], *, height: float = HEIGHT) -> Chart:
    figure = new_figure(WIDTH, height)
    plot(ax=figure.add_subplot())
    return Chart(name, title, alt, *inline_svg(figure, name))


def step_charts(steps: Sequence[Mapping[str, Any]], num_examples: int | None) -> list[Chart]:
    """Loss and accuracy after each step over time; nothing for a single step, which its table row says already."""
    charts = []
    metrics: tuple[tuple[Metric, Callable[[float], str]], ...] = (("loss", number), ("accuracy", percent))
    for metric, words in metrics:
        values = {position: step[metric] for position, step in enumerate(steps, 1) if step.get(metric) is not None}
        if len(values) < 2:
            continue
        shown = ", ".join(f"{position}: {words(value)}" for position, value in values.items())
        bars = ", with two standard errors" if metric == "accuracy" and num_examples else ""
        title = f"Validation {metric} after each step{bars}"
        alt = f"Line chart: validation {metric} after each step over time. After step {shown}."
        plot = functools.partial(plot_steps, steps, metric=metric, num_examples=num_examples)
        charts.append(_draw(f"steps-{metric}", title, alt, plot))
    return charts


def rate_chart(test: RateTest, position: int) -> Chart:
    """A learning-rate test; the chosen rate is marked as such."""
    marks = dict(test.suggestions)
    if test.chosen is not None:
        # The rule whose rate was taken is not marked a second time below it.
        marks = {rule: rate for rule, rate in marks.items() if rate is None or not np.isclose(rate, test.chosen)}
        rules = [rule for rule in test.suggestions if rule not in marks]
        marks = {f"chosen ({rules[0]})" if rules else "chosen": test.chosen, **marks}
    chosen = "none was chosen" if test.chosen is None else f"{test.chosen:.2g} was chosen"
    ends = np.asarray(test.curve.lrs)[[0, -1]]
    lowest = float(np.nanmin(test.curve.smoothed))
    alt = (
        f"Line chart: smoothed training loss over learning rates from {ends[0]:.1g} to {ends[1]:.1g}; its lowest value "
        f"is {number(lowest)}; {chosen}. The test ended: {test.curve.reason}."
    )
    return _draw(f"rate-{position}", test.name, alt, functools.partial(plot_lr_curve, test.curve, suggestions=marks))


def ridge_chart(name: str, solved: SolvedHead, position: int) -> Chart:
    """How the ridge of a head that was solved was chosen."""
    of = f"in {solved.num_folds} folds" if solved.num_folds > 1 else "of a fifth of the pictures"
    low, high = min(solved.ridges), max(solved.ridges)
    alt = (
        f"Line chart: held-out loss {of}, over ridges from {low:.1g} to {high:.1g}; {solved.ridge:.3g} was chosen, "
        f"with a loss of {number(solved.loss)}; the highest is {number(float(np.nanmax(solved.losses)))}."
    )
    return _draw(f"ridge-{position}", name, alt, functools.partial(plot_ridge, solved))


def training_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Epoch by epoch, and rate and loss over the steps; each only where there are rows for it."""
    plain = thinned([dict(row) for row in rows])
    charts = []
    kinds = {row.get("kind") for row in plain}
    metrics: tuple[Metric, ...] = ("loss", "accuracy")
    if "epoch" in kinds:
        epochs = history(plain, "epoch")
        for metric in metrics:
            alt = f"Line chart of {count(len(epochs.rows), 'epoch')}: {_ends(epochs, metric)}."
            plot = functools.partial(plot_epochs, plain, metric=metric)
            charts.append(_draw(f"epochs-{metric}", f"{metric.capitalize()} of each epoch", alt, plot))
    if "step" in kinds:
        steps = history(plain, "step")
        largest, losses = max(max(row["lrs"]) for row in steps.rows), steps.values("loss")
        over = f"{int(steps.position[-1]) + 1:,} steps; the largest is {number(float(largest), 2)}"
        alt = f"Line chart: learning rates of the layer groups over {over}."
        charts.append(_draw("step-rates", "Learning rate over the steps", alt, functools.partial(plot_rates, plain)))
        alt = f"Line chart: training loss over the steps, from {number(losses[0])} to {number(losses[-1])}."
        charts.append(_draw("step-losses", "Training loss over the steps", alt, functools.partial(plot_losses, plain)))
    return charts


def thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most about `MAX_STEPS` of the step rows, evenly; each phase's last one stays, and so does every other row."""
    steps = [place for place, row in enumerate(rows) if row.get("kind") == "step"]
    stride = -(-len(steps) // MAX_STEPS) or 1
    ends = {this for this, after in itertools.pairwise(steps) if rows[this].get("phase") != rows[after].get("phase")}
    dropped = set(steps) - set(steps[::stride]) - ends - set(steps[-1:])
    return [row for place, row in enumerate(rows) if place not in dropped]


def _ends(epochs: History, metric: str) -> str:
    """ "training loss from 1.2 to 0.1, validation loss from .."."""
    parts = []
    for kind, title in (("train", "training"), ("valid", "validation")):
        values = epochs.values(f"{kind}_{metric}")
        values = values[np.isfinite(values)]
        if len(values):
            parts.append(f"{title} {metric} from {number(float(values[0]))} to {number(float(values[-1]))}")
    return ", ".join(parts)


def reliability_chart(before: ReliabilityCurve, after: ReliabilityCurve | None, alt: str) -> Chart:
    """Confidence against the share that is right."""
    title = "Confidence against how often it is right; larger dots stand for more pictures"
    alt = f"Line chart: share of right answers over the confidence they were given with. {alt}"
    return _draw("reliability", title, alt, functools.partial(plot_reliability, before, after=after), height=4.0)


def confusion_chart(matrix: np.ndarray, classes: Sequence[str]) -> Chart:
    """A confusion matrix of too many classes for a table, as colours."""
    figure: Any = plot_confusion(matrix, classes, normalize=True).get_figure()
    title = "Share of each actual class (row) that is taken for each predicted one (column)"
    alt = f"Confusion matrix of {len(classes)} classes as colours; the most frequent confusions are listed below."
    return Chart("confusion-picture", title, alt, *inline_svg(figure, "confusion-picture"), wide=True)
