"""Hundreds of heads at once on cached features: settings x seeds x folds in one compiled program."""

from jaxclf.training.sweep.options import HeadTraining, SweepGrid
from jaxclf.training.sweep.search import sweep_heads
from jaxclf.training.sweep.table import Setting, Sweep, SweepRow

__all__ = ["HeadTraining", "Setting", "Sweep", "SweepGrid", "SweepRow", "sweep_heads"]
