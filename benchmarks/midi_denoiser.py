"""How much faster, and in how much less memory, is our denoiser than its equations taken literally?

The plain form holds an array of pairs x heads x features for the attention, and masks and modulates in
separate steps, as the layer's equations read (design, steps 1 to 8). Both have the same weights and must give
the same numbers. Each is measured in a process of its own: CPU seconds of the fastest of some forward passes,
so that other work on the machine counts little, and the peak of its memory above what it held before.

    python benchmarks/midi_denoiser.py --out midi_denoiser.json
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from molfeat_diffusion.config import NetworkConfig
from molfeat_diffusion.models.layers import Features, Masks, Pooling
from molfeat_diffusion.models.network import Denoiser, UpdateBlock
from priors_shared.devices import hardware
from priors_shared.options import say
from priors_shared.reports import write_result

SIZES = (9, 18, 24, 44)
ELEMENTS, CHARGES, BONDS = 16, 6, 5
CLAIM = "At 44 atoms our denoiser is at least 2.5 times as fast as the plain form; at every size it needs less memory."


class PlainPooling(Pooling):
    """Mean, minimum, maximum and variance, each over the masked array."""

    def forward(self, values: Tensor, mask: Tensor, dims: tuple[int, ...]) -> Tensor:  # type: ignore[override]
        real = mask.expand(*values.shape[:-1], 1)
        count = real.sum(dims, keepdim=True)
        mean = (values * real).sum(dims, keepdim=True) / count
        variance = (((values - mean) ** 2) * real).sum(dims) / count.squeeze(dims)
        low = (values + 1e5 * (1 - real)).amin(dims)
        high = (values - 1e5 * (1 - real)).amax(dims)
        return self.lin(torch.cat((mean.squeeze(dims), low, high, variance), dim=-1))


class PlainBlock(UpdateBlock):
    """The layer's equations, one after the other."""

    def forward(self, features: Features, masks: Masks) -> Features:
        """Steps 1 to 7."""
        x, e, y = features.atoms, features.pairs, features.globals
        r = features.positions * masks.atoms
        norm = r.norm(dim=-1, keepdim=True)
        unit = r / (norm + 1e-7)
        distance = torch.cdist(r, r, compute_mode="donot_use_mm_for_euclid_dist")
        d = self.lin_dist1(torch.stack((distance, unit @ unit.transpose(1, 2)), dim=-1))
        d = d + self.lin_norm_pos1(norm)[:, :, None] + self.lin_norm_pos2(norm)[:, None]
        d = F.relu(d) * masks.pairs

        pairs = self.in_E(e) * self.x_e_mul1(x)[:, None] * self.x_e_mul2(x)[:, :, None]
        pairs = (pairs + self.dist_add_e(d) + pairs * self.dist_mul_e(d)) * masks.pairs
        add, mul = self.y_e_add(y)[:, None, None], self.y_e_mul(y)[:, None, None]
        modulated = (pairs + add + pairs * mul) * masks.pairs

        query, key, value = self.q(x)[:, :, None], self.k(x)[:, None], self.v(x)[:, None]
        logits = self.a(query * key / math.sqrt(e.shape[-1]))  # of (B, n, n, dx)
        logits = logits + logits * self.e_att_mul(modulated)
        logits = logits + logits * self.pos_att_mul(d)
        logits = logits.masked_fill(~masks.real[:, None, :, None], -torch.inf)
        weights = logits.softmax(2)  # (B, n, n, heads)
        heads = (weights[..., None] * value[:, :, :, None]).sum(2)  # of (B, n, n, heads, dx)
        new = self.out(heads.flatten(2)) * masks.atoms
        new = new + new * self.e_x_mul(modulated, masks.neighbours, (2,))
        new = new + new * self.pos_x_mul(d, masks.neighbours, (2,))
        new = new + new * self.y_x_mul(y)[:, None] + self.y_x_add(y)[:, None]

        new_y = self.y_y(y) + self.x_y(new, masks.atoms, (1,))
        new_y = new_y + self.e_y(pairs, masks.pairs, (1, 2)) + self.dist_y(d, masks.pairs, (1, 2))
        share = self.e_pos2(F.relu(self.e_pos1(pairs))) * masks.pairs
        velocity = (share * (r[:, :, None] - r[:, None])).sum(2)  # of (B, n, n, 3)
        return Features(
            atoms=self.x_out(new) * masks.atoms,
            pairs=self.e_out(modulated) * masks.pairs,
            globals=self.y_out(new_y),
            positions=masks.centre(velocity),
        )


def plain(model: Denoiser) -> Denoiser:
    """The same weights, computed the plain way."""
    for module in model.modules():
        if isinstance(module, UpdateBlock):
            module.__class__ = PlainBlock
        elif isinstance(module, Pooling):
            module.__class__ = PlainPooling
    return model


def built(config: NetworkConfig) -> Denoiser:
    """The denoiser with random weights."""
    torch.manual_seed(0)
    return Denoiser(config, elements=ELEMENTS, charges=CHARGES, bonds=BONDS).eval()


def inputs(batch: int, atoms: int) -> tuple[Tensor, ...]:
    """Molecules of one size; what they are does not matter to the time."""
    g = torch.Generator().manual_seed(1)
    bonds = torch.randint(BONDS, (batch, atoms, atoms), generator=g).triu(1)
    one_hot = F.one_hot(bonds + bonds.transpose(1, 2), BONDS) * (1.0 - torch.eye(atoms)[..., None])
    return (
        F.one_hot(torch.randint(ELEMENTS, (batch, atoms), generator=g), ELEMENTS).float(),
        F.one_hot(torch.randint(CHARGES, (batch, atoms), generator=g), CHARGES).float(),
        one_hot.float(),
        torch.randn(batch, atoms, 3, generator=g),
        torch.rand(batch, 1, generator=g),
        torch.ones(batch, atoms, dtype=torch.bool),
    )


@torch.inference_mode()
def measure(arm: str, atoms: int, options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds and peak memory (MiB) of one arm, alone in this process."""
    torch.set_num_threads(1)
    model = built(NetworkConfig(layers=options.layers))
    model = plain(model) if arm == "plain" else model
    model(*inputs(1, 3))  # what torch loads at the first use is not counted
    arguments = inputs(max(1, options.pairs // atoms**2), atoms)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(options.repeats):
        began = time.process_time()
        model(*arguments)
        seconds.append(time.process_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "molecules": len(arguments[0]),
        "seconds": min(seconds),
        "molecules_per_second": len(arguments[0]) / min(seconds),
        "peak_mib": peak / 1024,
    }


@torch.inference_mode()
def difference(config: NetworkConfig) -> float:
    """The largest relative difference of the two forms' outputs, in float64."""
    arguments = [a.double() if a.is_floating_point() else a for a in inputs(3, 12)]
    arguments[-1][1, 9:] = False  # with padding
    ours = built(config).double()(*arguments)
    theirs = plain(built(config).double())(*arguments)
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def main() -> None:
    """Measure, print, and write the numbers with --out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=20_000, help="pairs of atoms in a batch")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes of each")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--measure", nargs=2, metavar=("ARM", "ATOMS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        arm, atoms = options.measure
        say(json.dumps(measure(arm, int(atoms), options)))
        return
    config = NetworkConfig(layers=options.layers)
    off = difference(config)
    say(f"largest relative difference of outputs {off:.1e}")
    assert off < 1e-9, "the two forms differ: their times mean nothing"
    same = ["--layers", options.layers, "--pairs", options.pairs, "--repeats", options.repeats]
    rows = []
    for atoms in SIZES:
        row: dict[str, object] = {"atoms": atoms}
        for arm in ("ours", "plain"):
            call = [sys.executable, __file__, *same, "--measure", arm, atoms]
            done = subprocess.run(list(map(str, call)), capture_output=True, text=True, check=True)
            row[arm] = json.loads(done.stdout.splitlines()[-1])
        ours, theirs = row["ours"], row["plain"]
        assert isinstance(ours, dict)
        assert isinstance(theirs, dict)
        row["speedup"] = theirs["seconds"] / ours["seconds"]
        rows.append(row)
        say(
            f"{atoms} atoms: {ours['molecules_per_second']:.1f} molecules/s, plain "
            f"{theirs['molecules_per_second']:.1f} ({row['speedup']:.2f} x); peak {ours['peak_mib']:.0f} and "
            f"{theirs['peak_mib']:.0f} MiB"
        )
    if options.out:
        write_result(
            options.out,
            experiment="midi_denoiser",
            claim=CLAIM,
            rows=rows,
            config=asdict(config) | {"threads": 1, "pairs": options.pairs},
            seeds=[0],
            data="random molecules",
            hardware=hardware(),
            command=shlex.join(["python", "benchmarks/midi_denoiser.py", *sys.argv[1:]]),
            extra={"largest_relative_difference": off},
        )


if __name__ == "__main__":
    main()
