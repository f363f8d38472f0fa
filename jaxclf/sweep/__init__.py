"""Hundreds of heads at once on cached features: settings x seeds x folds in one compiled program."""

from jaxclf.sweep.search import sweep_heads
from jaxclf.sweep.table import Setting, Sweep, SweepRow

__all__ = ["Setting", "Sweep", "SweepRow", "sweep_heads"]
