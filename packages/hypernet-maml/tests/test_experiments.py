"""Tables from finished runs: the right arms, the right numbers, nothing invented."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from hypernet_maml.config import Domain, TrainConfig
from hypernet_maml.experiments import EXPERIMENTS
from hypernet_maml.experiments.classification import ARMS, TABLES, final_accuracy, row_title
from hypernet_maml.experiments.evidence import (
    Claim,
    Evidence,
    evidence_section,
)
from hypernet_maml.models.networks import build_network
from hypernet_maml.presets import DOMAIN, META, TRAIN
from hypernet_maml.training.metatraining import new_learner, save_learner
from hypernet_maml.training.supervised import save_network
from priors_shared.checkpoints import CONFIG
from priors_shared.datasets import ImageDataset
from priors_shared.reports import Measured, Table
from priors_shared.runs import Run

SEEDS = (0, 1, 2)
PRESET = "cifar10_hyperwrn_16_1_cpu"


def finished(
    runs: Path, arm: str, seed: int, accuracy: float, logged: list[dict[str, float]] | None = None
) -> None:
    config = replace(ARMS[arm](TRAIN[PRESET]()), seed=seed)
    folder = runs / PRESET / f"{arm}-{seed}"
    with Run.create(folder, asdict(config), command="test") as run:
        for metrics in logged or []:
            run.log(int(metrics["step"]), **{k: v for k, v in metrics.items() if k != "step"})
    save_network(folder / "model", build_network(config.network), config, val_accuracy=accuracy)


def reproduce(name: str, folder: Path) -> dict[str, Any]:
    EXPERIMENTS[name](preset="cpu", out=folder, quick=True, runs=folder / "runs")
    found: dict[str, Any] = json.loads((folder / f"{name}-cpu.json").read_text())
    return found


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


def test_a_table_holds_each_arms_mean_a_paired_test_and_parameter_counts(tmp_path: Path) -> None:
    for seed in SEEDS:
        finished(tmp_path / "runs", "unshared", seed, 0.70 + 0.01 * seed)
        finished(tmp_path / "runs", "plain", seed, 0.68 + 0.011 * seed)
        finished(tmp_path / "runs", "shared", seed, 0.80)
    result = reproduce("table-3.3", tmp_path)
    per_seed = result["per_seed"]["HyperWRN-16-1 unshared"]["CIFAR-10 (%)"]
    assert per_seed == {"0": 70.0, "1": 71.0, "2": 72.0}
    over_plain, over_shared = result["comparisons"]
    assert over_plain["better"] == ["HyperWRN-16-1 unshared"]
    assert over_plain["difference"]["mean"] == pytest.approx(1.9)
    assert over_plain["difference"]["low"] > 0
    assert over_shared["difference"]["high"] < 0
    counts = {row["model"]: row["trained (M)"] for row in result["rows"]}
    assert counts["WRN-16-1"] < counts["HyperWRN-16-1 shared"] < counts["HyperWRN-16-1 unshared"]
    assert {row["exported (M)"] for row in result["rows"]} == {counts["WRN-16-1"]}
    text = (tmp_path / "table-3.3-cpu.md").read_text()
    assert "71.00 ± 1.00" in text
    assert "| WRN-28-4 | – | 95.65 |" in text


def test_the_report_shows_what_the_table_shows(tmp_path: Path) -> None:
    for seed in SEEDS:
        for arm, accuracy in (("unshared", 0.7), ("plain", 0.6), ("shared", 0.69)):
            finished(tmp_path / "runs", arm, seed, accuracy + 0.01 * seed * (arm == "shared"))
    reproduce("table-3.3", tmp_path)
    section = evidence_section(tmp_path / "table-3.3-cpu.json")
    (table,) = (part for part in section.parts if isinstance(part, Table))
    assert table.columns[0] == "model"
    ours = {row[0]: row[list(table.columns).index("CIFAR-10 (%)")] for row in table.rows}
    assert ours["WRN-16-1"] == Measured.over_seeds([60.0] * 3)
    assert ours["WRN-28-4"] is None
    assert (
        sum("(paired t, 3 seeds)" in part for part in section.parts if isinstance(part, str)) == 2
    )


def test_the_gain_of_averaging_is_compared_with_the_gain_of_averaging(tmp_path: Path) -> None:
    accuracies = {"plain": 0.60, "unshared": 0.61, "plain-swa": 0.63, "unshared-swa": 0.66}
    for arm, accuracy in accuracies.items():
        for seed in SEEDS:
            finished(tmp_path / "runs", arm, seed, accuracy + 0.01 * seed)
    over, gains = reproduce("table-3.5", tmp_path)["comparisons"]
    assert over["difference"]["mean"] == pytest.approx(3.0)
    assert gains["difference"]["mean"] == pytest.approx(5.0 - 3.0)


def test_one_seed_more_in_one_arm_is_left_out_of_the_pairs() -> None:
    measured = {"a": {"x": {0: 1.0, 1: 2.0, 2: 90.0}}, "b": {"x": {0: 0.5, 1: 1.0}}}
    (found,) = Evidence(measured, {}, {}).comparisons([Claim("a beats b", ("a",), ("b",))])
    assert found["seeds"] == [0, 1]
    assert found["difference"]["mean"] == pytest.approx(0.75)
    assert Evidence(measured, {}, {}).rows()[0]["x"].mean == pytest.approx(31.0)


def test_figures_follow_the_runs_with_and_without_a_bias(tmp_path: Path) -> None:
    for seed in SEEDS:
        for arm, ratio in (("unshared-no-l2-bias", 400.0), ("unshared-no-l2", 25.0)):
            logged = [
                {"step": 1, "loss": 2.0, "ratio/a": ratio, "ratio/b": ratio / 4},
                {"step": 2, "loss": 1.0, "ratio/a": ratio, "ratio/b": ratio, "val_accuracy": 0.5},
            ]
            finished(tmp_path / "runs", arm, seed, 0.5, logged)
    result = reproduce("figure-3.3", tmp_path)
    row = row_title("unshared-no-l2", "WRN-16-1")
    assert result["curves"][row]["0"] == [[1, pytest.approx(12.5)], [2, pytest.approx(25.0)]]
    assert result["comparisons"][0]["difference"]["mean"] == pytest.approx(300 - 18.75)
    assert (tmp_path / "figure-3.3-cpu.png").stat().st_size > 1000
    result = reproduce("figure-3.4", tmp_path)
    assert result["curves"][row]["2"] == [[2, 50.0]]


def test_few_shot_tables_pair_seeds_and_tasks(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in SEEDS:
        for arm, row, accuracy in (("plain", "wrn-16-1", 0.4), ("unshared", "hyperwrn-16-1", 0.5)):
            _touch_model(runs / "fc100_hyperwrn_16_1_cpu" / f"{arm}-{seed}")
            for shots in (1, 5):
                folder = runs / "fc100_5way_cpu" / f"{row}-{shots}shot-{seed}"
                _touch_model(folder)
                tasks = [accuracy + 0.01 * shots + 0.001 * i for i in range(4)]
                name = "test-tiny-imagenet-all-200.json"
                (folder / name).write_text(json.dumps(tasks))
    result = reproduce("table-3.7", tmp_path)
    assert result["per_seed"]["WRN-16-1"]["5-shot (%)"]["0"] == pytest.approx(45.15)
    assert [c["column"] for c in result["comparisons"]] == ["1-shot (%)", "5-shot (%)"]
    by_task = result["paired_by_task"]
    assert [c["tasks"] for c in by_task] == [12, 12]
    assert by_task[0]["difference"]["mean"] == pytest.approx(10.0)
    configs = result["config"]
    assert configs["WRN-16-1, 1-shot (%)"]["inner"]["algorithm"] == "maml"
    assert configs["HyperWRN-16-1, 5-shot (%)"]["inner"]["algorithm"] == "hyper-maml"


def test_movement_is_compared_on_the_layers_that_hypernetworks_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (30, 3, 32, 32), generator=generator, dtype=torch.uint8)
    targets = torch.arange(5).repeat_interleave(6)
    names = tuple("abcde")
    images = ImageDataset("noise", noise, targets, names, split="test")
    monkeypatch.setattr("hypernet_maml.data.sources.load_dataset", lambda *_, **__: images)
    monkeypatch.setattr("hypernet_maml.experiments.few_shot.MOVED_TASKS", 1)
    runs = tmp_path / "runs"
    for seed in (0, 1):
        for arm, row, algorithm in (
            ("plain", "wrn-16-1", "maml"),
            ("unshared", "hyperwrn-16-1", "hyper-maml"),
        ):
            _touch_model(runs / "fc100_hyperwrn_16_1_cpu" / f"{arm}-{seed}")
            _touch_model(runs / "fc100_5way_cpu" / f"{row}-1shot-{seed}")
            base = META["fc100_5way_cpu"]()
            inner = replace(base.inner, algorithm=algorithm, steps=1)  # type: ignore[arg-type]
            config = replace(base, inner=inner, seed=seed)
            network = ARMS[arm](TRAIN["fc100_hyperwrn_16_1_cpu"]()).network
            learner = new_learner(build_network(network), network, config)
            folder = runs / "fc100_5way_cpu" / f"{row}-5shot-{seed}"
            save_learner(folder / "model", learner, network, config)
    result = reproduce("figure-3.5", tmp_path)
    layers = {f"stage{stage}.1.conv{conv}" for stage in (1, 2, 3) for conv in (1, 2)}
    assert {frozenset(m) for seeds in result["curves"].values() for m in seeds.values()} == {
        frozenset(layers)
    }
    moved = result["curves"]["WRN-16-1"]["1"]
    stage2 = 50 * (moved["stage2.1.conv1"] + moved["stage2.1.conv2"])
    assert result["per_seed"]["WRN-16-1"]["stage2 (%)"]["1"] == pytest.approx(stage2)
    assert stage2 > 0
    assert (tmp_path / "figure-3.5-cpu.png").is_file()


def test_the_domains_table_holds_each_domain_and_their_mean(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in SEEDS:
        for arm in ("plain", "unshared"):
            _touch_model(runs / "tiny_imagenet_hyperresnet18_cpu" / f"{arm}-{seed}")
            for place, domain in enumerate(get_args(Domain)):
                if arm == "plain" and seed == 2 and domain == "sketch":
                    continue  # not trained: no mean over domains for this seed
                folder = runs / "pacs_hyperresnet18_cpu" / f"{arm}-{domain}-{seed}"
                _touch_model(folder)
                (folder / "test.json").write_text(json.dumps({"accuracy": 0.4 + 0.1 * place}))
    result = reproduce("table-3.8", tmp_path)
    plain = result["per_seed"]["ResNet-18, width 16"]
    assert plain["mean"] == {"0": pytest.approx(55.0), "1": pytest.approx(55.0)}
    assert set(plain["photo"]) == {"0", "1", "2"}
    assert result["config"]["ResNet-18, width 16, photo"]["network"]["sharing"] == "none"
    assert result["thesis"]["HyperResNet-18"]["sketch"] == 81.10


def test_without_runs_quick_writes_nothing(tmp_path: Path) -> None:
    trained = {name: run for name, run in EXPERIMENTS.items() if name != "small-claims"}
    for experiment in trained.values():
        experiment(preset="cpu", out=tmp_path, quick=True, runs=tmp_path / "runs")
    assert not list(tmp_path.glob("*"))


def test_every_preset_that_experiments_name_is_there() -> None:
    from hypernet_maml.experiments import domains, few_shot

    for table in TABLES.values():
        for networks in table.networks.values():
            for columns in networks.values():
                assert set(columns.values()) <= set(TRAIN)
    for few in few_shot.TABLES.values():
        for settings in few.settings.values():
            for setting in settings:
                assert setting.pretraining in TRAIN
                assert setting.metatraining in META
    for pretraining, domain, _ in domains._PRESETS.values():
        assert pretraining in TRAIN
        assert domain in DOMAIN


def test_the_command_lists_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    from hypernet_maml.cli import main

    with pytest.raises(SystemExit):
        main(["reproduce", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in EXPERIMENTS)


def test_final_accuracy_is_that_of_the_saved_network(tmp_path: Path) -> None:
    finished(tmp_path, "plain", 0, 0.625)
    assert final_accuracy(tmp_path / PRESET / "plain-0") == 0.625


def _touch_model(folder: Path) -> None:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / CONFIG).write_text("{}")
