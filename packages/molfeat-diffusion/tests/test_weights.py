"""The weights that the package brings along."""

from __future__ import annotations

import numpy as np

from molfeat_diffusion import MiDiFeaturizer
from molfeat_diffusion.pretrained import SHIPPED, load_model


def test_midi_cpu_tells_drugs_apart() -> None:
    """Two molecules differ by far more than two draws of the noise of one; the card says which weights these are."""
    smiles = ["CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "FC(F)(F)c1ccc(Br)cc1"]
    X = MiDiFeaturizer.from_pretrained("midi-cpu").transform(smiles)
    assert X.shape == (3, 128)
    assert np.isfinite(X).all()
    again = MiDiFeaturizer.from_pretrained("midi-cpu", seed=1).transform(smiles)
    noise = np.linalg.norm(X - again, axis=1).max()
    assert noise > 0
    assert min(np.linalg.norm(X[i] - X[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 5 * noise
    model, record = load_model("midi-cpu")
    assert model.knows_marginals
    assert model.vocabulary.name == "geom_no_h"
    assert sum(path.stat().st_size for path in (SHIPPED / "midi-cpu").iterdir()) < 15e6
    card = (SHIPPED / "midi-cpu" / "README.md").read_text()
    assert f"{record['trained']['step']:,} updates" in card
