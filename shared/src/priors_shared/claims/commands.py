"""What `reproduce` does with the ledger: check it, write it anew, run one claim from scratch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from priors_shared.claims.claim import Book, Claim
from priors_shared.claims.ledger import (
    LEDGER,
    Record,
    books,
    claims_named,
    counts_text,
    difference_text,
    ledger,
    read_ledger,
    result_file,
    verdict_text,
    with_tables,
    write_ledger,
)
from priors_shared.errors import UserError
from priors_shared.files import write_atomically
from priors_shared.options import say

_PAGES = ("*.md", "docs/**/*.md", "packages/*/*.md", "shared/*.md")
_MARK = "<!-- claims: "


def check(results: Path) -> int:
    """Say where the stored ledger or a page differs from what the stored rows say; 1 where any does."""
    records = ledger(results, books())
    stored = {record["id"]: record for record in read_ledger(results / LEDGER)}
    wrong = []
    for record in records:
        old = stored.pop(record["id"], None)
        if old is None:
            wrong.append(f"{record['id']}: not in the ledger")
        elif old["verdict"] != record["verdict"]:
            wrong.append(f"{record['id']}: {old['verdict']!r} stored, {record['verdict']!r} now")
        elif old != record:
            wrong.append(f"{record['id']}: its numbers or words changed")
    wrong += [f"{name}: in the ledger, but no package claims it" for name in stored]
    wrong += [
        f"{path}: its tables are not the ledger's" for path, _ in stale_pages(results, records)
    ]
    for line in wrong:
        say(line)
    say(counts_text(records))
    if wrong:
        say("reproduce --update writes the ledger and the pages anew")
    return min(len(wrong), 1)


def update(results: Path) -> int:
    """Write the ledger and the tables of the pages from the stored rows."""
    records = ledger(results, books())
    write_ledger(results / LEDGER, records)
    say(f"written  {results / LEDGER}")
    for path, text in stale_pages(results, records):
        write_atomically(path, text)
        say(f"written  {path}")
    say(counts_text(records))
    return 0


def stale_pages(results: Path, records: Sequence[Record]) -> Iterator[tuple[Path, str]]:
    """The Markdown pages of the repository around `results` whose tables of claims differ, with the right text."""
    root = results.resolve().parent.parent
    for pattern in _PAGES:
        for path in sorted(root.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            if _MARK not in text:
                continue
            folder = _relative(results.resolve(), path.parent)
            right = with_tables(text, records, results=folder)
            if right != text:
                yield path, right


def _relative(folder: Path, start: Path) -> str:
    path = Path(os.path.relpath(folder, start)).as_posix()
    return "" if path == "." else f"{path}/"


def rerun(name: str, results: Path, out: Path, runs: Path) -> int:
    """Run the experiments of claims from scratch, in a folder of their own; 1 where a verdict comes out another.

    Args:
        name: of a claim, or what several begin with.
        results: folder of the stored rows, which say the scale.
        out: folder of the new rows.
        runs: folder of trainings: those that it holds are used again.
    """
    registered = books()
    chosen = claims_named(name, registered)
    out.mkdir(parents=True, exist_ok=True)
    for book, experiment, scale in _experiments(chosen, results):
        say(f"{book.system}: {experiment} ({scale})")
        known = book.experiments()
        if experiment not in known:
            raise UserError(f"{book.system} has no experiment {experiment!r}")
        known[experiment](preset=scale, out=out, runs=runs, quick=False)
    systems = {book.system: book for book, _ in chosen}
    before = {r["id"]: r for r in ledger(results, systems.values())}
    after = {r["id"]: r for r in ledger(out, systems.values())}
    changed = 0
    for _, claim in chosen:
        old, new = before[claim.id], after[claim.id]
        say(f"{claim.id}: {verdict_text(new)}, {difference_text(new)}")
        if claim.experiment and old["verdict"] != new["verdict"]:
            say(f"{claim.id}: the stored verdict is {old['verdict']!r}")
            changed = 1
    return changed


def _experiments(
    chosen: Sequence[tuple[Book, Claim]], results: Path
) -> Iterator[tuple[Book, str, str]]:
    done = set()
    for book, claim in chosen:
        if claim.experiment is None:
            say(
                f"{claim.id}: no experiment runs it: {claim.why_not or f'{claim.stem} is a benchmark'}"
            )
        elif (book.system, claim.experiment) not in done:
            done.add((book.system, claim.experiment))
            stored = result_file(results, claim.stem)
            yield book, claim.experiment, stored[1] if stored else "cpu"
