"""Three train steps beside PyTorch's: same parameters, batches and rates, same losses, gradients and statistics.

The reference (`torch_steps/steps.npz`, made by `make.py` beside it) is torchvision's ResNet with torch's optimizers, in
float64. The second batch has 11 examples; here it is filled up to 16 with noise, so the mask is part of the test.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxclf import schedules
from jaxclf.config import Preprocess, frozen_prefix
from jaxclf.data.batches import Batch
from jaxclf.models import ResNetConfig, create_classifier
from jaxclf.models.trees import combine, partition
from jaxclf.training.optimizer import make_optimizer
from jaxclf.training.state import create_train_state
from jaxclf.training.step import make_train_step
from jaxclf.weights import convert_state_dict, to_state_dict

FILE = Path(__file__).parent / "torch_steps" / "steps.npz"
CONFIGS = {
    "basic": ResNetConfig("small", "basic", (1, 1, 1, 1), stem_width=4, stage_widths=(4, 4, 8, 8)),
    "bottleneck": ResNetConfig("small", "bottleneck", (1, 1, 1, 1), stem_width=4, stage_widths=(4, 4, 4, 8)),
}
RATES = (0.02, 0.05, 0.1)
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "lrs": RATES},
    "adamw": {"optimizer": "adamw", "lrs": tuple(rate / 10 for rate in RATES)},
    "frozen": {"optimizer": "sgd", "lrs": RATES},
}
BATCH_SIZE = 16


@cache
def reference() -> dict[str, np.ndarray]:
    with np.load(FILE) as file:
        return dict(file)


def named(vector: np.ndarray, names: list[tuple[str, list[int]]]) -> dict[str, np.ndarray]:
    """A vector of the reference as torch's tensors."""
    ends = np.cumsum([int(np.prod(shape)) for _, shape in names])
    assert ends[-1] == len(vector)
    pieces = np.split(vector, ends[:-1])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(names, pieces, strict=True)}


def batch_of(number: int) -> Batch:
    """Batch `number` of the reference, filled up to BATCH_SIZE with examples that do not count."""
    images, labels = reference()[f"images{number}"], reference()[f"labels{number}"]
    missing = BATCH_SIZE - len(images)
    filler = np.random.default_rng(number).integers(0, 256, (missing, *images.shape[1:])).astype(np.uint8)
    position = np.arange(BATCH_SIZE)
    return Batch(
        np.concatenate([images, filler]),
        np.concatenate([labels, np.ones(missing, np.int32)]),
        (position < len(images)).astype(np.float32),
        np.where(position < len(images), position, -1).astype(np.int32),
    )


def recording(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer, which also keeps the last gradients it was given: its state is (its own, gradients)."""

    def update(gradients: Any, state: Any, params: Any = None) -> Any:
        updates, inner = optimizer.update(gradients, state[0], params)
        return updates, (inner, gradients)

    return optax.GradientTransformation(
        lambda params: (optimizer.init(params), jax.tree.map(jnp.zeros_like, params)), update
    )


def assert_close(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], tolerance: float, what: str) -> None:
    """Every tensor within `tolerance` of its own largest value."""
    for name, expected in theirs.items():
        error, largest = np.abs(ours[name] - expected).max(), np.abs(expected).max()
        assert error <= tolerance * largest, f"{what} of {name}: {error / largest:.1e} of the largest, {largest:.3g}"


@pytest.mark.parametrize(("block", "rule"), [("bottleneck", "sgd"), ("basic", "adamw"), ("basic", "frozen")])
def test_three_steps_are_those_of_torch(block, rule):
    """Rates fall along a cosine, one per layer group; "frozen" is sgd frozen through stage 2, with that BatchNorm."""
    config, names = CONFIGS[block], json.loads(str(reference()[f"{block}/names"]))
    start = {what: named(reference()[f"{block}/{what}"], names[what]) for what in ("params", "statistics")}
    variables = convert_state_dict({**start["params"], **start["statistics"]}, config)
    frozen = frozen_prefix("stage2") if rule == "frozen" else ()
    optimizer = recording(
        make_optimizer(variables["params"], schedules.cosine(10), frozen=frozen, weight_decay=0.1, **OPTIMIZERS[rule])
    )
    model = create_classifier(config, len(start["params"]["fc.bias"]))
    step = make_train_step(model, optimizer, preprocess=Preprocess(image_size=32), frozen=frozen)
    state = create_train_state(variables, optimizer, frozen=frozen)
    _, fixed = partition(variables["params"], frozen)
    still = jax.tree.map(np.zeros_like, fixed)  # no gradient

    theirs = {what: reference()[f"{block}/{rule}/{what}"] for what in ("losses", "gradients", "statistics", "params")}
    for number in range(3):
        state, metrics = step(state, batch_of(number), jax.random.key(0))
        np.testing.assert_allclose(metrics["loss"], theirs["losses"][number], rtol=1e-5, err_msg=f"loss {number}")
        gradients = {"params": combine(still, state.opt_state[1]), "batch_stats": state.batch_stats}
        ours = to_state_dict(gradients, config)
        assert_close(ours, named(theirs["gradients"][number], names["params"]), 1e-4, f"gradient {number}")
        assert_close(ours, named(theirs["statistics"][number], names["statistics"]), 1e-5, f"statistics {number}")
    assert_close(
        to_state_dict(state.variables, config), named(theirs["params"], names["params"]), 2e-5, "parameters at the end"
    )
