"""What malloc does with memory that is freed, asked in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from jaxclf._memory import keep_freed_memory
kept = keep_freed_memory()
bytearray(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    bytearray(2**26)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**variables: str) -> tuple[str, int]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**plain, **variables}, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told so")
def test_what_is_freed_is_used_again() -> None:
    kept, faults = run()
    assert kept == "True"
    assert faults < 20  # three times 64 MB from the system are 49,152 pages, or 96 large ones


def test_who_has_told_malloc_something_is_obeyed() -> None:
    assert run(MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
    assert run(GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] == "False"
