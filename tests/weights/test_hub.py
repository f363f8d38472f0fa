"""The hub: the real code in a process of its own, against a small server on loopback that behaves as the hub does.

huggingface_hub reads its environment when it is imported, so a worker process is started with HF_ENDPOINT pointing
here; each test asks it to load a repository of its own and looks at the answer and at what the server was asked.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from jaxclf.weights.catalogue import bundled_path
from jaxclf.weights.files import read_state_dict
from jaxclf.weights.hub import is_hub_id

WORKER = """
import json, sys
from jaxclf.weights.load import load_weights
for line in sys.stdin:
    source, arch = json.loads(line)
    try:
        variables, config = load_weights(source, arch)
        kernel = variables["params"]["body"]["stem"]["conv1"]["kernel"]
        answer = {"error": None, "origin": config.origin, "licence": config.licence, "sha256": config.sha256,
                  "classes": list(config.classes), "mean": list(config.preprocess.mean),
                  "std": list(config.preprocess.std), "size": config.preprocess.image_size,
                  "interpolation": config.preprocess.interpolation, "crop": config.preprocess.crop_fraction,
                  "dtype": str(kernel.dtype)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print("ANSWER", json.dumps(answer), flush=True)
"""
WEIGHTS_FILE = bundled_path("tiny-imagenet")
WEIGHTS = WEIGHTS_FILE.read_bytes()
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
COMMIT = "1234567890abcdef1234567890abcdef12345678"
TOKEN = "hf_a_token_of_the_tests"
TIMM_CONFIG = {
    "architecture": "resnet10t",
    "num_classes": 200,
    "num_features": 512,
    "label_names": [f"label {i}" for i in range(200)],
    "pretrained_cfg": {
        "tag": "c3_in1k",
        "input_size": [3, 176, 176],
        "test_input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "test_crop_pct": 0.95,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
        "license": "apache-2.0",
    },
}


@dataclass
class Repository:
    """What the server holds under one name, and how it misbehaves."""

    files: dict[str, bytes]
    needs_token: bool = False
    gated: bool = False
    status: int | None = None
    stated_sha256: str | None = None
    cuts: list[int] = field(default_factory=list)  # send only so many bytes, then close; one entry per request


def repository(**changes: Any) -> Repository:
    return Repository({"model.safetensors": WEIGHTS, "config.json": json.dumps(TIMM_CONFIG).encode()}, **changes)


class Hub:
    """Two servers: the hub, and the storage it redirects large files to."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str, dict[str, str]]] = []
        self.storage = self._serve("storage", 0)
        self.front = self._serve("hub", 0)
        self.port = self.front.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def _serve(self, which: str, port: int) -> ThreadingHTTPServer:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                hub.answer(self, which)

            def do_GET(self) -> None:
                hub.answer(self, which)

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def answer(self, request: BaseHTTPRequestHandler, which: str) -> None:
        headers = {key.lower(): value for key, value in request.headers.items()}
        self.requests.append((which, request.command, request.path, headers))
        owner, name, *rest = request.path.strip("/").split("/")
        found = self.repositories.get(f"{owner}/{name}")
        if found is None:
            self.reply(request, 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif which == "storage":
            self.send_file(request, found, rest[-1], headers.get("range"))
        elif found.status is not None:
            self.reply(request, found.status, {})
        elif found.gated:
            self.reply(request, 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif found.needs_token and headers.get("authorization") != f"Bearer {TOKEN}":
            self.reply(request, 401, {"X-Error-Code": "RepoNotFound"})
        elif rest[1] not in ("main", COMMIT):
            self.reply(request, 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif rest[2] not in found.files:
            self.reply(request, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self.resolve(request, found, f"{owner}/{name}", rest[2])

    def resolve(self, request: BaseHTTPRequestHandler, found: Repository, repo: str, file: str) -> None:
        """Small files lie in git and are answered at once; large ones are a redirect that states their SHA-256."""
        data = found.files[file]
        if file == "config.json":
            etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            self.reply(request, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, data)
            return
        stated = found.stated_sha256 or hashlib.sha256(data).hexdigest()
        location = f"http://127.0.0.1:{self.storage.server_address[1]}/{repo}/blobs/{file}"
        linked = {"X-Linked-Etag": f'"{stated}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": COMMIT}
        self.reply(request, 302, {"Location": location, "ETag": '"of-the-pointer"', **linked})

    def send_file(self, request: BaseHTTPRequestHandler, found: Repository, file: str, wanted: str | None) -> None:
        data = found.files[file]
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
        cut = found.cuts.pop(0) if found.cuts else None
        self.reply(request, 206 if wanted else 200, {**headers, "Accept-Ranges": "bytes"}, data[start:], cut)

    def reply(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes = b"",
        cut: int | None = None,
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body if cut is None else body[:cut])
        request.close_connection = True

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens at the endpoint."""
        self.front.shutdown()
        self.front.server_close()
        try:
            yield
        finally:
            self.front = self._serve("hub", self.port)

    def asked(self, repo: str, command: str = "GET") -> list[tuple[str, str, dict[str, str]]]:
        """(which server, file, headers) of the requests for a repository."""
        return [
            (which, path.rsplit("/", 1)[1], headers)
            for which, method, path, headers in self.requests
            if method == command and path.startswith(f"/{repo}/")
        ]


class Worker:
    """A process with the environment of huggingface_hub."""

    def __init__(self, home: Path, **environment: str):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        quiet = {
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }
        kept |= {"NO_PROXY": "*", "no_proxy": "*", "JAX_PLATFORMS": "cpu", "HF_HUB_DISABLE_XET": "1", **quiet}
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**kept, "HF_HOME": str(home), **environment},
        )

    def load(self, source: str, arch: str = "resnet10t") -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([source, arch]) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise AssertionError("the worker ended")

    def refusal(self, source: str, arch: str = "resnet10t") -> str:
        error = self.load(source, arch)["error"]
        assert error is not None, f"{source} was loaded"
        kind, _, message = error.partition(": ")
        assert kind == "ValueError", error
        assert TOKEN not in message
        return message

    def cached(self, repo: str) -> list[Path]:
        """All files of a repository in the cache, blobs and links."""
        folder = self.home / "hub" / f"models--{repo.replace('/', '--')}"
        return [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]


@pytest.fixture(scope="module")
def hub() -> Hub:
    return Hub()


@pytest.fixture(scope="module")
def workers(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Worker, Worker]]:
    """Online and offline, with the same cache; started together, since importing JAX takes seconds."""
    home = tmp_path_factory.mktemp("hf_home")
    online = Worker(home, HF_ENDPOINT=hub.endpoint, HF_TOKEN=TOKEN)
    offline = Worker(home, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="1")
    yield online, offline
    for worker in (online, offline):
        worker.process.kill()
        worker.process.wait()


@pytest.fixture
def worker(workers: tuple[Worker, Worker]) -> Worker:
    return workers[0]


@pytest.fixture
def offline(workers: tuple[Worker, Worker]) -> Worker:
    return workers[1]


def assert_names_the_ways_out(message: str) -> None:
    assert "a local file" in message
    assert "--arch resnet10t --weights tiny-imagenet" in message


def test_weights_and_config_are_fetched(hub: Hub, worker: Worker):
    hub.repositories["some/model"] = repository()
    answer = worker.load("some/model")
    assert answer["error"] is None
    assert answer["origin"] == f"some/model on the Hugging Face hub, commit {COMMIT[:12]}"
    assert (answer["sha256"], answer["dtype"]) == (SHA256, "float32")
    assert answer["classes"] == TIMM_CONFIG["label_names"]
    assert (answer["mean"], answer["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
    assert (answer["size"], answer["crop"], answer["interpolation"]) == (176, 0.9, "bicubic")
    assert answer["licence"] == "apache-2.0"


def test_the_second_call_takes_the_cache(hub: Hub, worker: Worker, offline: Worker):
    hub.repositories["some/cached"] = repository()
    first = worker.load("some/cached")
    asked = len(hub.asked("some/cached"))
    assert worker.load("some/cached") == first
    assert len(hub.asked("some/cached")) == asked
    with hub.down():
        assert worker.load("some/cached") == first
    hub.repositories["some/cached"].status = 503
    assert worker.load("some/cached") == first
    assert offline.load("some/cached") == first


def test_auto_takes_the_tables_repository_and_licence(hub: Hub, worker: Worker):
    config = {**TIMM_CONFIG, "pretrained_cfg": {**TIMM_CONFIG["pretrained_cfg"], "license": None}}
    hub.repositories["timm/resnet10t.c3_in1k"] = Repository(
        {"model.safetensors": WEIGHTS, "config.json": json.dumps(config).encode()}
    )
    answer = worker.load("auto")
    assert answer["origin"].startswith("timm/resnet10t.c3_in1k on the")
    assert answer["licence"] == "Apache-2.0"


def test_a_revision_can_be_named(hub: Hub, worker: Worker):
    hub.repositories["some/revised"] = repository()
    assert worker.load(f"some/revised@{COMMIT}")["error"] is None
    assert "no revision 'v9'" in worker.refusal("some/revised@v9")


def test_repositories_with_the_older_format_or_without_config(hub: Hub, worker: Worker, offline: Worker):
    hub.repositories["some/older"] = Repository({"pytorch_model.bin": WEIGHTS})
    answer = worker.load("some/older")
    assert (answer["error"], answer["sha256"], answer["size"]) == (None, SHA256, 224)
    assert "no config.json" in answer["origin"]
    assert offline.load("some/older")["sha256"] == SHA256


def test_weights_in_the_cache_without_their_config_are_not_enough(hub: Hub, worker: Worker, offline: Worker):
    """Else the pictures would be prepared with other figures than online, and nobody would know."""
    hub.repositories["some/half"] = repository()
    first = worker.load("some/half")
    for path in worker.cached("some/half"):
        if path.name == "config.json":
            path.unlink()
    message = offline.refusal("some/half")
    assert "config.json of some/half is missing in the cache" in message
    assert_names_the_ways_out(message)
    assert worker.load("some/half") == first


def test_a_cut_connection_is_resumed(hub: Hub, worker: Worker):
    chunk = 10 * 2**20  # huggingface_hub writes down whole chunks of this size
    large = save({name: array.astype(np.float32) for name, array in read_state_dict(WEIGHTS_FILE).items()})
    hub.repositories["some/cut"] = Repository({"model.safetensors": large}, cuts=[chunk + 4_000_000])
    assert worker.load("some/cut")["sha256"] == hashlib.sha256(large).hexdigest()
    ranges = [headers.get("range") for which, _, headers in hub.asked("some/cut") if which == "storage"]
    assert ranges[0] is None
    assert ranges[1:] in ([f"bytes={chunk}-"], [f"bytes={chunk + 4_000_000}-"])  # some versions write down every byte


@pytest.mark.slow  # the library waits between its attempts
def test_a_connection_that_is_always_cut(hub: Hub, worker: Worker):
    hub.repositories["some/always-cut"] = repository(cuts=[4_000_000] * 20)
    message = worker.refusal("some/always-cut")
    assert "broke off" in message
    assert_names_the_ways_out(message)
    assert not any(path.stat().st_size > 1_000_000 for path in worker.cached("some/always-cut"))
    hub.repositories["some/always-cut"].cuts.clear()
    assert worker.load("some/always-cut")["sha256"] == SHA256


def test_a_wrong_hash_is_refused_and_forgotten(hub: Hub, worker: Worker, offline: Worker):
    hub.repositories["some/damaged"] = repository()
    broken = bytearray(WEIGHTS)
    broken[5_000_000] ^= 1
    hub.repositories["some/damaged"].files["model.safetensors"] = bytes(broken)
    hub.repositories["some/damaged"].stated_sha256 = SHA256
    message = worker.refusal("some/damaged")
    assert SHA256 in message
    assert hashlib.sha256(broken).hexdigest() in message
    assert not any(path.stat().st_size > 1_000_000 for path in worker.cached("some/damaged"))
    assert_names_the_ways_out(offline.refusal("some/damaged"))
    hub.repositories["some/damaged"].files["model.safetensors"] = WEIGHTS
    assert worker.load("some/damaged")["sha256"] == SHA256


def test_a_file_damaged_in_the_cache_is_found_even_offline(hub: Hub, worker: Worker, offline: Worker):
    hub.repositories["some/rotten"] = repository()
    assert worker.load("some/rotten")["error"] is None
    (blob,) = [path for path in worker.cached("some/rotten") if path.name == SHA256]
    blob.write_bytes(WEIGHTS[:-1] + b"\x7f")
    assert "is not what the hub states" in offline.refusal("some/rotten")
    assert worker.load("some/rotten")["error"] is None


def test_no_network_names_the_ways_out_at_once(hub: Hub, worker: Worker):
    hub.repositories["some/unreachable"] = repository()
    with hub.down():
        start = time.perf_counter()
        message = worker.refusal("some/unreachable")
        assert time.perf_counter() - start < 5
    assert hub.endpoint in message
    assert "cannot be reached" in message
    assert_names_the_ways_out(message)


def test_offline_mode_names_the_ways_out(hub: Hub, offline: Worker):
    hub.repositories["some/not-cached"] = repository()
    message = offline.refusal("some/not-cached")
    assert "HF_HUB_OFFLINE forbids" in message
    assert_names_the_ways_out(message)
    assert hub.asked("some/not-cached", "HEAD") == []


def test_what_does_not_exist(hub: Hub, worker: Worker):
    assert "does not exist" in worker.refusal("some/nowhere")
    hub.repositories["some/empty"] = Repository({"README.md": b"hello"})
    message = worker.refusal("some/empty")
    assert "model.safetensors" in message
    assert "pytorch_model.bin" in message


def test_tokens_open_doors_and_stay_with_the_hub(hub: Hub, worker: Worker):
    hub.repositories["some/private"] = repository(needs_token=True)
    assert worker.load("some/private")["error"] is None
    for which, _, headers in hub.asked("some/private") + hub.asked("some/private", "HEAD"):
        assert ("authorization" in headers) == (which == "hub")
    hub.repositories["some/gated"] = repository(gated=True)
    message = worker.refusal("some/gated")
    assert "gated" in message
    assert f"{hub.endpoint}/some/gated" in message
    assert "HF_TOKEN" in message


def test_a_hub_in_trouble(hub: Hub, worker: Worker):
    hub.repositories["some/busy"] = repository(status=503)
    message = worker.refusal("some/busy")
    assert "HTTP 503" in message
    assert_names_the_ways_out(message)


def test_the_repository_must_fit_the_architecture(hub: Hub, worker: Worker):
    hub.repositories["some/other"] = repository()
    message = worker.refusal("some/other", "resnet18")
    assert "some/other" in message
    assert "missing" in message
    config = {**TIMM_CONFIG, "architecture": "resnet10x"}
    hub.repositories["some/renamed"] = Repository(
        {"model.safetensors": WEIGHTS, "config.json": json.dumps(config).encode()}
    )
    assert "arch='resnet10x'" in worker.refusal("some/renamed")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b"{", "cannot be used"),
        (b"[]", "holds a list"),
        (b'{"architectures": ["ResNet"]}', "neither jaxclf's nor timm's"),
        (b'{"architecture": "resnet10t", "pretrained_cfg": {"mean": [0.5]}}', "mean"),
        (b'{"architecture": "resnet10t", "pretrained_cfg": {"interpolation": "random"}}', "interpolation"),
        (b'{"architecture": "resnet10t", "pretrained_cfg": {"crop_pct": 3}}', "crop_fraction"),
        (b'{"architecture": "resnet10t", "pretrained_cfg": {"input_size": 224}}', "input_size"),
        (b'{"architecture": "resnet10t", "num_classes": 3, "label_names": ["a"]}', "1 labels for 3 classes"),
        (b'{"architecture": "resnet10t", "label_names": ["a", "b"]}', "200 outputs"),
    ],
)
def test_a_config_that_makes_no_sense(hub: Hub, worker: Worker, config: bytes, said: str):
    repo = f"bad/{hashlib.sha1(config).hexdigest()}"
    hub.repositories[repo] = Repository({"model.safetensors": WEIGHTS, "config.json": config})
    assert said in worker.refusal(repo)


def test_hub_ids():
    for source in ("timm/resnet34.a1_in1k", "a/b@main", "a/b@refs/pr/4", "A-b_c/d.e"):
        assert is_hub_id(source)
    for source in ("resnet34", "a/b/c", "/a/b", "a/", "a/b@", "a b/c", "a/b\n", "https://a/b"):
        assert not is_hub_id(source)
