"""Fig. 4.11: fields with part labels from a few views of a novel object, in one forward pass (4.4.8).

Claim: the generated feature fields segment novel scenes, consistently between views, without the optimisation that
each scene needs otherwise. The thesis has pictures (ShapeNet), no numbers. Here: procedural objects of random
proportions, one-hot part labels for features. The baseline gets the given views' exact labels; the network
does not, it was trained on other objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hyperfields.config import LaunchConfig, SegmentConfig
from hyperfields.presets import SEGMENT
from hyperfields.segmentation.evaluation import evaluate_segmentation, write_novel_scenes
from hyperfields.segmentation.pretrained import HyperSegmentationFields
from hyperfields.segmentation.training import train_segmentation
from priors_shared.checkpoints import has_weights
from priors_shared.console import Progress
from priors_shared.devices import hardware
from priors_shared.reports import Measured, write_result
from priors_shared.runs import Run
from priors_shared.statistics import compare_paired

SEEDS = (0,)
SCENES = 12
BASELINE = 400
"""Updates of a field of its own."""
PRESETS: Mapping[str, str] = {"cpu": "segmentation_cpu", "paper": "segmentation_cpu"}
CLAIM = "feature fields of novel scenes come in one forward pass, consistent between views"


def run(
    preset: str = "cpu",
    out: Path = Path("results"),
    quick: bool = False,
    runs: Path = Path("runs"),
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Train what is missing (unless quick), measure on novel scenes; write the JSON and a contact sheet.

    Nothing is written where quick finds no trained run.
    """
    make: Callable[[], SegmentConfig] = SEGMENT[PRESETS[preset]]
    per_scene: dict[str, list[dict[str, float]]] = {}
    configs: dict[str, Any] = {}
    for seed in seeds:
        config = replace(make(), seed=seed)
        folder = runs / PRESETS[preset] / str(seed)
        if not has_weights(folder / "model"):
            if quick:
                continue
            with Run.create(
                folder, asdict(config), command=f"hyperfields train into {folder.name}", resume=True
            ) as run_:
                train_segmentation(config, LaunchConfig(), run_)
        model = HyperSegmentationFields.from_pretrained(folder)
        with Progress(SCENES, f"figure 4.11, seed {seed}") as progress:
            found = evaluate_segmentation(
                model, config, scenes=SCENES, baseline_iterations=BASELINE, each=progress.advance
            )
        for name, scores in found.items():
            per_scene.setdefault(name, []).extend(scores)
        if not configs:
            write_novel_scenes(model, config, out / f"figure-4.11-{preset}-scenes.png")
        configs[str(seed)] = asdict(config)
    if not per_scene:
        return
    names = list(per_scene)
    measures = list(per_scene[names[0]][0])
    rows: list[dict[str, Any]] = [
        {"model": name} | {m: Measured.over_seeds([s[m] for s in scores]) for m in measures}
        for name, scores in per_scene.items()
    ]
    comparisons = {
        m: asdict(compare_paired(*([s[m] for s in per_scene[name]] for name in names)))
        for m in measures
    }
    write_result(
        out / f"figure-4.11-{preset}.json",
        experiment="figure-4.11",
        claim=CLAIM,
        rows=rows,
        config=configs,
        seeds=list(seeds),
        data=f"procedural objects of random proportions: 240 to train, {SCENES} novel ones a seed; spread over scenes",
        hardware=hardware(),
        command=f"hyperfields reproduce figure-4.11 --preset {preset}",
        thesis={},
        extra={"per_scene": per_scene, "comparisons": comparisons, "baseline_updates": BASELINE},
    )
