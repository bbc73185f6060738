"""The ledger of claims, and the pages that show it, are what the stored rows say."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from priors_shared.claims import Book, books, commands, ledger, read_ledger

RESULTS = Path(__file__).parents[1] / "docs" / "results"
SYSTEMS = ["hyperfields", "hypernet-maml", "memory-adapt", "molfeat-diffusion"]


def test_ledger_and_pages_are_what_the_stored_rows_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.check(RESULTS) == 0, capsys.readouterr().err


def test_every_chapter_has_its_claims() -> None:
    records = read_ledger(RESULTS / "claims.json")
    thesis = [record for record in records if record["source"] == "thesis"]
    assert len(thesis) > 100
    chapters = Counter(record["id"][0] for record in thesis)
    assert set(chapters) == set("23456AB")
    assert all(record["note"] for record in records if record["verdict"] == "not run")
    assert sorted(book.system for book in books()) == SYSTEMS


@pytest.mark.parametrize("book", books(), ids=lambda book: book.system)
def test_claims_name_experiments_that_exist(book: Book) -> None:
    known = book.experiments()
    named = {claim.experiment for claim in book.claims if claim.experiment}
    assert named <= set(known)


@pytest.mark.parametrize("book", books(), ids=lambda book: book.system)
def test_small_claims_measured_anew_have_the_stored_verdicts(book: Book, tmp_path: Path) -> None:
    small = [claim for claim in book.claims if claim.experiment == "small-claims"]
    assert small
    book.experiments()["small-claims"](preset="cpu", out=tmp_path, runs=tmp_path, quick=True)
    anew = {r["id"]: r["verdict"] for r in ledger(tmp_path, [replace(book, claims=small)])}
    stored = {r["id"]: r["verdict"] for r in read_ledger(RESULTS / "claims.json")}
    assert anew == {name: stored[name] for name in anew}
