"""The ledger of claims, and the pages that show it, are what the stored rows say."""

from collections import Counter
from pathlib import Path

import pytest

from priors_shared.claims import books, commands, read_ledger

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
