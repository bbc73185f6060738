"""T-cell receptors: standard gene names, CDR loops, and a fixed-size encoding of many of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Int8, Int64

from priors_shared.errors import UserError

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
GAP, MISSING = 20, 21
"""Codes of an alignment's gap, and of a position of a chain or gene that is not known."""
CHAINS = ("alpha", "beta")
LOOP_COLUMNS = {"cdr1": 12, "cdr2": 10, "cdr2.5": 6}
"""Loops that the V gene fixes, with the columns of their alignment (IMGT; TCRdist's for CDR2.5)."""
MIN_CDR3, MAX_CDR3 = 5, 30
_NOT_GIVEN = {"", "none", "nan", "na", "n/a", "unknown", "null", ".", "-"}
_CODES = {letter: code for code, letter in enumerate(AMINO_ACIDS)} | {".": GAP}
_GENE_LETTER = {"alpha": "A", "beta": "B"}


class BadReceptor(ValueError):
    """What keeps a row from being a receptor, in a few words."""


@dataclass(frozen=True)
class Chain:
    """A chain: CDR3 from its C to its F or W; V and J gene by IMGT's names, None where not known."""

    cdr3: str
    v: str | None = None
    j: str | None = None


@dataclass(frozen=True)
class Receptor:
    """A T-cell receptor: at least one of its two chains."""

    alpha: Chain | None
    beta: Chain | None

    def __post_init__(self) -> None:
        if self.alpha is None and self.beta is None:
            raise BadReceptor("no CDR3 of either chain")

    @property
    def key(self) -> tuple[str | None, ...]:
        """What two rows of the same receptor have in common: V genes and CDR3s."""
        return tuple(
            part
            for chain in (self.alpha, self.beta)
            for part in ((chain and (chain.v, chain.cdr3)) or (None, None))
        )


def make_receptor(
    *,
    cdr3_alpha: str = "",
    v_alpha: str = "",
    j_alpha: str = "",
    cdr3_beta: str = "",
    v_beta: str = "",
    j_beta: str = "",
) -> Receptor:
    """A human receptor of names as they are written in tables; empty: not known.

    Raises:
        BadReceptor: no CDR3, one that is not a junction of amino acids, or a gene that is not a functional human one.
    """
    return Receptor(
        _chain("alpha", cdr3_alpha, v_alpha, j_alpha), _chain("beta", cdr3_beta, v_beta, j_beta)
    )


def _chain(chain: Literal["alpha", "beta"], cdr3: str, v: str, j: str) -> Chain | None:
    if _missing(cdr3):
        return None
    letter = _GENE_LETTER[chain]
    return Chain(
        _junction(cdr3.strip().upper(), chain),
        None if _missing(v) else _gene(v.strip(), f"TR{letter}V"),
        None if _missing(j) else _gene(j.strip(), f"TR{letter}J"),
    )


def _missing(text: str | None) -> bool:
    return text is None or text.strip().lower() in _NOT_GIVEN


def _junction(cdr3: str, chain: str) -> str:
    if "*" in cdr3 or "_" in cdr3:
        raise BadReceptor(f"CDR3 {chain} {cdr3[:40]} has a stop codon or a frame shift")
    if not set(cdr3) <= set(AMINO_ACIDS):
        raise BadReceptor(f"CDR3 {chain} {cdr3[:40]} has letters that are no amino acids")
    if not (cdr3.startswith("C") and cdr3.endswith(("F", "W"))):
        raise BadReceptor(f"CDR3 {chain} {cdr3[:40]} does not run from C to F or W")
    if not MIN_CDR3 <= len(cdr3) <= MAX_CDR3:
        raise BadReceptor(f"CDR3 {chain} has {len(cdr3)} residues, not {MIN_CDR3} to {MAX_CDR3}")
    return cdr3


@lru_cache(maxsize=4096)
def _gene(name: str, kind: str) -> str:
    tidytcells = _tidytcells()
    # Several candidates, as AIRR tables have: the first is the likeliest.
    first = re.split(r"[,;]", name)[0].strip()
    options = {"species": "homosapiens", "precision": "gene", "log_failures": False}
    gene = tidytcells.tr.standardize(first, **options)
    if gene is None or not gene.startswith(kind):
        known = tidytcells.tr.standardize(first, species="musmusculus", log_failures=False)
        why = "a gene of the mouse" if known else f"no human {kind} gene"
        raise BadReceptor(f"{first[:30]} is {why}")
    if tidytcells.tr.standardize(first, enforce_functional=True, **options) is None:
        raise BadReceptor(f"{first[:30]} is a pseudogene, or not functional")
    return str(gene)


@lru_cache(maxsize=4096)
def loops(v: str) -> str:
    """CDR1, CDR2 and CDR2.5 of a V gene, aligned: 28 letters, with dots as gaps."""
    tidytcells = _tidytcells()
    alleles = sorted(
        tidytcells.tr.query(
            species="homosapiens",
            contains_pattern=re.escape(v) + r"\*",
            precision="allele",
            functionality="F",
        )
    )
    alleles = [allele for allele in alleles if allele.startswith(f"{v}*")] or [f"{v}*01"]
    regions = tidytcells.tr.get_aa_sequence(alleles[0], species="homosapiens")
    framework = regions.get("FR3-IMGT", "")
    # Counted from the cysteine at the end, before which IMGT's numbering has no gaps.
    turn = framework[-23:-18]
    if v.startswith("TRA"):
        turn = framework[-24:-18] if len(framework) > 32 else framework[10:-18]
    parts = (regions.get("CDR1-IMGT", ""), regions.get("CDR2-IMGT", ""), turn)
    return "".join(
        _centred(part[:columns], columns)
        for part, columns in zip(parts, LOOP_COLUMNS.values(), strict=True)
    )


def _centred(sequence: str, columns: int) -> str:
    """With IMGT's gaps, which stand in the middle."""
    left = (len(sequence) + 1) // 2
    return sequence[:left] + "." * (columns - len(sequence)) + sequence[left:]


def _j_number(j: str) -> int:
    family, _, member = j[4:].partition("-")
    return 100 * int(family) + int(member or 0)


def _tidytcells():  # type: ignore[no-untyped-def]  # published without types
    try:
        import tidytcells
    except ImportError as error:
        raise UserError("gene names need tidytcells: pip install 'hypernet-maml[tcr]'") from error
    return tidytcells


@dataclass(frozen=True)
class Encoded:
    """Receptors as arrays: amino acids 0 .. 19, GAP, MISSING; chains in the order of CHAINS.

    loops: aligned CDR1, CDR2, CDR2.5, MISSING where the V gene is not known.
    cdr3: from the left, MISSING behind the end. length: of the CDR3, 0 where there is no chain.
    j: number of the J gene, such as 207 for TRBJ2-7, 0 where it is not known.
    """

    loops: Int8[np.ndarray, "receptors 2 28"]
    cdr3: Int8[np.ndarray, "receptors 2 30"]
    length: Int64[np.ndarray, "receptors 2"]
    j: Int64[np.ndarray, "receptors 2"]

    def __len__(self) -> int:
        return len(self.length)

    def __getitem__(self, index: np.ndarray | slice) -> Encoded:
        return Encoded(self.loops[index], self.cdr3[index], self.length[index], self.j[index])


def encode(receptors: Sequence[Receptor]) -> Encoded:
    """Receptors as arrays."""
    n = len(receptors)
    columns = sum(LOOP_COLUMNS.values())
    encoded = Encoded(
        np.full((n, 2, columns), MISSING, np.int8),
        np.full((n, 2, MAX_CDR3), MISSING, np.int8),
        np.zeros((n, 2), np.int64),
        np.zeros((n, 2), np.int64),
    )
    for i, receptor in enumerate(receptors):
        for c, chain in enumerate((receptor.alpha, receptor.beta)):
            if chain is None:
                continue
            encoded.length[i, c] = len(chain.cdr3)
            encoded.cdr3[i, c, : len(chain.cdr3)] = [_CODES[a] for a in chain.cdr3]
            if chain.v is not None:
                encoded.loops[i, c] = _loop_codes(chain.v)
            if chain.j is not None:
                encoded.j[i, c] = _j_number(chain.j)
    return encoded


@lru_cache(maxsize=4096)
def _loop_codes(v: str) -> np.ndarray:
    return np.array([_CODES.get(a, GAP) for a in loops(v)], np.int8)
