"""Throughput of each system's main training step, at the thesis' sizes, on random inputs.

    python benchmarks/gpu/steps.py hyperwrn --precision bf16 --seconds 5

prints one line of JSON. `run` calls this once for each step and precision, so that a peak of memory is one's own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from priors_shared.devices import hardware
from priors_shared.environment import source_commit

BLOCKS = 5
PRECISIONS = ("fp32", "tf32", "bf16")
PEAKS = {  # dense TFLOP/s by the vendor's sheets, SXM cards
    "H100": {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4},
    "H200": {"fp32": 67.0, "tf32": 494.7, "bf16": 989.4},
    "A100": {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0},
}


@dataclass(frozen=True)
class Step:
    """One training step: its loss, what is trained, and what it counts."""

    loss: Callable[[], torch.Tensor]
    optimizer: torch.optim.Optimizer
    samples: int
    sample: str
    setting: str


def cl_lstm(device: torch.device, tiny: bool) -> Step:
    """CL+LSTM 4 x 64 on 16 streams of 50 images of 28 x 28 (A.1.4)."""
    from memory_adapt.config import CLLSTMConfig
    from memory_adapt.models.cl_lstm import CLLSTM

    config = CLLSTMConfig(width=8, hidden=32) if tiny else CLLSTMConfig()
    time_, batch = (5, 2) if tiny else (50, 16)
    model = CLLSTM(config).to(device)
    size = config.image_size
    images = torch.rand(time_, batch, config.image_channels, size, size, device=device)
    labels = torch.randint(config.ways, (time_, batch), device=device)
    feedback = torch.cat([torch.full_like(labels[:1], -1), labels[:-1]])
    return Step(
        lambda: model.episode_loss(images, labels, feedback)[0],
        torch.optim.Adam(model.parameters(), lr=1e-3),
        samples=time_ * batch,
        sample="image of a stream",
        setting=f"{batch} streams of {time_}, width {config.width}, LSTM {config.hidden}",
    )


def wrn(sharing: str) -> Callable[[torch.device, bool], Step]:
    """WRN-28-4 on 128 images of 32 x 32, plain (sharing none) or with generated weights."""

    def build(device: torch.device, tiny: bool) -> Step:
        from hypernet_maml.config import TrainConfig
        from hypernet_maml.models.networks import build_network
        from hypernet_maml.presets import WRN_16_1, WRN_28_4
        from hypernet_maml.training.supervised import Objective, build_optimizer

        network: Any = replace(WRN_16_1 if tiny else WRN_28_4, sharing=sharing)
        config = TrainConfig(network=network)
        batch = 4 if tiny else config.batch_size
        net = build_network(network).to(device).to(memory_format=torch.channels_last)
        images = torch.rand(batch, 3, 32, 32, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(network.classes, (batch,), device=device)
        objective = Objective(net, config.output_l2)
        return Step(
            lambda: objective(images, labels),
            build_optimizer(net, config),
            samples=batch,
            sample="image",
            setting=f"WRN-{network.depth}-{network.width}, sharing {sharing}, batch {batch}, channels last",
        )

    return build


def hyperfields(device: torch.device, tiny: bool) -> Step:
    """Distillation of 3 prompts, 1,024 rays of each with 64 points (B.1); the rays come from images of any size."""
    from hyperfields.config import FieldConfig, ModelConfig
    from hyperfields.hypernetwork.network import HyperNetwork
    from hyperfields.presets import procedural
    from hyperfields.training.distillation import Distillation, build_optimizer

    config = procedural()
    if tiny:
        field = FieldConfig(layers=3, width=16, levels=2, log2_rows=8, finest=32)
        model = ModelConfig(blocks=1, heads=2, head_dim=8, hidden=16, field=field)
        config = replace(config, model=model, prompts_per_step=2, rays=16, samples=8)
    prompts, rays, samples, text = config.prompts_per_step, config.rays, config.samples, 768
    net = HyperNetwork(config.model, text).to(device)
    inputs = (
        torch.randn(prompts, 6, text, device=device),
        torch.ones(prompts, 6, dtype=torch.bool, device=device),
        torch.rand(prompts, rays, samples, 3, device=device) * 2 - 1,
        torch.full((prompts, rays, samples), 2 / samples, device=device),
        torch.rand(prompts, rays, 3, device=device),
        torch.rand(prompts, rays, 3, device=device),
    )
    objective = Distillation(net)
    return Step(
        lambda: objective(*inputs),
        build_optimizer(net, config),
        samples=prompts * rays,
        sample="ray",
        setting=f"{prompts} prompts x {rays} rays x {samples} points, {config.model.blocks} blocks, "
        f"{config.model.field.levels} grids",
    )


def midi(device: torch.device, tiny: bool) -> Step:
    """MiDi of QM9 without hydrogens, 10 layers, 64 molecules of 9 atoms."""
    from molfeat_diffusion.config import LossConfig
    from molfeat_diffusion.data.molecules import DenseMolecules
    from molfeat_diffusion.models.diffusion import MiDi
    from molfeat_diffusion.presets import SMALL, qm9_no_h_adaptive
    from molfeat_diffusion.training.diffusion import Objective

    config = qm9_no_h_adaptive()
    batch, atoms = (2 if tiny else config.batch_size), 9
    if tiny:
        config = replace(config, model=replace(config.model, network=replace(SMALL, layers=1)))
    model = MiDi(config.model).to(device)
    bonds = torch.randint(5, (batch, atoms, atoms)).triu(1)
    positions = torch.randn(batch, atoms, 3)
    molecules = DenseMolecules(
        positions=positions - positions.mean(1, keepdim=True),
        atoms=torch.randint(len(model.vocabulary.elements), (batch, atoms)),
        charges=torch.randint(len(model.vocabulary.charges), (batch, atoms)),
        bonds=bonds + bonds.transpose(1, 2),
        mask=torch.ones(batch, atoms, dtype=torch.bool),
    ).to(device)
    weights: LossConfig = config.loss
    objective, generator = Objective(model, weights), torch.Generator().manual_seed(0)
    rate, decay = config.learning_rate, config.weight_decay
    return Step(
        lambda: objective(molecules, generator)[0],
        torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, amsgrad=True),
        samples=batch,
        sample="molecule",
        setting=f"{batch} molecules of {atoms} atoms, {config.model.network.layers} layers",
    )


STEPS: dict[str, Callable[[torch.device, bool], Step]] = {
    "cl-lstm": cl_lstm,
    "wrn": wrn("none"),
    "hyperwrn": wrn("unshared"),
    "hyperwrn-shared": wrn("stage"),
    "hyperfields": hyperfields,
    "midi": midi,
}


def measure(
    name: str, precision: str, seconds: float, *, tiny: bool, device: str
) -> dict[str, Any]:
    """Milliseconds, samples a second, peak memory and share of the peak of one step, for about so many seconds."""
    where = torch.device(device)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.manual_seed(0)
    step = STEPS[name](where, tiny)

    def once() -> None:
        with torch.autocast(where.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            loss = step.loss()
        step.optimizer.zero_grad()
        loss.backward()
        step.optimizer.step()

    with FlopCounterMode(display=False) as counter:
        once()
    flops = counter.get_total_flops()
    for _ in range(3):
        once()
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    # Steps are timed in blocks: to wait for the card after each would time what no training does.
    per_block = max(1, round(seconds / BLOCKS / timed(once, 1, where)))
    times = [timed(once, per_block, where) for _ in range(BLOCKS)]
    took = statistics.median(times)
    row = {
        "step": name,
        "precision": precision,
        "setting": step.setting,
        "ms_per_step": took * 1e3,
        "all_ms_per_step": [t * 1e3 for t in times],
        "steps_timed": per_block * BLOCKS,
        "sample": step.sample,
        "samples_per_second": step.samples / took,
        "counted_gflop": flops / 1e9,
        "tflops_per_second": flops / took / 1e12,
        "peak_memory_mib": None,
        "share_of_peak": None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hardware": hardware(),
        "commit": source_commit(),
    }
    if where.type == "cuda":
        row["peak_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        peak = peak_of(torch.cuda.get_device_name(), precision)
        row["peak_tflops_per_second"] = peak
        row["share_of_peak"] = peak and flops / took / 1e12 / peak
    return row


def timed(once: Callable[[], None], count: int, device: torch.device) -> float:
    """Seconds of one of `count` calls."""
    synchronise(device)
    began = time.perf_counter()
    for _ in range(count):
        once()
    synchronise(device)
    return (time.perf_counter() - began) / count


def synchronise(device: torch.device) -> None:
    """Wait until the card has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_of(card: str, precision: str) -> float | None:
    """The card's dense peak in TFLOP/s, where it is known."""
    return next((peaks[precision] for name, peaks in PEAKS.items() if name in card), None)


def main() -> None:
    """Measure one step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    found = measure(
        options.step,
        options.precision,
        options.seconds,
        tiny=options.tiny,
        device=options.device,
    )
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
