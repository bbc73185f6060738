"""MiDiFeaturizer: what features may depend on, and that every row is accounted for."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdMolTransforms
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
from molfeat_diffusion.featurizers.preparation import molecule_axes
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.pretrained import save_model
from priors_shared.errors import UserError

Conformer = Callable[[str], Chem.Mol]
GOOD = ["CCO", "CC(=O)N", "C#CCF", "c1ccoc1"]
BAD = {
    "not a smiles": "parse",
    "": "parse",
    "C[Si](C)(C)C": "vocabulary",
    "[C-2]": "vocabulary",
    "CCCCCCCCCCCCCC": "size",
}


def featurizer(model: MiDi, **options: object) -> MiDiFeaturizer:
    return MiDiFeaturizer(model, **{"timestep": 3, "max_atoms": 30, **options})  # type: ignore[arg-type]


def test_features_do_not_depend_on_batch_order_or_notation(model: MiDi) -> None:
    together = featurizer(model).transform(GOOD)
    assert together.shape == (4, model.config.network.width_atoms)
    assert together.dtype == np.float32
    alone = np.concatenate([featurizer(model).transform([smiles]) for smiles in reversed(GOOD)])
    np.testing.assert_allclose(alone[::-1], together, atol=1e-6)
    other = featurizer(model).transform(["OCC", "NC(C)=O", "FCC#C", "o1cccc1"])
    np.testing.assert_allclose(other, together, atol=1e-6)
    assert np.linalg.norm(together[0] - together[1]) > 1e-2


@pytest.mark.parametrize("timestep", [0, 10])
def test_rotating_mirroring_and_renumbering_leave_features_alone(
    model: MiDi, conformer: Conformer, timestep: int
) -> None:
    """Noise included: it is drawn in the molecule's own axes and order."""
    mol = conformer("C[C@H](N)C(=O)O")
    turned = Chem.Mol(mol)
    turn = np.eye(4)
    turn[:3, :3], _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn[:3, 3] = 2.5
    rdMolTransforms.TransformConformer(turned.GetConformer(), turn)
    order = np.random.default_rng(1).permutation(mol.GetNumAtoms()).tolist()
    renumbered = Chem.RenumberAtoms(mol, order)
    found = featurizer(model, timestep=timestep).transform([mol, turned, renumbered])
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)


def test_the_structure_the_noise_and_the_layer_matter(model: MiDi, conformer: Conformer) -> None:
    mol = conformer("CCCO")
    bent = Chem.Mol(mol)
    rdMolTransforms.SetDihedralDeg(bent.GetConformer(), 0, 1, 2, 3, 10.0)
    base = featurizer(model, layer=1).transform([mol])
    for other in (
        featurizer(model, layer=1).transform([bent]),
        featurizer(model, layer=2).transform([mol]),
        featurizer(model, layer=1, seed=1).transform([mol]),
        featurizer(model, layer=1, timestep=9).transform([mol]),
        featurizer(model, layer=1, n_samples=2).transform([mol]),
        featurizer(model, layer=1, pooling="max").transform([mol]),
    ):
        assert np.abs(other - base).max() > 1e-4


def test_pooled_features_are_the_mean_of_the_atoms(model: MiDi) -> None:
    atoms = featurizer(model).transform(GOOD, return_atoms=True)
    assert [len(a) for a in atoms] == [9, 9, 7, 9]
    pooled = np.stack([a.mean(0) for a in atoms])
    np.testing.assert_allclose(featurizer(model).transform(GOOD), pooled, atol=1e-6)


def test_bad_rows_are_nan_where_they_stand_and_in_the_table(model: MiDi) -> None:
    smiles = [GOOD[0], *BAD, None, GOOD[1]]
    ids = [f"m{i}" for i in range(len(smiles))]
    found, report = featurizer(model, errors="nan").transform(smiles, ids=ids, return_failures=True)
    assert len(found) == len(smiles)
    assert np.isnan(found[1:-1]).all()
    np.testing.assert_allclose(
        found[[0, -1]], featurizer(model).transform([GOOD[0], GOOD[1]]), atol=1e-6
    )
    assert [(f.index, f.id, f.stage) for f in report] == [
        (i + 1, f"m{i + 1}", stage) for i, stage in enumerate([*BAD.values(), "parse"])
    ]
    skipped, again = featurizer(model, errors="skip").transform(
        smiles, ids=ids, return_failures=True
    )
    assert len(skipped) == 2
    assert again == report
    with pytest.raises(UserError, match=r"row 1 \(id m1\): parse: RDKit cannot read .*6 rows"):
        featurizer(model).transform(smiles, ids=ids)


def test_a_salts_largest_fragment_is_used_and_noted(model: MiDi) -> None:
    found, report = featurizer(model).transform(["CCN.[Na+].[Cl-]", "CCN"], return_failures=True)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert [(f.index, f.stage, f.failed) for f in report] == [(0, "fragment", False)]
    with pytest.raises(UserError, match=r"element Na|element Cl"):
        featurizer(model, fragment="all").transform(["CCN.[Na+].[Cl-]"])


def test_a_conformer_that_cannot_be_had_is_a_failure(
    model: MiDi, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdkit.Chem import rdDistGeom

    monkeypatch.setattr(rdDistGeom, "EmbedMolecule", lambda *_: -1)
    found, report = featurizer(model, errors="nan").transform(["CC"], return_failures=True)
    assert np.isnan(found).all()
    assert report[0].stage == "conformer"
    assert "10 attempts" in report[0].reason


def test_it_is_a_transformer_of_scikit_learn(model: MiDi, tmp_path: Path) -> None:
    save_model(tmp_path / "model", model.float())
    made = MiDiFeaturizer(str(tmp_path / "model"), timestep=2, layer=1)
    assert clone(made).get_params() == made.get_params()
    found = made.transform(GOOD)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made)).transform(GOOD), found)
    table = clone(made).set_output(transform="pandas").fit_transform(pd.Series(GOOD))
    assert list(table.columns[:2]) == ["midi_0", "midi_1"]
    np.testing.assert_array_equal(table.to_numpy(), found)
    scaled = make_pipeline(clone(made), StandardScaler()).fit_transform(np.array([GOOD]).T)
    assert np.abs(scaled.mean(0)).max() < 1e-4
    frame = pd.DataFrame({"id": range(4), "smiles": GOOD})
    np.testing.assert_array_equal(made.transform(frame), found)


def test_the_number_of_processes_does_not_matter(model: MiDi) -> None:
    one = featurizer(model.float()).transform(GOOD)
    two = featurizer(model.float(), n_jobs=2).transform(GOOD)
    np.testing.assert_array_equal(one, two)


def test_the_cache_gives_the_same_and_knows_its_options(
    model: MiDi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = featurizer(model, cache=tmp_path / "cache.db")
    first = cached.transform(GOOD)
    monkeypatch.setattr(model.denoiser, "features", lambda *_, **__: pytest.fail("not from cache"))
    np.testing.assert_array_equal(cached.transform([*GOOD, GOOD[0]])[:4], first)
    with pytest.raises(pytest.fail.Exception):
        featurizer(model, cache=tmp_path / "cache.db", timestep=4).transform(GOOD)
    (tmp_path / "other").write_text("no database, but long enough to look at" * 30)
    monkeypatch.undo()
    with pytest.raises(UserError, match="not usable as a cache"):
        featurizer(model, cache=tmp_path / "other").transform(GOOD)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE features SET value = x'00112233'", "does not hold .* numbers"),
        ("ALTER TABLE features RENAME COLUMN value TO kept", "not usable as a cache"),
    ],
)
def test_a_damaged_cache_is_one_line(
    model: MiDi, tmp_path: Path, statement: str, message: str
) -> None:
    path = tmp_path / "cache.db"
    featurizer(model, cache=path).transform(GOOD)
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    with pytest.raises(UserError, match=message):
        featurizer(model, cache=path).transform(GOOD)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, r"layer 3: must be in 1 \.\. 2"),
        ({"timestep": 21}, r"timestep 21: must be in 0 \.\. 20"),
        ({"n_samples": 0}, "n_samples 0"),
    ],
)
def test_wrong_options_are_named(model: MiDi, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        featurizer(model, **options).fit()


def test_wrong_input_is_named(model: MiDi) -> None:
    with pytest.raises(UserError, match="not one alone"):
        featurizer(model).transform("CCO")
    with pytest.raises(UserError, match="its columns: a, b"):
        featurizer(model).transform(pd.DataFrame({"a": ["C"], "b": ["C"]}))
    with pytest.raises(UserError, match="ids has 1 entries for 2 molecules"):
        featurizer(model).transform(["C", "CC"], ids=["x"])
    with pytest.raises(UserError, match="no such file"):
        featurizer(model).transform("missing.sdf")
    assert featurizer(model).transform([]).shape == (0, model.config.network.width_atoms)


def test_an_sdf_with_a_broken_record_keeps_its_place(
    model: MiDi, conformer: Conformer, tmp_path: Path
) -> None:
    blocks = [Chem.MolToMolBlock(conformer(s)) for s in ("CCO", "CC", "CN")]
    blocks[1] = blocks[1].replace("V2000", "V2x00")
    path = tmp_path / "three.sdf"
    path.write_text("".join(f"{block}$$$$\n" for block in blocks))
    found, report = featurizer(model, errors="nan").transform(path, return_failures=True)
    assert np.isnan(found).all(1).tolist() == [False, True, False]
    assert [f.index for f in report] == [1]


def test_axes_turn_with_the_molecule() -> None:
    positions = np.random.default_rng(0).normal(size=(6, 3))
    positions -= positions.mean(0)
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    np.testing.assert_allclose(molecule_axes(positions @ turn), molecule_axes(positions) @ turn)
    assert molecule_axes(np.zeros((1, 3))).shape == (3, 3)


def test_features_are_those_of_the_layer(model: MiDi) -> None:
    """Without noise: the network's own features of the molecule, averaged."""
    made = featurizer(model, timestep=0, layer=2)
    atoms = made.transform(["CF"], return_atoms=True)[0]
    assert torch.from_numpy(atoms).isfinite().all()
    assert atoms.shape == (5, 16)
