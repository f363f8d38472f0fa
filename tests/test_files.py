import os

import numpy as np
import pytest

from jaxclf._files import write_atomic, write_npz
from jaxclf._jax import default_cache_dir, enable_compilation_cache


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "a.json", "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_permissions_are_the_usual_ones(tmp_path):
    usual = tmp_path / "usual"
    usual.write_text("")
    assert write_atomic(tmp_path / "a", b"x").stat().st_mode == usual.stat().st_mode


def test_npz_loads_without_pickle_and_refuses_objects(tmp_path):
    path = write_npz(tmp_path / "a.npz", {"x": np.arange(3), "names": np.array(["é", "b"])})
    with np.load(path, allow_pickle=False) as loaded:
        assert loaded["names"].tolist() == ["é", "b"]
    with pytest.raises(ValueError, match="things"):
        write_npz(tmp_path / "b.npz", {"things": [object()]})
    assert not (tmp_path / "b.npz").exists()


def test_cache_directory_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "jaxclf" / "xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "jaxclf" / "xla"


@pytest.fixture
def jax_without_cache():
    import jax

    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield jax.config
    jax.config.update("jax_compilation_cache_dir", before)


def test_an_existing_cache_setting_is_respected(jax_without_cache, tmp_path):
    jax_without_cache.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert enable_compilation_cache(tmp_path / "other") == tmp_path / "mine"
    assert jax_without_cache.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_the_cache_is_set_or_done_without(jax_without_cache, tmp_path):
    (tmp_path / "file").write_text("")
    assert enable_compilation_cache(tmp_path / "file" / "below") is None
    assert jax_without_cache.jax_compilation_cache_dir is None
    assert enable_compilation_cache(tmp_path / "new") == tmp_path / "new"
    assert jax_without_cache.jax_compilation_cache_dir == str(tmp_path / "new")
