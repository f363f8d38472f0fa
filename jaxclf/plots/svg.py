"""A figure as SVG inside an HTML page: it takes the page's font, text colour and palette, also in dark mode."""

import io
import re
from typing import TYPE_CHECKING, NamedTuple

from jaxclf.plots.style import GREY, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: matplotlib's colour -> what the page calls it. Colours that are not here stay.
PAGE_COLORS = {
    "#000000": "currentColor",
    "#ffffff": "var(--card)",
    "#e6e6e6": "var(--grid)",
    "#bfbfbf": "var(--faint)",
    GREY.lower(): "var(--quiet)",
    **{color.lower(): f"var(--c{number})" for number, color in enumerate(PALETTE, 1)},
}


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
