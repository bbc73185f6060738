"""Fig. 4.11: fields with part labels from a few views of a novel object, in one forward pass (4.4.8).

Claim: the generated feature fields segment novel scenes, consistently between views, without the optimisation that
each scene needs otherwise. The thesis has images (ShapeNet), no numbers. Here: procedural objects of random
proportions, one-hot part labels for features. The baseline gets the given views' exact labels; the network
does not, it was trained on other objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from hyperfields.config import LaunchConfig, SegmentConfig
from hyperfields.presets import segmentation_cpu
from hyperfields.segmentation.evaluation import evaluate_segmentation, write_novel_scenes
from hyperfields.segmentation.pretrained import HyperSegmentationFields
from hyperfields.segmentation.training import train_segmentation
from priors_shared.console import Progress
from priors_shared.experiments import Experiment, Lab, compared, rows_over_seeds


@dataclass(frozen=True, kw_only=True)
class Figure411(Experiment):
    """Novel scenes in one forward pass, against a field of its own fitted to each."""

    id: str = "figure-4.11"
    claim: str = "feature fields of novel scenes come in one forward pass, consistent between views"
    seeds: Sequence[int] = (0,)
    config: SegmentConfig
    scenes: int = 12
    """novel scenes of each seed"""
    baseline_steps: int = 400
    """of a field of its own"""

    def run(self, lab: Lab) -> None:
        """Train what is missing, measure on novel scenes; write the JSON and a contact sheet."""
        scores: dict[str, list[dict[str, float]]] = {}
        configs: dict[str, Any] = {}
        for seed in self.seeds:
            config = replace(self.config, seed=seed)
            folder = lab.runs / "segmentation_cpu" / str(seed)
            if not lab.has(folder, config, partial(train_segmentation, config, LaunchConfig())):
                continue
            model = HyperSegmentationFields.from_pretrained(folder)
            with Progress(self.scenes, f"figure 4.11, seed {seed}") as progress:
                measured = evaluate_segmentation(
                    model,
                    config,
                    scenes=self.scenes,
                    baseline_steps=self.baseline_steps,
                    each=progress.advance,
                )
            for name, of_scenes in measured.items():
                scores.setdefault(name, []).extend(of_scenes)
            if not configs:
                write_novel_scenes(model, config, self.path(lab, "scenes"))
            configs[str(seed)] = asdict(config)
        if not scores:
            return
        by_scene = {name: dict(enumerate(of_scenes)) for name, of_scenes in scores.items()}
        self.write(
            lab,
            rows_over_seeds(by_scene),
            config=configs,
            seeds=list(self.seeds),
            data=f"procedural objects of random proportions: {self.config.scenes} to train, {self.scenes} novel ones a "
            "seed; spread over scenes",
            per_scene=scores,
            comparisons=compared(*by_scene.values()),
            baseline_steps=self.baseline_steps,
        )


def experiment(preset: str = "cpu") -> Figure411:
    """In a preset's sizes: the thesis' are not known, so both are the same."""
    return Figure411(preset=preset, config=segmentation_cpu())
