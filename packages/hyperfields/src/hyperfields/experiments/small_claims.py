"""Small claims: held-out scenes of the shipped weights."""

from __future__ import annotations

from functools import cache

import torch

from hyperfields.conditioning.vocabulary import procedural_prompts
from hyperfields.config import SHIPPED_MODEL
from hyperfields.data.views import PosedViews
from hyperfields.evaluation import exact_views, psnr, score_scenes
from hyperfields.fields.cameras import Camera, evaluation_views
from hyperfields.fields.rendering import composite_over
from hyperfields.pretrained import HyperFields
from priors_shared.experiments import Scores, SmallClaims

SIZE, VIEWS, SAMPLES = 32, 3, 48


def experiment(preset: str = "cpu") -> SmallClaims:
    """The same in every preset; a seed chooses the held-out combinations that are looked at."""
    return SmallClaims(
        preset=preset,
        system="hyperfields",
        measures={"held-out scenes": held_out, "generated twice": generated_twice},
        data=f"procedural scenes, {VIEWS} views of {SIZE} x {SIZE} pixels, 4 held-out combinations a seed",
    )


def held_out(seed: int) -> Scores:
    """Means over scenes: PSNR, and that of the exact trained scene that is nearest to the one asked for."""
    model = HyperFields.from_pretrained(SHIPPED_MODEL)
    held = list(model.trained["held_out"])[seed::6][:4]
    cameras, exact = _exact()
    fields = dict(zip(held, model.generate_all(held), strict=True))
    scores = score_scenes(fields, cameras, exact, samples=SAMPLES)
    images = {prompt: composite_over(views.images) for prompt, views in exact.items()}
    nearest = [max(psnr(images[t], images[p]) for t in model.prompts) for p in held]
    return {
        "PSNR": sum(score.psnr for score in scores) / len(scores),
        "PSNR of the best trained scene": sum(nearest) / len(nearest),
    }


@cache  # the same for every seed
def _exact() -> tuple[list[Camera], dict[str, PosedViews]]:
    cameras = evaluation_views(VIEWS, SIZE)
    return cameras, exact_views(procedural_prompts(), cameras)


def generated_twice(seed: int) -> Scores:
    """Weights of one prompt generated alone less those generated beside others."""
    model = HyperFields.from_pretrained(SHIPPED_MODEL)
    prompts = list(model.trained["held_out"])[seed::9][:3]
    alone = model.generate(prompts[0]).state_dict()
    beside = model.generate_all(prompts)[0].state_dict()
    pairs = [(alone[name], beside[name]) for name in alone if alone[name].is_floating_point()]
    with torch.no_grad():
        return {"largest difference": max(float((a - b).abs().max()) for a, b in pairs)}
