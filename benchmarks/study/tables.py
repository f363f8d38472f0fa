"""The study's figures, out of what its turns have kept: as JSON values, and as tables."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from study.judge import Choice, Scores, choose, difference, fall, halves, judge, score
from study.processes import DISTURBED
from study.said import Said

#: The steps that every run of ours ends with.
CHOSEN, AUGMENTED = "best state of the whole run", "test-time augmentation where it helps"


class Turn(NamedTuple):
    """A turn as it is judged.

    Attributes:
      record: what the turn kept.
      files, labels: of the pictures.
      final: what each picture scores at the end, by choices that did not see it.
      steps: (name, what each picture scores) after each step, in their order.
      choices: the states that the two halves chose, and whether with test-time augmentation.
      own: (name, scores) of its phases' ends, and of the best state with test-time augmentation.
    """

    record: Mapping[str, Any]
    files: np.ndarray
    labels: np.ndarray
    final: Scores
    steps: list[tuple[str, Scores]]
    choices: tuple[tuple[str, bool], ...]
    own: list[tuple[str, Scores]]


def judged_turn(said: Said, record: Mapping[str, Any]) -> Turn:
    """Judges what a turn has said; a side with a single state chooses nothing, and is taken with its augmentation."""
    plain, augmented = score(said.plain, said.labels), score(said.augmented, said.labels)
    if len(said.names) == 1 and (said.plain == said.augmented).all():
        return Turn(record, said.files, said.labels, augmented.of(0), [], (), [])
    first_half = halves(said.labels)
    names = [str(name) for name in said.names]
    final, choices = judge(plain, augmented, first_half)
    chosen, _ = judge(plain, plain, first_half)
    ends = [(name, plain.of(k)) for k, name in enumerate(names)]
    steps = [*ends, (CHOSEN, chosen), (AUGMENTED, final)]

    def named(choice: Choice) -> tuple[str, bool]:
        return names[choice.state], choice.augmented

    held = choose(plain, augmented).state  # what the run itself, which looks at all pictures, ends with
    own = [*ends, ("test-time augmentation", augmented.of(held))]
    return Turn(record, said.files, said.labels, final, steps, tuple(map(named, choices)), own)


def check_same(sides: Mapping[str, Mapping[int, Turn]]) -> None:
    """Raises ValueError unless all turns are of the same pictures with the same labels."""
    turns = [(f"{name}, seed {seed}", turn) for name, side in sides.items() for seed, turn in side.items()]
    for name, turn in turns[1:]:
        first = turns[0][1]
        if not np.array_equal(turn.files, first.files) or not np.array_equal(turn.labels, first.labels):
            raise ValueError(f"{name} and {turns[0][0]} judge other pictures, or label them otherwise")


def figures(sides: Mapping[str, Mapping[int, Turn]], turns: int) -> dict[str, Any]:
    """All figures of a case as JSON values.

    Args:
      sides: "ours", "fastai", "logistic ..", and ablations; of each, its turns by seed.
      turns: seeds asked for.
    """
    check_same(sides)
    found: dict[str, Any] = {"seeds": turns, "sides": {name: _side(side) for name, side in sides.items() if side}}
    mine = sides["ours"]
    pairs = [("ours", name) for name in sides if name == "fastai" or name.startswith("logistic")]
    others = [name for name in sides if name not in ("ours", "fastai") and not name.startswith("logistic")]
    pairs += [(name, "ours") for name in others] + [(name, "fastai") for name in others if "fastai" in sides]
    found["pairs"] = [pair for after, before in pairs if (pair := _pair(sides, after, before))]
    found["steps"] = _steps(list(mine.values()))
    found["fastai steps"] = _own_steps(list(sides.get("fastai", {}).values()))
    found["runs"] = {str(seed): _run(turn) for seed, turn in mine.items() if turn.own}
    found["end"] = _end([turn for turn in mine.values() if turn.own])
    return found


def _run(turn: Turn) -> dict[str, Any]:
    """What a run chose, and how far its end is from its best step, which hindsight names."""
    found = fall(turn.final, turn.own)
    choices = [list(choice) for choice in turn.choices]
    return {
        "choices": choices,
        "best step": found.step,
        "loss over it": list(found.loss),
        "clearly worse": found.clear,
    }


def _end(turns: Sequence[Turn]) -> dict[str, Any]:
    """The same of all runs together: the step that is best over the seeds, and the end against it."""
    if not turns:
        return {}
    over_seeds = [
        (name, Scores(*(np.stack([getattr(turn.own[k][1], field) for turn in turns]) for field in Scores._fields)))
        for k, (name, _) in enumerate(turns[0].own)
    ]
    ends = Scores(*(np.stack([getattr(turn.final, field) for turn in turns]) for field in Scores._fields))
    found = fall(ends, over_seeds)
    worse = sum(fall(turn.final, turn.own).clear for turn in turns)
    return {
        "best step": found.step,
        "loss over it": list(found.loss),
        "clearly worse": found.clear,
        "runs worse": worse,
    }


def _side(side: Mapping[int, Turn]) -> dict[str, Any]:
    values = {
        "loss": [float(turn.final.losses.mean()) for turn in side.values()],
        "accuracy": [float(turn.final.right.mean()) for turn in side.values()],
        "seconds": [float(turn.record["seconds"]) for turn in side.values()],
    }
    busy = [seed for seed, turn in side.items() if (turn.record.get("other_cores") or 0.0) > DISTURBED]
    commits = sorted({str(turn.record["commit"]) for turn in side.values() if "commit" in turn.record})
    pictures = len(next(iter(side.values())).files)
    measured = {name: [statistics.mean(each), min(each), max(each)] for name, each in values.items()}
    return {"seeds": list(side), **measured, "disturbed seeds": busy, "pictures": pictures, "commits": commits}


def _pair(sides: Mapping[str, Mapping[int, Turn]], after: str, before: str) -> dict[str, Any] | None:
    """after - before over the seeds that both have."""
    seeds = [seed for seed in sides[after] if seed in sides[before]]
    if not seeds:
        return None
    turns = [(sides[before][seed], sides[after][seed]) for seed in seeds]
    losses, right = (
        [np.stack([getattr(turn[place].final, name) for turn in turns]) for place in (0, 1)]
        for name in ("losses", "right")
    )
    ratios = [new.record["seconds"] / old.record["seconds"] for old, new in turns]
    together = sum(new.record.get("invocation", 0) == old.record.get("invocation", 1) for old, new in turns)
    return {
        "after": after,
        "before": before,
        "seeds": seeds,
        "loss": list(difference(*losses)),
        "accuracy": list(difference(*right)),
        "loss ratio": float(losses[1].mean() / losses[0].mean()),
        "seconds ratio": [statistics.median(ratios), min(ratios), max(ratios)],
        "measured together": together,
    }


def _steps(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Of each step of ours: figures over the seeds, and loss and accuracy against the step before."""
    found: list[dict[str, Any]] = []
    before: list[Scores] = []
    for name in [name for name, _ in turns[0].steps]:
        now = [scores for turn in turns for step, scores in turn.steps if step == name]
        row: dict[str, Any] = {"name": name, "loss": float(np.mean([each.losses.mean() for each in now]))}
        row["accuracy"] = float(np.mean([each.right.mean() for each in now]))
        row["seconds"] = _step_seconds(name, turns)
        if before and len(before) == len(now):
            for field, what in (("losses", "loss"), ("right", "accuracy")):
                pair = [np.stack([getattr(each, field) for each in side]) for side in (before, now)]
                row[f"{what} difference"] = list(difference(pair[0], pair[1]))
        found.append(row)
        before = now
    return found


def _step_seconds(name: str, turns: Sequence[Turn]) -> float | None:
    """Mean seconds that the runs themselves give a step; what is chosen costs none."""
    name = "test-time augmentation" if name == AUGMENTED else name
    own = [step["seconds"] for turn in turns for step in turn.record.get("steps", ()) if step["name"] == name]
    return statistics.mean(own) if own else None


def _own_steps(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """What fastai's script itself says of its steps, mean over the seeds."""
    if not turns:
        return []
    columns = zip(*(turn.record["steps"] for turn in turns), strict=True)
    names = {"loss": "loss", "accuracy": "acc", "seconds": "seconds"}
    return [
        {"name": steps[0]["step"]} | {name: statistics.mean(step[own] for step in steps) for name, own in names.items()}
        for steps in columns
    ]


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The figures as tables."""
    pictures = next(iter(found["sides"].values()))["pictures"]
    yield f"  {pictures} pictures, judged by choices made on the other half; mean over seeds (lowest to highest)"
    yield f"  {'':28s} {'seeds':>5s}  {'loss':24s} {'accuracy':24s} seconds"
    for name, side in found["sides"].items():
        texts = [_range(side[what], digits) for what, digits in (("loss", 4), ("accuracy", 4), ("seconds", 1))]
        busy = f"  (others were at work beside seeds {side['disturbed seeds']})" * bool(side["disturbed seeds"])
        yield f"  {name:28s} {len(side['seeds']):5d}  {texts[0]:24s} {texts[1]:24s} {texts[2]}{busy}"
    yield "  pairs, picture by picture (mean +- standard error; below 0 the first one's loss is lower)"
    for pair in found["pairs"]:
        together = pair["measured together"] == len(pair["seeds"])
        apart = "" if together else f", {pair['measured together']} of {len(pair['seeds'])} seeds measured together"
        yield (
            f"    {pair['after']} - {pair['before']}: loss {_pm(pair['loss'])} (x {pair['loss ratio']:.3f}), "
            f"accuracy {_pm(pair['accuracy'])}, seconds x {_range(pair['seconds ratio'], 3)}{apart}"
        )
    yield "  steps of ours (differences to the line before)"
    for step in found["steps"]:
        seconds = "" if step["seconds"] is None else f"  {step['seconds']:.1f} s"
        changes = [_pm(step[name]) for name in ("loss difference", "accuracy difference") if name in step]
        shown = f"{step['loss']:.4f} ({step['accuracy']:.4f}){seconds}"
        yield "  ".join([f"    {step['name']:40s} {shown:28s}", *changes]).rstrip()
    if found["fastai steps"]:
        yield "  steps of fastai (its own figures)"
    for step in found["fastai steps"]:
        yield f"    {step['name']:40s} {step['loss']:.4f} ({step['accuracy']:.4f})  {step['seconds']:.1f} s"
    yield "  runs of ours: the end, by choices of the other half, against the best step, by hindsight"
    for seed, run in found["runs"].items():
        choices = ", ".join(f"{state}{' + augmentation' * augmented}" for state, augmented in run["choices"])
        yield f"    seed {seed}: {_verdict(run)}; chose {choices}"
    if found["end"]:
        worse = f"{found['end']['runs worse']} of {len(found['runs'])} runs worse"
        yield f"    all seeds: {_verdict(found['end'])}; {worse}"


def _verdict(run: Mapping[str, Any]) -> str:
    words = "WORSE than" if run["clearly worse"] else "not clearly worse than"
    return f"{words} {run['best step']}: {_pm(run['loss over it'])}"


def _pm(estimate: Sequence[float]) -> str:
    return f"{estimate[0]:+.4f} +- {estimate[1]:.4f}"


def _range(values: Sequence[float], digits: int) -> str:
    middle, low, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"
