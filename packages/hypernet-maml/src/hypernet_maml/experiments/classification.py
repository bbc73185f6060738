"""Tables 3.1, 3.2, 3.3 and 3.5: what makes hypernetworks train well, on CIFAR-10.

Claims: no bias beats a bias (3.1); an L2 penalty on the generated weights helps (3.2); one hypernetwork
per layer is at least as good as a plain network, which is at least as good as one per stage (3.3);
stochastic weight averaging gains more for hypernetworks (3.5).

All arms of a table share data, budget and schedule. preset cpu: WRN-16-1 on a tenth of CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hypernet_maml.config import LaunchConfig, TrainConfig
from hypernet_maml.presets import TRAIN
from priors_shared.checkpoints import CONFIG
from priors_shared.devices import hardware
from priors_shared.reports import Measured, comparison_table, write_result
from priors_shared.runs import Run
from priors_shared.statistics import compare_paired

SEEDS = (0, 1, 2)
PRESETS = {"cpu": "cifar10_hyperwrn_16_1_cpu", "paper": "cifar10_hyperwrn_28_4"}
COLUMN = "CIFAR-10 accuracy (%)"

Arm = Callable[[TrainConfig], TrainConfig]


def _plain(config: TrainConfig) -> TrainConfig:
    return replace(config, network=replace(config.network, sharing="none"))


def _shared(config: TrainConfig) -> TrainConfig:
    return replace(config, network=replace(config.network, sharing="stage"))


def _unshared(config: TrainConfig) -> TrainConfig:
    return config


def _without_l2(config: TrainConfig) -> TrainConfig:
    return replace(config, output_l2=0.0)


def _biased(config: TrainConfig) -> TrainConfig:
    return _without_l2(replace(config, network=replace(config.network, hyper_bias=True)))


def _averaged(config: TrainConfig) -> TrainConfig:
    """As in Table 3.5: half as many epochs again, averaged from where the plain run has 4 / 5 behind it."""
    return replace(config, epochs=config.epochs * 3 // 2, swa_from=config.epochs * 4 // 5)


ARMS: dict[str, Arm] = {
    "plain": _plain,
    "shared": _shared,
    "unshared": _unshared,
    "unshared-no-l2": _without_l2,
    "unshared-no-l2-bias": _biased,
    "plain-swa": lambda config: _averaged(_plain(config)),
    "unshared-swa": _averaged,
}
TITLES = {
    "plain": "WRN",
    "shared": "HyperWRN shared",
    "unshared": "HyperWRN unshared",
    "unshared-no-l2": "HyperWRN unshared, no output L2",
    "unshared-no-l2-bias": "HyperWRN unshared, no output L2, bias",
    "plain-swa": "WRN + SWA",
    "unshared-swa": "HyperWRN unshared + SWA",
}
# The claim, its arms, the thesis' numbers for WRN-28-4, and which arm should beat which.
TABLES: dict[str, tuple[str, dict[str, float], tuple[str, str]]] = {
    "table-3.1": (
        "removing the bias of the hypernetwork improves generalisation",
        {"unshared-no-l2-bias": 92.96, "unshared-no-l2": 94.72},
        ("unshared-no-l2", "unshared-no-l2-bias"),
    ),
    "table-3.2": (
        "an L2 penalty on the generated weights improves generalisation",
        {"unshared-no-l2": 94.72, "unshared": 95.90},
        ("unshared", "unshared-no-l2"),
    ),
    "table-3.3": (
        "unshared hypernetworks beat plain networks; shared ones are competitive",
        {"plain": 95.65, "shared": 95.65, "unshared": 95.90},
        ("unshared", "plain"),
    ),
    "table-3.5": (
        "stochastic weight averaging gains more for hypernetworks",
        {"plain-swa": 95.86, "unshared-swa": 96.35},
        ("unshared-swa", "plain-swa"),
    ),
}


def run(
    table: str,
    preset: str = "cpu",
    out: Path = Path("results"),
    quick: bool = False,
    runs: Path = Path("runs"),
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Train what is missing (unless quick) and write the table's JSON and Markdown.

    Nothing is written where quick finds no trained run.
    """
    claim, thesis, (better, worse) = TABLES[table]
    accuracies: dict[str, dict[int, float]] = {}
    configs: dict[str, Any] = {}
    for arm in thesis:
        for seed in seeds:
            config = replace(ARMS[arm](TRAIN[PRESETS[preset]]()), seed=seed)
            folder = runs / PRESETS[preset] / f"{arm}-{seed}"
            if not (folder / "model" / CONFIG).is_file():
                if quick:
                    continue
                _train(config, folder)
            accuracies.setdefault(arm, {})[seed] = 100 * final_accuracy(folder)
            configs[arm] = asdict(config)
    if not accuracies:
        return
    rows: list[dict[str, Any]] = [
        {"model": TITLES[arm], COLUMN: Measured.over_seeds(list(found.values()))}
        for arm, found in accuracies.items()
    ]
    published = {TITLES[arm]: {COLUMN: value} for arm, value in thesis.items()}
    pairs = sorted(set(accuracies.get(better, {})) & set(accuracies.get(worse, {})))
    comparison = None
    if len(pairs) > 1:
        found = compare_paired(*([accuracies[arm][s] for s in pairs] for arm in (better, worse)))
        comparison = {"better": better, "worse": worse, "seeds": pairs, **asdict(found)}
    stem = f"{table}-{preset}"
    write_result(
        out / f"{stem}.json",
        experiment=table,
        claim=claim,
        rows=rows,
        config=configs,
        seeds=sorted({seed for found in accuracies.values() for seed in found}),
        data="CIFAR-10; JPEG-compressed copies where the packed file is read",
        hardware=hardware(),
        command=f"hypernet-maml reproduce {table} --preset {preset}",
        thesis=published,
        extra={"per_seed": accuracies, "comparison": comparison},
    )
    caption = (
        f"Claim: {claim}. Test accuracy, mean and standard deviation over seeds. The thesis' numbers are of "
        "WRN-28-4, 200 epochs on all images."
    )
    markdown = comparison_table(rows, published, caption=caption, digits=2).to_markdown()
    (out / f"{stem}.md").write_text(markdown + "\n")


def final_accuracy(folder: Path) -> float:
    """Test accuracy of the network that a run ended with (the average, with weight averaging)."""
    import json

    record = json.loads((folder / "model" / CONFIG).read_text())
    return float(record["val_accuracy"])


def _train(config: TrainConfig, folder: Path) -> None:
    from hypernet_maml.training import train

    command = f"hypernet-maml reproduce ({folder.name})"
    with Run.create(folder, asdict(config), command=command, resume=True) as run_of:
        train(config, LaunchConfig(), run_of)
