"""Labelled molecules with every kind of features, made once and kept: what Table 5.1 is measured on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem

from molfeat_diffusion.config import SHIPPED_MIDI, SHIPPED_SMILES, ConformerConfig
from molfeat_diffusion.data.conformers import embed, parse
from molfeat_diffusion.data.molecules import MoleculeError
from molfeat_diffusion.data.sources import open_text, read_sdf
from molfeat_diffusion.data.splits import scaffold_of
from molfeat_diffusion.featurizers.descriptors import DescriptorFeaturizer
from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
from molfeat_diffusion.featurizers.smiles import SmilesFeaturizer
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.pretrained import load_model
from priors_shared.console import Progress
from priors_shared.datasets.base import resolve_data_root
from priors_shared.errors import UserError
from priors_shared.options import note

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A dataset with its features."""

    name: str
    smiles: list[str]
    labels: np.ndarray
    scaffolds: list[str]
    features: Mapping[str, np.ndarray]
    """By block; those of `MIDI_BLOCKS` by block/layer/timestep."""


def load_task(name: str, study: Study, midi: MiDi | None, runs: Path) -> Task:
    """Molecules with a conformer, their labels and features; conformers and features are kept in `runs`."""
    smiles, labels = labelled_molecules(name, study)
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


def labelled_molecules(name: str, study: Study) -> tuple[list[str], np.ndarray]:
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


def midi_or_none(study: Study) -> MiDi | None:
    """The study's diffusion model, where it is there."""
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


def _short_hash(smiles: list[str]) -> str:
    return hashlib.sha256(json.dumps(smiles).encode()).hexdigest()[:12]
