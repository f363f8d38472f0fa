"""What does `import jaxclf` cost on top of `import jax`? Target: at most 0.3 s in the same process.

    python benchmarks/import_time.py [--repeats 7]

Every repeat is a fresh interpreter that imports jax first and then jaxclf, so the second figure is what jaxclf adds.
"""

import argparse
import subprocess
import sys

from machine import describe, spread

PROGRAM = """
import time
start = time.perf_counter(); import jax; middle = time.perf_counter(); import jaxclf; end = time.perf_counter()
print(middle - start, end - middle)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    print(describe())
    runs = [subprocess.check_output([sys.executable, "-c", PROGRAM], text=True).split() for _ in range(repeats)]
    print(f"import jax              {spread([float(first) for first, _ in runs])}")
    print(f"then import jaxclf      {spread([float(second) for _, second in runs], digits=4)}")


if __name__ == "__main__":
    main()
