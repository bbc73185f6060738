"""Figures 3.3 and 3.4: hypernetworks with and without a bias, through the trainings of Table 3.1."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hypernet_maml.experiments.classification import DATA, HOURS, WRNS, row_title, trained
from hypernet_maml.experiments.evidence import (
    Claim,
    Compared,
    Curves,
    Evidence,
    PerSeed,
    SeedCurves,
)
from priors_shared.experiments import Lab
from priors_shared.runs import read_metrics


@dataclass(frozen=True)
class BiasFigure:
    """A figure that follows hypernetworks with and without a bias through training."""

    title: str
    claim: str
    key: str
    """Of the logged metrics; a prefix that ends in "/" stands for the geometric mean of those below."""
    scale: float
    y: str
    higher: str
    """The arm that the thesis has above the other."""


_BIAS_ARMS = ("unshared-no-l2-bias", "unshared-no-l2")
FIGURES = {
    "figure-3.3": BiasFigure(
        "Figure 3.3: |E| / |grad E|, geometric mean over embeddings; high is slow",
        "a bias in the hypernetwork makes embeddings move too little for their size",
        "ratio/",
        1.0,
        "|E| / |grad E|",
        higher="unshared-no-l2-bias",
    ),
    "figure-3.4": BiasFigure(
        "Figure 3.4: accuracy on test images",
        "without a bias in the hypernetwork training converges faster",
        "val_accuracy",
        100.0,
        "test accuracy (%)",
        higher="unshared-no-l2",
    ),
}


@dataclass(frozen=True, kw_only=True)
class BiasCurves(Compared):
    """One of FIGURES: the runs of Table 3.1, over epochs."""

    spec: BiasFigure

    def run(self, lab: Lab) -> None:
        """Train what is missing, and write the curves."""
        spec = self.spec
        network, columns = next(iter(WRNS[self.preset].items()))
        base = next(iter(columns.values()))
        curves: dict[str, SeedCurves] = {}
        measured: dict[str, dict[str, PerSeed]] = {}
        configs: dict[str, Any] = {}
        summary = f"{spec.y}, mean over training"
        for arm in _BIAS_ARMS:
            row = row_title(arm, network)
            for seed, config, folder in trained(lab, self.seeds, base, arm):
                configs[row] = asdict(config)
                points = _curve(read_metrics(folder), spec)
                curves.setdefault(row, {})[seed] = points
                mean = sum(value for _, value in points) / len(points)
                measured.setdefault(row, {}).setdefault(summary, {})[seed] = mean
        lower = next(arm for arm in _BIAS_ARMS if arm != spec.higher)
        above, below = ((row_title(arm, network),) for arm in (spec.higher, lower))
        self.write_evidence(
            lab,
            Evidence(measured, thesis={}, facts={}),
            [Claim(f"{network}: {spec.claim}", above, below)],
            title=spec.title,
            config=configs,
            data=DATA,
            note="The thesis shows curves only.",
            picture=Curves(curves, x="epochs", y=spec.y, log_y=spec.key.endswith("/")),
        )


def figure(name: str, preset: str) -> BiasCurves:
    """One of FIGURES in a preset's sizes."""
    spec = FIGURES[name]
    return BiasCurves(id=name, claim=spec.claim, preset=preset, spec=spec, core_hours=HOURS[preset])


def _curve(metrics: Sequence[Mapping[str, Any]], spec: BiasFigure) -> list[tuple[int, float]]:
    points = []
    for logged in metrics:
        if spec.key.endswith("/"):
            values = [value for key, value in logged.items() if key.startswith(spec.key)]
        else:
            values = [logged[spec.key]] if spec.key in logged else []
        if values:
            points.append((logged["step"], spec.scale * statistics.geometric_mean(values)))
    return points
