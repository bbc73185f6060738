"""Tables 3.1 to 3.5, Figures 3.3 and 3.4: what makes hypernetworks train well, on CIFAR.

All arms of a table share data, budget and schedule. preset cpu: a twentieth of CIFAR-10 and small networks;
preset paper: the thesis' networks and schedules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hypernet_maml.config import StreamLaunchConfig, TrainConfig
from hypernet_maml.experiments.evidence import (
    Claim,
    Compared,
    Evidence,
    PerSeed,
)
from hypernet_maml.presets import TRAIN
from priors_shared.checkpoints import CONFIG
from priors_shared.experiments import Lab

Arm = Callable[[TrainConfig], TrainConfig]


def _plain(config: TrainConfig) -> TrainConfig:
    return replace(config, network=replace(config.network, sharing="none"))


def _shared(config: TrainConfig) -> TrainConfig:
    return replace(config, network=replace(config.network, sharing="stage"))


def _unshared(config: TrainConfig) -> TrainConfig:
    return config


def _without_l2(config: TrainConfig) -> TrainConfig:
    return replace(config, output_l2=0.0)


def _biased(config: TrainConfig) -> TrainConfig:
    return _without_l2(replace(config, network=replace(config.network, hyper_bias=True)))


def _averaged(config: TrainConfig) -> TrainConfig:
    """As in Table 3.5: half as many epochs again, averaged from where the plain run has 4 / 5 behind it."""
    return replace(config, epochs=config.epochs * 3 // 2, swa_from=config.epochs * 4 // 5)


ARMS: dict[str, Arm] = {
    "plain": _plain,
    "shared": _shared,
    "unshared": _unshared,
    "unshared-no-l2": _without_l2,
    "unshared-no-l2-bias": _biased,
    "plain-swa": lambda config: _averaged(_plain(config)),
    "unshared-swa": _averaged,
}
_TITLES = {
    "plain": "{}",
    "shared": "Hyper{} shared",
    "unshared": "Hyper{} unshared",
    "unshared-no-l2": "Hyper{} unshared, no output L2",
    "unshared-no-l2-bias": "Hyper{} unshared, no output L2, bias",
    "plain-swa": "{} + SWA",
    "unshared-swa": "Hyper{} unshared + SWA",
}
HOURS = {"cpu": 0.15, "paper": None}
DATA = "CIFAR-10 and CIFAR-100; JPEG-compressed copies where the packed file is read"
CIFAR10, CIFAR100, IMAGENET = "CIFAR-10 (%)", "CIFAR-100 (%)", "ImageNet (%)"

Networks = Mapping[str, Mapping[str, str]]
"""Title of a network to the column of a dataset to the training preset."""
WRNS: dict[str, Networks] = {
    "cpu": {"WRN-16-1": {CIFAR10: "cifar10_hyperwrn_16_1_cpu"}},
    "paper": {
        "WRN-40-2": {CIFAR10: "cifar10_hyperwrn_40_2", CIFAR100: "cifar100_hyperwrn_40_2"},
        "WRN-28-4": {CIFAR10: "cifar10_hyperwrn_28_4", CIFAR100: "cifar100_hyperwrn_28_4"},
    },
}
_RESNETS: dict[str, Networks] = {
    "cpu": {"ResNet-18, width 16": {CIFAR10: "cifar10_hyperresnet18_cpu"}},
    "paper": {
        "ResNet-18": {CIFAR10: "cifar10_hyperresnet18", CIFAR100: "cifar100_hyperresnet18"},
        "ResNet-34": {CIFAR10: "cifar10_hyperresnet34", CIFAR100: "cifar100_hyperresnet34"},
    },
}


@dataclass(frozen=True)
class ClassificationTable:
    """A table: its networks by preset, its arms, its claims about arms, the thesis' numbers."""

    title: str
    networks: Mapping[str, Networks]
    arms: tuple[str, ...]
    claims: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]
    """Text, arms that should be better, arms that should be worse; see `Claim`."""
    thesis: Mapping[str, Mapping[str, float]]


TABLES: dict[str, ClassificationTable] = {
    "table-3.1": ClassificationTable(
        "Table 3.1: the hypernetwork's bias",
        WRNS,
        ("unshared-no-l2-bias", "unshared-no-l2"),
        (
            (
                "removing the bias of the hypernetwork improves generalisation",
                ("unshared-no-l2",),
                ("unshared-no-l2-bias",),
            ),
        ),
        {
            "HyperWRN-40-2 unshared, no output L2, bias": {CIFAR10: 91.89, CIFAR100: 68.15},
            "HyperWRN-40-2 unshared, no output L2": {CIFAR10: 93.99, CIFAR100: 73.42},
            "HyperWRN-28-4 unshared, no output L2, bias": {CIFAR10: 92.96, CIFAR100: 70.73},
            "HyperWRN-28-4 unshared, no output L2": {CIFAR10: 94.72, CIFAR100: 76.03},
        },
    ),
    "table-3.2": ClassificationTable(
        "Table 3.2: an L2 penalty on the generated weights",
        WRNS,
        ("unshared-no-l2", "unshared"),
        (
            (
                "an L2 penalty on the generated weights improves generalisation",
                ("unshared",),
                ("unshared-no-l2",),
            ),
        ),
        {
            "HyperWRN-40-2 unshared, no output L2": {CIFAR10: 93.99, CIFAR100: 73.42},
            "HyperWRN-40-2 unshared": {CIFAR10: 95.20, CIFAR100: 76.77},
            "HyperWRN-28-4 unshared, no output L2": {CIFAR10: 94.72, CIFAR100: 76.03},
            "HyperWRN-28-4 unshared": {CIFAR10: 95.90, CIFAR100: 79.20},
        },
    ),
    "table-3.3": ClassificationTable(
        "Table 3.3: plain networks, one hypernetwork per stage, one per layer",
        WRNS,
        ("plain", "shared", "unshared"),
        (
            (
                "a hypernetwork per layer beats a plain network",
                ("unshared",),
                ("plain",),
            ),
            (
                "a hypernetwork per layer beats one per stage",
                ("unshared",),
                ("shared",),
            ),
        ),
        {
            "WRN-40-2": {CIFAR10: 94.80, CIFAR100: 76.06},
            "HyperWRN-40-2 shared": {CIFAR10: 95.00, CIFAR100: 75.70},
            "HyperWRN-40-2 unshared": {CIFAR10: 95.20, CIFAR100: 76.77},
            "WRN-28-4": {CIFAR10: 95.65, CIFAR100: 78.62},
            "HyperWRN-28-4 shared": {CIFAR10: 95.65, CIFAR100: 78.49},
            "HyperWRN-28-4 unshared": {CIFAR10: 95.90, CIFAR100: 79.20},
            "WRN-100-4": {CIFAR10: 95.90, CIFAR100: 79.23},
        },
    ),
    "table-3.4": ClassificationTable(
        "Table 3.4: residual networks",
        _RESNETS,
        ("plain", "unshared"),
        (("a hypernetwork per layer beats a plain network", ("unshared",), ("plain",)),),
        {
            "ResNet-18": {CIFAR10: 95.27, CIFAR100: 77.92, IMAGENET: 70.05},
            "HyperResNet-18 unshared": {CIFAR10: 95.52, CIFAR100: 78.81, IMAGENET: 70.01},
            "ResNet-34": {CIFAR10: 95.34, CIFAR100: 79.00, IMAGENET: 73.58},
            "HyperResNet-34 unshared": {CIFAR10: 95.62, CIFAR100: 79.30, IMAGENET: 73.87},
        },
    ),
    "table-3.5": ClassificationTable(
        "Table 3.5: stochastic weight averaging",
        WRNS,
        ("plain", "unshared", "plain-swa", "unshared-swa"),
        (
            (
                "a hypernetwork per layer beats a plain network when weights are averaged",
                ("unshared-swa",),
                ("plain-swa",),
            ),
            (
                "averaging gains more for hypernetworks than for plain networks",
                ("unshared-swa", "unshared"),
                ("plain-swa", "plain"),
            ),
        ),
        {
            "WRN-28-4": {CIFAR10: 95.65, CIFAR100: 78.62},
            "HyperWRN-28-4 unshared": {CIFAR10: 95.90, CIFAR100: 79.20},
            "WRN-28-4 + SWA": {CIFAR10: 95.86, CIFAR100: 80.76},
            "HyperWRN-28-4 unshared + SWA": {CIFAR10: 96.35, CIFAR100: 81.59},
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Classification(Compared):
    """One of TABLES."""

    spec: ClassificationTable

    def run(self, lab: Lab) -> None:
        """Train what is missing, and write the table as JSON and Markdown."""
        measured: dict[str, dict[str, PerSeed]] = {}
        facts: dict[str, dict[str, float]] = {}
        configs: dict[str, Any] = {}
        claims = []
        for network, columns in self.spec.networks[self.preset].items():
            for arm in self.spec.arms:
                row = row_title(arm, network)
                for column, base in columns.items():
                    accuracies = {}
                    for seed, config, folder in trained(lab, self.seeds, base, arm):
                        accuracies[seed] = 100 * final_accuracy(folder)
                        configs[f"{row}, {column}"] = asdict(config)
                        facts[row] = parameter_counts(config)
                    if accuracies:
                        measured.setdefault(row, {})[column] = accuracies
            for text, better, worse in self.spec.claims:
                sides = (tuple(row_title(a, network) for a in side) for side in (better, worse))
                claims.append(Claim(f"{network}: {text}", *sides))
        self.write_evidence(
            lab,
            Evidence(measured, self.spec.thesis, facts),
            claims,
            title=f"{self.spec.title}. Accuracy on test images, after the last epoch",
            config=configs,
            data=DATA,
            note="The thesis trains wider and deeper networks for 200 epochs (300 with averaging) on all images.",
        )


def table(name: str, preset: str) -> Classification:
    """One of TABLES in a preset's sizes."""
    spec = TABLES[name]
    claim = "; ".join(text for text, *_ in spec.claims)
    return Classification(id=name, claim=claim, preset=preset, spec=spec, core_hours=HOURS[preset])


def row_title(arm: str, network: str) -> str:
    """How an arm of a network is called in tables."""
    return _TITLES[arm].format(network)


def parameter_counts(config: TrainConfig) -> dict[str, float]:
    """Parameters while training and after export, in millions, as in Tables 3.3 to 3.5."""
    import torch

    from hypernet_maml.models.networks import build_network

    with torch.device("meta"):
        trained, exported = (
            sum(p.numel() for p in build_network(network).parameters()) / 1e6
            for network in (config.network, replace(config.network, sharing="none"))
        )
    return {"trained (M)": trained, "exported (M)": exported}


def final_accuracy(folder: Path) -> float:
    """Test accuracy of the network that a run ended with (the average, with weight averaging)."""
    record = json.loads((folder / "model" / CONFIG).read_text())
    return float(record["val_accuracy"])


def trained(
    lab: Lab, seeds: Sequence[int], base: str, arm: str, *, begins: bool = False
) -> Iterator[tuple[int, TrainConfig, Path]]:
    """The seeds of an arm that are trained, with configuration and run folder.

    begins: whether other trainings begin with what these end with.
    """
    from hypernet_maml.training.supervised import train

    for seed in seeds:
        config = replace(ARMS[arm](TRAIN[base]()), seed=seed)
        folder = lab.runs / base / f"{arm}-{seed}"
        if lab.has(folder, config, partial(train, config, StreamLaunchConfig()), base=begins):
            yield seed, config, folder
