"""What does training with generated weights cost, and what does the exported network?

A training step (forward, backward, SGD) at batch 128 of 32 x 32 images: the plain network, its unshared
and its shared hyper-network, taking turns. Then the exported network's inference against the plain one's,
and their sizes.

    python benchmarks/hypernet_overhead.py --network wrn-28-4 --threads 2 --out hypernet_overhead.json
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from hypernet_maml.config import NetworkConfig, TrainConfig
from hypernet_maml.export import checkpoint_bytes
from hypernet_maml.models.hyperconv import reparameterize
from hypernet_maml.models.networks import build_network
from hypernet_maml.training.supervised import Objective, build_optimizer
from priors_shared.devices import hardware
from priors_shared.reports import Table, write_result

NETWORKS = {
    "wrn-28-4": NetworkConfig(kind="wrn", depth=28, width=4),
    "wrn-40-2": NetworkConfig(kind="wrn", depth=40, width=2),
    "wrn-16-1": NetworkConfig(kind="wrn", depth=16, width=1),
    "resnet18": NetworkConfig(kind="resnet18", width=64),
}
ARMS: tuple[Literal["none", "unshared", "stage"], ...] = ("none", "unshared", "stage")
CLAIM = (
    "A training step of HyperWRN-28-4 takes at most 1.15 times the plain network's; the exported network "
    "has the plain one's speed and size."
)


def main() -> None:
    """Measure, print the table, and write the numbers with --out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, default="wrn-28-4")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each network")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(options.batch, 3, 32, 32, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), generator=generator)
    nets = {}
    for sharing in ARMS:
        torch.manual_seed(0)
        net = build_network(replace(NETWORKS[options.network], sharing=sharing))
        nets[sharing] = net.to(memory_format=torch.channels_last)
    steps: dict[str, Callable[[], object]] = {}
    for sharing, net in nets.items():
        objective, optimizer = Objective(net, 6.25e-5), build_optimizer(net, TrainConfig())

        def train_step(
            objective: Objective = objective, optimizer: torch.optim.SGD = optimizer
        ) -> None:
            loss = objective(images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        steps[sharing] = train_step
    training = take_turns(steps, options.repeats)

    exported = {
        "none": nets["none"].eval(),
        "unshared": reparameterize(nets["unshared"]).eval(),
        "stage": reparameterize(nets["stage"]).eval(),
    }
    with torch.no_grad():
        inference = take_turns(
            {name: lambda net=net: net(images) for name, net in exported.items()},
            2 * options.repeats,
        )
    rows = []
    for name in ARMS:
        step, plain = statistics.median(training[name]), statistics.median(training["none"])
        infer, infer_plain = (
            statistics.median(inference[name]),
            statistics.median(inference["none"]),
        )
        rows.append(
            {
                "sharing": name,
                "parameters": sum(p.numel() for p in nets[name].parameters()),
                "step_seconds": step,
                "step_ratio": step / plain,
                "exported_seconds": infer,
                "exported_ratio": infer / infer_plain,
                "exported_bytes": checkpoint_bytes(exported[name]),
                "all_step_seconds": training[name],
                "all_exported_seconds": inference[name],
            }
        )
    shown = [column for column in rows[0] if not column.startswith("all_")]
    caption = f"{options.network}, batch {options.batch}, {options.threads} threads, median of {options.repeats}"
    Console().print(
        Table(
            shown, [[row[c] for c in shown] for row in rows], caption=caption, digits=3
        ).to_markdown()
    )
    if options.out:
        write_result(
            options.out,
            experiment="hypernet_overhead",
            claim=CLAIM,
            rows=rows,
            config={k: v for k, v in vars(options).items() if k != "out"},
            seeds=[0],
            data="uniform noise",
            hardware=hardware(),
            command=shlex.join(["python", *sys.argv]),
        )


def take_turns(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, in turns; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(repeats + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
