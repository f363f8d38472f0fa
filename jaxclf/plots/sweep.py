"""What a search over settings found: learning rate and weight decay as a heat map, the ridge as a curve."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxclf.plots.style import GREY, PALETTE, add_legend, axes_or_new, color_bar, new_figure, tidy
from jaxclf.training.logistic import SolvedHead
from jaxclf.training.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_sweep(sweep: Sweep, *, head: str | None = None, ax: "Axes | None" = None) -> "Axes":
    """Held-out loss, averaged over seeds and folds, of every learning rate (columns) and weight decay (rows).

    The best setting has a thick frame, those within one standard error of it a dashed one. Colours follow the
    logarithm of the loss, up to ten times the best; what diverged is left white.

    Args:
      sweep: from `sweep_heads`.
      head: the kind of head to draw; `None` draws that of the best setting.
      ax: where to draw; `None` makes a figure of fitting size.

    Raises:
      ValueError: for a kind of head that the sweep did not try.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    kinds = list(dict.fromkeys(row.head for row in sweep.rows))
    head = sweep.rows[sweep.best].head if head is None else head
    if head not in kinds:
        raise ValueError(f"head={head!r} is not in this sweep, which tried {', '.join(kinds)}")
    numbers = [number for number, row in enumerate(sweep.rows) if row.head == head]
    lrs = sorted({sweep.rows[number].lr for number in numbers})
    decays = sorted({sweep.rows[number].weight_decay for number in numbers})
    losses = np.full((len(decays), len(lrs)), np.nan)
    for number in numbers:
        row = sweep.rows[number]
        losses[decays.index(row.weight_decay), lrs.index(row.lr)] = row.loss
    losses[~np.isfinite(losses)] = np.nan
    if ax is None:
        ax = new_figure(2.4 + 0.95 * len(lrs), 1.5 + 0.62 * len(decays)).add_subplot()
    known = losses[np.isfinite(losses)]
    low, high = (max(float(known.min()), 1e-6), float(known.max())) if len(known) else (0.5, 1.0)
    # A hair's difference is not to look like a chasm, nor one that diverged to take all colours.
    most = min(max(high, low * 1.02), low * 10)
    norm = LogNorm(low, most)
    image = ax.imshow(losses, cmap="viridis_r", norm=norm, aspect="auto", origin="lower")
    ax.set_xticks(range(len(lrs)), [f"{lr:.2g}" for lr in lrs])
    ax.set_yticks(range(len(decays)), [f"{decay:.2g}" for decay in decays])
    ax.set_xlabel("learning rate")
    ax.set_ylabel("weight decay")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for number in numbers:
        row = sweep.rows[number]
        x, y = lrs.index(row.lr), decays.index(row.weight_decay)
        finite = bool(np.isfinite(row.loss))
        text = f"{row.loss:.3g}\n± {row.loss_error:.1g}" if finite else "diverged"
        dark = finite and float(norm(max(row.loss, low))) > 0.55
        ax.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        if number == sweep.best or number in sweep.close:
            line: dict[str, Any] = {"linewidth": 3.0} if number == sweep.best else {"linewidth": 1.5, "linestyle": "--"}
            ax.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor="#D55E00", **line))
    bar = color_bar(ax, image, "held-out loss", pad=0.02, extend="max" if high > most else "neither")
    ticks = np.geomspace(low, most, 4).tolist()
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.minorticks_off()
    title = f"{head} head; thick: best, dashed: within one standard error of it"
    ax.set_title(title, fontsize=8, color=GREY, loc="left", parse_math=False)
    return ax


def plot_ridge(solved: SolvedHead, *, ax: "Axes | None" = None) -> "Axes":
    """Held-out loss over ridge on a logarithmic axis, with standard errors, the chosen one marked.

    Args:
      solved: from `solve_head`.
      ax: where to draw; `None` makes a figure.

    Raises:
      ValueError: if nothing was held out, so that there are no losses.
    """
    if not np.isfinite(solved.losses).any():
        raise ValueError("there are no held-out losses to draw: solve with num_folds of 2 or more")
    ax = axes_or_new(ax)
    ax.set_xscale("log")
    bars: dict[str, Any] = {"color": PALETTE[0], "marker": ".", "linewidth": 1.6, "capsize": 2}
    ax.errorbar(solved.ridges, solved.losses, yerr=solved.errors, label="held out, and its standard error", **bars)
    chosen = int(np.flatnonzero(solved.ridges == solved.ridge)[0])
    label = f"chosen: {solved.ridge:.3g}"
    point = ([solved.ridge], [solved.losses[chosen]])
    ax.plot(*point, linestyle="", marker="o", color=PALETTE[1], markersize=8, zorder=5, label=label)
    tidy(ax, x="ridge (1 / C)", y="held-out loss")
    add_legend(ax)
    return ax
