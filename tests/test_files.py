import os
import subprocess
import sys

import numpy as np
import pytest

from jaxclf._files import write_atomic, write_npz
from jaxclf._jax import _load_quietly, default_cache_dir, enable_compilation_cache


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


PROGRAM = """
import sys, jaxclf
jaxclf.enable_compilation_cache(sys.argv[1])
import jax, jax.numpy as jnp
from jax import monitoring
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
events = []
monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.jit(lambda x: jnp.sort(x @ x))(jnp.ones((8, 8))).block_until_ready()
print(events.count("/jax/compilation_cache/cache_hits"))
"""


def test_programs_are_loaded_from_the_cache_without_a_word(tmp_path):
    """Not even where XLA chose prefer-no-gather, which it then takes for a feature of another machine."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    for name in ("JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL", "JAX_LOGGING_LEVEL"):
        environment.pop(name, None)
    for process in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert (int(done.stdout) > 0) == (process == "second"), "nothing was loaded"


@pytest.mark.parametrize("fails", [False, True])
def test_only_loading_is_quiet(monkeypatch, fails):
    from jax._src import compilation_cache
    from jax._src.lib import utils

    levels = []

    def load(key):
        assert levels == [3] and key == "key"
        if fails:
            raise OSError("damaged")
        return "program", 1

    monkeypatch.setattr(compilation_cache, "get_executable_and_time", load)
    monkeypatch.setattr(utils, "absl_set_min_log_level", levels.append)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    _load_quietly()
    assert compilation_cache.get_executable_and_time is load, "who asks for everything gets it"
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    for _ in range(2):  # the second time changes nothing
        _load_quietly()
    if fails:
        with pytest.raises(OSError, match="damaged"):
            compilation_cache.get_executable_and_time("key")
    else:
        assert compilation_cache.get_executable_and_time("key") == ("program", 1)
    assert levels == [3, 2]
