"""What the experiments store, and the tables and figures made from it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memory_adapt.experiments import table_2_1
from memory_adapt.experiments.delayed_labels import DELAYS, delays_figure, delays_table
from memory_adapt.experiments.table_2_1 import (
    curves_figure,
    loss_curve,
    result_table,
    shots_figure,
    steps_done,
    validation_curve,
)
from memory_adapt.experiments.trained import find_learner
from memory_adapt.models.registry import build_model
from memory_adapt.presets import PRESETS
from memory_adapt.report import _stored_sections
from memory_adapt.training.online import save_learner
from memory_adapt.training.staged import TrainedLearner
from priors_shared.checkpoints import save_training_state
from priors_shared.experiments import Lab
from priors_shared.reports import Figure, Measured, Table, read_result, write_result
from priors_shared.runs import Run


def metrics(steps: int) -> list[dict[str, Any]]:
    """Two stages of equal length; the loss is the number of the line."""
    lines: list[dict[str, Any]] = []
    for line in range(steps // 20):
        stage = 2 * line // (steps // 20)
        entry = {"step": 20 * (line + 1), "stage": stage, "kind": "ab"[stage], "loss": float(line)}
        if line % 50 == 49:
            entry |= {"val_1_shot": 0.123456, "val_5_shot": 0.98761}
        lines.append(entry)
    return lines


def table_result(runs: int = 2, losses: bool = True) -> dict[str, Any]:
    entries = [
        {"accuracy": [37.0, *(90.0 + seed + k / 2 for k in range(1, 10))]} for seed in range(runs)
    ]
    names = [f"{learner}, seed {seed}" for learner in ("OPN", "CL+LSTM") for seed in range(runs)]
    stored = {"losses": {name: loss_curve(metrics(2000)) for name in names}} if losses else {}
    return {
        "data": "omniglot, test classes",
        "per_seed": {"OPN": entries, "CL+LSTM": entries},
        "blind_bounds": {"blind bound": [45.7, 31.3, *[28.0] * 8]},
        "curves": {name: validation_curve(metrics(2000)) for name in names},
        **stored,
    }


@pytest.mark.parametrize("lines", [10, 150, 1000, 5000])
def test_a_loss_curve_is_thin_and_keeps_stages_and_means(lines: int) -> None:
    logged = metrics(20 * lines)
    stages = loss_curve(logged)
    assert [stage["kind"] for stage in stages] == ["a", "b"]
    assert sum(len(stage["steps"]) for stage in stages) <= 152
    assert [stage["steps"][-1] for stage in stages] == [10 * lines, 20 * lines]
    width = math.ceil(lines / 150)
    assert stages[0]["losses"][0] == round(sum(range(width)) / width, 4)
    assert stages[1]["losses"][0] == round(lines / 2 + (width - 1) / 2, 4)


def test_a_validation_curve_is_rounded() -> None:
    first, *_ = curve = validation_curve(metrics(2000))
    assert first == {"step": 1000, "val_1_shot": 0.1235, "val_5_shot": 0.9876}
    assert len(curve) == 2


def test_learning_curves_show_each_learner_once_and_read_results_without_losses() -> None:
    figure = curves_figure(table_result())
    upper, lower = figure.axes
    assert [text.get_text() for text in lower.get_legend().get_texts()] == ["CL+LSTM", "OPN"]
    colours = [line.get_color() for line in lower.lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    stages = [line for line in upper.lines if len(line.get_xdata()) > 2]
    assert len(stages) == 2 * 4  # a line per stage and run
    assert any(list(line.get_ydata()) == [math.log(5)] * 2 for line in upper.lines)
    assert len(curves_figure(table_result(losses=False)).axes) == 1


def test_shots_figure_of_the_table_begins_at_one_shot() -> None:
    (axes,) = shots_figure(table_result()).axes
    assert [line.get_label() for line in axes.lines] == ["CL+LSTM", "OPN"]  # the bound is far below
    for line in axes.lines:
        assert list(line.get_xdata()) == list(range(1, 10))
        assert line.get_ydata()[0] == pytest.approx(91.0)


def test_table_shows_first_views_without_a_column_of_the_thesis() -> None:
    row = {"model": "OPN", "0-shot": Measured(4.6), "1-shot": Measured(96.0)} | dict.fromkeys(
        ("5-shot", "8-shot"), Measured(99.0)
    )
    bounds = {"blind bound": [45.7, 31.3, *[28.0] * 8]}
    table = result_table([row], {"OPN": {"1-shot": 91.2}}, bounds)
    assert list(table.columns[:4]) == ["model", "0-shot", "1-shot", "1-shot (thesis)"]
    assert table.rows[1][1] == 45.7


def test_a_training_that_was_not_finished_says_its_steps() -> None:
    stages = [{"steps": 15_000}, {"updates": 5000}]  # the second as version 0.1 wrote it
    result = {
        "per_seed": {
            "OPN": [{"finished": True, "steps": 9}],
            "X": [{"finished": False, "steps": 400}],
        },
        "config": {"X": {"stages": stages}},
    }
    assert steps_done(result) == {"X": "400 of 20,000 steps"}
    row = {f"{k}-shot": Measured(20.0) for k in (0, 1, 5, 8)}
    rows = [{"model": "OPN", **row}, {"model": "X", **row}]
    table = result_table(rows, {}, {}, steps_done(result))
    assert [line[0] for line in table.rows] == ["OPN", "X (400 of 20,000 steps)"]


def delay_rows() -> list[dict[str, Any]]:
    return [
        {"learner": name, "delay": delay}
        | {f"{k}-shot": Measured(90.0 + k - delay, 1.25) for k in (1, 5, 8)}
        for name in ("CL+LSTM", "OPN")
        for delay in DELAYS
    ]


def test_delays_are_a_line_per_learner() -> None:
    table = delays_table(delay_rows())
    assert list(table.columns) == ["learner", "d = 1", "d = 2", "d = 3", "d = 5"]
    assert table.rows[1] == [
        "OPN",
        *(f"{91.0 - d:.1f} / {95.0 - d:.1f} / {98.0 - d:.1f}" for d in DELAYS),
    ]
    assert "± 1.2 or narrower" in table.caption
    (axes,) = delays_figure(delay_rows()).axes
    assert list(axes.lines[0].get_ydata()) == [95.0 - d for d in DELAYS]


def test_stored_results_come_in_the_order_of_the_thesis(tmp_path: Path) -> None:
    def store(name: str, rows: list[dict[str, Any]], **more: Any) -> None:
        said: dict[str, Any] = {"experiment": name, "claim": "c", "command": f"repeat {name}"}
        path = tmp_path / f"{name}.json"
        write_result(path, **said, rows=rows, config={}, seeds=[0], hardware={}, **more)
        assert read_result(path)["rows"] == rows

    store("delayed-labels-cpu", delay_rows(), data="omniglot")
    result = json.loads(json.dumps(table_result()))
    row = {"model": "OPN"} | {f"{k}-shot": Measured(90.0) for k in (1, 5, 8)}
    for dataset in ("omniglot", "cifar-fs"):
        extra = {key: value for key, value in result.items() if key != "data"}
        store(f"table-2.1-{dataset}-cpu", [row], data=dataset, thesis={}, extra=extra)
    sections = _stored_sections(tmp_path)
    assert [section.title.partition(": ")[2] for section in sections] == [
        "Table 2.1, omniglot",
        "Table 2.1, cifar-fs",
        "delayed labels",
    ]
    kinds = [[type(part) for part in section.parts] for section in sections]
    assert [found.count(Figure) for found in kinds] == [2, 2, 1]
    assert [found.count(Table) for found in kinds] == [1, 1, 1]


def test_an_unfinished_run_shows_the_curve_of_its_weights(tmp_path: Path) -> None:
    """Another process trains on in the folder: what it logs after the checkpoint is of other weights."""
    config = replace(PRESETS["glyphs_5way_cpu"]("opn"), seed=3)
    folder = tmp_path / "glyphs_5way_cpu" / "opn-3"
    model = TrainedLearner(build_model(config.model))
    with Run.create(folder, {}, command="train", tensorboard=False, quiet=True) as run:
        for step in (20, 40, 60):
            run.log(step, loss=1.0, stage=0, kind="episodes")
        save_training_state(run.checkpoints, model=model, optimizer=None, step=40)
        lab = Lab(out=tmp_path / "out", runs=tmp_path, quick=True)
        assert find_learner(lab, "glyphs_5way_cpu", "opn", 3) is None
        found = find_learner(lab, "glyphs_5way_cpu", "opn", 3, unfinished=True)
    assert found is not None
    assert found.step == 40
    assert [line["step"] for line in found.metrics()] == [20, 40]
    assert found.record() | {"finished": False, "seed": 3, "steps": 40} == found.record()


def test_table_2_1_is_made_from_what_is_trained(tmp_path: Path, reference_data: Path) -> None:
    """One learner of few steps, evaluated on few streams: rows, files, and nothing trained."""
    config = PRESETS["omniglot_5way_cpu"]("opn")
    folder = tmp_path / "runs" / "omniglot_5way_cpu" / "opn-0"
    with Run.create(folder, {}, command="train", tensorboard=False, quiet=True) as run:
        run.log(20, loss=1.0, stage=0, kind="episodes")
        run.log(20, val_5_shot=0.5, stage=0, kind="episodes")
    save_learner(folder / "model", build_model(config.model))
    out = tmp_path / "out"
    out.mkdir()
    sizes = table_2_1.Sizes(episodes=4, control_episodes=2)
    for _ in range(2):  # the second time from what the first kept
        lab = Lab(out=out, runs=tmp_path / "runs", quick=True)
        table_2_1.Table21(preset="cpu", sizes=sizes).run(lab)
    result = read_result(out / "table-2.1-omniglot-cpu.json")
    assert [row["model"] for row in result["rows"]] == ["OPN"]
    assert result["per_seed"]["OPN"][0]["steps"] == 1200
    assert sorted(path.name for path in out.iterdir()) == [
        f"table-2.1-omniglot-cpu{end}" for end in ("-curves.png", "-shots.png", ".json", ".md")
    ]
    (section,) = _stored_sections(out)
    assert "Table 2.1, omniglot" in section.title
