"""Splits by Murcko scaffold: test molecules have scaffolds that no training molecule has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold

from priors_shared.errors import UserError


class Split(NamedTuple):
    """Indices of the labelled and of the test molecules."""

    train: np.ndarray
    test: np.ndarray


def scaffold_of(mol: Any) -> str:
    """Canonical SMILES of the Murcko scaffold of an RDKit molecule or SMILES.

    A molecule without rings is its own scaffold, so that acyclic ones are not one large group; what cannot
    be read has the scaffold "".
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(mol) if isinstance(mol, str) else mol
        if mol is None or mol.GetNumAtoms() == 0:
            return ""
        flat = Chem.Mol(mol)
        Chem.RemoveStereochemistry(flat)
        return MurckoScaffold.MurckoScaffoldSmiles(mol=flat) or Chem.MolToSmiles(flat)


def scaffold_split(
    scaffolds: Sequence[str],
    *,
    train: int,
    test_share: float,
    seed: int,
    labels: Sequence[int] | np.ndarray | None = None,
) -> Split:
    """Whole scaffolds to the test set until it has its share; `train` molecules drawn from the rest.

    The seed alone decides: with a larger `train`, the test set is the same and the smaller draw is part of
    the larger. `labels`: draw anew until both sides have both classes.

    Raises:
        UserError: fewer than `train` molecules remain, or no split has both classes on both sides.
    """
    groups: dict[str, list[int]] = {}
    for index, scaffold in enumerate(scaffolds):
        groups.setdefault(scaffold, []).append(index)
    names = sorted(groups)
    for attempt in range(100):
        rng = np.random.default_rng([seed, attempt])
        wanted = round(test_share * len(scaffolds))
        test: list[int] = []
        for number in rng.permutation(len(names)):
            group = groups[names[number]]
            if len(test) + len(group) <= wanted:
                test += group
        rest = np.setdiff1d(np.arange(len(scaffolds)), test)
        if len(rest) < train or not test:
            raise UserError(
                f"{len(scaffolds)} molecules: {len(rest)} are left beside the test scaffolds, {train} "
                "were asked for"
            )
        split = Split(rng.permutation(rest)[:train], np.array(sorted(test)))
        if labels is None:
            return split
        values = np.asarray(labels)
        if all(len(np.unique(values[side])) > 1 for side in split):
            return split
    raise UserError("no scaffold split has both classes among labelled and test molecules")
