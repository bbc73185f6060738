"""Molecules to graphs to dense batches and back, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from rdkit import Chem

from molfeat_diffusion.data.molecules import (
    BOND_INDEX,
    VOCABULARIES,
    MoleculeError,
    collate,
    graph_from_mol,
    mols_from_dense,
)

Conformer = Callable[[str], Chem.Mol]
# Aromatic, charged, with every bond type, with halogens; one atom.
SMILES = ["c1ccsc1", "C[N+](C)(C)CC(=O)[O-]", "C#CC(Br)I", "Clc1cc2[nH]ccc2cc1", "C"]


@pytest.mark.parametrize("vocabulary", ["geom", "geom_no_h"])
def test_a_molecule_survives_the_round_trip(conformer: Conformer, vocabulary: str) -> None:
    words = VOCABULARIES[vocabulary]
    graphs = [graph_from_mol(conformer(smiles), words) for smiles in SMILES]
    batch = collate(graphs, atoms=40)
    for smiles, graph, mol in zip(SMILES, graphs, mols_from_dense(batch, words), strict=True):
        positions = torch.from_numpy(mol.GetConformer().GetPositions()).float()
        assert torch.equal(positions, graph.pos)
        assert positions.sum(0).abs().max() < 1e-5
        if words.hydrogens or "[nH]" not in smiles:  # without H, RDKit cannot know which N has one
            mol = Chem.RemoveHs(mol)
            assert Chem.MolToSmiles(mol) == Chem.CanonSmiles(smiles)


def test_a_batch_is_zero_at_padding_and_on_the_diagonal(conformer: Conformer) -> None:
    words = VOCABULARIES["geom"]
    batch = collate([graph_from_mol(conformer(smiles), words) for smiles in SMILES])
    assert batch.mask.sum(1).tolist() == [conformer(s).GetNumAtoms() for s in SMILES]
    assert torch.equal(batch.bonds, batch.bonds.transpose(1, 2))
    atoms, charges, bonds = batch.one_hot(words, torch.float64)
    assert torch.equal(atoms.sum(-1), batch.mask.double())
    assert torch.equal(charges.sum(-1), batch.mask.double())
    assert torch.equal(bonds.sum(-1), batch.pair_mask.double())


def test_missing_hydrogens_are_placed(conformer: Conformer) -> None:
    bare = Chem.RemoveHs(conformer("CCO"))
    graph = graph_from_mol(bare, VOCABULARIES["qm9"])
    assert graph.num_nodes == 9
    assert len({tuple(row) for row in graph.pos.tolist()}) == 9
    assert graph_from_mol(bare, VOCABULARIES["qm9_no_h"]).num_nodes == 3


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=lambda v: v.name)
def test_charges_have_an_index_each_and_others_are_refused(vocabulary) -> None:  # type: ignore[no-untyped-def]
    indices = [vocabulary.charge_index(charge) for charge in vocabulary.charges]
    assert indices == list(range(len(vocabulary.charges)))
    with pytest.raises(MoleculeError, match=r"formal charge \+4 is outside"):
        vocabulary.charge_index(4)


@pytest.mark.parametrize(
    ("smiles", "vocabulary", "stage", "reason"),
    [
        ("C[Si](C)(C)C", "qm9", "vocabulary", "element Si is not in qm9"),
        ("[Ca+2]", "geom", "vocabulary", "element Ca"),
        ("[C-2]", "qm9", "vocabulary", "formal charge -2 is outside qm9's -1 .. +1"),
        ("[H][H]", "geom_no_h", "vocabulary", "nothing but hydrogen"),
    ],
)
def test_what_the_vocabulary_lacks_is_refused_by_name(
    conformer: Conformer, smiles: str, vocabulary: str, stage: str, reason: str
) -> None:
    with pytest.raises(MoleculeError, match=f"{stage}: .*") as caught:
        graph_from_mol(conformer(smiles), VOCABULARIES[vocabulary])
    assert reason in caught.value.reason


def test_flat_empty_broken_and_large_molecules_are_refused(conformer: Conformer) -> None:
    words = VOCABULARIES["qm9"]
    with pytest.raises(MoleculeError, match="no 3D structure"):
        graph_from_mol(Chem.MolFromSmiles("CC"), words)
    with pytest.raises(MoleculeError, match="no atoms"):
        graph_from_mol(Chem.Mol(), words)
    with pytest.raises(MoleculeError, match="8 atoms, the limit is 7"):
        graph_from_mol(conformer("CC"), words, max_atoms=7)
    broken = conformer("C")
    broken.GetConformer().SetAtomPosition(0, (float("nan"), 0, 0))
    with pytest.raises(MoleculeError, match="not a finite number"):
        graph_from_mol(broken, words)


def test_a_refusal_crosses_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(MoleculeError("parse", "no")))
    assert (error.stage, error.reason) == ("parse", "no")


def test_kekule_forms_say_what_an_aromatic_ring_without_hydrogens_does_not(
    conformer: Callable[[str], Chem.Mol],
) -> None:
    """Pyrrole: which nitrogen has a hydrogen is lost with the hydrogens, unless bonds are kekulized."""
    words = VOCABULARIES["qm9_no_h"]
    valid = []
    for kekulize in (False, True):
        graph = graph_from_mol(conformer("c1cc[nH]c1"), words, kekulize=kekulize)
        found = mols_from_dense(collate([graph]), words)[0]
        valid.append(Chem.SanitizeMol(found, catchErrors=True) == Chem.SANITIZE_NONE)
        kinds = set(graph.edge_attr.tolist())
        assert (BOND_INDEX[Chem.BondType.AROMATIC] in kinds) is not kekulize
    assert valid == [False, True]
