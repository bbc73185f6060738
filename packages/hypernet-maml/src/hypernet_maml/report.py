"""The package's part of `reproduce`: counts, a learner at work, learning live, stored results."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from priors_shared.reports import Cell, Figure, Measured, Section, Table, Verdict

if TYPE_CHECKING:
    from hypernet_maml.pretrained import FewShotLearner
    from priors_shared.datasets import ImageDataset

SHIPPED = "fc100-5way-cpu"
SEED = 7
THESIS_COUNTS = {
    "WRN-40-2": (2.2, 2.4, 4.17),
    "WRN-28-4": (5.8, 6.6, 10.3),
    "ResNet-18": (11.1, None, 21.4),
    "ResNet-34": (21.3, None, 41.6),
}
_PER_CLASS, _UPDATES, _TEST_TASKS = 4, 40, 30  # of the live trainings: a minute on two cores


def run(report_dir: Path, quick: bool, progress: type[Any], results: Path) -> Section:
    """Count parameters, adapt the shipped learner, meta-train before the reader's eyes, return the page."""
    if not quick:
        from hypernet_maml.experiments import EXPERIMENTS

        for experiment in EXPERIMENTS.values():
            experiment(preset="cpu", out=report_dir, runs=report_dir / "runs", quick=False)
    folder = results if quick else report_dir
    return Section(
        "hypernet-maml: generated weights, adapted to new tasks",
        [
            "The weights of each 3 x 3 convolution are made by a small convolution, the hypernetwork, "
            "from an embedding. After training they are written out: the exported network is plain. In "
            "few-shot learning, embeddings adapt to a task while the hypernetwork keeps what tasks share.",
            _counts_section(),
            _shipped_section(30 if quick else 600, progress),
            _live_section(report_dir, progress),
            *_stored_sections(folder),
        ],
    )


def _counts_section() -> Section:
    import torch

    from hypernet_maml.models.networks import build_network
    from hypernet_maml.presets import RESNET_18, RESNET_34, WRN_28_4, WRN_40_2

    networks = (WRN_40_2, WRN_28_4, RESNET_18, RESNET_34)
    rows: list[list[Cell]] = []
    for (title, published), config in zip(THESIS_COUNTS.items(), networks, strict=True):
        with torch.device("meta"):
            counted = [
                sum(p.numel() for p in build_network(replace(config, sharing=kind)).parameters())
                for kind in ("none", "stage", "unshared")
            ]
        pairs = zip(counted, published, strict=True)
        rows.append([title, *(cell for ours, theirs in pairs for cell in (ours / 1e6, theirs))])
    kinds = ("plain", "one per stage", "one per layer")
    columns = ["network", *(c for kind in kinds for c in (kind, f"{kind} (thesis)"))]
    caption = (
        "Millions of parameters while training; exported, all are plain. The thesis' 10.3 M for "
        "WRN-28-4 fits no rule that gives its other counts."
    )
    return Section("Parameters (Tables 3.3, 3.4)", [Table(columns, rows, caption, digits=2)])


def _shipped_section(tasks: int, progress: type[Any]) -> Section:
    from hypernet_maml.data.sources import load_images
    from hypernet_maml.pretrained import FewShotLearner

    learner = FewShotLearner.from_pretrained(SHIPPED)
    chosen = [("glyphs", "test")]
    if os.environ.get("PRIORS_DATA"):
        chosen += [("fc100", "test"), ("tiny-imagenet", "all")]
    datasets = [load_images(*each, None, learner.network, adjust=True) for each in chosen]
    rows: list[list[Cell]] = []
    with progress(len(datasets), "evaluate shipped weights") as bar:
        for dataset in datasets:
            cells = [_accuracy(learner, dataset, shots, tasks) for shots in (1, 5)]
            rows.append([dataset.name, *cells])
            bar.advance(accuracy=cells[-1].mean / 100)
    caption = (
        f"5-way accuracy in percent on classes never seen, ± the 95 % interval over {tasks} tasks; chance "
        "is 20. Meta-trained on FC100 with 5 shots; Glyphs are characters drawn from fonts."
    )
    table = Table(["data", "1-shot", "5-shot"], rows, caption)
    picture: Any = _task_figure(learner, datasets[-1])
    return Section(
        "Shipped weights",
        [
            table,
            Figure.from_matplotlib(
                picture,
                f"One task of {datasets[-1].name}: the images it learns from, and new ones with what it "
                "says they are.",
                format="png",
            ),
        ],
    )


def _accuracy(learner: FewShotLearner, dataset: ImageDataset, shots: int, tasks: int) -> Measured:
    from hypernet_maml.training.metatraining import evaluate_learner
    from priors_shared.episodes import FewShotSampler
    from priors_shared.statistics import mean_confidence_interval

    sampler = FewShotSampler(dataset, ways=learner.ways, shots=shots, queries=5)
    found = evaluate_learner(learner.learner, sampler, tasks=tasks, seed=SEED)
    interval = mean_confidence_interval(100 * found)
    return Measured(interval.mean, interval.half_width)


def _task_figure(learner: FewShotLearner, dataset: ImageDataset) -> Any:
    from hypernet_maml.plots import task_figure
    from priors_shared.episodes import FewShotSampler, generator_for

    sampler = FewShotSampler(dataset, ways=learner.ways, shots=5, queries=3)
    task = sampler.sample(1, generator_for(SEED))
    classifier = learner.adapt(task.support_images[0], task.support_labels[0])
    predicted = classifier.predict(task.query_images[0])
    return task_figure(
        task.support_images[0],
        task.support_labels[0],
        task.query_images[0],
        task.query_labels[0],
        predicted,
        title="Five classes, five images each",
    )


def _live_section(report_dir: Path, progress: type[Any]) -> Section:
    import torch

    from hypernet_maml.config import StreamLaunchConfig
    from hypernet_maml.data.sources import load_images
    from hypernet_maml.models.hyperconv import reparameterize
    from hypernet_maml.plots import meta_figure, movement_figure
    from hypernet_maml.presets import glyphs_5way_cpu, glyphs_hyperconv4_cpu
    from hypernet_maml.training.metatraining import evaluate_learner, inner_movement, metatrain
    from hypernet_maml.training.supervised import train
    from priors_shared.episodes import FewShotSampler
    from priors_shared.runs import Run, read_metrics

    where = StreamLaunchConfig(accelerator="cpu")
    parts: list[Any] = [
        "Trained from random weights while this report was made, on Glyphs: a Conv-4 with plain and with "
        "generated weights, first as a classifier, then by MAML and by Algorithm 2 of the thesis. Too "
        "short to tell which is better; long enough to see both learn."
    ]
    rows: list[list[Cell]] = []
    moved: dict[str, dict[str, float]] = {}
    curves: list[Any] = []
    same = True
    for title, sharing, algorithm in (
        ("Conv-4", "none", "maml"),
        ("HyperConv-4", "unshared", "hyper-maml"),
    ):
        base = glyphs_hyperconv4_cpu()
        network = replace(base.network, sharing=sharing)  # type: ignore[arg-type]
        config = replace(base, network=network, per_class=_PER_CLASS, epochs=2)
        out = report_dir / "live" / title
        shutil.rmtree(out, ignore_errors=True)  # what an earlier report left
        with Run.create(
            out / "train", {}, command="reproduce", tensorboard=False, quiet=True
        ) as run_of:
            net = train(config, where, run_of).eval()
        probe = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(SEED))
        with torch.no_grad():
            same &= torch.equal(net(probe), reparameterize(net)(probe))
        preset = glyphs_5way_cpu()
        inner = replace(preset.inner, algorithm=algorithm)  # type: ignore[arg-type]
        meta = replace(preset, inner=inner, steps=_UPDATES, validate_every=20)
        meta = replace(meta, validation_tasks=20)
        with Run.create(out / "meta", {}, command="reproduce", tensorboard=False) as run_of:
            learner = metatrain(meta, net, net.config, where, run_of)
        test = load_images("glyphs", "test", None, net.config)
        sampler = FewShotSampler(test, ways=meta.ways, shots=meta.shots, queries=meta.queries)
        accuracies = 100 * evaluate_learner(learner, sampler, tasks=_TEST_TASKS, seed=SEED)
        rows.append([title, algorithm, Measured(float(accuracies.mean()))])
        moved[title] = inner_movement(learner, sampler, tasks=5)
        figure: Any = meta_figure(
            read_metrics(out / "meta"),
            ways=meta.ways,
            title=f"{title}, {algorithm}, live on Glyphs",
        )
        curves.append(Figure.from_matplotlib(figure))
    caption = f"5-way 1-shot accuracy in percent on {_TEST_TASKS} tasks of held-out characters; chance is 20."
    figure = movement_figure(moved, title="How far three inner steps move the weights (Fig. 3.5)")
    parts += [
        Table(["network", "algorithm", "accuracy"], rows, caption),
        Verdict(same, "The exported networks give the same logits, to the bit."),
        *curves,
        Figure.from_matplotlib(figure),
    ]
    return Section("Learning, live", parts)


def _stored_sections(folder: Path) -> Sequence[Section]:
    """The long CPU runs' results, where the repository (or --full) holds them."""
    from hypernet_maml.experiments import EXPERIMENTS, tcr_few_shot
    from hypernet_maml.experiments.evidence import evidence_section

    sections = dict.fromkeys(EXPERIMENTS, evidence_section)
    sections["tcr-few-shot"] = tcr_few_shot.section
    paths = {name: folder / f"{name}-cpu.json" for name in EXPERIMENTS}
    return [sections[name](path) for name, path in paths.items() if path.is_file()]
