from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molfeat_diffusion.config import ModelConfig, NetworkConfig, NoiseConfig
from molfeat_diffusion.data.molecules import DenseMolecules, Marginals
from molfeat_diffusion.models.diffusion import MiDi

SMALL = NetworkConfig(
    layers=2,
    mlp_atoms=16,
    mlp_bonds=8,
    mlp_global=8,
    mlp_positions=8,
    width_atoms=16,
    width_bonds=12,
    width_global=10,
    heads=4,
    feed_forward_atoms=16,
    feed_forward_bonds=12,
    feed_forward_global=16,
)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("priors_shared.testing")


@pytest.fixture(scope="session")
def data() -> Path:
    """What the tests bring along."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def reference(data: Path) -> Callable[[str], dict[str, torch.Tensor]]:
    """Arrays of one of the parity files, as tensors."""

    def load(name: str) -> dict[str, torch.Tensor]:
        with np.load(data / "midi" / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}

    return load


@pytest.fixture
def small() -> ModelConfig:
    """A model of a few thousand parameters."""
    return ModelConfig(vocabulary="qm9", network=SMALL, noise=NoiseConfig(timesteps=20))


@pytest.fixture
def model(small: ModelConfig) -> MiDi:
    """It, in float64, with weights that are all in use, and marginals."""
    torch.manual_seed(0)
    marginals = Marginals(
        atoms=torch.tensor([0.5, 0.3, 0.1, 0.07, 0.03]).double(),
        charges=torch.tensor([0.02, 0.95, 0.03]).double(),
        bonds=torch.tensor([0.85, 0.1, 0.03, 0.01, 0.01]).double(),
    )
    sizes = torch.tensor([0, 0, 0, 2, 5, 3])
    return MiDi(small, marginals=marginals, sizes=sizes).double().eval()


@pytest.fixture
def molecules() -> Callable[..., DenseMolecules]:
    """Random molecules of given sizes, in float64."""

    def make(*sizes: int, padded_to: int | None = None, seed: int = 0) -> DenseMolecules:
        generator = torch.Generator().manual_seed(seed)
        n = padded_to or max(sizes)
        mask = torch.arange(n)[None] < torch.tensor(sizes)[:, None]
        shape = mask.shape
        positions = torch.randn(*shape, 3, generator=generator).double() * mask[..., None]
        positions = positions - positions.sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        bonds = torch.randint(0, 5, (*shape, n), generator=generator).triu(1)
        pairs = mask[:, :, None] & mask[:, None]
        return DenseMolecules(
            positions=positions * mask[..., None],
            atoms=torch.randint(0, 5, shape, generator=generator) * mask,
            charges=torch.randint(0, 3, shape, generator=generator) * mask,
            bonds=(bonds + bonds.transpose(1, 2)) * pairs,
            mask=mask,
        )

    return make


@pytest.fixture(scope="session")
def conformer() -> Callable[[str], Chem.Mol]:
    """A molecule with hydrogens and a conformer, from its SMILES."""

    def make(smiles: str) -> Chem.Mol:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
        return mol

    return make
