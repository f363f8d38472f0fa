"""The recipes as they are composed: lengths, rates where none is given, what mixes."""

import io
import types

import numpy as np
import pytest
from commands import fails, run
from rich.console import Console

from jaxclf.cli.terminal import Terminal
from jaxclf.config import Phase, Recipe, Settings, from_json, to_json
from jaxclf.run import rates
from jaxclf.run.observer import Observer
from jaxclf.run.recipes import BODY, DEFAULT_LR, RECIPES, default_lr, eight_steps, fine_tune, two_phase
from jaxclf.run.run import run_recipe
from jaxclf.run.run_state import RunState
from jaxclf.training import program, shared
from jaxclf.training.lr_curve import LRCurve, growing_lrs

#: Recipes that can start from scratch.
SCRATCH = ("eight-steps", "progressive", "two-phase")
COMPOSED = [(name, "auto") for name in RECIPES] + [(name, "none") for name in SCRATCH]


@pytest.mark.parametrize(("name", "weights"), COMPOSED)
@pytest.mark.parametrize("epochs", [1, 10])
def test_epochs_are_one_cosine_cycle_of_the_last_phase(name, weights, epochs):
    """As the help of --epochs says; growing sizes have such a phase at each of them."""
    recipe = RECIPES[name](Settings(weights=weights), epochs=epochs)
    last = [phase for phase in recipe.phases if name == "progressive" and not phase.frozen] or [recipe.phases[-1]]
    for phase in last:
        assert (phase.num_cycles, phase.cycle_epochs, phase.num_epochs) == (1, epochs, epochs)
        schedule, num_steps = program.phase_schedule(phase, 5)
        multipliers = np.array([schedule(step) for step in range(num_steps)])
        turns = np.flatnonzero(np.diff(np.sign(np.diff(multipliers))))
        assert num_steps == 5 * epochs and len(turns) == (phase.schedule == "one_cycle"), "it falls once, to the end"
    with pytest.raises(ValueError, match="epochs=0 must be at least 1"):
        RECIPES[name](Settings(weights=weights), epochs=0)


@pytest.mark.parametrize(("weights", "start"), [("auto", "pretrained"), ("none", "scratch")])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_where_no_rate_is_given_it_is_the_optimizers_own(weights, start, optimizer):
    settings = Settings(weights=weights, optimizer=optimizer)
    expected = DEFAULT_LR[optimizer][start]
    assert default_lr(settings) == expected
    assert two_phase(settings).phases[-1].lrs[-1] == expected
    if weights != "none":
        assert [phase.lrs[-1] for phase in fine_tune(settings).phases] == [expected, expected / 2]
    assert two_phase(settings, lr=0.3).phases[-1].lrs[-1] == 0.3


def test_a_rate_of_adamw_is_smaller_than_sgds():
    for start in ("pretrained", "scratch"):
        assert DEFAULT_LR["adamw"][start] == 1e-3 < DEFAULT_LR["sgd"][start]


@pytest.mark.parametrize(("best", "start"), [(None, "pretrained"), (1, "solved")])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("batches", "searches"), [(40, 1), (7, 0)])
def test_where_no_rule_finds_a_rate_it_is_the_optimizers_own(optimizer, best, start, batches, searches, monkeypatch):
    """A loss that only rises, from which nothing can be read; and a phase of seven epochs shorter than a search."""
    rising = np.linspace(1.0, 2.0, 40)
    curve, asked, notes = LRCurve(growing_lrs(1e-6, 10.0, 40), rising, rising, "completed", None, 40), [], []
    monkeypatch.setattr(rates, "find_lr", lambda *args, **options: (asked.append(options), curve)[1])

    class Context:
        settings = Settings(optimizer=optimizer, arch="resnet18")
        model, observer = None, Observer()

    Context.observer.note = notes.append
    run = RunState(eight_steps(Context.settings), number=2, best=best)
    stands = best is not None
    expected = DEFAULT_LR[optimizer][start]
    assert rates.find_rate(Context, run, {}, range(batches)) == expected
    over = {"sgd": (72, 1e-5, 0.2), "adamw": (55, 1e-5, 0.02)}[optimizer] if stands else (100, 1e-5, 10.0)
    assert [tuple(options[name] for name in ("num_steps", "low", "high")) for options in asked] == [over] * searches
    assert [rate["rule"] for rate in run.rates] == [None] * searches
    told = "the loss leaves at no rate" if stands else "the loss never falls"
    assert len(notes) == 1 and (told if searches else "shorter than a search for a rate") in notes[0]


CACHED = Phase("cached", lrs=(0.1,), frozen=BODY, augment="none", cut="pooled")
SEEN = Phase("seen", lrs=(0.1,), frozen=BODY, augment="none")


@pytest.mark.parametrize(("mix", "text"), [({"mixup": 0.4}, "mixup 0.4"), ({"cutmix": 1.0}, "cutmix 1")])
def test_the_plan_says_what_mixes(mix, text):
    def told(head):
        seen = io.StringIO()
        Terminal(Console(file=seen, width=100)).show_plan(eight_steps(Settings(head=head, **mix), lr=0.1))
        lines = [line.split(maxsplit=1) for line in seen.getvalue().splitlines()]
        return [line[1] for line in lines if line and line[0] == "augmentation"]

    cached, mixed = "no mixing: cached activations", f"side_on, {text}"
    assert told("pools") == [f"none, {cached}", f"side_on, {cached}", mixed], "a bank is cached too"
    assert told("concat") == [f"none, {cached}", mixed, mixed]
    plain = eight_steps(Settings())
    assert [plain.mixing(phase) for phase in plain.phases] == ["", "", ""]


def test_a_run_mixes_where_it_sees_pictures(photos, tmp_path, small10t, monkeypatch):
    """And only there: the phase on cached activations runs without, and the run says so."""
    mixes, notes, original = [], [], shared.make_train_step

    class Notes(Observer):
        def note(self, text):
            notes.append(text)

    def watched(*args, **options):
        mixes.append(options["mix"])
        if len(mixes) == 2:
            raise ValueError("enough seen")
        return original(*args, **options)

    shared.shared_step.cache_clear()  # an earlier test may have made them
    monkeypatch.setattr(shared, "make_train_step", watched)
    settings = Settings(arch=small10t, weights="none", image_size=32, batch_size=8, tta_views=0, mixup=0.4)
    with pytest.raises(ValueError, match="enough seen"):
        run_recipe(photos, tmp_path / "run", Recipe(settings, (CACHED, SEEN)), observer=Notes())
    assert mixes[0] is None and mixes[1].keywords == {"alpha": 0.4} and len(mixes) == 2
    said = [note for note in notes if "mix" in note]
    assert said == ["phase 'cached': no mixing: cached activations", "phase 'seen': mixup 0.4"]


@pytest.mark.parametrize("flag", ["--mixup", "--cutmix"])
@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_nothing_but_cached_activations_cannot_be_mixed(flag, plan, photos, tmp_path, weights_file, capsys):
    """It is said before anything is read, and in the flags' words."""
    command = ["fit", photos, "--out", tmp_path / "run", "--recipe", "head-only", "--weights", weights_file]
    mentions = [f"{flag} 0.4: must be left out", "cached activations", "--recipe eight-steps"]
    fails(capsys, *command, "--arch", "small10t", flag, "0.4", *plan, mentions=mentions, code=2)
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_that_mixes_nothing_is_refused_too(tmp_path, capsys, photos):
    text = to_json(Recipe(Settings(mixup=0.4), (CACHED, SEEN)))
    assert from_json(Recipe, text).settings.mixup == 0.4
    (tmp_path / "recipe.json").write_text(
        to_json(Recipe(Settings(), (CACHED,))).replace('"mixup": 0.0', '"mixup": 0.4')
    )
    command = ["fit", photos, "--out", tmp_path / "run", "--recipe", tmp_path / "recipe.json"]
    fails(capsys, *command, mentions=["recipe.json", "mixup=0.4", "--recipe eight-steps"])


def test_head_only_is_one_cosine_in_the_plan(photos, tmp_path, weights_file, capsys):
    command = ["fit", photos, "--out", tmp_path / "run", "--recipe", "head-only", "--weights", weights_file]
    assert run(*command, "--arch", "small10t", "--image-size", "32", "--epochs", "10", "--plan") == 0
    assert "  epochs        10\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rule", "broken", "rate"),
    [("auto", 0.06, 0.003), ("auto", 0.16, 0.008), ("auto", 3.0, 0.003), ("edge", 3.0, 0.15)],
)
def test_a_rate_that_the_run_reads_off_itself_is_capped(rule, broken, rate, monkeypatch):
    """Where the test breaks off far above any rate of use, it has ended before; a rule that is asked for sees it."""

    def broken_off(*args, low, high, num_steps, **options):
        lrs = growing_lrs(low, high, num_steps)
        end = int(np.searchsorted(lrs, broken)) + 1
        losses = np.linspace(1.0, 0.9, len(lrs[:end]))
        return LRCurve(lrs[:end], losses, losses, "diverged", None, num_steps)

    monkeypatch.setattr(rates, "find_lr", broken_off)
    state = RunState(Recipe(Settings(lr_rule=rule), (Phase("all layers", (1.0,), cycle_epochs=9, lr_from="find"),)))
    state.best = 0
    context = types.SimpleNamespace(model=None, settings=Settings(lr_rule=rule), observer=Observer())
    assert rates.find_rate(context, state, {}, range(20)) == pytest.approx(rate, rel=0.2)
