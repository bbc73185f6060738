"""HyperSegmentationFields: a few posed views to a radiance and feature field in one forward pass (4.4.8).

A view encoder takes the place of the text encoder; the written MLP also outputs a feature vector per point, which
is rendered as colour is and learns to match 2D feature maps. Offline these are one-hot labels of parts.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hyperfields.config import ModelConfig
from hyperfields.hypernetwork.network import HyperNetwork
from hyperfields.segmentation.scenes import VIEW_CHANNELS

ALPHA = 3


BLOCK = 8
"""Pixels along each side of what a token stands for."""


TOKEN_DIM = 128


class ViewEncoder(nn.Module):
    """A small convolutional net: each view to tokens, one for each block of pixels."""

    def __init__(self, dim: int = TOKEN_DIM) -> None:
        super().__init__()
        widths = (VIEW_CHANNELS, 32, 64, dim)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(into, out, 3, stride=2, padding=1), nn.GroupNorm(8, out), nn.ReLU()
                )
                for into, out in pairwise(widths)
            )
        )

    def forward(
        self, inputs: Float[Tensor, "scenes views 10 height width"]
    ) -> Float[Tensor, "scenes tokens dim"]:
        """Tokens of all views of a scene, in one sequence: which view they come from, their rays say."""
        scenes, views = inputs.shape[:2]
        found = self.layers(inputs.flatten(0, 1)).flatten(2).transpose(1, 2)
        return found.reshape(scenes, views * found.shape[1], -1)


class SegmentationNetwork(nn.Module):
    """View encoder and hypernetwork; called as a `HyperNetwork`, with views in place of tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = ViewEncoder()
        self.hypernetwork = HyperNetwork(config, TOKEN_DIM)

    def forward(
        self,
        inputs: Float[Tensor, "scenes views 10 height width"],
        mask: Bool[Tensor, "scenes views"],
        points: Float[Tensor, "scenes points 3"],
    ) -> tuple[Float[Tensor, "scenes points"], Float[Tensor, "scenes points values"]]:
        """Densities and values (colours, then features) at each scene's points."""
        return self.hypernetwork(*self._tokens(inputs, mask), points)

    def condition(
        self, inputs: Float[Tensor, "scenes views 10 height width"]
    ) -> Float[Tensor, "scenes dim"]:
        """The conditioning token of each scene."""
        mask = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        return self.hypernetwork.transformer(*self._tokens(inputs, mask))

    def grid_parameters(self) -> list[nn.Parameter]:
        """Those of the hash grid."""
        return self.hypernetwork.grid_parameters()

    def _tokens(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, and which count: those of blocks where something is seen, if there are any."""
        shown = F.max_pool2d(inputs[:, :, ALPHA], BLOCK).flatten(2) > 0
        seen = (shown & mask[:, :, None]).flatten(1)
        everywhere = mask.repeat_interleave(shown.shape[2], 1)
        return self.encoder(inputs), torch.where(seen.any(1, keepdim=True), seen, everywhere)

    @torch.no_grad()
    def spread_tokens(self, inputs: Float[Tensor, "scenes views 10 height width"]) -> None:
        """Set the last normalisation's scale and shift so that conditioning tokens of these scenes differ.

        As new, all views make nearly the same token (text encoders come trained, this one does not), and the
        weights that are written hardly depend on it: training stood still for hundreds of steps. Afterwards each
        channel has mean 0 and variance 1 over the scenes, as activation normalisation begins (Kingma and
        Dhariwal 2018).
        """
        tokens = self.condition(inputs)
        norm = self.hypernetwork.transformer.norm
        norm.weight.div_(tokens.std(0).clamp_min(1e-3))
        norm.bias.copy_(-tokens.mean(0) * norm.weight)
