"""Fig. 4.10: several scenes packed into one hypernetwork, by NeRF distillation or by score distillation directly.

Claim (4.4.6): packed by score distillation alone, geometry collapses: similar shapes end as one. The thesis has
pictures. Here: six pieces of furniture in six colours; both arms have the same network and rates, the same updates
and as many points of the field in each. But distillation sees more scenes in an update, warms up and anneals, and
there is no control of scenes optimised alone: it shows what happens, not that packing is the cause. Distillation is
from exact renders, score distillation by the exact denoiser of such renders: neither suffers from poor teachers.
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

from hyperfields.cameras import evaluation_views
from hyperfields.config import DistillConfig, FinetuneConfig, LaunchConfig, ScoreConfig
from hyperfields.distillation import (
    INITIAL_WEIGHTS,
    distill,
    parameter_groups,
    training_cameras,
)
from hyperfields.evaluation import means, score_scenes, write_contact_sheet
from hyperfields.hypernetwork import HyperNetwork, PromptField
from hyperfields.model import HyperFields
from hyperfields.presets import DISTILL
from hyperfields.teachers import distil_scores
from hyperfields.text import TextEncoder
from hyperfields.views import procedural_views
from priors_shared.checkpoints import CONFIG
from priors_shared.devices import hardware
from priors_shared.episodes import generator_for
from priors_shared.reports import Measured, write_result
from priors_shared.runs import Run, training_seconds
from priors_shared.statistics import compare_paired

SEEDS = (0, 1, 2)
Arm = Literal["distillation", "scores"]
NAMES: Mapping[Arm, str] = {
    "distillation": "NeRF distillation (ours)",
    "scores": "no NeRF distillation",
}
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


PRESETS: Mapping[str, PackingPreset] = {
    "cpu": PackingPreset(distill="procedural_cpu_short", size=32, samples=24, updates=400),
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
    exact = procedural_views(PROMPTS, cameras)
    for seed in seeds:
        settings = configurations(PRESETS[preset], seed)
        for arm, name in NAMES.items():
            folder = runs / f"packing_{preset}" / f"{arm}-{seed}"
            if not (folder / "model" / CONFIG).is_file():
                if quick:
                    continue
                pack(arm, settings, folder)
            model = HyperFields.from_pretrained(folder)
            fields = dict(zip(PROMPTS, model.generate_all(PROMPTS), strict=True))
            found = means(score_scenes(fields, cameras, exact, samples=SAMPLES))
            shown = {
                p: torch.stack([f.render(c, SAMPLES).cpu() for c in cameras])
                for p, f in fields.items()
            }
            found["likeness of shapes"] = likeness(silhouettes(shown))
            found["seconds"] = training_seconds(folder) or 0.0
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
    ours, other = (scores.get(name, {}) for name in NAMES.values())
    shared = sorted(set(ours) & set(other))
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
                m: asdict(compare_paired(*([by[s][m] for s in shared] for by in (ours, other))))
                for m in ("psnr", "iou", "shape_accuracy", "colour_accuracy", "likeness of shapes")
            }
            if len(shared) > 1
            else {},
        },
    )


def configurations(sizes: PackingPreset, seed: int) -> dict[Arm, DistillConfig | ScoreConfig]:
    """Both arms: as many points of the field in an update, and the same rates."""
    preset = DISTILL[sizes.distill]()
    prompts = 4
    ours = replace(
        preset,
        prompts=PROMPTS,
        held_out=(),
        image_size=sizes.size,
        prompts_per_step=prompts,
        rays=sizes.size**2 // prompts,
        samples=sizes.samples,
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
    return {"distillation": ours, "scores": scores}


def pack(
    arm: Arm, settings: Mapping[Arm, DistillConfig | ScoreConfig], folder: Path
) -> HyperFields:
    """One arm's run, or the rest of it."""
    ours, scores = settings["distillation"], settings["scores"]
    assert isinstance(ours, DistillConfig)
    assert isinstance(scores, ScoreConfig)
    where = LaunchConfig()
    with Run.create(
        folder,
        asdict(settings[arm]),
        command=f"hyperfields reproduce into {folder.name}",
        resume=True,
    ) as run_:
        if arm == "distillation":
            return distill(ours, procedural_views(PROMPTS, training_cameras(ours)), where, run_)
        text = TextEncoder(ours.model.text)
        torch.manual_seed(generator_for(ours.seed, INITIAL_WEIGHTS).initial_seed())
        net = HyperNetwork(ours.model, text.dim)
        scenes = {prompt: PromptField(net, *text.encode([prompt])) for prompt in PROMPTS}
        groups = parameter_groups(net, scores.learning_rate, scores.grid_learning_rate)
        distil_scores(scores, scenes, net, groups, where, run_)
        model = HyperFields(net, text, trained={"prompts": list(PROMPTS), "held_out": []})
        model.save(run_.out / "model")
        return model


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
