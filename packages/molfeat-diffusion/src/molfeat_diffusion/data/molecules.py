"""Molecules as graphs: RDKit molecule <-> torch-geometric `Data` <-> dense batch.

A graph has `x` (index of the element), `charges` (index of the formal charge), `pos` (angstrom) and
`edge_index` / `edge_attr` (both directions; index of the bond type).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from rdkit import Chem
from rdkit.Geometry import Point3D
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.utils import to_dense_adj, to_dense_batch

from molfeat_diffusion.config import VocabularyName

BOND_TYPES: tuple[Any, ...] = (
    None,
    Chem.BondType.SINGLE,
    Chem.BondType.DOUBLE,
    Chem.BondType.TRIPLE,
    Chem.BondType.AROMATIC,
)
"""Classes of a pair of atoms, by index."""
BOND_INDEX = {bond: index for index, bond in enumerate(BOND_TYPES) if bond is not None}
NO_BOND = 0


class MoleculeError(ValueError):
    """A molecule that cannot be used: at which stage, and why. Recorded per row, seldom shown alone."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it cross a process boundary."""
        return (MoleculeError, (self.stage, self.reason))


@dataclass(frozen=True)
class Vocabulary:
    """The elements and formal charges that a model knows, in its order."""

    name: VocabularyName
    elements: tuple[str, ...]
    charges: tuple[int, ...]

    @property
    def hydrogens(self) -> bool:
        """Whether hydrogens are atoms of the graph."""
        return "H" in self.elements

    def element_index(self, symbol: str) -> int:
        """Index of an element.

        Raises:
            MoleculeError: the vocabulary lacks it.
        """
        if symbol not in self.elements:
            raise MoleculeError(
                "vocabulary", f"element {symbol} is not in {self.name} ({' '.join(self.elements)})"
            )
        return self.elements.index(symbol)

    def charge_index(self, charge: int) -> int:
        """Index of a formal charge.

        Raises:
            MoleculeError: the vocabulary lacks it.
        """
        if charge not in self.charges:
            low, high = self.charges[0], self.charges[-1]
            raise MoleculeError(
                "vocabulary",
                f"formal charge {charge:+d} is outside {self.name}'s {low:+d} .. {high:+d}",
            )
        return self.charges.index(charge)


_QM9 = tuple("HCNOF")
_GEOM = ("H", "B", "C", "N", "O", "F", "Al", "Si", "P", "S", "Cl", "As", "Br", "I", "Hg", "Bi")
VOCABULARIES: dict[str, Vocabulary] = {
    "qm9": Vocabulary("qm9", _QM9, (-1, 0, 1)),
    "qm9_no_h": Vocabulary("qm9_no_h", _QM9[1:], (-1, 0, 1)),
    "geom": Vocabulary("geom", _GEOM, (-2, -1, 0, 1, 2, 3)),
    "geom_no_h": Vocabulary("geom_no_h", _GEOM[1:], (-2, -1, 0, 1, 2, 3)),
}


class Marginals(NamedTuple):
    """How frequent each class is in the training data; the noise draws from it."""

    atoms: Float[Tensor, " elements"]
    charges: Float[Tensor, " charges"]
    bonds: Float[Tensor, " bonds"]
    """over ordered pairs of different atoms, pairs without a bond included"""

    @classmethod
    def uniform(cls, elements: int, charges: int) -> Marginals:
        """All classes equally frequent: a stand-in where the data's are not known."""
        sizes = {"atoms": elements, "charges": charges, "bonds": len(BOND_TYPES)}
        return cls(**{name: torch.full((n,), 1 / n).double() for name, n in sizes.items()})


class DenseMolecules(NamedTuple):
    """A padded batch; padding, and the diagonal of `bonds`, are zero.

    A named tuple, as all tuples of tensors here: the test run's check of a dataclass takes 20 ms a time.
    """

    positions: Float[Tensor, "batch atoms 3"]
    """angstrom, centred"""
    atoms: Int[Tensor, "batch atoms"]
    """index into the vocabulary's elements"""
    charges: Int[Tensor, "batch atoms"]
    """index into its charges"""
    bonds: Int[Tensor, "batch atoms atoms"]
    """index into BOND_TYPES, symmetric"""
    mask: Bool[Tensor, "batch atoms"]
    """real atoms; they come first"""

    @property
    def pair_mask(self) -> Bool[Tensor, "batch atoms atoms"]:
        """Pairs of two different real atoms."""
        pairs = self.mask[:, :, None] & self.mask[:, None, :]
        return pairs & ~torch.eye(self.mask.shape[1], dtype=torch.bool, device=self.mask.device)

    def to(self, device: torch.device | str) -> DenseMolecules:
        """The same on another device."""
        return DenseMolecules(*(value.to(device) for value in self))

    def one_hot(
        self, vocabulary: Vocabulary, dtype: torch.dtype
    ) -> tuple[
        Float[Tensor, "batch atoms elements"],
        Float[Tensor, "batch atoms charges"],
        Float[Tensor, "batch atoms atoms bonds"],
    ]:
        """Atoms, charges and bonds for the network: zero, not class 0, at padding and on the diagonal."""
        real = self.mask[..., None].to(dtype)
        pairs = self.pair_mask[..., None].to(dtype)
        return (
            F.one_hot(self.atoms, len(vocabulary.elements)) * real,
            F.one_hot(self.charges, len(vocabulary.charges)) * real,
            F.one_hot(self.bonds, len(BOND_TYPES)) * pairs,
        )


def has_structure(mol: Chem.Mol) -> bool:
    """Whether the molecule has a 3D conformer."""
    return mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()


def with_hydrogens_of(mol: Chem.Mol, vocabulary: Vocabulary) -> Chem.Mol:
    """The molecule with all its hydrogens as atoms, or none, as the vocabulary has it.

    Raises:
        MoleculeError: no atoms, or none left.
    """
    if mol.GetNumAtoms() == 0:
        raise MoleculeError("parse", "the molecule has no atoms")
    if vocabulary.hydrogens:
        if any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
            return Chem.AddHs(mol, addCoords=has_structure(mol))
        return mol
    mol = Chem.RemoveAllHs(mol)
    if mol.GetNumAtoms() == 0:
        raise MoleculeError("vocabulary", f"nothing but hydrogen, which {vocabulary.name} lacks")
    return mol


def check_vocabulary(mol: Chem.Mol, vocabulary: Vocabulary) -> None:
    """Refuse what no conformer would mend, before one is made.

    Raises:
        MoleculeError: an element or charge outside the vocabulary.
    """
    for atom in mol.GetAtoms():
        if vocabulary.hydrogens or atom.GetSymbol() != "H":
            vocabulary.element_index(atom.GetSymbol())
            vocabulary.charge_index(atom.GetFormalCharge())


def graph_from_mol(
    mol: Chem.Mol,
    vocabulary: Vocabulary,
    *,
    max_atoms: int | None = None,
    kekulize: bool = False,
) -> Data:
    """The graph of a molecule with a conformer (its first), centred.

    Hydrogens that the vocabulary has and the molecule lacks are placed by RDKit; hydrogens that it has
    and the vocabulary lacks are taken off.

    Args:
        kekulize: aromatic bonds as single and double ones. Without hydrogens an aromatic ring does not say
            which of its nitrogens has one; a Kekule form does.

    Raises:
        MoleculeError: no atoms or no 3D structure; an element, charge or bond outside the vocabulary; no
            Kekule form; more than `max_atoms` atoms.
    """
    mol = with_hydrogens_of(mol, vocabulary)
    if kekulize:  # after: taking hydrogens off perceives aromatic bonds again
        mol = _kekulized(mol)
    if not has_structure(mol):
        raise MoleculeError("conformer", "the molecule has no 3D structure")
    if max_atoms is not None and mol.GetNumAtoms() > max_atoms:
        raise MoleculeError("size", f"{mol.GetNumAtoms()} atoms, the limit is {max_atoms}")
    elements = [vocabulary.element_index(atom.GetSymbol()) for atom in mol.GetAtoms()]
    charges = [vocabulary.charge_index(atom.GetFormalCharge()) for atom in mol.GetAtoms()]
    ends, kinds = [], []
    for bond in mol.GetBonds():
        if bond.GetBondType() not in BOND_INDEX:
            name = str(bond.GetBondType()).lower()
            raise MoleculeError(
                "vocabulary", f"a {name} bond is not single, double, triple, aromatic"
            )
        ends.append((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        kinds.append(BOND_INDEX[bond.GetBondType()])
    positions = torch.from_numpy(mol.GetConformer().GetPositions()).float()
    if not positions.isfinite().all():
        raise MoleculeError("conformer", "a coordinate is not a finite number")
    edges = torch.tensor(ends, dtype=torch.long).view(-1, 2).T
    return Data(
        x=torch.tensor(elements),
        charges=torch.tensor(charges),
        pos=positions - positions.mean(0),
        edge_index=torch.cat((edges, edges.flip(0)), dim=1),
        edge_attr=torch.tensor(kinds + kinds, dtype=torch.long),
        num_nodes=len(elements),
    )


def _kekulized(mol: Chem.Mol) -> Chem.Mol:
    copy = Chem.Mol(mol)
    try:
        Chem.Kekulize(copy, clearAromaticFlags=True)
    except Exception:  # RDKit's own, of several kinds
        raise MoleculeError("vocabulary", "its aromatic bonds have no Kekule form") from None
    return copy


def collate(graphs: Sequence[Data], *, atoms: int | None = None) -> DenseMolecules:
    """A dense batch, padded to the largest molecule or to `atoms`."""
    batch: Any = Batch.from_data_list(list(graphs))
    sizes = {"batch": batch.batch, "max_num_nodes": atoms, "batch_size": len(graphs)}
    positions, mask = to_dense_batch(batch.pos, **sizes)
    return DenseMolecules(
        positions=positions,
        atoms=to_dense_batch(batch.x, **sizes)[0],
        charges=to_dense_batch(batch.charges, **sizes)[0],
        bonds=to_dense_adj(batch.edge_index, edge_attr=batch.edge_attr, **sizes),
        mask=mask,
    )


def mols_from_dense(molecules: DenseMolecules, vocabulary: Vocabulary) -> list[Chem.Mol]:
    """RDKit molecules with a conformer, as the graphs say and not sanitized: they may be invalid."""
    dense = molecules.to("cpu")
    return [_mol(dense, index, vocabulary) for index in range(len(dense.mask))]


def _mol(dense: DenseMolecules, index: int, vocabulary: Vocabulary) -> Chem.Mol:
    n = int(dense.mask[index].sum())
    mol = Chem.RWMol()
    conformer = Chem.Conformer(n)
    for i in range(n):
        atom = Chem.Atom(vocabulary.elements[int(dense.atoms[index, i])])
        atom.SetFormalCharge(vocabulary.charges[int(dense.charges[index, i])])
        mol.AddAtom(atom)
        conformer.SetAtomPosition(i, Point3D(*map(float, dense.positions[index, i])))
    bonds = dense.bonds[index, :n, :n].triu(1)
    for i, j in bonds.nonzero().tolist():
        kind = BOND_TYPES[int(bonds[i, j])]
        mol.AddBond(i, j, kind)
        if kind == Chem.BondType.AROMATIC:
            mol.GetBondBetweenAtoms(i, j).SetIsAromatic(True)
            mol.GetAtomWithIdx(i).SetIsAromatic(True)
            mol.GetAtomWithIdx(j).SetIsAromatic(True)
    mol.AddConformer(conformer)
    return mol.GetMol()
