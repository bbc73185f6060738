"""The ledger: verdicts follow from rows by the stated rule, and pages from the ledger."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from priors_shared.claims import EACH, Book, Claim, Match, commands, judge, ledger, values_at
from priors_shared.claims.ledger import read_ledger, with_tables, write_ledger
from priors_shared.claims.matrix import claims_matrix
from priors_shared.claims.verdicts import power_of
from priors_shared.errors import UserError
from priors_shared.reports import write_result

ROWS = {
    "per_seed": {
        "ours": {"0": {"acc": [1.0, 51.0]}, "1": {"acc": [1.0, 52.0]}, "2": {"acc": [1.0, 53.5]}},
        "plain": {"0": {"acc": [1.0, 50.0]}, "2": {"acc": [1.0, 52.0]}, "1": {"acc": [1.0, 50.5]}},
    },
    "listed": [{"seed": 4, "x": 1.0}, {"seed": 2, "x": 2.0}],
    "runs": [{"arm": "a", "case": "c1", "t": 3.0}, {"arm": "b", "case": "c1", "t": 4.0}],
    "splits": {"A": [0.1, 0.2, None]},
}
CLAIM = Claim(
    id="9.1-ours",
    section="9, Table 9.1",
    statement="ours beats plain <b>",
    experiment="table-9.1",
    better=("per_seed", "ours", EACH, "acc", 1),
    minus=(("per_seed", "plain", EACH, "acc", 1),),
    thesis=(60.0, 55.0),
)


def store(folder: Path, rows: Mapping[str, Any] = ROWS, **changes: Any) -> None:
    path = folder / "table-9.1-cpu.json"
    write_result(
        path,
        experiment="table-9.1",
        claim="x",
        rows=[{"model": "ours"}],
        config={},
        seeds=[0, 1, 2],
        data="made",
        hardware={},
        command="x reproduce table-9.1",
        extra=rows,
    )
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "abc"} | changes))


def book(*claims: Claim, run: Callable[..., None] | None = None) -> Book:
    return Book(
        system="pack",
        claims=claims or (CLAIM,),
        experiments=lambda: {"table-9.1": run} if run else {},
    )


@pytest.mark.parametrize(
    ("differences", "expected", "margin", "verdict"),
    [
        ([1.0, 1.2, 0.9], None, 0.0, "confirmed"),
        ([-1.0, -1.2, -0.9], 5.0, 0.0, "contradicted"),
        ([-0.1, 0.1, 0.02], 5.0, 0.0, "not confirmed"),
        ([-5.0, 6.0, 0.1], 5.0, 0.0, "can't tell at this scale"),
        ([-0.1, 0.1, 0.02], None, 0.0, "can't tell at this scale"),
        ([3.0], 1.0, 0.0, "can't tell at this scale"),
        ([-0.1, 0.1, 0.02], None, 0.5, "confirmed"),  # no loss of more than a half
        (
            [-1.0, -0.9, -0.4],
            None,
            0.5,
            "can't tell at this scale",
        ),  # no loss, too few pairs to say
        ([-0.52, -0.48, -0.5], None, 0.5, "not confirmed"),  # no loss would have been seen
        ([3.0, 3.0], 1.0, 0.0, "can't tell at this scale"),  # two that agree by luck
        ([-1.0, -1.2, -0.9], None, 0.5, "contradicted"),
    ],
)
def test_rule(
    differences: list[float], expected: float | None, margin: float, verdict: str
) -> None:
    assert judge(differences, expected=expected, margin=margin).verdict == verdict


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(0, 5))
def test_a_claim_and_its_opposite_do_not_both_hold(values: list[float], expected: float) -> None:
    one = judge(values, expected=expected).verdict
    other = judge([-v for v in values], expected=expected).verdict
    assert {one, other} != {"confirmed"}
    assert (one == "confirmed") == (other == "contradicted")


def test_power_is_the_share_of_experiments_that_see_the_difference() -> None:
    draws = np.random.default_rng(0).normal(1.0, 1.2, size=(4000, 6))
    seen = [judge(list(row)).low for row in draws[:1500]]
    share = np.mean([low is not None and low > 0 for low in seen])
    assert power_of(1.0, 1.2, 6) == pytest.approx(share, abs=0.04)
    assert power_of(1e6, 1.0, 6) == 1.0


def test_values_are_found_in_every_form_of_result() -> None:
    assert values_at(ROWS, ("per_seed", "ours", EACH, "acc", 1)) == {"0": 51, "1": 52, "2": 53.5}
    assert values_at(ROWS, ("listed", EACH, "x")) == {"4": 1.0, "2": 2.0}
    assert values_at(ROWS, ("runs", Match((("arm", "b"),), "case"), "t")) == {"c1": 4.0}
    assert values_at(ROWS, ("splits", "A")) == {"0": 0.1, "1": 0.2}
    assert values_at(ROWS, ("listed", 1, "x")) == {"": 2.0}
    for path in (("nothing",), ("listed", 7), ("listed", EACH, "seed", "deeper"), ("per_seed",)):
        with pytest.raises(UserError, match=r"the result has no|is no number"):
            values_at(ROWS, path)


def test_records_of_one_seed_are_all_counted() -> None:
    rows = {"scenes": [{"seed": 0, "x": 1.0}, {"seed": 0, "x": 2.0}, {"seed": 0, "x": 4.0}]}
    assert values_at(rows, ("scenes", EACH, "x")) == {"0": 1.0, "1": 2.0, "2": 4.0}
    with pytest.raises(UserError, match="several records have the same 'seed'"):
        values_at(rows, ("scenes", Match((), "seed"), "x"))


def test_a_gain_beside_a_gain_and_rows_of_another_name(tmp_path: Path) -> None:
    store(tmp_path)
    (tmp_path / "table-9.1-cpu.json").rename(tmp_path / "other.json")
    ours = ("per_seed", "ours", EACH, "acc", 1)
    claim = replace(CLAIM, rows="other", plus=(ours,), minus=(ours, ours), bound=-1.0, thesis=())
    (record,) = ledger(tmp_path, [book(claim)])
    assert (record["difference"], record["rows"]) == (1.0, "other.json")
    gain = replace(CLAIM, plus=(ours,), minus=(ours, ours), thesis=(5.0, 1.0, 2.0, 3.0))
    assert gain.thesis_difference == 1.0


def test_pairs_are_paired_by_name(tmp_path: Path) -> None:
    store(tmp_path)
    (record,) = ledger(tmp_path, [book()])
    assert record["difference"] == pytest.approx(4 / 3)
    assert record["thesis"]["difference"] == 5.0
    assert (record["verdict"], record["scale"], record["pairs"]) == ("confirmed", "cpu", 3)


def test_a_claim_without_rows_has_its_record(tmp_path: Path) -> None:
    never = Claim(id="9.2", section="9", statement="s", why_not="needs a card")
    records = ledger(tmp_path, [book(CLAIM, never)])
    assert [r["verdict"] for r in records] == ["not run", "not run"]
    assert records[0]["note"] == "table-9.1 has no stored result"
    assert records[1]["note"] == "needs a card"


@pytest.mark.parametrize("key", ["seeds", "commit"])
def test_rows_need_seeds_and_a_commit(tmp_path: Path, key: str) -> None:
    nothing: dict[str, Any] = {"seeds": [], "commit": None}
    store(tmp_path, **{key: nothing[key]})
    with pytest.raises(UserError, match=rf"table-9\.1-cpu\.json: its rows have no {key}"):
        ledger(tmp_path, [book()])


def test_odd_claims_and_ledgers_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"9\.1-ours: 2 claims have this id"):
        ledger(tmp_path, [book(CLAIM, CLAIM)])
    store(tmp_path, {"per_seed": {"ours": 1}})
    with pytest.raises(UserError, match=r"table-9\.1-cpu\.json: 9\.1-ours: per_seed > ours"):
        ledger(tmp_path, [book()])
    with pytest.raises(UserError, match="no such ledger"):
        read_ledger(tmp_path / "claims.json")
    (tmp_path / "claims.json").write_text('{"schema": 0, "claims": []}')
    with pytest.raises(UserError, match="ledger of version 0"):
        read_ledger(tmp_path / "claims.json")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one package's claims, their rows, and a page."""
    results = tmp_path / "docs" / "results"
    store(results)
    page = "before\n<!-- claims: pack -->\nold\n<!-- claims end -->\nafter\n"
    (tmp_path / "README.md").write_text(page)
    (results / "README.md").write_text("<!-- claims: counts --><!-- claims end -->")
    monkeypatch.setattr(commands, "books", lambda: [book(run=remake)])
    return results


def remake(*, preset: str, out: Path, runs: Path, quick: bool) -> None:
    """An experiment whose plain arm wins this time."""
    swapped = {"ours": ROWS["per_seed"]["plain"], "plain": ROWS["per_seed"]["ours"]}  # type: ignore[index]
    store(out, {"per_seed": swapped})


def test_update_writes_what_check_accepts(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.update(repository) == 0
    assert commands.check(repository) == 0
    text = (repository.parent.parent / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "[9.1-ours](docs/results/table-9.1-cpu.json)" in text
    assert "&lt;b&gt;" in text
    assert "**confirmed** (cpu, 3 pairs)" in text
    assert "1 claims: 1 confirmed" in (repository / "README.md").read_text()
    records = read_ledger(repository / "claims.json")
    write_ledger(repository / "again.json", records)
    assert (repository / "again.json").read_bytes() == (repository / "claims.json").read_bytes()


@pytest.mark.parametrize("what", ["rows", "ledger", "page", "removed"])
def test_check_sees_every_difference(
    repository: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.update(repository)
    if what == "rows":
        remake(preset="cpu", out=repository, runs=repository, quick=False)
    elif what == "ledger":
        records = read_ledger(repository / "claims.json")
        write_ledger(repository / "claims.json", [r | {"verdict": "not run"} for r in records])
    elif what == "removed":
        records = read_ledger(repository / "claims.json")
        write_ledger(repository / "claims.json", [*records, records[0] | {"id": "0.0"}])
    else:
        page = repository.parent.parent / "README.md"
        page.write_text(page.read_text().replace("**confirmed**", "**contradicted**"))
    capsys.readouterr()
    assert commands.check(repository) == 1
    said = capsys.readouterr().out
    assert {"page": "README.md: its tables", "removed": "0.0: in the ledger"}.get(
        what, "9.1-ours: "
    ) in said


def test_rerun_says_when_a_verdict_changes(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (repository / "table-9.1-cpu.json").read_bytes()
    assert commands.rerun("9.1", repository, tmp_path / "out", tmp_path / "runs") == 1
    assert "the stored verdict is 'confirmed'" in capsys.readouterr().out
    assert (repository / "table-9.1-cpu.json").read_bytes() == before
    with pytest.raises(UserError, match=r"unknown claim '9\.2': did you mean 9\.1-ours\?"):
        commands.rerun("9.2", repository, tmp_path / "out", tmp_path / "runs")


def test_a_page_of_an_unknown_package_is_refused() -> None:
    with pytest.raises(UserError, match="nobody: no package has this name"):
        with_tables("<!-- claims: nobody -->\n<!-- claims end -->", [])


def test_matrix_says_each_claim_in_words_and_escapes_them(tmp_path: Path) -> None:
    store(tmp_path)
    shown = claims_matrix(ledger(tmp_path, [book()]))
    assert shown.count('href="#claim-9.1-ours"') == shown.count('id="claim-9.1-ours"') == 1
    assert "ours beats plain &lt;b&gt;" in shown
    assert "<b>" not in shown
    assert 'scope="col"' in shown
