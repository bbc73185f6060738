"""The plug-in, found and used by molfeat itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from molfeat_diffusion.featurizers.midi import MiDiFeaturizer
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.pretrained import save_model
from priors_shared.errors import UserError

pytest.importorskip("molfeat")  # the extra `molfeat`

import molfeat.calc
import molfeat.trans.pretrained
from molfeat.calc import SerializableCalculator, get_calculator
from molfeat.plugins import load_registered_plugins
from molfeat.trans import MoleculeTransformer

GOOD = ["CCO", "CC(=O)N", "C#CCF"]
OPTIONS = {"timestep": 3, "seed": 4, "pooling": "max"}


@pytest.fixture(autouse=True)
def _loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a program that has only told molfeat to load its plug-ins."""
    for module, name in (
        (molfeat.trans.pretrained, "MiDiTransformer"),
        (molfeat.calc, "MiDiCalculator"),
    ):
        monkeypatch.delattr(module, name, raising=False)
    load_registered_plugins(plugins=["MiDi"])


@pytest.fixture
def checkpoint(model: MiDi, tmp_path: Path) -> str:
    save_model(tmp_path / "model", model.float())
    return str(tmp_path / "model")


def test_molfeat_finds_both_and_they_give_our_features(checkpoint: str) -> None:
    wanted = MiDiFeaturizer(checkpoint, **OPTIONS).transform(GOOD)
    transformer = molfeat.trans.pretrained.MiDiTransformer(checkpoint, dtype=np.float32, **OPTIONS)
    assert isinstance(transformer, MoleculeTransformer)
    np.testing.assert_array_equal(transformer(GOOD), wanted)
    assert len(transformer) == wanted.shape[1] == len(transformer.columns)
    calculator = molfeat.calc.MiDiCalculator(checkpoint, **OPTIONS)
    assert isinstance(calculator, SerializableCalculator)
    np.testing.assert_allclose(calculator(GOOD[1]), wanted[1], atol=1e-6)
    np.testing.assert_array_equal(MoleculeTransformer(calculator).transform(GOOD), wanted)
    by_name = get_calculator("MiDiCalculator", checkpoint=checkpoint, **OPTIONS)
    np.testing.assert_array_equal(by_name.batch_compute(GOOD), wanted)


def test_a_state_goes_through_yaml_and_json(checkpoint: str) -> None:
    transformer = molfeat.trans.pretrained.MiDiTransformer(checkpoint, dtype=np.float32, **OPTIONS)
    wanted = transformer(GOOD)
    for text, read in (
        (transformer.to_state_yaml(), MoleculeTransformer.from_state_yaml),
        (transformer.to_state_json(), MoleculeTransformer.from_state_json),
    ):
        again = read(text)
        assert type(again) is type(transformer)
        assert again.featurizer.get_params() == transformer.featurizer.get_params()
        np.testing.assert_array_equal(again(GOOD), wanted)
        assert again.to_state_yaml() == transformer.to_state_yaml()
    for copied in (clone(transformer), pickle.loads(pickle.dumps(transformer)), transformer.copy()):
        np.testing.assert_array_equal(copied(GOOD), wanted)
    calculator = molfeat.calc.MiDiCalculator(Path(checkpoint), **OPTIONS)
    loaded = molfeat.calc.MiDiCalculator.from_state_yaml(calculator.to_state_yaml())
    np.testing.assert_array_equal(loaded.batch_compute(GOOD), wanted)


def test_a_state_refuses_other_weights_and_a_model_without_a_name(
    checkpoint: str, model: MiDi
) -> None:
    text = molfeat.calc.MiDiCalculator(checkpoint, **OPTIONS).to_state_yaml()
    next(model.parameters()).data.add_(1)
    save_model(Path(checkpoint), model)
    with pytest.raises(UserError, match="other weights"):
        molfeat.calc.MiDiCalculator.from_state_yaml(text)
    with pytest.raises(UserError, match=r"checkpoint: .* not the MiDi"):
        molfeat.calc.MiDiCalculator(model, **OPTIONS).to_state_yaml()


def test_a_row_that_fails_is_none_where_it_stands_or_an_error_with_its_reason(
    checkpoint: str,
) -> None:
    transformer = molfeat.trans.pretrained.MiDiTransformer(checkpoint, **OPTIONS)
    rows = [GOOD[0], "nonsense", GOOD[1], None]
    found = transformer.transform(rows, ignore_errors=True)
    assert [value is None for value in found] == [False, True, False, True]
    values, kept = transformer(rows, ignore_errors=True)
    assert list(kept) == [0, 2]
    np.testing.assert_allclose(values, transformer([GOOD[0], GOOD[1]]), atol=1e-6)
    with pytest.raises(UserError, match=r"row 1: parse: .*nonsense.*ignore_errors"):
        transformer(rows)
    with pytest.raises(UserError, match="row 0: vocabulary"):
        transformer.featurizer("C[Si](C)(C)C")
    assert transformer.featurizer.get_params()["errors"] == "raise"  # as the caller left it
