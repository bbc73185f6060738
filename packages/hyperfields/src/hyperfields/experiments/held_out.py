"""Fig. 4.4 and 4.9: zero-shot scenes of held-out combinations, with dynamic and with static conditioning.

Claims: combinations never trained on come out as well as trained ones (4.4.1); without dynamic conditioning scenes
are worse (4.4.6; the thesis shows it on four scenes in materials, we on the 72 in colours). Beside them ATT3D's way:
the prompt writes the hash grid (the thesis compares pictures, Fig. 4.7); and both stages of Algorithm 3: distilled
from NeRFs of score distillation in place of exact renders. All arms share prompts and steps. The thesis has pictures
and CLIP retrieval (Table 4.1), no numbers of these kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from hyperfields.conditioning.vocabulary import procedural_prompts
from hyperfields.config import DistillConfig, LaunchConfig
from hyperfields.data.teachers import read_teachers
from hyperfields.data.views import procedural_views
from hyperfields.evaluation import evaluate, exact_views, means, score_scenes
from hyperfields.fields.cameras import evaluation_views
from hyperfields.fields.field import Field
from hyperfields.output.sheet import write_contact_sheet
from hyperfields.presets import DISTILL, TEACH
from hyperfields.pretrained import HyperFields
from hyperfields.training.distillation import distill, training_cameras
from hyperfields.training.score_distillation import teach
from priors_shared.checkpoints import has_weights
from priors_shared.devices import hardware
from priors_shared.reports import Measured, write_result
from priors_shared.runs import Run

SEEDS = (0, 1, 2)
PRESETS = {"cpu": "procedural_cpu_short", "paper": "procedural"}
TEACHERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "cpu": ("teacher_cpu", {"batch": 1, "samples": 24, "iterations": 120}),
    "paper": ("teacher", {}),
}
"""Presets of stage 1, and what of them is set otherwise."""
Arm = Literal["dynamic", "static", "grid", "taught"]
FIGURES: dict[str, tuple[str, tuple[Arm, ...]]] = {
    "figure-4.4": ("held-out combinations come out as well as trained ones", ("dynamic",)),
    "figure-4.9": ("dynamic conditioning beats static", ("dynamic", "static")),
    "att3d": (
        "dynamic weights beat a hypernetwork that writes the hash grid, as ATT3D does",
        ("dynamic", "grid"),
    ),
    "stages": (
        "distilled from NeRFs of score distillation, held-out combinations come out as asked for",
        ("dynamic", "taught"),
    ),
}


def run(
    figure: str,
    preset: str = "cpu",
    out: Path = Path("results"),
    quick: bool = False,
    runs: Path = Path("runs"),
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Train what is missing (unless quick); write the JSON and a contact sheet of the held-out scenes.

    Nothing is written where quick finds no trained run.
    """
    claim, arms = FIGURES[figure]
    per_seed: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
    teachers: dict[str, float] | None = None
    configs: dict[str, Any] = {}
    for arm in arms:
        for seed in seeds:
            config = DISTILL[PRESETS[preset]]()
            conditioning = "dynamic" if arm == "taught" else arm
            config = replace(
                config, seed=seed, model=replace(config.model, conditioning=conditioning)
            )
            folder = runs / PRESETS[preset] / f"{arm}-{seed}"
            root = runs / f"stages_{preset}"
            taught = {prompt: root / prompt.replace(" ", "-") for prompt in config.prompts}
            if not has_weights(folder / "model"):
                if quick:
                    continue
                if arm == "taught":
                    teach_all(taught, preset)
                train(config, folder, root if arm == "taught" else None)
            model = HyperFields.from_pretrained(folder)
            found = evaluate(model, views=6, size=config.image_size, samples=64)
            if arm not in per_seed:
                held = list(model.trained["held_out"])
                sheet = out / f"{figure}-{preset}-{arm}.png"
                write_contact_sheet(model.generate_all(held), held, sheet)
            per_seed.setdefault(arm, {})[seed] = found["means"]
            kept = all(has_weights(at / "model") for at in taught.values())
            if arm == "taught" and teachers is None and kept:
                teachers = score_teachers(taught, config.image_size)
            configs[arm] = asdict(config)
    if not per_seed:
        return
    rows = []
    for name, by_seed in per_seed.items():
        for group in ("held out", "trained"):
            measured = [means[group] for means in by_seed.values()]
            row: dict[str, Any] = {"model": f"{name}, {group} scenes"}
            row |= {key: Measured.over_seeds([m[key] for m in measured]) for key in measured[0]}
            rows.append(row)
    if teachers is not None:
        rows.append({"model": "the teachers"} | {k: Measured(v) for k, v in teachers.items()})
    write_result(
        out / f"{figure}-{preset}.json",
        experiment=figure,
        claim=claim,
        rows=rows,
        config=configs,
        seeds=sorted({seed for by_seed in per_seed.values() for seed in by_seed}),
        data="procedural scenes: 45 combinations trained, 27 held out",
        hardware=hardware(),
        command=f"hyperfields reproduce {figure} --preset {preset}",
        thesis={},
        extra={"per_seed": per_seed},
    )


def score_teachers(folders: Mapping[str, Path], size: int) -> dict[str, float]:
    """How well stage 1's NeRFs, by prompt, match exact renders, seen as the scenes of stage 2 are."""
    cameras = evaluation_views(6, size)
    fields = {prompt: Field.load(folder / "model") for prompt, folder in folders.items()}
    exact = exact_views(procedural_prompts(), cameras)
    return means(score_scenes(fields, cameras, exact, samples=64))


def train(config: DistillConfig, folder: Path, taught: Path | None = None) -> None:
    """Distil exact renders, or a folder of teachers, into the folder; or go on there."""
    with Run.create(
        folder, asdict(config), command=f"hyperfields train into {folder}", resume=True
    ) as run_:
        cameras = training_cameras(config)
        teachers = (
            procedural_views(config.prompts, cameras)
            if taught is None
            else read_teachers(taught, cameras)
        )
        distill(config, teachers, LaunchConfig(), run_)


def teach_all(folders: Mapping[str, Path], preset: str) -> None:
    """Stage 1: a NeRF of each prompt by score distillation, in its folder; trains those that are missing."""
    name, sizes = TEACHERS[preset]
    for prompt, folder in folders.items():
        if not has_weights(folder / "model"):
            teacher = replace(TEACH[name](), prompt=prompt, **sizes)
            with Run.create(
                folder, asdict(teacher), command=f"hyperfields teach into {folder}", resume=True
            ) as run_:
                teach(teacher, LaunchConfig(), run_)
