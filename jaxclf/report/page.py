"""The report as one HTML page that needs nothing but itself."""

from importlib.resources import files

from jaxclf import __version__
from jaxclf.report import headline, sections
from jaxclf.report.content import ReportContent

#: Class tables longer than this are folded away.
MAX_OPEN_ROWS = 30


def make_report(content: ReportContent) -> str:
    """The whole page: style, charts and pictures inside, no script, no address of anything outside.

    Names of classes, files and phases are text of strangers: whatever they hold is shown, not obeyed.

    Args:
      content: see `ReportContent`; each part that is missing leaves its section out.

    Returns:
      HTML. The same content gives the same page.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = files("jaxclf.report")
    # No loader: what a template includes could only be a file, and this one includes nothing.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "template.html").read_text(encoding="utf-8"))
    page = template.render(
        name=content.name,
        version=__version__,
        style=Markup((folder / "style.css").read_text(encoding="utf-8")),
        multi_label=content.multi_label,
        max_open_rows=MAX_OPEN_ROWS,
        score=headline.score(content),
        failures=headline.failures(content),
        work=headline.work(content),
        figures=sections.figures_table(content),
        steps=sections.steps_section(content),
        confusion=sections.confusion_section(content),
        classes=sections.classes_section(content),
        pictures=sections.pictures_section(content),
        calibration=sections.calibration_section(content),
        training=sections.training_section(content),
        data=sections.data_section(content),
        recipe=sections.recipe_section(content),
        provenance=sections.provenance(content),
    )
    return page.lstrip()  # the template begins with its macros
