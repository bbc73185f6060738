"""MiDi's denoiser: a graph transformer on atoms, pairs, a global vector and positions.

Vignac et al. 2023, "MiDi: Mixed Graph and 3D Denoising Diffusion for Molecule Generation", Sec. 3.3. It
is equivariant to permutations, rotations and reflections: mirror images get mirrored positions and equal
features. Parameters have the names of the published checkpoints, so that those load as they are.

The published code is not independent of padding: it takes three means over padded rows. Ours is;
`compat="midi"` computes as published. Attention is not materialised per feature: where the published
code holds n x n x 8 x dx numbers per molecule, this holds n x n x 8.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from molfeat_diffusion.config import NetworkConfig
from molfeat_diffusion.models.layers import (
    Features,
    Masks,
    Pooling,
    PositionScaling,
    Prediction,
    VelocityNorm,
    mlp,
    shifted,
)

Compat = Literal["none", "midi"]
DISTANCES = 17
"""Inputs of a pair that say how far apart the last prediction had it."""


class UpdateBlock(nn.Module):
    """Steps 1 to 7 of a layer: new features, and each atom's velocity."""

    def __init__(self, dx: int, de: int, dy: int, heads: int) -> None:
        super().__init__()
        self.in_E = nn.Linear(de, de)
        self.x_e_mul1 = nn.Linear(dx, de)
        self.x_e_mul2 = nn.Linear(dx, de)
        self.lin_dist1 = nn.Linear(2, de)
        self.lin_norm_pos1 = nn.Linear(1, de)
        self.lin_norm_pos2 = nn.Linear(1, de)
        self.dist_add_e = nn.Linear(de, de)
        self.dist_mul_e = nn.Linear(de, de)
        self.k = nn.Linear(dx, dx)
        self.q = nn.Linear(dx, dx)
        self.v = nn.Linear(dx, dx)
        self.a = nn.Linear(dx, heads, bias=False)
        self.out = nn.Linear(dx * heads, dx)
        self.e_att_mul = nn.Linear(de, heads)
        self.pos_att_mul = nn.Linear(de, heads)
        self.e_x_mul = Pooling(de, dx)
        self.pos_x_mul = Pooling(de, dx)
        self.y_e_mul = nn.Linear(dy, de)
        self.y_e_add = nn.Linear(dy, de)
        self.pre_softmax = nn.Linear(de, dx)  # unused; published checkpoints hold it
        self.y_x_mul = nn.Linear(dy, dx)
        self.y_x_add = nn.Linear(dy, dx)
        self.y_y = nn.Linear(dy, dy)
        self.x_y = Pooling(dx, dy)
        self.e_y = Pooling(de, dy)
        self.dist_y = Pooling(de, dy)
        self.e_pos1 = nn.Linear(de, de, bias=False)
        self.e_pos2 = nn.Linear(de, 1, bias=False)
        self.x_out = nn.Linear(dx, dx)
        self.e_out = nn.Linear(de, de)
        self.y_out = mlp(dy, dy, dy)

    def forward(self, features: Features, masks: Masks) -> Features:
        """New atoms, pairs and globals; `positions` of the result holds the velocities."""
        x, e, y = features.atoms, features.pairs, features.globals
        positions = masks.hide(features.positions, masks.atoms)
        distances = self._distances(positions, masks)  # (B, n, n, de)

        # a + a * b is computed as a * (1 + b), the 1 with the bias of the layer that makes b: an array of
        # all pairs less to write each time.
        pairs = self.in_E(e) * self.x_e_mul1(x)[:, None] * self.x_e_mul2(x)[:, :, None]
        scale = shifted(self.dist_mul_e, distances)
        pairs = masks.hide(torch.addcmul(self.dist_add_e(distances), pairs, scale), masks.pairs)
        scale = shifted(self.y_e_mul, y)[:, None, None]
        modulated = torch.addcmul(self.y_e_add(y)[:, None, None], pairs, scale)
        modulated = masks.hide(modulated, masks.pairs)

        attended = masks.hide(self._attend(x, modulated, distances, masks), masks.atoms)
        neighbours, all_pairs, atoms = (
            None if masks.full else mask for mask in (masks.neighbours, masks.pairs, masks.atoms)
        )
        for pool, values in ((self.e_x_mul, modulated), (self.pos_x_mul, distances)):
            attended = attended * pool(values, neighbours, (2,), offset=1.0)
        new_x = torch.addcmul(self.y_x_add(y)[:, None], attended, shifted(self.y_x_mul, y)[:, None])

        new_y = self.y_y(y) + self.e_y(pairs, all_pairs, (1, 2))
        new_y = new_y + self.dist_y(distances, all_pairs, (1, 2))
        # As published, this one mean counts the padded rows, which y_x_add makes other than zero.
        new_y = new_y + self.x_y(new_x, atoms, (1,), padded_mean=masks.padded_means)
        return Features(
            atoms=masks.hide(self.x_out(new_x), masks.atoms),
            pairs=masks.hide(self.e_out(modulated), masks.pairs),
            globals=self.y_out(new_y),
            positions=self._velocity(pairs, positions, masks),
        )

    def _distances(self, positions: Tensor, masks: Masks) -> Tensor:
        """Step 1: an embedding of |r_i - r_j|, the angle at the centre, |r_i| and |r_j|."""
        norm = positions.norm(dim=-1, keepdim=True)
        direction = positions / (norm + 1e-7)
        cosine = direction @ direction.transpose(1, 2)
        # Not by a matrix product, which is inexact in float32 (torch's choice above 25 atoms).
        distance = torch.cdist(
            positions, positions, compute_mode="donot_use_mm_for_euclid_dist"
        ).to(cosine.dtype)
        both = self.lin_dist1(torch.stack((distance, cosine), dim=-1))
        both = both + self.lin_norm_pos1(norm)[:, :, None] + self.lin_norm_pos2(norm)[:, None]
        return masks.hide(F.relu(both), masks.pairs)

    def _attend(self, x: Tensor, pairs: Tensor, distances: Tensor, masks: Masks) -> Tensor:
        """Steps 2.x: logits a(q_i * k_j / sqrt(de)) per head, modulated; each head sees all of V."""
        query = self.q(x)[:, None] * self.a.weight[None, :, None]  # (B, h, n, dx)
        logits = query @ self.k(x)[:, None].transpose(-1, -2) / math.sqrt(pairs.shape[-1])
        modulation = shifted(self.e_att_mul, pairs) * shifted(self.pos_att_mul, distances)
        logits = logits * modulation.permute(0, 3, 1, 2)  # (B, h, n, n)
        if not masks.full:
            logits = logits.masked_fill(~masks.real[:, None, None], -torch.inf)
        heads = logits.softmax(-1) @ self.v(x)[:, None]  # (B, h, n, dx)
        return self.out(heads.transpose(1, 2).flatten(2))

    def _velocity(self, pairs: Tensor, positions: Tensor, masks: Masks) -> Tensor:
        """Step 7: sum over j of w_ij (r_i - r_j), centred."""
        weights = masks.hide(self.e_pos2(F.relu(self.e_pos1(pairs))), masks.pairs)  # (B, n, n, 1)
        weights = weights.squeeze(-1)
        velocity = weights.sum(-1, keepdim=True) * positions - weights @ positions
        velocity = velocity * masks.atoms
        mean = velocity.sum(1, keepdim=True) / masks.atoms.sum(1, keepdim=True)
        return (velocity - mean) * masks.atoms


class Layer(nn.Module):
    """A post-norm transformer layer."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        dx, de, dy = config.width_atoms, config.width_bonds, config.width_global
        self.self_attn = UpdateBlock(dx, de, dy, config.heads)
        self.linX1 = nn.Linear(dx, config.feed_forward_atoms)
        self.linX2 = nn.Linear(config.feed_forward_atoms, dx)
        self.normX1 = nn.LayerNorm(dx)
        self.normX2 = nn.LayerNorm(dx)
        self.norm_pos1 = VelocityNorm()
        self.linE1 = nn.Linear(de, config.feed_forward_bonds)
        self.linE2 = nn.Linear(config.feed_forward_bonds, de)
        self.normE1 = nn.LayerNorm(de)
        self.normE2 = nn.LayerNorm(de)
        self.lin_y1 = nn.Linear(dy, config.feed_forward_global)
        self.lin_y2 = nn.Linear(config.feed_forward_global, dy)
        self.norm_y1 = nn.LayerNorm(dy)
        self.norm_y2 = nn.LayerNorm(dy)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Features, masks: Masks) -> Features:
        drop = self.dropout
        new = self.self_attn(features, masks)
        positions = features.positions + self.norm_pos1(new.positions, masks)

        x = self.normX1(features.atoms + drop(new.atoms))
        x = self.normX2(x + drop(self.linX2(drop(F.relu(self.linX1(x))))))
        e = self.normE1(features.pairs + drop(new.pairs))
        e = self.normE2(e + drop(self.linE2(drop(F.relu(self.linE1(e))))))
        y = self.norm_y1(features.globals + drop(new.globals))
        y = self.norm_y2(y + drop(self.lin_y2(drop(F.relu(self.lin_y1(y))))))
        return _masked(x, (e + e.transpose(1, 2)) / 2, y, positions, masks)


class LastPrediction(nn.Module):
    """What self-conditioning adds to the inputs: classes' probabilities and distances of the last prediction.

    All zero where there was none.
    """

    def __init__(self) -> None:
        super().__init__()
        # Bonds, and distances over one and two of them, lie here.
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0.8, 3.2, DISTANCES - 1), persistent=False)

    def forward(
        self, last: Prediction | None, x: Tensor, bonds: Tensor, masks: Masks
    ) -> tuple[Tensor, Tensor]:
        """Inputs of the atoms (B, n, elements + charges), and of the pairs (B, n, n, bonds + DISTANCES)."""
        if last is None:
            pairs = bonds.new_zeros(*bonds.shape[:-1], bonds.shape[-1] + DISTANCES)
            return torch.zeros_like(x), pairs
        atoms = torch.cat((last.atoms.softmax(-1), last.charges.softmax(-1)), dim=-1)
        distance = torch.cdist(
            last.positions, last.positions, compute_mode="donot_use_mm_for_euclid_dist"
        )[..., None]
        width = self.centres[1] - self.centres[0]
        near = torch.exp(-(((distance - self.centres) / width) ** 2))
        pairs = torch.cat((last.bonds.softmax(-1), near, distance / 10), dim=-1)
        return (atoms * masks.atoms).to(x.dtype), (pairs * masks.bonds).to(bonds.dtype)


class Denoiser(nn.Module):
    """Predicts the clean molecule from a noisy one.

    Args:
        config: sizes.
        elements, charges, bonds: number of classes of each.
        compat: "midi" computes as the published code does, whose results depend on padding.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        elements: int,
        charges: int,
        bonds: int = 5,
        compat: Compat = "none",
    ) -> None:
        super().__init__()
        self.elements = elements
        self.compat = compat
        dx, de, dy = config.width_atoms, config.width_bonds, config.width_global
        inputs = elements + charges
        self.last_prediction = LastPrediction() if config.self_conditioning else None
        times, more = (2, bonds + DISTANCES) if config.self_conditioning else (1, 0)
        self.mlp_in_X = nn.Sequential(*mlp(times * inputs, config.mlp_atoms, dx), nn.ReLU())
        self.mlp_in_E = nn.Sequential(*mlp(bonds + more, config.mlp_bonds, de), nn.ReLU())
        self.mlp_in_y = nn.Sequential(*mlp(1, config.mlp_global, dy), nn.ReLU())
        self.mlp_in_pos = PositionScaling(config.mlp_positions)
        self.tf_layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.mlp_out_X = mlp(dx, config.mlp_atoms, inputs)
        self.mlp_out_E = mlp(de, config.mlp_bonds, bonds)
        self.mlp_out_pos = PositionScaling(config.mlp_positions)

    def forward(
        self,
        atoms: Float[Tensor, "batch atoms elements"],
        charges: Float[Tensor, "batch atoms charges"],
        bonds: Float[Tensor, "batch atoms atoms bonds"],
        positions: Float[Tensor, "batch atoms 3"],
        time: Float[Tensor, "batch 1"],
        mask: Bool[Tensor, "batch atoms"],
        last: Prediction | None = None,
    ) -> Prediction:
        """The clean molecule, from one-hot noisy classes, centred noisy positions and t/T.

        `last`, the prediction before this one, is read by networks with self-conditioning alone.
        """
        masks = self._masks(mask, atoms.dtype)
        x_in = torch.cat((atoms, charges), dim=-1)
        features = self._embed(x_in, bonds, positions, time, masks, last)
        for layer in self.tf_layers:
            features = layer(features, masks)
        x = (self.mlp_out_X(features.atoms) + x_in) * masks.atoms
        e = self.mlp_out_E(features.pairs) + bonds
        return Prediction(
            atoms=x[..., : self.elements],
            charges=x[..., self.elements :],
            bonds=(e + e.transpose(1, 2)) / 2 * masks.bonds,
            positions=masks.centre(self.mlp_out_pos(features.positions, masks)),
        )

    def features(
        self,
        atoms: Float[Tensor, "batch atoms elements"],
        charges: Float[Tensor, "batch atoms charges"],
        bonds: Float[Tensor, "batch atoms atoms bonds"],
        positions: Float[Tensor, "batch atoms 3"],
        time: Float[Tensor, "batch 1"],
        mask: Bool[Tensor, "batch atoms"],
        *,
        layer: int,
    ) -> Features:
        """What leaves layer `layer` (1 .. number of layers; 0: the embeddings); later layers are not run."""
        masks = self._masks(mask, atoms.dtype)
        x_in = torch.cat((atoms, charges), dim=-1)
        features = self._embed(x_in, bonds, positions, time, masks)
        for block in self.tf_layers[:layer]:
            features = block(features, masks)
        return features

    def _masks(self, mask: Tensor, dtype: torch.dtype) -> Masks:
        return Masks(mask, dtype, padded_means=self.compat == "midi")

    def _embed(
        self,
        x: Tensor,
        bonds: Tensor,
        positions: Tensor,
        time: Tensor,
        masks: Masks,
        last: Prediction | None = None,
    ) -> Features:
        if self.last_prediction is not None:
            of_atoms, of_pairs = self.last_prediction(last, x, bonds, masks)
            x, bonds = torch.cat((x, of_atoms), dim=-1), torch.cat((bonds, of_pairs), dim=-1)
        e = self.mlp_in_E(bonds)
        positions = self.mlp_in_pos(positions, masks)
        e = (e + e.transpose(1, 2)) / 2
        return _masked(self.mlp_in_X(x), e, self.mlp_in_y(time), positions, masks)


def _masked(x: Tensor, e: Tensor, y: Tensor, positions: Tensor, masks: Masks) -> Features:
    return Features(
        atoms=x * masks.atoms,
        pairs=e * masks.bonds,
        globals=y,
        positions=masks.centre(positions),
    )
