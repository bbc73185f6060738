"""Picks from a scored library: the best, or the best that differ; and how diverse they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.SimDivFilters.rdSimDivPickers import MaxMinPicker

from molfeat_diffusion.data.splits import scaffold_of
from molfeat_diffusion.featurizers.descriptors import fingerprint

POOL = 10
"""Diverse picks are taken from as many times their number of best molecules."""


def rank(scores: np.ndarray) -> np.ndarray:
    """Indices, best score first; ties in the input's order; NaN nowhere."""
    order = np.argsort(-scores, kind="stable")
    return order[np.isfinite(scores[order])]


def pick(
    scores: np.ndarray, fingerprints: Sequence[Any], count: int, *, diverse: bool
) -> list[int]:
    """Indices of `count` molecules, or all there are.

    Args:
        scores: (N,), larger is better; NaN is never picked.
        fingerprints: RDKit bit vectors; None where the score is NaN.
        count: picks.
        diverse: of the POOL x count best, begin with the best and add the one farthest from those picked
            (MaxMin, Tanimoto distance); else the best.

    Returns:
        In order of picking.
    """
    order = rank(scores)
    if not diverse or len(order) <= count:
        return order[:count].tolist()
    pool = order[: POOL * count]
    vectors = [fingerprints[i] for i in pool]
    # The first pick is given, so nothing is random.
    found = MaxMinPicker().LazyBitVectorPick(vectors, len(vectors), count, [0])
    return pool[list(found)].tolist()


def diversity(mols: Sequence[Chem.Mol], features: np.ndarray | None = None) -> dict[str, float]:
    """Of a set of molecules: mean Tanimoto distance of pairs (ECFP4), scaffolds, mean distance of features.

    features: (N, d), standardised; the distance is Euclidean, over sqrt(d).
    """
    vectors = [fingerprint(mol) for mol in mols]
    distances = [
        1 - similarity
        for i in range(1, len(vectors))
        for similarity in DataStructs.BulkTanimotoSimilarity(vectors[i], vectors[:i])
    ]
    found = {
        "molecules": float(len(mols)),
        "mean_tanimoto_distance": float(np.mean(distances)) if distances else math.nan,
        "scaffolds": float(len({scaffold_of(mol) for mol in mols})),
    }
    if features is not None:
        pairs = np.triu_indices(len(features), 1)
        gaps = features[pairs[0]].astype(float) - features[pairs[1]]
        spread = np.linalg.norm(gaps, axis=1) / math.sqrt(features.shape[1])
        found["mean_feature_distance"] = float(spread.mean()) if len(spread) else math.nan
    return found
