"""Reading weights: right values without torch, nothing run, and a ValueError that names the file for all the rest."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from jaxclf.weights.files import read_state_dict
from jaxclf.weights.torch import LEGACY_MAGIC
from jaxclf.weights.torch_pickle import MAX_OPCODES

TORCH_FILES = Path(__file__).parent / "torch_files"
BY_TORCH = sorted(TORCH_FILES.glob("*.pth"))
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def counting(*shape: int, dtype: object = np.float32) -> np.ndarray:
    """0, 1/8, 2/8, ..: the values of every tensor in `torch_files` (see make.py there)."""
    return (np.arange(np.prod(shape)) / 8).reshape(shape).astype(dtype)


# A few lines that write pickles and torch's two containers, so that tests can write what torch never would.


def name(full: str) -> bytes:
    return b"c" + full.replace(" ", "\n").encode() + b"\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def numbers(values: tuple[int, ...]) -> bytes:
    return tuple_of(*map(number, values))


def storage(num_values: int, *, kind: str = "torch FloatStorage", key: str = "0", rest: bytes = b"") -> bytes:
    return tuple_of(text("storage"), name(kind), text(key), text("cpu"), number(num_values), rest) + b"Q"


def tensor(
    shape: tuple[int, ...] = (2,), strides: tuple[int, ...] = (1,), offset: int = 0, stored: bytes | None = None
) -> bytes:
    stored = storage(4) if stored is None else stored
    args = tuple_of(stored, number(offset), numbers(shape), numbers(strides), b"\x89", b"}")
    return name("torch._utils _rebuild_tensor_v2") + args + b"R"


def dict_of(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def whole(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


FOUR = np.arange(4, dtype=np.float32).tobytes()


def zip_bytes(
    payload: bytes, storages: dict[str, bytes] | None = None, *, method: int = zipfile.ZIP_STORED, **extra: bytes
) -> bytes:
    buffer = io.BytesIO()
    records = {"data/" + key: data for key, data in ({"0": FOUR} if storages is None else storages).items()}
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for record, data in {"data.pkl": payload, "byteorder": b"little", **extra, **records}.items():
            archive.writestr(f"archive/{record}", data)
    return buffer.getvalue()


def legacy_bytes(payload: bytes, storages: dict[str, bytes] | None = None, system: object = SYSTEM) -> bytes:
    storages = {"0": FOUR} if storages is None else storages
    header = LEGACY_MAGIC + pickle.dumps(1001, protocol=2) + pickle.dumps(system, protocol=2)
    body = b"".join(struct.pack("<q", len(data) // 4) + data for data in storages.values())
    return header + payload + pickle.dumps(list(storages), protocol=2) + body


CONTAINERS = {"zip": zip_bytes, "legacy": legacy_bytes}


def refusal(path: Path) -> str:
    """The message with which a file is refused, without its path, which must be there; and it must come at once."""
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"^weights file ") as caught:
        read_state_dict(path)
    assert time.perf_counter() - start < 20
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# What torch wrote.


@pytest.mark.parametrize("file", ["zip.pth", "legacy.pth"])
def test_a_state_dict_by_torch(file: str):
    arrays = read_state_dict(TORCH_FILES / file)
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,)}
    shapes |= {f"1.{key}": (4,) for key in ("weight", "bias", "running_mean", "running_var")}
    assert list(arrays) == [*shapes, "1.num_batches_tracked"]
    for key, shape in shapes.items():
        assert arrays[key].dtype == np.float32
        np.testing.assert_array_equal(arrays[key], counting(*shape))
    assert arrays["1.num_batches_tracked"].dtype == np.int64
    assert arrays["1.num_batches_tracked"].shape == ()


@pytest.mark.parametrize("file", ["views_zip.pth", "views_legacy.pth", "views_protocol4.pth"])
def test_every_way_a_tensor_lies_in_its_storage(file: str):
    arrays = read_state_dict(TORCH_FILES / file)
    base = counting(4, 6)
    expected = {
        "whole": base,
        "transposed": base.T,
        "row": base[2],
        "every_other": base[:, 1::2],
        "channels_last": counting(2, 3, 4, 5),
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 3), np.float32),
        "bfloat16": counting(3, 5, dtype=ml_dtypes.bfloat16).T,
        "half": counting(7, dtype=np.float16),
        "double": counting(7, dtype=np.float64),
        "int32": np.arange(5, dtype=np.int32),
        "uint8": np.arange(5, dtype=np.uint8),
        "bool": np.array([True, False, True]),
        "parameter": counting(3),
    }
    assert list(arrays) == list(expected)
    for key, value in expected.items():
        assert (arrays[key].dtype, arrays[key].shape) == (value.dtype, value.shape), key
        np.testing.assert_array_equal(arrays[key], value, err_msg=key)


@pytest.mark.parametrize("file", ["views_zip.pth", "views_legacy.pth"])
def test_arrays_are_read_only_views_of_the_file(file: str):
    arrays = read_state_dict(TORCH_FILES / file)
    assert np.shares_memory(arrays["whole"], arrays["transposed"])
    assert np.shares_memory(arrays["whole"], arrays["row"])
    with pytest.raises(ValueError, match="read-only"):
        arrays["whole"][0, 0] = 1


def test_a_training_checkpoint_with_arguments_and_optimizer():
    arrays = read_state_dict(TORCH_FILES / "training.pth")
    assert list(arrays) == ["weight", "bias"]
    np.testing.assert_array_equal(arrays["weight"], counting(2, 3))


def test_reading_imports_nothing():
    """Neither torch nor anything else that the files name: OrderedDict, Namespace, PosixPath, numpy's scalars."""
    before = set(sys.modules)
    for path in BY_TORCH:
        read_state_dict(path)
    assert set(sys.modules) == before
    assert "torch" not in before


# Wrappers and prefixes.

STATE = dict_of(a=tensor(), b=tensor(offset=2))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema"])
def test_wrappers_are_opened(tmp_path: Path, container: str, wrapper: str):
    payload = whole(dict_of(epoch=number(3), **{wrapper: STATE}, name=text("x")))
    arrays = read_state_dict(write(tmp_path / "w.pth", CONTAINERS[container](payload)))
    assert {key: list(array) for key, array in arrays.items()} == {"a": [0, 1], "b": [2, 3]}


def test_averaged_weights_come_before_plain_ones(tmp_path: Path):
    averaged = dict_of(module=dict_of(**{"module.a": tensor(offset=2)}), decay=number(1))
    payload = whole(dict_of(state_dict=STATE, ema=averaged))
    arrays = read_state_dict(write(tmp_path / "w.pth", zip_bytes(payload)))
    assert {key: list(array) for key, array in arrays.items()} == {"a": [2, 3]}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_that_all_names_share_are_dropped(tmp_path: Path, prefix: str):
    save_file({prefix + "a": counting(2), prefix + "b.c": counting(3)}, tmp_path / "w.safetensors")
    assert sorted(read_state_dict(tmp_path / "w.safetensors")) == ["a", "b.c"]
    save_file({prefix + "a": counting(2), "b.c": counting(3)}, tmp_path / "w.safetensors")
    assert sorted(read_state_dict(tmp_path / "w.safetensors")) == sorted([prefix + "a", "b.c"])


def test_the_counter_of_torchs_averaged_model_is_dropped(tmp_path: Path):
    save_file({"n_averaged": np.int64(7)[None], "module.a": counting(2)}, tmp_path / "w.safetensors")
    assert list(read_state_dict(tmp_path / "w.safetensors")) == ["a"]


def test_python_2_wrote_ordered_dicts_as_pairs(tmp_path: Path):
    pair = b"]" + b"(U\x01a" + tensor() + b"e"
    payload = whole(name("collections OrderedDict") + tuple_of(b"]" + pair + b"a") + b"R")
    assert list(read_state_dict(write(tmp_path / "w.pth", legacy_bytes(payload)))["a"]) == [0, 1]


# safetensors.


def test_safetensors_with_every_dtype(tmp_path: Path):
    codes = "dfe" + "qihb" + "QIHB" + "?"
    tensors = {np.dtype(code).name: counting(3, 5).astype(code) for code in codes}
    tensors |= {"scalar": np.float32([2.5]).reshape(()), "empty": np.zeros((0, 4), np.float32)}
    tensors["bfloat16"] = counting(3, 5, dtype=ml_dtypes.bfloat16)
    path = write(tmp_path / "anything.bin", save(tensors))
    arrays = read_state_dict(path)
    assert sorted(arrays) == sorted(tensors)
    for key, value in tensors.items():
        assert (arrays[key].dtype, arrays[key].shape) == (value.dtype, value.shape), key
        np.testing.assert_array_equal(arrays[key], value, err_msg=key)
        assert not arrays[key].flags.writeable or key == "empty"


def safetensors_bytes(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(7), "cut short"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(9), "damaged"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', bytes(12), "begins at byte 4"),
        (b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}', bytes(8), "makes no sense"),
        (b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}', bytes(8), "makes no sense"),
        (b'{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', bytes(8), "makes no sense"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}', bytes(8), "makes no sense"),
        (b'{"a":{"dtype":"F32","shape":[1%s],"data_offsets":[0,8]}}' % (b"0" * 30), bytes(8), "makes no sense"),
        (b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', bytes(1), "type F4"),
        (b'{"a":7}', b"", "makes no sense"),
        (b'{"a":1,"a":2}', b"", "twice"),
        (b"{}", b"", "no tensors"),
        (b'{"__metadata__":{"x":"y"}}', b"", "no tensors"),
        (b'{"a":', b"", "header cannot be read"),
        (b'{"a":' + b"[" * 100_000, b"", "header cannot be read"),
        (b"{\xff}", b"", "header cannot be read"),
    ],
)
def test_broken_safetensors(tmp_path: Path, header: bytes, data: bytes, said: str):
    path = write(tmp_path / "w.safetensors", safetensors_bytes(header, data))
    assert said in refusal(path)


def test_safetensors_without_alignment(tmp_path: Path):
    data = safetensors_bytes(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} ', counting(2).tobytes())
    for shift in range(4):
        padded = safetensors_bytes(data[8:-8] + b" " * shift, data[-8:])
        np.testing.assert_array_equal(read_state_dict(write(tmp_path / "w", padded))["a"], counting(2))


# Hostile files: nothing may run, and what they ask for is named.


class Touch:
    """Unpickled the usual way, this makes the file `ran`."""

    def __init__(self, function: object, *args: object):
        self.call = function, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def hostile_pickles(ran: str) -> dict[str, tuple[bytes, str]]:
    """Name -> (pickle, what it asks for)."""
    command = f"touch {ran}"
    code = f"open({ran!r}, 'w')"
    tail = text(command) + b"\x85R"
    return {
        "os.system": (pickle.dumps(Touch(os.system, command), 2), ".system"),
        "nested": (pickle.dumps({"state_dict": {"w": [Touch(os.system, command)]}}, 2), ".system"),
        "protocol 0": (pickle.dumps(Touch(os.system, command), 0), ".system"),
        "protocol 5": (pickle.dumps(Touch(os.system, command), 5), ".system"),
        "eval": (pickle.dumps(Touch(eval, code), 4), "builtins.eval"),
        "exec": (pickle.dumps(Touch(exec, code), 2), "__builtin__.exec"),
        "subprocess": (pickle.dumps(Touch(subprocess.check_call, ["touch", ran]), 4), "subprocess.check_call"),
        "Popen": (pickle.dumps(Touch(subprocess.Popen, ["touch", ran]), 4), "subprocess.Popen"),
        "GLOBAL": (whole(name("posix system") + tail), "posix.system"),
        "STACK_GLOBAL": (b"\x80\x04" + text("posix") + text("system") + b"\x93" + tail + b".", "posix.system"),
        "dotted": (
            b"\x80\x04" + text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93.",
            "torch._utils._rebuild_tensor_v2.__globals__",
        ),
        "INST": (b"(" + text(command) + b"iposix\nsystem\n.", "posix.system"),
        "OBJ": (b"(" + name("posix system") + text(command) + b"o.", "posix.system"),
        "NEWOBJ": (whole(name("subprocess Popen") + tuple_of(text(command)) + b"\x81"), "subprocess.Popen"),
        "NEWOBJ_EX": (whole(name("subprocess Popen") + tuple_of(text(command)) + b"}\x92"), "subprocess.Popen"),
        "BUILD": (
            whole(name("collections OrderedDict") + b")R" + dict_of(f=name("posix system")) + b"b"),
            "posix.system",
        ),
        "reconstructor": (whole(name("copy_reg _reconstructor") + b")R"), "copy_reg._reconstructor"),
        "getattr": (whole(name("__builtin__ getattr") + b")R"), "__builtin__.getattr"),
        "import": (whole(name("__builtin__ __import__") + text("this") + b"\x85R"), "__builtin__.__import__"),
        "torch.load": (whole(name("torch.serialization load") + tail), "torch.serialization.load"),
        "hub": (whole(name("torch.hub load_state_dict_from_url") + tail), "torch.hub.load_state_dict_from_url"),
        "own class": (whole(name("__main__ Net") + b")\x81}b"), "__main__.Net"),
        "in a storage": (whole(tensor(stored=storage(4, kind="posix system"))), "posix.system"),
        "as a key": (whole(b"}" + name("posix system") + b"Ns"), "posix.system"),
        "extension": (whole(b"\x82\x01"), "EXT1"),
        "text persistent id": (b"Pstorage\n.", "PERSID"),
    }


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", hostile_pickles(""))
def test_hostile_files_run_nothing(tmp_path: Path, kind: str, container: str):
    ran = tmp_path / "ran"
    payload, asked_for = hostile_pickles(str(ran))[kind]
    message = refusal(write(tmp_path / "w.pth", CONTAINERS[container](payload)))
    assert asked_for in message
    assert not ran.exists()
    assert "this" not in sys.modules


def test_the_hostile_files_would_run(tmp_path: Path):
    ran = tmp_path / "ran"
    pickle.loads(hostile_pickles(str(ran))["os.system"][0])  # noqa: S301
    assert ran.exists()


def test_a_symbol_of_the_list_is_not_callable_as_something_else(tmp_path: Path):
    payload = whole(
        dict_of(state_dict=dict_of(a=tensor()), args=name("argparse Namespace") + b")\x81" + dict_of(x=b"N") + b"b")
    )
    assert list(read_state_dict(write(tmp_path / "w.pth", zip_bytes(payload)))) == ["a"]
    for value in (number(1), text("posix"), b"]", storage(4), tensor()):
        assert "damaged" in refusal(write(tmp_path / "w.pth", zip_bytes(whole(value + b")R"))))


# Sizes that lie, and pickles made to exhaust memory or time.


LYING = {
    "longer than its storage": tensor((5,)),
    "beginning too late": tensor((2,), offset=3),
    "strides too long": tensor((2, 2), (3, 1)),
    "far offset": tensor((1,), (1,), 2**40),
    "huge by repetition": tensor((2**31, 2**31), (0, 0)),
    "repetition": tensor((1000,), (0,)),
    "negative length": tensor((-2,)),
    "negative stride": tensor((2,), (-1,)),
    "negative offset": tensor((2,), (1,), -1),
    "length of 70 bits": tensor((2**70,)),
    "stride of 62 bits": tensor((1,), (2**62,)),
    "strides missing": tensor((2, 2), (1,)),
    "40 dimensions": tensor((1,) * 40, (1,) * 40),
    "storage too short": tensor(stored=storage(5)),
    "storage of a terabyte": tensor(stored=storage(2**40)),
    "storage of -4": tensor(stored=storage(-4)),
    "storage that is not there": tensor(stored=storage(4, key="other")),
    "storage of no known kind": tensor(stored=storage(4, kind="torch Size")),
    "storage within another": tensor(stored=storage(4, rest=tuple_of(text("1"), number(0), number(2)))),
    "number for a storage": tensor(stored=number(4)),
    "two kinds for a storage": dict_of(c=tensor(), d=tensor(stored=storage(8, kind="torch HalfStorage"))),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", LYING)
def test_tensors_beyond_their_storage(tmp_path: Path, container: str, kind: str):
    path = write(tmp_path / "w.pth", CONTAINERS[container](whole(dict_of(a=tensor(), b=LYING[kind]))))
    assert "damaged" in (message := refusal(path)) or "storage" in message


DEEP = 100_000
EXHAUSTING = {
    "deep lists": b"]" * DEEP + b"a" * (DEEP - 1),
    "deep tuple as a key": b"}" + b")" + b"\x85" * DEEP + b"Ns",
    "doubling tuple as a key": b"}" + b")" + b"2\x86" * 90 + b"Ns",
    "large memo index": b"}r\xff\xff\xff\xff",
    "large text": b"\x8d" + struct.pack("<Q", 2**62),
    "large bytes": b"B" + struct.pack("<I", 2**31 - 1),
    "large bytearray": b"\x96" + struct.pack("<Q", 2**50),
    "long number as a key": b"}\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20 + b"Ns",
    "long decimal": b"L" + b"9" * 2**20 + b"L\n",
    "number that is none": b"I" + b"x" * 2**20 + b"\n",
    "endless": b"N0" * (MAX_OPCODES // 2 + 1),
    "marks": b"(" * DEEP,
    "one list again and again": b"]("
    + (text("k") + b"N\x86") * 10_000
    + b"eq\x00"
    + (name("collections OrderedDict") + b"h\x00\x85R0") * 50_000,
    "colliding keys": b"}(" + b"".join(number(i * (2**61 - 1)) + b"N" for i in range(1, 20_000)) + b"u",
    "popping nothing": b"0000",
    "no memo": b"h\x05",
    "no mark": b"t",
    "odd items": b"}(Nu",
    "unhashable key": b"}]Ns",
    "unknown instruction": b"\xfe",
    "nothing": b"",
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("kind", EXHAUSTING)
def test_exhausting_pickles(tmp_path: Path, container: str, kind: str):
    refusal(write(tmp_path / "w.pth", CONTAINERS[container](whole(EXHAUSTING[kind]))))


def test_endless_pickles_are_refused_before_their_end(tmp_path: Path):
    path = write(tmp_path / "w.pth", zip_bytes(whole(EXHAUSTING["endless"])))
    assert f"more than {MAX_OPCODES} instructions" in refusal(path)


def test_directories_with_64_bit_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in files of more than 4 GB: zipfile is told that 10 bytes is the most that 32 bits can hold."""
    plain = zip_bytes(whole(STATE))
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    large = zip_bytes(whole(STATE))
    assert b"PK\x06\x06" in large
    assert b"PK\x06\x06" not in plain
    arrays = read_state_dict(write(tmp_path / "w.pth", large))
    assert {key: list(array) for key, array in arrays.items()} == {"a": [0, 1], "b": [2, 3]}


def test_records_past_the_end_are_refused(tmp_path: Path):
    data = bytearray(zip_bytes(whole(STATE)))
    entry = data.rindex(b"archive/data/0") - 46  # in the directory
    struct.pack_into("<2I", data, entry + 20, 500, 500)
    assert "past the end of the file" in refusal(write(tmp_path / "w.pth", bytes(data)))


def test_a_directory_of_millions_of_records_is_not_read(tmp_path: Path):
    """The file is sparse: its end promises a directory of 70 MB, which would be a million records."""
    size = 70 * 2**20
    with open(tmp_path / "w.pth", "wb") as file:
        file.write(b"PK\3\4")
        file.seek(size + 100)
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2**16 - 2, 2**16 - 2, size, 100, 0))
    assert f"its directory has {size} bytes" in refusal(tmp_path / "w.pth")


def test_compressed_records_are_refused(tmp_path: Path):
    bomb = zip_bytes(whole(STATE), {"0": bytes(10**7)}, method=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(write(tmp_path / "w.pth", bomb))


def test_overlapping_records_are_refused(tmp_path: Path):
    """Thousands of directory entries for the same bytes, each to be checked on its own."""
    data = bytes(10**6)
    entry = b"archive/data.pkl"
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(entry), 0)
    directory = b""
    for i in range(2000):
        other = entry if i == 0 else f"archive/data/{i:04d}".encode()
        fields = (b"PK\1\2", 20, 20, 0, 0, 0, 0, zlib.crc32(data), len(data), len(data), len(other), 0, 0, 0, 0, 0, 0)
        directory += struct.pack("<4s6H3I5H2I", *fields) + other
    start = len(local) + len(entry) + len(data)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2000, 2000, len(directory), start, 0)
    assert "longer than the file" in refusal(write(tmp_path / "w.pth", local + entry + data + directory + end))


# Everything else that is not a whole weights file.


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"abc", "cut short"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"\n  <html>" + b" " * 100, "web page"),
        (b"<script>{" + b" " * 100, "neither"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (tar_bytes(), "tar archive"),
        (pickle.dumps({"a": np.zeros(3)}, 4), "plain pickle"),
        (zip_bytes(whole(STATE)).replace(b"data.pkl", b"data.pkx"), "none of PyTorch's"),
        (zip_bytes(whole(STATE), **{"constants.pkl": b""}), "TorchScript"),
        (zip_bytes(whole(STATE)).replace(b"little", b"bigbig"), "checksum"),
        (zip_bytes(whole(STATE), byteorder=b"big"), "big-endian"),
        (legacy_bytes(whole(STATE), system={**SYSTEM, "little_endian": False}), "big-endian"),
        (legacy_bytes(whole(STATE), system=[]), "big-endian"),
        (legacy_bytes(whole(STATE)).replace(pickle.dumps(1001, 2), pickle.dumps(1002, 2), 1), "unknown version"),
        (zip_bytes(whole(STATE)).replace(FOUR, FOUR[::-1]), "checksum"),
        (zip_bytes(whole(b"}")), "no tensors"),
        (zip_bytes(whole(b"]")), "holds a list"),
        (zip_bytes(whole(dict_of(epoch=number(3)))), "looked for"),
        (zip_bytes(whole(dict_of(a=tensor(), epoch=number(3)))), "'epoch' is of type int"),
        (zip_bytes(whole(tuple_of(text("module"), name("torch Size")) + b"Q")), "whole pickled module"),
        (zip_bytes(whole(STATE), {}), "no record for storage"),
        (legacy_bytes(whole(STATE), {}), "no bytes for storage"),
        (zip_bytes(whole(STATE), {"0": FOUR[:8]}), "8 bytes instead of 16"),
        (legacy_bytes(whole(STATE), {"0": FOUR[:8]}), "holds 2 values, not 4"),
        (legacy_bytes(whole(STATE))[:-1], "cut short"),
        (legacy_bytes(whole(STATE))[: -len(FOUR) - 1], "storage '0' is missing"),
        (zip_bytes(whole(STATE))[:-1], "cut short"),
    ],
)
def test_files_that_are_not_weights(tmp_path: Path, data: bytes, said: str):
    assert said in refusal(write(tmp_path / "w.pth", data))


def test_paths_that_are_not_files(tmp_path: Path):
    assert "does not exist" in refusal(tmp_path / "missing.pth")
    assert "folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "regular file" in refusal(tmp_path / "pipe")


def valid_or_refused(path: Path) -> None:
    """Either a ValueError or arrays that can be read to the last byte."""
    try:
        arrays = read_state_dict(path)
    except ValueError as error:
        if str(path) not in str(error):
            raise
        return
    for array in arrays.values():
        assert np.array(array, copy=True).shape == array.shape


@pytest.mark.parametrize("source", BY_TORCH, ids=lambda path: path.name)
def test_truncated_files_are_refused(tmp_path: Path, source: Path):
    data = source.read_bytes()
    for length in (*range(0, len(data), 61), len(data) - 1):
        refusal(write(tmp_path / "w.pth", data[:length]))


SMALL_SAFETENSORS = save({"a": counting(3, 2), "b": counting(4, dtype=np.float16)})


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_are_refused_or_harmless(tmp_path: Path, data: st.DataObject):
    sources = [path.read_bytes() for path in BY_TORCH] + [
        SMALL_SAFETENSORS,
        zip_bytes(whole(STATE)),
        legacy_bytes(whole(STATE)),
    ]
    damaged = bytearray(data.draw(st.sampled_from(sources)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    valid_or_refused(write(tmp_path / "w.pth", bytes(damaged)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    payload=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    b"}",
                    b"]",
                    b")",
                    b"(",
                    b"t",
                    b"u",
                    b"s",
                    b"a",
                    b"e",
                    b"R",
                    b"Q",
                    b"b",
                    b"0",
                    b"2",
                    b"q\x00",
                    b"h\x00",
                    b"\x81",
                    b"\x93",
                    b"\x85",
                    b"\x86",
                    b"\x87",
                    b"N",
                    b"K\x02",
                    text("storage"),
                    text("a"),
                    tensor(),
                    storage(4),
                    STATE,
                    name("torch FloatStorage"),
                    name("collections OrderedDict"),
                    name("torch._utils _rebuild_tensor_v2"),
                ]
            ),
            st.binary(max_size=4),
        ),
        max_size=25,
    ).map(b"".join)
)
def test_random_pickles_are_refused_or_harmless(tmp_path: Path, payload: bytes):
    for container in CONTAINERS.values():
        valid_or_refused(write(tmp_path / "w.pth", container(whole(payload))))
