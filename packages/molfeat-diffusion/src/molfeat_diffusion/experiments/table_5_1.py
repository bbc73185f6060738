"""Table 5.1: does a diffusion model's knowledge of shape help a language model of SMILES?

Few labels, test molecules of other scaffolds, paired splits. Features are made once and kept below `runs`.
Layer and timestep of every kind of MiDi features, the random-weight, noise-free and 2D-only ones too, are
chosen alike: by cross-validation on each split's labelled molecules alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rdkit import Chem
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from molfeat_diffusion.data.splits import scaffold_split
from molfeat_diffusion.experiments.molecule_tasks import (
    MIDI_BLOCKS,
    Study,
    Task,
    load_task,
    midi_or_none,
)
from molfeat_diffusion.prediction.heads import BlockStandardizer, head
from molfeat_diffusion.prediction.screening import diversity, pick
from priors_shared.console import Progress
from priors_shared.experiments import Experiment, Lab
from priors_shared.files import write_atomically
from priors_shared.reports import Measured, comparison_table
from priors_shared.statistics import compare_paired

THESIS = {"SMILES model": {"AUROC": 0.850}, "SMILES model + MiDi": {"AUROC": 0.877}}
CLAIM = "MiDi's features beside those of a SMILES model improve AUROC"
ROWS: dict[str, tuple[str, ...]] = {
    "SMILES model": ("smiles",),
    "SMILES model + MiDi": ("smiles", "midi"),
    "MiDi": ("midi",),
    "SMILES model + random-weight MiDi": ("smiles", "random"),
    "random-weight MiDi": ("random",),
    "MiDi without noise": ("clean",),
    "MiDi, 2D only": ("flat",),
    "ECFP4": ("ecfp4",),
    "RDKit 2D": ("rdkit2d",),
    "USRCAT": ("usrcat",),
    "ECFP4, random forest": ("ecfp4",),
    "RDKit 2D, random forest": ("rdkit2d",),
    "USRCAT, random forest": ("usrcat",),
}
"""Blocks of features of each row; the head is the MLP where no forest is named."""

CPU = Study()
PAPER = replace(
    CPU,
    molecules=100_000,
    checkpoint="midi-geom",
    language="DeepChem/ChemBERTa-77M-MLM",
    timesteps=(10, 50, 100, 200),
    layers=(3, 6, 9, 12),
)


@dataclass
class Found:
    """Of a split: metrics and diversity of picks by row, and the setting of each of `MIDI_BLOCKS`."""

    scores: dict[str, dict[str, float]]
    picks: dict[str, dict[str, float]]
    settings: dict[str, str]


@dataclass
class Scores:
    """What was measured, over all splits."""

    per_split: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """By row and column, a value a split."""
    sweep: dict[str, dict[str, float]] = field(default_factory=dict)
    picks: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    settings: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    molecules: dict[str, int] = field(default_factory=dict)

    def add(self, found: Found, where: str) -> None:
        """Take in a split's; where: data set and number of labels."""
        for row, values in found.scores.items():
            for metric, value in values.items():
                self.per_split.setdefault(row, {}).setdefault(f"{metric} {where}", []).append(value)
        for row, values in found.picks.items():
            self.picks.setdefault(f"{row}, {where}", []).append(values)
        self.settings.setdefault(where, []).append(found.settings)


@dataclass(frozen=True, kw_only=True)
class Table51(Experiment):
    """All rows on all data sets; nothing is trained but heads."""

    id: str = "table-5.1"
    claim: str = CLAIM
    study: Study

    def run(self, lab: Lab) -> None:
        """Measure, and write the JSON, the table and the figure; a quick lab measures a part of it.

        Rows whose weights are not there are left out, and named in the result.
        """
        if lab.planned is not None:
            return
        study = self.study
        if lab.quick:
            part = study.datasets[:2]
            study = replace(study, splits=3, datasets=part, molecules=300, labels=(100,))
        midi = midi_or_none(study)
        blocks = {b for bs in ROWS.values() for b in bs if midi is not None or b not in MIDI_BLOCKS}
        rows = {name: bs for name, bs in ROWS.items() if blocks >= set(bs)}
        scores = Scores()
        for name in study.datasets:
            task = load_task(name, study, midi, lab.runs)
            scores.molecules[name] = len(task.smiles)
            scores.sweep[name] = _sweep(task, study) if midi is not None else {}
            with Progress(len(study.labels) * study.splits, f"table 5.1 {name}") as progress:
                for labels in study.labels:
                    for number in range(study.splits):
                        found = evaluate_split(task, study, rows, labels, number)
                        scores.add(found, f"{name} n={labels}")
                        progress.advance()
        self._write(lab, study, scores, sorted(set(ROWS) - set(rows)))

    def _write(self, lab: Lab, study: Study, scores: Scores, missing: list[str]) -> None:
        from molfeat_diffusion.plots import table_5_1_figure

        rows = [
            {"model": row} | {c: Measured.over_seeds(values) for c, values in columns.items()}
            for row, columns in scores.per_split.items()
        ]
        comparisons = _comparisons(scores.per_split)
        picks = {
            name: {key: float(np.mean([v[key] for v in values])) for key in values[0]}
            for name, values in scores.picks.items()
        }
        self.write(
            lab,
            rows,
            config=asdict(study),
            seeds=list(range(study.splits)),
            data="BACE, BBBP (MoleculeNet), MoleculeACE; scaffold splits, the same for all rows",
            thesis=THESIS,
            per_split=scores.per_split,
            comparisons=comparisons,
            sweep=scores.sweep,
            settings_chosen=scores.settings,
            picks=picks,
            picks_per_split=scores.picks,
            molecules=scores.molecules,
            rows_left_out=missing,
        )
        text = _markdown(study, rows, comparisons, picks, missing)
        write_atomically(self.path(lab, suffix="md"), text)
        figure: Any = table_5_1_figure(
            scores.per_split, scores.sweep, study.layers, study.timesteps
        )
        figure.savefig(self.path(lab), dpi=150)


def table_5_1(preset: str) -> Table51:
    """In a preset's sizes."""
    return Table51(preset=preset, study=CPU if preset == "cpu" else PAPER)


def evaluate_split(
    task: Task, study: Study, rows: Mapping[str, tuple[str, ...]], labels: int, number: int
) -> Found:
    """Fit every row on the split's labelled molecules, and measure it on its test molecules."""
    split = scaffold_split(
        task.scaffolds,
        train=labels,
        test_share=study.test_share,
        seed=1000 * study.seed + number,
        labels=task.labels,
    )
    y_train, y_test = task.labels[split.train], task.labels[split.test]
    settings = choose_settings(task, split.train)
    found = Found({}, {}, settings)
    mols = [Chem.MolFromSmiles(task.smiles[i]) for i in split.test]
    for row, blocks in rows.items():
        parts = [task.features[settings.get(block, block)] for block in blocks]
        X = np.concatenate(parts, axis=1)
        if row.endswith("random forest"):
            forest = RandomForestClassifier(200, random_state=number, n_jobs=1)
            score = forest.fit(X[split.train], y_train).predict_proba(X[split.test])[:, 1]
        else:
            widths = [part.shape[1] for part in parts]
            model = head("classification", widths, seed=number).fit(X[split.train], y_train)
            score = model.decision_function(X[split.test])
        found.scores[row] = {
            "AUROC": float(roc_auc_score(y_test, score)),
            "AUPRC": float(average_precision_score(y_test, score)),
        }
        if row in ("SMILES model", "SMILES model + MiDi"):
            best = pick(score, [None] * len(score), study.picks, diverse=False)
            found.picks[row] = diversity([mols[i] for i in best]) | {
                "hits": float(y_test[best].mean())
            }
    return found


def choose_settings(task: Task, train: np.ndarray) -> dict[str, str]:
    """Of each of `MIDI_BLOCKS` there is: the block/layer/timestep with the best cross-validated AUROC on `train`."""
    best: dict[str, tuple[float, str]] = {}
    for name in task.features:
        block, _, setting = name.partition("/")
        if setting:
            score = _probe(task, name, train)
            if block not in best or score > best[block][0]:
                best[block] = (score, name)
    return {block: name for block, (_, name) in best.items()}


def _probe(task: Task, block: str, rows: np.ndarray) -> float:
    """AUROC of a logistic regression, over 3 folds of scaffolds within `rows`."""
    X, y = task.features[block][rows], task.labels[rows]
    groups = [task.scaffolds[i] for i in rows]
    out = np.zeros(len(rows))
    for train, test in GroupKFold(3).split(X, y, groups):
        if len(np.unique(y[train])) < 2:
            return 0.5
        model = make_pipeline(BlockStandardizer(), LogisticRegression(C=0.1, max_iter=500))
        out[test] = model.fit(X[train], y[train]).decision_function(X[test])
    return float(roc_auc_score(y, out)) if len(np.unique(y)) == 2 else 0.5


def _sweep(task: Task, study: Study) -> dict[str, float]:
    """For the figure alone, never for a choice: every setting, by cross-validation on all molecules."""
    rows = np.arange(len(task.labels))
    return {
        f"{la}/{t}": _probe(task, f"midi/{la}/{t}", rows)
        for la in study.layers
        for t in study.timesteps
    }


def _comparisons(per_split: Mapping[str, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    base = "SMILES model"
    return [
        {
            "row": row,
            "against": base,
            "column": column,
            **asdict(compare_paired(values, per_split[base][column])),
        }
        for row, columns in per_split.items()
        if row != base
        for column, values in columns.items()
    ]


def _markdown(
    study: Study,
    rows: list[dict[str, Any]],
    comparisons: list[dict[str, Any]],
    diversities: dict[str, dict[str, float]],
    missing: list[str],
) -> str:
    auroc = [{k: v for k, v in row.items() if not k.startswith("AUPRC")} for row in rows]
    auprc = [{k: v for k, v in row.items() if not k.startswith("AUROC")} for row in rows]
    where = f"{study.splits} paired scaffold splits, mean and standard deviation over splits"
    parts = [
        comparison_table(auroc, {}, caption=f"AUROC, {where}.", digits=3).to_markdown(),
        comparison_table(auprc, {}, caption=f"AUPRC, {where}.", digits=3).to_markdown(),
        "The thesis (Claudin binders, proprietary, one split): ChemBERTa 0.850, with MiDi 0.877 AUROC.\n",
        "Paired differences to the SMILES model alone, 95 % intervals over splits (splits share molecules, "
        "so the intervals are too narrow as statements about new molecules):\n",
        *(
            f"- {c['row']}, {c['column']}: {c['difference']['mean']:+.3f} "
            f"[{c['difference']['low']:+.3f}, {c['difference']['high']:+.3f}]"
            for c in comparisons
        ),
        f"\nThe {study.picks} best test molecules of a split:\n",
        *(
            f"- {name}: mean Tanimoto distance {d['mean_tanimoto_distance']:.3f}, "
            f"{d['scaffolds']:.1f} scaffolds, {100 * d['hits']:.0f} % active"
            for name, d in diversities.items()
        ),
    ]
    if missing:
        parts.append(f"\nLeft out, as {study.checkpoint} is not there: {', '.join(missing)}.")
    return "\n".join(parts) + "\n"
