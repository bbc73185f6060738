"""The diffusion model of procedural scenes: what it is trained on, that it resumes exactly, how it draws."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hyperfields.conditioning.text import TextEncoder
from hyperfields.config import GuidanceConfig, LaunchConfig, UNetConfig
from hyperfields.fields.cameras import orbit
from hyperfields.guidance.diffusion import DiffusionGuidance
from hyperfields.guidance.procedural import (
    TOKENS,
    blocks,
    build_unet,
    draw,
    embed,
    is_procedural,
    load_procedural,
    procedural_guidance,
)
from hyperfields.guidance.score import View, add_noise, noise_of
from hyperfields.presets import HELD_OUT, procedural_unet
from hyperfields.training.guidance import train_guidance, training_images
from priors_shared.checkpoints import save_weights
from priors_shared.errors import UserError
from priors_shared.runs import Run
from priors_shared.testing import killed_at_checkpoint

PROMPTS = ("a red mug", "a blue plate")


@pytest.fixture
def tiny(tiny_text: str) -> GuidanceConfig:
    unet = UNetConfig(text=tiny_text, image_size=8, widths=(16, 16))
    return GuidanceConfig(
        unet=unet, prompts=PROMPTS, views=2, batch_size=3, steps=4, checkpoint_every=2, log_every=3
    )


def untrained(config: UNetConfig) -> DiffusionGuidance:
    text = TextEncoder(config.text)
    return procedural_guidance(build_unet(config, text.dim), config, text)


def train(config: GuidanceConfig, folder: Path) -> dict[str, Tensor]:
    with Run.create(folder, asdict(config), command="test", resume=True, quiet=True) as run:
        unet = train_guidance(config, LaunchConfig(quiet=True, accelerator="cpu"), run)
    return unet.state_dict()


def test_a_killed_training_resumes_to_the_same_weights(
    tiny: GuidanceConfig, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    whole = train(tiny, tmp_path / "whole")
    with killed_at_checkpoint(1):
        train(tiny, tmp_path / "killed")
    resumed = train(tiny, tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other = train(replace(tiny, seed=1), tmp_path / "other")
    assert any(not torch.equal(whole[name], other[name]) for name in whole)
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "killed")]
    assert lines[0] == lines[1]
    loaded = load_procedural(tmp_path / "whole", text=tiny.unet.text)
    assert loaded.trained["prompts"] == list(PROMPTS)
    for name, value in loaded.unet.state_dict().items():
        torch.testing.assert_close(value, whole[name].half().float(), rtol=0, atol=0)


def test_it_never_sees_what_is_held_out() -> None:
    prompts = procedural_unet().prompts
    assert len(prompts) == 45
    assert not set(prompts) & set(HELD_OUT)


def test_images_go_with_their_prompts_and_views(tiny: GuidanceConfig) -> None:
    images, prompts = training_images(tiny)
    assert images.shape == (4, 3, 8, 8)
    assert [plain for plain, _ in prompts] == ["a red mug"] * 2 + ["a blue plate"] * 2
    assert all(viewed.startswith(f"{plain}, ") for plain, viewed in prompts)
    tint = [image.amin((1, 2)) for image in images]  # of the object, as the ground is white
    assert all(colour[0] > colour[2] for colour in tint[:2])
    assert all(colour[2] > colour[0] for colour in tint[2:])


def test_no_prompt_is_all_zeros_and_long_ones_are_cut(tiny_text: str) -> None:
    text = TextEncoder(tiny_text)
    found = embed(text, ["", "a red mug", "a " + 30 * "red "])
    assert found.shape == (3, TOKENS, text.dim)
    assert not found[0].any()
    tokens = text.encode(["a red mug"])[0][0]
    assert torch.equal(found[1, : len(tokens)], tokens)
    assert not found[1, len(tokens) :].any()
    assert found[2].abs().sum(1).all()


def test_drawing_with_an_exact_denoiser_gives_its_image(tiny_text: str) -> None:
    pytest.importorskip("diffusers")
    config = UNetConfig(text=tiny_text, image_size=8, widths=(16, 16))
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    guidance = untrained(config)

    def exact(noisy: Tensor, step: int, views: object) -> Tensor:
        return noise_of(noisy, blocks(image).expand_as(noisy), guidance.alphas_cumprod[step])

    guidance.predict_noise = exact  # type: ignore[method-assign]
    drawn = draw(guidance, ["a red mug", "a mug"], steps=10)
    torch.testing.assert_close(drawn, image.expand(2, -1, -1, -1), rtol=1e-3, atol=1e-3)


def test_the_codec_keeps_pixels_and_their_gradient(tiny_text: str) -> None:
    pytest.importorskip("diffusers")
    config = UNetConfig(text=tiny_text, image_size=8, widths=(16, 16))
    guidance = untrained(config)
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    z = guidance.encode(images)
    torch.testing.assert_close(F.pixel_shuffle(z, 2), 2 * images - 1)
    z.sum().backward()
    torch.testing.assert_close(images.grad, torch.full_like(images, 2.0))
    assert guidance.encode(torch.rand(1, 3, 16, 16)).shape == z.shape


def test_guidance_scales_between_no_prompt_and_beyond_the_prompt(tiny_text: str) -> None:
    pytest.importorskip("diffusers")
    config = UNetConfig(text=tiny_text, image_size=8, widths=(16, 16))
    torch.manual_seed(0)
    guidance = untrained(config)
    z = torch.randn(1, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    view = [View("a red mug", orbit(0, 0, 8))]
    predicted = []
    for guidance.scale in (0, 1, 3):
        predicted.append(guidance.predict_noise(z, 300, view))
    none, given, beyond = predicted
    assert not torch.allclose(none, given)
    torch.testing.assert_close(beyond, none + 3 * (given - none))
    assert torch.equal(add_noise(z, none, torch.tensor(1.0)), z)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"^guidance: diffusers is missing: pip install"):
        load_procedural("procedural-unet")


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    assert is_procedural("procedural-unet")
    assert not is_procedural("stable-diffusion")
    save_weights(tmp_path / "x", torch.nn.Linear(1, 1), kind="something", config={})
    assert not is_procedural(str(tmp_path / "x"))
    with pytest.raises(UserError, match="something"):
        load_procedural(tmp_path / "x")
    with pytest.raises(ValueError, match="multiples of 16"):
        UNetConfig(widths=(16, 20))
    with pytest.raises(ValueError, match="image_size"):
        UNetConfig(image_size=30)
