"""What hypernetworks do to optimisation: |E| / |grad E| (Fig. 3.3), inner-loop movement (Fig. 3.5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hypernet_maml.data.sources import load_images
from hypernet_maml.plots import movement_figure, ratio_figure
from hypernet_maml.pretrained import FewShotLearner
from hypernet_maml.training.metatraining import inner_movement
from priors_shared.episodes import FewShotSampler
from priors_shared.errors import UserError
from priors_shared.files import write_atomically
from priors_shared.runs import read_metrics


def diagnose(
    checkpoints: Sequence[str], out: Path, dataset: str | None, data_root: str | None, tasks: int
) -> Iterator[str]:
    """Write the plots and diagnosis.json to `out`; yields a line for each file.

    Raises UserError for a checkpoint that is neither a run of `train` with ratios nor a meta-learner.
    """
    out.mkdir(parents=True, exist_ok=True)
    moved: dict[str, dict[str, float]] = {}
    for checkpoint in checkpoints:
        folder = Path(checkpoint)
        metrics = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
        if metrics and any(key.startswith("ratio/") for key in metrics[-1]):
            path = out / f"ratios-{folder.name}.png"
            ratio_figure(metrics, title=f"{checkpoint}: embeddings and their gradients").savefig(
                path, dpi=150
            )
            yield f"ratios    {path}"
            continue
        if metrics and "val_accuracy" in metrics[-1] and "accuracy" not in metrics[-1]:
            raise UserError(
                f"{checkpoint}: a plain network's training has no embeddings to look at"
            )
        learner = FewShotLearner.from_pretrained(checkpoint)
        name = dataset or learner.trained.get("dataset")
        if name is None:
            raise UserError(f"{checkpoint} does not say what it was trained on: give --dataset")
        images = load_images(name, "test", data_root, learner.network)
        shots = int(learner.trained.get("shots", 5))
        sampler = FewShotSampler(images, ways=learner.ways, shots=shots, queries=1)
        moved[checkpoint] = inner_movement(learner.learner, sampler, tasks=tasks)
    if moved:
        path = out / "movement.png"
        movement_figure(moved, title=f"Inner loops, mean over {tasks} tasks").savefig(path, dpi=150)
        yield f"movement  {path}"
        write_atomically(out / "diagnosis.json", json.dumps({"movement": moved}, indent=2) + "\n")
        yield f"numbers   {out / 'diagnosis.json'}"
