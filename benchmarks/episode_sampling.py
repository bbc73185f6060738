"""How fast are batches of online episodes: one gather in memory, or a loop over PNG files on disk?

The loop is the usual one: per episode, draw classes, shuffle labels, open each image with Pillow.
Its files are written to a temporary folder and read once first, so that they come from the
operating system's cache: the most favourable case for the loop. Both build the same float batch.

    python benchmarks/episode_sampling.py --dataset glyphs --out episode_sampling.json
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from priors_shared.datasets import load_dataset
from priors_shared.datasets.base import ImageDataset
from priors_shared.episodes import NULL_LABEL, OnlineEpisodeSampler, generator_for


def main() -> None:
    """Measure both, print their ratio, and write the numbers with --out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="glyphs", help="as load_dataset: glyphs, omniglot ...")
    parser.add_argument("--data-root", help="folder of packed datasets (default: PRIORS_DATA)")
    parser.add_argument("--ways", type=int, default=5)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--batch", type=int, default=16, help="episodes per batch")
    parser.add_argument("--batches", type=int, default=30, help="batches timed, after three more")
    parser.add_argument("--classes", type=int, default=200, help="classes written to disk")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    dataset = load_dataset(options.dataset, "train", options.data_root)
    step = max(1, dataset.classes // options.classes)
    dataset = dataset.select_classes(list(range(0, dataset.classes, step))[: options.classes])
    sampler = OnlineEpisodeSampler(dataset, ways=options.ways, shots=options.shots)

    def from_memory(number: int) -> tuple[Tensor, Tensor, Tensor]:
        episodes = sampler.sample(options.batch, generator_for(0, number))
        return episodes.images, episodes.labels, episodes.feedback

    with tempfile.TemporaryDirectory() as folder:
        files = write_pngs(dataset, Path(folder))

        def from_files(number: int) -> tuple[Tensor, Tensor, Tensor]:
            drawn = random.Random(number)
            episodes = [
                loop_episode(files, options.ways, options.shots, drawn)
                for _ in range(options.batch)
            ]
            images, labels, feedback = zip(*episodes, strict=True)
            return torch.stack(images, 1), torch.stack(labels, 1), torch.stack(feedback, 1)

        shapes = [[part.shape for part in make(0)] for make in (from_memory, from_files)]
        if shapes[0] != shapes[1]:
            raise RuntimeError(f"the two build different batches: {shapes}")
        memory = seconds_per_batch(from_memory, options.batches)
        disk = seconds_per_batch(from_files, options.batches)

    result = {
        "benchmark": "episode_sampling",
        "dataset": dataset.name,
        "image_shape": dataset.image_shape,
        **{
            name: getattr(options, name)
            for name in ("ways", "shots", "batch", "batches", "threads")
        },
        "sampler_ms_per_batch": round(1000 * memory, 3),
        "png_loop_ms_per_batch": round(1000 * disk, 3),
        "ratio": round(disk / memory, 1),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    Console().print(
        f"sampler {1000 * memory:.2f} ms, loop over PNG files {1000 * disk:.1f} ms a batch of "
        f"{options.batch} episodes: {disk / memory:.0f} times faster"
    )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def write_pngs(dataset: ImageDataset, folder: Path) -> list[list[Path]]:
    """One file per image; the paths by class."""
    files = []
    for target in range(dataset.classes):
        (folder / str(target)).mkdir()
        files.append([folder / str(target) / f"{item}.png" for item in dataset.items_of(target)])
        for file, item in zip(files[-1], dataset.items_of(target).tolist(), strict=True):
            pixels = dataset.images[item].permute(1, 2, 0).squeeze(-1).numpy()
            Image.fromarray(pixels).save(file)
    return files


def loop_episode(
    files: list[list[Path]], ways: int, shots: int, drawn: random.Random
) -> tuple[Tensor, Tensor, Tensor]:
    """One balanced stream, label one step late, as a per-episode loop builds it."""
    stream = [
        (file, slot)
        for slot, target in enumerate(drawn.sample(range(len(files)), ways))
        for file in drawn.sample(files[target], shots)
    ]
    drawn.shuffle(stream)
    images = [torch.from_numpy(np.array(Image.open(file), np.float32) / 255) for file, _ in stream]
    images = [image[None] if image.ndim == 2 else image.permute(2, 0, 1) for image in images]
    labels = torch.tensor([slot for _, slot in stream])
    return torch.stack(images), labels, torch.cat([torch.tensor([NULL_LABEL]), labels[:-1]])


def seconds_per_batch(make: Callable[[int], object], batches: int) -> float:
    """Median over batches: other work on the machine disturbs a mean."""
    times = []
    for number in range(-3, batches):
        start = time.perf_counter()
        make(number + 3)
        if number >= 0:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
