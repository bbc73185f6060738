"""A file of molecules to a file of features, in shards: constant memory, and nothing is done twice.

A shard is a fixed range of rows. Its features and its record are written beside the output, each to a
temporary name and then renamed, the record last; it says which rows it holds, of which input, by which
options. A rerun uses the shards whose record fits. At the end, the ranges must follow on each other and be
complete before they are joined.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from molfeat_diffusion.data.tables import (
    Row,
    chunks,
    count_features,
    count_rows,
    feature_table,
    input_kind,
    output_kind,
    read_rows,
    write_failures,
    write_features,
)
from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
from molfeat_diffusion.featurizers.rows import Failure
from priors_shared.console import Progress
from priors_shared.errors import UserError
from priors_shared.files import lock_folder


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What became of a file's rows."""

    rows: int
    failed: int
    notes: int
    duplicates: int
    """rows whose id an earlier row has"""
    report: Path
    """table of failures and notes"""


def featurize_file(
    featurizer: MiDiFeaturizer,
    source: Path,
    out: Path,
    *,
    smiles_column: str | None = None,
    id_column: str | None = None,
    shard_rows: int = 512,
    resume: bool = False,
    engine: Literal["local", "ray"] = "local",
    workers: int = 1,
    threads: int | None = None,
    quiet: bool = False,
) -> Summary:
    """Write features of every row of `source` to `out`, and the failure table beside it.

    Rows that fail are NaN, missing or an error, by the featurizer's `errors`. The failure table is
    OUT.failures.csv: row, id, stage, reason, failed (no: the row was altered, and has features).

    With the engine ray, `workers` processes make the shards (`distributed.make_shards`), each with `threads` CPU
    threads and `featurizer.n_jobs` processes of its own for conformers. The output is the same, to the bit.

    Raises:
        UserError: unreadable input, an output that exists, shards of another run in the way; a row that
            fails, with errors="raise".
    """
    columns = {"smiles_column": smiles_column, "id_column": id_column}
    _check(featurizer, source, out, shard_rows, engine, workers)
    parts = out.with_name(f"{out.name}.parts")
    if out.exists() and not parts.exists():
        if resume:
            return _done(featurizer, source, out, columns)
        raise UserError(f"out: {out} exists: remove it, or use another file")
    if parts.exists() and not resume:
        raise UserError(f"resume: {parts} holds an unfinished run: set this, or remove the folder")
    featurizer.fit()
    total = count_rows(source, **columns)
    if total == 0:
        raise UserError(f"{source}: it has no rows")
    key = _key(featurizer, source, columns, shard_rows)
    parts.mkdir(exist_ok=True)
    lock = lock_folder(parts)
    try:
        if engine == "ray":
            from molfeat_diffusion.jobs.ray import make_shards

            make_shards(
                featurizer,
                partial(pending_shards, source, columns, shard_rows, parts, key),
                partial(run_shard, parts=parts.resolve(), key=key),
                total,
                workers=workers,
                threads=threads,
                quiet=quiet,
            )
        # Shards that Ray made are found, checked and counted here; in one process, they are made here.
        failures, duplicates = _make(
            featurizer, read_rows(source, **columns), total, shard_rows, parts, key, quiet=quiet
        )
        summary = Summary(
            rows=total,
            failed=sum(f.failed for f in failures),
            notes=sum(not f.failed for f in failures),
            duplicates=duplicates,
            report=_report_of(out),
        )
        write_failures(summary.report, failures)
        kept = total - summary.failed * (featurizer.errors == "skip")
        starts = range(0, total, shard_rows)
        write_features(out, (pq.read_table(_shard(parts, s, ".parquet")) for s in starts), kept)
        shutil.rmtree(parts)
    except UserError:
        if not any(parts.glob("*.json")):
            shutil.rmtree(parts)  # nothing to go on from
        raise
    finally:
        if lock is not None:
            lock.close()
    return summary


def _check(
    featurizer: MiDiFeaturizer, source: Path, out: Path, shard_rows: int, engine: str, workers: int
) -> None:
    """Refuse what can't be, before anything is made."""
    kind = output_kind(out)
    input_kind(source)
    if kind == ".npy" and featurizer.errors == "skip":
        raise UserError(
            f"{out}: a .npy has no ids, so skipped rows would shift it: use --errors nan"
        )
    for name, value in (("shard_rows", shard_rows), ("workers", workers)):
        if value < 1:
            raise UserError(f"{name}: {value} is less than 1")
    if engine == "ray" and featurizer.cache is not None:
        raise UserError("cache: it is one process's, leave it out with the engine ray")


def _report_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.failures.csv")


def _shard(parts: Path, start: int, suffix: str = "") -> Path:
    return parts / f"{start:012d}{suffix}"


def _make(
    featurizer: MiDiFeaturizer,
    source: Iterator[Row],
    total: int,
    shard_rows: int,
    parts: Path,
    key: str,
    *,
    quiet: bool,
) -> tuple[list[Failure], int]:
    """Make the shards that are not done; returns all failures, and how many rows repeat an id."""
    failures: list[Failure] = []
    seen: set[int] = set()
    start = 0
    with Progress(total, "featurize", quiet=quiet) as progress:
        for rows in chunks(source, shard_rows):
            record = _finished(_shard(parts, start), key, start, rows)
            if record is None:
                record = run_shard(featurizer, start, rows, parts=parts, key=key)
            failures += [Failure(*failure) for failure in record["report"]]
            seen.update(hash(row.id) for row in rows)
            start += len(rows)
            progress.advance(len(rows), failed=sum(f.failed for f in failures))
    if start != total:
        raise UserError(f"the input changed while it was read ({total} rows, then {start})")
    return failures, total - len(seen)


def _done(
    featurizer: MiDiFeaturizer, source: Path, out: Path, columns: dict[str, str | None]
) -> Summary:
    """What a finished output holds, where it is of this input's rows.

    Raises:
        UserError: it has another number of rows, or no failure table.
    """
    report = _report_of(out)
    if not report.is_file():
        raise UserError(f"out: {out} exists, without {report.name}: remove it, or use another file")
    with open(report, encoding="utf-8", newline="") as file:
        noted = [line["failed"] for line in csv.DictReader(file)]
    failed = noted.count("yes")
    ids = [hash(row.id) for row in read_rows(source, **columns)]
    held, wanted = count_features(out), len(ids) - failed * (featurizer.errors == "skip")
    if held != wanted:
        raise UserError(f"out: {out} has {held} rows, not the {wanted} of {source}: remove it")
    return Summary(
        rows=len(ids),
        failed=failed,
        notes=len(noted) - failed,
        duplicates=len(ids) - len(set(ids)),
        report=report,
    )


def pending_shards(
    source: Path, columns: dict[str, str | None], shard_rows: int, parts: Path, key: str
) -> Iterator[tuple[int, list[Row]]]:
    """First row and rows of each shard that is not done, as the file is read."""
    start = 0
    for rows in chunks(read_rows(source, **columns), shard_rows):
        if _finished(_shard(parts, start), key, start, rows) is None:
            yield start, rows
        start += len(rows)


def run_shard(
    featurizer: MiDiFeaturizer, start: int, rows: list[Row], *, parts: Path, key: str
) -> dict[str, Any]:
    """Write a shard's features, then its record, which is returned."""
    shard = _shard(parts, start)
    ids = [row.id for row in rows]
    features, report = featurizer.transform(
        [row.molecule for row in rows], ids=ids, first_row=start, return_failures=True
    )
    numbers = list(range(start, start + len(rows)))
    if featurizer.errors == "skip":
        gone = {failure.index for failure in report if failure.failed}
        ids = [name for n, name in zip(numbers, ids, strict=True) if n not in gone]
        numbers = [n for n in numbers if n not in gone]
    names = featurizer.get_feature_names_out().tolist()
    table = feature_table(numbers, ids, np.asarray(features), names)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    content = sink.getvalue()
    _write(shard.with_suffix(".parquet"), content)
    record = {
        "key": key,
        "start": start,
        "rows": len(rows),
        "content": _rows_digest(rows),
        "digest": hashlib.sha256(content).hexdigest(),
        "report": report,
    }
    _write(shard.with_suffix(".json"), json.dumps(record).encode())
    return record


def _write(path: Path, content: bytes) -> None:
    """Atomically, by a name of its own: a killed run's last worker may still write the same shard."""
    pending = path.with_name(f"{path.name}.{uuid.uuid4().hex}.next")
    with open(pending, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    pending.replace(path)


def _finished(shard: Path, key: str, start: int, rows: list[Row]) -> dict[str, Any] | None:
    """The record of a shard that is done; None: it is not, or of another run."""
    try:
        record = json.loads(shard.with_suffix(".json").read_text())
        content = shard.with_suffix(".parquet").read_bytes()
        wanted = (key, start, len(rows), _rows_digest(rows), hashlib.sha256(content).hexdigest())
        names = ("key", "start", "rows", "content", "digest")
        return record if tuple(record[name] for name in names) == wanted else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _rows_digest(rows: list[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        molecule = row.molecule
        content = molecule.ToBinary() if hasattr(molecule, "ToBinary") else repr(molecule).encode()
        digest.update(row.id.encode() + b"\x1f" + content + b"\x1e")
    return digest.hexdigest()


def _key(
    featurizer: MiDiFeaturizer, source: Path, columns: dict[str, str | None], shard_rows: int
) -> str:
    # What the result does not depend on may change between a run and its resumption.
    options = {
        name: value
        for name, value in featurizer.get_params().items()
        if name not in ("checkpoint", "n_jobs", "device", "cache")
    }
    parts = (str(source.resolve()), columns, shard_rows, options, featurizer.checkpoint_digest)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
