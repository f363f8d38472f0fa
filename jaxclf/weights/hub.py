"""Weights from the Hugging Face hub: `owner/name[@revision]` to checked files on disk.

huggingface_hub does the work, with its own cache, resumption, progress bars and environment variables (HF_ENDPOINT,
HF_HOME, HF_HUB_OFFLINE, HF_TOKEN). It compares a download's length but not its content, so the SHA-256 that the hub
states is checked here. What goes wrong becomes one ValueError that says what to do.
"""

import contextlib
import re
from pathlib import Path
from typing import Any, NamedTuple

from jaxclf.weights.files import file_sha256

#: Files that hold the weights in a repository, the safer format first.
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
CONFIG_FILE = "config.json"
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WAYS_OUT = (
    "Two ways without the hub: a local file (--weights PATH.safetensors, downloaded elsewhere) or the bundled weights "
    "(--arch resnet10t --weights tiny-imagenet)"
)


class HubFiles(NamedTuple):
    """A repository's files in the local cache.

    Attributes:
      weights: the weights file.
      config: the repository's config.json, if it has one.
      sha256: of the weights file, found equal to what the hub states, where it states one.
      commit: the commit they are from; "" where the cache does not tell.
    """

    weights: Path
    config: Path | None
    sha256: str
    commit: str


def is_hub_id(source: str) -> bool:
    """Whether `source` has the form `owner/name` or `owner/name@revision`.

    >>> is_hub_id("timm/resnet34.a1_in1k"), is_hub_id("resnet34")
    (True, False)
    """
    return _HUB_ID.fullmatch(source) is not None


def fetch_weights(hub_id: str) -> HubFiles:
    """Downloads a repository's weights and config.json, or finds them in the cache.

    Args:
      hub_id: `owner/name`, or `owner/name@revision` for a branch, tag or commit.

    Raises:
      ValueError: for a malformed id; where the hub cannot be reached and nothing is cached, naming the ways out; for a
        repository or file that does not exist or is closed to you; for a download that broke off or is not what the hub
        states (it is removed, so that the next call downloads it afresh).
    """
    match = _HUB_ID.fullmatch(hub_id)
    if match is None:
        raise ValueError(f"hub id {hub_id!r} must look like owner/name or owner/name@revision")
    repo, revision = match["repo"], match["revision"]
    problem: ValueError | None = None
    for filename in WEIGHTS_FILES:
        weights, stated, problem = _fetch(repo, revision, filename, problem)
        if weights is not None:
            sha256 = _verified(weights, stated, f"{filename} of {repo}")
            config, _, problem = _fetch(repo, revision, CONFIG_FILE, problem)
            if config is None and problem is not None and not _known_absent(repo, revision, CONFIG_FILE):
                raise ValueError(
                    f"{CONFIG_FILE} of {repo} is missing in the cache, and with it the preprocessing: {problem}"
                )
            commit = weights.parent.name if weights.parent.parent.name == "snapshots" else ""
            return HubFiles(weights, config, sha256, commit)
    raise problem or ValueError(f"hub repository {repo} has no weights: neither {' nor '.join(WEIGHTS_FILES)}")


def _fetch(
    repo: str, revision: str | None, filename: str, problem: ValueError | None
) -> tuple[Path | None, str | None, ValueError | None]:
    """(path, SHA-256 stated by the hub, what was wrong with the hub); no path: not there, or not to be had.

    With a `problem` from before, only the cache is asked. A file in the cache is good even if the hub has a problem.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    etag = None
    if problem is None:
        try:  # asked first and once, because hf_hub_download retries an unreachable hub for half a minute
            etag = get_hf_file_metadata(hf_hub_url(repo, filename, revision=revision)).etag
        except EntryNotFoundError:
            with contextlib.suppress(Exception):
                _download(repo, revision, filename, cached=False)  # fails too, and notes the absence in the cache
            return None, None, None
        except Exception as error:  # the library's, httpx's and the operating system's own
            problem = _explain(error, repo, revision)
    try:
        path = _download(repo, revision, filename, cached=problem is not None)
    except LocalEntryNotFoundError as error:
        return None, None, problem or _broken_off(error, repo, filename)
    except Exception as error:
        raise _broken_off(error, repo, filename) from error
    name = path.readlink().name if path.is_symlink() else ""  # the cache names each blob by its ETag
    stated = next((tag for tag in (etag, name) if tag and _SHA256.fullmatch(tag)), None)
    return path, stated, problem


def _known_absent(repo: str, revision: str | None, filename: str) -> bool:
    """Whether the cache has noted that the repository has no such file."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    return try_to_load_from_cache(repo, filename, revision=revision) is _CACHED_NO_EXIST


def _download(repo: str, revision: str | None, filename: str, *, cached: bool) -> Path:
    """The file in the cache. A connection that was reset is tried once more: the library resumes only some cuts."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        return Path(hf_hub_download(repo, filename, revision=revision, local_files_only=cached))
    except (HfHubHTTPError, EntryNotFoundError):
        raise
    except Exception:
        return Path(hf_hub_download(repo, filename, revision=revision, local_files_only=cached))


def _verified(path: Path, stated: str | None, what: str) -> str:
    """The file's SHA-256; a file that is not what the hub states is removed from the cache."""
    sha256 = file_sha256(path)
    if stated is not None and sha256 != stated:
        _remove(path)
        raise ValueError(
            f"{what} is not what the hub states: SHA-256 {sha256} instead of {stated}. The damaged copy was removed "
            "from the cache; run the command again to download it afresh"
        )
    return sha256


def _remove(path: Path) -> None:
    """Removes a cached file and the blob it points to, through any chain of links."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def _broken_off(error: Exception, repo: str, filename: str) -> ValueError:
    return ValueError(
        f"downloading {filename} of {repo} broke off ({_one_line(error)}). Run the command again. {_WAYS_OUT}"
    )


def _explain(error: Exception, repo: str, revision: str | None) -> ValueError:
    """What the hub's refusal or silence means, as one message."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ValueError(f"{repo} is not in the local cache and HF_HUB_OFFLINE forbids to fetch it. {_WAYS_OUT}")
    if isinstance(error, errors.HFValidationError):
        return ValueError(f"hub id {repo!r} is not valid: {_one_line(error)}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ValueError(f"hub repository {repo} has no revision {revision!r}")
    if isinstance(error, errors.GatedRepoError):
        return ValueError(
            f"hub repository {repo} is gated: accept its terms at {hub}/{repo} and set HF_TOKEN to a token of yours"
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403, 404):
        return ValueError(
            f"hub repository {repo} does not exist at {hub} or is private (HTTP {status}): check the spelling "
            "(`jaxclf weights list` shows known ones), or set HF_TOKEN if it is yours"
        )
    if status is not None:
        return ValueError(f"the hub at {hub} answered HTTP {status} for {repo}; try again later. {_WAYS_OUT}")
    return ValueError(f"the hub at {hub} cannot be reached ({_one_line(error)}). {_WAYS_OUT}")


def _one_line(error: Any) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:200]
