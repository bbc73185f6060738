"""What docs/results holds goes into the report."""

from pathlib import Path

from hyperfields.experiments import EXPERIMENTS
from hyperfields.report import stored_sections
from priors_shared.reports import Table

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def test_every_stored_result_of_hyperfields_makes_a_section_whose_rows_have_names() -> None:
    sections = stored_sections(RESULTS)
    stored = [name for name in EXPERIMENTS if (RESULTS / f"{name}-cpu.json").is_file()]
    assert len(sections) == len(stored) > 9
    for section in sections:
        table = next(part for part in section.parts if isinstance(part, Table))
        assert table.columns[0] == "model", section.title
        assert all(isinstance(row[0], str) for row in table.rows), section.title
