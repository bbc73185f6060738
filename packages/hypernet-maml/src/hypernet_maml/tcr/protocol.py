"""What is held out from what: clusters of epitopes, clonotypes, folds, and tasks of a few shots.

No receptor of an evaluation, whether positive or negative, may be known from training: receptors that were trained on,
as anyone's binders, are pushed away from all that is new, and a test whose negatives are such receptors measures
novelty.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from hypernet_maml.tcr.datasets import Binders
from hypernet_maml.tcr.distances import edit_distance_within
from hypernet_maml.tcr.receptors import Receptor

EPITOPE_EDITS = 3
"""Epitopes within so many edits of each other are never on both sides."""


@dataclass(frozen=True)
class Fold:
    """Rows of a set of binders. No epitope cluster and no clonotype of `test` is in `train`."""

    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Task:
    """Rows of a set of binders: an epitope's known binders, and receptors to rank.

    No clonotype of the support is among the queries.
    """

    epitope: str
    support: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def epitope_clusters(epitopes: Iterable[str], edits: int = EPITOPE_EDITS) -> dict[str, int]:
    """A number for each epitope: equal where a chain of epitopes links them, each within `edits` of the next."""
    return dict(_clusters(frozenset(epitopes), edits))


@lru_cache(maxsize=64)
def _clusters(epitopes: frozenset[str], edits: int) -> dict[str, int]:
    names = sorted(epitopes)
    letters = sorted(set("".join(names)))
    counts = np.array([[name.count(letter) for letter in letters] for name in names])
    links = []
    for i, name in enumerate(names):
        # An edit changes each of these sums by one at most.
        more = np.maximum(counts[:i] - counts[i], 0).sum(1)
        less = np.maximum(counts[i] - counts[:i], 0).sum(1)
        near = np.flatnonzero(np.maximum(more, less) <= edits)
        links += [(i, j) for j in near.tolist() if edit_distance_within(name, names[j], edits)]
    return dict(zip(names, _components(len(names), links), strict=True))


def clonotypes(receptors: Sequence[Receptor]) -> np.ndarray:
    """A number for each receptor, int (receptors,): equal where a chain of receptors links them.

    Two are linked when their CDR3s of the beta chain are within one edit, whatever the alpha chain; receptors without
    a beta chain when those of the alpha chain are.
    """
    names = [
        f"b{r.beta.cdr3}" if r.beta is not None else f"a{r.alpha.cdr3}"  # type: ignore[union-attr]
        for r in receptors
    ]
    distinct = sorted(set(names))
    position = {name: i for i, name in enumerate(distinct)}
    # Within one edit: equal after one letter of either, or of both at one place, is left out.
    by_deletion: dict[tuple[str, int], list[int]] = defaultdict(list)
    for name, i in position.items():
        for cut in range(1, len(name)):
            by_deletion[name[:cut] + name[cut + 1 :], cut].append(i)
    links = []
    for group in by_deletion.values():
        links += list(pairwise(group))
    whole = {
        (name[:cut] + name[cut + 1 :]): i
        for name, i in position.items()
        for cut in range(1, len(name))
    }
    links += [(position[name], i) for name, i in whole.items() if name in position]
    components = _components(len(distinct), links)
    return np.array([components[position[name]] for name in names], dtype=np.int64)


def make_folds(binders: Binders, *, folds: int, seed: int) -> list[Fold]:
    """Split by epitope clusters, about equally many receptors of 30 at most an epitope in each; then drop from each
    training part every receptor whose clonotype is in the test part.
    """
    cluster_of = epitope_clusters(binders.epitopes)
    clusters = np.array([cluster_of[epitope] for epitope in binders.epitopes])
    groups = clonotypes(binders.receptors)
    weight: dict[int, int] = defaultdict(int)
    for epitope, count in zip(*np.unique(binders.epitopes, return_counts=True), strict=True):
        weight[cluster_of[str(epitope)]] += min(int(count), 30)
    order = sorted(weight)
    np.random.default_rng(seed).shuffle(order)
    order.sort(
        key=lambda cluster: -weight[cluster]
    )  # stable: clusters of equal weight stay shuffled
    # The heaviest first, in shuffled rounds, so that each fold has its share of well known epitopes.
    rng = np.random.default_rng([seed, 1])
    fold_of: dict[int, int] = {}
    for start in range(0, len(order), folds):
        for cluster, fold in zip(
            order[start : start + folds], rng.permutation(folds), strict=False
        ):
            fold_of[cluster] = int(fold)
    assigned = np.array([fold_of[int(cluster)] for cluster in clusters])
    split = []
    for fold in range(folds):
        test = np.flatnonzero(assigned == fold)
        train = np.flatnonzero((assigned != fold) & ~np.isin(groups, groups[test]))
        split.append(Fold(train, test))
    return split


def make_tasks(
    binders: Binders,
    rows: np.ndarray,
    *,
    shots: int,
    episodes: int,
    seed: int,
    min_binders: int = 30,
    negatives_per_epitope: int = 100,
    support_rows: np.ndarray | None = None,
) -> list[Task]:
    """Tasks of every epitope with at least `min_binders` receptors among `rows`.

    Args:
        binders: receptors and what they bind.
        rows: of which tasks are made; a fold's `test`.
        shots: binders in a support.
        episodes: tasks an epitope, each with another support.
        seed: of the supports and negatives.
        min_binders: fewer: no task.
        negatives_per_epitope: binders of one other epitope at most, so that no epitope is most of the negatives.
        support_rows: among which supports are drawn; None: all rows.
    """
    epitopes = np.array(binders.epitopes)
    cluster_of = epitope_clusters(binders.epitopes)
    clusters = np.array([cluster_of[epitope] for epitope in binders.epitopes])
    groups = clonotypes(binders.receptors)
    tasks = []
    for number, epitope in enumerate(sorted(set(epitopes[rows].tolist()))):
        own = rows[epitopes[rows] == epitope]
        if len(own) < max(min_binders, shots + 1):
            continue
        others = rows[clusters[rows] != cluster_of[epitope]]
        # Receptors that bind this epitope too are no negatives of it.
        others = others[~np.isin(groups[others], groups[own])]
        for episode in range(episodes):
            rng = np.random.default_rng([seed, number, episode, shots])
            eligible = own if support_rows is None else np.intersect1d(own, support_rows)
            support = rng.choice(eligible, shots, replace=False)
            positives = own[~np.isin(groups[own], groups[support])]
            if len(positives):
                tasks.append(
                    Task(
                        epitope,
                        support,
                        positives,
                        _capped(others, epitopes, negatives_per_epitope, rng),
                    )
                )
    return tasks


def _capped(
    rows: np.ndarray, epitopes: np.ndarray, most: int, rng: np.random.Generator
) -> np.ndarray:
    shuffled = rng.permutation(rows)
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for row in shuffled:
        seen[epitopes[row]] += 1
        if seen[epitopes[row]] <= most:
            kept.append(row)
    return np.sort(np.array(kept, dtype=np.int64))


def _components(n: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """Connected components of a graph of n nodes, numbered."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.array(list(links), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return [int(c) for c in connected_components(graph, directed=False)[1]]
