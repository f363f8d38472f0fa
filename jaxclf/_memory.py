"""Memory that a step frees is kept for the next one, on a CPU with glibc.

XLA asks for the memory of a whole program at each call and frees it after: 217 MB for a step of resnet18 at 96 px and
batch 32. glibc takes so large blocks from the system and gives them back, and the system hands them out page by page,
each filled with zeros: 53,000 page faults a step, a seventh of the processor's time.
"""

import ctypes
import os
import sys

#: glibc's mallopt: names of <malloc.h>, and what makes it keep what is freed. One arena, as only the main one can grow
#: to any size; no blocks from mmap, which are given back; and nothing at its end given back up to 2 GB.
SETTINGS = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}


def keep_freed_memory() -> bool:
    """Lets malloc keep what is freed, for this process and as long as it runs; to be called before threads start.

    The process holds on to the most that it ever used. Who has told malloc something by `GLIBC_TUNABLES` or a variable
    `MALLOC_...` is obeyed.

    Returns:
      Whether malloc does: False without glibc, or where it has been told otherwise.
    """
    told = "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ)
    if told or not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        if not hasattr(libc, "gnu_get_libc_version"):
            return False
        return all(libc.mallopt(name, value) == 1 for name, value in SETTINGS.values())
    except (OSError, AttributeError):
        return False
