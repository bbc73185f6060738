"""Procedural scenes: geometry against brute force, colours, and the held-out combinations."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from hyperfields.conditioning.vocabulary import (
    COLOURS,
    NOVEL_COLOURS,
    SHAPE_NAMES,
    held_out_prompts,
    procedural_prompts,
)
from hyperfields.fields.cameras import Rays, orbit
from hyperfields.fields.rendering import intersect_box
from hyperfields.scenes import MATERIALS, NOVEL_SHAPES, SHAPES, Scene, scene_of
from priors_shared.errors import UserError

EVERY_SHAPE = {**SHAPES, **NOVEL_SHAPES}


@pytest.mark.parametrize("name", EVERY_SHAPE)
def test_traced_points_are_the_first_on_the_surface(name: str) -> None:
    scene = Scene("red", EVERY_SHAPE[name])
    rays = orbit(25, 20, 20).rays()
    traced = scene.trace(rays)
    assert traced.hit.any()
    assert not traced.hit.all()
    assert float(scene.shape.distance(traced.points[traced.hit]).abs().max()) < 1e-3
    # Brute force: no point before the hit is inside, and rays without a hit pass no inside at all.
    near, far = intersect_box(rays)
    share = torch.linspace(0, 1, 400)
    reach = torch.where(traced.hit, traced.distance - 5e-3, far).clamp(min=near)
    along = near[:, None] + share * (reach - near)[:, None]
    points = rays.origins[:, None] + along[..., None] * rays.directions[:, None]
    # Grazing rays may cut a corner thinner than the tracing's closeness.
    assert float(scene.shape.distance(points.reshape(-1, 3)).min()) > -1e-3


@pytest.mark.parametrize("name", EVERY_SHAPE)
def test_distances_never_overstate(name: str) -> None:
    """1-Lipschitz outside: sphere tracing cannot step through a surface."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(4000, 3, generator=generator) * 2 - 1
    b = a + 0.05 * torch.randn(4000, 3, generator=generator)
    shape = EVERY_SHAPE[name]
    change = (shape.distance(a) - shape.distance(b)).abs()
    assert (change <= (a - b).norm(dim=-1) * 1.02 + 1e-5).all()
    surface = a[shape.distance(a).abs() < 0.02]
    assert float(surface.norm(dim=-1).max()) < 1, "the shape fits into the unit ball"
    assert set(shape.part(surface).tolist()) == set(range(len(shape.parts))), "every part shows"


def test_hit_distance_and_normals_of_a_plane_are_exact() -> None:
    scene = scene_of("a red table")  # its top is the plane z = 0.32
    down = Rays(torch.tensor([[0.1, 0.2, 0.9]]), torch.tensor([[0.0, 0.0, -1.0]]))
    traced = scene.trace(down)
    assert float(traced.points[0, 2]) == pytest.approx(0.32, abs=1e-3)
    torch.testing.assert_close(
        scene.shape.normals(traced.points), torch.tensor([[0.0, 0.0, 1.0]]), atol=1e-3, rtol=0
    )
    assert list(scene.shape.parts)[int(traced.part[0])] == "top"


def test_images_have_the_colour_asked_for_and_opacity_zero_or_one() -> None:
    every = {**COLOURS, **NOVEL_COLOURS}
    for colour, value in every.items():
        image = scene_of(f"a {colour} vase").render(orbit(0, 20, 16))
        assert set(image[..., 3].unique().tolist()) == {0.0, 1.0}
        assert not image[image[..., 3] == 0].any()
        seen = image[image[..., 3] == 1][:, :3].mean(0)
        nearest = min(
            every, key=lambda c: float((_hue(seen) - _hue(torch.tensor(every[c]))).norm())
        )
        assert nearest == colour, value


def _hue(colour: torch.Tensor) -> torch.Tensor:
    return colour / colour.norm()


def test_supersampling_refines_the_same_image() -> None:
    scene, camera = scene_of("a blue chair"), orbit(40, 25, 12)
    coarse, fine = scene.render(camera), scene.render(camera, samples=3)
    inside = (fine[..., 3] == 1) & (coarse[..., 3] == 1)
    assert inside.any()
    partial = (fine[..., 3] > 0) & (fine[..., 3] < 1)
    assert partial.any()
    assert float((fine - coarse)[inside].abs().mean()) < 0.05


def test_the_mugs_handle_is_at_plus_x_and_the_chairs_back_behind() -> None:
    parts = scene_of("a red mug").parts(orbit(0, 10, 32))
    handle = list(SHAPES["mug"].parts).index("handle")
    assert float((parts == handle).nonzero()[:, 1].float().mean()) > 20
    chair = SHAPES["chair"]
    back = torch.rand(20000, 3) * 2 - 1
    back = back[(chair.distance(back) < 0) & (back[:, 2] > 0)]
    assert (back[:, 1] > 0).all(), "the front is at -y"


@pytest.mark.parametrize("material", MATERIALS)
def test_materials_vary_over_the_surface_and_stay_colours(material: str) -> None:
    image = scene_of(f"a {material} bowl").render(orbit(10, 40, 24))
    colours = image[image[..., 3] == 1][:, :3]
    assert (colours >= 0).all()
    assert (colours <= 1).all()
    assert float(colours.std(0).max()) > 0.03


def test_held_out_combinations_leave_every_colour_and_shape_seen() -> None:
    assert tuple(SHAPES) == SHAPE_NAMES
    every, held = procedural_prompts(), held_out_prompts()
    assert (len(every), len(set(every)), len(held), len(set(held))) == (72, 72, 27, 27)
    assert set(held) < set(every)
    assert set(Counter(scene_of(p).shape.name for p in held).values()) == {3}
    assert set(Counter(scene_of(p).attribute for p in held)) == set(COLOURS)
    assert max(Counter(scene_of(p).attribute for p in held).values()) <= 4
    assert all(p.startswith("a ") for p in every), "one template: no article of its own for orange"


def test_prompts_name_scenes_or_are_refused() -> None:
    assert scene_of("An Orange  mug").prompt == "a orange mug"
    assert scene_of("a stained glass lamp").attribute == "stained glass"
    for wrong in ("a red toaster", "a golden chair", "chair", ""):
        with pytest.raises(UserError, match="ATTRIBUTE SHAPE"):
            scene_of(wrong)


def test_what_is_novel_is_in_no_prompt_that_is_trained_or_held_out() -> None:
    words = {word for prompt in procedural_prompts() for word in prompt.split()}
    assert not words & {*NOVEL_COLOURS, *NOVEL_SHAPES}
    assert scene_of("a teal teapot").prompt == "a teal teapot"
