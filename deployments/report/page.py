"""Write the report: one HTML file that holds its styles, figures and thumbnails, and loads nothing."""

from functools import cache
from importlib import resources
from pathlib import Path
from uuid import uuid4

from jinja2 import Environment, StrictUndefined, Template

from deployments.report import figures
from deployments.report.data import ReportData


def write_report(path: Path, data: ReportData) -> Path:
    """Write the page to `path`, whole or not at all, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        partial.write_text(render_report(data), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def render_report(data: ReportData) -> str:
    """Return the page as HTML; every text from the data is escaped."""
    return _template().render(data=data, figures=figures).lstrip()


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["pct"] = _percent
    source = resources.files("deployments.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"
