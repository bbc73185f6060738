"""Score distillation: its gradients, guidance scales, parameterisations, the exact denoiser, VSD."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperfields.config import FieldConfig, LaunchConfig, TeachConfig
from hyperfields.data.views import PosedViews, procedural_views
from hyperfields.fields.cameras import orbit
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over
from hyperfields.guidance.empirical import EmpiricalGuidance
from hyperfields.guidance.score import View, add_noise, annealed_step, noise_of, sds_loss
from hyperfields.training.score_distillation import render_batch, sample_views, teach
from priors_shared.errors import UserError
from priors_shared.runs import Run

FIELD = FieldConfig(
    width=16, levels=3, level_features=2, log2_rows=10, coarsest=4, finest=16, frequencies=2
)
CAMERAS = [orbit(a, 20, 8) for a in (0, 90, 180, 270)]


class Linear:
    """A denoiser with a parameter, to see that it gets no gradient."""

    def __init__(self) -> None:
        self.alphas_cumprod = torch.linspace(0.99, 0.01, 10)
        self.parameter = torch.tensor(0.7, requires_grad=True)

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images - 1

    def predict_noise(self, noisy: Tensor, step: int, views) -> Tensor:
        return self.parameter * noisy


def test_the_gradient_is_that_of_equation_4_1() -> None:
    guidance = Linear()
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    views = [View("x", CAMERAS[0])] * 2
    loss = sds_loss(guidance, images, views, 6, torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad(loss, images, retain_graph=True)
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    abar = guidance.alphas_cumprod[6]
    noisy = abar.sqrt() * (2 * images - 1) + (1 - abar).sqrt() * noise
    expected = 2 * (1 - abar) * (0.7 * noisy - noise) / 2  # dz/dx = 2, mean over the batch of 2
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.grad(loss, guidance.parameter, allow_unused=True) == (None,)


def test_the_fields_gradient_is_the_jacobian_times_it() -> None:
    torch.manual_seed(0)
    field, guidance = Field(FIELD), Linear()
    views = [View("x", CAMERAS[1])]

    def images() -> Tensor:
        return render_batch(field, [CAMERAS[1]], 6, torch.Generator().manual_seed(0))[0]

    loss = sds_loss(guidance, images(), views, 4, torch.Generator().manual_seed(1))
    got = torch.autograd.grad(loss, field.weights[2])[0]
    leaf = images().detach().requires_grad_()
    at_image = sds_loss(guidance, leaf, views, 4, torch.Generator().manual_seed(1))
    g = torch.autograd.grad(at_image, leaf)[0]
    expected = torch.autograd.grad(images(), field.weights[2], grad_outputs=g)[0]
    torch.testing.assert_close(got, expected)
    assert got.abs().max() > 0


def test_steps_anneal_within_their_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    early = [annealed_step(0.0, 1000, generator) for _ in range(300)]
    late = [annealed_step(1.0, 1000, generator) for _ in range(300)]
    assert 20 <= min(early) < 80
    assert 920 < max(early) <= 980
    assert 440 < max(late) <= 490


@pytest.fixture
def two() -> PosedViews:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 8, 8, 4, generator=generator)
    images[..., :3] *= images[..., 3:]
    return PosedViews("a red mug", [CAMERAS[0], CAMERAS[2]], images)


def test_the_exact_denoiser_is_the_posterior_mean_and_has_its_limits(two: PosedViews) -> None:
    guidance = EmpiricalGuidance({"a red mug": two}, width=1e4)  # all cameras alike
    clean = 2 * composite_over(two.images).permute(0, 3, 1, 2) - 1
    view = View("a red mug, front view", CAMERAS[1])
    noise = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2))
    # Hardly any noise: the image itself. Hardly any signal: the mean of all.
    step = 3
    noisy = add_noise(clean[1], noise, guidance.alphas_cumprod[step])
    torch.testing.assert_close(guidance.posterior_mean(noisy, step, view), clean[1])
    predicted = guidance.predict_noise(noisy[None], step, [view])[0]
    torch.testing.assert_close(predicted, noise, atol=1e-3, rtol=1e-3)
    mean = guidance.posterior_mean(noise, 999, view)
    torch.testing.assert_close(mean, clean.mean(0), atol=0.02, rtol=0)
    # Between: Bayes' rule by hand.
    step = 700
    abar = guidance.alphas_cumprod[step]
    noisy = add_noise(clean.mean(0), noise, abar)
    logs = [-(noisy - abar.sqrt() * c).square().sum() / (2 * (1 - abar)) for c in clean]
    share = torch.sigmoid(logs[0] - logs[1])
    expected = share * clean[0] + (1 - share) * clean[1]
    torch.testing.assert_close(
        guidance.posterior_mean(noisy, step, view), expected, atol=1e-4, rtol=0
    )


def test_the_exact_denoiser_knows_the_camera(two: PosedViews) -> None:
    guidance = EmpiricalGuidance({"a red mug": two}, width=8.0)
    clean = 2 * composite_over(two.images).permute(0, 3, 1, 2) - 1
    noise = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2))
    for i, camera in ((0, CAMERAS[0]), (1, CAMERAS[2])):
        seen = guidance.posterior_mean(noise, 999, View("a red mug", camera))
        torch.testing.assert_close(seen, clean[i], atol=1e-3, rtol=0)
    with pytest.raises(UserError, match="has no images of it"):
        guidance.posterior_mean(noise, 5, View("a blue mug", CAMERAS[0]))
    with pytest.raises(UserError, match="use the same size"):
        guidance.posterior_mean(noise[:, :4, :4], 5, View("a red mug", CAMERAS[0]))


def test_noise_and_clean_samples_determine_each_other() -> None:
    clean, noise, abar = torch.randn(5), torch.randn(5), torch.tensor(0.3)
    torch.testing.assert_close(noise_of(add_noise(clean, noise, abar), clean, abar), noise)


def teach_config(**changes) -> TeachConfig:
    base = TeachConfig(
        prompt="a red mug",
        field=FIELD,
        image_size=8,
        samples=8,
        views=6,
        steps=4,
        learning_rate=5e-3,
        grid_learning_rate=2e-2,
        checkpoint_every=2,
        log_every=2,
    )
    return replace(base, **changes)


def run_teach(out: Path, config: TeachConfig, *, resume: bool = False, guidance=None) -> Field:
    with Run.create(
        out, asdict(config), command="test", resume=resume, tensorboard=False, quiet=True
    ) as run:
        return teach(config, LaunchConfig(accelerator="cpu", quiet=True), run, guidance=guidance)


def test_score_distillation_moves_a_field_towards_its_images(tmp_path: Path) -> None:
    config = teach_config(steps=80, views=12, checkpoint_every=80, log_every=80)
    cameras = CAMERAS
    reference = composite_over(procedural_views(["a red mug"], cameras)["a red mug"].images)

    def error(field: Field) -> float:
        shown = composite_over(torch.stack([field.render(camera, 16) for camera in cameras]))
        return float((shown - reference).square().mean())

    field = run_teach(tmp_path / "run", config)
    torch.manual_seed(0)
    assert error(field) < 0.5 * error(Field(FIELD))
    assert Field.load(tmp_path / "run/model").prompt == "a red mug"


def test_killed_teaching_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    config = teach_config()
    run_teach(tmp_path / "straight", config)

    class Killed(Exception):
        pass

    calls = 0

    def dying(*args):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise Killed
        return sample_views(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperfields.training.score_distillation.sample_views", dying)
        with pytest.raises(Killed):
            run_teach(tmp_path / "killed", config)
    run_teach(tmp_path / "killed", config, resume=True)
    for name in ("model/model.safetensors", "metrics.jsonl"):
        same = [(tmp_path / run / name).read_bytes() for run in ("straight", "killed")]
        assert same[0] == same[1]


def test_views_are_in_the_prompt_only_where_wanted() -> None:
    generator = torch.Generator().manual_seed(0)
    assert "view" in sample_views(teach_config(), "a red mug", generator)[0].prompt
    plain = sample_views(teach_config(view_words=False, batch_size=3), "a red mug", generator)
    assert [view.prompt for view in plain] == ["a red mug"] * 3
    with pytest.raises(ValueError, match="vsd needs a diffusion model"):
        teach_config(method="vsd")


# --- diffusers ---


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> str:
    """Folder of a random Stable Diffusion pipeline: 8 x 8 latents of 16 x 16 images."""
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    from diffusers import (
        AutoencoderKL,
        DDPMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_text)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    made = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    made.save_pretrained(folder)
    return str(folder)


def test_classifier_free_guidance_has_its_limits(pipeline: str) -> None:
    from hyperfields.guidance.diffusion import load_guidance

    guidance = load_guidance(pipeline)
    views = [View("a red mug", CAMERAS[0])]
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        without, given = guidance.noise(noisy, 500, [""]), guidance.noise(noisy, 500, ["a red mug"])
        assert not torch.allclose(without, given)
        for scale, expected in ((0, without), (1, given), (3.0, without + 3 * (given - without))):
            guidance.scale = scale
            torch.testing.assert_close(guidance.predict_noise(noisy, 500, views), expected)


def test_parameterisations_agree(pipeline: str) -> None:
    """The same noise, whether the UNet says it as eps, as v or as the clean sample."""
    from hyperfields.guidance.diffusion import load_guidance

    guidance = load_guidance(pipeline)
    clean, noise = torch.randn(2, 1, 4, 8, 8)
    abar = guidance.alphas_cumprod[300]
    noisy = add_noise(clean, noise, abar)
    said = {
        "epsilon": noise,
        "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * clean,
        "sample": clean,
    }
    for prediction, out in said.items():
        guidance.prediction = prediction
        guidance.unet.forward = lambda *_, out=out, **__: type("Out", (), {"sample": out})
        torch.testing.assert_close(
            guidance.noise(noisy, 300, ["a mug"]), noise, atol=1e-4, rtol=1e-4
        )


def test_no_part_of_the_pipeline_gets_a_gradient_and_the_image_does(pipeline: str) -> None:
    from diffusers import DiffusionPipeline

    from hyperfields.guidance.diffusion import pipeline_guidance

    parts = DiffusionPipeline.from_pretrained(pipeline)
    guidance = pipeline_guidance(parts, scale=10)
    images = torch.rand(1, 3, 12, 12, requires_grad=True)  # resized to 16
    views = [View("a red mug", CAMERAS[0])]
    sds_loss(guidance, images, views, 200, torch.Generator().manual_seed(0)).backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    for part in (parts.unet, parts.vae, parts.text_encoder):
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())


def test_vsd_begins_without_an_update_and_its_lora_learns(pipeline: str) -> None:
    from hyperfields.guidance.diffusion import load_guidance
    from hyperfields.guidance.vsd import Vsd

    guidance = load_guidance(pipeline, scale=1)
    base = {name: p.clone() for name, p in guidance.unet.named_parameters()}
    vsd = Vsd(guidance)
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    views = [View("a red mug", CAMERAS[0])]

    def losses() -> tuple[Tensor, Tensor]:
        return vsd.losses(images, views, 400, torch.Generator().manual_seed(0))

    render, lora = losses()
    (gradient,) = torch.autograd.grad(render, images)
    assert not gradient.any(), "the LoRA is no change yet: both denoisers see the same"
    optimizer = torch.optim.Adam(vsd.lora, 1e-2)
    first = float(lora.detach())
    for _ in range(8):
        optimizer.zero_grad()
        render, lora = losses()
        assert torch.autograd.grad(lora, images, retain_graph=True, allow_unused=True) == (None,)
        lora.backward()
        optimizer.step()
    assert float(losses()[1].detach()) < first
    (gradient,) = torch.autograd.grad(losses()[0], images)
    assert gradient.abs().max() > 0
    after = dict(guidance.unet.named_parameters())
    for name, value in base.items():
        kept = after.get(name, after.get(name.replace(".weight", ".base_layer.weight")))
        kept = kept if kept is not None else after[name.replace(".bias", ".base_layer.bias")]
        assert torch.equal(kept, value), f"{name} is frozen"


def test_teaching_by_vsd_resumes_with_its_lora(pipeline: str, tmp_path: Path) -> None:
    config = teach_config(guidance=pipeline, method="vsd", scale=2.0, views=64)
    run_teach(tmp_path / "straight", config)
    half = replace(config, steps=4)
    with pytest.MonkeyPatch.context() as patch:
        calls = iter([1, 2])

        def dying(*args):
            next(calls)
            return sample_views(*args)

        patch.setattr("hyperfields.training.score_distillation.sample_views", dying)
        with pytest.raises((StopIteration, RuntimeError)):
            run_teach(tmp_path / "killed", half)
    run_teach(tmp_path / "killed", half, resume=True)
    same = [(tmp_path / r / "model/model.safetensors").read_bytes() for r in ("straight", "killed")]
    assert same[0] == same[1]


def test_pipelines_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from hyperfields.guidance.diffusion import load_guidance

    with pytest.raises(UserError, match="guidance: no pipeline"):
        load_guidance(str(tmp_path))
