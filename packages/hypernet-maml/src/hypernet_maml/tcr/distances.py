"""TCRdist (Dash et al. 2017), by parts and vectorised, and the edit distance of CDR3s.

Substitutions cost min(4, 4 - BLOSUM62), a gap 4. CDR3s leave out three residues at the front and two at the end, and
one run of gaps is put where it costs least, as in tcrdist3; in the aligned loops a gap costs 4 as published, where
tcrdist3 0.3 charges nothing. TCRdist is the sum over both chains of the loops' distances and three times the CDR3s'.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from hypernet_maml.tcr.receptors import AMINO_ACIDS, GAP, MISSING, Encoded

PARTS = ("loops alpha", "cdr3 alpha", "loops beta", "cdr3 beta")
CDR3_WEIGHT = 3
FRONT, END = 3, 2
"""Residues of a CDR3 that TCRdist leaves out."""
UNKNOWN = np.nan
"""Distance of parts of which one is not known."""

# BLOSUM62 (Henikoff and Henikoff 1992), in the order of AMINO_ACIDS.
_BLOSUM62 = """
 4  0 -2 -1 -2  0 -2 -1 -1 -1 -1 -2 -1 -1 -1  1  0  0 -3 -2
 0  9 -3 -4 -2 -3 -3 -1 -3 -1 -1 -3 -3 -3 -3 -1 -1 -1 -2 -2
-2 -3  6  2 -3 -1 -1 -3 -1 -4 -3  1 -1  0 -2  0 -1 -3 -4 -3
-1 -4  2  5 -3 -2  0 -3  1 -3 -2  0 -1  2  0  0 -1 -2 -3 -2
-2 -2 -3 -3  6 -3 -1  0 -3  0  0 -3 -4 -3 -3 -2 -2 -1  1  3
 0 -3 -1 -2 -3  6 -2 -4 -2 -4 -3  0 -2 -2 -2  0 -2 -3 -2 -3
-2 -3 -1  0 -1 -2  8 -3 -1 -3 -2  1 -2  0  0 -1 -2 -3 -2  2
-1 -1 -3 -3  0 -4 -3  4 -3  2  1 -3 -3 -3 -3 -2 -1  3 -3 -1
-1 -3 -1  1 -3 -2 -1 -3  5 -2 -1  0 -1  1  2  0 -1 -2 -3 -2
-1 -1 -4 -3  0 -4 -3  2 -2  4  2 -3 -3 -2 -2 -2 -1  1 -2 -1
-1 -1 -3 -2  0 -3 -2  1 -1  2  5 -2 -2  0 -1 -1 -1  1 -1 -1
-2 -3  1  0 -3  0  1 -3  0 -3 -2  6 -2  0  0  1  0 -3 -4 -2
-1 -3 -1 -1 -4 -2 -2 -3 -1 -3 -2 -2  7 -1 -2 -1 -1 -2 -4 -3
-1 -3  0  2 -3 -2  0 -3  1 -2  0  0 -1  5  1  0 -1 -2 -2 -1
-1 -3 -2  0 -3 -2  0 -3  2 -2 -1  0 -2  1  5 -1 -1 -3 -3 -2
 1 -1  0  0 -2  0 -1 -2  0 -2 -1  1 -1  0 -1  4  1 -2 -3 -2
 0 -1 -1 -1 -2 -2 -2 -1 -1 -1 -1  0 -1 -1 -1  1  5  0 -2 -2
 0 -1 -3 -2 -1 -3 -3  3 -2  1  1 -3 -2 -2 -3 -2  0  4 -3 -1
-3 -2 -4 -3  1 -2 -2 -3 -3 -2 -1 -4 -4 -2 -3 -3 -2 -3 11  2
-2 -2 -3 -2  3 -3  2 -1 -2 -1 -1 -2 -3 -1 -2 -2 -2 -1  2  7
"""
BLOSUM62 = np.array(_BLOSUM62.split(), np.int64).reshape(len(AMINO_ACIDS), -1)


def _costs() -> np.ndarray:
    costs = np.full((MISSING + 1, MISSING + 1), 4, np.float32)
    costs[:GAP, :GAP] = np.minimum(4, 4 - BLOSUM62)
    np.fill_diagonal(costs, 0)
    return costs


COSTS = _costs()


def part_distances(a: Encoded, b: Encoded) -> Float32[np.ndarray, "4 a b"]:
    """Distances of all pairs by PARTS, without weights; NaN where a part of either is not known."""
    parts = []
    for chain in range(2):
        parts.append(_loop_distances(a.loops[:, chain], b.loops[:, chain]))
        parts.append(_cdr3_distances(a, b, chain))
    return np.stack(parts)


def tcrdist(parts: Float32[np.ndarray, "4 a b"]) -> Float32[np.ndarray, "a b"]:
    """TCRdist of part distances; parts that are not known count as much as the known ones do on average.

    Infinite where no part is known on both sides.
    """
    weights = np.array([1, CDR3_WEIGHT, 1, CDR3_WEIGHT], np.float32)[:, None, None]
    known = ~np.isnan(parts)
    # What a part weighs where nothing is alike, so that a missing chain neither helps nor harms.
    typical = np.array([60, 75, 60, 75], np.float32)[:, None, None]
    total = np.where(known, weights * parts, 0).sum(0)
    share = np.where(known, typical, 0).sum(0) / typical.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share > 0, total / share, np.inf).astype(np.float32)


def _loop_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Over V genes, of which there are few, not over receptors."""
    genes_a, which_a = np.unique(a, axis=0, return_inverse=True)
    genes_b, which_b = np.unique(b, axis=0, return_inverse=True)
    distance = np.zeros((len(genes_a), len(genes_b)), np.float32)
    for column in range(a.shape[1]):
        distance += COSTS[genes_a[:, column, None], genes_b[None, :, column]]
    distance[(genes_a == MISSING).all(1)] = UNKNOWN
    distance[:, (genes_b == MISSING).all(1)] = UNKNOWN
    return distance[which_a.ravel()[:, None], which_b.ravel()[None]]


def _cdr3_distances(a: Encoded, b: Encoded, chain: int) -> np.ndarray:
    distance = np.full((len(a), len(b)), UNKNOWN, np.float32)
    for n in np.unique(a.length[:, chain]):
        rows = np.flatnonzero(a.length[:, chain] == n)
        for m in np.unique(b.length[:, chain]):
            columns = np.flatnonzero(b.length[:, chain] == m)
            if n and m:
                one, other = a.cdr3[rows, chain, :n], b.cdr3[columns, chain, :m]
                distance[np.ix_(rows, columns)] = _gapped(one, other)
    return distance


def _gapped(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances of CDR3s of one length to those of another: one run of gaps, where it costs least."""
    n, m = a.shape[1], b.shape[1]
    if n == m:
        return sum(
            (COSTS[a[:, i, None], b[None, :, i]] for i in range(FRONT, n - END)),
            np.zeros((len(a), len(b)), np.float32),
        )
    short = min(n, m)
    first, last = 5, short - 5
    while first > last:
        first, last = first - 1, last + 1
    # Front of the gap, position by position; then the same from the end.
    fronts = [np.zeros((len(a), len(b)), np.float32)]
    for i in range(last):
        cost = COSTS[a[:, i, None], b[None, :, i]] if i >= FRONT else 0
        fronts.append(fronts[-1] + cost)
    best: np.ndarray | None = None
    behind = np.zeros((len(a), len(b)), np.float32)
    for c in range(short - first):
        if c >= END:
            behind = behind + COSTS[a[:, n - 1 - c, None], b[None, :, m - 1 - c]]
        position = short - 1 - c
        if first <= position <= last:
            total = fronts[position] + behind
            best = total if best is None else np.minimum(best, total)
    assert best is not None  # first <= last, so a position was tried
    return best + 4 * abs(n - m)


def edit_distance_within(a: str, b: str, limit: int) -> bool:
    """Whether insertions, deletions and substitutions, at most `limit` of them, turn a into b."""
    if abs(len(a) - len(b)) > limit:
        return False
    previous = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        row = [i]
        for j, other in enumerate(b, start=1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (letter != other)))
        if min(row) > limit:
            return False
        previous = row
    return previous[-1] <= limit


def edit_distances(a: Encoded, b: Encoded, chain: int) -> Float32[np.ndarray, "a b"]:
    """Edit distances of the CDR3s of a chain, of all pairs; of a missing chain all of the other's letters."""
    letters_a, letters_b = a.cdr3[:, chain, None], b.cdr3[None, :, chain]
    width_a, width_b = int(a.length[:, chain].max()), int(b.length[:, chain].max())
    shape = (len(a), len(b))
    table = np.empty((width_a + 1, width_b + 1, *shape), np.int16)
    table[:, 0] = np.arange(width_a + 1)[:, None, None]
    table[0] = np.arange(width_b + 1)[:, None, None]
    for i in range(width_a):
        for j in range(width_b):
            changed = letters_a[..., i] != letters_b[..., j]
            shorter = np.minimum(table[i, j + 1], table[i + 1, j]) + 1
            table[i + 1, j + 1] = np.minimum(shorter, table[i, j] + changed)
    rows, columns = np.indices(shape)
    ends = a.length[:, chain, None], b.length[None, :, chain]
    return table[ends[0], ends[1], rows, columns].astype(np.float32)
