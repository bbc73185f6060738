"""The feed-forward feature extractor of the baselines: four 3x3 convolutions (A.1.4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memory_adapt.models.flops import conv_flops


class Conv4(nn.Module):
    """Four times (3x3 convolution, GroupNorm, 2x2 max-pool, ReLU), then flattened: 28 -> 14 -> 7 -> 3 -> 1.

    Ren et al. 2021 use batch norm. We use GroupNorm: statistics over a stream's later images would leak
    them into earlier predictions, and a stream of batch size one has no batch.
    """

    def __init__(self, image_channels: int, image_size: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [
                nn.Conv2d(image_channels if i == 0 else width, width, 3, padding=1, bias=False),
                nn.GroupNorm(num_groups(width), width),
                nn.MaxPool2d(2),
                nn.ReLU(inplace=True),  # commutes with the max, and is cheaper after it
            ]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.features = width * (image_size // 16) ** 2
        self.image_size = image_size

    def forward(
        self, images: Float[Tensor, "*lead channels height width"]
    ) -> Float[Tensor, "*lead features"]:
        lead = images.shape[:-3]
        flat = images.reshape(-1, *images.shape[-3:]).contiguous(memory_format=torch.channels_last)
        return self.layers(flat).reshape(*lead, self.features)

    def flops(self) -> int:
        """FLOPs on one image."""
        convolutions = [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]
        return sum(conv_flops(c, self.image_size // 2**i) for i, c in enumerate(convolutions))


def num_groups(width: int) -> int:
    """The most groups up to 8 that divide the width."""
    return max(g for g in range(1, 9) if width % g == 0)
