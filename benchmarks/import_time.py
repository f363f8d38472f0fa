"""What does `import jaxclf` cost on top of `import jax`? Target: at most 0.3 s in the same process.

Every turn is a fresh interpreter that imports jax first and then jaxclf, so the seconds are what jaxclf adds.
"""

import dataclasses
import subprocess
import sys

from harness import Run

PROGRAM = """
import time
start = time.perf_counter(); import jax; middle = time.perf_counter(); import jaxclf; end = time.perf_counter()
print(middle - start, end - middle)
"""
peer = None
SMOKE: dict[str, object] = {}


@dataclasses.dataclass(frozen=True)
class Case:
    pass


def cases() -> list[Case]:
    return [Case()]


def ours(case: Case) -> Run:
    def turn(number: int) -> dict[str, float]:
        jax_seconds, own = map(float, subprocess.check_output([sys.executable, "-c", PROGRAM], text=True).split())
        return {"seconds": own, "import jax": jax_seconds}

    return Run("import jaxclf", turn)
