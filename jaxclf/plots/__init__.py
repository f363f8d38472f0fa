"""Pictures of a run: batches, schedules, learning-rate curves, training curves, and what a classifier gets wrong.

`plot_*` draws on an `ax` (its own figure when none is given) and returns it; `show_*` returns a whole figure. Figures
are plain `matplotlib.figure.Figure` objects: pyplot, its list of open figures and its backend are never touched.
"""

from jaxclf.plots.confusion import plot_confusion
from jaxclf.plots.examples import loader_pixels, show_examples, show_grad_cam
from jaxclf.plots.history import plot_epochs, plot_loss_over_rate, plot_losses, plot_rates, read_rows, show_epochs
from jaxclf.plots.pictures import denormalize, show_batch, show_loader, training_batch
from jaxclf.plots.rates import plot_lr_band, plot_lr_curve, plot_schedule
from jaxclf.plots.reliability import plot_reliability
from jaxclf.plots.style import save_figure
from jaxclf.plots.sweep import plot_ridge, plot_sweep

__all__ = [
    "denormalize",
    "loader_pixels",
    "plot_confusion",
    "plot_epochs",
    "plot_loss_over_rate",
    "plot_losses",
    "plot_lr_band",
    "plot_lr_curve",
    "plot_rates",
    "plot_reliability",
    "plot_ridge",
    "plot_schedule",
    "plot_sweep",
    "read_rows",
    "save_figure",
    "show_batch",
    "show_epochs",
    "show_examples",
    "show_grad_cam",
    "show_loader",
    "training_batch",
]
