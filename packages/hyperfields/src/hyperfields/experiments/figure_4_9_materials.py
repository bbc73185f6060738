"""Fig. 4.9 on the thesis' four styles of one shape.

Claim (4.4.6): without dynamic conditioning origami and glacier collapse into one, and so do stained glass and plaid.
The thesis has images, no numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hyperfields.config import DistillConfig
from hyperfields.evaluation import exact_views, psnr
from hyperfields.experiments.figure_b_2 import write_columns
from hyperfields.experiments.held_out import config_of, distill_exact
from hyperfields.fields.cameras import evaluation_views
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over
from hyperfields.presets import four_materials, four_materials_cpu
from hyperfields.pretrained import HyperFields
from hyperfields.scenes import scene_of
from priors_shared.experiments import Experiment, Lab, all_seeds, compared, rows_over_seeds

ARMS = ("dynamic", "static")
PAIRS = (("origami", "glacier"), ("stained glass", "plaid"))
"""Styles that static conditioning collapses in the thesis."""


@dataclass(frozen=True, kw_only=True)
class Figure49Materials(Experiment):
    """Both kinds of conditioning on four scenes, over seeds."""

    id: str = "figure-4.9-materials"
    claim: str = "static conditioning collapses origami and glacier, and stained glass and plaid; dynamic does not"
    config: DistillConfig
    views: int
    """cameras of an evaluation"""
    samples: int
    """points along a ray of an evaluation"""
    sheet_size: int = 96
    """pixels along each side of an image"""

    def run(self, lab: Lab) -> None:
        """Train what is missing, score, write the JSON and the scenes."""
        base = self.config
        cameras = evaluation_views(self.views, base.image_size)
        references = exact_views(base.prompts, cameras)
        exact = {prompt: composite_over(references[prompt].images) for prompt in base.prompts}
        scores: dict[str, dict[int, dict[str, float]]] = {}
        shown: dict[str, Mapping[str, Field]] = {}
        configs: dict[str, Any] = {}
        name = {"cpu": "four_materials_cpu", "paper": "four_materials"}[self.preset]
        # Seed by seed: what is there when it is stopped can be compared.
        for seed in self.seeds:
            for arm in ARMS:
                config = config_of(base, arm, seed)
                folder = lab.runs / name / (str(seed) if arm == "dynamic" else f"{arm}-{seed}")
                if not lab.has(folder, config, partial(distill_exact, config)):
                    continue
                model = HyperFields.from_pretrained(folder, text=config.model.text)
                fields = dict(zip(base.prompts, model.generate_all(base.prompts), strict=True))
                images = {
                    prompt: composite_over(field.render_all(cameras, self.samples))
                    for prompt, field in fields.items()
                }
                scores.setdefault(arm, {})[seed] = measures(images, exact)
                configs[arm] = asdict(replace(config, seed=0))
                shown.setdefault(arm, fields)
        if not scores:
            return
        write_columns(shown, base.prompts, self, lab)
        self.write(
            lab,
            rows_over_seeds(scores),
            config=configs | {"evaluation": {"views": self.views, "samples": self.samples}},
            seeds=all_seeds(scores),
            data=f"procedural scenes, all trained: {', '.join(base.prompts)}",
            per_seed=scores,
            dynamic_less_static=compared(*(scores.get(arm, {}) for arm in ARMS)),
        )


def experiment(preset: str = "cpu") -> Figure49Materials:
    """In a preset's sizes."""
    if preset == "paper":
        return Figure49Materials(preset=preset, config=four_materials(), views=12, samples=96)
    return Figure49Materials(preset=preset, config=four_materials_cpu(), views=3, samples=48)


def measures(
    shown: Mapping[str, Float[Tensor, "*shape"]], exact: Mapping[str, Float[Tensor, "*shape"]]
) -> dict[str, float]:
    """PSNR of each style, their mean, and how far apart each of `PAIRS` is.

    Args:
        shown: images on white of generated scenes, by prompt; one scene of each style.
        exact: the same views, exact.
    """
    style = {scene_of(prompt).attribute: prompt for prompt in exact}
    scored = {name: psnr(shown[prompt], exact[prompt]) for name, prompt in style.items()}
    found = {"PSNR": sum(scored.values()) / len(scored)}
    found |= {f"PSNR, {name}": value for name, value in scored.items()}
    for one, other in PAIRS:
        a, b = style[one], style[other]
        found[f"distance of {one} and {other}"] = distinctness(
            shown[a], shown[b], exact[a], exact[b]
        )
    return found


def distinctness(
    one: Float[Tensor, "*shape"],
    other: Float[Tensor, "*shape"],
    exact_one: Float[Tensor, "*shape"],
    exact_other: Float[Tensor, "*shape"],
) -> float:
    """Distance of two scenes' images, in the distance of the exact ones along their difference.

    1: as far apart as the exact ones, in the way that they are; 0: collapsed into one. Errors that have nothing to
    do with what tells the two apart do not count: a plain distance would take noise for a difference.
    """
    apart = (exact_one - exact_other).flatten()
    return float((one - other).flatten() @ apart / (apart @ apart))
