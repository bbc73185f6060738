"""The package's part of `reproduce`: held-out scenes from shipped weights, both stages live, stored results."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperfields.config import SHIPPED_MODEL
from priors_shared.reports import Cell, Figure, Section, Table, Verdict

LIVE = "a red bowl"
_TEACHER_UPDATES, _UPDATES = 120, 40  # of the live trainings: about a minute on a core each


def run(report_dir: Path, quick: bool, progress: type[Any], results: Path) -> Section:
    """Generate the held-out scenes, teach and distill before the reader's eyes, return the page."""
    if not quick:
        from hyperfields.experiments import EXPERIMENTS

        for run_one in EXPERIMENTS.values():
            run_one(preset="cpu", out=report_dir, runs=report_dir / "runs", quick=False)
    return Section(
        "hyperfields: radiance fields written by a hypernetwork",
        [
            "A hypernetwork reads a prompt and writes the weights of a neural radiance field, in one forward "
            "pass. It was trained on 45 combinations of nine shapes and eight colours; 27 others test it.",
            shipped_section(report_dir, progress),
            live_section(report_dir, quick),
            *stored_sections(results if quick else report_dir),
        ],
    )


def shipped_section(
    report_dir: Path,
    progress: type[Any],
    name: str | Path = SHIPPED_MODEL,
    *,
    text: str | None = None,
    views: int = 4,
    size: int = 32,
    samples: int = 48,
) -> Section:
    """Scores and renders of all held-out scenes from trained weights."""
    from hyperfields.conditioning.vocabulary import procedural_prompts
    from hyperfields.evaluation import exact_views, means, score_scenes
    from hyperfields.fields.cameras import evaluation_views
    from hyperfields.output.sheet import write_contact_sheet
    from hyperfields.pretrained import HyperFields

    model = HyperFields.from_pretrained(name, text=text)
    held = list(model.trained["held_out"])
    cameras = evaluation_views(views, size)
    references = exact_views(procedural_prompts(), cameras)
    fields = dict(zip(held, model.generate_all(held), strict=True))
    scores = []
    with progress(len(held), "held-out scenes") as bar:
        for prompt, field in fields.items():
            scores += score_scenes({prompt: field}, cameras, references, samples=samples)
            bar.advance(psnr=scores[-1].psnr)
    found = means(scores)
    rows: list[list[Cell]] = [
        ["mean", found["psnr"], found["iou"], found["colour_accuracy"], found["shape_accuracy"]]
    ]
    rows += [
        [s.prompt, s.psnr, s.iou, float(s.attribute_right), float(s.shape_right)] for s in scores
    ]
    caption = (
        f"Scenes whose combination was never trained on, {views} views of {size} x {size} pixels each: "
        "PSNR in dB, intersection over union of silhouettes, and whether the nearest of the 72 exact scenes "
        "has the colour and the shape asked for."
    )
    sheet = report_dir / "held_out.png"
    write_contact_sheet(list(fields.values()), held, sheet, size=64, samples=48)
    both = min(found["colour_accuracy"], found["shape_accuracy"])
    return Section(
        "Held-out combinations from shipped weights (Fig. 4.4)",
        [
            Table(["prompt", "PSNR", "IoU", "colour", "shape"], rows, caption, digits=3),
            Verdict(
                both == 1, "Every held-out scene has the colour and shape asked for (Fig. 4.4)."
            ),
            Figure.from_file(sheet, "All held-out scenes, each from four sides."),
        ],
    )


def live_section(
    report_dir: Path, quick: bool, *, teaching: Any = None, distilling: Any = None
) -> Section:
    """One teacher by score distillation, and a short distillation from it and from exact scenes.

    Args:
        report_dir: where runs and images go.
        quick: a minute each; else as the presets say.
        teaching: a TeachConfig in place of the preset's.
        distilling: a DistillConfig in place of the preset's.
    """
    from hyperfields.config import LaunchConfig
    from hyperfields.data.teachers import read_teachers
    from hyperfields.data.views import procedural_views
    from hyperfields.output.sheet import write_contact_sheet
    from hyperfields.plots import training_figure
    from hyperfields.presets import procedural_cpu, procedural_cpu_short, teacher_cpu
    from hyperfields.training.distillation import distill, training_cameras
    from hyperfields.training.score_distillation import teach
    from priors_shared.runs import Run, read_metrics

    taught: Any = teaching or replace(teacher_cpu(), prompt=LIVE)
    config: Any = distilling or (procedural_cpu_short() if quick else procedural_cpu())
    if quick:
        taught = replace(taught, steps=min(taught.steps, _TEACHER_UPDATES))
        config = replace(config, steps=min(config.steps, _UPDATES), log_every=5)
    where = LaunchConfig(accelerator="cpu")
    live = report_dir / "live"
    shutil.rmtree(live, ignore_errors=True)  # what an earlier report left
    with Run.create(
        live / "teachers" / "0", {}, command="reproduce", tensorboard=False, quiet=True
    ) as run_of:
        teacher = teach(taught, where, run_of)
    write_contact_sheet([teacher], [taught.prompt], live / "teacher.png", size=96, samples=48)

    cameras = training_cameras(config)
    teachers = procedural_views([p for p in config.prompts if p != taught.prompt], cameras)
    teachers |= read_teachers(live / "teachers", cameras)
    with Run.create(
        live / "distill", {}, command="reproduce", tensorboard=False, quiet=True
    ) as run_of:
        model = distill(config, teachers, where, run_of)
    metrics = read_metrics(live / "distill")
    figure: Any = training_figure(metrics, "psnr", title="Distillation, live")
    shown = model.prompts[:: max(1, len(model.prompts) // 4)][:4]
    write_contact_sheet(
        model.generate_all(shown), list(shown), live / "scenes.png", size=64, samples=48
    )
    return Section(
        "Both stages, live",
        [
            f"Stage 1 while this report was made: {taught.steps} steps of score distillation (Eq. 4.1) "
            "by the exact denoiser of the scene's renders. It holds its target, so this checks the pipeline "
            "and shows no generative power.",
            Figure.from_file(live / "teacher.png", "The teacher, from four sides."),
            f"Stage 2: {config.steps} steps of Algorithm 3 from random weights, on that teacher and the "
            "exact scenes. Enough to see the loss fall, not for good scenes.",
            Verdict(
                metrics[-1]["psnr"] > metrics[0]["psnr"],
                "Distillation improves from its first steps.",
            ),
            Figure.from_matplotlib(figure),
            Figure.from_file(live / "scenes.png", f"Scenes after {config.steps} steps."),
        ],
    )


def stored_sections(folder: Path) -> Sequence[Section]:
    """The long CPU runs' results, where the repository (or --full) holds them."""
    from hyperfields.experiments import EXPERIMENTS
    from priors_shared.reports import comparison_table, read_result

    sections = []
    for name in EXPERIMENTS:
        path = folder / f"{name}-cpu.json"
        if path.is_file():
            result = read_result(path)
            parts: list[Any] = [
                result["claim"],
                comparison_table(result["rows"], result["thesis"] or {}, digits=3),
            ]
            parts += [Figure.from_file(p, p.stem) for p in sorted(folder.glob(f"{name}-cpu*.png"))]
            sections.append(Section(f"Stored: {name}", parts, folded=True))
    return sections
