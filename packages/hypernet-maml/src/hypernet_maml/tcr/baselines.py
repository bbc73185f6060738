"""What a hypernetwork has to beat: rankings by a support that need no training over epitopes.

Each is a function (support, queries, background) -> scores, higher is likelier to bind; background: receptors of the
training part, for those that need negatives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from hypernet_maml.tcr.distances import edit_distances
from hypernet_maml.tcr.features import Described

Scores = Float32[np.ndarray, " queries"]


def nearest_edit_distance(support: Described, queries: Described, background: Described) -> Scores:
    """The nearest binder by the edit distances of both CDR3s, and 4 for each V gene that differs."""
    total = np.zeros((len(queries), len(support)), np.float32)
    for chain in range(2):
        total += edit_distances(queries.encoded, support.encoded, chain)
        same = queries.encoded.loops[:, None, chain] == support.encoded.loops[None, :, chain]
        total += 4 * ~same.all(-1)
    return -total.min(1)


def gene_frequencies(support: Described, queries: Described, background: Described) -> Scores:
    """How much more frequent V and J genes are in the support than in the background; CDR3s are not looked at."""
    score = np.zeros(len(queries), np.float32)
    for part in ("loops", "j"):
        for chain in range(2):
            sides = [getattr(x.encoded, part)[:, chain] for x in (support, queries, background)]
            lengths = np.cumsum([len(side) for side in sides])[:2]
            stacked = np.concatenate([side.reshape(len(side), -1) for side in sides])
            _, gene = np.unique(stacked, axis=0, return_inverse=True)
            own, asked, others = np.split(gene.ravel(), lengths)
            genes = int(gene.max()) + 1
            frequency = (np.bincount(others, minlength=genes) + 1) / (len(others) + genes)
            # A prior of five receptors of the background: one binder says little.
            in_support = (np.bincount(own, minlength=genes) + 5 * frequency) / (len(own) + 5)
            score += np.log(in_support / frequency)[asked].astype(np.float32)
    return score


def nearest_sceptr(support: Described, queries: Described, background: Described) -> Scores:
    """The nearest binder by the cosine of SCEPTR's vectors."""
    return (_vectors(queries) @ _vectors(support).T).max(1)


def prototype_sceptr(support: Described, queries: Described, background: Described) -> Scores:
    """The cosine to the mean of the binders' SCEPTR vectors."""
    return _vectors(queries) @ _vectors(support).mean(0)


def logistic_sceptr(support: Described, queries: Described, background: Described) -> Scores:
    """Logistic regression on SCEPTR's vectors of both chains and each: binders against the background."""
    from sklearn.linear_model import LogisticRegression

    assert support.vectors is not None
    assert queries.vectors is not None
    assert background.vectors is not None
    rows = [x.vectors.reshape(len(x), -1) for x in (support, background)]  # type: ignore[union-attr]
    labels = np.repeat([1, 0], [len(support), len(background)])
    model = LogisticRegression(class_weight="balanced", max_iter=500)
    model.fit(np.concatenate(rows), labels)
    flat = queries.vectors.reshape(len(queries), -1)
    return model.decision_function(flat).astype(np.float32)


def nearest(distances: Float32[np.ndarray, "queries binders"], neighbours: int) -> Scores:
    """Less the mean distance to so many of the nearest binders."""
    return -np.sort(distances, axis=1)[:, :neighbours].mean(1)


TCRDIST = {"1-NN, TCRdist": 1, "3-NN, TCRdist": 3}
"""Numbers of neighbours of `nearest`, by `distances.tcrdist`."""
BASELINES: dict[str, Callable[[Described, Described, Described], Scores]] = {
    "1-NN, edit distance": nearest_edit_distance,
    "V and J genes": gene_frequencies,
    "1-NN, SCEPTR": nearest_sceptr,
    "prototype, SCEPTR": prototype_sceptr,
    "logistic, SCEPTR": logistic_sceptr,
}
"""By name; besides them, TCRDIST. Those of SCEPTR need `Described.vectors`."""


def _vectors(receptors: Described) -> np.ndarray:
    assert receptors.vectors is not None  # BASELINES says so
    return receptors.vectors[:, 0]
