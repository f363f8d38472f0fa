"""The benchmarks' runner, by questions made up here, and that every question has the interface and its sides run."""

import dataclasses
import importlib
import json
import subprocess
import sys
from types import SimpleNamespace

import harness
import pytest
import run
from compilers import needs_compilers
from conftest import REPOSITORY
from harness import Run, measure, ratios, spread, table

DATA = {"decode", "loader", "precompute", "recipe_study", "tiny_imagenet_score"}
#: What compiles a whole network, or starts programs that do.
HEAVY = {"accelerators", "cached_head", "frozen_steps", "precompute", "scaling", "recipe_study", "train_step"}


@dataclasses.dataclass(frozen=True)
class Case:
    size: int = 8
    kind: str = "a"
    big: bool = False


def question(log: list, *, seconds: tuple[float, float] = (1.0, 3.0), **more) -> SimpleNamespace:
    """One whose sides note their turns, and take the seconds that they say."""

    def side(name: str, takes: float) -> Run:
        def turn(number: int) -> dict[str, float]:
            log.append((name, number))
            return {"seconds": takes + number}

        return Run(name, turn, items=6, notes={"known": 2.5}, close=lambda: log.append((name, "closed")))

    ours, peer = (lambda case: side("mine", seconds[0])), (lambda case: side("theirs", seconds[1]))
    return SimpleNamespace(Case=Case, cases=lambda: [Case(), Case(9)], SMOKE={"size": 1}, ours=ours, peer=peer, **more)


def test_sides_take_turns_and_the_first_is_kept_apart():
    log: list = []
    record = measure(question(log), Case(), 3)
    expected = [("mine", 0), ("theirs", 0), ("theirs", 1), ("mine", 1), ("mine", 2), ("theirs", 2)]
    assert log == [*expected, ("theirs", 3), ("mine", 3), ("mine", "closed"), ("theirs", "closed")]
    assert record["case"] == {"size": 8, "kind": "a", "big": False}
    assert record["ours"]["warm_up"] == [{"seconds": 1.0}]
    assert record["ours"]["samples"] == [{"seconds": 2.0}, {"seconds": 3.0}, {"seconds": 4.0}]
    assert ratios(record, "seconds") == [2.0, 5 / 3, 1.5]
    assert ratios(record, "processor") == []
    text = "\n".join(table(record))
    assert "mine\n    seconds: 3 s (of 3: 2 to 4)  2 images/s\n    first turn seconds 1, known 2.5" in text
    assert "theirs / mine, seconds: 1.667 x (of 3: 1.5 to 2)" in text


def test_without_a_peer_and_without_warming_up():
    log: list = []
    record = measure(question(log, WARM_UP=0), Case(), 1, with_peer=False)
    assert log == [("mine", 0), ("mine", "closed")] and "peer" not in record
    assert [len(record["ours"][part]) for part in ("warm_up", "samples")] == [0, 1]
    asked = question(log)
    asked.peer = None
    assert "peer" not in measure(asked, Case(), 1)


def test_a_peer_that_fails_at_once_is_recorded_and_one_that_fails_later_is_an_error():
    def fails(at: int) -> Run:
        def turn(number: int) -> None:
            if number == at:
                raise RuntimeError("no compiler\nat all")

        return Run("theirs", turn)

    asked = question([])
    asked.peer = lambda case: fails(0)
    record = measure(asked, Case(), 2)
    assert record["peer"]["failed"] == "RuntimeError: no compiler" and len(record["ours"]["samples"]) == 2
    assert "  theirs does not run: RuntimeError: no compiler" in table(record)
    asked.peer = lambda case: fails(1)
    with pytest.raises(RuntimeError, match="no compiler"):
        measure(asked, Case(), 2)
    asked.ours = lambda case: fails(0)
    with pytest.raises(RuntimeError, match="no compiler"):
        measure(asked, Case(), 2)


def test_what_a_turn_takes_is_of_one_call(monkeypatch: pytest.MonkeyPatch):
    clock = iter([10.0, 18.0])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    sample = harness.timed(Run("mine", calls.append, repeat=4), 2)
    assert calls == [8, 9, 10, 11] and sample["seconds"] == 2.0 and sample["processor"] >= 0


def test_spread_is_median_and_range():
    assert spread([5.0, 1.0, 2.0, 4.0]) == "3 (of 4: 1 to 5)"


def test_cases_are_chosen_and_changed():
    asked = question([])
    assert run.choose_cases(asked, []) == [Case(), Case(9)]
    assert run.choose_cases(asked, ["size=3", "big=yes", "kind=b"]) == [Case(3, "b", True)]
    assert run.choose_cases(asked, [], "size=9") == [Case(9)]
    assert run.choose_cases(asked, ["kind=b"], smoke=True) == [Case(1, "b")]
    for changes, only in ((["sise=3"], ""), (["size=x"], ""), (["size"], ""), ([], "size=7")):
        with pytest.raises(SystemExit, match="error: --"):
            run.choose_cases(asked, changes, only)


def test_the_file_has_every_sample_and_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "import_time", question([]))
    monkeypatch.setattr(run, "load", lambda: [0.5, 1.0, 1.5])
    path = tmp_path / "new" / "file.json"
    run.main(["import_time", "--turns", "2", "--json", str(path)])
    found = json.loads(path.read_text())
    assert found["question"] == "import_time" and found["turns"] == 2 and found["busy"] is False
    assert found["load_before"] == found["load_after"] == [0.5, 1.0, 1.5]
    assert {"device", "processor", "cores", "python", "versions", "commit"} <= set(found["machine"])
    assert found["machine"]["versions"]["jax"] == importlib.import_module("jax").__version__
    assert [result["case"]["size"] for result in found["results"]] == [8, 9]
    assert found["results"][1]["peer"]["samples"] == [{"seconds": 4.0}, {"seconds": 5.0}]
    printed = capsys.readouterr().out
    assert "BUSY" not in printed and "size=9" in printed and printed.count("theirs / mine") == 2


def test_a_question_concludes_what_its_turns_have_brought(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys):
    log: list = []

    def conclude(case: Case, turns: int) -> tuple[dict, list[str]]:
        return {"size": case.size, "turns so far": len(log)}, [f"conclusion of {turns} turns"]

    monkeypatch.setitem(sys.modules, "import_time", question(log, WARM_UP=0, conclude=conclude))
    run.main(["import_time", "--turns", "2", "--json", str(tmp_path / "file.json")])
    results = json.loads((tmp_path / "file.json").read_text())["results"]
    assert [each["conclusions"] for each in results] == [
        {"size": 8, "turns so far": 6},
        {"size": 9, "turns so far": 12},
    ]
    assert capsys.readouterr().out.count("conclusion of 2 turns") == 2


def test_a_busy_machine_is_named_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "import_time", question([]))
    monkeypatch.setattr(run, "load", lambda: [1.2, 1.0, 1.5])
    run.main(["import_time", "--turns", "1", "--json", str(tmp_path / "file.json")])
    assert "THE MACHINE IS BUSY" in capsys.readouterr().out
    assert json.loads((tmp_path / "file.json").read_text())["busy"] is True
    with pytest.raises(SystemExit, match="busy: load 1.2"):
        run.main(["import_time", "--refuse-busy"])


def test_without_a_question_they_are_listed(capsys):
    run.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == run.QUESTIONS and len(lines) > 12
    assert all("?" in line for line in lines), "a question asks something in its first line"


def test_make_bench_asks_questions_that_there_are():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (line,) = [line for line in makefile.splitlines() if line.startswith("QUESTIONS")]
    assert set(line.partition("=")[2].split()) <= set(run.QUESTIONS) - DATA


@pytest.mark.parametrize("name", run.QUESTIONS)
def test_every_question_has_the_interface(name: str):
    asked = importlib.import_module(name)
    cases = asked.cases()
    assert cases and len(set(cases)) == len(cases)
    assert all(isinstance(case, asked.Case) for case in cases)
    assert dataclasses.replace(cases[0], **asked.SMOKE)
    assert callable(asked.ours) and (asked.peer is None or callable(asked.peer))


@pytest.mark.parametrize(
    "name",
    # tests/weights/test_bundled_score.py runs tiny_imagenet_score.
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY) + [needs_compilers] * (name == "accelerators"))
        for name in run.QUESTIONS
        if name != "tiny_imagenet_score"
    ],
)
def test_the_smallest_case_runs(name: str, photos, tmp_path):
    """In a process of its own, as users start it; photos stand in for the data that it wants."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "run.py"), name, "--smoke"]
    command += ["--json", str(tmp_path / "file.json")]
    if name in DATA:
        command += ["--set", f"data={photos if name in ('precompute', 'recipe_study') else photos / 'train'}"]
    if name == "recipe_study":
        command += ["--set", f"out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "file.json").read_text())["results"][0]
    assert len(record["ours"]["samples"]) == 1
    assert "failed" not in record.get("peer", {})
