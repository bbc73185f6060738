"""Table 4.1: is the right prompt found from a render of the generated scene?

The thesis asks CLIP, among its 72 prompts; `hyperfields eval --clip` does so. Offline we ask a small text-image
encoder that is trained here on exact renders, held apart: under other lights, from other cameras, blurred, noisy,
shifted, on other backgrounds. Its prompts, and so the candidates, are the 72 and distractors: every material, and a
colour and a shape beyond the vocabulary. Exact renders show what the encoder itself misses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hyperfields.conditioning.text import TextEncoder
from hyperfields.conditioning.vocabulary import COLOURS, NOVEL_COLOURS, prompt_of
from hyperfields.data.views import procedural_views
from hyperfields.evaluation import TOP, top_k
from hyperfields.experiments.figure_4_8 import Optimisations, optimisations
from hyperfields.fields.cameras import evaluation_views, sample_orbit
from hyperfields.fields.rendering import composite_over
from hyperfields.scenes import MATERIALS, NOVEL_SHAPES, SHAPES, scene_of
from hyperfields.scenes.scene import Traced
from priors_shared.checkpoints import has_weights, load_module, load_weights, save_weights
from priors_shared.episodes import generator_for
from priors_shared.experiments import Experiment, Lab, rows_over_seeds

KIND = "render-encoder"
CANDIDATES = tuple(
    prompt_of(attribute, shape)
    for shape in (*SHAPES, *NOVEL_SHAPES)
    for attribute in (*COLOURS, *MATERIALS, *NOVEL_COLOURS)
)
SIZE, VIEWS, SAMPLES = 32, 4, 48  # of the renders that are looked up
COARSE, NOISE = 4, 0.1
"""Of degraded renders: pixels averaged, noise added. Chosen on exact renders, so that top-1 is about 80 %."""
THESIS = {
    "generated, unseen": dict(zip(TOP, (57.1, 85.7, 85.7, 90.4, 95.2), strict=True)),
    "generated, seen": dict(zip(TOP, (69.5, 88.1, 94.9, 94.9, 96.6), strict=True)),
}


class RenderEncoder(nn.Module):
    """Renders and prompts to vectors of unit length; a cosine says how well they match."""

    def __init__(self, text_dim: int, dim: int = 64, width: int = 24) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 4 * width)
        layers: list[nn.Module] = []
        for into, out in pairwise(widths):
            layers += [nn.Conv2d(into, out, 3, stride=2, padding=1), nn.ReLU()]
        self.image = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(dim))
        self.text = nn.Linear(text_dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def forward(
        self,
        images: Float[Tensor, "images 3 height width"],
        prompts: Float[Tensor, "prompts text_dim"],
    ) -> Float[Tensor, "images prompts"]:
        """Cosines, times a learned scale."""
        seen = F.normalize(self.image(2 * images - 1), dim=-1)
        return self.log_scale.exp() * seen @ F.normalize(self.text(prompts), dim=-1).T


class HeldApart:
    """Exact renders as the encoder is trained on: nothing of them is what scenes are looked up by."""

    def __init__(self, prompts: Sequence[str], cameras: int, size: int, seed: int) -> None:
        self.scenes = [scene_of(prompt) for prompt in prompts]
        self.size = size
        generator = generator_for(seed, 0)
        found = []
        for _ in range(cameras):
            radius = 2.9 + 0.8 * float(torch.rand((), generator=generator))
            found.append(sample_orbit(generator, size, radius=radius)[0])
        self.cameras = found
        shapes = {scene.shape.name: scene for scene in self.scenes}
        self.traced: dict[str, list[Traced]] = {
            name: [scene.trace(camera.rays()) for camera in found] for name, scene in shapes.items()
        }

    def sample(
        self, count: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "count 3 height width"], Int[Tensor, " count"]]:
        """Random renders, corrupted, and which prompt each is of."""

        def uniform(low: float | int, high: float | int) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        which = torch.randint(len(self.scenes), (count,), generator=generator)
        images = []
        for i in which.tolist():
            scene = self.scenes[i]
            views = self.traced[scene.shape.name]
            traced = views[int(torch.randint(len(views), (), generator=generator))]
            light = torch.randn(3, generator=generator)
            light[2] = light[2].abs() + 0.2
            lit = scene.colours(traced, light=light.tolist(), ambient=uniform(0.25, 0.6))
            shade = torch.rand(3, generator=generator) if uniform(0, 1) < 0.3 else torch.ones(3)
            image = composite_over(lit, shade).T.view(3, self.size, self.size)
            if uniform(0, 1) < 0.5:
                image = F.avg_pool2d(image[None], 3, 1, 1, count_include_pad=False)[0]
            image = image.roll((round(uniform(-2, 2)), round(uniform(-2, 2))), (1, 2))
            noise = torch.randn(image.shape, generator=generator) * uniform(0, 0.06)
            images.append((image * uniform(0.85, 1.1) + noise).clamp(0, 1))
        return torch.stack(images), which


def train_encoder(
    folder: Path,
    text: TextEncoder,
    *,
    seed: int,
    steps: int,
    candidates: Sequence[str],
    cameras: int = 24,
    batch_size: int = 48,
) -> RenderEncoder:
    """The encoder in the folder; trained and written where there is none."""
    torch.manual_seed(generator_for(seed, 1).initial_seed())
    encoder = RenderEncoder(text.dim)
    encoder.image(torch.zeros(1, 3, SIZE, SIZE))  # sizes the last layer
    if has_weights(folder):
        return load_module(folder, lambda: encoder, load_weights(folder, kind=KIND)[1])
    data = HeldApart(candidates, cameras, SIZE, seed)
    prompts = embed(text, candidates)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        images, which = data.sample(batch_size, generator_for(seed, 2, step))
        loss = F.cross_entropy(encoder(images, prompts), which)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    save_weights(folder, encoder, kind=KIND, config={"seed": seed, "steps": steps})
    return encoder.eval()


def embed(text: TextEncoder, prompts: Sequence[str]) -> Float[Tensor, "prompts dim"]:
    """Mean token embedding of each prompt."""
    tokens, mask = text.encode(prompts)
    share = mask.float() / mask.sum(-1, keepdim=True)
    return torch.einsum("pt,ptd->pd", share, tokens)


def degrade(
    images: Float[Tensor, "images 3 height width"],
) -> Float[Tensor, "images 3 height width"]:
    """Coarse, and noisy: each image alike, whatever it shows."""
    noise = torch.randn(images.shape[1:], generator=generator_for(0, 3))
    coarse = F.interpolate(F.avg_pool2d(images, COARSE), images.shape[-2:], mode="bilinear")
    return (coarse + NOISE * noise).clamp(0, 1)


@torch.no_grad()
def retrieve(
    encoder: RenderEncoder,
    prompts: Float[Tensor, "candidates dim"],
    images: Mapping[str, Float[Tensor, "views height width 4"]],
    candidates: Sequence[str],
    *,
    degraded: bool = False,
) -> dict[int, float]:
    """Top-k over all views of all scenes; degraded, because clean ones are all found."""
    shown = composite_over(torch.cat(list(images.values()))).permute(0, 3, 1, 2)
    if degraded:
        shown = degrade(shown)
    right = [candidates.index(prompt) for prompt, views in images.items() for _ in views]
    return top_k(encoder(shown, prompts), torch.tensor(right))


@dataclass(frozen=True, kw_only=True)
class Table41(Experiment):
    """Generated and exact renders, looked up by encoders of several seeds."""

    id: str = "table-4.1"
    claim: str = "prompts of unseen combinations are found from renders about as well as those of trained ones"
    sizes: Optimisations
    """whose model is asked"""
    candidates: Sequence[str] = CANDIDATES
    steps: int = 800
    """of an encoder's training"""

    def run(self, lab: Lab) -> None:
        """Train the encoders that are missing; write the JSON."""
        model = self.sizes.load()
        text = TextEncoder("minilm")
        prompts = embed(text, self.candidates)
        encoders = encoders_of(self.seeds, lab, self.preset, text, self.steps, self.candidates)
        if not encoders:
            return
        cameras = evaluation_views(VIEWS, SIZE)
        images: dict[str, dict[str, Tensor]] = {}
        for group, members in {
            "unseen": list(model.trained["held_out"]),
            "seen": list(model.prompts),
        }.items():
            fields = zip(members, model.generate_all(members), strict=True)
            images[f"generated, {group}"] = {
                prompt: field.render_all(cameras, SAMPLES) for prompt, field in fields
            }
            exact = procedural_views(members, cameras)
            images[f"exact, {group}"] = {prompt: exact[prompt].images for prompt in members}
        percent = {
            name + ", degraded" * degraded: {
                seed: retrieve(encoder, prompts, shown, self.candidates, degraded=degraded)
                for seed, encoder in encoders.items()
            }
            for degraded in (False, True)
            for name, shown in images.items()
        }
        self.write(
            lab,
            rows_over_seeds(
                {
                    name: {seed: _named(ranks) for seed, ranks in by_seed.items()}
                    for name, by_seed in percent.items()
                }
            ),
            config={
                "model": self.sizes.model,
                "steps": self.steps,
                "candidates": list(self.candidates),
            },
            seeds=sorted(encoders),
            data="renders of generated and of exact scenes; the encoder saw exact renders held apart",
            thesis={name: _named(row) for name, row in THESIS.items()},
            per_seed=percent,
            views=VIEWS,
            chance_top_1=100 / len(self.candidates),
        )


def experiment(preset: str = "cpu") -> Table41:
    """In a preset's sizes."""
    return Table41(preset=preset, sizes=optimisations(preset))


def encoders_of(
    seeds: Sequence[int],
    lab: Lab,
    preset: str,
    text: TextEncoder,
    steps: int,
    candidates: Sequence[str] = CANDIDATES,
) -> dict[int, RenderEncoder]:
    """The encoders by seed; unless the lab is quick, those that are missing are trained."""
    folders = {seed: lab.runs / f"retrieval_{preset}" / f"encoder-{seed}" for seed in seeds}
    return {
        seed: train_encoder(folder, text, seed=seed, steps=steps, candidates=candidates)
        for seed, folder in folders.items()
        if has_weights(folder) or not lab.quick
    }


def _named(ranks: Mapping[int, float]) -> dict[str, float]:
    return {f"top-{k}": value for k, value in ranks.items()}
