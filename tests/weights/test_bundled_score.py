"""The bundled weights score what their notice says, and the float32 originals what PyTorch gave."""

import jax
import numpy as np
import pytest
import tiny_imagenet_score as benchmark

from jaxclf.weights.load import load_weights


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    for path in (benchmark.DATA, benchmark.WEIGHTS):
        if not path.is_file():
            pytest.skip(f"needs {path.name} in ../shared, which a plain clone does not have")
    return benchmark.read_images(benchmark.DATA)


@pytest.mark.slow
@pytest.mark.parametrize(("which", "tolerance"), [("shared", 0.001), ("tiny-imagenet", 0.003)])
def test_scores_of_the_tiny_imagenet_weights(images: tuple[np.ndarray, np.ndarray], which: str, tolerance: float):
    with jax.default_matmul_precision("highest"):
        source = str(benchmark.WEIGHTS) if which == "shared" else which
        top1, top5, loss = benchmark.score(load_weights(source, "resnet10t"), *images)
    expected_top1, expected_top5, expected_loss = benchmark.TORCH
    assert abs(top1 - expected_top1) <= tolerance
    assert abs(top5 - expected_top5) <= tolerance
    assert abs(loss - expected_loss) <= 0.01
