"""Table 5.1: does a diffusion model's knowledge of shape help a language model of SMILES?

Few labels, test molecules of other scaffolds, paired splits. Features are made once and kept below `runs`.
Layer and timestep of every kind of MiDi features, the random-weight, noise-free and 2D-only ones too, are
chosen alike: by cross-validation on each split's labelled molecules alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from molfeat_diffusion.config import SHIPPED_MIDI, SHIPPED_SMILES, ConformerConfig
from molfeat_diffusion.data.conformers import embed, parse
from molfeat_diffusion.data.molecules import MoleculeError
from molfeat_diffusion.data.sources import open_text, read_sdf
from molfeat_diffusion.data.splits import scaffold_of, scaffold_split
from molfeat_diffusion.featurizers.descriptors import DescriptorFeaturizer
from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
from molfeat_diffusion.featurizers.smiles import SmilesFeaturizer
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.prediction.heads import BlockStandardizer, head
from molfeat_diffusion.prediction.screening import diversity, pick
from molfeat_diffusion.pretrained import load_model
from priors_shared.console import Progress
from priors_shared.datasets.base import resolve_data_root
from priors_shared.devices import hardware
from priors_shared.errors import UserError
from priors_shared.experiments import Experiment, Lab
from priors_shared.files import write_atomically
from priors_shared.options import note
from priors_shared.reports import Measured, comparison_table, write_result
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
MIDI_BLOCKS = ("midi", "random", "clean", "flat")
"""Blocks with a layer and a timestep to choose."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is measured."""

    datasets: tuple[str, ...] = ("bace", "bbbp", "CHEMBL204_Ki", "CHEMBL214_Ki")
    """bace, bbbp, or targets of MoleculeACE: active at the median affinity and above"""
    molecules: int = 700
    """of each dataset, drawn once: conformers cost the time"""
    labels: tuple[int, ...] = (100, 300)
    splits: int = 20
    test_share: float = 0.3
    checkpoint: str = SHIPPED_MIDI
    language: str = SHIPPED_SMILES
    timesteps: tuple[int, ...] = (10, 50, 100)
    layers: tuple[int, ...] = (2, 4, 6)
    picks: int = 20
    seed: int = 0


CPU = Study()
PAPER = replace(
    CPU,
    molecules=100_000,
    checkpoint="midi-geom",
    language="DeepChem/ChemBERTa-77M-MLM",
    timesteps=(10, 50, 100, 200),
    layers=(3, 6, 9, 12),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A dataset with its features."""

    name: str
    smiles: list[str]
    labels: np.ndarray
    scaffolds: list[str]
    features: Mapping[str, np.ndarray]
    """By block; those of `MIDI_BLOCKS` by block/layer/timestep."""


@dataclass(frozen=True, kw_only=True)
class Table51(Experiment):
    """All rows on all data sets; nothing is trained but heads."""

    id: str = "table-5.1"
    claim: str = CLAIM
    study: Study

    def run(self, lab: Lab) -> None:
        """Measure, and write the JSON, the table and the figure; a quick lab measures a part of it."""
        study = self.study
        if lab.quick:
            part = study.datasets[:2]
            study = replace(study, splits=3, datasets=part, molecules=300, labels=(100,))
        if lab.planned is None:
            run_study(study, out=lab.out, runs=lab.runs, preset=self.preset)


def table_5_1(preset: str) -> Table51:
    """In a preset's sizes."""
    return Table51(preset=preset, study=CPU if preset == "cpu" else PAPER)


def run_study(study: Study, *, out: Path, runs: Path, preset: str = "cpu") -> None:
    """Measure a study. Rows whose weights are not there are left out, and named in the result."""
    midi = _midi_or_none(study)
    blocks = {b for bs in ROWS.values() for b in bs if midi is not None or b not in MIDI_BLOCKS}
    rows = {name: bs for name, bs in ROWS.items() if blocks >= set(bs)}
    missing = sorted(set(ROWS) - set(rows))
    scores: dict[str, dict[str, list[float]]] = {}
    sweeps: dict[str, Any] = {}
    picked: dict[str, list[dict[str, float]]] = {}
    chosen: dict[str, list[dict[str, str]]] = {}
    sizes: dict[str, int] = {}
    work = len(study.datasets) * len(study.labels) * study.splits
    for name in study.datasets:
        task = load_task(name, study, midi, runs)
        sizes[name] = len(task.smiles)
        sweeps[name] = _sweep(task, study) if midi is not None else {}
        with Progress(work // len(study.datasets), f"table 5.1 {name}") as progress:
            for labels in study.labels:
                for number in range(study.splits):
                    found = evaluate_split(task, study, rows, labels, number)
                    for row, values in found.scores.items():
                        for metric, value in values.items():
                            column = f"{metric} {name} n={labels}"
                            scores.setdefault(row, {}).setdefault(column, []).append(value)
                    for row, values in found.picks.items():
                        picked.setdefault(f"{row}, {name} n={labels}", []).append(values)
                    chosen.setdefault(f"{name} n={labels}", []).append(found.settings)
                    progress.advance()
    _write(study, preset, out, scores, sweeps, picked, chosen, sizes, missing)


# --- data ---


def load_task(name: str, study: Study, midi: MiDi | None, runs: Path) -> Task:
    """Molecules with a conformer, their labels and features; conformers and features are kept in `runs`."""
    smiles, labels = _molecules(name, study)
    folder = runs / "table-5.1"
    folder.mkdir(parents=True, exist_ok=True)
    mols, kept = _conformers(smiles, folder / f"{name}-{_short_hash(smiles)}.sdf", study.seed)
    smiles, labels = [smiles[i] for i in kept], labels[kept]
    features: dict[str, np.ndarray] = {}
    for kind in ("ecfp4", "rdkit2d", "usrcat"):
        features[kind] = DescriptorFeaturizer(kind).transform(mols)
    features["smiles"] = SmilesFeaturizer(study.language).transform(smiles)
    if midi is not None:
        features |= _midi_features(mols, study, midi, folder / "features.sqlite")
    # A row without some feature is in no row of the table: all are measured on the same molecules.
    good = np.flatnonzero(np.all([np.isfinite(X).all(1) for X in features.values()], axis=0))
    return Task(
        name=name,
        smiles=[smiles[i] for i in good],
        labels=labels[good],
        scaffolds=[scaffold_of(smiles[i]) for i in good],
        features={block: X[good] for block, X in features.items()},
    )


def _molecules(name: str, study: Study) -> tuple[list[str], np.ndarray]:
    """Different canonical SMILES with one label each, drawn by the seed."""
    import pandas as pd

    root = resolve_data_root(None)
    file = name if name in ("bace", "bbbp") else "moleculeace_30targets"
    path = None if root is None else root / "molecules" / f"{file}.csv.gz"
    if path is None or not path.is_file():
        raise UserError(f"{path or name}: not there: set PRIORS_DATA")
    with open_text(path) as text:
        table = pd.read_csv(text)
    if name == "bace":
        values = table["Class"]
    elif name == "bbbp":
        values = table["p_np"]
    else:
        table = table[table["dataset"] == name]
        if table.empty:
            raise UserError(f"{path}: no target {name}")
        values = (table["p_affinity"] >= table["p_affinity"].median()).astype(int)
    known: dict[str, int] = {}
    twice: set[str] = set()
    for source, value in zip(table["smiles"], values, strict=True):
        try:
            content = parse(source, None).content
        except MoleculeError:
            continue
        if known.setdefault(content, int(value)) != int(value):
            twice.add(content)  # two labels: neither is believed
    smiles = sorted(set(known) - twice)
    order = np.random.default_rng(study.seed).permutation(len(smiles))[: study.molecules]
    smiles = [smiles[i] for i in sorted(order)]
    return smiles, np.array([known[s] for s in smiles])


def _conformers(smiles: list[str], path: Path, seed: int) -> tuple[list[Chem.Mol], list[int]]:
    """Molecules with structures, and which they are; made once."""
    if not path.is_file():
        pending = path.with_name(f"{path.name}.next")
        with (
            Chem.SDWriter(str(pending)) as writer,
            Progress(len(smiles), f"conformers {path.stem}") as progress,
        ):
            for index, text in enumerate(smiles):
                try:
                    mol = embed(parse(text, None), ConformerConfig(timeout=10), seed)
                    mol.SetProp("_Name", str(index))
                    writer.write(mol)
                except MoleculeError as error:
                    note(f"{text}: {error.stage}: {error.reason}")
                progress.advance()
        pending.replace(path)
    found = [mol for mol in read_sdf(path) if mol is not None]
    return found, [int(mol.GetProp("_Name")) for mol in found]


def _midi_or_none(study: Study) -> MiDi | None:
    try:
        return load_model(study.checkpoint)[0]
    except UserError as error:
        note(f"{error}: rows of the table with MiDi are left out")
        return None


def _midi_features(
    mols: list[Chem.Mol], study: Study, midi: MiDi, cache: Path
) -> dict[str, np.ndarray]:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(study.seed)
        random = MiDi(midi.config, marginals=midi.marginals, sizes=midi.sizes).eval()

    def features(model: MiDi, layer: int, t: int, molecules: list[Chem.Mol]) -> np.ndarray:
        featurizer = MiDiFeaturizer(
            model, layer=layer, timestep=t, seed=study.seed, errors="nan", cache=cache
        )
        return featurizer.transform(molecules)

    flat = [_flattened(mol) for mol in mols]
    found = {}
    for layer in study.layers:
        found[f"clean/{layer}/0"] = features(midi, layer, 0, mols)
        for t in study.timesteps:
            found[f"midi/{layer}/{t}"] = features(midi, layer, t, mols)
            found[f"random/{layer}/{t}"] = features(random, layer, t, mols)
            found[f"flat/{layer}/{t}"] = features(midi, layer, t, flat)
    return found


def _flattened(mol: Chem.Mol) -> Chem.Mol:
    """All atoms at the origin: the graph alone is left."""
    flat = Chem.Mol(mol)
    for conformer in flat.GetConformers():
        for atom in range(flat.GetNumAtoms()):
            conformer.SetAtomPosition(atom, (0.0, 0.0, 0.0))
    return flat


# --- one split ---


@dataclass
class Found:
    """Of a split: metrics and diversity of picks by row, and the setting of each of `MIDI_BLOCKS`."""

    scores: dict[str, dict[str, float]]
    picks: dict[str, dict[str, float]]
    settings: dict[str, str]


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


# --- results ---


def _write(
    study: Study,
    preset: str,
    out: Path,
    per_split: dict[str, dict[str, list[float]]],
    sweeps: dict[str, Any],
    picked: dict[str, list[dict[str, float]]],
    chosen: dict[str, list[dict[str, str]]],
    sizes: dict[str, int],
    missing: list[str],
) -> None:
    base = per_split["SMILES model"]
    rows = [
        {"model": row} | {c: Measured.over_seeds(values) for c, values in columns.items()}
        for row, columns in per_split.items()
    ]
    comparisons = []
    for row, columns in per_split.items():
        if row == "SMILES model":
            continue
        for column, values in columns.items():
            found = compare_paired(values, base[column])
            comparisons.append(
                {"row": row, "against": "SMILES model", "column": column, **asdict(found)}
            )
    diversities = {
        name: {key: float(np.mean([v[key] for v in values])) for key in values[0]}
        for name, values in picked.items()
    }
    write_result(
        out / f"table-5.1-{preset}.json",
        experiment="table-5.1",
        claim=CLAIM,
        rows=rows,
        config=asdict(study),
        seeds=list(range(study.splits)),
        data="BACE, BBBP (MoleculeNet), MoleculeACE; scaffold splits, the same for all rows",
        hardware=hardware(),
        command=f"molfeat-diffusion reproduce table-5.1 --preset {preset}",
        thesis=THESIS,
        extra={
            "per_split": per_split,
            "comparisons": comparisons,
            "sweep": sweeps,
            "settings_chosen": chosen,
            "picks": diversities,
            "picks_per_split": picked,
            "molecules": sizes,
            "rows_left_out": missing,
        },
    )
    write_atomically(
        out / f"table-5.1-{preset}.md", _markdown(study, rows, comparisons, diversities, missing)
    )
    from molfeat_diffusion.plots import table_5_1_figure

    figure: Any = table_5_1_figure(per_split, sweeps, study.layers, study.timesteps)
    figure.savefig(out / f"table-5.1-{preset}.png", dpi=150)


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


def _short_hash(smiles: list[str]) -> str:
    return hashlib.sha256(json.dumps(smiles).encode()).hexdigest()[:12]
