"""How well tasks of unseen epitopes are ranked: AUROC, the top of the ranking, average precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hypernet_maml.tcr.protocol import Task

METRICS = ("auroc", "auc01", "ap")
"""AUROC; its part up to a false positive rate of 0.1, standardised (chance 0.5, McClish 1989); average precision."""
Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows of the support, rows of the queries) -> scores."""


def ranking_metrics(scores: np.ndarray, positives: int) -> dict[str, float]:
    """METRICS of a ranking whose first `positives` scores are the binders'."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels = np.arange(len(scores)) < positives
    scores = np.nan_to_num(np.asarray(scores, np.float64), posinf=1e30, neginf=-1e30)
    return {
        "auroc": float(roc_auc_score(labels, scores)),
        "auc01": float(roc_auc_score(labels, scores, max_fpr=0.1)),
        "ap": float(average_precision_score(labels, scores)),
    }


def evaluate(tasks: Sequence[Task], scorer: Scorer) -> dict[str, dict[str, float]]:
    """METRICS of each epitope, means over its tasks."""
    found: dict[str, list[dict[str, float]]] = {}
    for task in tasks:
        queries = np.concatenate([task.positives, task.negatives])
        scores = scorer(task.support, queries)
        found.setdefault(task.epitope, []).append(ranking_metrics(scores, len(task.positives)))
    return {
        epitope: {metric: float(np.mean([row[metric] for row in rows])) for metric in METRICS}
        for epitope, rows in found.items()
    }
