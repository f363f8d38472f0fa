"""A run that was stopped goes on to the same bits; one that was begun otherwise is refused."""

import dataclasses
import json
import os
import shutil
import signal

import pytest
import same_run
from conftest import write_class_folders
from same_run import SignalAt, assert_same_run, stop_at

from jaxclf.config import Phase, Recipe
from jaxclf.run.checkpoint_file import find_checkpoints
from jaxclf.run.observer import Interrupted, StopSignals
from jaxclf.run.resume import recipe_differences
from jaxclf.run.run import run_recipe
from jaxclf.training import fit as loop

pytestmark = pytest.mark.usefixtures("small10t")


def thin(recipe: Recipe) -> Recipe:
    """The recipe with a network that trains in no time; what a resume brings back is the same."""
    return Recipe(dataclasses.replace(recipe.settings, arch="small10t", weights="none"), recipe.phases)


SHORT, WHOLE = thin(same_run.SHORT), thin(same_run.WHOLE)


def contents(folder):
    """Every file below a folder, by path."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("resume") / "undisturbed"
    run_recipe(photos, out, WHOLE)
    return out


def test_stopped_four_times_it_ends_with_the_same_bits(undisturbed, photos, tmp_path):
    """In the head's scanned epoch, in the middle of an epoch of all layers, at an epoch's last step, at the last."""
    out = tmp_path / "run"
    _, said = stop_at(photos, out, WHOLE, 0, 3)
    assert said.startswith("stopped at step 3 of phase 'head'")  # an epoch that is one dispatch is done to its end
    notes, said = stop_at(photos, out, WHOLE, 1, 5, signal.SIGINT)
    assert any("phase 1 of 2, epoch 2, batch 1" in note for note in notes)
    assert said.startswith("stopped at step 5 of phase 'all layers'") and "phase2-step5" in said
    notes, said = stop_at(photos, out, WHOLE, 1, 6)
    assert any("phase 2 of 2, epoch 2, batch 3" in note for note in notes)
    assert "phase2-epoch2" in said
    notes, said = stop_at(photos, out, WHOLE, 1, 9)  # the last step of all: the phase is finished and saved
    assert any("phase 2 of 2, epoch 3, batch 1" in note for note in notes)
    assert said.startswith("stopped after phase 'all layers'") and "checkpoints/phase2;" in said
    observer = SignalAt(9, 9)
    run_recipe(photos, out, WHOLE, resume=True, observer=observer)
    assert any("all phases have ended" in note for note in observer.notes)
    assert_same_run(undisturbed, out)


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(undisturbed, photos, tmp_path):
    out = tmp_path / "run"
    stop_at(photos, out, WHOLE, 1, 8)  # in the third epoch; the record already tells of the second
    newest = out / "checkpoints" / "phase2-step8"
    for file in (newest / "training").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (out / "checkpoints" / "phase2-step9.orbax-checkpoint-tmp").mkdir()
    observer = SignalAt(9, 9)
    run_recipe(photos, out, WHOLE, resume=True, observer=observer)
    assert any("phase2-step8 cannot be used" in note for note in observer.notes)
    assert any("phase 2 of 2, epoch 2, batch 1" in note for note in observer.notes)
    assert_same_run(undisturbed, out)
    assert {path.name for path, _ in find_checkpoints(out / "checkpoints")} == {
        path.name for path in (out / "checkpoints").iterdir()
    }


def test_a_finished_run_is_left_alone(undisturbed, photos):
    before, observer = contents(undisturbed), SignalAt(9, 9)
    summary = run_recipe(photos, undisturbed, WHOLE, resume=True, observer=observer)
    assert observer.notes == [f"the run in {undisturbed} is finished: there is nothing to resume"]
    assert summary == json.loads((undisturbed / "summary.json").read_text())
    assert contents(undisturbed) == before


def test_checkpoints_within_phases_are_few_and_the_best_stays(photos, tmp_path, monkeypatch):
    """With one after every epoch, those of the last three moments are left, and the one of the lowest loss."""
    losses, original = iter([0.9, 0.2, 0.8, 0.7, 0.6, 0.5]), loop.summarize
    monkeypatch.setattr(loop, "summarize", lambda *args, **kw: {**original(*args, **kw), "loss": next(losses)})
    phase = dataclasses.replace(WHOLE.phases[0], lr_from="given", num_cycles=6)
    run_recipe(photos, tmp_path / "run", dataclasses.replace(WHOLE, phases=(phase,)), checkpoint_every=0)
    expected = {"phase1", *(f"phase1-epoch{epoch}" for epoch in (2, 3, 4, 5))}
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == expected


@pytest.fixture
def begun(photos, tmp_path):
    """DATA of its own and a run of it that was stopped."""
    data = shutil.copytree(photos, tmp_path / "photos")
    stop_at(data, tmp_path / "run", SHORT, 0, 3)
    return data, tmp_path / "run"


def refused(data, out, recipe, *lines):
    before = contents(out)
    with pytest.raises(ValueError, match="cannot be resumed") as error:
        run_recipe(data, out, recipe, resume=True)
    for line in (*lines, "--overwrite"):
        assert line in str(error.value)
    assert contents(out) == before


def test_another_recipe_is_refused_with_a_diff(begun):
    phase = dataclasses.replace(SHORT.phases[0], num_cycles=3)
    other = Recipe(dataclasses.replace(SHORT.settings, batch_size=4), (phase,))
    refused(*begun, other, "recipe batch_size: was 10, now 4", "recipe phases[0].num_cycles: was 2, now 3")


def test_other_data_are_refused_with_a_diff(begun):
    data, out = begun
    first, second, third = sorted((data / "train" / "red").iterdir())[:3]
    first.unlink()
    second.write_bytes(third.read_bytes())
    shutil.copy(third, data / "valid" / "green" / "more.png")
    refused(
        data, out, SHORT,
        "1 pictures are gone: train/red/000.png", "1 pictures are new: valid/green/more.png",
        "1 pictures have other contents: train/red/001.png",
    )  # fmt: skip


def test_another_class_list_is_refused(begun):
    data, out = begun
    write_class_folders(data / "train", {"blue": 8})
    write_class_folders(data / "valid", {"blue": 4})
    refused(data, out, SHORT, "classes: were green, red, now blue, green, red")


def test_a_copy_of_the_data_with_other_times_will_do(begun, tmp_path):
    data, out = begun
    moved = tmp_path / "elsewhere"
    shutil.copytree(data, moved, copy_function=shutil.copyfile)
    assert run_recipe(moved, out, SHORT, resume=True)["steps"][0]["name"] == "head"


def test_what_is_no_run_of_this_kind_is_refused_or_begun(photos, begun, tmp_path):
    _, out = begun
    (out / "request.json").write_text("{}")
    with pytest.raises(ValueError, match=r"request\.json is damaged"):
        run_recipe(photos, out, SHORT, resume=True)
    (out / "request.json").unlink()
    with pytest.raises(ValueError, match="cannot be resumed; replace it"):
        run_recipe(photos, out, SHORT, resume=True)
    shutil.rmtree(out / "checkpoints")
    assert run_recipe(photos, out, SHORT, resume=True)["num_classes"] == 2  # killed before it really began


def test_a_run_with_other_batches_is_not_gone_on_with_but_its_summary_is_shown(begun):
    """Until format 2 an epoch left out the incomplete last batch."""
    data, out = begun
    request = json.loads((out / "request.json").read_text())
    assert request["format_version"] == 3
    (out / "request.json").write_text(json.dumps({**request, "format_version": 2}))
    with pytest.raises(ValueError, match=r"begun by another version of jaxclf \(format 2, .* format 3\).*--overwrite"):
        run_recipe(data, out, SHORT, resume=True)
    (out / "summary.json").write_text('{"loss": 0.5}')
    assert run_recipe(data, out, SHORT, resume=True) == {"loss": 0.5}


def test_differences_of_recipes_name_every_field():
    one = dataclasses.replace(SHORT, phases=(Phase("a", (0.1,)),))
    other = Recipe(dataclasses.replace(SHORT.settings, seed=3), (Phase("a", (0.1, 0.2)), Phase("b", (0.1,))))
    lines = recipe_differences(one, other)
    assert lines[:2] == ["seed: was 0, now 3", "phases[0].lrs: was (0.1,), now (0.1, 0.2)"]
    assert "phases[1].name: was 'not there', now 'b'" in lines
    assert recipe_differences(one, one) == []


def test_signals_are_put_off_once_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        seen = []

        def work(number):
            with stop.deferred():
                os.kill(os.getpid(), number)
                seen.append(stop.requested)

        with pytest.raises(Interrupted) as late:
            work(signal.SIGTERM)
        assert seen == [signal.SIGTERM] and late.value.signum == signal.SIGTERM
        with pytest.raises(Interrupted) as second:
            work(signal.SIGINT)
        assert len(seen) == 1 and second.value.signum == signal.SIGINT  # it did not go on
    assert signal.getsignal(signal.SIGTERM) is before
