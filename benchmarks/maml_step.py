"""How long is a meta-step of MAML, and how much memory does it take?

One outer gradient (5-way 1-shot, 15 queries a class, 5 inner steps) of Conv-4 or WRN-16-1, several ways, from
the same weights and tasks:

    plain     learn2learn's algorithm, as its public code has it (its package does not build any more):
              autograd.grad in the inner loop, parameters replaced, a backward per task
    higher    the library `higher`, where it is installed: its monkey-patched copies, a backward per task
              (of first order it has no gradient of the initial weights: its time alone is compared)
    loop, grouped, vmap    `hypernet_maml.adaptation.maml`

`plain` and `higher` get the same weights in torch's own layers, fused batch norm, and ReLU before pooling.
With --hyper: the inner loop of hyper-maml on embeddings (`naive`) against its linear form (`linear`).

First each way's peak memory, in a process of its own; then a check that the gradients are equal; then
timings in one process, taking turns.

    python benchmarks/maml_step.py --network conv4-32 --tasks 16 --threads 2 --out maml_step.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from hypernet_maml.adaptation.maml import MetaLearner, accumulate_meta_gradient
from hypernet_maml.config import InnerLoop, NetworkConfig
from hypernet_maml.models.layers import BatchNorm2d, Conv2d
from hypernet_maml.models.networks import Conv4, build_network
from priors_shared.devices import hardware, peak_memory
from priors_shared.episodes import FewShotEpisodes
from priors_shared.reports import Table, write_result

NETWORKS = {
    "conv4-32": NetworkConfig(kind="conv4", width=32, classes=5),
    "conv4-64": NetworkConfig(kind="conv4", width=64, classes=5),
    "wrn-16-1": NetworkConfig(kind="wrn", depth=16, width=1, classes=5),
    "wrn-16-4": NetworkConfig(kind="wrn", depth=16, width=4, classes=5),
}
STEPS, RATE, QUERIES = 5, 0.01, 15
CLAIM = (
    "A meta-step is at least 1.3 times as fast as the plain loop at 32 channels and 1.1 times at 64, in no "
    "more memory; hyper-maml's linear form is at least 1.5 times as fast as the naive inner loop."
)


def main() -> None:
    """Measure, print the table, and write the numbers with --out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, default="conv4-32")
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--queries", type=int, default=QUERIES, help="a class; 1: the inner loop")
    parser.add_argument("--first-order", action="store_true")
    parser.add_argument("--hyper", action="store_true", help="hyper-maml: linear against naive")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each way")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--memory-of", help=argparse.SUPPRESS
    )  # what the memory processes are given
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        step = meta_step(options.memory_of, options)
        before = peak_memory()
        step()
        sys.stdout.write(json.dumps({"step_bytes": peak_memory() - before}))
        return

    ways = ["naive", "linear"] if options.hyper else ["plain", "loop", "grouped", "vmap"]
    if not options.hyper and importlib.util.find_spec("higher"):
        ways.insert(1, "higher")
    rows = [{"way": way} | memory_in_own_process(way) for way in ways]
    difference = check_equal(ways, options)
    steps = {way: meta_step(way, options) for way in ways}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(options.repeats + 1):
        for way, step in steps.items():
            began = time.perf_counter()
            step()
            if round_:  # the first one warms up
                seconds[way].append(time.perf_counter() - began)
    slowest = statistics.median(seconds[ways[0]])
    for row in rows:
        times = seconds[row["way"]]
        row |= {
            "seconds": statistics.median(times),
            "all_seconds": times,
            "ratio": slowest / statistics.median(times),
        }
    order = "first" if options.first_order else "second"
    caption = (
        f"{options.network}, {options.tasks} tasks, {options.queries} queries a class, {STEPS} inner "
        f"steps, {order} order, {options.threads} threads; ratio to the first row; largest difference "
        f"of gradients {difference:.1e}"
    )
    table = Table(
        ["way", "seconds", "ratio", "memory of a step (MiB)"],
        [[r["way"], r["seconds"], r["ratio"], r["step_bytes"] / 2**20] for r in rows],
        caption=caption,
        digits=2,
    )
    Console().print(table.to_markdown())
    if options.out:
        write_result(
            options.out,
            experiment="maml_step",
            claim=CLAIM,
            rows=rows,
            config={k: v for k, v in vars(options).items() if k not in ("out", "memory_of")},
            seeds=[0],
            data="uniform noise",
            hardware=hardware(),
            command=shlex.join(["python", *sys.argv]),
            extra={"largest_difference": difference},
        )


def network(options: argparse.Namespace) -> nn.Module:
    """The same weights each time."""
    config = NETWORKS[options.network]
    torch.manual_seed(0)
    sharing = "unshared" if options.hyper else "none"
    values = vars(config) | {"sharing": sharing}
    return build_network(NetworkConfig(**values))


def tasks(count: int, dtype: torch.dtype, queries: int) -> FewShotEpisodes:
    """5-way 1-shot tasks of noise."""
    generator = torch.Generator().manual_seed(0)
    support, query = (torch.arange(5).repeat(count, n) for n in (1, queries))

    def images(items: int) -> torch.Tensor:
        return torch.rand(count, items, 3, 32, 32, generator=generator).to(dtype)

    return FewShotEpisodes(
        support_images=images(5),
        support_labels=support,
        query_images=images(5 * queries),
        query_labels=query,
        support_items=support,
        query_items=query,
    )


def meta_step(
    way: str, options: argparse.Namespace, *, double: bool = False
) -> Callable[[], dict[str, torch.Tensor]]:
    """A function that computes the meta-gradient, by the network's parameter names."""
    net = network(options)
    # In double precision, for the comparison of gradients, torch's convolutions are slow: small tasks.
    batch = (
        tasks(2, torch.float64, 2)
        if double
        else tasks(options.tasks, torch.float32, options.queries)
    )
    net = net.double() if double else net
    algorithm = "hyper-maml" if options.hyper else "fomaml" if options.first_order else "maml"
    inner = InnerLoop(
        algorithm=algorithm, steps=STEPS, learning_rate=RATE, first_order=options.first_order
    )
    if way in ("plain", "higher"):
        net = with_torch_layers(net)
        run = plain_step if way == "plain" else higher_step

        def outside() -> dict[str, torch.Tensor]:
            net.zero_grad()
            run(net, batch, first_order=options.first_order)
            return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}

        return outside
    learner = MetaLearner(net, inner, linear=way != "naive")
    batching = "loop" if options.hyper else way

    def ours() -> dict[str, torch.Tensor]:
        learner.zero_grad()
        accumulate_meta_gradient(learner, batch, batching)
        return {n: p.grad for n, p in net.named_parameters() if p.grad is not None}

    return ours


class SameParts(nn.Module):
    """A network of the children of another."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        for name, module in source.named_children():
            self.add_module(name, module)


class PlainConv4(SameParts):
    """Conv-4 in torch's own layers, in the usual order."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.normalise(images)
        for i in range(1, 5):
            x = self.get_submodule(f"norm{i}")(self.get_submodule(f"conv{i}")(x))
            x = F.max_pool2d(F.relu(x), 2)
        return self.classifier(x.flatten(1))


class PlainWRN(SameParts):
    """A wide residual network in torch's own layers."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem(self.normalise(images))
        for stage in (self.stage1, self.stage2, self.stage3):
            x = stage(x)
        return self.classifier(F.relu(self.norm(x)).mean((2, 3)))


def with_torch_layers(net: nn.Module) -> nn.Module:
    """The same parameters by the same names in the layers a user of other libraries has."""
    for name, module in list(net.named_modules()):
        layer: nn.Module
        if isinstance(module, BatchNorm2d):
            layer = nn.BatchNorm2d(module.num_features, module.eps, track_running_stats=False)
            layer.weight, layer.bias = module.weight, module.bias
        elif isinstance(module, Conv2d):
            geometry = {n: getattr(module, n) for n in ("stride", "padding", "dilation", "groups")}
            layer = nn.Conv2d(
                *(module.in_channels, module.out_channels, module.kernel_size),
                bias=module.bias is not None,
                **geometry,
            )
            layer.weight, layer.bias = module.weight, module.bias
        else:
            continue
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, layer)
    return PlainConv4(net) if isinstance(net, Conv4) else PlainWRN(net)


def plain_step(net: nn.Module, batch: FewShotEpisodes, *, first_order: bool) -> None:
    """As learn2learn's MAML and its example for few-shot images."""
    count = len(batch.support_labels)
    for i in range(count):
        theta = dict(net.named_parameters())
        for _ in range(STEPS):
            logits = functional_call(net, theta, (batch.support_images[i],))
            loss = F.cross_entropy(logits, batch.support_labels[i])
            steps = torch.autograd.grad(loss, list(theta.values()), create_graph=not first_order)
            theta = {
                name: value - RATE * step
                for (name, value), step in zip(theta.items(), steps, strict=True)
            }
        logits = functional_call(net, theta, (batch.query_images[i],))
        (F.cross_entropy(logits, batch.query_labels[i]) / count).backward()


def higher_step(net: nn.Module, batch: FewShotEpisodes, *, first_order: bool) -> None:
    """As `higher`'s own MAML example: a differentiable SGD, a backward per task."""
    import higher

    count = len(batch.support_labels)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    for i in range(count):
        with higher.innerloop_ctx(
            net, optimizer, copy_initial_weights=False, track_higher_grads=not first_order
        ) as (copy, inner):
            for _ in range(STEPS):
                inner.step(F.cross_entropy(copy(batch.support_images[i]), batch.support_labels[i]))
            loss = F.cross_entropy(copy(batch.query_images[i]), batch.query_labels[i])
            (loss / count).backward()


def check_equal(ways: list[str], options: argparse.Namespace) -> float:
    """Largest difference of the ways' gradients in float64, over the largest gradient."""
    found = {way: meta_step(way, options, double=True)() for way in ways}
    reference = found[ways[0]]
    largest = max(float(g.abs().max()) for g in reference.values())
    difference = 0.0
    for way in ways[1:]:
        if options.first_order and way == "higher":
            continue  # it keeps no graph to the initial weights then
        for name, gradient in reference.items():
            difference = max(difference, float((found[way][name] - gradient).abs().max()) / largest)
    if difference > 1e-9:
        raise RuntimeError(f"the ways differ by {difference:.1e}")
    return difference


def memory_in_own_process(way: str) -> dict[str, int]:
    """Peak memory that a step adds, measured in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory-of", way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
