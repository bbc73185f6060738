"""Tables as people have them: separators, names of columns, headings, properties; damage is one line."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molfeat_diffusion.data.sources import read_sdf, read_smiles_source
from molfeat_diffusion.data.tables import read_rows, read_targets
from priors_shared.errors import UserError

SMILES = ["CCO", "c1ccccc1", "CC(=O)N"]


def rows(path: Path) -> list[tuple[str, str]]:
    return [(row.id, row.molecule) for row in read_rows(path)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("column", ["smiles", "SMILES", "Smiles", "canonical_smiles"])
def test_separators_and_names_of_columns(
    tmp_path: Path, separator: str, name: str, column: str
) -> None:
    lines = [("ID", column, "y"), *((f"m{i}", s, str(i)) for i, s in enumerate(SMILES))]
    text = "".join(separator.join(line) + "\n" for line in lines)
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert rows(path) == [(f"m{i}", s) for i, s in enumerate(SMILES)]
    assert read_targets(path, "y").tolist() == [0.0, 1.0, 2.0]


def test_an_id_column_is_used_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("smiles,molecule_chembl_id,id\nCCO,CHEMBL1,a\nCC,CHEMBL2,\n")
    assert rows(path) == [("a", "CCO"), ("1", "CC")]
    path.write_text("smiles,y\nCCO,1\n")
    assert rows(path) == [("0", "CCO")]


@pytest.mark.parametrize("heading", ["", "smiles id\n", "SMILES\n"])
def test_a_heading_of_a_smi_file_is_no_molecule(tmp_path: Path, heading: str) -> None:
    path = tmp_path / "a.smi"
    path.write_text(heading + "CCO a\nCC\n")
    assert rows(path) == [("a", "CCO"), ("1", "CC")]
    assert list(read_smiles_source(str(path), None)) == ["CCO", "CC"]


def test_properties_of_an_sdf_can_be_targets(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for i, smiles in enumerate(SMILES):
            mol = Chem.MolFromSmiles(smiles)
            mol.SetProp("_Name", f"m{i}")
            if i != 1:
                mol.SetProp("pIC50", f"{i}.5")
            writer.write(mol)
    np.testing.assert_array_equal(read_targets(path, "pIC50"), [0.5, np.nan, 2.5])
    text = path.read_text().split("$$$$\n")
    path.write_text("$$$$\n".join([text[0], "broken\n", text[2], ""]))
    assert [mol is None for mol in read_sdf(path)] == [False, True, False]
    np.testing.assert_array_equal(read_targets(path, "pIC50"), [0.5, np.nan, 2.5])
    with pytest.raises(UserError, match=r"a\.sdf: no molecule has a property 'Ki'"):
        read_targets(path, "Ki")


def test_a_column_twice_is_named(tmp_path: Path) -> None:
    csv = tmp_path / "a.csv"
    csv.write_text("smiles,smiles,y,y\nCCO,CC,1,2\n")
    parquet = tmp_path / "a.parquet"
    columns = [pa.array(["CCO"]), pa.array(["CC"]), pa.array([1.0]), pa.array([2.0])]
    pq.write_table(pa.table(columns, names=["smiles", "smiles", "y", "y"]), parquet)
    for path in (csv, parquet):
        with pytest.raises(UserError, match=rf"{path.name}: two columns are called 'smiles'"):
            rows(path)
        with pytest.raises(UserError, match=rf"{path.name}: two columns are called 'y'"):
            read_targets(path, "y")


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def spoilt(content: bytes) -> bytes:
    middle = len(content) // 2
    return (
        content[:middle]
        + bytes(b ^ 0x5A for b in content[middle : middle + 40])
        + content[middle + 40 :]
    )


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.parquet", cut),  # Arrow checks no sums: a changed letter is a letter
        *(
            (name, damage)
            for name in ("a.csv.gz", "a.smi.gz", "a.sdf.gz")
            for damage in (cut, spoilt)
        ),
    ],
)
def test_damaged_files_are_one_line_that_names_them(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    draws = np.random.default_rng(0)
    many = ["C" * int(n) + "O" * int(m) for n, m in draws.integers(1, 30, (3000, 2))]
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"smiles": many}), path, compression="none")
    elif name.startswith("a.sdf"):
        block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCO"))
        made = "".join(f"{block}> <x>\n{s}\n\n$$$$\n" for s in many)
        path.write_bytes(gzip.compress(made.encode()))
    else:
        path.write_bytes(gzip.compress(("smiles\n" + "\n".join(many)).encode()))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"{name}: truncated or not a"):
        rows(path)
    if not name.startswith("a.smi"):
        column = {"a.csv.gz": "smiles", "a.sdf.gz": "x", "a.parquet": "smiles"}[name]
        with pytest.raises(UserError, match=rf"{name}: truncated or not a"):
            read_targets(path, column)
