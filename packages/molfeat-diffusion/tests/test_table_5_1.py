"""The experiment: nothing of the test molecules in what is chosen or fitted; pairs belong together."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from molfeat_diffusion.config import LanguageConfig, ModelConfig
from molfeat_diffusion.data.splits import scaffold_of, scaffold_split
from molfeat_diffusion.experiments.molecule_tasks import (
    MIDI_BLOCKS,
    Study,
    Task,
    labelled_molecules,
)
from molfeat_diffusion.experiments.table_5_1 import (
    ROWS,
    Table51,
    choose_settings,
    evaluate_split,
)
from molfeat_diffusion.featurizers.smiles import build_tokenizer
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.pretrained import save_model
from molfeat_diffusion.training.language import build_network
from priors_shared.experiments import Lab

RINGS = ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "c1ccsc1", "C1CCNCC1", "c1ccoc1", "C1CCOC1")
TAILS = ("C", "CC", "OC", "NC", "FC", "OCC")
SMILES = [Chem.CanonSmiles(tail + ring) for ring in RINGS for tail in TAILS]


def task(seed: int = 0) -> Task:
    rng = np.random.default_rng(seed)
    n = len(SMILES)
    names = (
        "smiles",
        "random/1/5",
        "random/2/5",
        "clean/1/0",
        "flat/1/5",
        "ecfp4",
        "rdkit2d",
        "usrcat",
    )
    features = {name: rng.normal(size=(n, 6)) for name in names}
    labels = np.array([int("O" in s or "N" in s) for s in SMILES])
    features["midi/1/5"] = rng.normal(size=(n, 6))
    features["midi/2/5"] = labels[:, None] + 0.3 * rng.normal(size=(n, 6))  # the one that knows
    scaffolds = [scaffold_of(s) for s in SMILES]
    return Task(name="t", smiles=SMILES, labels=labels, scaffolds=scaffolds, features=features)


STUDY = Study(
    datasets=("bace",),
    labels=(15,),
    splits=2,
    molecules=40,
    picks=3,
    layers=(1, 2),
    timesteps=(3, 5),
)


def test_setting_is_chosen_on_labelled_molecules_alone() -> None:
    one = task()
    train = np.arange(0, 42, 2)
    chosen = choose_settings(one, train)
    assert chosen["midi"] == "midi/2/5"
    assert set(chosen) == set(MIDI_BLOCKS)
    test = np.setdiff1d(np.arange(42), train)
    other = task()
    for block in (name for name in other.features if "/" in name):
        other.features[block][test] = np.nan  # read at all, it would spoil the choice
    other.labels[test] = 1 - other.labels[test]
    assert choose_settings(other, train) == chosen


def test_test_labels_change_no_score() -> None:
    one, other = task(), task()
    rows = {
        name: ROWS[name] for name in ("SMILES model", "SMILES model + MiDi", "ECFP4, random forest")
    }
    split = scaffold_split(one.scaffolds, train=15, test_share=0.3, seed=0, labels=one.labels)
    other.labels[split.test] = 1 - other.labels[split.test]
    first = evaluate_split(one, STUDY, rows, 15, 0)
    second = evaluate_split(other, STUDY, rows, 15, 0)
    for row in rows:  # the same ranking of test molecules, read with opposite labels
        assert second.scores[row]["AUROC"] == pytest.approx(1 - first.scores[row]["AUROC"])
    assert second.settings == first.settings


@pytest.fixture
def home(model: MiDi, small: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data" / "molecules"
    folder.mkdir(parents=True)
    rows = [f"{s},{int('O' in s or 'N' in s)}" for s in SMILES]
    with gzip.open(folder / "bace.csv.gz", "wt") as file:
        # The last two rows: one molecule twice with two labels.
        file.write("\n".join(["smiles,Class", *rows, "xx,1", "CCCCO,0", "OCCCC,1"]) + "\n")
    monkeypatch.setenv("PRIORS_DATA", str(tmp_path / "data"))
    save_model(tmp_path / "midi", model.float())
    tokenizer = build_tokenizer(SMILES)
    config = LanguageConfig(width=8, layers=1, heads=2, feed_forward=8, max_length=24)
    build_network(config, tokenizer).save_pretrained(tmp_path / "language")
    tokenizer.save_pretrained(tmp_path / "language")
    return tmp_path


def measure(study: Study, home: Path) -> None:
    Table51(preset="cpu", study=study).run(Lab(out=home / "out", runs=home / "runs"))


def test_all_rows_are_measured_on_the_same_splits(home: Path) -> None:
    study = Study(
        **{**vars(STUDY), "checkpoint": str(home / "midi"), "language": str(home / "language")}
    )
    measure(study, home)
    result = json.loads((home / "out" / "table-5.1-cpu.json").read_text())
    assert set(result["per_split"]) == set(ROWS)
    assert all(len(v) == 2 for row in result["per_split"].values() for v in row.values())
    assert result["rows_left_out"] == []
    assert set(result["sweep"]["bace"]) == {"1/3", "1/5", "2/3", "2/5"}
    for settings in result["settings_chosen"]["bace n=15"]:
        assert set(settings) == {"midi", "random", "clean", "flat"}
        assert all(name.startswith(f"{block}/") for block, name in settings.items())
    assert result["molecules"]["bace"] <= 40
    assert (home / "out" / "table-5.1-cpu.png").stat().st_size > 5000
    again = json.loads(json.dumps(result["per_split"]))
    measure(study, home)  # conformers and features kept
    result = json.loads((home / "out" / "table-5.1-cpu.json").read_text())
    assert result["per_split"] == again


def test_without_midi_weights_its_rows_are_left_out_and_named(home: Path) -> None:
    study = Study(**{**vars(STUDY), "checkpoint": "no-such", "language": str(home / "language")})
    measure(study, home)
    result = json.loads((home / "out" / "table-5.1-cpu.json").read_text())
    assert "MiDi" in result["rows_left_out"]
    assert "ECFP4" in result["per_split"]
    assert "MiDi" in (home / "out" / "table-5.1-cpu.md").read_text().splitlines()[-1]


def test_molecules_with_two_labels_or_none_are_not_used(home: Path) -> None:
    smiles, labels = labelled_molecules("bace", Study(molecules=1000))
    assert "CCCCO" not in smiles
    assert sorted(smiles) == sorted(set(SMILES))
    assert len(labels) == len(smiles)
