"""Trained weights on another collection's epitopes, without those, or their clonotypes, that were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hypernet_maml.tcr.baselines import nearest
from hypernet_maml.tcr.config import TrainConfig
from hypernet_maml.tcr.datasets import Binders, load_binders
from hypernet_maml.tcr.distances import part_distances, tcrdist
from hypernet_maml.tcr.evaluation import METRICS, evaluate
from hypernet_maml.tcr.pretrained import TcrHypernetwork
from hypernet_maml.tcr.protocol import clonotypes, epitope_clusters, make_folds, make_tasks
from hypernet_maml.tcr.ranker import describe
from priors_shared.devices import hardware
from priors_shared.errors import UserError
from priors_shared.reports import Measured
from priors_shared.reports.results import write_result
from priors_shared.statistics import compare_paired


@dataclass(frozen=True)
class External:
    """Means over epitopes by shots, with the paired difference to the nearest binder by TCRdist."""

    rows: list[dict[str, Any]]
    epitopes: tuple[str, ...]
    config: dict[str, Any]

    def write(self, path: Path, command: str) -> None:
        """Write a result file."""
        write_result(
            path,
            experiment="tcr-external",
            claim="the hypernetwork beats the nearest binder by TCRdist on another collection's epitopes",
            rows=self.rows,
            config=self.config,
            seeds=[self.config["seed"]],
            data={"source": self.config["source"], "epitopes": list(self.epitopes)},
            hardware=hardware(),
            command=command,
        )


def unseen(source: Binders, trained: Binders, trained_rows: np.ndarray) -> np.ndarray:
    """Rows of a source whose epitope is in no cluster, and whose receptor of no clonotype, of those trained on."""
    clusters = epitope_clusters([*source.epitopes, *trained.epitopes])
    known = {clusters[trained.epitopes[i]] for i in trained_rows}
    receptors = [*source.receptors, *(trained.receptors[i] for i in trained_rows)]
    groups = clonotypes(receptors)
    own, theirs = groups[: len(source)], groups[len(source) :]
    new = np.array([clusters[epitope] not in known for epitope in source.epitopes])
    return np.flatnonzero(new & ~np.isin(own, theirs))


def evaluate_external(
    hypernetwork: TcrHypernetwork,
    source: str,
    root: str | Path | None,
    *,
    shots: Sequence[int],
    episodes: int,
    min_binders: int,
    seed: int,
) -> External:
    """Rank the receptors of a source's epitopes, against binders of its other epitopes.

    Raises:
        UserError: the weights do not say what they were trained on, or no epitope is left.
    """
    record = hypernetwork.trained.get("config")
    if not isinstance(record, dict):
        raise UserError("the weights do not say what they were trained on")
    settings = {name: record[name] for name in ("source", "folds", "fold", "split_seed")}
    config = TrainConfig(**settings)
    known, binders = load_binders(config.source, root), load_binders(source, root)
    fold = make_folds(known, folds=config.folds, seed=config.split_seed)[config.fold]
    rows = unseen(binders, known, fold.train)
    ranker = hypernetwork.ranker
    chosen = [binders.receptors[i] for i in rows]
    left = Binders(tuple(chosen), tuple(binders.epitopes[i] for i in rows), {})
    described = describe(chosen, ranker.encoder)
    everything = np.arange(len(rows))
    found: list[dict[str, Any]] = []
    epitopes: set[str] = set()
    for k in shots:
        tasks = make_tasks(
            left, everything, shots=k, episodes=episodes, seed=seed, min_binders=min_binders
        )
        if len({task.epitope for task in tasks}) < 2:
            raise UserError(
                f"min_binders: fewer than 2 epitopes of {source} are new and have {min_binders}"
            )
        epitopes |= {task.epitope for task in tasks}
        ours = evaluate(tasks, lambda s, q: ranker.score(described[s], described[q]).numpy())
        theirs = evaluate(
            tasks,
            lambda s, q: nearest(
                tcrdist(part_distances(described[q].encoded, described[s].encoded)), 1
            ),
        )
        row: dict[str, Any] = {"shots": k, "epitopes": len(ours)}
        for metric in METRICS:
            pairs = [(ours[e][metric], theirs[e][metric]) for e in sorted(ours)]
            one, two = zip(*pairs, strict=True)
            difference = compare_paired(one, two).difference
            row[metric] = Measured(float(np.mean(one)), None, 1)
            row[f"nearest {metric}"] = Measured(float(np.mean(two)), None, 1)
            row[f"difference {metric}"] = [difference.mean, difference.low, difference.high]
        found.append(row)
    used = {"source": source, "episodes": episodes, "min_binders": min_binders, "seed": seed}
    return External(found, tuple(sorted(epitopes)), {**used, "trained": settings})
