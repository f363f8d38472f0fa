"""`jaxclf cost`: what it prints, and how it fails."""

import functools
import json

import jax.numpy as jnp
import pytest
from commands import fails, run

from jaxclf.config import MODULES
from jaxclf.models import create_classifier
from jaxclf.training import cost

CACHED = functools.cache(cost.freezing_costs)
OPTIONS = ["--head", "concat", "--num-classes", "7", "--precision", "bfloat16", "--optimizer", "adamw"]
SMALL = ["--arch", "resnet10t", "--image-size", "32", "--batch-size", "4"]


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch):
    monkeypatch.setattr(cost, "freezing_costs", CACHED)


def test_the_command_prints_a_row_for_every_freezing(capsys):
    assert run("cost", *SMALL, *OPTIONS) == 0
    text = capsys.readouterr().out
    names = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert names == ["nothing", *(f"to {module}" for module in MODULES[:5]), "cached"]
    assert "resnet10t, 32 px, batch 4, bfloat16, adamw, concat head" in text
    assert "which is not assumed here" in text and "\x1b[" not in text


def test_the_command_prints_json(capsys):
    assert run("cost", *SMALL, *OPTIONS, "--format", "json") == 0
    content = json.loads(capsys.readouterr().out)
    model = create_classifier("resnet10t", 7, head="concat", dtype=jnp.bfloat16)
    expected = cost.step_cost(model, image_size=32, batch_size=4, frozen=("stem",), optimizer="adamw")
    row = content["steps"][1]
    relative = row.pop("relative_flops")
    assert row == json.loads(json.dumps(expected._asdict()))
    assert 0.5 < relative < 1 and content["steps"][0]["relative_flops"] == 1
    assert content["inference_flops"] == cost.forward_flops(model, image_size=32)
    assert {name: content[name] for name in ("arch", "head", "num_classes", "precision", "batch_size")} == {
        "arch": "resnet10t",
        "head": "concat",
        "num_classes": 7,
        "precision": "bfloat16",
        "batch_size": 4,
    }


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        (["--arch", "resnet19"], "resnet19"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--image-size", "7"], "--image-size 7"),
        (["--num-classes", "0"], "--num-classes 0"),
    ],
)
def test_values_that_make_no_sense_are_wrong_usage(capsys, arguments, mentions):
    fails(capsys, "cost", *SMALL, *arguments, mentions=[mentions], code=2)


@pytest.mark.parametrize("arguments", [["--head", "square"], ["--precision", "float64"], ["photos"]], ids=" ".join)
def test_wrong_usage_is_exit_code_two(arguments):
    assert run("cost", *arguments) == 2


def test_help_explains_itself(capsys):
    assert run("cost", "--help") == 0
    text = capsys.readouterr().out
    assert "Example: jaxclf cost" in text and "default: 224" in text
