"""Fig. 4.10: several scenes packed into one hypernetwork, by NeRF distillation or by score distillation directly.

Claim (4.4.6): packed by score distillation alone, geometry collapses: similar shapes end as one. The thesis has
images. Here: six pieces of furniture in six colours, and as a control each of them alone in a network of its own,
by score distillation too. All arms have the same network and rates, and render each scene whole, one a step, as
often; but distillation warms up and anneals its rates, as it always does. Distillation is from exact renders, score
distillation by the exact denoiser of such renders: neither suffers from poor teachers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from hyperfields.conditioning.text import TextEncoder
from hyperfields.conditioning.vocabulary import file_name_of
from hyperfields.config import DistillConfig, FinetuneConfig, LaunchConfig, ScoreConfig
from hyperfields.evaluation import exact_views, means, score_scenes
from hyperfields.experiments.held_out import distill_exact
from hyperfields.fields.cameras import evaluation_views
from hyperfields.fields.field import Field
from hyperfields.hypernetwork.network import HyperNetwork, PromptField
from hyperfields.output.sheet import write_contact_sheet
from hyperfields.presets import procedural, procedural_cpu_short
from hyperfields.pretrained import HyperFields
from hyperfields.training.distillation import INITIAL_WEIGHTS, parameter_groups
from hyperfields.training.score_distillation import distil_scores
from priors_shared.episodes import generator_for
from priors_shared.experiments import Experiment, Lab, all_seeds, compared, rows_over_seeds
from priors_shared.runs import Run

Arm = Literal["distillation", "scores", "alone"]
NAMES: Mapping[Arm, str] = {
    "distillation": "NeRF distillation (ours)",
    "scores": "no NeRF distillation",
    "alone": "no NeRF distillation, each scene alone",
}
COMPARED: Sequence[tuple[Arm, Arm]] = (("distillation", "scores"), ("alone", "scores"))
PROMPTS = (
    "a orange chair",
    "a green table",
    "a red stool",
    "a purple bench",
    "a blue stool",
    "a yellow chair",
)


@dataclass(frozen=True, kw_only=True)
class Figure410(Experiment):
    """Ways to pack scenes into one network, and each of them alone."""

    id: str = "figure-4.10"
    claim: str = "packed by score distillation directly, geometry collapses"
    config: DistillConfig
    """network and rates of all arms"""
    size: int
    """pixels along each side of the renders"""
    samples: int
    """points along a ray"""
    steps: int
    """of all scenes together"""
    evaluation_views: int = 6
    evaluation_samples: int = 48

    def run(self, lab: Lab) -> None:
        """Train what is missing, score, write the JSON and the scenes."""
        scores: dict[str, dict[int, dict[str, float]]] = {}
        configs: dict[str, Any] = {}
        cameras = evaluation_views(self.evaluation_views, self.size)
        samples = self.evaluation_samples
        exact = exact_views(PROMPTS, cameras)
        for seed in self.seeds:
            settings = self.configurations(seed)
            for arm, name in NAMES.items():
                folder = lab.runs / f"packing_{self.preset}" / f"{arm}-{seed}"
                fields = scenes_of(arm, settings, folder, lab)
                if fields is None:
                    continue
                images = {prompt: of.render_all(cameras, samples) for prompt, of in fields.items()}
                one = means(score_scenes(fields, cameras, exact, samples=samples))
                one["likeness of shapes"] = likeness(silhouettes(images))
                if name not in scores:
                    sheet = self.path(lab, arm)
                    write_contact_sheet(list(fields.values()), list(PROMPTS), sheet, size=64)
                scores.setdefault(name, {})[seed] = one
                configs[arm] = asdict(settings[arm])
        if not scores:
            return
        truth = silhouettes({prompt: views.images for prompt, views in exact.items()})
        self.write(
            lab,
            rows_over_seeds(scores),
            config=configs,
            seeds=all_seeds(scores),
            data=f"{len(PROMPTS)} procedural scenes, all trained; likeness: silhouette IoU of scenes of different "
            "shapes, from the same cameras",
            per_seed=scores,
            likeness_of_exact_shapes=likeness(truth),
            comparisons={
                f"{NAMES[one]} against {NAMES[other]}": compared(
                    scores.get(NAMES[one], {}), scores.get(NAMES[other], {})
                )
                for one, other in COMPARED
            },
        )

    def configurations(self, seed: int) -> dict[Arm, DistillConfig | ScoreConfig]:
        """The arms: as many whole images of each scene, the same network and rates."""
        ours = replace(
            self.config,
            prompts=PROMPTS,
            held_out=(),
            image_size=self.size,
            prompts_per_step=1,
            rays=self.size**2,
            samples=self.samples,
            object_fraction=0.0,
            steps=self.steps,
            seed=seed,
        )
        scores = FinetuneConfig(
            prompt=f"{len(PROMPTS)} scenes",
            view_words=False,
            image_size=self.size,
            samples=self.samples,
            batch_size=1,
            views=ours.views,
            steps=self.steps,
            learning_rate=ours.learning_rate,
            grid_learning_rate=ours.grid_learning_rate,
            checkpoint_every=ours.checkpoint_every,
            seed=seed,
        )
        alone = replace(scores, prompt="one scene", steps=self.steps // len(PROMPTS))
        return {"distillation": ours, "scores": scores, "alone": alone}


def experiment(preset: str = "cpu") -> Figure410:
    """In a preset's sizes."""
    if preset == "paper":
        return Figure410(preset=preset, config=procedural(), size=64, samples=64, steps=10000)
    config = procedural_cpu_short()
    return Figure410(preset=preset, config=config, size=32, samples=24, steps=1200)


def scenes_of(
    arm: Arm, settings: Mapping[Arm, DistillConfig | ScoreConfig], folder: Path, lab: Lab
) -> dict[str, Field] | None:
    """The scenes of one arm and seed by prompt; None where a quick lab has not all of their trainings."""
    fields: dict[str, Field] = {}
    ours, config = settings["distillation"], settings[arm]
    assert isinstance(ours, DistillConfig)
    for prompts in [(prompt,) for prompt in PROMPTS] if arm == "alone" else [PROMPTS]:
        into = folder / file_name_of(prompts[0]) if arm == "alone" else folder
        if not lab.has(into, config, partial(pack, ours, config, prompts)):
            return None
        model = HyperFields.from_pretrained(into, text=ours.model.text)
        fields |= zip(prompts, model.generate_all(prompts), strict=True)
    return fields


def pack(
    ours: DistillConfig, config: DistillConfig | ScoreConfig, prompts: Sequence[str], run: Run
) -> None:
    """Train one network on the prompts, or go on in the run's folder."""
    if not isinstance(config, ScoreConfig):
        distill_exact(ours, run)
        return
    text = TextEncoder(ours.model.text)
    torch.manual_seed(generator_for(ours.seed, INITIAL_WEIGHTS).initial_seed())
    net = HyperNetwork(ours.model, text.dim)
    scenes = {prompt: PromptField(net, *text.encode([prompt])) for prompt in prompts}
    groups = parameter_groups(net, config.learning_rate, config.grid_learning_rate)
    distil_scores(config, scenes, net, groups, LaunchConfig(), run)
    trained = {"prompts": list(prompts), "held_out": []}
    HyperFields(net, text, trained=trained).save(run.out / "model")


def silhouettes(
    images: Mapping[str, Tensor],
) -> dict[str, Bool[Tensor, "views height width"]]:
    """Where RGBA images are opaque, by prompt."""
    return {prompt: views[..., 3] > 0.5 for prompt, views in images.items()}


def likeness(seen: Mapping[str, Bool[Tensor, "views height width"]]) -> float:
    """Mean silhouette IoU of scenes of different shapes; 1: all shapes are one. Two empty ones are alike."""
    values = []
    for (one, a), (other, b) in combinations(seen.items(), 2):
        if one.split()[-1] != other.split()[-1]:
            union = int((a | b).sum())
            values.append(int((a & b).sum()) / union if union else 1.0)
    return statistics.fmean(values)
