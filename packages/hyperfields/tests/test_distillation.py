"""Stage 2: what a batch holds, the loss, exact resumption, learning, and what is refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from hyperfields.conditioning.text import TextEncoder
from hyperfields.config import DistillConfig, FieldConfig, LaunchConfig, ModelConfig
from hyperfields.data.views import procedural_views
from hyperfields.fields.rendering import composite_over, render_rays, render_weights_from_density
from hyperfields.hypernetwork.network import HyperNetwork
from hyperfields.presets import DISTILL, HELD_OUT, TRAINED, procedural_cpu
from hyperfields.pretrained import HyperFields
from hyperfields.training.distillation import (
    Distillation,
    build_optimizer,
    distill,
    learning_rate_factor,
    sample_batch,
    training_cameras,
)
from priors_shared.errors import UserError
from priors_shared.runs import Run

FIELD = FieldConfig(
    width=16, levels=3, level_features=2, log2_rows=10, coarsest=4, finest=16, frequencies=2
)
PROMPTS = ("a red mug", "a blue plate", "a green lamp")
QUIET = LaunchConfig(accelerator="cpu", quiet=True)


@pytest.fixture
def config(tiny_text: str) -> DistillConfig:
    return DistillConfig(
        model=ModelConfig(text=tiny_text, blocks=1, heads=2, head_dim=8, hidden=16, field=FIELD),
        prompts=PROMPTS,
        views=6,
        image_size=10,
        prompts_per_step=2,
        rays=32,
        samples=12,
        steps=6,
        learning_rate=3e-3,
        grid_learning_rate=2e-2,
        checkpoint_every=2,
        log_every=2,
    )


@pytest.fixture
def teachers(config: DistillConfig):
    return procedural_views(PROMPTS, training_cameras(config))


def run_in(out: Path, config: DistillConfig, *, resume: bool = False) -> Run:
    return Run.create(
        out, asdict(config), command="test", resume=resume, tensorboard=False, quiet=True
    )


def test_batches_match_prompts_with_their_teachers(config, teachers, tiny_text) -> None:
    """By prompt, never by index: shuffled teachers give the same batch, renamed ones another."""
    text = TextEncoder(tiny_text)
    prompts = sorted(teachers)
    batch = sample_batch(config, prompts, teachers, text, 3)
    shuffled = dict(reversed(list(teachers.items())))
    for one, other in zip(batch, sample_batch(config, prompts, shuffled, text, 3), strict=True):
        assert torch.equal(one, other)
    exchanged = dict(
        zip(teachers, [*list(teachers.values())[1:], teachers[PROMPTS[0]]], strict=True)
    )
    assert not torch.equal(batch[4], sample_batch(config, prompts, exchanged, text, 3)[4])
    tokens, _, points, lengths, target, background = batch
    assert points.shape == (2, 32, 12, 3)
    assert lengths.shape == (2, 32, 12)
    for i in range(2):
        (prompt,) = [p for p in prompts if torch.equal(text.encode([p])[0][0], tokens[i])]
        images = teachers[prompt].images.view(-1, 4)
        shown = images[None, :, :3] + (1 - images[None, :, 3:]) * background[i][:, None]
        assert float((shown - target[i][:, None]).abs().amax(-1).amin(1).max()) < 1e-6


def test_prompts_of_a_step_differ_and_all_come(config, teachers, tiny_text) -> None:
    text = TextEncoder(tiny_text)
    known = {p: text.encode([p])[0][0] for p in teachers}
    drawn = set()
    for step in range(12):
        tokens = sample_batch(config, sorted(teachers), teachers, text, step)[0]
        chosen = [p for row in tokens for p, e in known.items() if torch.equal(e, row)]
        assert len(set(chosen)) == 2
        drawn |= set(chosen)
    assert drawn == set(teachers)


def test_the_loss_is_equation_4_6_of_renders(config, teachers, tiny_text) -> None:
    text = TextEncoder(tiny_text)
    torch.manual_seed(0)
    net = HyperNetwork(replace(config.model, conditioning="static"), text.dim)
    batch = sample_batch(config, sorted(teachers), teachers, text, 0)
    tokens, mask, points, lengths, target, background = batch
    total = 0.0
    for i in range(2):
        densities, values = net(tokens[i : i + 1], mask[i : i + 1], points[i].view(1, -1, 3))
        light, seen = torch.ones(32), torch.zeros(32, 3)
        for k in range(12):
            alpha = 1 - torch.exp(-densities.view(32, 12)[:, k] * lengths[i, :, k])
            seen += (light * alpha)[:, None] * values.view(32, 12, 3)[:, k]
            light = light * (1 - alpha)
        seen += light[:, None] * background[i]
        total += float((seen - target[i]).square().mean())
    assert float(Distillation(net)(*batch)) == pytest.approx(total, rel=1e-4)


def test_opaque_teachers_are_learned_on_white(config, teachers, tiny_text) -> None:
    opaque = {p: replace(v, transparent=False) for p, v in teachers.items()}
    background = sample_batch(config, sorted(opaque), opaque, TextEncoder(tiny_text), 0)[5]
    assert (background == 1).all()
    random = sample_batch(config, sorted(teachers), teachers, TextEncoder(tiny_text), 0)[5]
    assert float(random.std()) > 0.2


def test_killed_at_any_checkpoint_it_resumes_to_the_same_bytes(
    config, teachers, tmp_path: Path
) -> None:
    with run_in(tmp_path / "straight", config) as run:
        distill(config, teachers, QUIET, run)
    weights = (tmp_path / "straight/model/model.safetensors").read_bytes()
    metrics = (tmp_path / "straight/metrics.jsonl").read_text()

    class Killed(Exception):
        pass

    for stop in (3, 5):  # between checkpoints of every two steps
        out = tmp_path / f"killed-{stop}"
        calls = 0

        def dying(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls > stop:  # noqa: B023
                raise Killed
            return sample_batch(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hyperfields.training.distillation.sample_batch", dying)
            with run_in(out, config) as run, pytest.raises(Killed):
                distill(config, teachers, QUIET, run)
        with run_in(out, config, resume=True) as run:
            distill(config, teachers, QUIET, run)
        assert (out / "model/model.safetensors").read_bytes() == weights
        assert (out / "metrics.jsonl").read_text() == metrics


def test_two_scenes_are_learned_and_told_apart(config, teachers, tmp_path: Path) -> None:
    config = replace(
        config,
        prompts=PROMPTS[:2],
        steps=120,
        rays=64,
        learning_rate=1e-2,
        checkpoint_every=120,
        log_every=20,
    )
    two = {prompt: teachers[prompt] for prompt in config.prompts}
    with run_in(tmp_path / "run", config) as run:
        model = distill(config, two, QUIET, run)
        metrics = run.metrics()
    assert metrics[-1]["psnr"] > metrics[0]["psnr"] + 4
    loaded = HyperFields.from_pretrained(tmp_path / "run", text=config.model.text)
    assert loaded.prompts == tuple(sorted(config.prompts))
    for prompt in config.prompts:
        camera = teachers[prompt].cameras[0]
        images = {p: composite_over(teachers[p].images[0]) for p in config.prompts}
        seen = composite_over(loaded.generate(prompt).render(camera, 24))
        assert torch.equal(seen, composite_over(model.generate(prompt).render(camera, 24)))
        errors = {p: float((seen - image).square().mean()) for p, image in images.items()}
        assert min(errors, key=errors.__getitem__) == prompt
    assert loaded.unknown_words("a Blue PLATE") == []
    assert loaded.unknown_words("a golden plate of mint") == ["golden", "of", "mint"]


def test_held_out_prompts_with_teachers_are_refused(config, teachers, tmp_path: Path) -> None:
    leaking = replace(config, prompts=(), held_out=("A  red mug",))
    with run_in(tmp_path / "a", leaking) as run, pytest.raises(UserError, match="held-out"):
        distill(leaking, teachers, QUIET, run)
    with pytest.raises(ValueError, match="both trained and held out"):
        replace(config, held_out=("a red mug",))
    with run_in(tmp_path / "b", config) as run, pytest.raises(UserError, match="no teachers"):
        distill(config, {}, QUIET, run)


def test_procedural_presets_hold_out_what_they_evaluate() -> None:
    assert (len(TRAINED), len(HELD_OUT)) == (45, 27)
    for name in ("procedural", "procedural_cpu"):
        preset = DISTILL[name]()
        assert not set(preset.prompts) & set(preset.held_out)
        assert set(preset.held_out) == set(HELD_OUT)


def test_learning_rates_rise_and_then_fall_along_a_cosine(config) -> None:
    config = replace(config, steps=101, min_lr_ratio=0.2, warmup_steps=10)
    assert learning_rate_factor(config, 0) == pytest.approx(0.1)
    assert learning_rate_factor(config, 4) == pytest.approx(0.5, abs=0.01)
    assert learning_rate_factor(replace(config, warmup_steps=0), 0) == 1
    assert learning_rate_factor(config, 50) == pytest.approx(0.6)
    assert learning_rate_factor(config, 100) == pytest.approx(0.2)


@pytest.mark.parametrize(("warmup_steps", "steps", "drop"), [(0, 1, 10), (100, 4, 3)])
def test_first_updates_at_high_rates_do_not_empty_the_scenes(warmup_steps, steps, drop) -> None:
    """At 0.003 and 0.02, under a loss that wants nothing there, as most rays do.

    Weights written in plain units drop the mean log-density by 34 in one step: no gradient is left.
    """
    config = replace(
        procedural_cpu(), learning_rate=3e-3, grid_learning_rate=2e-2, warmup_steps=warmup_steps
    )
    torch.manual_seed(1)
    net = HyperNetwork(config.model, 16)
    optimizer = build_optimizer(net, config)
    generator = torch.Generator().manual_seed(3)
    tokens, mask = torch.randn(2, 5, 16, generator=generator), torch.ones(2, 5, dtype=torch.bool)
    points = torch.rand(2, 384, 3, generator=generator) * 2 - 1
    means = []
    for step in range(steps + 1):
        densities, _ = net(tokens, mask, points)
        means.append(float(densities.detach().clamp(min=1e-38).log().mean()))
        weights = render_weights_from_density(densities.view(-1, 12), torch.full((64, 12), 0.17))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_factor(config, step) * group["initial_lr"]
        optimizer.zero_grad()
        weights.sum(-1).square().mean().backward()
        optimizer.step()
    assert means[0] - drop < means[-1] < means[0]


def test_optimizer_holds_every_parameter_once(config, tiny_text) -> None:
    net = HyperNetwork(config.model, TextEncoder(tiny_text).dim)
    groups = build_optimizer(net, config).param_groups
    held = [p for group in groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in net.parameters()}
    assert len(held) == len(list(net.parameters()))
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in net.encoding.parameters()}


def test_the_teachers_images_are_what_a_perfect_student_would_render() -> None:
    """A field that is the mug's inside, rendered densely, agrees with the exact image."""
    from hyperfields.fields.cameras import orbit
    from hyperfields.scenes import scene_of

    scene, camera = scene_of("a red mug"), orbit(30, 20, 16)

    def solid(points):
        return 1e4 * scene.inside(points).float(), torch.ones(len(points), 3)

    _, opacity = render_rays(solid, camera.rays(), 256)
    exact = scene.render(camera)[..., 3].flatten()
    assert float((opacity.round() != exact).float().mean()) < 0.02
