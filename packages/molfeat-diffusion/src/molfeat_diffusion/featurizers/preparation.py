"""Molecules made ready for the denoiser: graphs with a structure, axes of their own, batches of one size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from rdkit import Chem
from torch_geometric.data import Data

from molfeat_diffusion.config import ConformerConfig
from molfeat_diffusion.data.conformers import Parsed, embed
from molfeat_diffusion.data.molecules import (
    MoleculeError,
    Vocabulary,
    graph_from_mol,
    with_hydrogens_of,
)

PAIRS_PER_BATCH = 40_000


class Prepared(NamedTuple):
    """A molecule ready for the network."""

    graph: Data
    order: np.ndarray
    """atoms in canonical order"""
    axes: np.ndarray
    """(3, 3) rows: the molecule's own axes"""
    content: str


def prepare(
    parsed: Parsed,
    vocabulary: Vocabulary,
    conformers: ConformerConfig,
    seed: int,
    max_atoms: int,
    kekulize: bool = False,
) -> Prepared | MoleculeError:
    """Conformer, graph, canonical order and axes; may run in another process."""
    try:
        mol = with_hydrogens_of(embed(parsed, conformers, seed), vocabulary)
        graph = graph_from_mol(mol, vocabulary, max_atoms=max_atoms, kekulize=kekulize)
    except MoleculeError as error:
        return error
    positions = graph.pos.double().numpy()
    # Atoms that the graph cannot tell apart go by their distance to the centre.
    ranks = np.array(list(Chem.CanonicalRankAtoms(mol, breakTies=False)))
    order = np.lexsort((np.linalg.norm(positions, axis=1), ranks))
    return Prepared(graph, order, molecule_axes(positions), parsed.content)


def molecule_axes(positions: np.ndarray) -> np.ndarray:
    """The principal axes of centred positions as rows, each towards the side of the longer tail.

    They turn and mirror with the molecule. Where an axis has no side (a symmetry), either will do: the two
    results differ by that symmetry.
    """
    _, _, axes = np.linalg.svd(positions, full_matrices=True)
    sides = np.sign(((positions @ axes.T) ** 3).sum(0))
    return axes * np.where(sides == 0, 1.0, sides)[:, None]


def buckets(sizes: dict[str, int]) -> Iterator[list[str]]:
    """Keys in batches of at most PAIRS_PER_BATCH pairs after padding, small molecules first."""
    batch: list[str] = []
    for key, size in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
        if batch and (len(batch) + 1) * size**2 > PAIRS_PER_BATCH:
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch
