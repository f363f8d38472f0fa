"""Hundreds of heads at once on cached features: settings x seeds x folds in one compiled program."""

from jaxclf.training.sweep.search import sweep_heads
from jaxclf.training.sweep.table import Setting, Sweep, SweepRow

__all__ = ["Setting", "Sweep", "SweepRow", "sweep_heads"]
