"""Files in, files out: a labelled table to a model, a repertoire to scores, in constant memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hypernet_maml.tcr.pretrained import EpitopeModel
from hypernet_maml.tcr.receptors import Chain, Receptor
from hypernet_maml.tcr.tables import Row, read_receptors
from priors_shared.errors import UserError
from priors_shared.files import check_output_file, replacing

COLUMNS = (
    *(
        "row",
        "name",
        "v_alpha",
        "cdr3_alpha",
        "v_beta",
        "cdr3_beta",
        "score",
        "p_other",
        "p_binder",
        "verdict",
    ),
    *("nearest_v_alpha", "nearest_cdr3_alpha", "nearest_v_beta", "nearest_cdr3_beta", "distance"),
)
FAILED = "failed"
"""The verdict of a row without a receptor; its reason stands in the table of failures."""


@dataclass(frozen=True)
class Labelled:
    """A labelled table. failures: row and reason of what is not used."""

    epitope: str
    binders: list[Receptor]
    non_binders: list[Receptor]
    failures: list[tuple[int, str]]


@dataclass(frozen=True)
class Counts:
    """Rows of a repertoire: by verdict, those failed among them."""

    rows: int
    verdicts: dict[str, int]


def read_labelled(path: Path, epitope: str | None = None) -> Labelled:
    """Binders and non-binders of one epitope; rows without a label are binders.

    Receptors of other epitopes are failures with that reason, as are doubles and receptors with both labels.

    Raises:
        UserError: see `read_receptors`; several epitopes and none chosen; no binder of it.
    """
    failures: list[tuple[int, str]] = []
    rows: list[Row] = []
    for row in read_receptors(path):
        failures += row.others
        if row.receptor is None:
            failures.append((row.number, row.reason))
        else:
            rows.append(row)
    names = sorted({row.epitope for row in rows if row.epitope})
    if epitope is None and len(names) > 1:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise UserError(f"epitope: {path} has {len(names)} ({shown}): choose one")
    wanted = (epitope or "".join(names)).upper()
    if epitope is not None and names and wanted not in names:
        raise UserError(f"epitope: {path} has no {wanted}: choose one of {', '.join(names[:5])}")
    first: dict[object, Row] = {}
    both: set[object] = set()
    for row in rows:
        assert row.receptor is not None  # kept above
        key = row.receptor.key
        if names and row.epitope != wanted:
            failures.append((row.number, f"of epitope {row.epitope or 'unknown'}, not {wanted}"))
        elif key not in first:
            first[key] = row
        elif (row.label is False) != (first[key].label is False):
            both.add(key)
            failures.append(
                (row.number, f"the receptor of row {first[key].number} with another label")
            )
        else:
            failures.append((row.number, f"the receptor of row {first[key].number} again"))
    failures += [(first[key].number, "a receptor with both labels") for key in both]
    used = [row for key, row in first.items() if key not in both]
    binders = [row.receptor for row in used if row.receptor and row.label is not False]
    others = [row.receptor for row in used if row.receptor and row.label is False]
    if not binders:
        why = (
            f"; the first row that failed is {failures[0][0]}: {failures[0][1]}" if failures else ""
        )
        raise UserError(f"{path}: no binder{f' of {wanted}' if wanted else ''}{why}")
    return Labelled(wanted, binders, others, sorted(failures))


def score_table(
    model: EpitopeModel, path: Path, out: Path, *, confidence: float, batch_size: int = 2000
) -> Counts:
    """Write a line for each receptor or failed row of a table, in its order, and out.failures.tsv beside it.

    Raises:
        UserError: see `read_receptors`; or a place that cannot be written.
    """
    failures = failures_file(out)
    for place in (out, failures):
        check_output_file(place)
    if out.resolve() == path.resolve():
        raise UserError(f"{out} is the table that is read: give another file")
    out.parent.mkdir(parents=True, exist_ok=True)
    verdicts: dict[str, int] = {}
    total = 0
    with ExitStack() as stack:
        scores = _writer(stack, out, COLUMNS)
        failed = _writer(stack, failures, ("row", "reason"))
        for batch in _batches(read_receptors(path), batch_size):
            total += len(batch)
            for line in _lines(model, batch, confidence):
                scores.writerow(line)
                verdicts[line[9]] = verdicts.get(line[9], 0) + 1
            for row in batch:
                if row.receptor is None:
                    failed.writerow((row.number, row.reason))
                failed.writerows(row.others)
        if not total:
            raise UserError(f"{path}: no rows below the header")
    return Counts(total, verdicts)


def failures_file(out: Path) -> Path:
    """Where the rows that failed are listed."""
    return out.with_name(f"{out.name.removesuffix('.tsv')}.failures.tsv")


def write_failures(path: Path, failures: list[tuple[int, str]]) -> None:
    """Write rows and reasons."""
    with ExitStack() as stack:
        _writer(stack, path, ("row", "reason")).writerows(failures)


def _writer(stack: ExitStack, path: Path, header: tuple[str, ...]):  # type: ignore[no-untyped-def]  # csv's own
    pending = stack.enter_context(replacing(path))
    file = stack.enter_context(pending.open("w", encoding="utf-8", newline=""))
    writer = csv.writer(file, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    return writer


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while batch := list(islice(rows, size)):
        yield batch


def _lines(model: EpitopeModel, batch: list[Row], confidence: float) -> Iterator[tuple[str, ...]]:
    scored = model.score([row.receptor for row in batch if row.receptor], confidence=confidence)
    i = 0
    for row in batch:
        if row.receptor is None:
            yield (str(row.number), row.name, *[""] * 7, FAILED, *[""] * 5)
            continue
        nearest = model.binders[int(scored.nearest[i])]
        yield (
            str(row.number),
            row.name,
            *_names(row.receptor),
            f"{scored.score[i]:.4f}",
            f"{scored.p_other[i]:.4g}",
            f"{scored.p_binder[i]:.4g}",
            str(scored.verdict[i]),
            *_names(nearest),
            f"{scored.distance[i]:.0f}",
        )
        i += 1


def _names(receptor: Receptor) -> tuple[str, str, str, str]:
    alpha, beta = (chain or Chain("") for chain in (receptor.alpha, receptor.beta))
    return alpha.v or "", alpha.cdr3, beta.v or "", beta.cdr3
