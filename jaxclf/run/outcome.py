"""What a run's summary says of its steps: which one the run holds, which were no better, what the final figures are."""

from collections.abc import Mapping, Sequence
from typing import Any

#: The last step of a run by name.
TTA = "test-time augmentation"
#: What can become of a step.
HELD, NOT_USED, USED = "the run holds this", "no better: not used", "used for the final figures"


def step_marks(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """What became of each step of a summary, in words; "" where there is nothing to say, as of older runs.

    >>> step_marks([{"name": "head", "kept": True}, {"name": "all", "kept": False}, {"name": TTA, "kept": True}])
    ['the run holds this', 'no better: not used', 'used for the final figures']
    """
    phases = [(number, step) for number, step in enumerate(steps) if step.get("name") != TTA]
    kept = [number for number, step in phases if step.get("kept")]
    held = next((number for number, step in phases if step.get("held")), kept[-1] if kept else None)
    marks = []
    for number, step in enumerate(steps):
        if step.get("name") == TTA:
            marks.append(USED if step.get("kept") else NOT_USED if step.get("kept") is False else "")
        elif number == held:
            marks.append(HELD)
        else:
            after = held is not None and number > held
            marks.append(NOT_USED if after or step.get("kept") is False else "")
    return marks


def final_with_views(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The final figures, where they are with test-time augmentation; None where they are those of plain pictures."""
    final: Mapping[str, Any] = summary.get("final") or {}
    return final if final.get("name") == TTA and final.get("accuracy") is not None else None
