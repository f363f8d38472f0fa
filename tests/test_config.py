import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxclf.config import Phase, Preprocess, Recipe, Settings, from_dict, from_json, to_json

RECIPE = Recipe(
    Settings(arch="resnet18", clip_norm=1.0),
    (
        Phase("head", lrs=(1e-4, 1e-3, 1e-2), frozen=("stem", "stage1"), augment="none"),
        Phase("all", lrs=(1e-2,), num_cycles=3, cycle_mult=2),
    ),
)


def test_round_trip():
    assert from_json(Recipe, to_json(RECIPE)) == RECIPE
    assert json.loads(to_json(RECIPE))["format_version"] == 2


def test_whole_numbers_serve_as_floats():
    assert from_dict(Phase, {"name": "a", "lrs": [1]}).lrs == (1.0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arc": "resnet18"}, "unknown field arc"),
        ({"batch_size": "64"}, "batch_size='64' has the wrong type"),
        ({"batch_size": True}, "batch_size=True has the wrong type"),
        ({"batch_size": "most"}, "batch_size='most' has the wrong type"),
        ({"batch_size": None}, "batch_size=None has the wrong type"),
        ({"bn_frozen": "auto"}, "bn_frozen='auto' has the wrong type"),
        ({"clip_norm": "no"}, "clip_norm='no' has the wrong type"),
        ({"head": "conv"}, "head='conv' is not one of"),
        ({"phases": [{"name": "a"}]}, "lrs"),
        ({"phases": [{"name": "a", "lrs": [1, "x"]}]}, r"phases\[0\].lrs\[1\]='x'"),
        ({"phases": [{"name": "a", "lrs": [1], "cut": "stage9"}]}, r"phases\[0\].cut='stage9' is not one of 'stem'"),
        ({"phases": {}}, "phases={} has the wrong type"),
        ({"format_version": 99}, "format_version 99"),
    ],
)
def test_bad_json_fields_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_json(Recipe, json.dumps({**(good := json.loads(to_json(RECIPE))), **of_settings(change, good)}))


def of_settings(change, good):
    """A change as it stands in the JSON: below "settings", unless it is the recipe's own."""
    own = {name: value for name, value in change.items() if name in ("phases", "format_version")}
    return own or {"settings": {**good["settings"], **change}}


def test_recipes_of_version_1_are_read():
    """jaxclf 0.1.0 wrote the settings beside the phases."""
    today = json.loads(to_json(RECIPE))
    old = {"format_version": 1, **today["settings"], "phases": today["phases"]}
    assert from_json(Recipe, json.dumps(old)) == RECIPE
    with pytest.raises(ValueError, match="unknown field arc"):
        from_json(Recipe, json.dumps({**old, "arc": 1}))
    with pytest.raises(ValueError, match="format_version"):
        from_json(Recipe, json.dumps({**old, "format_version": "1"}))


@pytest.mark.parametrize("version", [1, 2])
def test_old_recipes_keep_what_they_had(version):
    """Written before a batch size could be "auto" and BatchNorm's fate open, and before any head was solved."""
    today = json.loads(to_json(RECIPE))
    settings = {**today["settings"], "batch_size": 64, "bn_frozen": False, "head": "linear"}
    phases = [{name: value for name, value in phase.items() if name != "solve"} for phase in today["phases"]]
    old = {"format_version": version, "settings": settings, "phases": phases}
    old = old if version == 2 else {"format_version": 1, **settings, "phases": phases}
    read = from_json(Recipe, json.dumps(old))
    assert (read.settings.batch_size, read.settings.bn_frozen, read.settings.head) == (64, False, "linear")
    assert not any(phase.solve for phase in read.phases)
    assert read.settings.for_photos(10) == read.settings, "nothing is left open"


@pytest.mark.parametrize(("batch_size", "bn_frozen"), [("auto", None), (48, True), (1, False)])
def test_words_and_numbers_come_back_as_they_were(batch_size, bn_frozen):
    settings = Settings(batch_size=batch_size, bn_frozen=bn_frozen)
    back = from_json(Settings, to_json(settings))
    assert back == settings and type(back.batch_size) is type(batch_size)


@given(st.integers(1, 10**7), st.integers(0, 10**6))
def test_the_batch_follows_the_number_of_photos(number, more):
    batch = Settings().for_photos(number).batch_size
    assert 16 <= batch <= 64 and batch & (batch - 1) == 0
    assert batch <= Settings().for_photos(number + more).batch_size, "more photos, no smaller batch"
    assert batch == 16 or batch * 30 <= number, "an epoch has 30 steps"
    assert batch == 64 or number < 2 * batch * 30, "the largest such batch"


@given(st.integers(1, 10**7), st.integers(1, 500), st.booleans())
def test_what_was_said_is_not_decided_again(number, batch_size, bn_frozen):
    settings = Settings(batch_size=batch_size, bn_frozen=bn_frozen)
    assert settings.for_photos(number) == settings and settings.batch(number) == batch_size
    decided = Settings().for_photos(number)
    assert decided.for_photos(7) == decided.for_photos(10**6) == decided


@pytest.mark.parametrize(
    ("weights", "number", "frozen"),
    [("auto", 4999, True), ("auto", 5000, False), ("tiny-imagenet", 40, True), ("none", 40, False)],
)
def test_batch_norm_of_a_pretrained_body_keeps_still_on_few_photos(weights, number, frozen):
    assert Settings().bn_frozen is None
    assert Settings(weights=weights).for_photos(number).bn_frozen is frozen
    assert Settings(weights=weights, bn_frozen=not frozen).for_photos(number).bn_frozen is not frozen


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_bad_json(text):
    with pytest.raises(ValueError, match="JSON"):
        from_json(Recipe, text)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 4},
        {"batch_size": 0},
        {"batch_size": 16.5},
        {"seed": -1},
        {"valid_fraction": 1.0},
        {"dropout": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -1.0},
        {"clip_norm": 0.0},
        {"label_smoothing": 1.0},
        {"focal_gamma": -1.0},
        {"mixup": -0.1},
        {"accumulate": 0},
        {"accumulate": 65},
        {"ema_decay": 1.0},
        {"threshold": 0.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_settings_out_of_range_name_the_field(change):
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Settings(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frozen": ("stage1",)}, "not a prefix"),
        ({"frozen": ("stem", "stage1", "stage2", "stage3", "stage4", "head")}, "nothing is left to train"),
        ({"lrs": (1.0,) * 4}, "1, 2, 3 or 6"),
        ({"lrs": (float("nan"),)}, "finite"),
        ({"augment": "upside_down"}, "augment='upside_down'"),
        ({"num_cycles": 0}, "num_cycles=0"),
        ({"schedule": "linear"}, "schedule='linear'"),
        ({"schedule": "one_cycle", "num_cycles": 2}, "num_cycles=2 must be 1"),
        ({"pct_start": 1.0}, "pct_start=1.0"),
        ({"div": 0.5}, "div=0.5"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"patience": 0}, "patience=0"),
        ({"solve": True}, "phase 'a' is solved, so it needs cut='pooled'"),
        ({"solve": True, "cut": "stage4", "augment": "none"}, "phase 'a' is solved, so it needs cut='pooled'"),
        (
            {"solve": True, "cut": "pooled", "augment": "none", "lrs": (1.0,), "lr_from": "find"},
            "phase 'a' is solved, so .* finds no rate",
        ),
    ],
)
def test_phases_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        Phase(**{"name": "a", "lrs": (0.1,), **change})


def test_mixup_and_cutmix_exclude_each_other():
    with pytest.raises(ValueError, match="exclude each other"):
        Settings(mixup=0.4, cutmix=1.0)


def test_preprocess_checks():
    with pytest.raises(ValueError, match="crop_fraction"):
        Preprocess(crop_fraction=0.0)
    with pytest.raises(ValueError, match="std"):
        Preprocess(std=(0.0, 1.0, 1.0))


def test_num_epochs_is_the_geometric_sum():
    assert Phase("a", lrs=(0.1,), num_cycles=3, cycle_epochs=2, cycle_mult=2).num_epochs == 2 + 4 + 8
    assert Phase("a", lrs=(0.1,), cut="pooled", augment="none", solve=True, num_cycles=3).num_epochs == 0
