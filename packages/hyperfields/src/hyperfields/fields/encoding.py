"""Encodings of positions: the multiresolution hash grid (InstantNGP, Müller et al. 2022) and sinusoids.

Each level of the grid is one gather of eight table rows per point with trilinear weights, as one
`embedding_bag`; its backward is one `scatter_add_` per feature. That is several times faster on a CPU than indexing
the table and multiplying, which writes all eight rows out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

PRIMES = (1, 2654435761, 805459861)
"""Of the spatial hash (Müller et al. 2022, Eq. 4)."""
_WRAPPED = [(prime + 2**31) % 2**32 - 2**31 for prime in PRIMES]  # as signed 32-bit integers


class _WeightedRows(torch.autograd.Function):
    """Sum over k of weights[k, n] * table[rows[k, n]]."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, weights)
        by_point = rows.T.contiguous(), weights.T.contiguous()
        return F.embedding_bag(by_point[0], table, mode="sum", per_sample_weights=by_point[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, weights = ctx.saved_tensors
        to_table = to_weights = None
        if ctx.needs_input_grad[0]:
            # Feature by feature, as products over few features are slow. On a CPU scatter_add_ takes two thirds of
            # index_add_'s time; it wants 64 bits.
            where, columns = rows.flatten().long(), table.new_zeros(table.shape[1], len(table))
            for column, signal in zip(columns, grad.T.contiguous(), strict=True):
                column.scatter_add_(0, where, (signal * weights).flatten())
            to_table = columns.T.contiguous()
        if ctx.needs_input_grad[2]:
            to_weights = torch.einsum("nf,knf->kn", grad, table[rows])
        return to_table, None, to_weights


@dataclass(frozen=True, kw_only=True)
class _Level:
    resolution: int
    rows: int
    dense: bool


class HashGrid(nn.Module):
    """Features of positions in [-1, 1]^3, trilinear between the vertices of grids of growing resolution.

    Coarse levels whose vertices fit into the table are stored one to one; finer ones share rows by a hash.
    Positions outside the box take the features of the nearest position inside.

    Example:
        grid = HashGrid(levels=8, features=4, log2_rows=15)
        grid(torch.rand(1000, 3) * 2 - 1).shape  # (1000, 32)
    """

    def __init__(
        self,
        *,
        levels: int = 16,
        features: int = 2,
        log2_rows: int = 19,
        coarsest: int = 16,
        finest: int = 2048,
    ) -> None:
        """Make the tables.

        Args:
            levels: grids.
            features: of each vertex; also the gain per level of the output.
            log2_rows: most rows of a level's table.
            coarsest: cells along an edge of the first level.
            finest: cells along an edge of the last level; between them geometric growth.
        """
        super().__init__()
        growth = (finest / coarsest) ** (1 / max(1, levels - 1))
        self.levels = []
        for level in range(levels):
            resolution = math.floor(coarsest * growth**level + 1e-6)
            vertices = (resolution + 1) ** 3
            dense = vertices <= 2**log2_rows
            rows = vertices if dense else 2**log2_rows
            self.levels.append(_Level(resolution=resolution, rows=rows, dense=dense))
        self.tables = nn.ParameterList(
            nn.Parameter(torch.empty(level.rows, features).uniform_(-1e-2, 1e-2))
            for level in self.levels
        )
        self.dim = levels * features

    def forward(
        self, positions: Float[Tensor, "points 3"], tables: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "points dim"]:
        """Features of each position, level after level; of other tables than its own where these are given."""
        # In memory axis after axis, as `corners` wants it: turned once instead of at each level.
        unit = (positions.T.contiguous().clamp(-1, 1) * 0.5 + 0.5).T
        found = [
            _WeightedRows.apply(table, *self.corners(unit, level))
            for level, table in enumerate(self.tables if tables is None else tables)
        ]
        return torch.cat(found, -1)

    def corners(
        self, unit: Float[Tensor, "points 3"], level: int
    ) -> tuple[Int[Tensor, "8 points"], Float[Tensor, "8 points"]]:
        """Rows and trilinear weights of the eight vertices around positions in [0, 1]^3."""
        of = self.levels[level]
        scaled = unit.T.contiguous() * of.resolution
        low = scaled.detach().floor().clamp(max=of.resolution - 1)  # at 1 the last cell's far side
        fraction = scaled - low
        # Points innermost: a loop over two neighbours would be as slow as arithmetic gets. 32 bits are
        # enough, as the hash keeps low bits only, and these are the same when products wrap around.
        cell = low.int()
        steps = (1, of.resolution + 1, (of.resolution + 1) ** 2) if of.dense else _WRAPPED
        x, y, z = (
            torch.stack([cell[axis], cell[axis] + 1]) * step for axis, step in enumerate(steps)
        )
        x, y, z = x[:, None, None], y[None, :, None], z[None, None]
        rows = x + y + z if of.dense else (x ^ y ^ z) & (of.rows - 1)
        u, v, w = (torch.stack([1 - share, share]) for share in fraction)
        weights = u[:, None, None] * v[None, :, None] * w[None, None]
        return rows.flatten(0, 2), weights.flatten(0, 2)


class Sinusoids(nn.Module):
    """sin and cos of the position times pi 2^k, k < frequencies (Mildenhall et al. 2020, Eq. 4)."""

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.dim = 6 * frequencies

    def forward(self, positions: Float[Tensor, "points 3"]) -> Float[Tensor, "points dim"]:
        """Sines, then cosines, axis by axis."""
        octaves = math.pi * 2.0 ** torch.arange(self.frequencies, device=positions.device)
        angles = (positions[:, :, None] * octaves.to(positions.dtype)).flatten(1)
        return torch.cat([angles.sin(), angles.cos()], -1)


class PositionEncoding(nn.Module):
    """Hash grid and sinusoids side by side (4.3.3)."""

    def __init__(self, grid: HashGrid, frequencies: int) -> None:
        super().__init__()
        self.grid = grid
        self.sinusoids = Sinusoids(frequencies)
        self.dim = grid.dim + self.sinusoids.dim

    def forward(
        self, positions: Float[Tensor, "points 3"], tables: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "points dim"]:
        """Grid features, then sinusoids of the position clamped to the box; see `HashGrid.forward`."""
        return torch.cat([self.grid(positions, tables), self.sinusoids(positions.clamp(-1, 1))], -1)
