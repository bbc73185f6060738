"""Volume rendering against closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfields.fields.cameras import Rays, orbit
from hyperfields.fields.rendering import (
    Occupancy,
    composite,
    composite_over,
    intersect_box,
    nerfacc_is_built,
    render_image,
    render_packed,
    render_rays,
    render_weights_from_density,
    sample_distances,
)


@given(seed=st.integers(0, 10**6), scale=st.floats(0, 100))
@settings(max_examples=30, deadline=None)
def test_weights_are_shares_of_the_light(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    densities = scale * torch.rand(5, 9, generator=generator, dtype=torch.float64)
    lengths = torch.rand(5, 9, generator=generator, dtype=torch.float64)
    weights = render_weights_from_density(densities, lengths)
    assert (weights >= 0).all()
    passed = torch.exp(-(densities * lengths).sum(-1))  # Beer-Lambert
    torch.testing.assert_close(weights.sum(-1), 1 - passed)


def test_weights_equal_the_sequential_definition() -> None:
    densities, lengths = torch.rand(3, 6).double() * 4, torch.rand(3, 6).double()
    light = torch.ones(3).double()
    for k, weight in enumerate(render_weights_from_density(densities, lengths).T):
        alpha = 1 - torch.exp(-densities[:, k] * lengths[:, k])
        torch.testing.assert_close(weight, light * alpha)
        light = light * (1 - alpha)


def test_splitting_an_interval_changes_nothing() -> None:
    densities, lengths = torch.rand(4, 5).double() * 3, torch.rand(4, 5).double()
    values = torch.rand(4, 5, 3).double()
    whole, _ = composite(render_weights_from_density(densities, lengths), values)
    twice = [x.repeat_interleave(2, 1) for x in (densities, lengths / 2, values)]
    halves, _ = composite(render_weights_from_density(twice[0], twice[1]), twice[2])
    torch.testing.assert_close(whole, halves)


def test_homogeneous_slab_has_its_closed_form_whatever_the_samples() -> None:
    def slab(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((len(points),), 1.3), torch.tensor([0.2, 0.4, 0.8]).expand(len(points), 3)

    rays = Rays(torch.tensor([[0.0, -3.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))
    generator = torch.Generator().manual_seed(0)
    for samples in (1, 7, 64):
        colour, opacity = render_rays(slab, rays, samples, generator=generator)
        expected = 1 - torch.exp(torch.tensor(-1.3 * 2))  # the box is 2 across
        torch.testing.assert_close(opacity[0], expected)
        torch.testing.assert_close(colour[0], expected * torch.tensor([0.2, 0.4, 0.8]))


def test_zero_density_gives_the_background_exactly() -> None:
    def empty(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return points.new_zeros(len(points)), points.new_ones(len(points), 3)

    rays = orbit(30, 20, 6).rays()
    background = torch.rand(len(rays), 3)
    colour, opacity = render_rays(empty, rays, 8, background=background)
    assert torch.equal(colour, background)
    assert not opacity.any()
    assert torch.equal(composite_over(torch.zeros(2, 2, 4), 0.3), torch.full((2, 2, 3), 0.3))


def test_rays_that_miss_the_box_see_nothing_of_it() -> None:
    def solid(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return points.new_full((len(points),), 1e4), points.new_ones(len(points), 3)

    away = Rays(torch.tensor([[0.0, -3.0, 0.0]] * 2), torch.tensor([[0.0, 0, 1.0], [0, -1.0, 0]]))
    near, far = intersect_box(away)
    assert torch.equal(near, far)
    assert not render_rays(solid, away, 4)[1].any()
    inside = Rays(torch.tensor([[0.5, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    near, far = intersect_box(inside)
    assert (near.item(), far.item()) == pytest.approx((0, 0.5))


def test_samples_lie_one_in_each_interval() -> None:
    near, far = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0])
    edges = torch.linspace(1, 3, 9)
    middles, step = sample_distances(near, far, 8)
    torch.testing.assert_close(middles[0], (edges[1:] + edges[:-1]) / 2)
    torch.testing.assert_close(step, torch.tensor([0.25, 0.0]))
    drawn, _ = sample_distances(near, far, 8, torch.Generator().manual_seed(1))
    assert ((drawn[0] >= edges[:-1]) & (drawn[0] <= edges[1:])).all()
    assert not torch.allclose(drawn[0], middles[0])


def test_images_do_not_depend_on_chunks() -> None:
    def ball(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 30.0 * (points.norm(dim=-1) < 0.6), points * 0.5 + 0.5

    camera = orbit(70, 10, 9)
    whole = render_image(ball, camera, 16, chunk=10**6)
    torch.testing.assert_close(render_image(ball, camera, 16, chunk=40), whole)
    assert float(whole[4, 4, 3]) > 0.99
    assert float(whole[0, 0, 3]) == 0
    # +x is green-free and red: seen from the side at +x the centre is reddish.
    side = composite_over(render_image(ball, orbit(90, 0, 9), 64), 1.0)[4, 4]
    torch.testing.assert_close(side, torch.tensor([0.8, 0.5, 0.5]), atol=0.03, rtol=0)


def test_skipping_empty_space_asks_for_few_points_and_changes_no_byte() -> None:
    asked = 0

    def lollipop(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal asked
        asked += len(points)
        head = (points - points.new_tensor([0, 0, 0.5])).norm(dim=-1) - 0.3
        stick = torch.maximum(points[:, :2].norm(dim=-1) - 0.05, points[:, 2].abs() - 0.6)
        return torch.exp(3 - 60 * torch.minimum(head, stick)).clamp(max=1e4), points * 0.5 + 0.5

    camera = orbit(20, 15, 24)
    whole = render_image(lollipop, camera, 48)
    occupancy = Occupancy.of(lollipop, resolution=32)
    points, asked = asked - 32**3, 0
    skipping = render_image(lollipop, camera, 48, occupancy=occupancy)
    assert asked < 0.25 * points
    assert float(whole[..., 3].max()) > 0.99
    assert float((skipping - whole).abs().max()) < 0.5 / 255
    # Chunks are of points that are asked for, and still change nothing.
    small = render_image(lollipop, camera, 48, occupancy=occupancy, chunk=100)
    torch.testing.assert_close(small, skipping)


def test_occupancy_of_nothing_is_empty_and_lies_along_the_right_axes() -> None:
    def corner(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 5.0 * (points > points.new_tensor([0.5, 0.0, -0.5])).all(-1), points

    occupancy = Occupancy.of(corner, resolution=21)
    points = 2 * torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) - 1
    assert occupancy.at(points[corner(points)[0] > 0]).all()
    far = (points < torch.tensor([0.3, -0.2, -0.7])).any(-1)  # more than a cell and a half away
    assert not occupancy.at(points[far]).any()
    nothing = Occupancy.of(lambda p: (p.new_zeros(len(p)), p))
    assert not nothing.cells.any()
    assert not render_image(corner, orbit(0, 0, 4), 8, occupancy=nothing).any()


def test_weights_and_gradients_equal_nerfacc_s() -> None:
    nerfacc = pytest.importorskip("nerfacc")
    generator = torch.Generator().manual_seed(0)
    densities = 8 * torch.rand(5, 12, generator=generator)
    lengths = torch.rand(5, 12, generator=generator)
    values = torch.rand(5, 12, 3, generator=generator)
    ends = lengths.cumsum(-1)
    background = torch.tensor([[0.2, 0.5, 0.9]])

    ours = densities.clone().requires_grad_()
    colours, opacities = composite(render_weights_from_density(ours, lengths), values, background)
    theirs = densities.clone().requires_grad_()
    expected, expected_opacities, _, _ = nerfacc.rendering(
        ends - lengths, ends, rgb_sigma_fn=lambda *_: (values, theirs), render_bkgd=background[0]
    )
    torch.testing.assert_close(colours, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(opacities, expected_opacities[:, 0], atol=2e-6, rtol=0)
    (grad,) = torch.autograd.grad(colours.square().sum(), ours)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), theirs)
    torch.testing.assert_close(grad, expected_grad, atol=2e-6, rtol=1e-4)


def test_nerfacc_s_packed_samples_make_the_same_image(monkeypatch: pytest.MonkeyPatch) -> None:
    nerfacc = pytest.importorskip("nerfacc")

    # What it has for CUDA only on this path: first sample and count of each ray, and the sum of what lies before.
    def pack_info(ray_of: torch.Tensor, rays: int) -> torch.Tensor:
        counts = ray_of.bincount(minlength=rays)
        return torch.stack([counts.cumsum(0) - counts, counts], -1)

    def exclusive_sum(inputs: torch.Tensor, packed_info: torch.Tensor) -> torch.Tensor:
        rays = [inputs[first : first + count] for first, count in packed_info.tolist()]
        return torch.cat([ray.cumsum(0) - ray for ray in rays])

    monkeypatch.setattr(nerfacc.volrend, "pack_info", pack_info)
    monkeypatch.setattr(nerfacc.volrend, "exclusive_sum", exclusive_sum)

    def ball(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 4.0 * (points.norm(dim=-1) < 0.6), torch.cat([points * 0.5 + 0.5, points], -1)

    camera = orbit(20, 15, 12)
    rays = camera.rays()
    occupancy = Occupancy.of(ball, resolution=32)
    colours, opacities = render_packed(ball, rays, 24, occupancy)
    image = render_image(ball, camera, 24, occupancy=occupancy).view(-1, 4)
    assert float(image[:, 3].max()) > 0.9
    torch.testing.assert_close(
        torch.cat([colours, opacities[:, None]], -1), image, atol=2e-6, rtol=0
    )
    nothing = Occupancy.of(lambda p: (p.new_zeros(len(p)), p))
    assert not torch.cat([part.flatten() for part in render_packed(ball, rays, 24, nothing)]).any()


def test_nerfacc_is_used_only_where_its_kernels_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, Any] = {"nerfacc": object(), "nerfacc.csrc": None}
    monkeypatch.setattr("hyperfields.fields.rendering.find_spec", found.get)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    looked = nerfacc_is_built.__wrapped__
    assert not looked()
    (tmp_path / "nerfacc_cuda").mkdir()
    (tmp_path / "nerfacc_cuda" / "lock").touch()  # of a build that was broken off
    assert not looked()
    (tmp_path / "nerfacc_cuda" / "nerfacc_cuda.so").touch()
    assert looked()
    found["nerfacc"] = None
    assert not looked()
