"""Table 3.8: domain generalisation on PACS, hypernetwork against plain network, both with RSC.

Both are pre-trained in the same way, then trained on three domains and tested on the fourth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from hypernet_maml.config import Domain, DomainConfig, LaunchConfig
from hypernet_maml.experiments.classification import trained
from hypernet_maml.experiments.evidence import (
    ARM_TITLES,
    Evidence,
    PerSeed,
    Study,
    hyper_beats_plain,
    write_evidence,
)
from hypernet_maml.presets import DOMAIN
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


def table_3_8(
    preset: str = "cpu",
    out: Path = Path("results"),
    quick: bool = False,
    runs: Path = Path("runs"),
) -> None:
    """Train what is missing (unless quick) and write the table as JSON and Markdown."""
    study = Study(preset, out, runs, quick)
    pretraining_preset, domain_preset, network = _PRESETS[preset]
    measured: dict[str, dict[str, PerSeed]] = {}
    configs: dict[str, Any] = {}
    for arm, title in ARM_TITLES.items():
        row = title.format(network)
        for seed, pretraining, begun in trained(study, pretraining_preset, arm):
            accuracies = {}
            for domain in get_args(Domain):
                base = DOMAIN[domain_preset]()
                sharing = pretraining.network.sharing
                domain_network = replace(base.network, sharing=sharing)
                config = replace(base, network=domain_network, held_out=domain, seed=seed)
                folder = study.runs / domain_preset / f"{arm}-{domain}-{seed}"
                if study.finished(folder, config, partial(_train_domains, config, begun)):
                    found = json.loads((folder / "test.json").read_text())
                    accuracies[domain] = 100 * found["accuracy"]
                    configs[f"{row}, {domain}"] = asdict(config)
            if len(accuracies) == len(get_args(Domain)):
                accuracies[MEAN] = sum(accuracies.values()) / len(accuracies)
            for name, accuracy in accuracies.items():
                measured.setdefault(row, {}).setdefault(name, {})[seed] = accuracy
    text = "with RSC, the hypernetwork beats the plain network on unseen domains"
    write_evidence(
        study,
        "table-3.8",
        Evidence(measured, THESIS, facts={}),
        [hyper_beats_plain(network, text)],
        title="Table 3.8: accuracy (%) on the domain of PACS that was held out",
        config=configs,
        data="PACS, all images of the held-out domain; pre-trained on Tiny-ImageNet",
        note="The thesis pre-trains on ImageNet and trains at 222 x 222 pixels.",
    )


def _train_domains(config: DomainConfig, begun: Path, run: Run) -> None:
    from hypernet_maml.domain import train_domains
    from hypernet_maml.learner import load_network

    net, network, _ = load_network(begun)
    network = replace(network, image_size=config.network.image_size)
    train_domains(replace(config, network=network), net, LaunchConfig(), run)
