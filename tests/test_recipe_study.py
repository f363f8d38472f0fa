"""The study of the recipe: its data sets, its judging, its resumed turns and its figures, on made-up runs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import recipe_study
from conftest import write_class_folders
from hypothesis import given
from hypothesis import strategies as st
from study import data, judge, logistic, processes, sides, tables
from study.said import Said, read_said, write_said

from jaxclf.config import Settings
from jaxclf.metrics import log_probabilities
from jaxclf.run.recipes import head_only
from jaxclf.run.run import run_recipe

LABELS = st.lists(st.integers(0, 3), min_size=4, max_size=40).map(np.array)


def random_said(seed: int, labels: np.ndarray, names: list[str], *, sharpness: float = 1.0) -> Said:
    """What a run could say whose states get better one by one."""
    generator = np.random.default_rng(seed)

    def logs() -> np.ndarray:
        right = sharpness * np.arange(1, len(names) + 1)[:, None, None] * np.eye(4)[labels]
        return log_probabilities(generator.normal(0, 1, (len(names), len(labels), 4)) + right).astype(np.float32)

    files = np.array([f"{label}/{number:03d}.png" for number, label in enumerate(labels)])
    return Said(np.array(names), logs(), logs(), labels, files)


@given(LABELS)
def test_halves_are_of_one_size_and_so_are_those_of_each_class(labels):
    first = judge.halves(labels)
    assert abs(int(first.sum()) - int((~first).sum())) <= 1
    for label in set(labels.tolist()):
        assert abs(int(first[labels == label].sum()) - int((~first)[labels == label].sum())) <= 1
    assert (first == judge.halves(labels)).all()


@given(LABELS, st.integers(0, 2**31))
def test_a_choice_never_looks_at_the_pictures_it_is_judged_on(labels, seed):
    said, first = random_said(seed, labels, ["a", "b", "c"], sharpness=0.0), judge.halves(labels)
    plain, augmented = judge.score(said.plain, labels), judge.score(said.augmented, labels)
    judged, choices = judge.judge(plain, augmented, first)
    other = np.random.default_rng(seed + 1)
    for own, number in ((first, 0), (~first, 1)):
        moved = [each.losses.copy() for each in (plain, augmented)]
        for losses in moved:
            losses[:, ~own] = other.exponential(3.0, losses[:, ~own].shape)
        changed, after = judge.judge(plain._replace(losses=moved[0]), augmented._replace(losses=moved[1]), first)
        assert after[number] == choices[number]
        choice = choices[number]
        np.testing.assert_array_equal(changed.losses[~own], moved[choice.augmented][choice.state, ~own])
        source = augmented if choice.augmented else plain
        np.testing.assert_array_equal(judged.right[~own], source.right[choice.state, ~own])


def test_the_rule_takes_the_lowest_loss_of_all_states_without_and_with_augmentation():
    right = np.ones((3, 4), bool)
    plain = judge.Scores(np.array([[3.0] * 4, [1.0] * 4, [2.0] * 4]), right)
    augmented = judge.Scores(np.array([[0.1] * 4, [1.1] * 4, [0.1] * 4]), right)
    assert judge.choose(plain, augmented) == (0, True), "of equals the earliest"
    assert judge.choose(plain, augmented._replace(losses=augmented.losses + 0.95)) == (1, False)
    assert judge.choose(plain, augmented._replace(losses=augmented.losses + 0.8)) == (0, True)
    assert judge.choose(plain, plain) == (1, False), "of equals without"


@given(LABELS)
def test_who_chooses_nothing_is_judged_as_on_the_whole(labels):
    said = random_said(0, labels, ["end"])
    scores = judge.score(said.plain, labels)
    judged, _ = judge.judge(scores, scores, judge.halves(labels))
    assert judged.losses.mean() == pytest.approx(-said.plain[0, np.arange(len(labels)), labels].mean(dtype=float))
    assert judged.right.mean() == (said.plain[0].argmax(-1) == labels).mean()


def test_seeds_of_the_same_pictures_are_no_further_pictures():
    generator = np.random.default_rng(0)
    before, after = generator.normal(0, 1, (2, 1, 50))
    once = judge.difference(before, after)
    assert judge.difference(before.repeat(5, 0), after.repeat(5, 0)) == pytest.approx(once)
    assert once.mean == pytest.approx(after.mean() - before.mean())
    assert once.standard_error == pytest.approx((after - before).std(ddof=1) / 50**0.5)


def test_a_run_falls_when_it_ends_clearly_worse_than_its_best_step():
    best = judge.Scores(np.linspace(0.0, 1.0, 30), np.ones(30, bool))
    worse = best._replace(losses=best.losses + np.linspace(0.05, 0.15, 30))
    assert judge.fall(worse, [("bad", worse), ("good", best)]).step == "good"
    assert judge.fall(worse, [("bad", worse), ("good", best)]).clear
    assert not judge.fall(best, [("good", best), ("bad", worse)]).clear
    unsure = best._replace(losses=best.losses + np.where(np.arange(30) % 2, 1.0, -0.9))
    assert not judge.fall(unsure, [("good", best)]).clear


def test_subsets_are_nested_by_seed_and_keep_all_of_valid(photos: Path, tmp_path: Path):
    few = data.subset(photos, tmp_path / "few", 3, seed=4)
    more = data.subset(photos, tmp_path / "more", 6, seed=4)
    other = data.subset(photos, tmp_path / "other", 3, seed=5)
    assert len(data.train_files(few)) == 6 and len(data.train_files(more)) == 12
    assert set(data.train_files(few)) < set(data.train_files(more)) <= set(data.train_files(photos))
    assert data.train_files(few) != data.train_files(other)
    valid = sorted(path.relative_to(few) for path in (few / "valid").rglob("*.png"))
    assert valid == sorted(path.relative_to(photos) for path in (photos / "valid").rglob("*.png"))
    picture = data.train_files(few)[0]
    assert (few / "train" / picture).read_bytes() == (photos / "train" / picture).read_bytes()
    with pytest.raises(SystemExit, match="no .*/train/train and .*/train/valid"):
        data.check_split(photos / "train")


def test_digits_are_other_ones_to_judge_by(tmp_path: Path):
    from PIL import Image

    folder = data.digits(tmp_path / "digits", per_class=2)
    parts = [sorted(path.name for path in (folder / part).rglob("*.png")) for part in ("train", "valid")]
    assert [len(set(part)) for part in parts] == [20, 20] and not set(parts[0]) & set(parts[1])
    with Image.open(next((folder / "train" / "7").iterdir())) as picture:
        assert (picture.mode, picture.size) == ("RGB", (128, 128))
        low, high = picture.getextrema()[0]
    assert low < 20 and high > 180


def test_a_turn_that_has_ended_is_kept_and_not_run_again(tmp_path: Path):
    """fastai's place is taken by a script that prints and saves the same."""
    script, folder = tmp_path / "steps.py", tmp_path / "seed0"
    script.write_text(
        "import json, os, sys, numpy as np\n"
        "print('noise'); print(json.dumps(dict(step='head', seconds=1, loss=.5, acc=.75, r=None)))\n"
        "print(json.dumps(dict(total_seconds=7.5)))\n"
        "files = [f'{sys.argv[1]}/valid/{name}' for name in ('b/1.png', 'a/1.png')]\n"
        "np.savez(os.environ['SAVE'], probabilities=np.float32([[0, 1], [.75, .25]]), labels=[1, 0], files=files)\n"
    )
    record = sides.fastai_turn(folder, [sys.executable, str(script)], tmp_path, ["w", "128", "0"], 1)
    assert record["own_seconds"] == 7.5 and record["seconds"] > 0 and record["invocation"] == processes.INVOCATION
    assert [step["step"] for step in record["steps"]] == ["head"]
    said = read_said(folder)
    assert said.files.tolist() == ["a/1.png", "b/1.png"] and said.labels.tolist() == [0, 1]
    assert np.isfinite(said.plain).all()
    np.testing.assert_allclose(np.exp(said.plain[0]), [[0.75, 0.25], [0, 1]], atol=1e-7)
    script.write_text("raise ValueError('no such weights')")
    assert sides.fastai_turn(folder, [sys.executable, str(script)], tmp_path, ["w", "128", "0"], 1) == record
    with pytest.raises(SystemExit, match=r"was run with `w 128 0`, not `w 64 0`: delete"):
        sides.fastai_turn(folder, [sys.executable, str(script)], tmp_path, ["w", "64", "0"], 1)
    (folder / processes.RECORD).unlink()
    with pytest.raises(RuntimeError, match="no such weights"):
        sides.fastai_turn(folder, [sys.executable, str(script)], tmp_path, ["w", "128", "0"], 1)
    assert not (folder / processes.RECORD).exists()


def made_up_sides(labels: np.ndarray) -> dict[str, dict[int, tables.Turn]]:
    names = ["head", "all layers"]
    steps = [{"name": name, "seconds": 2.0} for name in ("head", "all layers", "test-time augmentation")]
    peer_steps = [{"step": "head", "loss": 0.5, "acc": 0.8, "seconds": 3.0}]

    def turn(seed: int, names: list[str], **record) -> tables.Turn:
        said = random_said(seed, labels, names)
        return tables.judged_turn(said if len(names) > 1 else said._replace(augmented=said.plain), record)

    own = {"invocation": "x", "commit": "abc", "steps": steps}
    ours = {seed: turn(seed, names, seconds=10.0 + seed, other_cores=0.5 * seed, **own) for seed in range(3)}
    theirs = {seed: turn(9 + seed, ["end"], seconds=40.0, invocation="xy"[seed], steps=peer_steps) for seed in range(2)}
    baseline = {seed: turn(20, ["end"], seconds=0.5) for seed in range(3)}
    ablation = {seed: turn(30 + seed, names, seconds=20.0 + 2 * seed, **own) for seed in range(3)}
    return {"ours": ours, "fastai": theirs, "b16": ablation, "logistic, average": baseline}


def test_figures_are_those_of_the_pictures_over_the_seeds_both_have():
    labels = np.arange(24) % 4
    made = made_up_sides(labels)
    found = tables.figures(made, 3)
    pair = {(pair["after"], pair["before"]): pair for pair in found["pairs"]}
    assert set(pair) == {("ours", "fastai"), ("ours", "logistic, average"), ("b16", "ours"), ("b16", "fastai")}
    mine, theirs = ([made[name][seed].final.losses for seed in (0, 1)] for name in ("ours", "fastai"))
    change = np.mean(mine, 0) - np.mean(theirs, 0)
    against = pair["ours", "fastai"]
    assert against["seeds"] == [0, 1] and against["measured together"] == 1
    assert against["loss"] == pytest.approx([change.mean(), change.std(ddof=1) / 24**0.5])
    assert against["loss ratio"] == pytest.approx(np.mean(mine) / np.mean(theirs))
    assert against["seconds ratio"] == pytest.approx([10.5 / 40, 10 / 40, 11 / 40])
    assert pair["b16", "ours"]["seconds ratio"] == pytest.approx([2.0] * 3)
    assert [step["name"] for step in found["steps"]] == ["head", "all layers", tables.CHOSEN, tables.AUGMENTED]
    head, everything, *_ = found["steps"]
    assert everything["loss difference"][0] == pytest.approx(everything["loss"] - head["loss"])
    assert [step["seconds"] for step in found["steps"]] == [2.0, 2.0, None, 2.0]
    assert found["sides"]["ours"]["loss"][0] == pytest.approx(found["steps"][-1]["loss"])
    assert found["sides"]["ours"]["disturbed seeds"] == [1, 2] and found["sides"]["ours"]["commits"] == ["abc"]
    assert found["sides"]["ours"]["seconds"] == [11.0, 10.0, 12.0]
    assert set(found["runs"]) == {"0", "1", "2"}
    end, own = found["end"], dict(made["ours"][0].own)
    assert set(own) == {"head", "all layers", "test-time augmentation"}
    best = np.mean([dict(turn.own)[end["best step"]].losses for turn in made["ours"].values()], 0)
    over = np.mean([turn.final.losses for turn in made["ours"].values()], 0) - best
    assert end["loss over it"] == pytest.approx([over.mean(), over.std(ddof=1) / 24**0.5])
    json.dumps(found, allow_nan=False)
    text = "\n".join(tables.lines(found))
    assert (
        "ours - fastai: loss" in text
        and "1 of 2 seeds measured together" in text
        and "seed 2: " in text
        and " of 3 runs worse" in text
    )


def test_sides_of_other_pictures_are_not_compared():
    made = made_up_sides(np.arange(24) % 4)
    made["fastai"] = made_up_sides(np.arange(28) % 4)["fastai"]
    with pytest.raises(ValueError, match="fastai, seed 0 and ours, seed 0 judge other pictures"):
        tables.figures(made, 3)


def test_states_are_the_ends_of_the_phases(tmp_path: Path):
    ends = sides.phase_ends(tmp_path, ["head", "all"])
    assert [(name, path.name) for name, path in ends] == [("head", "phase1"), ("all", "phase2")]


def test_ablations_are_named():
    assert sides.parse_ablations("b16=--batch-size 16; lr.1=--lr 0.1") == {
        "b16": ["--batch-size", "16"],
        "lr.1": ["--lr", "0.1"],
    }
    assert sides.parse_ablations("") == {}
    for wrong in ("b16", "ours=--lr 1", "a/b=", "x=;x="):
        with pytest.raises(SystemExit, match="error: ablations"):
            sides.parse_ablations(wrong)


def test_regression_takes_the_strength_that_holds_on_other_photos():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    noise = generator.normal(0, 1, (60, 12))
    logs, strength = logistic.regression(noise, labels, noise, 0)
    assert strength <= 0.01, "there is nothing to learn"
    two_logs, _ = logistic.regression(noise, labels % 2, 1e5 * noise, 0)
    assert np.isfinite(two_logs).all() and two_logs.min() < -800, "no probability is rounded to 0"
    np.testing.assert_allclose(np.exp(two_logs).sum(1), 1.0, rtol=1e-6)
    clear = 4.0 * np.eye(3)[labels] + 0.1 * noise[:, :3]
    logs, strength = logistic.regression(clear, labels, clear, 0)
    assert strength >= 1.0 and (logs.argmax(-1) == labels).all()
    np.testing.assert_allclose(np.exp(logs).sum(-1), 1.0, rtol=1e-5)


def test_why_fastai_does_not_run_is_said(tmp_path: Path):
    case = recipe_study.Case(peer_python=sys.executable, peer_script=__file__)
    assert recipe_study.why_no_peer(case) == "" and recipe_study.peer(case) is not None
    for change, why in (
        ({"peer_python": ""}, "no --set peer_python"),
        ({"peer_python": str(tmp_path / "python")}, "is no program"),
        ({"peer_script": str(tmp_path / "x.py")}, "no peer_script="),
        ({"arch": "resnet18"}, "resnet18"),
        ({"weights": "auto"}, "weights='auto'"),
    ):
        changed = recipe_study.dataclasses.replace(case, **change)
        assert why in recipe_study.why_no_peer(changed) and recipe_study.peer(changed) is None


@pytest.mark.slow
def test_a_run_and_the_baseline_say_what_they_say_of_the_same_pictures(small10t, weights_file, tmp_path: Path):
    photos = tmp_path / "photos"
    write_class_folders(photos / "train", {"red": 4, "green": 4})
    write_class_folders(photos / "valid", {"red": 3, "green": 2}, seed=1)
    settings = Settings(arch=small10t, weights=str(weights_file), image_size=32, batch_size=4, tta_views=1)
    summary = run_recipe(photos, tmp_path / "run", head_only(settings, lr=0.1))
    said = sides.judge_states(tmp_path / "run", photos)
    assert said.names[-1] == "head, precomputed" and said.plain.shape == said.augmented.shape == (len(said.names), 5, 2)
    write_said(tmp_path, said)
    kept = read_said(tmp_path)
    assert kept.files.tolist() == sorted(kept.files.tolist()) and kept.files[0] == "green/000.png"
    assert judge.score(kept.plain, kept.labels).of(-1).losses.mean() == pytest.approx(
        summary["steps"][0]["loss"], rel=1e-4
    )
    assert judge.score(kept.augmented, kept.labels).of(-1).losses.mean() == pytest.approx(
        summary["tta"]["loss"], rel=1e-4
    )
    logistic.logistic_turn(tmp_path / "logistic", photos, settings)
    for kind in logistic.KINDS:
        baseline = read_said(tmp_path / "logistic" / kind)
        assert baseline.files.tolist() == kept.files.tolist() and baseline.labels.tolist() == kept.labels.tolist()
        assert judge.score(baseline.plain, baseline.labels).right.all(), "two colours"
