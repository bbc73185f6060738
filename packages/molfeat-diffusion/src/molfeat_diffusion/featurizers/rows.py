"""Rows of molecules: what they are read from, their names, and those that fail."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem

from molfeat_diffusion.data.conformers import Parsed, parse
from molfeat_diffusion.data.molecules import MoleculeError, Vocabulary
from molfeat_diffusion.data.sources import SMILES_COLUMNS, read_sdf
from priors_shared.errors import UserError


class Failure(NamedTuple):
    """A row that has no features, or (`failed` is False) one that was altered to get them."""

    index: int  # type: ignore[assignment]  # the column's name, before the tuple's method
    """position in the input"""
    id: str
    stage: str
    """parse, vocabulary, size, conformer, features, or fragment for a note"""
    reason: str
    failed: bool = True


def molecule_sources(X: Any) -> Iterable[Any]:
    """One entry per row: a SMILES, a molecule, or whatever else stands there."""
    if isinstance(X, Path) or (isinstance(X, str) and X.endswith((".sdf", ".sdf.gz"))):
        if not Path(X).is_file():
            raise UserError(f"{X}: no such file")
        return read_sdf(Path(X))
    if isinstance(X, str | Chem.Mol):
        raise UserError("give a list of molecules, such as ['CCO'], not one alone")
    if hasattr(X, "columns"):
        names = list(X.columns)
        column = next(
            (c for c in SMILES_COLUMNS if c in names), names[0] if len(names) == 1 else None
        )
        if column is None:
            raise UserError(
                f"the table has no column smiles; its columns: {', '.join(map(str, names))}"
            )
        return X[column]
    if isinstance(X, np.ndarray) and X.ndim == 2:
        if X.shape[1] != 1:
            raise UserError(f"an array of molecules has one column, this one has {X.shape[1]}")
        return X[:, 0]
    return X


def row_names(ids: Sequence[Any] | None, count: int) -> list[str]:
    """What the failure table calls the rows: their ids, else their positions.

    Raises:
        UserError: there are more or fewer ids than rows.
    """
    names = [str(i) for i in (range(count) if ids is None else ids)]
    if len(names) != count:
        raise UserError(f"ids has {len(names)} entries for {count} molecules")
    return names


def parse_rows(
    sources: Sequence[Any],
    names: Sequence[str],
    report: list[Failure],
    vocabulary: Vocabulary | None,
    fragment: str,
    max_atoms: int | None = None,
) -> dict[int, Parsed]:
    """Rows that could be read, by position; the others, and notes, are added to the report. See `parse`."""
    found = {}
    for index, source in enumerate(sources):
        try:
            parsed = parse(source, vocabulary, fragment, max_atoms)
        except MoleculeError as error:
            report.append(Failure(index, names[index], error.stage, error.reason))
            continue
        if parsed.note is not None:
            report.append(Failure(index, names[index], "fragment", parsed.note, failed=False))
        found[index] = parsed
    return found


def refuse_failures(report: Sequence[Failure], errors: str) -> None:
    """Raise UserError for the first row that failed, where errors is "raise"."""
    failed = [failure for failure in report if failure.failed]
    if failed and errors == "raise":
        first = failed[0]
        more = f" ({len(failed)} rows fail in all)" if len(failed) > 1 else ""
        raise UserError(
            f"row {first.index} (id {first.id}): {first.stage}: {first.reason}{more}; "
            "errors='nan' or 'skip' goes on without them"
        )
