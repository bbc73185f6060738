"""How good sampled molecules are (Vignac et al. 2023, Sec. 5.1).

`variant="midi"` counts as the published code does: an aromatic bond as 1 in the stability, and a molecule
as valid when its largest fragment is. `"fixed"`: aromatic bonds as RDKit kekulizes them (1.5 each where it
cannot), and the whole molecule must be valid. The molecules are left unchanged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolTransforms
from scipy.stats import wasserstein_distance

Variant = Literal["fixed", "midi"]

# Sums of bond orders that an element may have, by formal charge; charge 0 where a charge is not listed.
VALENCES: dict[str, dict[int, tuple[int, ...]]] = {
    "H": {0: (1,), 1: (0,), -1: (0,)},
    "B": {0: (3,)},
    "C": {0: (4,), 1: (3,), -1: (3,)},
    "N": {0: (3,), 1: (4,), -1: (2,)},
    "O": {0: (2,), 1: (3,), -1: (1,)},
    "F": {0: (1,), -1: (0,)},
    "Al": {0: (3,)},
    "Si": {0: (4,)},
    "P": {0: (3, 5), 1: (4,)},
    "S": {0: (2, 4, 6), 1: (3,), 2: (4,), 3: (5,), -1: (1,)},
    "Cl": {0: (1,), -1: (0,)},
    "As": {0: (3, 5)},
    "Br": {0: (1,), 1: (2,), -1: (0,)},
    "I": {0: (1,), -1: (0,)},
    "Hg": {0: (1, 2)},
    "Bi": {0: (3, 5)},
}
# The published table, whose sums count an aromatic bond as 1.
MIDI_VALENCES: dict[str, dict[int, tuple[int, ...]]] = VALENCES | {
    "C": {0: (3, 4), 1: (3,), -1: (3,)},
    "N": {0: (2, 3), 1: (2, 3, 4), -1: (2,)},
    "S": {0: (2, 6), 1: (2, 3), 2: (4,), 3: (5,), -1: (3,)},
    "Cl": {0: (1,)},
    "I": {0: (1,)},
}


def sampling_metrics(
    molecules: Sequence[Chem.Mol],
    *,
    hydrogens: bool,
    reference: Sequence[Chem.Mol] | None = None,
    variant: Variant = "fixed",
) -> dict[str, float]:
    """Shares of molecules, and distances to a reference.

    Args:
        molecules: as `mols_from_dense` makes them, not sanitized.
        hydrogens: whether hydrogens are atoms of them; else an atom is stable up to its valence.
        reference: molecules of the training data, with conformers, for novelty and the distances.
        variant: see the module.

    Returns:
        valid, unique (of the valid), connected, atom_stable, molecule_stable; with a reference also novel (of
        the unique), and the Wasserstein distances w1_valency, w1_bond_length (angstrom) and w1_bond_angle
        (degrees), each weighted by how frequent the element or bond type is in the reference.
    """
    with rdBase.BlockLogs():
        names = [valid_smiles(mol, variant) for mol in molecules]
        stable = [stable_atoms(mol, hydrogens=hydrogens, variant=variant) for mol in molecules]
        valid = [name for name in names if name is not None]
        unique = set(valid)
        found = {
            "valid": len(valid) / max(len(molecules), 1),
            "unique": len(unique) / max(len(valid), 1),
            "connected": _mean(len(Chem.GetMolFrags(mol)) == 1 for mol in molecules),
            "atom_stable": _mean(value for values in stable for value in values),
            "molecule_stable": _mean(all(values) for values in stable),
        }
        if reference is not None:
            known = {valid_smiles(mol, variant) for mol in reference}
            found["novel"] = len(unique - known) / max(len(unique), 1)
            for name, observe in _OBSERVED.items():
                found[name] = _distance(observe, molecules, reference)
    return found


def valid_smiles(mol: Chem.Mol, variant: Variant = "fixed") -> str | None:
    """Canonical SMILES without hydrogens of what is valid; None: nothing is."""
    try:
        copy = Chem.Mol(mol)
        if variant == "midi":
            parts = Chem.GetMolFrags(copy, asMols=True, sanitizeFrags=False)
            copy = max(parts, key=lambda part: part.GetNumAtoms())
        Chem.SanitizeMol(copy)
        return Chem.MolToSmiles(Chem.RemoveHs(copy)) or None
    except Exception:  # RDKit's own, of many kinds: that is what invalid means
        return None


def stable_atoms(mol: Chem.Mol, *, hydrogens: bool, variant: Variant = "fixed") -> list[bool]:
    """Whether each atom's bond orders sum to a valence of its element and charge."""
    orders = bond_orders(mol, variant)
    sums = np.zeros(mol.GetNumAtoms())
    for bond, order in zip(mol.GetBonds(), orders, strict=True):
        sums[bond.GetBeginAtomIdx()] += order
        sums[bond.GetEndAtomIdx()] += order
    table = MIDI_VALENCES if variant == "midi" else VALENCES
    stable = []
    for atom, total in zip(mol.GetAtoms(), sums, strict=True):
        by_charge = table[atom.GetSymbol()]
        allowed = by_charge.get(atom.GetFormalCharge(), by_charge[0])
        implicit = not hydrogens and variant == "fixed"
        stable.append(bool(total <= max(allowed)) if implicit else int(total) in allowed)
    return stable


def bond_orders(mol: Chem.Mol, variant: Variant = "fixed") -> list[float]:
    """Of each bond; aromatic ones by the variant."""
    copy = Chem.Mol(mol)
    aromatic = 1.0
    if variant == "fixed":
        aromatic = 1.5
        try:
            Chem.SanitizeMol(copy)
            Chem.Kekulize(copy, clearAromaticFlags=True)
        except Exception:  # RDKit's own: no Kekule form
            copy = Chem.Mol(mol)
    return [
        aromatic if bond.GetBondType() == Chem.BondType.AROMATIC else bond.GetBondTypeAsDouble()
        for bond in copy.GetBonds()
    ]


# --- distributions ---


def _valencies(mol: Chem.Mol) -> Iterable[tuple[str, float]]:
    sums: defaultdict[int, float] = defaultdict(float)
    for bond, order in zip(mol.GetBonds(), bond_orders(mol), strict=True):
        for index in (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()):
            sums[index] += order
    return [(atom.GetSymbol(), sums[atom.GetIdx()]) for atom in mol.GetAtoms()]


def _bond_lengths(mol: Chem.Mol) -> Iterable[tuple[str, float]]:
    conformer = mol.GetConformer()
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        yield str(bond.GetBondType()), rdMolTransforms.GetBondLength(conformer, *ends)


def _bond_angles(mol: Chem.Mol) -> Iterable[tuple[str, float]]:
    conformer = mol.GetConformer()
    for atom in mol.GetAtoms():
        around = [neighbour.GetIdx() for neighbour in atom.GetNeighbors()]
        for i, first in enumerate(around):
            for second in around[i + 1 :]:
                angle = rdMolTransforms.GetAngleDeg(conformer, first, atom.GetIdx(), second)
                yield atom.GetSymbol(), angle


_OBSERVED: Mapping[str, Callable[[Chem.Mol], Iterable[tuple[str, float]]]] = {
    "w1_valency": _valencies,
    "w1_bond_length": _bond_lengths,
    "w1_bond_angle": _bond_angles,
}


def _distance(
    observe: Callable[[Chem.Mol], Iterable[tuple[str, float]]],
    molecules: Sequence[Chem.Mol],
    reference: Sequence[Chem.Mol],
) -> float:
    """Wasserstein distance per kind, weighted by the kind's share in the reference.

    A kind that was never generated counts as generated at zero.
    """
    ours, theirs = _by_kind(observe, molecules), _by_kind(observe, reference)
    total = sum(map(len, theirs.values()))
    return float(
        sum(
            len(values) / total * wasserstein_distance(ours.get(kind, [0.0]), values)
            for kind, values in theirs.items()
        )
    )


def _by_kind(
    observe: Callable[[Chem.Mol], Iterable[tuple[str, float]]], molecules: Sequence[Chem.Mol]
) -> dict[str, list[float]]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for mol in molecules:
        for kind, value in observe(mol):
            if np.isfinite(value):
                found[kind].append(value)
    return found


def _mean(values: Iterable[Any]) -> float:
    listed = [float(value) for value in values]
    return float(np.mean(listed)) if listed else 0.0
