"""Unseen epitopes' receptors ranked from a few binders, against all baselines, by one protocol (thesis 6.1).

Epitopes are held out in folds of clusters; no receptor of a fold's tasks, positive or negative, nor one of its
clonotypes, is in the fold's training part (see `hypernet_maml.tcr.protocol`). Each seed splits, draws tasks and trains
anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypernet_maml.tcr.baselines import BASELINES, TCRDIST, nearest
from hypernet_maml.tcr.config import SHOTS, TrainConfig
from hypernet_maml.tcr.datasets import Binders, load_binders
from hypernet_maml.tcr.distances import part_distances, tcrdist
from hypernet_maml.tcr.evaluation import METRICS, Scorer, evaluate
from hypernet_maml.tcr.features import CDR_FEATURES, Described, pair_features
from hypernet_maml.tcr.plots import few_shot_figure
from hypernet_maml.tcr.pretrained import TcrHypernetwork
from hypernet_maml.tcr.protocol import Fold, make_folds, make_tasks
from hypernet_maml.tcr.ranker import describe
from hypernet_maml.tcr.training import scores_of_rows, train
from priors_shared.experiments import Experiment, Lab
from priors_shared.reports import Cell, Code, Figure, Measured, Section, Table, read_result
from priors_shared.runs import Run
from priors_shared.statistics import compare_paired

ARMS: dict[str, dict[str, Any]] = {
    "hypernetwork": {},
    "hypernetwork, SCEPTR": {"encoder": "sceptr"},
    "no hypernetwork": {"hypernetwork": False},
}
"""What is trained: settings that differ from the preset's."""
CONTROL = "hypernetwork, epitopes permuted"
PerEpitope = dict[str, dict[str, float]]
Found = dict[str, dict[int, dict[str, PerEpitope]]]
"""Scores by arm, shots, seed and epitope."""


class Receptors:
    """A source's receptors with what is made of all pairs of them, once and when it is first asked for."""

    def __init__(self, source: str, data_root: str | Path | None) -> None:
        self._source, self._data_root = source, data_root

    @cached_property
    def binders(self) -> Binders:
        """They, and what they bind."""
        return load_binders(self._source, self._data_root)

    @cached_property
    def described(self) -> Described:
        """With SCEPTR's vectors."""
        return describe(self.binders.receptors, "sceptr")

    @cached_property
    def table(self) -> Tensor:
        """Features of each pair."""
        return pair_features(self.described, self.described)

    @cached_property
    def distances(self) -> np.ndarray:
        """TCRdist of each pair."""
        return tcrdist(part_distances(self.described.encoded, self.described.encoded))

    def permuted(self, seed: int) -> Binders:
        """Each with another's epitope."""
        epitopes = np.random.default_rng([seed, 9]).permutation(np.array(self.binders.epitopes))
        return replace(self.binders, epitopes=tuple(epitopes.tolist()))

    def seen_by(self, encoder: str) -> tuple[Described, Tensor]:
        """The receptors and their pairs' features as an encoder has them."""
        if encoder == "sceptr":
            return self.described, self.table
        return Described(self.described.encoded), self.table[..., : len(CDR_FEATURES)]


@dataclass(frozen=True, kw_only=True)
class TcrFewShot(Experiment):
    """The arms, baselines and the control, for each seed, fold and number of shots."""

    config: TrainConfig = field(default_factory=TrainConfig)
    shots: tuple[int, ...] = SHOTS
    episodes: int = 1
    """tasks an epitope and seed"""
    min_binders: int = 30
    data_root: str | Path | None = None
    """None: PRIORS_DATA"""

    def run(self, lab: Lab) -> None:
        """Train what is missing, rank, write; a seed without all of its trainings is left out."""
        receptors = Receptors(self.config.source, self.data_root)
        control = self._trained(lab, receptors, [CONTROL], self.seeds[0])
        done = [seed for seed in self.seeds if self._trained(lab, receptors, [*ARMS], seed)]
        if not done:
            return
        found: Found = {}
        if control:
            self._rank(lab, receptors, found, [CONTROL], self.seeds[0])
        for seed in done:
            self._rank(lab, receptors, found, [*ARMS], seed)
        self.write(
            lab,
            _rows(found),
            config=asdict(self.config),
            seeds=done,
            data={
                "source": self.config.source,
                "pairs": len(receptors.binders),
                "dropped": dict(receptors.binders.dropped),
            },
            sizes={
                "shots": self.shots,
                "episodes": self.episodes,
                "min_binders": self.min_binders,
            },
            paired=paired(found),
            epitopes={arm: _by_epitope(by_shots) for arm, by_shots in found.items()},
        )
        few_shot_figure(read_result(self.path(lab, suffix="json"))).savefig(self.path(lab))

    def _setting(self, arm: str, seed: int, fold: int) -> TrainConfig:
        changes = ARMS.get(arm, {})
        return replace(
            self.config,
            seed=seed,
            split_seed=seed,
            fold=fold,
            encoder=changes.get("encoder", "cdr"),
            model=replace(self.config.model, hypernetwork=changes.get("hypernetwork", True)),
        )

    def _folder(self, lab: Lab, arm: str, seed: int, fold: int) -> Path:
        return lab.runs / "tcr" / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}-{fold}"

    def _folds(self, receptors: Receptors, arm: str, seed: int) -> tuple[Binders, list[Fold]]:
        binders = receptors.permuted(seed) if arm == CONTROL else receptors.binders
        return binders, make_folds(binders, folds=self.config.folds, seed=seed)

    def _trained(self, lab: Lab, receptors: Receptors, arms: list[str], seed: int) -> bool:
        """Whether all of a seed's trainings are there."""

        def fit(run: Run, arm: str, number: int) -> None:
            config = self._setting(arm, seed, number)
            binders, folds = self._folds(receptors, arm, seed)
            described, table = receptors.seen_by(config.encoder)
            ranker = train(config, binders, described, folds[number], run, table)
            TcrHypernetwork(ranker, trained=asdict(config)).save_pretrained(run.out / "model")

        done = [  # a list: all are visited, whatever the first says
            lab.has(
                self._folder(lab, arm, seed, number),
                self._setting(arm, seed, number),
                partial(fit, arm=arm, number=number),
            )
            for number in range(self.config.folds)
            for arm in arms
        ]
        return all(done)

    def _rank(
        self, lab: Lab, receptors: Receptors, found: Found, arms: list[str], seed: int
    ) -> None:
        binders, folds = self._folds(receptors, arms[0], seed)
        for number, fold in enumerate(folds):
            scorers = {} if arms == [CONTROL] else self._baselines(receptors, fold, seed)
            for arm in arms:
                scorers[arm] = _scorer(receptors, self._folder(lab, arm, seed, number))
            for shots in self.shots:
                tasks = make_tasks(
                    binders,
                    fold.test,
                    shots=shots,
                    episodes=self.episodes,
                    seed=seed,
                    min_binders=self.min_binders,
                )
                for arm, scorer in scorers.items():
                    place = found.setdefault(arm, {}).setdefault(shots, {})
                    place.setdefault(str(seed), {}).update(evaluate(tasks, scorer))

    def _baselines(self, receptors: Receptors, fold: Fold, seed: int) -> dict[str, Scorer]:
        described = receptors.described
        count = min(self.config.background, len(fold.train))
        chosen = np.random.default_rng([seed, 8]).choice(fold.train, count, replace=False)
        background = described[chosen]

        def scorer(name: str, support: np.ndarray, queries: np.ndarray) -> np.ndarray:
            return BASELINES[name](described[support], described[queries], background)

        def neighbours(count: int, support: np.ndarray, queries: np.ndarray) -> np.ndarray:
            return nearest(receptors.distances[queries[:, None], support], count)

        by_tcrdist = {name: partial(neighbours, count) for name, count in TCRDIST.items()}
        return {**by_tcrdist, **{name: partial(scorer, name) for name in BASELINES}}


def experiment(preset: str = "cpu") -> TcrFewShot:
    """The same in every preset: the thesis has no numbers."""
    return TcrFewShot(
        id="tcr-few-shot",
        claim="a hypernetwork that sees k binders of an unseen epitope ranks receptors that no training saw better "
        "than every baseline does",
        preset=preset,
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
                row: dict[str, Any] = {"arm": arm, "other": other, "shots": shots}
                row["epitopes"] = len(one)
                for metric in METRICS:
                    pairs = [(one[e][metric], two[e][metric]) for e in sorted(one)]
                    difference = compare_paired(*zip(*pairs, strict=True)).difference
                    row[metric] = [difference.mean, difference.low, difference.high]
                compared.append(row)
    return compared


def section(path: Path) -> Section:
    """A stored result, for the report."""
    result = read_result(path)
    columns = ["arm", "known binders", "AUROC", "AUC0.1", "average precision"]
    rows: list[list[Cell]] = [
        [row["arm"], row["shots"], *(row[metric] for metric in METRICS)] for row in result["rows"]
    ]
    caption = f"Epitopes and receptors that no training saw, seeds {result['seeds']}; AUROC and AUC0.1: chance 0.5."
    parts: list[Any] = [Table(columns, rows, caption, digits=3)]
    picture = path.with_suffix(".png")
    if picture.is_file():
        parts.append(Figure.from_file(picture))
    title = "Stored result: T-cell receptors from a few binders"
    return Section(title, [*parts, Code(result["command"])], folded=True)


def _scorer(receptors: Receptors, folder: Path) -> Scorer:
    """A trained arm's scores of rows of all receptors."""
    ranker = TcrHypernetwork.from_pretrained(folder).ranker
    described, table = receptors.seen_by(ranker.encoder)
    background = pair_features(described, ranker.background.receptors()).mean(1)

    def scorer(support: np.ndarray, queries: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return scores_of_rows(ranker.net, table, background, support, queries).numpy()

    return scorer


def _rows(found: Found) -> list[dict[str, Any]]:
    rows = []
    for arm, by_shots in found.items():
        for shots, by_seed in by_shots.items():
            row: dict[str, Any] = {"arm": arm, "shots": shots}
            for metric in METRICS:
                means = [
                    float(np.mean([e[metric] for e in per.values()])) for per in by_seed.values()
                ]
                row[metric] = Measured.over_seeds(means)
            rows.append(row)
    return rows


def _by_epitope(by_shots: Mapping[int, Mapping[str, PerEpitope]]) -> dict[int, PerEpitope]:
    """Means over seeds."""
    means: dict[int, PerEpitope] = {}
    for shots, by_seed in by_shots.items():
        names = sorted({epitope for per in by_seed.values() for epitope in per})
        means[shots] = {
            e: {
                m: float(np.mean([per[e][m] for per in by_seed.values() if e in per]))
                for m in METRICS
            }
            for e in names
        }
    return means
