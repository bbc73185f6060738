"""Fig. B.2: unseen combinations of shape and material, zero-shot and after a short fine-tuning.

Claim: zero-shot scenes are reasonable, and of high quality after fewer than 1,000 steps of score distillation. The
thesis has images, no numbers. The guidance is the closed-form one: it holds its targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch

from hyperfields.conditioning.vocabulary import file_name_of
from hyperfields.config import DistillConfig, FinetuneConfig, LaunchConfig
from hyperfields.evaluation import SceneScore, exact_views, means, score_scenes
from hyperfields.experiments.held_out import distill_exact
from hyperfields.fields.cameras import evaluation_views, orbit
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import composite_over
from hyperfields.output.sheet import contact_sheet
from hyperfields.presets import (
    finetune,
    finetune_cpu,
    materials_held_out,
    materials_held_out_cpu,
)
from hyperfields.pretrained import HyperFields
from hyperfields.scenes import scene_of
from hyperfields.training.finetuning import finetune as tune
from priors_shared.experiments import Experiment, Lab, compared

_COLUMNS = {
    "psnr": "PSNR",
    "iou": "IoU",
    "colour_accuracy": "style right",
    "shape_accuracy": "shape right",
}


@dataclass(frozen=True, kw_only=True)
class FigureB2(Experiment):
    """A hypernetwork on some combinations, fine-tuned to each of the others."""

    id: str = "figure-b.2"
    claim: str = (
        "unseen shape-style combinations are reasonable zero-shot, and of high quality after a short "
        "fine-tuning by score distillation"
    )
    seeds: Sequence[int] = (0,)
    config: DistillConfig
    tuning: FinetuneConfig
    views: int
    """cameras of an evaluation"""
    samples: int
    """points along a ray of an evaluation"""
    sheet_size: int = 96
    """pixels along each side of an image"""

    def run(self, lab: Lab) -> None:
        """Train and tune what is missing, score; scenes without their fine-tuning are left out."""
        (seed,) = self.seeds
        config, tuning = replace(self.config, seed=seed), replace(self.tuning, seed=seed)
        name = {"cpu": "materials_held_out_cpu", "paper": "materials_held_out"}[self.preset]
        folder = lab.runs / name / str(seed)
        if not lab.has(folder, config, lambda run: distill_exact(config, run), base=True):
            return
        model = HyperFields.from_pretrained(folder, text=config.model.text)
        tuned: dict[str, Field] = {}
        where = LaunchConfig(accelerator="cpu" if model.device.type == "cpu" else "auto")
        for prompt in config.held_out:
            into = lab.runs / f"{name}_finetuned" / f"{file_name_of(prompt)}-{seed}"
            one = replace(tuning, prompt=prompt)
            if lab.has(into, one, partial(tune, one, model, where)):
                adapted = HyperFields.from_pretrained(into, text=model.text.name)
                tuned[prompt] = adapted.generate(prompt)
        if lab.planned is not None:
            return
        groups = {
            "trained": dict(zip(config.prompts, model.generate_all(config.prompts), strict=True)),
            "held out, zero-shot": dict(
                zip(config.held_out, model.generate_all(config.held_out), strict=True)
            ),
        }
        if tuned:
            groups["held out, fine-tuned"] = tuned
        cameras = evaluation_views(self.views, config.image_size)
        references = exact_views((*config.prompts, *config.held_out), cameras)
        scores = {
            name: score_scenes(fields, cameras, references, samples=self.samples)
            for name, fields in groups.items()
        }
        rows = {"zero-shot": groups["held out, zero-shot"], "fine-tuned": tuned}
        write_columns(rows, config.held_out, self, lab)
        self.write(
            lab,
            [
                {"model": name, "scenes": len(of)}
                | {_COLUMNS[key]: value for key, value in means(of).items()}
                for name, of in scores.items()
            ],
            config={
                "hypernetwork": asdict(config),
                "finetuning": asdict(replace(tuning, prompt="")),
                "evaluation": {"views": self.views, "samples": self.samples},
            },
            seeds=[seed],
            data="procedural scenes of 8 shapes in 4 materials: 24 combinations trained, 8 held out",
            scenes={name: [asdict(score) for score in of] for name, of in scores.items()},
            gain_of_fine_tuning=gain(
                scores["held out, zero-shot"], scores.get("held out, fine-tuned", [])
            ),
        )


def experiment(preset: str = "cpu") -> FigureB2:
    """In a preset's sizes."""
    if preset == "paper":
        tuning = replace(finetune(), steps=1000)
        config = materials_held_out()
        return FigureB2(preset=preset, config=config, tuning=tuning, views=12, samples=96)
    tuning = replace(
        finetune_cpu(),
        image_size=48,
        samples=24,
        batch_size=1,
        views=48,
        steps=40,
        checkpoint_every=20,
    )
    config = materials_held_out_cpu()
    return FigureB2(preset=preset, config=config, tuning=tuning, views=3, samples=48)


def gain(before: Sequence[SceneScore], after: Sequence[SceneScore]) -> dict[str, Any]:
    """PSNR and IoU after less before, paired by scene; empty with fewer than two pairs."""
    later, first = (
        {score.prompt: {"psnr": score.psnr, "iou": score.iou} for score in scores}
        for scores in (after, before)
    )
    return compared(later, first)


def write_columns(
    rows: Mapping[str, Mapping[str, Field]], prompts: Sequence[str], sizes: Any, lab: Lab
) -> None:
    """A contact sheet: exact renders, then a row for each mapping from prompts to fields; a column a prompt."""
    camera = orbit(30, 25, sizes.sheet_size)
    exact = [composite_over(scene_of(prompt).render(camera, samples=2)) for prompt in prompts]
    images, labels = [exact], [f"exact: {', '.join(prompts)}"]
    for label, fields in rows.items():
        images.append(
            [
                composite_over(fields[prompt].render(camera, 2 * sizes.samples).cpu())
                if prompt in fields
                else torch.ones_like(exact[0])
                for prompt in prompts
            ]
        )
        labels.append(label)
    contact_sheet(images, labels, sizes.path(lab))
