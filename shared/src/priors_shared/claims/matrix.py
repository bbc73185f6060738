"""The ledger on a page: a mark for each claim, and tables whose words say what the marks mean."""

from __future__ import annotations

import html
from collections.abc import Sequence

from priors_shared.claims.ledger import (
    Record,
    counts_text,
    difference_text,
    ours_text,
    thesis_text,
    verdict_text,
)

_MARKS = {
    "confirmed": ("good", "✓"),
    "not confirmed": ("unclear", "○"),
    "contradicted": ("bad", "✗"),
    "can't tell at this scale": ("soft", "?"),
    "not run": ("none", "·"),
}


def claims_matrix(records: Sequence[Record]) -> str:
    """Return HTML: a row of marks a system, one a claim, each with its words on hover and linked to its row below."""
    rows = []
    for system in dict.fromkeys(record["system"] for record in records):
        own = [record for record in records if record["system"] == system]
        marks = "".join(_mark_link(record) for record in own)
        rows.append(
            f'<tr><th scope="row">{html.escape(system)}</th><td class="marks">{marks}</td></tr>'
        )
    legend = "".join(
        f'<li><b class="{kind}">{sign}</b> {name}</li>' for name, (kind, sign) in _MARKS.items()
    )
    tables = "\n".join(
        _system_table(system, [record for record in records if record["system"] == system])
        for system in dict.fromkeys(record["system"] for record in records)
    )
    return (
        '<section id="claims"><h2>What the thesis claims, and what the numbers say</h2>'
        f"<p>{html.escape(counts_text(records))} Verdicts are made by one rule from stored small-scale runs; what "
        "runs live below is shorter still. A mark says a claim when pointed at; the tables say all of them.</p>"
        f'<ul class="legend">{legend}</ul>'
        f'<table class="matrix"><tbody>{"".join(rows)}</tbody></table>{tables}</section>'
    )


def _mark_link(record: Record) -> str:
    kind, sign = _MARKS[record["verdict"]]
    words = html.escape(f"{record['id']}: {record['statement']}: {record['verdict']}")
    return f'<a class="{kind}" href="#claim-{record["id"]}" title="{words}" aria-label="{words}">{sign}</a>'


def _system_table(system: str, records: Sequence[Record]) -> str:
    rows = "\n".join(_row(record) for record in records)
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("claim", "thesis", "ours", "difference [95 %]", "verdict")
    )
    return (
        f"<details><summary><h3>{html.escape(system)}: {len(records)} claims in words</h3></summary>"
        f'<div class="wide"><table class="claims"><thead><tr>{heads}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div></details>"
    )


def _row(record: Record) -> str:
    kind, sign = _MARKS[record["verdict"]]
    verdict = html.escape(verdict_text(record).replace("**", ""))
    where = html.escape(f"{record['id']} · {record['section']}")
    return (
        f'<tr id="claim-{record["id"]}"><td>{html.escape(record["statement"])}<br><small>{where}</small></td>'
        f"<td>{html.escape(thesis_text(record))}</td><td>{html.escape(ours_text(record))}</td>"
        f'<td>{html.escape(difference_text(record))}</td><td><b class="{kind}">{sign}</b> {verdict}</td></tr>'
    )
