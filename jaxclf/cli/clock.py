"""When the program began."""

import time

#: In seconds of `time.perf_counter`; `jaxclf.cli` imports this before all else.
STARTED = time.perf_counter()
