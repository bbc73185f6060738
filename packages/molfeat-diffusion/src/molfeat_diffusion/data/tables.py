"""Tables of molecules in (csv, smi, sdf, parquet) and of features out (parquet, csv, npy), row by row.

Every row of the input is a row here, empty ones included: rows are never skipped while reading.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from molfeat_diffusion.data.sources import (
    ID_COLUMNS,
    SMILES_COLUMNS,
    delimiter_of,
    find_column,
    is_header,
    open_text,
    read_sdf,
    sdf_records,
)
from priors_shared.errors import UserError
from priors_shared.files import write_atomically

if TYPE_CHECKING:
    from molfeat_diffusion.featurizers.rows import Failure

INPUTS = (".csv", ".tsv", ".smi", ".sdf", ".parquet")
OUTPUTS = (".parquet", ".csv", ".npy")


class Row(NamedTuple):
    """A row of the input."""

    id: str
    molecule: Any
    """a SMILES, an RDKit molecule, or None"""


def input_kind(path: Path) -> str:
    """The file's kind by its name: .csv (or .tsv), .smi, .sdf (each also .gz) or .parquet.

    Raises:
        UserError: no such file, or another kind.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in INPUTS:
        raise UserError(
            f"{path}: its name must end in {', '.join(INPUTS)} (or one of them and .gz)"
        )
    return ".csv" if kind == ".tsv" else kind


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Raise UserError for a file that is truncated, damaged or not of its kind."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start} of a block): convert it first"
        ) from None
    except (csv.Error, pa.ArrowException, gzip.BadGzipFile, EOFError, zlib.error, OSError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: truncated or not a {kind} file ({first})") from None


def read_rows(
    path: Path, *, smiles_column: str | None = None, id_column: str | None = None
) -> Iterator[Row]:
    """All rows of a file, in order, in constant memory.

    Args:
        path: see `input_kind`. A .smi line is a SMILES and, after white space, an id.
        smiles_column: of a csv or parquet; None: smiles, mol or canonical_smiles, whichever there is, in any case.
        id_column: of a csv or parquet; None: one of `ID_COLUMNS`, else the row's number is its id.

    Raises:
        UserError: a column that is not there; a file that is truncated or not of its kind.
    """
    kind = input_kind(path)
    with _reading(path, kind):
        if kind == ".smi":
            yield from _smi_rows(path)
        elif kind == ".sdf":
            for number, mol in enumerate(read_sdf(path)):
                name = mol.GetProp("_Name") if mol is not None and mol.HasProp("_Name") else ""
                yield Row(name or str(number), mol)
        elif kind == ".csv":
            yield from _csv_rows(path, smiles_column, id_column)
        else:
            yield from _parquet_rows(path, smiles_column, id_column)


def _smi_rows(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        number = 0
        for at, line in enumerate(file):
            words = line.split(maxsplit=1)
            if at == 0 and words and is_header(words[0]):
                continue
            name = words[1].strip() if len(words) > 1 else str(number)
            yield Row(name, words[0] if words else "")
            number += 1


def count_rows(path: Path, **columns: str | None) -> int:
    """How many rows `read_rows` will give, without reading an .sdf's molecules."""
    if input_kind(path) != ".sdf":
        return sum(1 for _ in read_rows(path, **columns))
    return sum(1 for _ in sdf_records(path))


def read_targets(path: Path, column: str) -> np.ndarray:
    """(rows,) float64 of a column of a csv or parquet, or a property of an sdf; NaN where there is no number.

    Raises:
        UserError: no such column, or a .smi file; text that is no number, with its row.
    """
    kind = input_kind(path)
    if kind == ".smi":
        raise UserError(f"{path}: a .smi file has no column {column!r}: give a csv, parquet or sdf")
    cells: list[Any] = []
    with _reading(path, kind):
        if kind == ".csv":
            with open_text(path) as file:
                lines = csv.reader(file, delimiter=delimiter_of(file))
                header = [name.strip().removeprefix("\ufeff") for name in next(lines, [])]
                at = _target(path, header, column)
                cells = [line[at] if at < len(line) else "" for line in lines]
        elif kind == ".parquet":
            with pq.ParquetFile(path) as file:
                _target(path, file.schema_arrow.names, column)
                cells = file.read(columns=[column]).column(column).to_pylist()
        else:
            for mol in read_sdf(path):
                known = mol is not None and mol.HasProp(column)
                cells.append(mol.GetProp(column) if mol is not None and known else "")
    if kind == ".sdf" and not any(cells):
        raise UserError(f"{path}: no molecule has a property {column!r}")
    return np.array([_number(path, column, row, cell) for row, cell in enumerate(cells)])


def _target(path: Path, header: Sequence[str], column: str) -> int:
    _refuse_twice(path, header, column)
    if column in header:
        return header.index(column)
    near = difflib.get_close_matches(column, header, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"{path}: no column {column!r} (its columns: {', '.join(header)}){hint}")


def _refuse_twice(path: Path, header: Sequence[str], column: str) -> None:
    if list(header).count(column) > 1:
        raise UserError(f"{path}: two columns are called {column!r}: rename one")


def _number(path: Path, column: str, row: int, cell: Any) -> float:
    text = "" if cell is None else str(cell).strip()
    if text.lower() in ("", "nan", "none", "na"):
        return float("nan")
    try:
        return float({"true": "1", "false": "0"}.get(text.lower(), text))
    except ValueError:
        raise UserError(
            f"{path}, row {row}: {column} is {text[:40]!r}, a number or nothing is needed"
        ) from None


def chunks(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Lists of `size` rows; the last may be shorter."""
    while part := list(islice(rows, size)):
        yield part


def _csv_rows(path: Path, smiles: str | None, identity: str | None) -> Iterator[Row]:
    with open_text(path) as file:
        lines = csv.reader(file, delimiter=delimiter_of(file))
        header = [name.strip().removeprefix("\ufeff") for name in next(lines, [])]
        at, at_id = _columns(path, header, smiles, identity)
        for number, cells in enumerate(lines):

            def cell(index: int, cells: Sequence[str] = cells) -> str:
                return cells[index] if index < len(cells) else ""

            name = "" if at_id is None else cell(at_id).strip()
            yield Row(name or str(number), cell(at))


def _parquet_rows(path: Path, smiles: str | None, identity: str | None) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        header = file.schema_arrow.names
        at, at_id = _columns(path, header, smiles, identity)
        names = [header[at], *([] if at_id is None else [header[at_id]])]
        number = 0
        for batch in file.iter_batches(batch_size=4096, columns=names):
            molecules = batch.column(header[at]).to_pylist()
            ids = [None] * len(molecules) if at_id is None else batch.column(names[1]).to_pylist()
            for molecule, name in zip(molecules, ids, strict=True):
                yield Row(str(number) if name is None else str(name), molecule)
                number += 1


def _columns(
    path: Path, header: Sequence[str], smiles: str | None, identity: str | None
) -> tuple[int, int | None]:
    if smiles is None:
        smiles = find_column(header, SMILES_COLUMNS) or "smiles"
    if identity is None:
        identity = find_column([name for name in header if name != smiles], ID_COLUMNS)
    wanted = {"smiles_column": smiles, "id_column": identity}
    for option, name in wanted.items():
        if name is not None:
            _refuse_twice(path, header, name)
        if name is not None and name not in header:
            near = difflib.get_close_matches(name, header, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{path}: no column {name!r} (its columns: {', '.join(header) or 'none'}){hint} "
                f"Choose one by {option}"
            )
    return header.index(smiles), None if identity is None else header.index(identity)


# --- features out ---


def output_kind(path: Path) -> str:
    """.parquet, .csv or .npy.

    Raises:
        UserError: another name, or a folder that is not there.
    """
    if path.suffix not in OUTPUTS:
        raise UserError(f"{path}: its name must end in {', '.join(OUTPUTS)}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist")
    return path.suffix


def feature_table(
    rows: Sequence[int], ids: Sequence[str], features: np.ndarray, names: Sequence[str]
) -> pa.Table:
    """Columns row, id, and one for each feature."""
    columns = [pa.array(features[:, i]) for i in range(features.shape[1])]
    return pa.table(
        [pa.array(rows, pa.int64()), pa.array(ids, pa.string()), *columns],
        names=["row", "id", *names],
    )


def write_features(path: Path, tables: Iterator[pa.Table], total: int) -> None:
    """Write parts of one table to a file, one after the other; atomically."""
    kind = output_kind(path)
    pending = path.with_name(f"{path.name}.next")
    first = next(tables)
    parts = (table for group in ([first], tables) for table in group)
    if kind == ".npy":
        width = len(first.column_names) - 2
        with open(pending, "wb") as file:
            # np.save of what never is in memory at once.
            shape: Any = {"descr": "<f4", "fortran_order": False, "shape": (total, width)}
            np.lib.format.write_array_header_1_0(file, shape)
            for table in parts:
                matrix = np.stack([c.to_numpy() for c in table.columns[2:]], axis=1)
                file.write(np.ascontiguousarray(matrix, dtype="<f4").tobytes())
    else:
        writer: Any = pq.ParquetWriter if kind == ".parquet" else pyarrow.csv.CSVWriter
        with writer(str(pending), first.schema) as file:
            for table in parts:
                file.write_table(table) if kind == ".parquet" else file.write(table)
    pending.replace(path)


def count_features(path: Path) -> int:
    """How many rows a file of features has.

    Raises:
        UserError: truncated, or not of its kind.
    """
    kind = output_kind(path)
    with _reading(path, kind):
        if kind == ".parquet":
            return pq.ParquetFile(path).metadata.num_rows
        if kind == ".npy":
            try:
                return len(np.load(path, mmap_mode="r"))
            except ValueError as error:
                raise EOFError(str(error)) from None
        with open_text(path) as file:
            return sum(1 for _ in csv.reader(file)) - 1


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """The failure table: row, id, stage, reason, failed (no: altered, but with a score)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "id", "stage", "reason", "failed"])
    for failure in failures:
        writer.writerow([*failure[:4], "yes" if failure.failed else "no"])
    write_atomically(path, text.getvalue())
