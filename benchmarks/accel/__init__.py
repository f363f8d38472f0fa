"""Train steps compiled for accelerators that this machine does not have, and what the programs cost."""
