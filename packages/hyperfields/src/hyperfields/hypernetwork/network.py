"""The dynamic hypernetwork: from text tokens to the weights of NeRFs (4.3.1, Fig. 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hyperfields.config import ModelConfig
from hyperfields.fields.encoding import PositionEncoding
from hyperfields.fields.field import Field, Layer, build_encoding, decode, layer_shapes, run_mlp
from hyperfields.fields.rendering import BOUND
from hyperfields.hypernetwork.heads import ConditioningTransformer, GridHead, WeightHead

PROBES = 4096
"""Points that a materialised field's weights are computed from."""


class HyperNetwork(nn.Module):
    """Prompts and points to densities and colours, by one hash grid for all scenes and an MLP for each.

    Or, as the baseline, the other way round: see `GridHead`.
    """

    def __init__(self, config: ModelConfig, text_dim: int) -> None:
        super().__init__()
        self.config = config
        self.transformer = ConditioningTransformer(
            text_dim, config.blocks, config.heads, config.head_dim
        )
        self.encoding = build_encoding(config.field)
        shapes = layer_shapes(config.field)
        self.grid_head: GridHead | None = None
        self.shared: nn.ModuleList | None = None
        if config.conditioning == "grid":
            tables = list(self.encoding.grid.tables)
            self.grid_head = GridHead(self.transformer.dim, config.hidden, tables)
            linears = [nn.Linear(into, out) for out, into in shapes]
            for linear in linears[:-1]:
                nn.init.kaiming_normal_(linear.weight)
            self.shared = nn.ModuleList(linears)
            return
        dynamic = config.conditioning == "dynamic"
        self.heads = nn.ModuleList(
            WeightHead(
                self.transformer.dim,
                shape[1] if dynamic and i else 0,
                shape,
                config.hidden,
                modulated=config.weights == "modulated",
                gain=1.0 if i == len(shapes) - 1 else 2.0,
            )
            for i, shape in enumerate(shapes)
        )

    def forward(
        self,
        tokens: Float[Tensor, "prompts tokens text_dim"],
        mask: Bool[Tensor, "prompts tokens"],
        points: Float[Tensor, "prompts points 3"],
    ) -> tuple[Float[Tensor, "prompts points"], Float[Tensor, "prompts points values"]]:
        """Densities and values at each prompt's points; with dynamic weights they depend on all of these."""
        outputs, _ = self._generate(self.transformer(tokens, mask), points)
        return decode(outputs, points, self.config.field)

    def generate_layers(
        self,
        tokens: Float[Tensor, "prompts tokens text_dim"],
        mask: Bool[Tensor, "prompts tokens"],
        points: Float[Tensor, "prompts points 3"],
    ) -> list[Layer]:
        """Weights and biases of each layer, as they are for these points."""
        return self._generate(self.transformer(tokens, mask), points)[1]

    def _generate(self, token: Tensor, points: Tensor) -> tuple[Tensor, list[Layer]]:
        prompts, count, _ = points.shape
        layers: list[Layer] = []
        if self.shared is not None:
            grids = self._grids(token)
            encoded = torch.stack(
                [self.encoding(at, grid) for at, grid in zip(points, grids, strict=True)]
            )
            layers = [
                (linear.weight.expand(prompts, -1, -1), linear.bias.expand(prompts, -1))
                for linear in cast("list[nn.Linear]", list(self.shared))
            ]
            return run_mlp(encoded, lambda i, _: layers[i], len(layers)), layers
        encoded = self.encoding(points.reshape(-1, 3)).view(prompts, count, -1)

        def layer(i: int, before: Tensor | None) -> Layer:
            if before is not None and self.config.stop_gradient:
                # Detached: without it gradients run through all earlier weights twice (SG in Fig. 4.3).
                before = before.detach()
            layers.append(self.heads[i](token, before))
            return layers[-1]

        return run_mlp(encoded, layer, self.config.field.layers), layers

    def _grids(self, token: Tensor) -> list[list[Tensor]]:
        """The tables of each prompt's hash grid, where these are written."""
        assert self.grid_head is not None, "asked with conditioning grid only"
        levels = self.grid_head(token, list(self.encoding.grid.tables))
        return [[level[i] for level in levels] for i in range(len(token))]

    def grid_parameters(self) -> list[nn.Parameter]:
        """Entries of hash grids, which see few gradients."""
        mixed = [] if self.grid_head is None else list(self.grid_head.mixed)
        return [*self.encoding.parameters(), *mixed]

    def _encoding_of(self, token: Tensor) -> list[PositionEncoding]:
        """The position encoding of each prompt: the same, or with tables of its own."""
        if self.grid_head is None:
            return [self.encoding] * len(token)
        own = []
        for tables in self._grids(token):
            encoding = build_encoding(self.config.field).to(token.device)
            for held, table in zip(encoding.grid.tables, tables, strict=True):
                held.copy_(table)
            own.append(encoding)
        return own

    @torch.no_grad()
    def materialize(self, token: Float[Tensor, "prompts dim"], names: Sequence[str]) -> list[Field]:
        """Fields with weights of their own, one per conditioning token, computed from the same fixed points.

        What they show then depends neither on chunks nor on order. They share this network's hash grid, unless
        grids are what is written.
        """
        # Conditioned on where points of a training step lie: all over the box.
        probes = probe_points().to(token.device)
        _, layers = self._generate(token, probes.expand(len(token), -1, -1))
        encodings = self._encoding_of(token)
        return [
            Field(
                self.config.field,
                prompt=name,
                encoding=encodings[i],
                layers=[(weight[i].clone(), bias[i].clone()) for weight, bias in layers],
            )
            for i, name in enumerate(names)
        ]


class PromptField(nn.Module):
    """The field that a hypernetwork writes for one prompt while it learns; callable as a `Field` is.

    With dynamic weights what it shows depends on all points of a call, as in training.
    """

    tokens: Tensor
    mask: Tensor

    def __init__(
        self,
        net: HyperNetwork,
        tokens: Float[Tensor, "1 tokens text_dim"],
        mask: Bool[Tensor, "1 tokens"],
    ) -> None:
        super().__init__()
        self.net, self.config = net, net.config.field
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def forward(
        self, points: Float[Tensor, "points 3"]
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points values"]]:
        """Densities, and colours followed by features."""
        densities, values = self.net(self.tokens, self.mask, points[None])
        return densities[0], values[0]


def probe_points() -> Float[Tensor, "points 3"]:
    """The first points of the Sobol sequence, in the box."""
    sobol = torch.quasirandom.SobolEngine(3)
    return (2 * sobol.draw(PROBES) - 1) * BOUND
