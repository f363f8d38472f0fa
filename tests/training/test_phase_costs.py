"""What the phases of a recipe will cost, by hand from what their steps cost; and how the plan shows it."""

import dataclasses
import io

import pytest
from rich.console import Console

from jaxclf.cli.terminal import Terminal
from jaxclf.config import Phase, Recipe, Settings, cut_prefix
from jaxclf.run.recipes import RECIPES
from jaxclf.training import cost, lr_finder
from jaxclf.training.cost import PhaseCost, phase_costs

SETTINGS = Settings(arch="resnet10t", image_size=64, batch_size=50)
SOLVED = RECIPES["eight-steps"](SETTINGS)
#: Its heads are trained.
RECIPE = RECIPES["eight-steps"](dataclasses.replace(SETTINGS, head="concat"))


@pytest.fixture
def prices(monkeypatch):
    """Steps and pictures at prices that are easy to add up; they depend on the size and on what is run."""

    def step_flops(model, *, image_size, batch_size, frozen=(), start=None):
        first = 0 if start is None else len(cut_prefix(start))
        return batch_size * image_size**2 * ((len(frozen) - first) + 3 * (6 - len(frozen)))

    def forward_flops(model, *, image_size, start=None, stop=None):
        end = 6 if stop is None else len(cut_prefix(stop))
        return image_size**2 * (end - (0 if start is None else len(cut_prefix(start))))

    monkeypatch.setattr(cost, "step_flops", step_flops)
    monkeypatch.setattr(cost, "forward_flops", forward_flops)


def full_epochs(recipe, num_train=1000, num_valid=0):
    return [c.full_epochs for c in phase_costs(recipe, num_train, 2, num_valid=num_valid)]


@pytest.mark.parametrize("num_valid", [0, 200])
def test_phases_by_hand(prices, num_valid):
    """Extraction, search, training, validation; 20 steps an epoch, 100 of a search. A picture costs 6, a step 18."""
    costs = phase_costs(RECIPE, 1000, 2, num_valid=num_valid)
    pixels = 64**2
    assert [c.name for c in costs] == [phase.name for phase in RECIPE.phases]
    assert [c.flops / pixels for c in costs] == [
        (2 * 20 + 100) * 50 * 3 + 1000 * 5 + num_valid * (5 + 2 * 1 + 6),
        3 * 20 * 50 * 8 + num_valid * (5 + 3 * 1 + 6),  # the frozen body sees them once, and once more at the end
        (7 * 20 + 72) * 50 * 18 + 7 * num_valid * 6,
    ]
    assert [c.full_epochs for c in costs] == pytest.approx([c.flops / pixels / (20 * 50 * 18) for c in costs])


@pytest.mark.parametrize("num_valid", [0, 200])
def test_solved_heads_by_hand(prices, num_valid):
    """The training pictures' features, three views of each in the second phase, and one look at the validation set."""
    costs = phase_costs(SOLVED, 1000, 2, num_valid=num_valid)
    assert [phase.solve for phase in SOLVED.phases] == [True, True, False]
    assert [c.flops / 64**2 for c in costs] == [
        1000 * 5 + num_valid * 6,
        1000 * 3 * 5 + num_valid * 6,
        (7 * 20 + 72) * 50 * 18 + 7 * num_valid * 6,
    ]


@pytest.mark.parametrize(("epochs", "steps"), [(1, 0), (4, 0), (5, 100), (9, 100)])
def test_there_is_a_search_where_the_phase_is_no_shorter(prices, epochs, steps):
    """Of 20 steps an epoch; the bounds are the run's own."""
    assert lr_finder.rate_range().num_steps == 100
    for lr_from, extra in (("given", 0), ("find", steps), ("previous", 0)):
        phase = Phase("a", lrs=(1.0,), cycle_epochs=epochs, lr_from=lr_from)
        recipe = Recipe(Settings(arch="resnet10t", image_size=32, batch_size=50), (phase,))
        assert full_epochs(recipe) == pytest.approx([epochs + extra / 20])


def test_sizes_views_and_cuts_count(prices):
    small = Phase("small", lrs=(0.1,), image_size=32)
    plain = Phase("cut", lrs=(0.1,), frozen=cut_prefix("stage2"), cut="stage2", augment="none", cycle_epochs=5)
    bank = dataclasses.replace(plain, augment="side_on", num_views=3)
    deeper = dataclasses.replace(plain, frozen=cut_prefix("stage3"))
    recipe = Recipe(Settings(arch="resnet10t", image_size=64, batch_size=10), (small, plain, bank, deeper))
    step = 3 * 6
    expected = [1 / 4, 5 * 9 / step + 3 / step, 5 * 9 / step + 3 * 3 / step, 5 * (1 + 6) / step + 3 / step]
    assert full_epochs(recipe, 100) == pytest.approx(expected)
    # A phase at another size is judged once more, on pictures of the recipe's own.
    with_valid = full_epochs(recipe, 100, num_valid=100)
    assert with_valid[0] - 1 / 4 == pytest.approx((6 / 4 + 6) / step)


def test_real_prices():
    """The head from cached activations: one pass through the body. From pictures: a third of a full step."""
    phases = tuple(dataclasses.replace(phase, num_cycles=1, lr_from="given") for phase in RECIPE.phases)
    cached, head, whole = full_epochs(dataclasses.replace(RECIPE, phases=phases))
    assert whole == 1 and cached == pytest.approx(head, rel=0.01) == pytest.approx(1 / 3, abs=0.01)
    solved, bank, _ = full_epochs(SOLVED)
    assert solved == pytest.approx(cached, rel=0.02) and bank == pytest.approx(3 * solved)


def test_phase_costs_names_wrong_numbers():
    for numbers, named in (((0, 2, 0), "num_train=0"), ((9, 0, 0), "num_classes=0"), ((9, 2, -1), "num_valid=-1")):
        with pytest.raises(ValueError, match=named):
            phase_costs(RECIPE, *numbers[:2], num_valid=numbers[2])


def test_the_plan_shows_costs_where_there_are_some():
    def shown(*costs):
        Terminal(Console(file=(out := io.StringIO()), width=160)).show_plan(RECIPE, *costs)
        return out.getvalue()

    assert "cost" not in shown()
    figures = [(2.5e12, 0.333), (5e12, 1.012), (1.25e14, 17.0)]
    costs = [PhaseCost(phase.name, int(f), e) for phase, (f, e) in zip(RECIPE.phases, figures, strict=True)]
    text = shown(costs)
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    for phase, figure in zip(RECIPE.phases, ("0.33 (2.50 TFLOP)", "1.0 (5.00 TFLOP)", "17.0 (125 TFLOP)"), strict=True):
        assert figure in rows[phase.name]
    assert "at most 18.3 (132 TFLOP) together, in epochs of training the whole network at 64 px" in text
