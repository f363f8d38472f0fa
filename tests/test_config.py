import json

import pytest

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
        ({"clip_norm": "no"}, "clip_norm='no' has the wrong type"),
        ({"head": "conv"}, "head='conv' is not one of"),
        ({"phases": [{"name": "a"}]}, "lrs"),
        ({"phases": [{"name": "a", "lrs": [1, "x"]}]}, r"phases\[0\].lrs\[1\]='x'"),
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


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_bad_json(text):
    with pytest.raises(ValueError, match="JSON"):
        from_json(Recipe, text)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 4},
        {"batch_size": 0},
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
