"""The curve and its rules: properties, and agreement with fastai 2.8 on stored curves."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxclf.training.lr_curve import (
    RULES,
    LRCurve,
    growing_lrs,
    smooth_losses,
    stopping_point,
    suggest_lr,
    suggestions,
)

#: See `lr_curves/make.py`.
STORED = json.loads((Path(__file__).parent / "lr_curves" / "curves.json").read_text())
NUM_STEPS = 60


def make_curve(smoothed, lrs=None, num_steps=None) -> LRCurve:
    smoothed = np.asarray(smoothed, float)
    lrs = growing_lrs(1e-6, 10, len(smoothed)) if lrs is None else lrs
    return LRCurve(lrs, smoothed, smoothed, "completed", None, num_steps)


def stored(name) -> LRCurve:
    data = STORED[name]
    end = data["end"]
    return make_curve(data["smoothed"][:end], np.asarray(data["lrs"][:end]), data["num_steps"])


walks = st.integers(0, 2**32 - 1).map(
    lambda seed: np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.2, NUM_STEPS)))
)


def test_rates_grow_by_one_factor_from_low_to_high():
    lrs = growing_lrs(1e-6, 10.0, 100)
    assert lrs[0] == 1e-6 and lrs[-1] == 10.0 and len(lrs) == 100
    np.testing.assert_allclose(lrs[1:] / lrs[:-1], 1e7 ** (1 / 99), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        ((1e-6, 10, 19), "num_steps=19 must be a whole number of at least 20"),
        ((1e-6, 10, 20.5), "num_steps=20.5"),
        ((1.0, 1.0, 20), "low=1.0 and high=1.0"),
        ((0.0, 1.0, 20), "0 < low < high"),
        ((1e-6, float("inf"), 20), "finite"),
        ((float("nan"), 1.0, 20), "low=nan"),
    ],
)
def test_rates_out_of_range_are_errors(arguments, mentions):
    with pytest.raises(ValueError, match=mentions):
        growing_lrs(*arguments)


@given(walks, st.floats(0, 0.999))
def test_smoothing_is_the_weighted_mean_of_the_past(losses, beta):
    """Against the definition: loss j of the first k + 1 has weight proportional to beta ** (k - j)."""
    smoothed = smooth_losses(losses, beta)
    for k in (0, 1, 17, NUM_STEPS - 1):
        weights = beta ** np.arange(k, -1.0, -1)
        assert smoothed[k] == pytest.approx(np.average(losses[: k + 1], weights=weights), rel=1e-9)
    np.testing.assert_array_equal(smooth_losses(losses[:20], beta), smoothed[:20])


def test_smoothing_keeps_a_constant_and_refuses_a_beta_out_of_range():
    np.testing.assert_allclose(smooth_losses(np.full(50, 0.7)), 0.7, rtol=1e-12)
    for beta in (-0.1, 1.0):
        with pytest.raises(ValueError, match="beta"):
            smooth_losses([1.0], beta)


def stops(losses, beta=0.0):
    return stopping_point(np.asarray(losses, float), smooth_losses(losses, beta))


def test_divergence_counts_after_ten_steps_and_above_four_times_the_lowest():
    quiet = [1.0] * 10
    assert stops([*quiet, 4.0]) is None, "four times is not more than four times"
    end, reason = stops([*quiet, 4.01, 9.0])
    assert end == 11 and "step 10" in reason and "4 times the lowest, 1" in reason
    assert stops([1.0] * 9 + [100.0]) is None, "within the first ten steps nothing diverges"
    assert stops([0.1, *quiet, 1.0])[0] == 11, "the lowest of all steps counts, also of the first ten"
    assert stops([0.1] + [0.39] * 30) is None
    assert stops([1.0] * 30 + [20.0], beta=0.98) is None, "it is the smoothed loss that counts"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_ends_the_curve_before_it(bad):
    end, reason = stops([1.0, 1.0, bad, 1.0])
    assert end == 2 and f"{bad} at step 2" in reason
    assert stops([bad])[0] == 0
    assert stops([1.0] * 12 + [9.0, bad])[0] == 13, "diverged first"


@given(walks, st.sampled_from([0.0, 0.9]))
def test_the_stopping_point_does_not_change_when_the_test_goes_on(losses, beta):
    smoothed = smooth_losses(losses, beta)
    answers = [stopping_point(losses[:n], smoothed[:n]) for n in range(NUM_STEPS + 1)]
    final = answers[-1]
    for n, answer in enumerate(answers):
        assert answer == (final if final is not None and n >= final[0] else None)


#: The rules that fastai has too.
SHARED_RULES = tuple(rule for rule in RULES if rule != "edge")
#: Where a rule does not apply, and fastai answers all the same or fails.
NOTHING = {
    **{name: set(SHARED_RULES) for name in ("rising", "flat", "early divergence", "infinite at once")},
    **{
        name: {"slide"}
        for name in ("falling", "flat with noise", "not a number at the end", "short", "short and early")
    },
}


@pytest.mark.parametrize("name", STORED)
def test_the_rules_agree_with_fastai(name):
    """To the same point of the curve, with `valley` one point later: fastai's starts before the fall."""
    curve, theirs = stored(name), STORED[name]["fastai"]
    ours = suggestions(curve)
    assert {rule for rule in SHARED_RULES if ours[rule].lr is None} == NOTHING.get(name, set())
    step = 1e7 ** (1 / (STORED[name]["num_steps"] - 1))
    for rule in set(SHARED_RULES) - NOTHING.get(name, set()):
        expected = theirs[rule] * (step if rule == "valley" else 1)
        assert ours[rule].lr == pytest.approx(expected, rel=1e-5), rule


@pytest.mark.parametrize("name", STORED)
def test_the_edge_is_a_twentieth_of_where_the_test_ended_before_its_time(name):
    curve = stored(name)
    suggestion = suggest_lr(curve, "edge")
    if len(curve.lrs) == curve.num_steps:
        assert suggestion.lr is None and "went to its end" in suggestion.reason
    elif len(curve.lrs) < 16:
        assert suggestion.lr is None and "too short" in suggestion.reason
    else:
        assert suggestion.lr == curve.lrs[-1] / 20 and curve.reason in suggestion.reason


@pytest.mark.parametrize("name", STORED)
def test_the_smoothing_agrees_with_fastai(name):
    theirs = [np.nan if value is None else value for value in STORED[name]["fastai smoothed"]]
    losses = [np.nan if value is None else value for value in STORED[name]["losses"]]
    np.testing.assert_allclose(smooth_losses(losses), theirs, rtol=1e-4)  # theirs is float32


def test_the_blow_up_before_a_loss_that_is_not_a_number_is_left_out():
    """fastai's five dropped points are all such, so it looks further into the blow-up than on an ended curve."""
    data = STORED["not a number at the end"]
    clean, not_ended = data["fastai"], data["fastai, not ended"]
    assert all(not_ended[rule] >= clean[rule] for rule in SHARED_RULES) and not_ended["minimum"] > clean["minimum"]
    assert suggest_lr(stored("not a number at the end"), "minimum").lr == pytest.approx(clean["minimum"], rel=1e-5)


@given(walks)
def test_valley_is_the_middle_of_the_longest_fall(losses):
    """Against a count of all decreasing subsequences by another method: patience sorting from the right length."""
    import bisect

    points = losses[6:-5]
    piles, best, end = [], 0, 0
    for i, loss in enumerate(points):
        place = bisect.bisect_left(piles, -loss)
        piles[place : place + 1] = [-loss]
        if len(piles) > best:
            best, end = len(piles), i
    suggestion = suggest_lr(make_curve(losses), "valley")
    if best < 6:
        assert suggestion.lr is None and f"has {best} points of {len(points)}" in suggestion.reason
    else:
        assert suggestion.lr == growing_lrs(1e-6, 10, NUM_STEPS)[6 + end - best + 1 + best // 3 + best // 6]


@given(walks, st.integers(-8, 8), st.integers(-8, 8))
def test_suggestions_move_with_the_rates_and_ignore_the_scale_of_the_loss(losses, loss_power, rate_power):
    """Powers of two, so that nothing is rounded. `slide` has a threshold in units of the loss."""
    before = suggestions(make_curve(losses))
    scaled = suggestions(make_curve(losses * 2.0**loss_power))
    shifted = suggestions(make_curve(losses, growing_lrs(1e-6, 10, NUM_STEPS) * 2.0**rate_power))
    for rule in RULES:
        if rule != "slide":
            assert scaled[rule].lr == before[rule].lr
        if before[rule].lr is None:
            assert shifted[rule].lr is None and shifted[rule].reason == before[rule].reason
        elif rule != "steep":  # whose differences of logarithms are rounded
            assert shifted[rule].lr == before[rule].lr * 2.0**rate_power
        else:
            assert shifted[rule].lr == pytest.approx(before[rule].lr * 2.0**rate_power, rel=1e-9)


@given(walks, st.floats(-100, 100))
def test_suggestions_ignore_what_is_dropped(losses, other):
    """The first tenth of the steps asked for, and the last five points."""
    changed = losses.copy()
    changed[:6] = other
    changed[-5:] = other
    assert suggestions(make_curve(changed)) == suggestions(make_curve(losses))
    lrs = growing_lrs(1e-6, 10, NUM_STEPS)
    for rule, suggestion in suggestions(make_curve(losses)).items():
        if suggestion.lr is not None:
            assert suggestion.lr in lrs[6:-5] / (10 if rule == "minimum" else 1)
    cut = make_curve(losses[:40], lrs[:40], NUM_STEPS)
    changed = cut.smoothed.copy()
    changed[:6] = other
    assert suggestions(make_curve(changed, lrs[:40], NUM_STEPS)) == suggestions(cut), "a tenth of 60, not of 40"


def test_no_suggestion_says_why_and_is_no_number():
    for losses, text in ((np.linspace(1, 2, 100), "never falls"), ([1.0] * 12, "too short: 12 points")):
        for rule in RULES:
            suggestion = suggest_lr(make_curve(losses, growing_lrs(1e-6, 10, 100)[: len(losses)], 100), rule)
            assert suggestion.lr is None and len(suggestion.reason) > 15
            with pytest.raises(ValueError, match=f"rule '{rule}' suggests no learning rate"):
                float(suggestion)
            if rule == "edge":
                assert ("went to its end" in suggestion.reason) == (len(losses) == 100)
            elif rule != "slide":
                assert text in suggestion.reason
    assert float(suggest_lr(stored("valley"))) == suggest_lr(stored("valley"), "valley").lr


def test_an_unknown_rule_or_a_broken_curve_is_an_error():
    with pytest.raises(ValueError, match="rule='best' is not known; choose one of valley, minimum, steep, slide"):
        suggest_lr(stored("valley"), "best")
    with pytest.raises(ValueError, match="not finite"):
        suggest_lr(make_curve([1.0] * 30 + [np.nan] * 30))
