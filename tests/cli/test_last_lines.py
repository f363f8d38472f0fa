"""The lines that `jaxclf fit` ends with: what became of each step, and which figures are which."""

import io

import pytest
from rich.console import Console

from jaxclf.cli.terminal import Terminal, describe_figures

PLAIN = {"loss": 0.3, "accuracy": 0.89, "num_valid": 200, "seconds": 47.3, "skipped_images": {}}
VIEWS = {"name": "test-time augmentation", "loss": 0.28, "accuracy": 0.905}


def test_figures_with_views_come_first_where_they_are_better():
    assert describe_figures({**PLAIN, "final": VIEWS}) == [
        "accuracy 0.9050 (standard error 0.0207), loss 0.2800 with test-time augmentation (`jaxclf predict --tta`) on "
        "200 validation pictures, in 47 s",
        "accuracy 0.8900 (standard error 0.0221), loss 0.3000 on plain pictures (`jaxclf predict`)",
    ]
    assert describe_figures({**PLAIN, "final": VIEWS, "f_beta": 0.8}) == [
        "accuracy 0.9050, loss 0.2800 with test-time augmentation (`jaxclf predict --tta`) on 200 validation pictures, "
        "in 47 s",
        "accuracy 0.8900 (F2 0.8000), loss 0.3000 on plain pictures (`jaxclf predict`)",
    ]


@pytest.mark.parametrize("final", [{}, {"final": {"name": "all layers", "loss": 0.3, "accuracy": 0.89}}])
def test_otherwise_and_of_older_runs_there_is_one_line(final):
    assert describe_figures({**PLAIN, **final}) == [
        "accuracy 0.8900 (standard error 0.0221), loss 0.3000 on 200 validation pictures, in 47 s"
    ]


def test_the_wait_for_the_first_step_is_told():
    line = describe_figures({**PLAIN, "seconds_to_first_step": 11.6})[0]
    assert line.endswith("in 47 s (the first step after 12 s)")


def shown(summary) -> str:
    seen = io.StringIO()
    Terminal(Console(file=seen, highlight=False, soft_wrap=True, width=140)).show_summary(summary)
    return seen.getvalue()


def test_the_table_says_what_became_of_each_step():
    steps = [
        {"name": "head", "seconds": 1.0, "loss": 0.3, "accuracy": 0.89, "kept": True},
        {"name": "all layers", "seconds": 9.0, "loss": 0.4, "accuracy": 0.85, "kept": False}
        | {"loss_difference": [0.1, 0.01]},
        {"seconds": 2.0, "kept": True, **VIEWS},
    ]
    lines = shown({**PLAIN, "final": VIEWS, "best": "head", "steps": steps}).splitlines()
    marks = {"head": "held", "all layers": "not used", VIEWS["name"]: "used"}
    for name, mark in marks.items():
        assert any(line.lstrip("│ ").startswith(f"{name} ") and f" {mark} " in line for line in lines), name
    older = [{key: value for key, value in step.items() if key != "kept"} for step in steps]
    text = shown({**PLAIN, "steps": older})
    assert "all layers" in text and "not used" not in text
