"""The hash grid against a naive gather and by its properties."""

from __future__ import annotations

import pytest
import torch

from hyperfields.fields.encoding import PRIMES, HashGrid, PositionEncoding, Sinusoids


@pytest.fixture
def grid() -> HashGrid:
    torch.manual_seed(0)
    grid = HashGrid(levels=4, features=3, log2_rows=9, coarsest=4, finest=40)
    for table in grid.tables:
        table.data.uniform_(-1, 1)
    return grid.double()


def naive(grid: HashGrid, position: torch.Tensor) -> torch.Tensor:
    """One position, corner by corner, with Python's integers."""
    found = []
    for level, table in zip(grid.levels, grid.tables, strict=True):
        n = level.resolution
        scaled = [(float(p) * 0.5 + 0.5) * n for p in position]
        low = [min(int(s), n - 1) for s in scaled]
        total = torch.zeros(table.shape[1], dtype=table.dtype)
        for corner in range(8):
            offset = [(corner >> axis) & 1 for axis in range(3)]
            vertex = [c + o for c, o in zip(low, offset, strict=True)]
            weight = 1.0
            for s, c, o in zip(scaled, low, offset, strict=True):
                weight *= s - c if o else 1 - (s - c)
            if (n + 1) ** 3 <= 2**9:
                row = vertex[0] + (n + 1) * (vertex[1] + (n + 1) * vertex[2])
            else:
                row = 0
                for v, prime in zip(vertex, PRIMES, strict=True):
                    row ^= v * prime
                row %= len(table)
            total = total + weight * table[row]
        found.append(total)
    return torch.cat(found)


def test_equals_a_naive_gather_forward_and_backward(grid: HashGrid) -> None:
    points = (torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1).double()
    seen = grid(points)
    assert [level.dense for level in grid.levels] == [True, False, False, False]
    expected = torch.stack([naive(grid, p) for p in points])
    torch.testing.assert_close(seen, expected)
    signal = torch.rand_like(seen)
    fast = torch.autograd.grad((seen * signal).sum(), list(grid.tables))
    slow = torch.autograd.grad((expected * signal).sum(), list(grid.tables))
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other)


def test_gradient_of_positions_agrees_with_finite_differences(grid: HashGrid) -> None:
    points = (torch.rand(5, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1).double()
    assert torch.autograd.gradcheck(grid, points.requires_grad_(), eps=1e-7, atol=1e-4)


def test_weights_sum_to_one_and_rows_exist(grid: HashGrid) -> None:
    unit = torch.rand(500, 3).double()
    unit[:8] = torch.tensor([[(i >> a) & 1 for a in range(3)] for i in range(8)])  # the corners
    for level, table in enumerate(grid.tables):
        rows, weights = grid.corners(unit, level)
        torch.testing.assert_close(weights.sum(0), torch.ones(500).double())
        assert (weights >= 0).all()
        assert int(rows.min()) >= 0
        assert int(rows.max()) < len(table)


def test_vertices_reproduce_their_entries_and_dense_levels_have_no_collision(
    grid: HashGrid,
) -> None:
    n = grid.levels[0].resolution
    axis = torch.arange(n + 1).double() / n
    vertices = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    features = grid(vertices * 2 - 1)[:, :3]
    rows, weights = grid.corners(vertices, 0)
    own = rows.gather(0, weights.argmax(0, keepdim=True)).squeeze(0)
    assert sorted(own.tolist()) == list(range((n + 1) ** 3))
    torch.testing.assert_close(features, grid.tables[0][own])


def test_points_outside_take_the_nearest_inside_and_stay_finite(grid: HashGrid) -> None:
    far = torch.tensor([[3.0, -0.2, 0.1], [1e6, -1e6, 5.0]]).double()
    seen = grid(far)
    assert seen.isfinite().all()
    assert torch.equal(seen, grid(far.clamp(-1, 1)))


def test_fine_levels_hash_to_all_of_their_table() -> None:
    grid = HashGrid(levels=1, features=1, log2_rows=10, coarsest=64, finest=64)
    rows, _ = grid.corners(torch.rand(20000, 3), 0)
    counts = torch.bincount(rows.flatten(), minlength=1024).float()
    assert (counts > 0).all()
    assert float(counts.std() / counts.mean()) < 0.5


def test_sinusoids_are_those_of_nerf() -> None:
    x = torch.tensor([[0.25, -0.5, 1.0]])
    encoded = Sinusoids(2)(x)
    angles = torch.pi * torch.tensor([0.25, 0.5, -0.5, -1.0, 1.0, 2.0])
    torch.testing.assert_close(encoded[0], torch.cat([angles.sin(), angles.cos()]))
    both = PositionEncoding(HashGrid(levels=2, features=2, log2_rows=8, coarsest=2, finest=4), 2)
    assert both(x).shape == (1, both.dim)
    torch.testing.assert_close(both(x)[:, 4:], encoded)
