"""Tables from finished runs: the right arms, the right numbers, nothing invented."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hypernet_maml.config import TrainConfig
from hypernet_maml.experiments import EXPERIMENTS
from hypernet_maml.experiments.classification import ARMS, PRESETS, SEEDS, TABLES
from hypernet_maml.networks import build_network
from hypernet_maml.presets import TRAIN
from hypernet_maml.training import save_network


def finished(runs: Path, arm: str, seed: int, accuracy: float) -> None:
    config = ARMS[arm](TRAIN[PRESETS["cpu"]]())
    config = replace(config, seed=seed)
    save_network(
        runs / PRESETS["cpu"] / f"{arm}-{seed}" / "model",
        build_network(config.network),
        config,
        val_accuracy=accuracy,
    )


def test_arms_differ_in_what_their_table_compares_and_in_nothing_else() -> None:
    base = TrainConfig()
    made = {arm: change(base) for arm, change in ARMS.items()}

    def same(one: TrainConfig, two: TrainConfig, **changes: object) -> bool:
        return replace(one, **changes) == two  # type: ignore[arg-type]

    plain = replace(base.network, sharing="none")
    assert same(made["unshared"], made["plain"], network=plain)
    assert same(made["unshared"], made["shared"], network=replace(plain, sharing="stage"))
    assert same(made["unshared"], made["unshared-no-l2"], output_l2=0.0)
    biased = replace(base.network, hyper_bias=True)
    assert same(made["unshared-no-l2"], made["unshared-no-l2-bias"], network=biased)
    assert same(made["unshared-swa"], made["plain-swa"], network=plain)
    assert same(made["unshared"], made["unshared-swa"], epochs=300, swa_from=160)


def test_a_table_holds_each_arms_mean_and_a_paired_test(tmp_path: Path) -> None:
    for seed in SEEDS:
        finished(tmp_path / "runs", "unshared", seed, 0.70 + 0.01 * seed)
        finished(tmp_path / "runs", "plain", seed, 0.68 + 0.01 * seed)
        finished(tmp_path / "runs", "shared", seed, 0.66)
    EXPERIMENTS["table-3.3"](preset="cpu", out=tmp_path, quick=True, runs=tmp_path / "runs")
    result = json.loads((tmp_path / "table-3.3-cpu.json").read_text())
    assert result["per_seed"]["unshared"] == {"0": 70.0, "1": 71.0, "2": 72.0}
    assert result["comparison"]["seeds"] == [0, 1, 2]
    assert result["comparison"]["difference"]["mean"] == pytest.approx(2.0)
    assert result["thesis"]["WRN"]["CIFAR-10 accuracy (%)"] == 95.65
    text = (tmp_path / "table-3.3-cpu.md").read_text()
    assert "71.00 ± 1.00" in text
    assert "95.9" in text


def test_without_runs_quick_writes_nothing(tmp_path: Path) -> None:
    for name in TABLES:
        EXPERIMENTS[name](preset="cpu", out=tmp_path, quick=True, runs=tmp_path / "runs")
    assert not list(tmp_path.glob("*"))
