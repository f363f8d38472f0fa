"""How all plots look, and how they get into files and pages."""

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jaxclf._files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which colour-blind people can tell apart; without yellow, which white swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"
FORMATS = (".png", ".svg")
#: matplotlib's colour -> what the page calls it. Colours that are not here stay.
PAGE_COLORS = {
    "#000000": "currentColor",
    "#ffffff": "var(--card)",
    "#e6e6e6": "var(--grid)",
    "#bfbfbf": "var(--faint)",
    GREY.lower(): "var(--quiet)",
    **{color.lower(): f"var(--c{number})" for number, color in enumerate(PALETTE, 1)},
}


def new_figure(
    width: float, height: float, *, layout: Literal["constrained", "compressed"] = "constrained"
) -> "Figure":
    """An empty figure, width x height in inches, whose parts keep out of each other's way.

    The compressed layout is for axes of a fixed shape: the other one needs several drawings to settle with them.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def axes_or_new(ax: "Axes | None", width: float = 6.4, height: float = 4.0) -> "Axes":
    """`ax`, or the axes of a new figure."""
    return new_figure(width, height).add_subplot() if ax is None else ax


def tidy(ax: "Axes", *, x: str, y: str) -> None:
    """Axis labels, a faint grid, no frame at the top and right."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def add_legend(ax: "Axes", *, loc: Literal["best", "upper center"] = "best", ncols: int = 1) -> None:
    """A legend, by default where there is most room; what lies below it stays legible."""
    drawn = (*ax.lines, *ax.collections)
    lines = [line for line in drawn if line.get_visible() and not str(line.get_label()).startswith("_")]
    ncols = min(ncols, max(len(lines), 1))
    ax.legend(
        handles=lines,
        loc=loc,
        ncols=ncols,
        fontsize=8,
        handlelength=1.5,
        columnspacing=1.5,
        facecolor="white",
        edgecolor="none",
        framealpha=0.85,
    )


def color_bar(ax: "Axes", mappable: Any, label: str, **options: Any) -> Any:
    """A colour bar beside the axes, of what is drawn in them."""
    figure = ax.get_figure()
    assert figure is not None
    return figure.colorbar(mappable, ax=ax, label=label, **options)


def whole_numbers(ax: "Axes") -> None:
    """Ticks of the x axis at whole numbers only: there is no half step or epoch."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def marker(num_points: int) -> str:
    """Dots where there are few points: a line does not show a single one, nor where it is only drawn between two."""
    return "o" if num_points == 1 else "." if num_points <= 40 else ""


def save_figure(figure: "Figure", path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Writes a figure as PNG or SVG, whole or not at all.

    Args:
      figure: any matplotlib figure; of an `ax` it is `ax.figure`.
      path: ends in .png or .svg; its folder must exist.
      dpi: pixels per inch of a PNG.

    Raises:
      ValueError: for another ending, naming the path.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"cannot save a figure as {path}: its name must end in {' or '.join(FORMATS)}")
    buffer = io.BytesIO()
    metadata = {"Date": None} if suffix == ".svg" else None  # the same figure gives the same file another day
    figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=metadata)
    return write_atomic(path, buffer.getvalue())


class InlineSvg(NamedTuple):
    """What stands between `<svg ..>` and `</svg>`, safe to insert as it is, and the `viewBox` to give that element."""

    body: str
    view_box: str


def inline_svg(figure: "Figure", name: str) -> InlineSvg:
    """Draws a figure for the inside of a page; closed in itself, without addresses, scripts or a style sheet.

    The page has to define the custom properties of `PAGE_COLORS`. Text is kept as text, and escaped.

    Args:
      figure: any matplotlib figure; it becomes transparent.
      name: letters, digits and "-"; another for each figure of a page, since all ids begin with it.

    Raises:
      ValueError: for another name.
    """
    import matplotlib

    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
        raise ValueError(f"name={name!r} must begin with a letter and hold letters, digits and '-' only")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    text = buffer.getvalue().decode()
    opening, body = text[text.index("<svg") :].split(">", 1)
    found = re.search(r'viewBox="([-0-9. ]+)"', opening)
    assert found is not None  # matplotlib always writes one
    body = body[: body.rindex("</svg>")]
    for pattern in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r"<defs>\s*</defs>"):
        body = re.sub(pattern, "", body, flags=re.DOTALL)
    # Only tags are rewritten from here on: what people wrote stands between them.
    return InlineSvg(re.sub(r"<[^>]*>", lambda tag: _rewrite(tag[0], name), body), found[1])


def _rewrite(tag: str, name: str) -> str:
    """A tag with the page's colours and font, and ids that are the figure's own."""
    tag = tag.replace("xlink:href", "href")
    tag = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", tag)
    if tag.startswith("<g"):
        tag = re.sub(r' id="[^"]*"', "", tag)  # names of artists, which nothing refers to
    tag = re.sub(r'( id=")', rf"\g<1>{name}-", tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = re.sub(r'href="#', f'href="#{name}-', tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r"(font: [^;\"]*?[0-9.]+px) [^;\"]*", r"\1 system-ui, sans-serif", tag)
    if "data:image" in tag:
        return tag
    return re.sub(r"#[0-9a-f]{6}\b", lambda color: PAGE_COLORS.get(color[0], color[0]), tag)
