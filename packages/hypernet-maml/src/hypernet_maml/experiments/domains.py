"""Table 3.8: domain generalisation on PACS, hypernetwork against plain network, both with RSC.

Both are pre-trained in the same way, then trained on three domains and tested on the fourth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from hypernet_maml.config import Domain, DomainConfig, LaunchConfig
from hypernet_maml.experiments.classification import trained
from hypernet_maml.experiments.evidence import (
    ARM_TITLES,
    Compared,
    Evidence,
    PerSeed,
    hyper_beats_plain,
)
from hypernet_maml.presets import DOMAIN
from priors_shared.experiments import Lab
from priors_shared.runs import Run

_PRESETS = {
    "cpu": ("tiny_imagenet_hyperresnet18_cpu", "pacs_hyperresnet18_cpu", "ResNet-18, width 16"),
    "paper": ("tiny_imagenet_hyperresnet18", "pacs_hyperresnet18", "ResNet-18"),
}
MEAN = "mean"
THESIS: Mapping[str, Mapping[str, float]] = {
    "ResNet-18 (code)": {
        "photo": 93.13,
        "art_painting": 79.19,
        "cartoon": 76.92,
        "sketch": 79.19,
        MEAN: 82.10,
    },
    "HyperResNet-18": {
        "photo": 94.63,
        "art_painting": 81.00,
        "cartoon": 79.05,
        "sketch": 81.10,
        MEAN: 83.94,
    },
    "R-18 (paper)": {
        "photo": 95.99,
        "art_painting": 83.43,
        "cartoon": 80.31,
        "sketch": 80.85,
        MEAN: 85.15,
    },
}


@dataclass(frozen=True, kw_only=True)
class Table38(Compared):
    """Both networks on each domain in turn."""

    id: str = "table-3.8"
    claim: str = "with RSC, the hypernetwork beats the plain network on unseen domains"

    def run(self, lab: Lab) -> None:
        """Train what is missing, and write the table as JSON and Markdown."""
        pretraining_preset, domain_preset, network = _PRESETS[self.preset]
        measured: dict[str, dict[str, PerSeed]] = {}
        configs: dict[str, Any] = {}
        for arm, title in ARM_TITLES.items():
            row = title.format(network)
            begun = trained(lab, self.seeds, pretraining_preset, arm, begins=True)
            for seed, pretraining, folder in begun:
                accuracies = {}
                for domain in get_args(Domain):
                    base = DOMAIN[domain_preset]()
                    own = replace(base.network, sharing=pretraining.network.sharing)
                    config = replace(base, network=own, held_out=domain, seed=seed)
                    into = lab.runs / domain_preset / f"{arm}-{domain}-{seed}"
                    if lab.has(into, config, partial(_train_domains, config, folder)):
                        found = json.loads((into / "test.json").read_text())
                        accuracies[domain] = 100 * found["accuracy"]
                        configs[f"{row}, {domain}"] = asdict(config)
                if len(accuracies) == len(get_args(Domain)):
                    accuracies[MEAN] = sum(accuracies.values()) / len(accuracies)
                for name, accuracy in accuracies.items():
                    measured.setdefault(row, {}).setdefault(name, {})[seed] = accuracy
        self.write_evidence(
            lab,
            Evidence(measured, THESIS, facts={}),
            [hyper_beats_plain(network, self.claim)],
            title="Table 3.8: accuracy (%) on the domain of PACS that was held out",
            config=configs,
            data="PACS, all images of the held-out domain; pre-trained on Tiny-ImageNet",
            note="The thesis pre-trains on ImageNet and trains at 222 x 222 pixels.",
        )


def table_3_8(preset: str) -> Table38:
    """In a preset's sizes."""
    return Table38(preset=preset)


def _train_domains(config: DomainConfig, begun: Path, run: Run) -> None:
    from hypernet_maml.pretrained import load_network
    from hypernet_maml.training.domain import train_domains

    net, network, _ = load_network(begun)
    network = replace(network, image_size=config.network.image_size)
    train_domains(replace(config, network=network), net, LaunchConfig(), run)
