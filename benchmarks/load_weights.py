"""How long does it take, and how much memory, to load and convert a weights file of about 100 MB?

Writes random float32 weights as .safetensors, as .pth (PyTorch's zip format) and as legacy .pth, without PyTorch. Every
turn is a process of its own, timed from the call until all variables are there as NumPy arrays; imports come before,
and the file is in the page cache. Memory is the process's highest resident size during the call less its size before,
which counts the mapped file too. The target is under 1 s and under 2.5 times the file's size.
"""

import dataclasses
import functools
import io
import json
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from harness import Run
from safetensors.numpy import save_file

from jaxclf.models import create_classifier, init_variables
from jaxclf.weights.state_dict import to_state_dict
from jaxclf.weights.torch import LEGACY_MAGIC

TURNS = 7
WARM_UP = 0
peer = None
SMOKE = {"file": "zip.pth", "arch": "resnet10t"}


@dataclasses.dataclass(frozen=True)
class Case:
    file: str = "w.safetensors"
    call: str = "load_weights"
    arch: str = "resnet50"  # 102 MB


def cases() -> list[Case]:
    return [Case(file, call) for file in WRITERS for call in ("read_state_dict + convert", "load_weights")]


def ours(case: Case) -> Run:
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / case.file
    WRITERS[case.file](_arrays(case.arch), path)
    size = path.stat().st_size
    command = [sys.executable, "-c", CHILD, case.call, str(path), case.arch]

    def turn(number: int) -> dict[str, float]:
        seconds, memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return {"seconds": seconds, "memory MB": memory / 1e6, "memory over the file": memory / size}

    return Run(f"{case.call} of {case.file}", turn, notes={"file MB": size / 1e6}, close=folder.cleanup)


@functools.lru_cache(1)
def _arrays(arch: str) -> dict[str, np.ndarray]:
    variables = init_variables(create_classifier(arch, 1000), jax.random.key(0), image_size=64)
    return to_state_dict(jax.device_get(variables), arch)


CHILD = """
import json, sys, time
import jax
from jaxclf.weights.load import load_weights
from jaxclf.weights.files import read_state_dict
from jaxclf.weights.state_dict import convert_state_dict
what, path, arch = sys.argv[1:]
load_weights("tiny-imagenet", "resnet10t")  # everything that is imported late is now there

def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))

with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
before, start = kilobytes("VmRSS"), time.perf_counter()
if what == "load_weights":
    variables = load_weights(path, arch).variables
else:
    variables = convert_state_dict(read_state_dict(path), arch)
seconds = time.perf_counter() - start
assert len(jax.tree.leaves(variables)) > 50
print(json.dumps([seconds, (kilobytes("VmHWM") - before) * 1024]))
"""


def torch_pickle(arrays: dict[str, np.ndarray]) -> bytes:
    """The pickle that `torch.save` writes for a dictionary of contiguous tensors."""

    def name(module: str, attribute: str) -> bytes:
        return f"c{module}\n{attribute}\n".encode()

    def value(of: object) -> bytes:
        return pickle.dumps(of, protocol=2)[2:-1]

    entries = b""
    for key, (text, array) in enumerate(arrays.items()):
        kind = name("torch", "FloatStorage" if array.dtype == np.float32 else "LongStorage")
        storage = b"(" + value("storage") + kind + value(str(key)) + value("cpu") + value(array.size) + b"tQ"
        strides = tuple(stride // array.itemsize for stride in array.strides)
        args = b"(" + storage + value(0) + value(array.shape) + value(strides) + value(False) + value({}) + b"t"
        entries += value(text) + name("torch._utils", "_rebuild_tensor_v2") + args + b"R"
    return b"\x80\x02}(" + entries + b"u."


def write_zip(arrays: dict[str, np.ndarray], path: Path) -> None:
    """PyTorch's zip format, with its alignment of every storage to 64 bytes."""
    records = {f"data/{key}": array.tobytes() for key, array in enumerate(arrays.values())}
    with zipfile.ZipFile(path, "w") as archive:
        for record, data in {"data.pkl": torch_pickle(arrays), "byteorder": b"little", **records}.items():
            info = zipfile.ZipInfo(f"archive/{record}")
            padding = -(archive.start_dir + 30 + len(info.filename) + 4) % 64
            info.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
            archive.writestr(info, data)


def write_legacy(arrays: dict[str, np.ndarray], path: Path) -> None:
    """PyTorch's format before 1.6."""
    buffer = io.BytesIO()
    buffer.write(LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2) + torch_pickle(arrays))
    buffer.write(pickle.dumps([str(key) for key in range(len(arrays))], 2))
    for array in arrays.values():
        buffer.write(struct.pack("<q", array.size) + array.tobytes())
    path.write_bytes(buffer.getvalue())


WRITERS: dict[str, Callable] = {"w.safetensors": save_file, "zip.pth": write_zip, "legacy.pth": write_legacy}
