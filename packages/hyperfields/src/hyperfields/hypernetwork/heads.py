"""Text tokens to a conditioning token, and that to weights of one layer (Eq. 4.2, 4.4, 4.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyperfields.fields.field import Layer

GRID_RANK = 16
"""Hash grids of which a prompt's is mixed, in the baseline ATT3D."""


class ConditioningTransformer(nn.Module):
    """Text tokens to the conditioning token CT = T(z): self-attention, then the mean over all but padding."""

    def __init__(self, text_dim: int, blocks: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.dim = heads * head_dim
        self.embed = nn.Linear(text_dim, self.dim)
        # Dropout would make weights, and so whole scenes, random.
        block = nn.TransformerEncoderLayer(
            self.dim, heads, 4 * self.dim, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(self.dim)

    def forward(
        self, tokens: Float[Tensor, "prompts tokens text_dim"], mask: Bool[Tensor, "prompts tokens"]
    ) -> Float[Tensor, "prompts dim"]:
        """One conditioning token per prompt; padding changes nothing."""
        mixed = self.blocks(self.embed(tokens), src_key_padding_mask=~mask)
        share = mask.to(mixed.dtype) / mask.sum(-1, keepdim=True)
        return self.norm(torch.einsum("pt,ptd->pd", share, mixed))


class WeightHead(nn.Module):
    """MLP_i of Eq. 4.5: writes one layer's weights from CT and the mean activations before that layer.

    Two layers with ReLU. Activations pass adaptive instance normalisation first: each point's are
    normalised over the channels, then scaled and shifted as CT says. (Over the minibatch, the mean that
    follows would be the shift alone, whatever the points.)
    """

    def __init__(
        self,
        dim: int,
        activations: int,
        shape: tuple[int, int],
        hidden: int,
        *,
        modulated: bool,
        gain: float,
    ) -> None:
        """Make it.

        Args:
            dim: of CT.
            activations: channels before the layer; 0 conditions on CT only.
            shape: outputs and inputs of the layer.
            hidden: units of this MLP.
            modulated: multiply learned weights instead of writing them.
            gain: of the layer's initial weights: variance gain / inputs.
        """
        super().__init__()
        self.out, self.into = shape
        self.modulated, self.gain = modulated, gain
        self.style = nn.Linear(dim, 2 * activations) if activations else None
        self.first = nn.Linear(dim + activations, hidden)
        self.second = nn.Linear(hidden, self.out * self.into + self.out)
        # In units of a plain layer's initial weights, so that a step moves weights by a share of their
        # size. In plain units the first step at rate 0.003 took log-densities from -1 to -120: empty for good.
        self.unit = math.sqrt(gain / self.into)
        initial = torch.randn(self.out, self.into) * self.unit
        with torch.no_grad():
            # It begins as one network for all prompts, in the usual scale, plus differences.
            nn.init.normal_(self.second.weight, std=0.3 / math.sqrt(hidden))
            self.second.bias.zero_()
            start = initial.flatten() / self.unit
            self.second.bias[: initial.numel()] = 1 / self.unit if modulated else start
        self.base = nn.Parameter(initial) if modulated else None

    def forward(
        self,
        token: Float[Tensor, "prompts dim"],
        activations: Float[Tensor, "prompts points width"] | None,
    ) -> Layer:
        """Weights and biases for each prompt."""
        if self.style is not None:
            assert activations is not None, "made with activations"
            scale, shift = self.style(token).chunk(2, -1)
            normal = F.layer_norm(activations, activations.shape[-1:]).mean(1)
            token = torch.cat([token, (1 + scale) * normal + shift], -1)  # Eq. 4.4
        written = self.unit * self.second(torch.relu(self.first(token)))
        weight = written[:, : self.out * self.into].view(-1, self.out, self.into)
        if self.base is not None:
            weight = self.base * weight
            size = math.sqrt(self.gain * self.out / self.into)
            weight = size * F.normalize(weight, dim=1)
        return weight, written[:, self.out * self.into :]


class GridHead(nn.Module):
    """What ATT3D (Lorraine et al. 2023) writes instead: a hash grid, from CT; the MLP is one for all scenes.

    A two-layer MLP with ReLU gives the shares in which learned grids are added to one of all prompts. That is a
    third, linear layer to all of the tables, of few inputs: theirs is wider, and would be 50 million weights here.
    """

    def __init__(self, dim: int, hidden: int, tables: Sequence[Tensor]) -> None:
        super().__init__()
        self.shares = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, GRID_RANK))
        self.mixed = nn.ParameterList(
            torch.empty(GRID_RANK, *table.shape).uniform_(-1e-2, 1e-2) for table in tables
        )

    def forward(
        self, token: Float[Tensor, "prompts dim"], tables: Sequence[Tensor]
    ) -> list[Float[Tensor, "prompts rows features"]]:
        """Each prompt's tables, level by level."""
        shares = self.shares(token) / math.sqrt(GRID_RANK)
        return [
            table + torch.einsum("pk,krf->prf", shares, mixed)
            for table, mixed in zip(tables, self.mixed, strict=True)
        ]
