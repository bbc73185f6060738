"""Scenes in materials: Fig. B.2 (unseen combinations, then fine-tuned) and Fig. 4.9 on the thesis' four styles.

Claims: zero-shot scenes of unseen combinations are reasonable, and of high quality after fewer than 1,000 updates
of score distillation (B.2); without dynamic conditioning origami and glacier collapse into one, and so do stained
glass and plaid (4.4.6). The thesis has pictures, no numbers. The guidance is the closed-form one: it holds its targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hyperfields.config import FinetuneConfig, LaunchConfig
from hyperfields.evaluation import SceneScore, exact_views, means, score_scenes
from hyperfields.experiments.held_out import train
from hyperfields.fields.cameras import evaluation_views, orbit
from hyperfields.fields.field import Field
from hyperfields.fields.rendering import over
from hyperfields.output.sheet import contact_sheet
from hyperfields.presets import DISTILL, FINETUNE
from hyperfields.pretrained import HyperFields
from hyperfields.scenes import scene_of
from hyperfields.training.finetuning import finetune
from priors_shared.checkpoints import has_weights
from priors_shared.devices import hardware
from priors_shared.errors import UserError
from priors_shared.reports import write_result
from priors_shared.runs import Run
from priors_shared.statistics import compare_paired


@dataclass(frozen=True, kw_only=True)
class MaterialsPreset:
    """Sizes of both experiments."""

    held_out: str
    """preset of Fig. B.2's hypernetwork"""
    four: str
    """preset of Fig. 4.9's"""
    finetune: str
    changes: Mapping[str, Any]
    """what differs from that preset of fine-tuning"""
    views: int
    """cameras of an evaluation"""
    samples: int
    """points along a ray of an evaluation"""
    sheet: int = 96
    """pixels along each side of a picture"""


PRESETS: Mapping[str, MaterialsPreset] = {
    "cpu": MaterialsPreset(
        held_out="materials_held_out_cpu",
        four="four_materials_cpu",
        finetune="finetune_cpu",
        changes={
            "image_size": 48,
            "samples": 24,
            "batch": 1,
            "views": 48,
            "iterations": 40,
            "checkpoint_every": 20,
        },
        views=3,
        samples=48,
    ),
    "paper": MaterialsPreset(
        held_out="materials_held_out",
        four="four_materials",
        finetune="finetune",
        changes={"iterations": 1000},
        views=12,
        samples=96,
    ),
}


def run_held_out(
    preset: str = "cpu",
    out: Path = Path("results"),
    quick: bool = False,
    runs: Path = Path("runs"),
    seed: int = 0,
) -> None:
    """Fig. B.2: train and fine-tune what is missing (unless quick); write the JSON and the pictures.

    Nothing is written where quick finds no trained hypernetwork; scenes without their fine-tuning are left out.
    """
    sizes = _sizes(preset)
    config = replace(DISTILL[sizes.held_out](), seed=seed)
    folder = runs / sizes.held_out / f"dynamic-{seed}"
    if not has_weights(folder / "model"):
        if quick:
            return
        train(config, folder)
    model = HyperFields.from_pretrained(folder)
    tuned: dict[str, Field] = {}
    tuning = replace(FINETUNE[sizes.finetune](), seed=seed, **sizes.changes)
    for prompt in config.held_out:
        into = runs / f"{sizes.held_out}_finetuned" / f"{prompt.replace(' ', '-')}-{seed}"
        if not has_weights(into / "model"):
            if quick:
                continue
            _finetune(replace(tuning, prompt=prompt), model, into)
        tuned[prompt] = HyperFields.from_pretrained(into).generate(prompt)
    cameras = evaluation_views(sizes.views, config.image_size)
    references = exact_views((*config.prompts, *config.held_out), cameras)
    zero_shot = dict(zip(config.held_out, model.generate_all(config.held_out), strict=True))
    trained = dict(zip(config.prompts, model.generate_all(config.prompts), strict=True))
    groups = {"trained": trained, "held out, zero-shot": zero_shot}
    if tuned:
        groups["held out, fine-tuned"] = tuned
    scores = {
        name: score_scenes(fields, cameras, references, samples=sizes.samples)
        for name, fields in groups.items()
    }
    title = f"figure-b.2-{preset}"
    pictures: dict[str, Sequence[str] | Mapping[str, Field]] = {
        "exact": config.held_out,
        "zero-shot": zero_shot,
        "fine-tuned": tuned,
    }
    _write_sheet(pictures, config.held_out, out / f"{title}.png", sizes)
    write_result(
        out / f"{title}.json",
        experiment="figure-b.2",
        claim="unseen shape-style combinations are reasonable zero-shot, and of high quality after a short "
        "fine-tuning by score distillation",
        rows=[
            {"model": name, "scenes": len(found), **_named(means(found))}
            for name, found in scores.items()
        ],
        config={
            "hypernetwork": asdict(config),
            "finetuning": asdict(replace(tuning, prompt="")),
            "evaluation": {"views": sizes.views, "samples": sizes.samples},
        },
        seeds=[seed],
        data="procedural scenes of 8 shapes in 4 materials: 24 combinations trained, 8 held out",
        hardware=hardware(),
        command=f"hyperfields reproduce figure-b.2 --preset {preset}",
        thesis={},
        extra={
            "scenes": {name: [asdict(score) for score in found] for name, found in scores.items()},
            "gain_of_fine_tuning": gain(
                scores["held out, zero-shot"], scores.get("held out, fine-tuned", [])
            ),
        },
    )


def gain(before: Sequence[SceneScore], after: Sequence[SceneScore]) -> dict[str, Any]:
    """PSNR and IoU after less before, paired by scene; empty with fewer than two pairs."""
    first = {score.prompt: score for score in before}
    pairs = [(first[score.prompt], score) for score in after]
    if len(pairs) < 2:
        return {}
    return {
        name: asdict(
            compare_paired(
                [getattr(b, name) for _, b in pairs], [getattr(a, name) for a, _ in pairs]
            )
        )
        for name in ("psnr", "iou")
    }


def _sizes(preset: str) -> MaterialsPreset:
    if preset not in PRESETS:
        raise UserError(
            f"no preset {preset!r} for scenes in materials: choose {', '.join(PRESETS)}"
        )
    return PRESETS[preset]


def _finetune(config: FinetuneConfig, model: HyperFields, folder: Path) -> None:
    with Run.create(
        folder, asdict(config), command=f"hyperfields reproduce into {folder}", resume=True
    ) as run_:
        where = LaunchConfig(accelerator="cpu" if model.device.type == "cpu" else "auto")
        finetune(config, model, where, run_)


def _named(found: Mapping[str, float]) -> dict[str, float]:
    names = {"psnr": "PSNR", "iou": "IoU", "colour_accuracy": "style right"}
    return {names.get(key, "shape right"): value for key, value in found.items()}


def _write_sheet(
    pictures: Mapping[str, Sequence[str] | Mapping[str, Field]],
    prompts: Sequence[str],
    path: Path,
    sizes: MaterialsPreset,
) -> None:
    """A row for each kind of picture, a column for each prompt; prompts in place of fields: exact renders."""
    camera = orbit(30, 25, sizes.sheet)
    rows, labels = [], []
    for label, fields in pictures.items():
        row = []
        for prompt in prompts:
            if not isinstance(fields, Mapping):
                row.append(over(scene_of(prompt).render(camera, samples=2)))
            elif prompt in fields:
                row.append(over(fields[prompt].render(camera, 2 * sizes.samples).cpu()))
            else:
                row.append(torch.ones(sizes.sheet, sizes.sheet, 3))
        rows.append(row)
        labels.append(label if rows[1:] else f"{label}: {', '.join(prompts)}")
    contact_sheet(rows, labels, path)
