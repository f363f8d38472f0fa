"""What a run says of itself: sentences, progress, warnings; plain lines where there is no terminal."""

import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from jaxclf import report as report_module
from jaxclf.cli import report
from jaxclf.cli import terminal as terminal_module
from jaxclf.cli.terminal import Terminal, better_step, describe_phase, describe_steps
from jaxclf.config import Phase, Settings
from jaxclf.data.check.report import check_data
from jaxclf.data.demo.folder import write_drawings
from jaxclf.run.evaluate import evaluate_run
from jaxclf.run.load import load_run
from jaxclf.run.recipes import eight_steps, head_only, two_phase
from jaxclf.run.run import run_recipe
from jaxclf.training.events import Step

#: The heading of a report's data check.
FOUND = "Check of 26 pictures: 0 errors"
pytestmark = pytest.mark.usefixtures("small10t")
SETTINGS = Settings(arch="small10t", weights="none", image_size=32, batch_size=8, tta_views=0)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    return write_drawings(tmp_path_factory.mktemp("terminal") / "drawings", num_train=16, num_valid=10, size=40)


@pytest.fixture(scope="module")
def run_folder(drawings, tmp_path_factory):
    out = tmp_path_factory.mktemp("terminal") / "run"
    run_recipe(drawings, out, two_phase(SETTINGS, epochs=1))
    return out


def listening(**options) -> tuple[Terminal, io.StringIO]:
    seen = io.StringIO()
    return Terminal(Console(file=seen, highlight=False, soft_wrap=True, width=200, **options)), seen


SOLVED_WORDS = [
    "phase 1 of 3, 'head, precomputed' (steps 1 to 3): only the head learns, the body stays as it is, from what "
    "the frozen layers make of each picture, computed once (at pooled, no augmentation); solved to its optimum, the "
    "ridge by cross-validation",
    "phase 2 of 3, 'head, augmented' (step 4): only the head learns, the body stays as it is, from 3 altered views of "
    "each picture, computed once (at pooled); solved to its optimum, the ridge by cross-validation",
]
TRAINED_WORDS = [
    "phase 1 of 3, 'head, precomputed' (steps 1 to 3): only the head learns, the body stays as it is, from what "
    "the frozen layers make of each picture, computed once (at pooled, no augmentation); rate 0.01, "
    "epochs 1 + 1 = 2, each cycle falling to 0",
    "phase 2 of 3, 'head, augmented' (step 4): only the head learns, the body stays as it is, from pictures "
    "altered anew every time (side_on); rate 0.01, epochs 1 + 1 + 1 = 3, each cycle falling to 0",
]


@pytest.mark.parametrize(
    ("head", "words"), [("pools", SOLVED_WORDS), ("linear", SOLVED_WORDS), ("concat", TRAINED_WORDS)]
)
def test_the_eight_steps_in_words(head, words):
    recipe = eight_steps(Settings(head=head))
    phases = [
        dataclasses.replace(phase, lrs=(0.0001, 0.001, 0.01), lr_from="given") for phase in recipe.phases
    ]  # fmt: skip
    terminal, seen = listening()
    for number, phase in enumerate(phases):
        with terminal.phase(phase, number, len(phases)):
            pass
    assert seen.getvalue().splitlines() == [
        *words,
        "phase 3 of 3, 'all layers' (steps 5 to 8): all layers learn, from pictures altered anew every time (side_on); "
        "rates 0.0001, 0.001, 0.01 from the first layers to the head, epochs 1 + 2 + 4 = 7, each cycle falling to 0",
    ]


def test_other_recipes_have_no_step_numbers():
    for recipe in (head_only(Settings(), lr=0.1), two_phase(Settings(), lr=0.1), two_phase(SETTINGS)):
        count = len(recipe.phases)
        assert not any(describe_steps(phase, number, count) for number, phase in enumerate(recipe.phases))
    frozen = Phase("x", lrs=(0.1,), frozen=("stem", "stage1"), augment="none")
    assert describe_phase(frozen) == "frozen stem to stage1, the later layers learn; rate 0.1, epochs 1"
    assert "4 altered views of each picture, computed once (at stage2)" in describe_phase(
        dataclasses.replace(frozen, frozen=("stem", "stage1", "stage2"), cut="stage2", num_views=4, augment="side_on")
    )


def step(name, loss, difference=None):
    return {"name": name, "loss": loss} | ({"loss_difference": difference} if difference else {})


def test_a_step_that_was_better_than_the_last_is_named():
    steps = [step("head", 0.3), step("augmented", 0.2, [-0.1, 0.02]), step("all", 0.25, [0.05, 0.01])]
    views = step("test-time augmentation", 0.1, [-0.15, 0.01])
    said = better_step({"best": "augmented", "steps": [*steps, views]})
    assert said is not None and said.startswith(
        "the run holds what 'augmented' ended with: 'all', the last phase, had "
    )
    assert said.endswith("no lower validation loss, 0.2500 (paired difference +0.0500, standard error 0.0100)")
    steps[-1] = step("all", 0.25, [0.05, 0.04])
    assert "which may be chance" in better_step({"best": "augmented", "steps": steps})
    assert better_step({"best": "augmented", "steps": [steps[0], steps[1], views]}) is None
    assert better_step({"best": "head", "steps": steps[:1]}) is None
    seen = [each | {"tta": {"loss": loss, "accuracy": 0.5}} for each, loss in zip(steps, (0.4, 0.1, 0.15), strict=True)]
    assert better_step({"best": "augmented", "steps": seen}).endswith(
        "0.2500 (with test-time augmentation 0.1500) against 0.2000 (with test-time augmentation 0.1000)"
    )


def test_the_table_shows_what_each_step_is_with_augmented_views():
    steps = [step("head", 0.3), step("all", 0.35, [0.05, 0.01]), step("test-time augmentation", 0.2, [-0.15, 0.01])]
    for each, kept, held in zip(steps, (True, False, True), (False, True, None), strict=True):
        each |= {"seconds": 1.0, "accuracy": 0.9, "kept": kept} | ({} if held is None else {"held": held})
    summary = {"best": "all", "steps": steps, "skipped_images": {}, "accuracy": 0.9, "loss": 0.35, "num_valid": 40}
    for views in (False, True):
        if views:
            steps[0]["tta"], steps[1]["tta"] = {"loss": 0.28}, {"loss": 0.2}
        terminal, seen = listening()
        terminal.show_summary(summary | {"seconds": 3.0})
        rows = [
            [cell.strip() for cell in line.split("│")[1:-1]] for line in seen.getvalue().splitlines() if "│" in line
        ]
        marks = [row[-1] for row in rows]
        assert marks == ["", "held", "used"] and ("with TTA" in seen.getvalue()) is views
        assert [row[5] for row in rows] == (["0.2800", "0.2000", ""] if views else marks)
    narrow = io.StringIO()
    steps[0]["name"] = "head, precomputed"
    Terminal(Console(file=narrow, width=80)).show_summary(summary | {"seconds": 3.0})
    for whole in ("precomputed", "augmentation", "0.2800", "held", "used"):
        assert f" {whole} " in narrow.getvalue(), whole


@pytest.mark.parametrize(
    "options",
    [{}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}],
    ids=["no terminal", "dumb"],
)
def test_nothing_but_plain_lines_without_a_terminal(options):
    terminal, seen = listening(**options)
    with terminal.task("decoding", 3) as advance:
        advance(1, 3)
        terminal.note("[a] note")
    with terminal.phase(Phase("head", lrs=(0.1,)), 0, 1) as show:
        row = {"kind": "step", "epoch": 0, "step": 0, "loss": 1.0, "lrs": [0.1]}
        show(Step(1, 4, 8, {}, (row,), False, None))
    assert "\x1b" not in seen.getvalue() and "\r" not in seen.getvalue()
    assert seen.getvalue().splitlines()[0] == "[a] note"


def test_no_colours_where_they_are_not_wanted():
    terminal, seen = listening(force_terminal=True, no_color=True, _environ={"TERM": "xterm-256color"})
    with terminal.task("decoding", 3) as advance:
        advance(3, 3)
    drawn = seen.getvalue()
    assert "decoding" in drawn and "3/3" in drawn and "\x1b[3" not in drawn and "\x1b[9" not in drawn


def test_a_task_learns_its_size_from_its_progress():
    terminal, seen = listening(force_terminal=True, _environ={"TERM": "xterm"})
    with terminal.task("checking", 1) as advance:
        advance(5, 20)
    assert "5/20" in seen.getvalue()


def test_evaluation_counts_every_picture_twice(run_folder, drawings):
    seen = []
    evaluate_run(load_run(run_folder), drawings, on_progress=lambda *at: seen.append(at))
    assert [total for _, total in seen] == [20] * len(seen)
    done = [done for done, _ in seen]
    assert done == sorted(done) and done[:10] == list(range(1, 11)) and done[10:] == [18, 20]


def test_the_report_at_the_end_has_the_data_check(run_folder, drawings):
    terminal, seen = listening()
    report.make_report(run_folder, drawings, terminal)
    assert seen.getvalue() == ""
    kept = json.loads((run_folder / "check.json").read_text())
    assert kept == json.loads(json.dumps(check_data(drawings).to_dict()))
    assert FOUND in (run_folder / "report.html").read_text()
    report_module.write_report(run_folder)
    assert FOUND in (run_folder / "report.html").read_text(), "a later report finds what was kept"


def test_a_failing_report_is_a_warning(run_folder, drawings, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no space left")

    monkeypatch.setattr(report_module, "write_report", broken)
    monkeypatch.setattr(report, "check_for_report", broken)
    terminal, seen = listening()
    report.make_report(run_folder, drawings, terminal)
    assert seen.getvalue().splitlines() == [
        f"warning: the photos could not be checked: no space left; `jaxclf report {run_folder} {drawings} --check` "
        "does it",
        f"warning: the report could not be written: no space left; `jaxclf report {run_folder} {drawings}` tries again",
    ]


def test_many_photos_are_not_checked_unasked(run_folder, drawings, monkeypatch):
    monkeypatch.setattr(report, "MAX_CHECKED", 25)
    monkeypatch.setattr(report_module, "write_report", lambda *args, **kwargs: None)
    terminal, seen = listening()
    report.make_report(run_folder, drawings, terminal)
    assert "not checked" in seen.getvalue() and f"jaxclf report {run_folder} {drawings} --check" in seen.getvalue()


def test_what_is_wrong_with_the_photos_is_said(run_folder, drawings, tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "write_report", lambda *args, **kwargs: None)
    data = write_drawings(tmp_path / "copies", num_train=4, num_valid=4, size=40)
    pictures = {part: sorted((data / part / "cat").iterdir())[0] for part in ("train", "valid")}
    pictures["valid"].write_bytes(pictures["train"].read_bytes())
    terminal, seen = listening()
    report.make_report(run_folder, data, terminal)
    assert "the same file in train and valid" in seen.getvalue()


def test_at_80_columns_nothing_is_cut_and_sentences_break_at_words(monkeypatch):
    speeds = iter(["", "  1280 images/s"])
    monkeypatch.setattr(terminal_module._Speed, "update", lambda self, row, examples: next(speeds))
    seen = io.StringIO()
    console = Console(
        file=seen, highlight=False, soft_wrap=True, width=80, force_terminal=True, _environ={"TERM": "xterm"}
    )
    (phase, *_) = eight_steps(Settings(head="concat"), lr=0.0148).phases
    with Terminal(console).phase(phase, 0, 3) as show:
        for step in (1000, 1200):
            row = {"kind": "step", "epoch": 0, "step": step, "loss": 0.4361, "lrs": [2.2e-5, 2.2e-4, 2.2e-3]}
            show(Step(step, 1200, 64, {}, (row,), False, None))
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.getvalue()).replace("\r", "\n").splitlines()
    bar = next(line for line in reversed(lines) if "images/s" in line)
    assert "1200/1200" in bar and "rate 0.0022 " in bar and "…" not in bar and len(bar) <= 80
    sentence = " ".join(" ".join(line for line in lines[:4]).split())
    assert "only the head learns, the body stays as it is" in sentence and sentence.endswith("each cycle falling to 0")
    assert all(len(line) <= 80 for line in lines)
