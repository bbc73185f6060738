"""Small claims: symmetries of the shipped diffusion model, and of its noise."""

from __future__ import annotations

import torch
from torch import Tensor

from molfeat_diffusion.config import SHIPPED_MIDI
from molfeat_diffusion.data.molecules import DenseMolecules
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.models.noise import Randomness
from molfeat_diffusion.pretrained import load_model
from priors_shared.experiments import Scores, SmallClaims

ATOMS, MOLECULES = 12, 4


def experiment(preset: str = "cpu") -> SmallClaims:
    """The same in every preset."""
    return SmallClaims(
        preset=preset,
        system="molfeat-diffusion",
        measures={"symmetry": symmetry, "noise": noise},
        data=f"{MOLECULES} random molecules of {ATOMS} atoms a seed, noised",
    )


def symmetry(seed: int) -> Scores:
    """Largest differences, relative to the largest value, after atoms are permuted or the molecule is rotated."""
    model, molecules, generator = _given(seed)
    order = torch.randperm(ATOMS, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    permuted = DenseMolecules(
        positions=molecules.positions[:, order],
        atoms=molecules.atoms[:, order],
        charges=molecules.charges[:, order],
        bonds=molecules.bonds[:, order][:, :, order],
        mask=molecules.mask,
    )
    rotated = molecules._replace(positions=molecules.positions @ turn)
    features, positions = _outputs(model, molecules)
    of_permuted, _ = _outputs(model, permuted)
    of_rotated, turned = _outputs(model, rotated)
    return {
        "permuted": _relative(of_permuted, features[:, order]),
        "rotated": _relative(of_rotated, features),
        "positions": _relative(turned, positions @ turn),
    }


def noise(seed: int) -> Scores:
    """The centre of mass of noised positions, its largest component."""
    _, molecules, _ = _given(seed)
    return {"centre of mass": float(molecules.positions.mean(1).abs().max())}


def _given(seed: int) -> tuple[MiDi, DenseMolecules, torch.Generator]:
    """The model, and noised molecules."""
    model, _ = load_model(SHIPPED_MIDI)
    generator = torch.Generator().manual_seed(seed)
    shape = (MOLECULES, ATOMS)
    positions = torch.randn(*shape, 3, generator=generator)
    bonds = torch.randint(0, 3, (*shape, ATOMS), generator=generator).triu(1)
    clean = DenseMolecules(
        positions=positions - positions.mean(1, keepdim=True),
        atoms=torch.randint(0, 3, shape, generator=generator),
        charges=torch.ones(shape, dtype=torch.int64),
        bonds=bonds + bonds.transpose(1, 2),
        mask=torch.ones(shape, dtype=torch.bool),
    )
    t = torch.full((MOLECULES,), model.timesteps // 10)
    randomness = Randomness.draw(MOLECULES, ATOMS, generator, model.device)
    return model.eval(), model.corrupt(clean, t, randomness), generator


@torch.inference_mode()
def _outputs(model: MiDi, molecules: DenseMolecules) -> tuple[Tensor, Tensor]:
    """Features of atoms at the last layer, and the positions that the model predicts."""
    t = torch.full((MOLECULES,), model.timesteps // 10)
    layers = len(model.denoiser.tf_layers)
    features = model.denoiser.features(*model.network_input(molecules, t), layer=layers)
    return features.atoms, model.predict(molecules, t).positions


def _relative(values: Tensor, others: Tensor) -> float:
    return float((values - others).abs().max() / others.abs().max())
