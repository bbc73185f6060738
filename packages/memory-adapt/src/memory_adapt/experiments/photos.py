"""Learners of photos against centroids on the same encoder (not in the thesis): held-out classes, online protocol.

All are evaluated on the same streams, so that differences are paired. Two training sets: `photos`, which holds none
of any test's classes, and each CIFAR split's own training classes. Nothing was chosen on test classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memory_adapt.config import (
    DEFAULT_ENCODER,
    CentroidsConfig,
    PhotoConfig,
    PhotoCPMConfig,
    PhotoMemoryConfig,
    PhotoOPNConfig,
)
from memory_adapt.data.photos import PACS_DOMAINS, PHOTOS, FeatureSet, load_features
from memory_adapt.models.photos import PhotoLearner
from memory_adapt.models.registry import config_to_json
from memory_adapt.pretrained import OnlineLearner
from memory_adapt.training.online import save_learner
from memory_adapt.training.photos import PhotoTraining, train_photos
from priors_shared.encoders import Encoder, load_encoder
from priors_shared.episodes import OnlineEpisodeSampler, generator_for
from priors_shared.experiments import Experiment, Lab
from priors_shared.files import write_atomically
from priors_shared.reports import Cell, Measured, Table
from priors_shared.runs import Run
from priors_shared.statistics import mean_confidence_interval

CENTROIDS, WHITENED, PROJECTED = "nearest centroids", "whitened", "projected"
REFERENCES = (CENTROIDS, WHITENED, PROJECTED)
ARMS: dict[str, PhotoConfig] = {
    CENTROIDS: CentroidsConfig(),
    WHITENED: CentroidsConfig(metric="whitened"),
    PROJECTED: CentroidsConfig(metric="projected", width=128),
    "OPN": PhotoOPNConfig(),
    "CPM": PhotoCPMConfig(),
    "labelled layers": PhotoMemoryConfig(),
}
TESTS: dict[str, tuple[tuple[str, str], ...]] = {
    "CIFAR-FS": (("cifar-fs", "test"),),
    "FC100": (("fc100", "test"),),
    "Tiny-ImageNet": (("tiny-imagenet", "test"),),
    "PACS": tuple((f"pacs-{domain}", "all") for domain in PACS_DOMAINS),
}
"""Data sets and splits of each; streams are of one of them, as many of each."""
OWN = {"CIFAR-FS": "cifar-fs", "FC100": "fc100"}
"""Tests with training classes of their own."""
TEST_SEED = 20_001
ALL = "1 shot or more"


@dataclass(frozen=True, kw_only=True)
class PhotoSizes:
    """How much is trained and measured."""

    training: PhotoTraining = field(default_factory=PhotoTraining)
    encoder: str = DEFAULT_ENCODER
    ways: int = 5
    samples: int = 10
    """images of each class in a stream"""
    shots: tuple[int, ...] = (1, 5)
    streams: int = 400
    """of each test, the same for all learners"""
    own: bool = False
    """also train on each CIFAR split's own training classes"""


@dataclass(frozen=True, kw_only=True)
class Photos(Experiment):
    """Every arm, every seed, on every test."""

    id: str = "photos"
    claim: str = (
        "a learned memory beats centroids of the same frozen encoder on photos of held-out classes"
    )
    seeds: Sequence[int] = (0, 1, 2)
    core_hours: float | None = 0.05
    sizes: PhotoSizes = field(default_factory=PhotoSizes)

    @classmethod
    def of(cls, preset: str) -> Photos:
        """In a preset's sizes; both presets have the same."""
        return cls(preset=preset)

    def run(self, lab: Lab) -> None:
        """Train what is missing, evaluate on the tests, write rows and a table."""
        encoder = load_encoder(self.sizes.encoder)
        cache = lab.runs / "features"
        trained: dict[str, dict[str, dict[int, PhotoLearner]]] = {}
        for name in (PHOTOS, *(OWN.values() if self.sizes.own else ())):
            learners = self._learners(lab, name, encoder, cache)
            if learners:
                trained[name] = learners
        if not trained or lab.planned is not None:
            return
        rows: list[dict[str, Any]] = []
        for test, parts in TESTS.items():
            data = [load_features(*part, encoder, cache=cache) for part in parts]
            for name, learners in trained.items():
                if name in (PHOTOS, OWN.get(test)):
                    rows += self._rows(test, name, data, learners)
        self.write(
            lab,
            rows,
            config={"sizes": asdict(self.sizes), **{k: config_to_json(v) for k, v in ARMS.items()}},
            seeds=self.seeds,
            data=f"test classes, {self.sizes.streams} balanced streams of {self.sizes.ways} x "
            f"{self.sizes.samples} images, labels one step late; the encoder was trained on ImageNet, whose "
            "classes overlap these",
        )
        table = photos_table(rows, self.measures).to_markdown() + "\n"
        write_atomically(self.path(lab, suffix="md"), table)

    def _learners(
        self, lab: Lab, data: str, encoder: Encoder, cache: Path
    ) -> dict[str, dict[int, PhotoLearner]]:
        """Those of a training set, by arm and seed; of the references without a draw one stands for all seeds."""
        learners: dict[str, dict[int, PhotoLearner]] = {}
        loaded: list[FeatureSet] = []

        def features() -> FeatureSet:
            if not loaded:
                loaded.append(load_features(data, "train", encoder, cache=cache))
            return loaded[0]

        for arm, config in ARMS.items():
            config = replace(config, encoder=self.sizes.encoder, features=encoder.features)
            sizes = self.sizes.training
            if arm in (CENTROIDS, WHITENED):
                sizes = replace(sizes, steps=0)
            if isinstance(config, CentroidsConfig) and arm != PROJECTED:
                config = replace(config, width=encoder.features)
            for seed in self.seeds if sizes.steps else self.seeds[:1]:
                folder = lab.runs / "photos" / data / f"{arm.replace(' ', '-')}-{seed}"
                record = {
                    "dataset": data,
                    "seed": seed,
                    "model": config_to_json(config),
                    "training": asdict(sizes),
                }

                def train(
                    run: Run,
                    config: PhotoConfig = config,
                    sizes: PhotoTraining = sizes,
                    seed: int = seed,
                    record: Mapping[str, Any] = record,
                ) -> None:
                    model = train_photos(config, features(), sizes, seed=seed)
                    save_learner(run.out / "model", model, trained=record)

                if lab.has(folder, record, train):
                    model = OnlineLearner.from_pretrained(folder / "model").model
                    assert isinstance(model, PhotoLearner)
                    learners.setdefault(arm, {})[seed] = model
        return learners

    def _rows(
        self,
        test: str,
        trained_on: str,
        data: Sequence[FeatureSet],
        learners: Mapping[str, Mapping[int, PhotoLearner]],
    ) -> list[dict[str, Any]]:
        """A row for each arm: percent at each number of shots, and differences to the references."""
        scores = {
            arm: {seed: self.accuracies(model, data) for seed, model in models.items()}
            for arm, models in learners.items()
        }
        rows = []
        for arm, by_seed in scores.items():
            row: dict[str, Any] = {"test": test, "trained on": trained_on, "learner": arm}
            for measure in self.measures:
                means = [100 * float(s[measure].mean()) for s in by_seed.values()]
                row[measure] = Measured.over_seeds(means)
                row[f"{measure} by seed"] = dict(zip(by_seed, means, strict=True))
                own = np.mean([s[measure] for s in by_seed.values()], axis=0)
                for other in (r for r in REFERENCES if r in scores and r != arm):
                    theirs = np.mean([s[measure] for s in scores[other].values()], axis=0)
                    difference = mean_confidence_interval(100 * (own - theirs))
                    row[f"{measure} less {other}"] = Measured(
                        difference.mean, difference.half_width
                    )
            rows.append(row)
        return rows

    @property
    def measures(self) -> tuple[str, ...]:
        """What is measured of a stream: accuracy at each number of shots, and of all images after a class' first."""
        return (*(f"{shot}-shot" for shot in self.sizes.shots), ALL)

    @torch.no_grad()
    def accuracies(
        self, model: PhotoLearner, data: Sequence[FeatureSet], batch: int = 50
    ) -> dict[str, np.ndarray]:
        """A stream's value of each measure; the streams depend on the sizes alone."""
        sizes = self.sizes
        ways, model.ways = model.ways, sizes.ways  # no weight depends on it, the state's size does
        parts: dict[str, list[np.ndarray]] = {measure: [] for measure in self.measures}
        for place, part in enumerate(data):
            sampler = OnlineEpisodeSampler(
                part.items, ways=sizes.ways, shots=sizes.samples, delay=model.delay
            )
            each = sizes.streams // len(data)
            for start in range(0, each, batch):
                generator = generator_for(TEST_SEED, place, start)
                streams = sampler.sample_streams(min(batch, each - start), generator)
                logits, _ = model.forward_features(part.features[streams.items], streams.feedback)
                right = logits.argmax(-1) == streams.labels
                counted = {f"{shot}-shot": streams.seen == shot for shot in sizes.shots}
                for measure, at in (counted | {ALL: streams.seen > 0}).items():
                    parts[measure].append(((right & at).sum(0) / at.sum(0)).numpy())
        model.ways = ways
        return {measure: np.concatenate(values) for measure, values in parts.items()}


def photos_table(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> Table:
    """A line for each test, training set and learner."""
    lines: list[list[Cell]] = []
    for row in rows:
        cells: list[Cell] = [row["test"], row["trained on"], row["learner"]]
        cells += [row[m] for m in measures]
        for other in REFERENCES:
            pairs = [row.get(f"{m} less {other}") for m in measures]
            cells.append(
                " / ".join("-" if p is None else f"{p.mean:+.1f} ± {p.spread:.1f}" for p in pairs)
            )
        lines.append(cells)
    return Table(
        ["test", "trained on", "learner", *measures] + [f"less {other}" for other in REFERENCES],
        lines,
        caption="Percent, online protocol, mean ± standard deviation over seeds; differences are paired by stream, "
        "± 95 % interval over streams. The encoder was trained on ImageNet, whose classes overlap the tests'.",
    )
