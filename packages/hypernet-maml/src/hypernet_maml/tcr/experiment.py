"""The experiment `few-shot`: unseen epitopes ranked from a few binders, against all baselines, by one protocol.

Epitopes are held out in folds of clusters; no receptor of a fold's tasks, positive or negative, nor one of its
clonotypes, is in the fold's training part (see `protocol`). Each seed splits, draws tasks and trains anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hypernet_maml.tcr.baselines import BASELINES, TCRDIST, nearest
from hypernet_maml.tcr.config import SHOTS, TrainConfig
from hypernet_maml.tcr.datasets import Binders, load_binders
from hypernet_maml.tcr.distances import part_distances, tcrdist
from hypernet_maml.tcr.evaluation import METRICS, Scorer, evaluate
from hypernet_maml.tcr.features import CDR_FEATURES, Described, pair_features
from hypernet_maml.tcr.protocol import Fold, make_folds, make_tasks
from hypernet_maml.tcr.ranker import describe
from hypernet_maml.tcr.training import scores_of_rows, train
from priors_shared.devices import hardware
from priors_shared.reports import Measured
from priors_shared.reports.results import write_result
from priors_shared.runs import Run
from priors_shared.statistics import compare_paired

CLAIM = (
    "a hypernetwork that sees k binders of an unseen epitope ranks receptors that no training saw better than every "
    "baseline does"
)
ARMS: dict[str, dict[str, Any]] = {
    "hypernetwork": {},
    "hypernetwork, SCEPTR": {"encoder": "sceptr"},
    "no hypernetwork": {"hypernetwork": False},
}
"""What is trained: settings that differ from the preset's."""
CONTROL = "hypernetwork, epitopes permuted"
PerEpitope = dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the experiment."""

    seeds: tuple[int, ...] = (0, 1, 2)
    shots: tuple[int, ...] = SHOTS
    episodes: int = 1
    """tasks an epitope and seed"""
    min_binders: int = 30
    steps: int = 150


def run_experiment(
    out: Path,
    runs: Path,
    *,
    root: str | Path | None,
    command: str,
    sizes: Sizes,
    config: TrainConfig,
) -> dict[str, dict[int, dict[str, PerEpitope]]]:
    """Train, rank and write `out`/tcr-few-shot-cpu.json; trainings live in `runs` and are resumed from there.

    Returns scores by arm, shots, seed and epitope.
    """
    binders = load_binders(config.source, root)
    described = describe(binders.receptors, "sceptr")
    table = pair_features(described, described)
    distances = tcrdist(part_distances(described.encoded, described.encoded))
    found: dict[str, dict[int, dict[str, PerEpitope]]] = {}
    seed = sizes.seeds[0]
    shuffled = np.random.default_rng([seed, 9]).permutation(np.array(binders.epitopes)).tolist()
    permuted = replace(binders, epitopes=tuple(shuffled))
    for number, fold in enumerate(make_folds(permuted, folds=config.folds, seed=seed)):
        base = replace(config, seed=seed, split_seed=seed, fold=number, steps=sizes.steps)
        scorer = _trained(
            base, {}, permuted, described, table, fold, runs / f"permuted-{seed}-{number}"
        )
        _score(found, {CONTROL: scorer}, permuted, fold, seed, sizes)
    for seed in sizes.seeds:
        for number, fold in enumerate(make_folds(binders, folds=config.folds, seed=seed)):
            base = replace(config, seed=seed, split_seed=seed, fold=number, steps=sizes.steps)
            scorers = _baselines(described, distances, fold, base)
            for arm, changes in ARMS.items():
                scorers[arm] = _trained(
                    base, changes, binders, described, table, fold, runs / f"{arm}-{seed}-{number}"
                )
            _score(found, scorers, binders, fold, seed, sizes)
        done = replace(sizes, seeds=sizes.seeds[: sizes.seeds.index(seed) + 1])
        _write(out / "tcr-few-shot-cpu.json", found, binders, command, done, config)
    return found


def _baselines(
    described: Described, distances: np.ndarray, fold: Fold, config: TrainConfig
) -> dict[str, Scorer]:
    rng = np.random.default_rng([config.seed, 8])
    background = described[
        rng.choice(fold.train, min(config.background, len(fold.train)), replace=False)
    ]

    def scorer(name: str, support: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return BASELINES[name](described[support], described[queries], background)

    def neighbours(count: int, support: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return nearest(distances[queries[:, None], support], count)

    by_tcrdist = {name: partial(neighbours, count) for name, count in TCRDIST.items()}
    return {**by_tcrdist, **{name: partial(scorer, name) for name in BASELINES}}


def _trained(
    base: TrainConfig,
    changes: Mapping[str, Any],
    binders: Binders,
    described: Described,
    table: torch.Tensor,
    fold: Fold,
    folder: Path,
) -> Scorer:
    config = replace(base, encoder=changes.get("encoder", "cdr"))
    config = replace(
        config, model=replace(config.model, hypernetwork=changes.get("hypernetwork", True))
    )
    if config.encoder == "cdr":
        described, table = Described(described.encoded), table[..., : len(CDR_FEATURES)]
    with Run.create(folder, asdict(config), command="", resume=True, quiet=True) as run:
        ranker = train(config, binders, described, fold, run, table)
    background = pair_features(described, ranker.background.receptors()).mean(1)

    def scorer(support: np.ndarray, queries: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return scores_of_rows(ranker.net, table, background, support, queries).numpy()

    return scorer


def _score(
    found: dict[str, dict[int, dict[str, PerEpitope]]],
    scorers: Mapping[str, Scorer],
    binders: Binders,
    fold: Fold,
    seed: int,
    sizes: Sizes,
) -> None:
    for shots in sizes.shots:
        tasks = make_tasks(
            binders,
            fold.test,
            shots=shots,
            episodes=sizes.episodes,
            seed=seed,
            min_binders=sizes.min_binders,
        )
        for arm, scorer in scorers.items():
            place = found.setdefault(arm, {}).setdefault(shots, {}).setdefault(str(seed), {})
            place.update(evaluate(tasks, scorer))


def _write(
    path: Path,
    found: Mapping[str, Mapping[int, Mapping[str, PerEpitope]]],
    binders: Binders,
    command: str,
    sizes: Sizes,
    config: TrainConfig,
) -> None:
    rows = []
    for arm, by_shots in found.items():
        for shots, by_seed in by_shots.items():
            row: dict[str, Any] = {"arm": arm, "shots": shots}
            for metric in METRICS:
                means = [np.mean([e[metric] for e in per.values()]) for per in by_seed.values()]
                spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
                row[metric] = Measured(float(np.mean(means)), spread, len(means))
            rows.append(row)
    write_result(
        path,
        experiment="tcr-few-shot",
        claim=CLAIM,
        rows=rows,
        config=asdict(replace(config, steps=sizes.steps)),
        seeds=sizes.seeds,
        data={"source": config.source, "pairs": len(binders), "dropped": dict(binders.dropped)},
        hardware=hardware(),
        command=command,
        extra={
            "sizes": asdict(sizes),
            "paired": paired(found),
            "epitopes": {arm: _by_epitope(by_shots) for arm, by_shots in found.items()},
        },
    )


def paired(found: Mapping[str, Mapping[int, Mapping[str, PerEpitope]]]) -> list[dict[str, Any]]:
    """Trained arms less each other arm, over epitopes: mean and 95 % interval of the difference."""
    compared = []
    for arm in ARMS:
        for other in [*TCRDIST, *BASELINES, *ARMS]:
            if other == arm or arm not in found or other not in found:
                continue
            for shots in found[arm]:
                one, two = (_by_epitope(found[name])[shots] for name in (arm, other))
                row: dict[str, Any] = {
                    "arm": arm,
                    "other": other,
                    "shots": shots,
                    "epitopes": len(one),
                }
                for metric in METRICS:
                    pairs = [(one[e][metric], two[e][metric]) for e in sorted(one)]
                    difference = compare_paired(*zip(*pairs, strict=True)).difference
                    row[metric] = [difference.mean, difference.low, difference.high]
                compared.append(row)
    return compared


def _by_epitope(by_shots: Mapping[int, Mapping[str, PerEpitope]]) -> dict[int, PerEpitope]:
    """Means over seeds."""
    means: dict[int, PerEpitope] = {}
    for shots, by_seed in by_shots.items():
        names = sorted({epitope for per in by_seed.values() for epitope in per})
        means[shots] = {
            e: {m: _mean([per[e][m] for per in by_seed.values() if e in per]) for m in METRICS}
            for e in names
        }
    return means


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
