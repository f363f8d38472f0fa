"""What the phases of a recipe will cost, by hand from what their steps cost; and how the plan shows it."""

import dataclasses
import io

import pytest
from rich.console import Console

from jaxclf import cost, phase_costs, training
from jaxclf.cli.terminal import Terminal
from jaxclf.config import Phase, Recipe, Settings
from jaxclf.models import create_classifier
from jaxclf.recipes import RECIPES
from jaxclf.trees import cut_prefix, frozen_prefix

RECIPE = RECIPES["eight-steps"](Settings(arch="resnet10t", image_size=64, batch_size=50))


@pytest.mark.parametrize("num_valid", [0, 200])
def test_phases_by_hand(num_valid):
    """Extraction, search, training, validation; 20 steps an epoch, and a search of 100 each time."""
    model = create_classifier("resnet10t", 2)
    sizes, body = {"image_size": 64, "batch_size": 50}, frozen_prefix("stage4")
    step = cost.step_flops(model, **sizes)
    frozen, cached = (cost.step_flops(model, **sizes, frozen=body, start=start) for start in (None, "pooled"))
    whole, below, above = (
        cost.forward_flops(model, image_size=64, **cuts) for cuts in ({}, {"stop": "pooled"}, {"start": "pooled"})
    )
    costs = phase_costs.phase_costs(RECIPE, 1000, 2, num_valid=num_valid)
    assert [c.name for c in costs] == [phase.name for phase in RECIPE.phases]
    assert [c.flops for c in costs] == [
        (2 * 20 + 100) * cached + (1000 + num_valid) * below + num_valid * (2 * above + whole),
        3 * 20 * frozen + 3 * num_valid * whole,
        (7 * 20 + 100) * step + 7 * num_valid * whole,
    ]
    for c in costs:
        assert c.full_epochs == pytest.approx(c.flops / (20 * step))
    assert costs[0].full_epochs == pytest.approx(1 / 3, abs=0.02) or num_valid


@pytest.mark.parametrize(("epochs", "steps"), [(1, 40), (3, 60), (9, 100)])
def test_a_search_takes_as_many_steps_as_the_phase_within_bounds(epochs, steps):
    phase = Phase("a", lrs=(1.0,), cycle_epochs=epochs)
    sure, unsure = (
        Recipe(arch="resnet10t", image_size=32, batch_size=10, phases=(dataclasses.replace(phase, lr_from=lr_from),))
        for lr_from in ("given", "find")
    )
    (a,), (b,) = (phase_costs.phase_costs(recipe, 200, 2) for recipe in (sure, unsure))
    assert training.FINDER_STEPS == (40, 100)
    assert a.full_epochs == pytest.approx(epochs) and b.full_epochs == pytest.approx(epochs + steps / 20)


def test_sizes_views_and_cuts_count():
    """A smaller size is cheaper, more views cost more, and a deeper cut leaves less to every epoch."""
    small = Phase("small", lrs=(0.1,), image_size=32)
    plain = Phase("cut", lrs=(0.1,), frozen=cut_prefix("stage2"), cut="stage2", augment="none", cycle_epochs=5)
    bank = dataclasses.replace(plain, augment="side_on", num_views=3)
    deep = dataclasses.replace(plain, frozen=cut_prefix("stage3"), cut="stage3")
    recipe = Recipe(arch="resnet10t", image_size=64, batch_size=10, phases=(small, plain, bank, deep))
    small, plain, bank, deep = (c.full_epochs for c in phase_costs.phase_costs(recipe, 100, 2))
    assert small == pytest.approx(0.25, rel=0.02) and deep < plain < bank
    below = cost.forward_flops(create_classifier("resnet10t", 2), image_size=64, stop="stage2")
    step = cost.step_flops(create_classifier("resnet10t", 2), image_size=64, batch_size=10)
    assert bank - plain == pytest.approx(2 * 100 * below / (10 * step))


def test_phase_costs_names_wrong_numbers():
    for numbers, named in (((0, 2, 0), "num_train=0"), ((9, 0, 0), "num_classes=0"), ((9, 2, -1), "num_valid=-1")):
        with pytest.raises(ValueError, match=named):
            phase_costs.phase_costs(RECIPE, *numbers[:2], num_valid=numbers[2])


def test_the_plan_shows_costs_where_there_are_some():
    def shown(*costs):
        Terminal(Console(file=(out := io.StringIO()), width=160)).show_plan(RECIPE, *costs)
        return out.getvalue()

    assert "cost" not in shown()
    figures = [(2.5e12, 0.333), (5e12, 1.012), (1.25e14, 17.0)]
    costs = [phase_costs.PhaseCost(phase.name, int(f), e) for phase, (f, e) in zip(RECIPE.phases, figures, strict=True)]
    text = shown(costs)
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    for phase, figure in zip(RECIPE.phases, ("0.33 (2.50 TFLOP)", "1.0 (5.00 TFLOP)", "17.0 (125 TFLOP)"), strict=True):
        assert figure in rows[phase.name]
    assert "at most 18.3 (132 TFLOP) together, in epochs of training the whole network at 64 px" in text
