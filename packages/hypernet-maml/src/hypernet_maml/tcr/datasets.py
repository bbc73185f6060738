"""Labelled receptors: VDJdb's chunks, IEDB's paired human ones, IMMREP22, from the data root."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hypernet_maml.tcr.receptors import BadReceptor, Receptor, make_receptor
from priors_shared.datasets.base import resolve_data_root
from priors_shared.errors import UserError


@dataclass(frozen=True)
class Binders:
    """Receptors, each with the epitope that it binds; a pair stands once. dropped: rows by reason."""

    receptors: tuple[Receptor, ...]
    epitopes: tuple[str, ...]
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.receptors)


@dataclass(frozen=True)
class _Source:
    file: str
    columns: Mapping[str, str]
    """Of `make_receptor`, and the epitope."""
    keeps: Callable[[Mapping[str, str]], str]
    """Why a row is left out; empty: it is kept."""


def _iedb_keeps(row: Mapping[str, str]) -> str:
    return "10x data alone" if row["just_10X"] == "True" else ""


def _vdjdb_keeps(row: Mapping[str, str]) -> str:
    if row["species"] != "HomoSapiens":
        return "not human"
    if row["mhc.class"] != "MHCI":
        return "not MHC I"
    if not (row["cdr3.alpha"] and row["cdr3.beta"]):
        return "one chain alone"
    return "10x data alone" if "10x" in row["chunk"].lower() else ""


def _immrep_keeps(row: Mapping[str, str]) -> str:
    return "" if row["label"] == "1" else "a negative"


SOURCES = {
    "iedb": _Source(
        "iedb_paired_human_mhci.tsv.gz",
        {
            "epitope": "Peptide",
            "cdr3_alpha": "CDR3a_extended",
            "v_alpha": "Va",
            "j_alpha": "Ja",
            "cdr3_beta": "CDR3b_extended",
            "v_beta": "Vb",
            "j_beta": "Jb",
        },
        _iedb_keeps,
    ),
    "vdjdb": _Source(
        "vdjdb_chunks.tsv.gz",
        {
            "epitope": "antigen.epitope",
            "cdr3_alpha": "cdr3.alpha",
            "v_alpha": "v.alpha",
            "j_alpha": "j.alpha",
            "cdr3_beta": "cdr3.beta",
            "v_beta": "v.beta",
            "j_beta": "j.beta",
        },
        _vdjdb_keeps,
    ),
    "immrep22": _Source(
        "immrep22.tsv.gz",
        {
            "epitope": "epitope",
            "cdr3_alpha": "TRA_CDR3",
            "v_alpha": "TRAV",
            "j_alpha": "TRAJ",
            "cdr3_beta": "TRB_CDR3",
            "v_beta": "TRBV",
            "j_beta": "TRBJ",
        },
        _immrep_keeps,
    ),
}


def load_binders(name: str, root: str | Path | None = None, *, noisy: bool = False) -> Binders:
    """Paired human MHC I binders: "iedb", "vdjdb" or "immrep22" (its positives).

    Args:
        name: of the source.
        root: folder with the datasets; None: the environment variable PRIORS_DATA.
        noisy: keep rows that stand on 10x data alone.

    Raises:
        UserError: no such source, or its file is missing.
    """
    if name not in SOURCES:
        raise UserError(f"unknown receptors {name!r}: choose {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = resolve_data_root(root)
    if folder is None:
        raise UserError(
            "data_root: give the folder with the datasets, or set PRIORS_DATA (docs/tcr.md)"
        )
    path = folder / "tcr" / source.file
    dropped: Counter[str] = Counter()
    pairs: dict[tuple[object, str], tuple[Receptor, str]] = {}
    for row in _rows(path):
        reason = source.keeps(row)
        if reason and not (noisy and reason.startswith("10x")):
            dropped[reason] += 1
            continue
        fields = {field: row[column] for field, column in source.columns.items()}
        epitope = fields.pop("epitope")
        try:
            receptor = make_receptor(**fields)
        except BadReceptor as error:
            dropped[_kind(str(error))] += 1
            continue
        if receptor.alpha is None or receptor.beta is None:
            dropped["one chain alone"] += 1
        elif (receptor.key, epitope) in pairs:
            dropped["the same pair again"] += 1
        else:
            pairs[receptor.key, epitope] = receptor, epitope
    receptors, epitopes = zip(*pairs.values(), strict=True)
    return Binders(receptors, epitopes, dict(dropped))


def _kind(reason: str) -> str:
    for kind in ("does not run", "pseudogene", "mouse", "no human", "stop codon", "residues"):
        if kind in reason:
            return {"does not run": "CDR3 without C or F/W"}.get(kind, kind)
    return "not a receptor"


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; docs/tcr.md says where it comes from") from None
