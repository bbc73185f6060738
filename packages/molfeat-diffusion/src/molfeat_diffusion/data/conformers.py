"""From a SMILES or a molecule to one with a 3D structure, by RDKit; failures say stage and reason."""

from __future__ import annotations

import hashlib
import time
from typing import Any, NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molfeat_diffusion.config import ConformerConfig
from molfeat_diffusion.data.molecules import (
    MoleculeError,
    Vocabulary,
    check_vocabulary,
    has_structure,
)


class Parsed(NamedTuple):
    """A molecule that was read."""

    mol: Chem.Mol
    content: str
    """canonical SMILES, without the hydrogens that it implies"""
    note: str | None
    """what was left out, if anything"""


def parse(
    source: object,
    vocabulary: Vocabulary | None,
    fragment: str = "largest",
    max_atoms: int | None = None,
) -> Parsed:
    """Read a SMILES, or take an RDKit molecule; keep its largest fragment if asked to.

    A molecule without 3D structure is rebuilt from its canonical SMILES: the same atoms' order, conformer
    and features for every way of writing it. `vocabulary` None: any element will do, any size.

    Raises:
        MoleculeError: empty or unreadable; an element or charge outside the vocabulary; too large.
    """
    with rdBase.BlockLogs():
        mol = _read(source)
        note = None
        fragments = Chem.GetMolFrags(mol) if fragment == "largest" else ()
        if len(fragments) > 1:
            parts = Chem.GetMolFrags(mol, asMols=True)
            # Ties go by the SMILES, so that the choice does not depend on the order of writing.
            mol = max(parts, key=lambda m: (m.GetNumHeavyAtoms(), m.GetNumAtoms(), _content(m)))
            note = f"kept the largest of {len(parts)} fragments"
        if vocabulary is not None:
            check_vocabulary(mol, vocabulary)
        content = _content(mol)
        if not has_structure(mol):
            rebuilt = Chem.MolFromSmiles(content)
            if rebuilt is None:
                raise MoleculeError("parse", f"RDKit cannot read its own SMILES {_short(content)}")
            mol = rebuilt
    if vocabulary is not None and max_atoms is not None:
        atoms = _atoms(mol, vocabulary)
        if atoms > max_atoms:
            raise MoleculeError("size", f"{atoms} atoms, the limit is {max_atoms}")
    return Parsed(mol, content, note)


def embed(parsed: Parsed, config: ConformerConfig, seed: int) -> Chem.Mol:
    """The molecule with all hydrogens and a conformer; one that has a structure is returned as it is.

    ETKDGv3 from a seed that depends on the molecule and `seed` alone, then from random coordinates, then
    relaxed by MMFF94 (UFF where that lacks parameters).

    Raises:
        MoleculeError: no conformer was found, or not in time.
    """
    if has_structure(parsed.mol):
        return parsed.mol
    with rdBase.BlockLogs():
        mol = Chem.AddHs(parsed.mol)
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = stable_seed(parsed.content, seed) & 0x7FFFFFFF
        parameters.maxIterations = config.attempts
        parameters.timeout = config.timeout
        for random_coordinates in (False, True):
            parameters.useRandomCoords = random_coordinates
            began = time.monotonic()
            if rdDistGeom.EmbedMolecule(mol, parameters) == 0:
                break
            if time.monotonic() - began >= config.timeout:
                raise MoleculeError("conformer", f"no conformer within {config.timeout} s")
        else:
            raise MoleculeError(
                "conformer",
                f"no conformer in {config.attempts} attempts, nor from random coordinates",
            )
        if config.optimize:
            if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
                rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=500)
            elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
                rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=500)
    return mol


def stable_seed(*parts: object) -> int:
    """A 63-bit number that depends on the parts alone: the same in every process and on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _read(source: object) -> Chem.Mol:
    if isinstance(source, Chem.Mol):
        mol = source
    elif isinstance(source, str):
        if not source.strip():
            raise MoleculeError("parse", "empty SMILES")
        mol = Chem.MolFromSmiles(source.strip())
        if mol is None:
            raise MoleculeError("parse", f"RDKit cannot read the SMILES {_short(source)}")
    elif source is None or repr(source) in ("nan", "<NA>"):
        raise MoleculeError("parse", "no molecule in this row")
    else:
        raise MoleculeError(
            "parse", f"neither a SMILES nor an RDKit molecule but a {type(source).__name__}"
        )
    if mol.GetNumAtoms() == 0:
        raise MoleculeError("parse", "the molecule has no atoms")
    return mol


def _atoms(mol: Chem.Mol, vocabulary: Vocabulary) -> int:
    if not vocabulary.hydrogens:
        return mol.GetNumHeavyAtoms()
    return mol.GetNumAtoms() + sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())


def _content(mol: Chem.Mol) -> str:
    try:
        return Chem.MolToSmiles(Chem.RemoveHs(mol))
    except Exception as error:  # RDKit's own: a molecule that was never sanitized and cannot be
        raise MoleculeError("parse", f"RDKit: {str(error).strip().splitlines()[0]}") from None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
