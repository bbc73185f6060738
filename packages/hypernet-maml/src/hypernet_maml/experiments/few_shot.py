"""Tables 3.6 and 3.7, Figures 3.5 and 3.6: few-shot tasks within a domain and in another one.

A network is pre-trained on a data set's training classes, meta-trained on tasks of these classes, and
tested on tasks of unseen classes: of the same data set (Table 3.6) or of another one (Table 3.7). Plain
networks learn by MAML, hypernetworks by Algorithm 2; the rest is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hypernet_maml.config import LaunchConfig, MetaConfig
from hypernet_maml.experiments.classification import trained
from hypernet_maml.experiments.evidence import (
    ARM_TITLES,
    Claim,
    Compared,
    Curves,
    Evidence,
    MovementBars,
    PerSeed,
    Picture,
    SeedCurves,
    hyper_beats_plain,
)
from hypernet_maml.presets import META
from priors_shared.experiments import Lab
from priors_shared.files import write_atomically
from priors_shared.runs import Run, read_metrics
from priors_shared.statistics import compare_paired

SHOTS = (1, 5)
_ALGORITHMS: dict[str, Literal["maml", "hyper-maml"]] = {"plain": "maml", "unshared": "hyper-maml"}
MOVED_TASKS = 20
TEST_SEED, TEST_TASKS = 20_000, {"cpu": 200, "paper": 1000}


@dataclass(frozen=True)
class Setting:
    """Pre-training and meta-training presets of a network, and the data set of the test tasks."""

    network: str
    pretraining: str
    metatraining: str
    test: tuple[str, str]
    """Data set and split."""


@dataclass(frozen=True)
class FewShotTable:
    """A table: its settings by preset, what the thesis claims and reports."""

    title: str
    settings: Mapping[str, tuple[Setting, ...]]
    claim: str
    thesis: Mapping[str, Mapping[str, float]]


def column(shots: int) -> str:
    """Heading of a table's column."""
    return f"{shots}-shot (%)"


_CPU = Setting("WRN-16-1", "fc100_hyperwrn_16_1_cpu", "fc100_5way_cpu", ("fc100", "test"))
TABLES = {
    "table-3.6": FewShotTable(
        "Table 3.6: 5-way tasks of unseen classes of the same data set",
        {
            "cpu": (_CPU,),
            "paper": (
                Setting(
                    "ResNet-12",
                    "miniimagenet_hyperresnet12",
                    "miniimagenet_5way",
                    ("miniimagenet", "test"),
                ),
            ),
        },
        "within a domain, hypernetworks beat plain networks (the thesis: at 1 shot alone, and by little)",
        {
            "ResNet-12": {column(1): 57.65, column(5): 74.33},
            "HyperResNet-12": {column(1): 58.00, column(5): 73.00},
        },
    ),
    "table-3.7": FewShotTable(
        "Table 3.7: 5-way tasks of another data set",
        {
            "cpu": (replace(_CPU, test=("tiny-imagenet", "all")),),
            "paper": tuple(
                Setting(
                    f"WRN-{size}",
                    f"fc100_hyperwrn_{size.replace('-', '_')}",
                    "fc100_5way",
                    ("miniimagenet", "test"),
                )
                for size in ("16-4", "28-4")
            ),
        },
        "across domains, hypernetworks beat plain networks",
        {
            "WRN-16-4": {column(1): 40.75, column(5): 53.20},
            "HyperWRN-16-4": {column(1): 43.17, column(5): 58.66},
            "WRN-28-4": {column(1): 39.65, column(5): 49.80},
            "HyperWRN-28-4": {column(1): 43.56, column(5): 58.30},
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class FewShot(Compared):
    """One of TABLES."""

    spec: FewShotTable
    tasks: int
    """test tasks of each learner"""

    def run(self, lab: Lab) -> None:
        """Train what is missing, test it, and write the table as JSON and Markdown."""
        measured: dict[str, dict[str, PerSeed]] = {}
        per_task: dict[str, dict[str, dict[int, list[float]]]] = {}
        configs: dict[str, Any] = {}
        claims = []
        for setting in self.spec.settings[self.preset]:
            for learner in _trained(lab, self.seeds, setting):
                accuracies = _tested(setting, learner, self.tasks)
                at = column(learner.config.shots)
                configs[f"{learner.row}, {at}"] = asdict(learner.config)
                mean = 100 * sum(accuracies) / len(accuracies)
                measured.setdefault(learner.row, {}).setdefault(at, {})[learner.seed] = mean
                per_task.setdefault(learner.row, {}).setdefault(at, {})[learner.seed] = accuracies
            claims.append(hyper_beats_plain(setting.network, self.spec.claim))
        self.write_evidence(
            lab,
            Evidence(measured, self.spec.thesis, facts={}),
            claims,
            title=f"{self.spec.title}. Accuracy on {self.tasks} test tasks a seed, the same for all",
            config=configs,
            data="; ".join(
                f"{s.test[0]}, {s.test[1]} classes" for s in self.spec.settings[self.preset]
            ),
            note="The thesis tests on MiniImageNet.",
            paired_by_task=_paired_by_task(claims, per_task),
        )


def table(name: str, preset: str) -> FewShot:
    """One of TABLES in a preset's sizes."""
    spec = TABLES[name]
    return FewShot(id=name, claim=spec.claim, preset=preset, spec=spec, tasks=TEST_TASKS[preset])


class _OfTable37(Compared):
    """A figure about the learners of Table 3.7."""

    @property
    def setting(self) -> Setting:
        """The first of the table."""
        return TABLES["table-3.7"].settings[self.preset][0]

    def _write(
        self,
        lab: Lab,
        measured: Mapping[str, Mapping[str, PerSeed]],
        *,
        title: str,
        picture: Picture,
    ) -> None:
        config = META[self.setting.metatraining]()
        self.write_evidence(
            lab,
            Evidence(measured, thesis={}, facts={}),
            [hyper_beats_plain(self.setting.network, self.claim)],
            title=title,
            config=asdict(config),
            data=config.dataset,
            note="The thesis shows a plot only.",
            picture=picture,
        )


@dataclass(frozen=True, kw_only=True)
class Figure35(_OfTable37):
    """How far inner loops move the convolutions that hypernetworks generate, and the same plain ones."""

    id: str = "figure-3.5"
    claim: str = "generated weights move further in the inner loop than plain ones"

    def run(self, lab: Lab) -> None:
        """Train what is missing, and write the movement of each stage."""
        measured: dict[str, dict[str, PerSeed]] = {}
        moved: dict[str, dict[int, dict[str, float]]] = {}
        for learner in _trained(lab, self.seeds, self.setting):
            if learner.config.shots != SHOTS[-1]:
                continue
            layers = _moved(learner)
            moved.setdefault(learner.row, {})[learner.seed] = layers
            for stage in dict.fromkeys(name.split(".")[0] for name in layers):
                values = [value for name, value in layers.items() if name.startswith(f"{stage}.")]
                row = measured.setdefault(learner.row, {}).setdefault(f"{stage} (%)", {})
                row[learner.seed] = 100 * sum(values) / len(values)
        self._write(
            lab,
            measured,
            title="Figure 3.5: |dW| / |W| in the inner loop, mean over the convolutions of a stage that "
            f"hypernetworks generate and over {MOVED_TASKS} test tasks of {SHOTS[-1]} shots",
            picture=MovementBars(moved),
        )


@dataclass(frozen=True, kw_only=True)
class Figure36(_OfTable37):
    """Accuracy on validation classes over meta-training."""

    id: str = "figure-3.6"
    claim: str = "hypernetworks converge better than plain networks"

    def run(self, lab: Lab) -> None:
        """Train what is missing, and write the curves."""
        measured: dict[str, dict[str, PerSeed]] = {}
        curves: dict[str, SeedCurves] = {}
        for learner in _trained(lab, self.seeds, self.setting):
            shots = learner.config.shots
            points = [
                (m["step"], 100 * m["val_accuracy"])
                for m in read_metrics(learner.folder)
                if "val_accuracy" in m
            ]
            curves.setdefault(f"{learner.row}, {shots}-shot", {})[learner.seed] = points
            row = measured.setdefault(learner.row, {}).setdefault(column(shots), {})
            row[learner.seed] = sum(value for _, value in points) / len(points)
        self._write(
            lab,
            measured,
            title="Figure 3.6: accuracy on tasks of validation classes, mean over the validations of a training",
            picture=Curves(curves, x="outer updates", y="accuracy on validation classes (%)"),
        )


def figure_3_5(preset: str) -> Figure35:
    """In a preset's sizes."""
    return Figure35(preset=preset)


def figure_3_6(preset: str) -> Figure36:
    """In a preset's sizes."""
    return Figure36(preset=preset)


@dataclass(frozen=True)
class _Learner:
    row: str
    seed: int
    config: MetaConfig
    folder: Path


def _trained(lab: Lab, seeds: Sequence[int], setting: Setting) -> Iterator[_Learner]:
    """The meta-trained learners of both arms, all shots and seeds, that are there."""
    for arm, algorithm in _ALGORITHMS.items():
        for seed, _, begun in trained(lab, seeds, setting.pretraining, arm, begins=True):
            for shots in SHOTS:
                base = META[setting.metatraining]()
                inner = replace(base.inner, algorithm=algorithm)
                config = replace(base, inner=inner, shots=shots, seed=seed)
                row = ARM_TITLES[arm].format(setting.network)
                folder = lab.runs / setting.metatraining / f"{row.lower()}-{shots}shot-{seed}"
                if lab.has(folder, config, partial(_metatrain, config, begun)):
                    yield _Learner(row, seed, config, folder)


def _metatrain(config: MetaConfig, begun: Path, run: Run) -> None:
    from hypernet_maml.pretrained import load_network
    from hypernet_maml.training.metatraining import metatrain

    net, network, _ = load_network(begun)
    metatrain(config, net, network, LaunchConfig(), run)


def _tested(setting: Setting, learner: _Learner, count: int) -> list[float]:
    """Accuracy on each test task; kept in the run folder, as it takes minutes."""
    dataset, split = setting.test
    path = learner.folder / f"test-{dataset}-{split}-{count}.json"
    if not path.is_file():
        from hypernet_maml.data.sources import load_images
        from hypernet_maml.pretrained import FewShotLearner
        from hypernet_maml.training.metatraining import evaluate_learner
        from priors_shared.console import Progress
        from priors_shared.episodes import FewShotSampler

        loaded = FewShotLearner.from_pretrained(learner.folder)
        images = load_images(dataset, split, None, loaded.network)
        shots, queries = learner.config.shots, learner.config.queries
        sampler = FewShotSampler(images, ways=loaded.ways, shots=shots, queries=queries)
        with Progress(count, f"test {learner.folder.name}") as progress:
            found = evaluate_learner(
                loaded.learner,
                sampler,
                tasks=count,
                seed=TEST_SEED + learner.seed,
                each=lambda done: progress.advance(done),
            )
        write_atomically(path, json.dumps(found.tolist()) + "\n")
    return [float(value) for value in json.loads(path.read_text())]


def _moved(learner: _Learner) -> dict[str, float]:
    """|dW| / |W| of each convolution that a hypernetwork generates, or would in a plain network."""
    from torch import nn

    from hypernet_maml.data.sources import load_images
    from hypernet_maml.models.hyperconv import reparameterize
    from hypernet_maml.pretrained import FewShotLearner
    from hypernet_maml.training.metatraining import inner_movement
    from priors_shared.episodes import FewShotSampler

    loaded = FewShotLearner.from_pretrained(learner.folder)
    images = load_images(learner.config.dataset, "test", None, loaded.network)
    shots = learner.config.shots
    sampler = FewShotSampler(images, ways=loaded.ways, shots=shots, queries=1)
    found = inner_movement(loaded.learner, sampler, tasks=MOVED_TASKS)
    plain = reparameterize(loaded.net)
    names = {
        f"{name}.weight"
        for name, conv in plain.named_modules()
        if isinstance(conv, nn.Conv2d) and loaded.net.hyper_layers(name, conv)
    }
    return {name.removesuffix(".weight"): value for name, value in found.items() if name in names}


def _paired_by_task(
    claims: list[Claim], per_task: Mapping[str, Mapping[str, Mapping[int, list[float]]]]
) -> list[dict[str, Any]]:
    """The same comparisons over all test tasks: what the tasks' scatter says, not that of trainings."""
    tested = []
    for claim in claims:
        better, worse = (per_task.get(side[0], {}) for side in (claim.better, claim.worse))
        for at in sorted(set(better) & set(worse)):
            seeds = sorted(set(better[at]) & set(worse[at]))
            one, two = ([100 * a for s in seeds for a in side[at][s]] for side in (better, worse))
            if seeds:
                found = asdict(compare_paired(one, two))
                tested.append({"text": claim.text, "column": at, "tasks": len(one), **found})
    return tested
