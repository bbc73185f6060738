"""How long is a training step of CL+LSTM, and how much memory does it take?

One forward and backward pass of the thesis' network (4 x 64 channels, LSTM 400, 28 x 28, streams of 50,
16 at once), three ways, from the same weights:

    plain    step by step, eight convolutions per layer, as Eq. 2.1 to 2.5 read; autograd's backward
    fused    step by step, two convolutions per layer that give all gates; autograd's backward
    ours     layer by layer (`memory_adapt.models.convlstm`)

First each way's peak memory, in a process of its own, and that of `CLLSTM.checkpoint_steps`. Then a check
that all give the same outputs and gradients. Then timings in one process, taking turns, with the
processor's convolution peak between them. The allocator's settings are recorded; README.md says which
help.

    python benchmarks/memory_adapt_train_step.py --threads 2 --out memory_adapt_train_step.json
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from memory_adapt.config import CLLSTMConfig
from memory_adapt.models.cl_lstm import CLLSTM, SKIP_FROM, SKIP_TO
from memory_adapt.models.convlstm import ConvLSTM, convlstm_step
from memory_adapt.models.interface import OnlineClassifier, State, encode_feedback
from priors_shared.devices import hardware, peak_memory
from priors_shared.reports import Table, write_result

WAYS = ("plain", "fused", "ours")
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "DNNL_", "ONEDNN_", "OMP_", "KMP_")
CLAIM = (
    "A training step of CL+LSTM is at least 1.2 times as fast as with a plain cell in float32 and twice "
    "as fast in bfloat16, at 65 % of the convolution peak, in no more memory."
)


@dataclass(frozen=True)
class Size:
    """The network and its streams."""

    width: int
    hidden: int
    image_size: int
    time: int
    batch: int


SIZES = {"paper": Size(64, 400, 28, 50, 16), "small": Size(16, 64, 28, 10, 8)}


def main() -> None:
    """Measure, print the tables, and write the numbers with --out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="paper", help="small: a quick check")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each way")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument(
        "--checkpoint-steps", type=int, help="segment length (default: a fifth of the stream)"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument(
        "--memory-of", help=argparse.SUPPRESS
    )  # what the memory processes are given
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = SIZES[options.size]
    segment = options.checkpoint_steps or max(1, size.time // 5)
    if options.memory_of:
        sys.stdout.write(json.dumps(memory_of(options.memory_of, options.precision[0], size)))
        return

    console = Console()
    ways = [*WAYS, f"ours, segments of {segment}"]
    rows = [
        {"way": way, "precision": precision}
        | memory_in_own_process(way, precision, options.size, options.threads)
        for precision in options.precision
        for way in ways
    ]  # before this process grows: a child's high-water mark starts at its parent's
    differences = check_equal(size)
    console.print(f"largest differences from the plain cell (float64, 3 steps): {differences}")

    steps = {}
    for precision in options.precision:
        for way in ways:
            steps[way, precision] = training_step(way, precision, size)
    seconds, peak, busy = take_turns(steps, options.repeats, console)
    for row in rows:
        way, precision = row["way"], row["precision"]
        times = seconds[way, precision]
        flops = step_flops(way, size)
        row |= {
            "seconds": statistics.median(times),
            "all_seconds": times,
            "gflop": flops / 1e9,
            "gflops_per_second": flops / 1e9 / statistics.median(times),
            "share_of_peak": flops / statistics.median(times) / peak["float32"],
            "ratio_to_plain": statistics.median(seconds["plain", options.precision[0]])
            / statistics.median(times),
        }
    console.print(table(rows, peak, options).to_markdown())
    if busy > 0.05:
        console.print(f"others used {busy:.0%} of the processors: measure again on a quiet machine")
    if options.out:
        write_result(
            options.out,
            experiment="memory_adapt_train_step",
            claim=CLAIM,
            rows=rows,
            config=asdict(size)
            | {"threads": options.threads, "repeats": options.repeats, "segment": segment},
            seeds=[0],
            data="uniform noise, labels drawn at random",
            hardware=hardware(),
            command=shlex.join(["python", *sys.argv]),
            extra={
                "environment": {
                    name: value
                    for name, value in sorted(os.environ.items())
                    if name.startswith(ALLOCATOR)
                },
                "convolution_peak_gflops_per_second": {k: v / 1e9 for k, v in peak.items()},
                "largest_differences": differences,
                "share_of_processors_used_by_others": busy,
            },
        )


# --- the three ways ---


class PlainCell(nn.Module):
    """A ConvLSTM cell of eight convolutions (Eq. 2.1 to 2.5)."""

    def __init__(self, layer: ConvLSTM) -> None:
        super().__init__()
        channels, kernel = layer.channels, layer.hidden_conv.kernel_size[0]
        inputs, stride = layer.input_conv.in_channels, layer.input_conv.stride[0]
        for gate, name in enumerate("ifog"):
            rows = slice(gate * channels, (gate + 1) * channels)
            from_input = nn.Conv2d(inputs, channels, kernel, stride, kernel // 2)
            from_hidden = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
            with torch.no_grad():
                from_input.weight.copy_(layer.input_conv.weight[rows])
                from_input.bias.copy_(layer.gate_bias[rows])
                from_hidden.weight.copy_(layer.hidden_conv.weight[rows])
            setattr(self, f"input_{name}", from_input)
            setattr(self, f"hidden_{name}", from_hidden)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The next hidden and cell state."""
        i = torch.sigmoid(self.input_i(x) + self.hidden_i(hidden))
        f = torch.sigmoid(self.input_f(x) + self.hidden_f(hidden))
        o = torch.sigmoid(self.input_o(x) + self.hidden_o(hidden))
        g = torch.tanh(self.input_g(x) + self.hidden_g(hidden))
        cell = f * cell + i * g
        return o * torch.tanh(cell), cell

    def gradients(self) -> list[Tensor]:
        """Of input weights, biases and hidden weights, gates stacked as in `ConvLSTM`."""
        inputs = [getattr(self, f"input_{name}") for name in "ifog"]
        hiddens = [getattr(self, f"hidden_{name}") for name in "ifog"]
        return [
            torch.cat([conv.weight.grad for conv in inputs]),
            torch.cat([conv.bias.grad for conv in inputs]),
            torch.cat([conv.weight.grad for conv in hiddens]),
        ]


class FusedCell(nn.Module):
    """A ConvLSTM cell of two convolutions."""

    def __init__(self, layer: ConvLSTM) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The next hidden and cell state."""
        return convlstm_step(self.layer, x, hidden, cell)

    def gradients(self) -> list[Tensor]:
        """Of input weights, biases and hidden weights."""
        return layer_gradients(self.layer)


def layer_gradients(layer: ConvLSTM) -> list[Tensor]:
    """Of input weights, biases and hidden weights."""
    return [
        parameter.grad
        for parameter in (layer.input_conv.weight, layer.gate_bias, layer.hidden_conv.weight)
    ]


class Stepwise(OnlineClassifier):
    """CL+LSTM one step after the other: all layers, then the next image."""

    def __init__(self, model: CLLSTM, cell: type[PlainCell] | type[FusedCell]) -> None:
        super().__init__(model.config)
        self.cells = nn.ModuleList(cell(layer) for layer in model.encoder)
        self.head = copy.deepcopy(model)
        del self.head.encoder

    def initial_state(self, batch: int) -> State:
        """Zeros."""
        return self.head.initial_state(batch)

    def forward_features(self, *inputs: Tensor) -> tuple[Tensor, State]:
        """LSTM and classifier."""
        return self.head.forward_features(*inputs)

    def forward(
        self, images: Tensor, feedback: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Logits at every step; the state after the last is not kept."""
        assert state is None
        state = self.initial_state(images.shape[1])
        states = [
            (state[f"layer{i + 1}.hidden"], state[f"layer{i + 1}.cell"])
            for i in range(len(self.cells))
        ]
        one_hot = encode_feedback(feedback, self.config.ways).to(images.dtype)
        features: list[Tensor] = []
        skipped = images  # until layer 2 gives it
        for x, label in zip(images.unbind(0), one_hot.unbind(0), strict=True):
            for i, (cell, pool) in enumerate(zip(self.cells, self.config.pools, strict=True)):
                planes = label[..., None, None].expand(*label.shape, *x.shape[-2:])
                states[i] = cell(torch.cat([x, planes], 1), *states[i])
                x = states[i][0]
                if i == SKIP_TO:
                    x = x + F.adaptive_max_pool2d(skipped, x.shape[-1])
                x = F.max_pool2d(x, 2) if pool else x
                if i == SKIP_FROM:
                    skipped = x
            features.append(x.flatten(1))
        return self.forward_features(torch.stack(features), feedback)


def build(way: str, size: Size) -> OnlineClassifier:
    """The network, run in one of the ways; the same weights each time."""
    torch.manual_seed(0)
    model = CLLSTM(CLLSTMConfig(width=size.width, hidden=size.hidden, image_size=size.image_size))
    if way in ("plain", "fused"):
        return Stepwise(model, PlainCell if way == "plain" else FusedCell)
    if "segments" in way:
        model.checkpoint_steps = int(way.split()[-1])
    return model


def streams(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and feedback one step late."""
    generator = torch.Generator().manual_seed(0)
    shape = (size.time, size.batch)
    images = torch.rand(*shape, 1, size.image_size, size.image_size, generator=generator)
    labels = torch.randint(5, shape, generator=generator)
    return images, labels, torch.cat([torch.full_like(labels[:1], -1), labels[:-1]])


def training_step(way: str, precision: str, size: Size) -> Callable[[], object]:
    """Forward and backward; gradients are dropped first, as an optimizer's zero_grad does."""
    model, (images, labels, feedback) = build(way, size), streams(size)
    dtype = PRECISIONS[precision]

    def step() -> None:
        model.zero_grad()
        autocast: AbstractContextManager[object] = (
            nullcontext() if dtype is None else torch.autocast("cpu", dtype)
        )
        with autocast:
            loss, _ = model.episode_loss(images, labels, feedback)
        loss.backward()

    return step


# --- checks and measures ---


def check_equal(size: Size) -> dict[str, float]:
    """Largest differences from the plain cell in float64, relative to the largest logit, gradient."""
    size = Size(size.width, size.hidden, size.image_size, time=3, batch=2)
    images, labels, feedback = streams(size)
    found = {}
    for way in [*WAYS, "ours, segments of 2"]:
        model = build(way, size).double()
        loss, logits = model.episode_loss(images.double(), labels, feedback)
        loss.backward()
        if isinstance(model, Stepwise):
            layers = [cell.gradients() for cell in model.cells]
            lstm, classifier = model.head.lstm, model.head.classifier
        else:
            layers = [layer_gradients(layer) for layer in model.encoder]
            lstm, classifier = model.lstm, model.classifier
        rest = [p.grad for p in (*lstm.parameters(), *classifier.parameters())]
        found[way] = (logits.detach(), torch.cat([g.flatten() for g in (*chain(*layers), *rest)]))
    logits, gradients = found["plain"]
    differences = {
        "logits": max(relative_difference(other, logits) for other, _ in found.values()),
        "gradients": max(relative_difference(other, gradients) for _, other in found.values()),
    }
    if max(differences.values()) > 1e-10:
        raise RuntimeError(f"the ways differ: {differences}")
    return differences


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, over the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())


def take_turns(
    steps: dict[tuple[str, str], Callable[[], object]], repeats: int, console: Console
) -> tuple[dict[tuple[str, str], list[float]], dict[str, float], float]:
    """Seconds of every step, the convolution peak, and the share of the processors that others used.

    One round more than `repeats`, of which the first is left out (it prepares kernels and memory).
    """
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in steps}
    peak = dict.fromkeys({name[1] for name in steps} | {"float32"}, 0.0)
    before, start_all = busy_seconds(), time.perf_counter()
    for turn in range(repeats + 1):
        for precision in peak:
            peak[precision] = max(peak[precision], convolution_speed(PRECISIONS[precision]))
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            took = time.perf_counter() - start
            console.print(
                f"{'warm-up' if turn == 0 else turn:>7}  {', '.join(name):36}{took:8.2f} s"
            )
            if turn > 0:
                seconds[name].append(took)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lost = (busy_seconds() - before) / ((time.perf_counter() - start_all) * (cores or 1))
    return seconds, peak, max(0.0, lost)


def busy_seconds() -> float:
    """Processor seconds that others, or the host, have used so far; not a number except on Linux."""
    try:
        user, nice, system, _, _, *rest = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    except OSError:
        return float("nan")
    ticks = sum(map(int, (user, nice, system, *rest)))
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def convolution_speed(dtype: torch.dtype | None) -> float:
    """FLOPs per second of the fastest of a few convolutions, forward and backward."""
    best = 0.0
    for batch, inputs, outputs, size in (
        (16, 64, 256, 28),
        (16, 64, 256, 14),
        (64, 64, 256, 14),
        (32, 256, 256, 14),
        (16, 128, 128, 28),
    ):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.rand(batch, inputs, size, size).to(dtype or torch.float32)
            x = x.contiguous(memory_format=layout).requires_grad_()
            conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            conv = conv.to(x.dtype).to(memory_format=layout)
            gradient = torch.rand_like(conv(x))
            for _ in range(3):
                start = time.perf_counter()
                conv(x).backward(gradient)
                took = time.perf_counter() - start
                best = max(best, 3 * 2 * 9 * inputs * outputs * batch * size**2 / took)
    return best


def step_flops(way: str, size: Size) -> int:
    """FLOPs that a training step computes; a second forward pass of segments is not work done."""
    counts = []
    for steps in (2, 3):
        part = Size(size.width, size.hidden, size.image_size, steps, batch=1)
        step = training_step(way.split(",")[0], "float32", part)
        # Without oneDNN: it runs the LSTM as one operation, which the counter does not know.
        with (
            torch.backends.mkldnn.flags(enabled=False),
            FlopCounterMode(display=False) as counter,
        ):
            step()
        counts.append(counter.get_total_flops())
    # The first step of a stream may cost less, all others the same.
    return size.batch * (counts[0] + (size.time - 2) * (counts[1] - counts[0]))


def memory_of(way: str, precision: str, size: Size) -> dict[str, float]:
    """MiB of this process: at most during a training step, and before it."""
    tiny = Size(size.width, size.hidden, size.image_size, time=1, batch=1)
    training_step(way, precision, tiny)()  # what torch loads at its first step is not the step's
    step = training_step(way, precision, size)
    before = peak_memory()
    step()
    return {"peak_mib": peak_memory() / 2**20, "mib_before": before / 2**20}


def memory_in_own_process(way: str, precision: str, size: str, threads: int) -> dict[str, float]:
    """`memory_of`, in a new process."""
    arguments = ["--memory-of", way, "--precision", precision, "--size", size]
    command = [sys.executable, __file__, *arguments, "--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(
    rows: list[dict[str, object]], peak: dict[str, float], options: argparse.Namespace
) -> Table:
    """What is printed."""
    first = options.precision[0]
    peaks = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in sorted(peak.items()))
    return Table(
        [
            *("way", "precision", "seconds", f"x plain {first}", "GFLOP/s", "% of peak"),
            *("peak MiB", "of the step MiB"),
        ],
        [
            [
                row["way"],
                row["precision"],
                round(row["seconds"], 3),
                row["ratio_to_plain"],
                round(row["gflops_per_second"]),
                round(100 * row["share_of_peak"]),
                round(row["peak_mib"]),
                round(row["peak_mib"] - row["mib_before"]),
            ]
            for row in rows
        ],
        caption=f"{options.threads} threads; convolution peak: {peaks} GFLOP/s; "
        "% of the float32 peak, of the FLOPs that each way computes",
        digits=2,
    )


if __name__ == "__main__":
    main()
