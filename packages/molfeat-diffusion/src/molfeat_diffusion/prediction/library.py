"""Files in, files out, for `fit`, `predict` and `screen`: every row of the input is accounted for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from rdkit import Chem, rdBase

from molfeat_diffusion.data.tables import (
    chunks,
    count_rows,
    read_rows,
    read_targets,
    write_failures,
)
from molfeat_diffusion.featurizers.blocks import FeatureBlocks
from molfeat_diffusion.featurizers.descriptors import fingerprint
from molfeat_diffusion.featurizers.rows import Failure
from molfeat_diffusion.plots import picture_grid
from molfeat_diffusion.prediction.predictor import Predictor
from molfeat_diffusion.prediction.screening import POOL, diversity, pick
from priors_shared.console import Progress
from priors_shared.errors import UserError
from priors_shared.files import write_atomically


class Scored(NamedTuple):
    """Some rows of a library."""

    start: int
    ids: list[str]
    molecules: list[Any]
    scores: np.ndarray
    features: np.ndarray
    failures: list[Failure]


class _Candidate(NamedTuple):
    """A row that may be picked."""

    row: int
    id: str
    molecule: Any
    score: float
    features: np.ndarray


def fit_file(
    blocks: FeatureBlocks,
    source: Path,
    target: str,
    out: Path,
    *,
    task: str,
    smiles_column: str | None = None,
    id_column: str | None = None,
    seed: int = 0,
) -> Predictor:
    """Fit on a table's molecules and write the predictor to a folder, with failures.csv.

    Raises:
        UserError: unreadable input; an output that exists; too few rows.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: use another --out")
    rows = list(read_rows(source, smiles_column=smiles_column, id_column=id_column))
    values = read_targets(source, target)
    if task == "auto":
        known = values[np.isfinite(values)]
        task = "classification" if len(np.unique(known)) <= 2 else "regression"
    predictor, report = Predictor.fit(
        blocks,
        [row.molecule for row in rows],
        values,
        task=task,  # type: ignore[arg-type]
        ids=[row.id for row in rows],
        seed=seed,
    )
    predictor.record |= {"table": source.name, "target": target}
    predictor.save(out)
    write_failures(out / "failures.csv", report)
    return predictor


def scored(
    predictor: Predictor,
    source: Path,
    *,
    smiles_column: str | None = None,
    id_column: str | None = None,
    chunk: int = 512,
    quiet: bool = False,
) -> Iterator[Scored]:
    """Scores of a library, some rows at a time, in order."""
    columns = {"smiles_column": smiles_column, "id_column": id_column}
    total = count_rows(source, **columns)
    if total == 0:
        raise UserError(f"{source}: it has no rows")
    start = 0
    with Progress(total, "score", quiet=quiet) as progress:
        for rows in chunks(read_rows(source, **columns), chunk):
            ids, molecules = [row.id for row in rows], [row.molecule for row in rows]
            X, report = predictor.blocks.transform(
                molecules, ids=ids, first_row=start, return_failures=True
            )
            yield Scored(start, ids, molecules, predictor.scores(X), X, report)
            start += len(rows)
            progress.advance(len(rows))


def predict_file(predictor: Predictor, source: Path, out: Path, **options: Any) -> tuple[int, int]:
    """Write row, id, score of every row, in order; returns rows, and how many failed (NaN).

    Raises:
        UserError: unreadable input; an output that exists or is neither .csv nor .parquet.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out}: its name must end in .csv or .parquet")
    if not out.parent.is_dir():
        raise UserError(f"{out}: the folder {out.parent} does not exist")
    if out.exists():
        raise UserError(f"{out} exists: remove it, or use another --out")
    schema = pa.schema([("row", pa.int64()), ("id", pa.string()), ("score", pa.float64())])
    writer: Any = pq.ParquetWriter if out.suffix == ".parquet" else pyarrow.csv.CSVWriter
    pending = out.with_name(f"{out.name}.next")
    report: list[Failure] = []
    rows = failed = 0
    with writer(str(pending), schema) as file:
        for part in scored(predictor, source, **options):
            numbers = range(part.start, part.start + len(part.ids))
            table = pa.table([list(numbers), part.ids, part.scores], schema=schema)
            file.write_table(table) if out.suffix == ".parquet" else file.write(table)
            report += part.failures
            rows += len(part.ids)
            failed += int(np.isnan(part.scores).sum())
    write_failures(out.with_name(f"{out.name}.failures.csv"), report)
    pending.replace(out)
    return rows, failed


def screen_file(
    predictor: Predictor, source: Path, out: Path, *, top: int, diverse: bool, **options: Any
) -> dict[str, Any]:
    """Write picks (OUT), their pictures (OUT's .png), the failures and a report of diversity (OUT.json).

    Raises:
        UserError: as `predict_file`; no row has a score.
    """
    if out.suffix != ".csv" or not out.parent.is_dir():
        raise UserError(f"{out}: give a .csv file in a folder that exists")
    if out.exists():
        raise UserError(f"{out} exists: remove it, or use another --out")
    if top < 1:
        raise UserError(f"--top {top}: must be 1 or more")
    candidates, report, rows, failed = _best_rows(predictor, source, POOL * top, **options)
    if not candidates:
        raise UserError(f"{source}: no row has a score; {rows} failed")
    scores = np.array([candidate.score for candidate in candidates])
    matrix = predictor.model["standardize"].transform([c.features for c in candidates])
    smiles = [_canonical(candidate.molecule) for candidate in candidates]
    mols = [Chem.MolFromSmiles(text) for text in smiles]
    fingerprints = [fingerprint(mol) for mol in mols]
    picks = pick(scores, fingerprints, top, diverse=diverse)
    best = pick(scores, fingerprints, top, diverse=False)
    found = {
        "rows": rows,
        "failed": failed,
        "picks": diversity([mols[i] for i in picks], matrix[picks]),
        "best": diversity([mols[i] for i in best], matrix[best]),
        "mean_score": {"picks": float(scores[picks].mean()), "best": float(scores[best].mean())},
        "diverse": diverse,
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["pick", "rank", "row", "id", "smiles", "score"])
    for number, i in enumerate(picks, start=1):
        chosen = candidates[i]
        values = [number, i + 1, chosen.row, chosen.id, smiles[i], f"{chosen.score:.6g}"]
        writer.writerow(values)
    legends = [f"{candidates[i].id}  {candidates[i].score:.3g}" for i in picks]
    picture_grid(out.with_suffix(".png"), [mols[i] for i in picks], legends)
    write_failures(out.with_name(f"{out.name}.failures.csv"), report)
    write_atomically(out.with_name(f"{out.name}.json"), json.dumps(found, indent=2) + "\n")
    write_atomically(out, text.getvalue())
    return found


def _best_rows(
    predictor: Predictor, source: Path, most: int, **options: Any
) -> tuple[list[_Candidate], list[Failure], int, int]:
    """The best rows, in constant memory; all failures; how many rows there are, and how many without a score."""
    candidates: list[_Candidate] = []
    report: list[Failure] = []
    rows = failed = 0
    for part in scored(predictor, source, **options):
        known = np.flatnonzero(np.isfinite(part.scores))
        candidates += [
            _Candidate(
                part.start + int(i),
                part.ids[i],
                part.molecules[i],
                float(part.scores[i]),
                part.features[i],
            )
            for i in known
        ]
        candidates.sort(key=lambda candidate: -candidate.score)  # stable: ties in the input's order
        del candidates[most:]
        report += part.failures
        rows += len(part.ids)
        failed += len(part.ids) - len(known)
    return candidates, report, rows, failed


def _canonical(molecule: Any) -> str:
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(molecule) if isinstance(molecule, str) else molecule
        return Chem.MolToSmiles(Chem.RemoveHs(mol))
