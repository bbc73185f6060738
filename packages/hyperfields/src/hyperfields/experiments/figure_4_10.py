"""Fig. 4.10: several scenes packed into one hypernetwork, by NeRF distillation or by score distillation directly.

Claim (4.4.6): packed by score distillation alone, geometry collapses: similar shapes end as one. The thesis has
pictures. Here: six pieces of furniture in six colours, and as a control each of them alone in a network of its own,
by score distillation too. All arms have the same network and rates, and render each scene whole, one an update, as
often; but distillation warms up and anneals its rates, as it always does. Distillation is from exact renders, score
distillation by the exact denoiser of such renders: neither suffers from poor teachers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from hyperfields.conditioning.text import TextEncoder
from hyperfields.config import DistillConfig, FinetuneConfig, LaunchConfig, ScoreConfig
from hyperfields.data.views import procedural_views
from hyperfields.evaluation import exact_views, means, score_scenes
from hyperfields.fields.cameras import evaluation_views
from hyperfields.fields.field import Field
from hyperfields.hypernetwork.network import HyperNetwork, PromptField
from hyperfields.output.sheet import write_contact_sheet
from hyperfields.presets import DISTILL
from hyperfields.pretrained import HyperFields
from hyperfields.training.distillation import (
    INITIAL_WEIGHTS,
    distill,
    parameter_groups,
    training_cameras,
)
from hyperfields.training.score_distillation import distil_scores
from priors_shared.checkpoints import has_weights
from priors_shared.devices import hardware
from priors_shared.episodes import generator_for
from priors_shared.reports import Measured, write_result
from priors_shared.runs import Run
from priors_shared.statistics import compare_paired

SEEDS = (0, 1, 2)
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
VIEWS, SAMPLES = 6, 48  # of an evaluation


@dataclass(frozen=True, kw_only=True)
class PackingPreset:
    """Sizes of the comparison."""

    distill: str
    """preset of both arms' network and rates"""
    size: int
    """pixels along each side of the renders"""
    samples: int
    """points along a ray"""
    updates: int
    """of all scenes together"""


PRESETS: Mapping[str, PackingPreset] = {
    "cpu": PackingPreset(distill="procedural_cpu_short", size=32, samples=24, updates=1200),
    "paper": PackingPreset(distill="procedural", size=64, samples=64, updates=10000),
}


def run(
    preset: str = "cpu",
    out: Path = Path("results"),
    quick: bool = False,
    runs: Path = Path("runs"),
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Train what is missing (unless quick); write the JSON and the scenes.

    Nothing is written where quick finds no finished run.
    """
    scores: dict[str, dict[int, dict[str, float]]] = {}
    configs: dict[str, Any] = {}
    cameras = evaluation_views(VIEWS, PRESETS[preset].size)
    exact = exact_views(PROMPTS, cameras)
    for seed in seeds:
        settings = configurations(PRESETS[preset], seed)
        for arm, name in NAMES.items():
            folder = runs / f"packing_{preset}" / f"{arm}-{seed}"
            fields = scenes_of(arm, settings, folder, quick=quick)
            if fields is None:
                continue
            found = means(score_scenes(fields, cameras, exact, samples=SAMPLES))
            shown = {prompt: field.render_all(cameras, SAMPLES) for prompt, field in fields.items()}
            found["likeness of shapes"] = likeness(silhouettes(shown))
            if name not in scores:
                sheet = out / f"figure-4.10-{preset}-{arm}.png"
                write_contact_sheet(list(fields.values()), list(PROMPTS), sheet, size=64)
            scores.setdefault(name, {})[seed] = found
            configs[arm] = asdict(settings[arm])
    if not scores:
        return
    rows: list[dict[str, Any]] = [
        {"model": name}
        | {m: Measured.over_seeds([s[m] for s in by_seed.values()]) for m in by_seed[min(by_seed)]}
        for name, by_seed in scores.items()
    ]
    write_result(
        out / f"figure-4.10-{preset}.json",
        experiment="figure-4.10",
        claim="packed by score distillation directly, geometry collapses",
        rows=rows,
        config=configs,
        seeds=sorted({seed for by_seed in scores.values() for seed in by_seed}),
        data=f"{len(PROMPTS)} procedural scenes, all trained; likeness: silhouette IoU of scenes of different "
        "shapes, from the same cameras",
        hardware=hardware(),
        command=f"hyperfields reproduce figure-4.10 --preset {preset}",
        thesis={},
        extra={
            "per_seed": scores,
            "likeness of exact shapes": likeness(
                silhouettes({p: views.images for p, views in exact.items()})
            ),
            "comparisons": {
                f"{NAMES[one]} against {NAMES[other]}": compared(
                    scores.get(NAMES[one], {}), scores.get(NAMES[other], {})
                )
                for one, other in COMPARED
            },
        },
    )


def configurations(sizes: PackingPreset, seed: int) -> dict[Arm, DistillConfig | ScoreConfig]:
    """The arms: as many whole images of each scene, the same network and rates."""
    preset = DISTILL[sizes.distill]()
    ours = replace(
        preset,
        prompts=PROMPTS,
        held_out=(),
        image_size=sizes.size,
        prompts_per_step=1,
        rays=sizes.size**2,
        samples=sizes.samples,
        object_share=0.0,
        iterations=sizes.updates,
        seed=seed,
    )
    scores = FinetuneConfig(
        prompt=f"{len(PROMPTS)} scenes",
        view_words=False,
        image_size=sizes.size,
        samples=sizes.samples,
        batch=1,
        views=ours.views,
        iterations=sizes.updates,
        learning_rate=ours.learning_rate,
        grid_learning_rate=ours.grid_learning_rate,
        checkpoint_every=ours.checkpoint_every,
        seed=seed,
    )
    alone = replace(scores, prompt="one scene", iterations=sizes.updates // len(PROMPTS))
    return {"distillation": ours, "scores": scores, "alone": alone}


def scenes_of(
    arm: Arm, settings: Mapping[Arm, DistillConfig | ScoreConfig], folder: Path, *, quick: bool
) -> dict[str, Field] | None:
    """The scenes of one arm and seed by prompt; trains what is missing unless quick: None then."""
    fields: dict[str, Field] = {}
    for prompts in [(prompt,) for prompt in PROMPTS] if arm == "alone" else [PROMPTS]:
        into = folder / prompts[0].replace(" ", "-") if arm == "alone" else folder
        if not has_weights(into / "model"):
            if quick:
                return None
            pack(arm, settings, prompts, into)
        model = HyperFields.from_pretrained(into)
        fields |= zip(prompts, model.generate_all(prompts), strict=True)
    return fields


def pack(
    arm: Arm,
    settings: Mapping[Arm, DistillConfig | ScoreConfig],
    prompts: Sequence[str],
    folder: Path,
) -> None:
    """Train one network on the prompts, or go on in the folder."""
    ours, scores = settings["distillation"], settings[arm]
    assert isinstance(ours, DistillConfig)
    where = LaunchConfig()
    command = f"hyperfields reproduce into {folder.name}"
    with Run.create(folder, asdict(settings[arm]), command=command, resume=True) as run_:
        if not isinstance(scores, ScoreConfig):
            distill(ours, procedural_views(prompts, training_cameras(ours)), where, run_)
            return
        text = TextEncoder(ours.model.text)
        torch.manual_seed(generator_for(ours.seed, INITIAL_WEIGHTS).initial_seed())
        net = HyperNetwork(ours.model, text.dim)
        scenes = {prompt: PromptField(net, *text.encode([prompt])) for prompt in prompts}
        groups = parameter_groups(net, scores.learning_rate, scores.grid_learning_rate)
        distil_scores(scores, scenes, net, groups, where, run_)
        trained = {"prompts": list(prompts), "held_out": []}
        HyperFields(net, text, trained=trained).save(run_.out / "model")


def compared(
    one: Mapping[int, Mapping[str, float]], other: Mapping[int, Mapping[str, float]]
) -> dict[str, Any]:
    """Each measure's differences, paired by seed; empty for fewer than two seeds."""
    seeds = sorted(set(one) & set(other))
    if len(seeds) < 2:
        return {}
    return {
        measure: asdict(
            compare_paired([one[s][measure] for s in seeds], [other[s][measure] for s in seeds])
        )
        for measure in one[seeds[0]]
    }


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
