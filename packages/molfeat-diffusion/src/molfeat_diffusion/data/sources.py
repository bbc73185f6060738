"""Molecules from files, and from data sets by name."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Geometry import Point3D

from molfeat_diffusion.data.molecules import BOND_TYPES, MoleculeError
from priors_shared.errors import UserError

QM9 = Path("molecules") / "qm9_40k.npz"

SMILES_SETS = {
    "chembl": ("chembl30_smiles_valid.csv.gz", "chembl30_smiles_test.csv.gz"),
    "zinc": ("zinc250k_valid.csv.gz", "zinc250k_test.csv.gz"),
}
"""Unlabelled SMILES to pre-train on, below the data root."""
SMILES_COLUMNS = ("smiles", "mol", "canonical_smiles")
"""Names of columns of SMILES, in any case."""
ID_COLUMNS = ("id", "name", "molecule_chembl_id", "compound_id", "zinc_id")
"""Names of columns of names, in any case."""


def read_source(source: str, data_root: Path | None) -> list[Any]:
    """The molecules of a source that `train --data` takes, in the forms of `parse`.

    Raises:
        UserError: not there, or of another kind.
    """
    if source == "qm9":
        return list(_qm9(data_root))
    path = Path(source)
    name = path.name.removesuffix(".gz")
    if not path.is_file():
        raise UserError(f"{source}: no such file (and not qm9, the only dataset known by name)")
    if name.endswith(".sdf"):
        return list(read_sdf(path))
    if name.endswith((".smi", ".txt", ".csv")):
        return list(_read_smiles(path, has_header=name.endswith(".csv")))
    raise UserError(f"{source}: give qm9, or a .npz, .sdf, .smi or .csv file")


def sdf_records(path: Path) -> Iterator[str]:
    """The records of an .sdf or .sdf.gz file as text.

    Split here and not by RDKit, to whom a record that is too short takes the next one along.
    """
    record: list[str] = []
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("$$$$"):
                yield "".join(record)
                record = []
            else:
                record.append(line)
    if "".join(record).strip():
        yield "".join(record)


def read_sdf(path: Path) -> Iterator[Chem.Mol | None]:
    """The molecules of an .sdf or .sdf.gz file; None for a record that RDKit cannot read."""
    for record in sdf_records(path):
        # One record at a time, and by this class: MolFromMolBlock would drop the properties.
        content = BytesIO(f"{record}$$$$\n".encode())
        with rdBase.BlockLogs():
            mol = next(Chem.ForwardSDMolSupplier(content, removeHs=False), None)
        yield mol


def open_text(path: Path) -> TextIOWrapper:
    """A text file in UTF-8, gzipped if its name ends in .gz."""
    if path.suffix == ".gz":
        opened = gzip.open(  # noqa: SIM115  the caller closes it
            path, "rt", encoding="utf-8", newline=""
        )
        assert isinstance(opened, TextIOWrapper)
        return opened
    return open(path, encoding="utf-8", newline="")


def read_smiles_source(source: str, data_root: Path | None) -> Iterator[str]:
    """SMILES of chembl or zinc (below the data root), or of a .smi or .csv file.

    Raises:
        UserError: not there, or of another kind.
    """
    if source in SMILES_SETS:
        if data_root is None:
            raise UserError(f"{source}: give --data-root DIR (or set PRIORS_DATA)")
        for name in SMILES_SETS[source]:
            path = data_root / "molecules" / name
            if not path.is_file():
                raise UserError(f"{source}: no {path}")
            yield from _read_smiles(path, has_header=True)
        return
    path = Path(source)
    name = path.name.removesuffix(".gz")
    if not path.is_file():
        raise UserError(f"{source}: no such file (known by name: {', '.join(SMILES_SETS)})")
    if not name.endswith((".smi", ".txt", ".csv")):
        raise UserError(f"{source}: give {', '.join(SMILES_SETS)}, or a .smi or .csv file")
    yield from _read_smiles(path, has_header=name.endswith(".csv"))


def delimiter_of(file: TextIOWrapper) -> str:
    """What separates the columns of a table: whichever of comma, semicolon and tab its first line has most of."""
    first = file.readline()
    file.seek(0)
    return max(",;\t", key=first.count)


def find_column(header: Sequence[str], known: Sequence[str]) -> str | None:
    """The column of one of the known names, which come in the order of preference; upper or lower case."""
    for name in known:
        for column in header:
            if column.strip().removeprefix("\ufeff").lower() == name:
                return column
    return None


def is_header(word: str) -> bool:
    """Whether a first line is a heading and no SMILES."""
    return word.strip().removeprefix("\ufeff").lower() in SMILES_COLUMNS


def _read_smiles(path: Path, *, has_header: bool) -> Iterator[str]:
    try:
        with open_text(path) as file:
            if not has_header:
                lines = (line.split()[0] for line in file if line.strip())
                yield from (word for i, word in enumerate(lines) if i or not is_header(word))
                return
            rows = csv.DictReader(file, delimiter=delimiter_of(file))
            column = find_column(rows.fieldnames or (), SMILES_COLUMNS)
            if column is None:
                names = ", ".join(rows.fieldnames or ()) or "none"
                raise UserError(f"{path}: no column smiles; its columns: {names}")
            yield from (row[column] or "" for row in rows)
    except (UnicodeDecodeError, EOFError, OSError, zlib.error, csv.Error) as error:
        raise UserError(f"{path}: truncated or not readable as text ({error})") from None


def _qm9(data_root: Path | None) -> Iterator[Any]:
    """QM9's molecules with their DFT structures, where bonds agree with the source's SMILES."""
    path = None if data_root is None else data_root / QM9
    if path is None or not path.is_file():
        where = path or f"DIR/{QM9}"
        raise UserError(f"qm9: no {where}: give --data-root DIR (or set PRIORS_DATA)")
    with np.load(path) as file:
        held = {name: file[name] for name in ("n_atoms", "atomic_number", "xyz_mA")}
    with np.load(path.with_name("qm9_40k_bonds.npz")) as file:
        held |= {name: file[name] for name in file.files}
    atoms = np.concatenate(([0], held["n_atoms"].astype(np.int64).cumsum()))
    bonds = np.concatenate(([0], held["n_bonds"].astype(np.int64).cumsum()))
    for i in np.flatnonzero(held["graph_matches_smiles"]):
        a, b = slice(atoms[i], atoms[i + 1]), slice(bonds[i], bonds[i + 1])
        yield _Qm9Molecule(
            held["atomic_number"][a],
            held["formal_charge"][a],
            held["xyz_mA"][a],
            held["bonds"][b],
        )


class _Qm9Molecule:
    """A molecule of QM9's arrays; called, it becomes RDKit's (in the process that uses it)."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self.arrays = arrays

    def __call__(self) -> Chem.Mol:
        numbers, charges, positions, bonds = self.arrays
        mol = Chem.RWMol()
        conformer = Chem.Conformer(len(numbers))
        rows = zip(numbers, charges, positions / 1000, strict=True)
        for i, (number, charge, position) in enumerate(rows):
            atom = Chem.Atom(int(number))
            atom.SetFormalCharge(int(charge))
            atom.SetNoImplicit(True)
            mol.AddAtom(atom)
            conformer.SetAtomPosition(i, Point3D(*map(float, position)))
        for first, second, order in bonds.tolist():
            mol.AddBond(first, second, BOND_TYPES[order])
        mol.AddConformer(conformer)
        try:
            Chem.SanitizeMol(mol)
        except Exception as error:  # RDKit's own
            raise MoleculeError("parse", f"RDKit: {str(error).splitlines()[0]}") from None
        return mol.GetMol()
