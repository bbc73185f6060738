"""From an experiment's rows to what a reader sees: result JSON, Markdown, CSV, figures, HTML."""

from priors_shared.reports.figures import Curve, Figure, line_figure
from priors_shared.reports.page import Code, Links, Section, Verdict, write_html
from priors_shared.reports.results import SCHEMA, read_result, write_result
from priors_shared.reports.tables import Cell, Measured, Table, comparison_table

__all__ = [
    "SCHEMA",
    "Cell",
    "Code",
    "Curve",
    "Figure",
    "Links",
    "Measured",
    "Section",
    "Table",
    "Verdict",
    "comparison_table",
    "line_figure",
    "read_result",
    "write_html",
    "write_result",
]
