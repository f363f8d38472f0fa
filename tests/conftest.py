"""Shared by all tests: how they compile and draw, small data, and a network small enough to compile in no time."""

import contextlib
import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest
from PIL import Image

from jaxclf._jax import enable_compilation_cache

# Keeps what was compiled between runs, in the user's own cache directory; an existing setting is respected. Small
# programs too: each file begins with none (see `_compiled`).
enable_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

#: XLA without its optimisations: train steps of small networks compile in a fifth of the time. A step of the `tiny` one
#: takes 8 ms for 6, but of resnet10t 400 for 50, which walks 5 million parameters unoptimised: take a thin network. XLA
#: ends the process at a flag that it does not know, as jaxlib 0.12 does at the second: the first one it takes is used.
QUICK_COMPILING = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
)

# The same examples each time, or new ones: then `print_blob` says how to have a failing one again.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("fresh", deadline=None, print_blob=True)

# Need torch: they made the files beside them once.
collect_ignore = ["weights/torch_files/make.py", "training/lr_curves/make.py", "training/torch_steps/make.py"]

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
SUPPORT = REPOSITORY / "tests" / "support"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="property tests draw new examples, and programs are compiled as users have them, which takes longer",
    )


def pytest_configure(config: pytest.Config) -> None:
    thorough = config.getoption("--thorough")
    hypothesis.settings.load_profile("fresh" if thorough else "same")
    # Each program read from the cache would be a line on stderr, which fills a pipe that nobody reads yet.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # XLA reads its flags when JAX first computes something. The processes that share the tests inherit them.
    flags = os.environ.get("XLA_FLAGS", "")
    if not thorough and QUICK_COMPILING[-1] not in flags:
        wanted = (f"{quick} {flags}".strip() for quick in QUICK_COMPILING)
        os.environ["XLA_FLAGS"] = next(filter(_takes, wanted), flags)


def _takes(flags: str) -> bool:
    """Whether XLA knows these flags."""
    command = [sys.executable, "-c", "import jax; jax.numpy.ones(1)"]
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The rooms whose files take longest come first: at the end no process is left alone with a long one."""
    places = {REPOSITORY / "tests" / room: place for place, room in enumerate(("run", "training", "cli", "inference"))}
    items.sort(key=lambda item: places.get(item.path.parent, len(places)))


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> Iterator[None]:
    """What a file compiled is freed after it: kept until the end, it would be several GB."""
    yield
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc keeps what was freed, unless asked
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def shared_dogscats() -> Path:
    """Real photos, where this checkout has them."""
    folder = SHARED / "data" / "dogscats"
    if not folder.is_dir():
        pytest.skip("needs the real photos in ../shared/data/dogscats, which a plain clone does not have")
    return folder


@pytest.fixture
def shared_photos() -> Path:
    """A hundred photos of many sizes, where this checkout has them."""
    folder = SHARED / "data" / "photos"
    if not folder.is_dir():
        pytest.skip("needs the real photos in ../shared/data/photos, which a plain clone does not have")
    return folder


def write_class_folders(root: Path, counts: dict[str, int], *, size: int = 40, seed: int = 0) -> Path:
    """Class folders of noisy pictures, each class with its own colour: learnable in a few steps."""
    generator = np.random.default_rng(seed)
    for number, (name, count) in enumerate(counts.items()):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        colour = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200)][number % 3])
        for index in range(count):
            noise = generator.normal(0, 40, (size, size + 8, 3))
            picture = np.clip(colour + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / f"{index:03d}.png")
    return root


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list:
    """A list that receives every picture a loader decodes from now on."""
    from jaxclf.data import loader

    calls: list = []
    for name in ("presized_pixels", "evaluation_pixels"):
        original = getattr(loader, name)

        def spy(image, preprocess, original=original):
            calls.append(image)
            return original(image, preprocess)

        spy.__name__ = name
        monkeypatch.setattr(loader, name, spy)
    return calls


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA with a train and a valid folder of two classes. Read only."""
    root = tmp_path_factory.mktemp("photos")
    write_class_folders(root / "train", {"red": 14, "green": 12})
    write_class_folders(root / "valid", {"red": 5, "green": 6}, seed=1)
    return root


@pytest.fixture(autouse=True)
def _no_surprises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide terminal, no colours: what a command prints does not depend on who runs the tests."""
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("NO_COLOR", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny():
    """A classifier with three classes and its variables, small enough to compile in no time."""
    import jax

    from jaxclf.models import ResNetConfig, create_classifier, init_variables

    config = ResNetConfig("tiny", "basic", (1, 1, 1, 1), stem_width=8, stage_widths=(8, 8, 16, 16))
    model = create_classifier(config, 3)
    return model, init_variables(model, jax.random.key(0), image_size=32)


@pytest.fixture(scope="module")
def small10t() -> Iterator[str]:
    """The name of an architecture for whole runs: resnet10t, but thin, so that compiling and training take no time."""
    from networks import SMALL

    from jaxclf.models import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._CONFIGS, SMALL.arch, SMALL)
        yield SMALL.arch


@pytest.fixture(scope="module")
def weights_file(small10t: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of that architecture as another program's checkpoint, with a head for seven classes."""
    from safetensors.numpy import save_file

    from jaxclf.models import create_classifier, init_variables
    from jaxclf.weights import to_state_dict

    variables = init_variables(create_classifier(small10t, 7), jax.random.key(9), image_size=32)
    path = tmp_path_factory.mktemp("weights") / "seven.safetensors"
    save_file(to_state_dict(jax.device_get(variables), small10t), path)
    return path
