"""Tables of receptors, a row at a time: AIRR, 10x contigs, VDJdb, IEDB, and plain column names.

A table has a row for each receptor (a CDR3 column for each chain), or a row for each chain (a column that names the
chain, and one of the cell or complex whose rows stand together).
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import TextIOBase
from itertools import groupby
from pathlib import Path

from hypernet_maml.tcr.receptors import BadReceptor, Receptor, make_receptor
from priors_shared.errors import UserError

WIDE = {
    "cdr3_alpha": "cdr3alpha cdr3a cdr3aaa tracdr3 cdr3aextended cdr3tra alphacdr3 acdr3 tracdr3aa cdr3alphaaa",
    "v_alpha": "valpha va trav alphav travgene vaagene vagene valphagene trav_gene av vala",
    "j_alpha": "jalpha ja traj alphaj trajgene jagene jaagene aj",
    "cdr3_beta": "cdr3beta cdr3b cdr3baa trbcdr3 cdr3bextended cdr3trb betacdr3 bcdr3 trbcdr3aa cdr3betaaa",
    "v_beta": "vbeta vb trbv betav trbvgene vbgene vbbgene bv",
    "j_beta": "jbeta jb trbj betaj trbjgene jbgene jbbgene bj",
}
"""Names of columns, without case and punctuation."""
_WITHOUT_ANCHORS = {
    "chain1cdr3calculated": "cdr3_alpha",
    "chain1cdr3curated": "cdr3_alpha",
    "chain2cdr3calculated": "cdr3_beta",
    "chain2cdr3curated": "cdr3_beta",
}
"""IEDB's export: CDR3s between the C and the F or W."""
_IEDB_GENES = {
    "v_alpha": "chain1calculatedvgene chain1curatedvgene",
    "j_alpha": "chain1calculatedjgene chain1curatedjgene",
    "v_beta": "chain2calculatedvgene chain2curatedvgene",
    "j_beta": "chain2calculatedjgene chain2curatedjgene",
}
_LONG = {
    "chain": "locus chain gene",
    "cell": "cellid barcode complexid cloneid",
    "cdr3": "junctionaa cdr3 cdr3aa",
    "v": "vcall vgene v vsegm",
    "j": "jcall jgene j jsegm",
    "count": "umis umicount duplicatecount consensuscount reads",
}
_EPITOPE = "epitope peptide antigenepitope epitopename antigensequence epitopesequence"
_LABEL = "label binder binding binds"
_TRUE, _FALSE = (
    {"1", "1.0", "true", "yes", "binder", "positive"},
    {*("0", "0.0", "-1", "-1.0", "false", "no", "non-binder", "nonbinder", "negative")},
)
_TRYPTOPHAN_J = {"TRAJ33", "TRAJ38", "TRAJ55"}
"""J genes of the alpha chain whose CDR3 ends with W."""


@dataclass(frozen=True)
class Row:
    """A receptor of a table, or why there is none.

    number: of its first line of the file, the header being 1. reason: empty where there is a receptor.
    label: whether it binds; None where the table does not say.
    """

    number: int
    receptor: Receptor | None
    reason: str = ""
    epitope: str = ""
    label: bool | None = None
    name: str = ""
    others: tuple[tuple[int, str], ...] = field(default=())
    """Further lines of the same cell that were not used, each with the reason."""


def read_receptors(path: Path) -> Iterator[Row]:
    """The rows of a table, in order, a receptor or a reason each; plain or gzip, tab, comma or semicolon.

    Raises:
        UserError: no such file, not text, empty, or columns that are missing or doubled.
    """
    with _opened(path) as file:
        try:
            yield from _rows(path, file)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error.reason}): save it as UTF-8") from error
        except (csv.Error, EOFError, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: cannot be read as a table ({error})") from error


def _rows(path: Path, file: TextIOBase) -> Iterator[Row]:
    header = file.readline()
    if not header.strip():
        raise UserError(f"{path}: empty: a table begins with the names of its columns")
    if "\0" in header:
        raise UserError(f"{path}: not UTF-8 text: save it as UTF-8")
    delimiter = max("\t,;", key=header.count)
    names = next(csv.reader([header], delimiter=delimiter))
    columns = _columns(path, names)
    reader = csv.reader(file, delimiter=delimiter)
    lines = (
        (number, row)
        for number, row in enumerate(reader, start=2)
        if any(cell.strip() for cell in row)
    )
    if "cdr3" in columns:
        yield from _by_cell(lines, columns, len(names))
        return
    for number, row in lines:
        yield _wide_row(number, row, columns, len(names))


def _columns(path: Path, names: list[str]) -> dict[str, int]:
    """Position of each field; fields of CDR3s without anchors have a plus."""
    plain = [_plain(name) for name in names]
    found: dict[str, int] = {}
    for fields in (WIDE, _IEDB_GENES, {"epitope": _EPITOPE, "label": _LABEL}):
        for name, aliases in fields.items():
            _find(path, found, name, aliases.split(), plain, names)
    for alias, name in _WITHOUT_ANCHORS.items():
        if alias in plain and f"{name}+" not in found and name not in found:
            found[f"{name}+"] = plain.index(alias)
    if any(name.startswith("cdr3_") for name in found):
        return found
    for name, aliases in _LONG.items():
        _find(path, found, name, aliases.split(), plain, names)
    if "cdr3" in found and "chain" not in found and "v" in found:
        found["chain"] = found["v"]  # the V gene's name says which chain it is
    if "cdr3" not in found or "chain" not in found:
        raise UserError(
            f"{path}: no column of CDR3s: name them cdr3_alpha and cdr3_beta (one may be missing), besides v_alpha, "
            "j_alpha, v_beta, j_beta; or give an AIRR, 10x, VDJdb or IEDB table"
        )
    if plain[found["cdr3"]] == "cdr3aa" and "junctionaa" not in plain and "vcall" in plain:
        found["cdr3+"] = found["cdr3"]
    return found


def _find(
    path: Path,
    found: dict[str, int],
    name: str,
    aliases: list[str],
    plain: list[str],
    names: list[str],
) -> None:
    for alias in aliases:
        places = [i for i, other in enumerate(plain) if other == alias]
        if len(places) > 1:
            raise UserError(f"{path}: column {names[places[0]]} stands twice: remove one")
        if places and name not in found:
            found[name] = places[0]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _wide_row(number: int, row: list[str], columns: Mapping[str, int], width: int) -> Row:
    base = Row(number, None)
    if len(row) != width:
        return replace(base, reason=f"{len(row)} columns, the header has {width}")
    cell = {name: row[i].strip() for name, i in columns.items()}
    base, problem = _with_target(base, cell)
    fields = {name: cell.get(name, "") for name in WIDE}
    for chain in ("alpha", "beta"):
        inner = cell.get(f"cdr3_{chain}+", "")
        if inner:
            fields[f"cdr3_{chain}"] = _anchored(inner, fields[f"j_{chain}"])
    return problem or _made(base, fields)


def _with_target(base: Row, cell: Mapping[str, str]) -> tuple[Row, Row | None]:
    """The row with its epitope and label; and the failure, where the label is none."""
    base = replace(base, epitope=cell.get("epitope", "").upper())
    label = cell.get("label", "").lower()
    if label and label not in _TRUE | _FALSE:
        return base, replace(base, reason=f"label {label[:20]!r} is neither 1 nor 0")
    return replace(base, label=label in _TRUE if label else None), None


def _made(base: Row, fields: Mapping[str, str]) -> Row:
    try:
        return replace(base, receptor=make_receptor(**fields))
    except BadReceptor as error:
        return replace(base, reason=str(error))


def _anchored(cdr3: str, j: str) -> str:
    if cdr3.startswith("C") and cdr3.endswith(("F", "W")):
        return cdr3
    return f"C{cdr3}{'W' if j.split('*')[0] in _TRYPTOPHAN_J else 'F'}"


def _by_cell(
    lines: Iterator[tuple[int, list[str]]], columns: Mapping[str, int], width: int
) -> Iterator[Row]:
    """Rows of one cell that stand together are a receptor; a row without a cell is one by itself."""

    def cell_of(line: tuple[int, list[str]]) -> object:
        number, row = line
        name = row[columns["cell"]].strip() if "cell" in columns and len(row) == width else ""
        return name if name not in ("", "0") else number

    for name, group in groupby(lines, cell_of):
        yield _cell(str(name) if isinstance(name, str) else "", list(group), columns, width)


def _cell(
    name: str, lines: list[tuple[int, list[str]]], columns: Mapping[str, int], width: int
) -> Row:
    base = Row(lines[0][0], None, name=name)
    best: dict[str, tuple[float, int, dict[str, str]]] = {}
    others: list[tuple[int, str]] = []
    for number, row in lines:
        if len(row) != width:
            others.append((number, f"{len(row)} columns, the header has {width}"))
            continue
        cell = {field: row[i].strip() for field, i in columns.items()}
        base, problem = _with_target(base, cell)
        chain = {"TRA": "alpha", "TRB": "beta"}.get(cell["chain"].upper()[:3])
        if problem or chain is None or not cell["cdr3"]:
            reason = (
                problem.reason
                if problem
                else f"chain {cell['chain'][:20]!r} is neither TRA nor TRB"
            )
            others.append((number, reason if problem or chain is None else "no CDR3"))
            continue
        if "cdr3+" in columns:
            cell["cdr3"] = _anchored(cell["cdr3"], cell.get("j", ""))
        count = cell.get("count", "")
        rank = float(count) if re.fullmatch(r"\d+(\.\d+)?", count) else 0.0
        if chain in best and best[chain][0] >= rank:
            others.append((number, f"another {chain} chain of cell {name}"))
            continue
        if chain in best:
            others.append((best[chain][1], f"another {chain} chain of cell {name}"))
        best[chain] = rank, number, cell
    if not best:
        number, reason = others[0]
        return replace(base, reason=reason, others=tuple(others[1:]))
    fields = {
        f"{part}_{chain}": cell.get(part, "")
        for chain, (_, _, cell) in best.items()
        for part in ("cdr3", "v", "j")
    }
    return replace(_made(base, fields), others=tuple(sorted(others)))


def _opened(path: Path) -> TextIOBase:
    try:
        with open(path, "rb") as raw:
            start = raw.read(2)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path}: UTF-16 text: save it as UTF-8")
    opened = gzip.open if start == b"\x1f\x8b" else open
    return opened(path, "rt", encoding="utf-8-sig", newline="")
