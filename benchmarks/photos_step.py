"""CPU time of one sample of the photos learner, encoder included, on one core, and of the first prediction."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path


def main() -> None:
    """Print the times, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--side", type=int, default=224, help="pixels of an image")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    begun = time.process_time()
    import torch

    from memory_adapt import OnlineLearner
    from priors_shared.devices import hardware, set_threads

    set_threads(1)
    learner = OnlineLearner.from_pretrained("photos-cpu")
    images = torch.rand(options.samples + 1, 3, options.side, options.side)
    _, state = learner.step(images[0], None, learner.reset(5))
    first = time.process_time() - begun
    begun = time.process_time()
    for i, image in enumerate(images[1:]):
        _, state = learner.step(image, i % 5, state)
    each = 1000 * (time.process_time() - begun) / options.samples
    result = {"ms_per_sample": each, "first_prediction_s": first, "hardware": hardware()}
    sys.stdout.write(
        f"{each:.1f} ms of CPU a sample, first prediction after {first:.2f} s of CPU, imports included\n"
    )
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
