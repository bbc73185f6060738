"""The weights that the package brings along."""

from __future__ import annotations

import numpy as np

from molfeat_diffusion import MiDiFeaturizer
from molfeat_diffusion.checkpoint import SHIPPED, load_model


def test_midi_cpu_reads_a_drug_and_is_trained() -> None:
    """It tells molecules apart, and its loss is what its record says: not that of fresh weights."""
    smiles = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "FC(F)(F)c1ccc(Br)cc1"]
    X = MiDiFeaturizer.from_pretrained("midi-cpu").transform(smiles)
    assert X.shape == (3, 128)
    assert np.isfinite(X).all()
    assert np.linalg.norm(X[0] - X[1]) > 0.1
    model, record = load_model("midi-cpu")
    assert model.knows_marginals
    assert model.vocabulary.name == "geom_no_h"
    assert sum(path.stat().st_size for path in (SHIPPED / "midi-cpu").iterdir()) < 15e6
    card = (SHIPPED / "midi-cpu" / "README.md").read_text()
    assert f"{record['trained']['step']:,} updates" in card
