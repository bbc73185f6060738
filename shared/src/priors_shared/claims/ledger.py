"""The ledger: a record for each claim, made from the stored rows, and the pages that show it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from priors_shared.claims.claim import Book, Claim, values_at
from priors_shared.errors import UserError
from priors_shared.files import read_json, write_atomically
from priors_shared.reports.results import read_result
from priors_shared.reports.tables import escape_markdown

GROUP = "priors.claims"
LEDGER = "claims.json"
SCHEMA = 1
SCALES = ("paper", "gpu", "cpu")
"""In the order in which a claim's rows are looked for."""

Record = dict[str, Any]


def books() -> list[Book]:
    """The claims of every installed package, by its name."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    return [entry.load() for entry in found]


def ledger(results: Path, registered: Iterable[Book]) -> list[Record]:
    """A record for each claim, its verdict made from the rows in the folder `results`.

    Raises:
        UserError: two claims of one id; rows without seeds or commit; rows that lack what a claim names.
    """
    pairs = [(book, claim) for book in registered for claim in book.claims]
    for name, count in Counter(claim.id for _, claim in pairs).items():
        if count > 1:
            raise UserError(f"{name}: {count} claims have this id")
    return [_record(results, book.system, claim) for book, claim in pairs]


def result_file(results: Path, stem: str) -> tuple[Path, str] | None:
    """The stored rows of a name at the largest scale there is, and that scale; a benchmark's name has none."""
    for scale in SCALES:
        path = results / f"{stem}-{scale}.json"
        if path.is_file():
            return path, scale
    path = results / f"{stem}.json"
    return (path, "cpu") if path.is_file() else None


def _record(results: Path, system: str, claim: Claim) -> Record:
    record: Record = {
        "id": claim.id,
        "system": system,
        "section": claim.section,
        "statement": claim.statement,
        "source": claim.source,
        "unit": claim.unit,
        "thesis": {"values": list(claim.thesis), "difference": claim.thesis_difference},
        "verdict": "not run",
        "note": claim.why_not,
    }
    stored = result_file(results, claim.stem) if claim.stem else None
    if stored is None:
        if claim.stem and not claim.why_not:
            record["note"] = f"{claim.stem} has no stored result"
        return record
    path, scale = stored
    result = read_result(path)
    for key in ("seeds", "commit"):
        if result[key] in (None, [], ""):
            raise UserError(f"{path}: its rows have no {key}")
    try:
        judgement = claim.judged(result)
        sides = [values_at(result, at) for at in (claim.better, *claim.plus, *claim.minus)]
    except UserError as error:
        raise UserError(f"{path}: {claim.id}: {error}") from error
    return record | {
        "verdict": judgement.verdict,
        "scale": scale,
        "ours": [_spread(side) for side in sides],
        "difference": judgement.mean,
        "interval": [judgement.low, judgement.high],
        "pairs": judgement.pairs,
        "power": judgement.power,
        "margin": claim.margin,
        "bound": claim.bound,
        "seeds": result["seeds"],
        "command": result["command"],
        "commit": result["commit"],
        "date": result["date"],
        "hardware": result["hardware"],
        "rows": path.name,
    }


def _spread(values: Mapping[str, float]) -> dict[str, Any]:
    numbers = list(values.values())
    spread = stdev(numbers) if len(numbers) > 1 else None
    return {"mean": fmean(numbers), "spread": spread, "repeats": len(numbers)}


def write_ledger(path: Path, records: Sequence[Record]) -> None:
    """Write records as JSON, the same bytes for the same rows."""
    text = json.dumps({"schema": SCHEMA, "claims": list(records)}, indent=1, sort_keys=True)
    write_atomically(path, text + "\n")


def read_ledger(path: Path) -> list[Record]:
    """The records of a file.

    Raises:
        UserError: it is missing, damaged or of another version.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such ledger of claims")
    content = read_json(path)
    if content.get("schema") != SCHEMA or not isinstance(content.get("claims"), list):
        raise UserError(
            f"{path}: ledger of version {content.get('schema')!r}, this one reads {SCHEMA}"
        )
    return content["claims"]


def claims_named(name: str, registered: Sequence[Book]) -> list[tuple[Book, Claim]]:
    """The claims of an id, or of all ids that begin with it, such as 3.7.

    Raises:
        UserError: there is none; the nearest ids are named.
    """
    import difflib

    pairs = [(book, claim) for book in registered for claim in book.claims]
    chosen = [(b, c) for b, c in pairs if c.id == name or c.id.startswith(f"{name}-")]
    if not chosen:
        ids = [claim.id for _, claim in pairs]
        near = difflib.get_close_matches(name, ids, 3, cutoff=0.3) or ids[:3]
        raise UserError(f"unknown claim {name!r}: did you mean {', '.join(near)}?")
    return chosen


# --- pages ---


def markdown_table(records: Sequence[Record], *, results: str = "") -> str:
    """Claims with the thesis' numbers, ours and the verdict.

    results: what precedes the name of a file of rows in a link.
    """
    lines = [
        "| claim | what is said | thesis | ours | difference [95 %] | verdict |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for record in records:
        name = record["id"]
        link = f"[{name}]({results}{record['rows']})" if "rows" in record else name
        cells = [
            link,
            f"{escape_markdown(record['statement'])} ({escape_markdown(record['section'])})",
            thesis_text(record),
            ours_text(record),
            difference_text(record),
            verdict_text(record),
        ]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def verdict_text(record: Record) -> str:
    """The verdict in words, with its scale, or why there is none."""
    if record["verdict"] == "not run":
        return f"not run: {record['note']}" if record["note"] else "not run"
    note = f"; {record['note']}" if record["note"] else ""
    return f"**{record['verdict']}** ({record['scale']}, {record['pairs']} pairs){note}"


def difference_text(record: Record) -> str:
    """The difference with its interval and unit."""
    if "difference" not in record:
        return "–"
    low, high = record["interval"]
    reach = f" [{low:+.3g}, {high:+.3g}]" if low is not None else ""
    return f"{record['difference']:+.3g}{reach} {record['unit']}"


def thesis_text(record: Record) -> str:
    """The thesis' numbers."""
    return " / ".join(_number(value) for value in record["thesis"]["values"]) or "–"


def ours_text(record: Record) -> str:
    """Our numbers, with their spread."""
    sides = record.get("ours", [])
    return " / ".join(_side(side) for side in sides) or "–"


def _side(side: Mapping[str, Any]) -> str:
    spread = f" ± {_number(side['spread'])}" if side["spread"] else ""
    return f"{_number(side['mean'])}{spread}"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def with_tables(text: str, records: Sequence[Record], *, results: str = "") -> str:
    """A page's text with the tables of the ledger made anew.

    They stand between `<!-- claims: SYSTEM -->` and `<!-- claims end -->`; SYSTEM may be `all` or `counts`.
    """

    def table(match: re.Match[str]) -> str:
        system = match[1]
        if system == "counts":
            body = counts_text(records) + "\n"
        else:
            chosen = [r for r in records if system in ("all", r["system"])]
            if not chosen:
                raise UserError(f"claims: {system}: no package has this name")
            body = markdown_table(chosen, results=results)
        return f"<!-- claims: {system} -->\n\n{body}\n<!-- claims end -->"

    return re.sub(r"<!-- claims: ([\w-]+) -->.*?<!-- claims end -->", table, text, flags=re.DOTALL)


def counts_text(records: Sequence[Record]) -> str:
    """How many claims have each verdict, in a sentence."""
    counted = Counter(record["verdict"] for record in records)
    order = ("confirmed", "not confirmed", "contradicted", "can't tell at this scale", "not run")
    return f"{len(records)} claims: " + ", ".join(f"{counted[v]} {v}" for v in order) + "."
