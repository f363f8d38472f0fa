"""What a run looks like on a terminal: progress bars where there is one, plain lines where there is not."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jaxclf._words import describe_flops
from jaxclf.config import MODULES, Phase, Recipe
from jaxclf.run.folder import CONTENTS
from jaxclf.run.observer import Observer
from jaxclf.run.outcome import HELD, NOT_USED, TTA, USED, final_with_views, step_marks
from jaxclf.run.recipes import EIGHT_STEPS
from jaxclf.training.cost import PhaseCost
from jaxclf.training.events import Event, Row

#: Columns of a terminal from which on a plan is printed as a table, and the rates of all layer groups are shown.
PLAN_WIDTH, WIDE = 150, 100
#: Skipped pictures that are listed on the terminal.
MAX_SKIPPED = 10


class _Speed:
    """Images per second between two logged steps of an epoch: there the device has really finished its work.

    Steps in between are only dispatched, the first includes compiling, and between epochs stands the validation.
    """

    def __init__(self) -> None:
        self.last: tuple[int, int, float] | None = None  # epoch, step, time of the last logged step
        self.text = ""

    def update(self, row: Row, examples: int) -> str:
        now = time.perf_counter()
        if self.last is not None and self.last[0] == row["epoch"]:
            images = (row["step"] - self.last[1]) * examples
            self.text = f"  {images / (now - self.last[2]):.0f} images/s"
        self.last = (row["epoch"], row["step"], now)
        return self.text


class _Rate(ProgressColumn):
    """How many of a task are done per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


class Terminal(Observer):
    """Draws a run's progress with rich; prints one line an epoch where standard output is not a terminal."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)

    def _bar(self, *columns: ProgressColumn) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            *columns,
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            redirect_stdout=not self.console.stderr,  # else rich sends what is printed to standard output there, too
            disable=not self.console.is_terminal,
        )

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int, int], None]]:
        with self._bar(_Rate()) as bar:
            task = bar.add_task(description, total=total)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    @contextlib.contextmanager
    def phase(self, phase: Phase, number: int, num_phases: int) -> Iterator[Callable[[Event], None]]:
        steps = describe_steps(phase, number, num_phases)
        sentence = f"phase {number + 1} of {num_phases}, {phase.name!r}{steps}: {describe_phase(phase)}"
        self.console.print(sentence, markup=False, soft_wrap=not self.console.is_terminal)  # broken at words there
        shown = slice(None) if self.console.width >= WIDE else slice(-1, None)  # else the last group's rate alone
        with self._bar(TextColumn("{task.fields[figures]}")) as bar:
            task = bar.add_task("compiling", total=None, figures="")
            speed = _Speed()

            def show(event: Event) -> None:
                fields: dict[str, Any] = {}
                for row in event.rows:
                    if row["kind"] == "step":
                        rates = "/".join(f"{lr:.2g}" for lr in row["lrs"][shown])
                        fields["figures"] = f"loss {row['loss']:.4f}  rate {rates}{speed.update(row, event.examples)}"
                bar.update(task, description="training", total=event.num_steps, completed=event.step, **fields)

            yield show

    def epoch(self, row: Row) -> None:
        valid = (
            f"  valid loss {row['valid_loss']:.4f}  accuracy {row['valid_accuracy']:.4f}" if "valid_loss" in row else ""
        )
        self.note(f"  epoch {row['epoch'] + 1:2d}  train loss {row['train_loss']:.4f}{valid}")

    def show_plan(self, recipe: Recipe, costs: Sequence[PhaseCost] | None = None) -> None:
        """Prints the phases of a recipe, and what each is estimated to cost where `costs` says it."""
        columns = ("phase", "frozen", "from", "rates", "epochs", "augmentation", *(["cost"] if costs else []))
        title = f"{recipe.settings.arch}, {recipe.settings.image_size} px"
        rows = [
            (
                phase.name,
                describe_frozen(phase),
                f"activations at {phase.cut}"
                if phase.cut
                else f"pictures, {phase.image_size or recipe.settings.image_size} px",
                describe_rates(phase),
                describe_cycles(phase),
                ", ".join(filter(None, (phase.augment, recipe.mixing(phase)))),
                *([describe_cost(costs[number])] if costs else []),
            )
            for number, phase in enumerate(recipe.phases)
        ]
        if self.console.width >= PLAN_WIDTH:
            table = Table(*columns, title=title)
            for row in rows:
                table.add_row(*row)
            self.console.print(table)
        else:  # seven columns would be cut to pieces
            self.note(title)
            for name, *values in rows:
                self.note(name)
                for column, value in zip(columns[1:], values, strict=True):
                    self.note(f"  {column:13s} {value}")
        if costs:
            whole = PhaseCost("", sum(cost.flops for cost in costs), sum(cost.full_epochs for cost in costs))
            self.note(
                f"cost: at most {describe_cost(whole)} together, in epochs of training the whole network at "
                f"{recipe.settings.image_size} px; an estimate from FLOPs, without decoding and augmentation"
            )

    def show_summary(self, summary: dict[str, Any]) -> None:
        """Prints what each phase brought and the run's figures."""
        views = any("tta" in step for step in summary["steps"])
        more = ["with TTA"] if views else []
        title = "on the validation pictures; change with its standard error"
        table = Table("phase", "seconds", "loss", "change, error", "accuracy", *more, title=title)
        table.columns[0].min_width = len("augmentation")  # the longest word of a recipe's phases: whole at 80 columns
        for column in table.columns[1:]:
            column.justify = "right"
        marks = step_marks(summary["steps"])
        if any(marks):
            table.add_column("")
        for step, mark in zip(summary["steps"], marks, strict=True):
            change = "{:+.4f}, {:.4f}".format(*step["loss_difference"]) if "loss_difference" in step else ""
            figures = [f"{step['seconds']:.1f}", f"{step['loss']:.4f}", change, f"{step['accuracy']:.4f}"]
            figures += [f"{step['tta']['loss']:.4f}" if "tta" in step else ""] if views else []
            table.add_row(step["name"], *figures, *([SHORT[mark]] if any(marks) else []))
        self.console.print(table)
        worse = better_step(summary)
        if worse is not None:
            self.note(worse)
        for line in describe_figures(summary):
            self.note(line)
        if "f_beta" in summary:
            best = summary["best_threshold"]
            self.note(
                f"on these pictures a threshold of {best['threshold']:.2f} would have given F2 {best['f_beta']:.4f} "
                f"(optimistic: it was chosen on them; now {summary['threshold']:.2f})"
            )
        for part, pictures in summary["skipped_images"].items():
            for picture in pictures[:MAX_SKIPPED]:
                self.note(f"skipped in {part}: {picture['reason']}")
            if len(pictures) > MAX_SKIPPED:
                self.note(f".. and {len(pictures) - MAX_SKIPPED} more in {part}, listed in summary.json")

    def show_confusion(self, matrix: np.ndarray, classes: tuple[str, ...]) -> None:
        """Prints a confusion matrix, rows = actual."""
        table = Table("actual \\ predicted", *classes, title="confusion matrix")
        for name, counts in zip(classes, matrix, strict=True):
            table.add_row(name, *(str(count) for count in counts))
        self.console.print(table)

    def show_files(self, out: str | Path) -> None:
        """Prints the paths of what a run wrote."""
        for name in CONTENTS:
            if (Path(out) / name).exists():
                self.note(f"wrote {Path(out) / name}")


#: What became of a step, in a column that leaves the others room.
SHORT = {HELD: "held", NOT_USED: "not used", USED: "used", "": ""}


def describe_frozen(phase: Phase) -> str:
    """Which modules a phase freezes, in words."""
    if not phase.frozen:
        return "nothing"
    if phase.frozen == MODULES[:-1]:
        return "the whole body"
    return f"{phase.frozen[0]} to {phase.frozen[-1]}" if len(phase.frozen) > 1 else phase.frozen[0]


def describe_rates(phase: Phase) -> str:
    """A phase's rates, or how they will be found."""
    if phase.solve:
        return "none: solved"
    rates = ", ".join(f"{lr:.3g}" for lr in phase.lrs)
    sources = {"given": rates, "find": f"from find_lr x {rates}", "previous": f"as before x {rates}"}
    return rates if len(set(phase.lrs)) > 1 and phase.lr_from == "given" else sources[phase.lr_from]


def describe_cost(cost: PhaseCost) -> str:
    """An estimated cost, in epochs of training the whole network and in FLOPs."""
    epochs = f"{cost.full_epochs:.1f}" if cost.full_epochs >= 0.95 else f"{cost.full_epochs:.2g}"
    return f"{epochs} ({describe_flops(cost.flops)})"


def describe_cycles(phase: Phase) -> str:
    """A phase's epochs, as the sum of its cycles."""
    if phase.solve:
        return "none: solved"
    lengths = [phase.cycle_epochs * phase.cycle_mult**cycle for cycle in range(phase.num_cycles)]
    return str(lengths[0]) if len(lengths) == 1 else f"{' + '.join(map(str, lengths))} = {sum(lengths)}"


def describe_steps(phase: Phase, number: int, num_phases: int) -> str:
    """Which of fast.ai's steps this is, of a phase of the recipe "eight-steps"; else nothing."""
    if num_phases != len(EIGHT_STEPS) or phase.name != list(EIGHT_STEPS)[number]:
        return ""
    first, *others = EIGHT_STEPS[phase.name]
    return f" (steps {first} to {others[-1]})" if others else f" (step {first})"


def describe_phase(phase: Phase) -> str:
    """What a phase does, in a sentence for somebody who does it for the first time."""
    learns = {
        (): "all layers learn",
        MODULES[:-1]: "only the head learns, the body stays as it is",
    }.get(phase.frozen, f"frozen {describe_frozen(phase)}, the later layers learn")
    if phase.cut is not None and phase.num_views == 1:
        sees = f", from what the frozen layers make of each picture, computed once (at {phase.cut}, no augmentation)"
    elif phase.cut is not None:
        sees = f", from {phase.num_views} altered views of each picture, computed once (at {phase.cut})"
    else:
        sees = "" if phase.augment == "none" else f", from pictures altered anew every time ({phase.augment})"
    if phase.solve:
        return f"{learns}{sees}; solved to its optimum, the ridge by cross-validation"
    if len(set(phase.lrs)) == 1:
        rates = f"rate {phase.lrs[0]:.3g}" + ("" if phase.frozen else " for all layers")
    elif phase.frozen == MODULES[:-1]:
        rates = f"rate {phase.lrs[-1]:.3g}"
    else:
        rates = f"rates {', '.join(f'{lr:.3g}' for lr in phase.lrs)} from the first layers to the head"
    epochs = f"epochs {describe_cycles(phase)}" + (", each cycle falling to 0" if phase.num_cycles > 1 else "")
    epochs += ", rising first, then falling to 0" if phase.schedule == "one_cycle" else ""
    best = "; the best epoch is kept" if phase.keep_best else ""
    return f"{learns}{sees}; {rates}, {epochs}{best}"


def describe_figures(summary: dict[str, Any]) -> list[str]:
    """The run's figures; where they are with test-time augmentation, those of plain pictures too."""

    def figures(of: Mapping[str, Any], spread: str = "") -> str:
        accuracy, loss = of["accuracy"], of["loss"]
        error = np.sqrt(accuracy * (1 - accuracy) / summary["num_valid"])
        return f"accuracy {accuracy:.4f} ({spread or f'standard error {error:.4f}'}), loss {loss:.4f}"

    # Labels of one picture are not independent: no simple standard error.
    spread = f"F2 {summary['f_beta']:.4f}" if "f_beta" in summary else ""
    end = f"on {summary['num_valid']} validation pictures, in {summary['seconds']:.0f} s"
    if summary.get("seconds_to_first_step") is not None:
        end += f" (the first step after {summary['seconds_to_first_step']:.0f} s)"
    plain, views = figures(summary, spread), final_with_views(summary)
    if views is None:
        return [f"{plain} {end}"]
    first = f"accuracy {views['accuracy']:.4f}, loss {views['loss']:.4f}" if spread else figures(views)
    return [f"{first} with {TTA} (`jaxclf predict --tta`) {end}", f"{plain} on plain pictures (`jaxclf predict`)"]


def better_step(summary: dict[str, Any]) -> str | None:
    """A sentence, where a phase before the last had the lower validation loss; else None."""
    steps = [step for step in summary["steps"] if step["name"] != TTA]
    best, last = next((step for step in steps if step["name"] == summary.get("best")), steps[-1]), steps[-1]
    if best is last:
        return None
    mean, error = last["loss_difference"]
    chance = ", which may be chance" if mean < 2 * error else ""
    compared = f"{last['loss']:.4f} (paired difference {mean:+.4f}, standard error {error:.4f}{chance})"
    if "tta" in last and "tta" in best:
        own, other = (f"{step['loss']:.4f} (with {TTA} {step['tta']['loss']:.4f})" for step in (last, best))
        compared = f"{own} against {other}"
    return (
        f"the run holds what {best['name']!r} ended with: {last['name']!r}, the last phase, had no lower validation "
        f"loss, {compared}"
    )
