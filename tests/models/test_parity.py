"""Parity with torchvision and timm: the same stand-in weights and images give the same activations, stage by stage.

The references (in `parity/` beside this file, the others in `../shared/parity`) hold torch's outputs for random,
non-square images and for weights that are rebuilt from their names, so a swapped axis, a wrong stride, padding or
order of operations shows, at the stage where it is.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import SHARED

from jaxclf.config import CUTS
from jaxclf.models import Variables, create_classifier, init_variables, list_archs
from jaxclf.weights import convert_state_dict, to_state_dict

HERE = Path(__file__).parent / "parity"
PARITY = SHARED / "parity"

# Relative to the largest value of the reference. Worst of all 19 on both Python stacks, eager and jitted: 1.8e-6.
TOLERANCE = 2e-5

# A small and a large member of each family (plain, T, D); of the grouped, the wide and the SE nets, whose large members
# take 5 to 10 s each, the smaller one. Run op by op, which on CPU takes less time than compiling. The rest are slow.
DEFAULT = (
    *("resnet18", "resnet50", "resnet101"),
    *("resnext50_32x4d", "wide_resnet50_2", "seresnet50"),
    *("resnet10t", "resnet26t"),
    *("resnet18d", "resnet101d"),
)

_spec = importlib.util.spec_from_file_location("reference_weights", HERE / "reference_weights.py")
assert _spec is not None
assert _spec.loader is not None
reference_weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference_weights)


def load_reference(arch: str) -> dict[str, np.ndarray]:
    folder = next((folder for folder in (HERE, PARITY) if (folder / f"{arch}.npz").exists()), None)
    if folder is None:
        pytest.skip(f"no reference {arch}.npz in {HERE} or {PARITY}")
    with np.load(folder / f"{arch}.npz") as file:
        return dict(file)


def activations(arch: str, variables: Variables, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The activation of every stage, each computed from the one before, then the logits."""
    model = create_classifier(arch, 1000)
    x: Any = images
    for start, stop in zip((None, *CUTS), CUTS[:-1], strict=False):
        x = model.apply(variables, x, start=start, stop=stop)
        yield stop, np.asarray(x)
    yield "logits", np.asarray(model.apply(variables, x, start="stage4"))


def relative_difference(actual: np.ndarray, reference: np.ndarray) -> float:
    assert actual.shape == reference.shape
    return float(np.abs(actual - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize(
    "arch", [arch if arch in DEFAULT else pytest.param(arch, marks=pytest.mark.slow) for arch in list_archs()]
)
def test_every_stage_and_the_logits_agree_with_torch(arch: str) -> None:
    reference = load_reference(arch)
    shapes = json.loads(str(reference["manifest"]))
    state_dict = {name: reference_weights.reference_tensor(name, tuple(shape)) for name, shape in shapes.items()}

    variables = convert_state_dict(state_dict, arch)
    differences = {}
    for name, value in activations(arch, variables, reference_weights.reference_images()):
        if name == "logits":
            differences[name] = relative_difference(value, reference[name])
        else:
            differences[name] = relative_difference(value[..., :8], reference[f"{name}_head"])
            differences[f"{name} mean"] = relative_difference(value.mean((1, 2)), reference[f"{name}_mean"])
    assert max(differences.values()) < TOLERANCE, differences

    # The converted tree is the model's own, no entry more; and the way back gives the checkpoint, in its order.
    wanted = jax.eval_shape(lambda key: init_variables(create_classifier(arch, 1000), key), jax.random.key(0))
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, wanted)
    written = to_state_dict(variables, arch)
    assert list(written) == list(state_dict)
    for name, array in written.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(array, state_dict[name], err_msg=name)


def test_the_table_of_references_is_complete() -> None:
    assert set(DEFAULT) <= set(list_archs())
    assert {path.stem for path in HERE.glob("*.npz")} == set(DEFAULT)
