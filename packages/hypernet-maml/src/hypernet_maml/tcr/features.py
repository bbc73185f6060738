"""What is alike in two receptors: a vector of similarities, about -3 to 4 each, 0 where a part is not known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from hypernet_maml.tcr.distances import part_distances
from hypernet_maml.tcr.receptors import Encoded

CDR_FEATURES = (
    *("loops alpha", "cdr3 alpha", "loops beta", "cdr3 beta", "near cdr3 alpha", "near cdr3 beta"),
    *("same j alpha", "same j beta", "length alpha", "length beta", "same v alpha", "same v beta"),
)
"""From the sequences: TCRdist's parts, kernels of close CDR3s, equal V and J genes, equal lengths of CDR3s."""
SCEPTR_FEATURES = ("sceptr", "sceptr alpha", "sceptr beta")
"""Cosines of SCEPTR's vectors: of both chains, of the alpha and of the beta chain alone."""
SAME = 3.0
"""Value of a feature of equal genes."""
_MEAN = np.array([57, 30, 49, 32], np.float32)
_SCALE = np.array([15, 8, 15, 8], np.float32)
"""Of TCRdist's parts, over pairs of receptors that bind different epitopes (IEDB)."""
_COSINE_MEAN, _COSINE_SCALE = 0.05, 0.25


@dataclass(frozen=True)
class Described:
    """Receptors as features are made of them. vectors: SCEPTR's (receptors, 3, 64), where they are used."""

    encoded: Encoded
    vectors: Float32[np.ndarray, "receptors 3 64"] | None = None

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: np.ndarray | slice) -> Described:
        return Described(self.encoded[index], None if self.vectors is None else self.vectors[index])


def pair_features(a: Described, b: Described) -> Float32[Tensor, "a b features"]:
    """Features of all pairs: CDR_FEATURES, then SCEPTR_FEATURES where both sides have vectors."""
    parts = part_distances(a.encoded, b.encoded)
    shape = (*parts.shape[1:], len(CDR_FEATURES))
    if a.vectors is not None and b.vectors is not None:
        shape = (*parts.shape[1:], len(CDR_FEATURES) + len(SCEPTR_FEATURES))
    features = np.zeros(shape, np.float32)
    for i in range(4):
        features[..., i] = (_MEAN[i] - parts[i]) / _SCALE[i]
    for chain in range(2):
        features[..., 4 + chain] = 4 * np.exp(-parts[2 * chain + 1] / 8)
        j_a, j_b = a.encoded.j[:, chain], b.encoded.j[:, chain]
        features[..., 6 + chain] = SAME * ((j_a[:, None] == j_b) & (j_a[:, None] > 0))
        n_a, n_b = a.encoded.length[:, chain], b.encoded.length[:, chain]
        both = (n_a[:, None] > 0) & (n_b > 0)
        features[..., 8 + chain] = np.where(both, -np.abs(n_a[:, None] - n_b) / 2, 0)
        features[..., 10 + chain] = SAME * (parts[2 * chain] == 0)
    if a.vectors is not None and b.vectors is not None:
        for i in range(len(SCEPTR_FEATURES)):
            cosine = a.vectors[:, i] @ b.vectors[:, i].T
            features[..., len(CDR_FEATURES) + i] = (cosine - _COSINE_MEAN) / _COSINE_SCALE
    np.nan_to_num(features, copy=False, nan=0.0)
    return torch.from_numpy(features)
