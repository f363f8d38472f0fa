"""A run holds what its best phase ended with; solved heads are phases like any other."""

import contextlib
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from notes import Notes
from same_run import SignalAt, assert_same_run, stop_at

import jaxclf
from jaxclf import plots
from jaxclf.cli.terminal import better_step
from jaxclf.config import Phase, Recipe, Settings
from jaxclf.data.loader import loader_for
from jaxclf.data.splits import open_data
from jaxclf.inference.predict import predict
from jaxclf.inference.tta import predict_tta
from jaxclf.inference.view_activations import view_activations
from jaxclf.metrics import Predictions, summarize
from jaxclf.run import selection
from jaxclf.run.checkpoint_file import load_part, load_variables
from jaxclf.run.load import load_run
from jaxclf.run.outcome import HELD, NOT_USED, TTA, USED, step_marks
from jaxclf.run.recipes import BANK_VIEWS, BODY, eight_steps, head_only, progressive
from jaxclf.run.run import run_recipe
from jaxclf.run.run_state import RunState

pytestmark = pytest.mark.usefixtures("small10t")
SOLVED = Phase("solved", (0.0,), frozen=BODY, augment="none", cut="pooled", solve=True)
#: From activations, and so far off that it ends worse; then one that takes no steps worth the name.
WORSE = Phase("worse", (30.0,), frozen=BODY, augment="none", cut="pooled")
STILL = dataclasses.replace(WORSE, name="still", lrs=(0.0,))


@pytest.fixture(scope="module")
def recipe(weights_file):
    settings = Settings(arch="small10t", weights=str(weights_file), image_size=32, batch_size=8, tta_views=0)
    return Recipe(settings, (SOLVED, WORSE, STILL, dataclasses.replace(WORSE, name="last")))


@pytest.fixture(scope="module")
def mixed_up(photos, tmp_path_factory):
    """The photos with some in the other class's folder: nobody is right of all of them, or should be sure."""
    data = shutil.copytree(photos, tmp_path_factory.mktemp("mixed") / "up")
    for part, count in (("train", 4), ("valid", 2)):
        for number in range(count):
            red, green = (data / part / name / f"{number:03d}.png" for name in ("red", "green"))
            pictures = red.read_bytes(), green.read_bytes()
            green.write_bytes(pictures[0]), red.write_bytes(pictures[1])
    return data


@pytest.fixture(scope="module")
def worsened(mixed_up, recipe, tmp_path_factory):
    """A run whose later phases bring nothing: its folder, its summary, and what it said."""
    out, observer = tmp_path_factory.mktemp("best") / "run", Notes()
    return out, run_recipe(mixed_up, out, recipe, observer=observer), observer.notes


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def phase_variables(out, number):
    return load_variables(out / "checkpoints" / f"phase{number}")


def test_a_run_that_gets_worse_holds_its_best_phase(worsened):
    _, summary, notes = worsened
    solved, worse, still, last = summary["steps"]
    assert min(worse["loss"], last["loss"]) > solved["loss"] == still["loss"]
    assert [step["kept"] for step in summary["steps"]] == [True, False, False, False]
    assert summary["best"] == "solved" and summary["checkpoint"] == "checkpoints/phase1"
    assert (summary["loss"], summary["accuracy"]) == (solved["loss"], solved["accuracy"])
    assert summary["final"] == {"name": "solved", "loss": solved["loss"], "accuracy": solved["accuracy"]}
    told = [note for note in notes if note.endswith("of 'solved': the run goes on from that")]
    assert [note.split("'")[1] for note in told] == ["worse", "still", "last"]
    assert "the run holds what 'solved' ended with: 'last', the last phase" in better_step(summary)


def test_what_is_predicted_and_loaded_is_the_best_phase_s(worsened, mixed_up):
    out, summary, _ = worsened
    run = load_run(out)
    assert_same(run.variables, phase_variables(out, 1))
    with np.load(out / "predictions.npz") as saved:
        predictions = Predictions(saved["logits"], saved["labels"], saved["index"])
        files = saved["files"].tolist()
    assert summarize(predictions)["loss"] == summary["loss"]
    seen = run.predict(mixed_up / "valid" / files[3])
    calibrated = predictions._replace(logits=predictions.logits / run.temperature)
    np.testing.assert_allclose(seen.probabilities, calibrated.probabilities()[3], atol=1e-5)
    others = phase_variables(out, 4)["params"]["head"]["fc_pools"]["kernel"]
    assert (others != run.variables["params"]["head"]["fc_pools"]["kernel"]).any()


def test_each_phase_starts_from_what_the_run_holds(worsened):
    """A phase that takes no steps ends with what it began with: not with the worse phase's head."""
    out, summary, _ = worsened
    assert_same(phase_variables(out, 3), phase_variables(out, 1))
    _, worse, still, last = summary["steps"]
    assert worse["loss_difference"][0] == pytest.approx(worse["loss"] - summary["loss"], rel=1e-5)
    assert still["loss_difference"] == [0.0, 0.0], "compared with what it started from"
    assert last["loss_difference"][0] == pytest.approx(last["loss"] - summary["loss"], rel=1e-5)


@pytest.mark.parametrize(("phase", "step"), [(1, 4), (3, 4)])
def test_stopped_after_a_phase_that_was_not_kept_it_ends_with_the_same_bits(
    worsened, mixed_up, recipe, tmp_path, phase, step
):
    out = tmp_path / "run"
    _, said = stop_at(mixed_up, out, recipe, phase, step)
    assert said.startswith(f"stopped after phase {recipe.phases[phase].name!r}")
    run_recipe(mixed_up, out, recipe, resume=True)
    assert_same_run(worsened[0], out)


@pytest.mark.parametrize("written", [(), ("phase1",), ("phase1", "phase2")], ids=len)
def test_killed_while_a_phase_runs_it_ends_with_the_same_bits(worsened, mixed_up, recipe, tmp_path, written):
    """What the next phases had begun to say is there, their checkpoints are not."""
    out = shutil.copytree(worsened[0], tmp_path / "run")
    for name in ("summary.json", "predictions.npz"):
        (out / name).unlink()
    for path in (out / "checkpoints").iterdir():
        if path.name not in written:
            shutil.rmtree(path)
    run_recipe(mixed_up, out, recipe, resume=True)
    assert_same_run(worsened[0], out)


def test_without_a_whole_best_phase_it_begins_anew(worsened, mixed_up, recipe, tmp_path):
    """The newest checkpoint is whole, but the run goes on from an older one, which is not."""
    out, observer = tmp_path / "run", SignalAt(9, 9)
    stop_at(mixed_up, out, recipe, 1, 4)
    for file in (out / "checkpoints" / "phase1" / "variables").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    run_recipe(mixed_up, out, recipe, resume=True, observer=observer)
    passed_over = [note for note in observer.notes if "cannot be used" in note]
    assert ["phase2" in note.split(" cannot")[0] for note in passed_over] == [True, False], passed_over
    assert_same_run(worsened[0], out)


OUTCOMES = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4]), st.booleans()), min_size=1, max_size=8)


@given(OUTCOMES)
def test_the_best_is_the_first_lowest_since_the_last_phase_on_the_way(outcomes):
    run = RunState(Recipe(Settings(), (STILL,) * len(outcomes)))
    held = None
    for number, (loss, on_the_way) in enumerate(outcomes):
        predictions = Predictions(np.full((1, 2), loss), np.zeros(1, int), np.zeros(1, int))
        kept = run.end_phase({"name": str(number), "loss": loss}, predictions, on_the_way=on_the_way)
        held = predictions if kept else held
        assert run.latest is held and (run.best == number) == kept == run.steps[-1]["kept"]
        assert kept or not on_the_way, "never fallen back from"
    since = max((number for number, (_, on_the_way) in enumerate(outcomes) if on_the_way), default=-1) + 1
    losses = [loss for loss, _ in outcomes[since:]]
    assert run.best == (since + losses.index(min(losses)) if losses else since - 1)
    assert run.finished


def test_a_run_on_its_way_to_a_larger_size_goes_on_from_there(mixed_up, recipe, tmp_path):
    """However bad the small size's phase looks at the final one."""
    small, then = dataclasses.replace(WORSE, image_size=24), dataclasses.replace(STILL, image_size=32)
    out = tmp_path / "run"
    summary = run_recipe(mixed_up, out, dataclasses.replace(recipe, phases=(SOLVED, small, then)))
    first, second, third = summary["steps"]
    assert second["loss"] > first["loss"] and second["on_the_way"] and not (first["on_the_way"] or third["on_the_way"])
    assert [step["kept"] for step in summary["steps"]] == [True, True, True] and summary["best"] == "still"
    assert_same(phase_variables(out, 3), phase_variables(out, 2))
    assert_same(load_run(out).variables, phase_variables(out, 3))


@pytest.mark.parametrize(("factor", "used"), [(2.0, True), (0.5, False), (1.0, False)])
def test_augmented_views_count_where_they_lower_the_loss(photos, recipe, tmp_path, monkeypatch, factor, used):
    """All is right here, so surer predictions have a lower loss."""

    def views(model, variables, loader, **options):
        found = predict(model, variables, loader)
        return found._replace(logits=found.logits * np.float32(factor))

    monkeypatch.setattr(selection, "predict_tta", views)
    settings = dataclasses.replace(recipe.settings, tta_views=1)
    summary = run_recipe(photos, tmp_path / "run", Recipe(settings, (SOLVED,)))
    assert summary["accuracy"] == 1.0
    assert summary["tta"]["used"] is used is summary["steps"][-1]["kept"] is (summary["tta"]["loss"] < summary["loss"])
    name = TTA if used else "solved"
    counts = summary["tta"] if used else summary
    assert summary["final"] == {"name": name, "loss": counts["loss"], "accuracy": counts["accuracy"]}
    assert summary["loss"] == summary["steps"][0]["loss"] and summary["best"] == "solved", "one picture, one prediction"


@pytest.fixture
def favour_worse(monkeypatch):
    """Test-time augmentation lowers the loss of the phase "worse" below all others', and raises every other's."""

    def views(model, variables, loader, **options):
        found = predict(model, variables, loader)
        kernel = variables["params"]["head"]["fc_pools"]["kernel"]
        sure = np.eye(2, dtype=np.float32)[found.labels] * 20.0
        return found._replace(logits=sure if float(jnp.abs(kernel).max()) > 5.0 else found.logits * 0.1)

    monkeypatch.setattr(selection, "predict_tta", views)


def test_a_run_holds_the_phase_that_is_best_with_augmented_views(
    worsened, mixed_up, recipe, tmp_path, monkeypatch, favour_worse
):
    """And still each phase has started from the best on plain pictures."""
    recipe = dataclasses.replace(recipe, settings=dataclasses.replace(recipe.settings, tta_views=2))
    out, observer = tmp_path / "run", Notes()
    summary = run_recipe(mixed_up, out, recipe, observer=observer)
    solved, worse, still, last, views = summary["steps"]
    before = [{name: step[name] for name in ("loss", "kept")} for step in worsened[1]["steps"]]
    assert [{name: step[name] for name in ("loss", "kept")} for step in summary["steps"][:-1]] == before
    assert [step["held"] for step in (solved, worse, still, last)] == [False, True, False, False]
    assert summary["best"] == "worse" and summary["checkpoint"] == "checkpoints/phase2"
    assert (summary["loss"], summary["accuracy"]) == (worse["loss"], worse["accuracy"])
    assert worse["tta"]["loss"] < 1e-6 < solved["loss"] < solved["tta"]["loss"] == still["tta"]["loss"]
    assert views["kept"] and views["loss"] == worse["tta"]["loss"] == summary["final"]["loss"]
    assert views["loss_difference"][0] == pytest.approx(views["loss"] - worse["loss"], rel=1e-5)
    with np.load(out / "predictions.npz") as saved:
        predictions = Predictions(saved["logits"], saved["labels"], saved["index"])
    assert summarize(predictions)["loss"] == worse["loss"]
    assert_same(load_run(out).variables, phase_variables(out, 2))
    assert any("'worse' has a lower validation loss with test-time augmentation" in note for note in observer.notes)
    assert step_marks(summary["steps"]) == ["", HELD, NOT_USED, NOT_USED, USED]
    told = better_step(summary)
    assert told.startswith("the run holds what 'worse' ended with") and f"{last['tta']['loss']:.4f}) against" in told

    for name in ("summary.json", "predictions.npz"):  # killed at the very end
        (out / name).unlink()
    run_recipe(mixed_up, out, recipe, resume=True)
    again = json.loads((out / "summary.json").read_text())
    assert again["best"] == "worse" and again["final"] == summary["final"]


def test_heads_on_one_body_share_its_views_and_are_judged_as_alone(mixed_up, recipe, tmp_path, monkeypatch):
    """The body sees the validation pictures' views once, and each head scores what predict_tta gives it."""
    bodies = []

    def counted(*args, **options):
        bodies.append(options["num_views"])
        return view_activations(*args, **options)

    monkeypatch.setattr(selection, "view_activations", counted)
    settings = dataclasses.replace(recipe.settings, tta_views=3)
    moves = Phase("all", (0.001,) * 3, augment="side_on", cut=None)
    seen = []
    observer = Notes()
    observer.task = lambda name, total: contextlib.nullcontext(lambda done, total: seen.append((name, done, total)))
    summary = run_recipe(mixed_up, tmp_path / "run", Recipe(settings, (SOLVED, WORSE, moves)), observer=observer)
    assert bodies == [3]
    at = [(done, total) for name, done, total in seen if name == TTA]
    assert at == sorted(at) and at[-1][0] == at[-1][1] == 2 * 4 * summary["num_valid"]
    run = load_run(tmp_path / "run")
    splits = open_data(mixed_up, valid_fraction=settings.valid_fraction, seed=0)
    loader = loader_for(splits.valid, run.recipe.settings, run.spec.preprocess, train=False, cache="memory")
    for number in (1, 2, 3):
        alone = predict_tta(run.model, phase_variables(tmp_path / "run", number), loader, num_views=3)
        scores = summarize(alone)
        assert summary["steps"][number - 1]["tta"]["loss"] == pytest.approx(scores["loss"], rel=1e-5)


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_what_a_run_may_end_with_comes_after_the_last_phase_on_the_way(on_the_way):
    steps = [{"on_the_way": way} for way in on_the_way]
    found = list(selection.candidates(RunState(Recipe(Settings(), (STILL,) * len(steps)), steps=steps)))
    assert found[-1] == len(steps) - 1
    assert found == [len(steps) - 1] or not any(on_the_way[number] for number in found)
    assert found[0] == 0 or on_the_way[found[0] - 1] or on_the_way[found[0]]


def test_a_solved_phase_is_in_the_record_and_in_the_summary(worsened):
    out, summary, notes = worsened
    rows = plots.read_rows(out)
    assert rows[0]["kind"] == "solve" and rows[0]["phase"] == "solved"
    solved = summary["steps"][0]["solved"]
    assert rows[0] == {"kind": "solve", "phase": "solved", **solved}
    best = int(np.argmin(solved["losses"]))
    assert solved["ridge"] == solved["ridges"][best] and len(solved["losses"]) == len(solved["ridges"]) > 5
    assert solved["num_folds"] == 5 and solved["num_held_out"] == 26 and solved["gradient_norm"] < 1e-4
    assert not any("solved" in step for step in summary["steps"][1:])
    assert any("solved on 26 pictures: ridge" in note for note in notes)
    (cached, *_) = summary["cached"]
    assert cached["phase"] == "solved" and cached["rows"] == 26 and cached["seconds_saved"] == 0


def test_the_body_under_a_solved_head_is_the_file_s(worsened, weights_file):
    pretrained = jaxclf.load_weights(str(weights_file), "small10t").variables
    held = phase_variables(worsened[0], 1)
    assert_same(held["params"]["body"], pretrained["params"]["body"])
    assert_same(held["batch_stats"]["body"], pretrained["batch_stats"]["body"])
    assert int(load_part(worsened[0] / "checkpoints" / "phase1", "training")["step"]) == 0


def test_the_eight_steps_solve_what_they_can():
    for head, solved in (("pools", [True, True, False]), ("linear", [True, True, False]), ("concat", [False] * 3)):
        recipe = eight_steps(Settings(head=head))
        assert [phase.solve for phase in recipe.phases] == solved
        assert [phase.name for phase in recipe.phases] == ["head, precomputed", "head, augmented", "all layers"]
        assert [phase.lr_from for phase in recipe.phases][-1] == "find"
    assert [phase.num_views for phase in eight_steps(Settings()).phases] == [1, BANK_VIEWS, 1]
    assert [phase.solve for phase in eight_steps(Settings(loss="sigmoid")).phases] == [True, True, False]
    assert not any(phase.solve for phase in eight_steps(Settings(loss="focal")).phases)
    given = eight_steps(Settings(), lr=0.1).phases
    assert given[0].solve and given[2].lrs[-1] == 0.1, "a rate is the last phase's"


def test_head_only_is_solved_unless_a_rate_or_epochs_ask_for_training():
    (phase,) = head_only(Settings()).phases
    assert phase.solve and phase.num_epochs == 0
    for options, head, epochs in (({"lr": 0.1}, "pools", 2), ({"epochs": 4}, "pools", 4), ({}, "concat", 2)):
        (phase,) = head_only(Settings(head=head), **options).phases
        assert not phase.solve and phase.num_epochs == epochs


@pytest.mark.parametrize("head", ["pools", "concat"])
def test_growing_sizes_find_a_rate_once_and_take_it_over(head):
    """The first phase that is trained searches; a solved head has no rate to hand on."""
    phases = progressive(Settings(head=head), sizes=(32, 64)).phases
    assert [phase.name for phase in phases] == ["head at 32", "all layers at 32", "head at 64", "all layers at 64"]
    sources = [phase.lr_from for phase in phases if not phase.solve]
    assert sources == ["find"] + ["previous"] * (len(sources) - 1) and len(sources) == (2 if head == "pools" else 4)
    run = RunState(progressive(Settings(head=head), sizes=(32, 64), lr=0.3), number=3)
    assert run.previous_lr == 0.3


def test_a_default_run_with_few_photos_leaves_the_statistics_of_a_pretrained_body(photos, recipe, tmp_path):
    """And its batches are the smallest there are; recipe.json says both, request.json what was asked for."""
    asked = dataclasses.replace(recipe.settings, batch_size="auto")
    moves = Phase("all", (0.01,) * 3, augment="none")
    run_recipe(photos, tmp_path / "run", Recipe(asked, (moves,)))
    written = json.loads((tmp_path / "run" / "recipe.json").read_text())["settings"]
    assert (written["batch_size"], written["bn_frozen"]) == (16, True)
    begun = json.loads((tmp_path / "run" / "request.json").read_text())["recipe"]["settings"]
    assert (begun["batch_size"], begun["bn_frozen"]) == ("auto", None)
    pretrained = jaxclf.load_weights(recipe.settings.weights, "small10t").variables
    held = phase_variables(tmp_path / "run", 1)
    assert_same(held["batch_stats"]["body"], pretrained["batch_stats"]["body"])
    moved = held["params"]["body"]["stage4"]["block0"]["conv1"]["kernel"]
    assert (moved != pretrained["params"]["body"]["stage4"]["block0"]["conv1"]["kernel"]).any()
