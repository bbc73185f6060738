"""Table 2.1: 5-way online few-shot accuracy of CL+LSTM and five baselines on Omniglot and CIFAR-FS.

Claim: memory in every layer adapts better than prototypes (OPN, CPM) and than memory behind a fixed
encoder (LSTM, NTM, APL); with more shots, more so.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from memory_adapt import plots
from memory_adapt.evaluation import CONTROLS, blind_bound, evaluate, weights_hash
from memory_adapt.experiments.trained import TrainedRun, find_learner
from memory_adapt.models.interface import OnlineClassifier
from memory_adapt.models.registry import LEARNERS
from memory_adapt.training.online import run_config
from priors_shared.datasets import load_dataset
from priors_shared.episodes import OnlineEpisodeSampler
from priors_shared.experiments import Experiment, Lab
from priors_shared.files import write_atomically
from priors_shared.reports import Cell, Measured, Table, comparison_table, read_result

SHOTS = (1, 5, 8)
TABLE_SHOTS = (0, *SHOTS)
WAYS = 5
TEST_SEED = 20_000


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is evaluated."""

    ways: int = WAYS
    """classes in a stream"""
    samples: int = 10
    """images of each class in a stream"""
    episodes: int = 1000
    """streams"""
    control_episodes: int = 100
    """streams of each control"""


SIZES = Sizes()
Row = tuple[float | None, float | None, float | None]
THESIS: dict[str, dict[str, Row]] = {
    "omniglot": {
        "LSTM": (85.3, 94.4, 95.8),
        "NTM": (88.7, 96.8, 97.3),
        "APL": (89.1, 94.9, 95.7),
        "OPN": (91.2, 94.6, 95.8),
        "CPM": (94.5, 97.0, 97.4),
        "CL+LSTM": (96.8, 99.4, 99.7),
    },
    "cifar-fs": {
        "LSTM": (None, None, None),
        "NTM": (None, None, None),
        "APL": (37.6, 45.8, 46.9),
        "OPN": (49.9, 54.9, 56.8),
        "CPM": (50.2, 55.8, 57.8),
        "CL+LSTM": (47.6, 56.7, 61.0),
    },
}
TITLES = {name: LEARNERS[name].title for name in ("lstm", "ntm", "apl", "opn", "cpm", "cl-lstm")}
SCRATCH = "CL+LSTM from scratch"

Plan = tuple[str, str, str, tuple[int, ...]]
"""Row title, preset, model, seeds."""

_SEEDS = {"cl-lstm": (0, 1, 2), "opn": (0, 1, 2), "cpm": (0, 1, 2)}


def plans(preset: str, dataset: str) -> list[Plan]:
    """The trainings behind one half of the table."""
    stem = {"omniglot": "omniglot_5way", "cifar-fs": "cifar_fs_5way"}[dataset]
    if preset == "paper":
        return [(TITLES[m], stem, m, (0, 1, 2)) for m in TITLES]
    if dataset == "cifar-fs":
        return [(TITLES[m], f"{stem}_cpu", m, (0, 1)) for m in ("opn", "cpm", "cl-lstm")]
    rows: list[Plan] = [(TITLES[m], f"{stem}_cpu", m, _SEEDS.get(m, (0, 1))) for m in TITLES]
    return [*rows, (SCRATCH, f"{stem}_scratch_cpu", "cl-lstm", (0,))]


@dataclass(frozen=True, kw_only=True)
class Table21(Experiment):
    """Every learner of the table, on both of its data sets."""

    id: str = "table-2.1"
    claim: str = (
        "CL+LSTM (memory in every layer) beats prototypes and memory behind a fixed encoder, "
        "more so with more shots"
    )
    sizes: Sizes = SIZES

    @classmethod
    def of(cls, preset: str) -> Table21:
        """In a preset's sizes."""
        return cls(preset=preset)

    def run(self, lab: Lab) -> None:
        """Train what is missing, evaluate on held-out test classes, write the results."""
        for dataset in THESIS:
            arms = {}
            for title, name, model, seeds in plans(self.preset, dataset):
                # From scratch is shown however far it got; the others only when they are done.
                trained = [
                    find_learner(lab, name, model, seed, unfinished=title == SCRATCH)
                    for seed in seeds
                ]
                if finished := [t for t in trained if t]:
                    arms[title] = finished
            if not arms:
                continue
            # Not before: a plan needs no data.
            sampler = OnlineEpisodeSampler(
                load_dataset(dataset, "test"), ways=self.sizes.ways, shots=self.sizes.samples
            )
            evaluated = {
                title: [(t, _evaluated_once(t, dataset, sampler, self.sizes)) for t in runs]
                for title, runs in arms.items()
            }
            self._write(lab, dataset, evaluated)

    def _write(
        self,
        lab: Lab,
        dataset: str,
        arms: Mapping[str, Sequence[tuple[TrainedRun, dict[str, Any]]]],
    ) -> None:
        """The result's JSON, its Markdown table and its figures."""
        sizes = self.sizes
        per_seed = {
            title: [r.record() | entry for r, entry in runs] for title, runs in arms.items()
        }
        rows = [{"model": title, **_summary(entries)} for title, entries in per_seed.items()]
        metrics = {
            f"{title}, seed {r.seed}": r.metrics() for title, runs in arms.items() for r, _ in runs
        }
        thesis = {
            name: {f"{k}-shot": v for k, v in zip(SHOTS, values, strict=True)}
            for name, values in THESIS[dataset].items()
        }
        bounds = {
            name: [100 * b for b in blind_bound(sizes.ways, sizes.samples, skip_first=skip)]
            for name, skip in (("blind bound", False), ("blind bound among labels seen", True))
        }
        half = replace(self, id=f"{self.id}-{dataset}")  # a result file for each data set
        self.write(
            lab,
            rows,
            path=half.path(lab, suffix="json"),
            config={title: run_config(runs[0][0].config) for title, runs in arms.items()},
            seeds=sorted({e["seed"] for entries in per_seed.values() for e in entries}),
            data=f"{dataset}, test classes (never used in training), {sizes.episodes} balanced "
            f"streams of {sizes.ways} x {sizes.samples}, the same for every learner",
            thesis=thesis,
            per_seed=per_seed,
            curves={name: validation_curve(lines) for name, lines in metrics.items()},
            losses={name: loss_curve(lines) for name, lines in metrics.items()},
            blind_bounds=bounds,
        )
        result = read_result(half.path(lab, suffix="json"))
        table = result_table(rows, thesis, bounds, steps_done(result))
        write_atomically(half.path(lab, suffix="md"), table.to_markdown() + "\n")
        plots.save_figure(shots_figure(result), half.path(lab, "shots"))
        plots.save_figure(curves_figure(result), half.path(lab, "curves"))


def _evaluated_once(
    run: TrainedRun, dataset: str, sampler: OnlineEpisodeSampler, sizes: Sizes
) -> dict[str, Any]:
    """`evaluate_learner`, kept in the run folder: an interrupted table goes on where it was."""
    what = {
        "dataset": dataset,
        "ways": sampler.ways,
        "episodes": sizes.episodes,
        "control_episodes": sizes.control_episodes,
        "seed": TEST_SEED,
        "weights": weights_hash(run.learner),
    }
    path = run.folder / "test.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept.pop("what") == what:
            return kept
    entry = evaluate_learner(
        run.learner, sampler, episodes=sizes.episodes, control_episodes=sizes.control_episodes
    )
    write_atomically(path, json.dumps({"what": what, **entry}))
    return entry


def evaluate_learner(
    learner: OnlineClassifier,
    sampler: OnlineEpisodeSampler,
    *,
    episodes: int,
    control_episodes: int,
) -> dict[str, Any]:
    """Accuracy in percent at 0 .. 9 shots with its 95 % half-width over episodes, and the controls'."""
    accuracy = evaluate(learner, sampler, episodes=episodes, seed=TEST_SEED)
    controls = {
        control: evaluate(
            learner, sampler, episodes=control_episodes, seed=TEST_SEED, control=control
        )
        for control in CONTROLS
    }
    return {
        "accuracy": [round(100 * a, 2) for a in accuracy.mean.tolist()],
        "half_width": [round(50 * w, 2) for w in (accuracy.high - accuracy.low).tolist()],
        "controls": {c: [round(100 * a, 1) for a in r.mean.tolist()] for c, r in controls.items()},
    }


def _summary(entries: Sequence[Mapping[str, Any]]) -> dict[str, Cell]:
    cells: dict[str, Cell] = {
        f"{k}-shot": Measured.over_seeds([e["accuracy"][k] for e in entries]) for k in TABLE_SHOTS
    }
    for control in CONTROLS:
        # The worst case over the shots reported: the control must hold everywhere.
        cells[control] = max(max(e["controls"][control][k] for k in SHOTS) for e in entries)
    return cells


def validation_curve(metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Validation accuracies, as fractions, and the step after which each was taken."""
    return [
        {"step": m["step"], **{k: round(v, 4) for k, v in m.items() if k.startswith("val_")}}
        for m in metrics
        if "val_1_shot" in m
    ]


def loss_curve(metrics: Sequence[Mapping[str, Any]], most: int = 150) -> list[dict[str, Any]]:
    """Training loss of each stage at about `most` steps in all; each the mean since the last."""
    logged = [m for m in metrics if "loss" in m]
    width = max(1, -(-len(logged) // most))
    curve = []
    for (_, kind), lines in groupby(logged, lambda m: (m["stage"], m["kind"])):
        stage = list(lines)
        blocks = [stage[i : i + width] for i in range(0, len(stage), width)]
        means = [round(statistics.fmean(m["loss"] for m in block), 4) for block in blocks]
        steps = [block[-1]["step"] for block in blocks]
        curve.append({"kind": kind, "steps": steps, "losses": means})
    return curve


def steps_done(result: Mapping[str, Any]) -> dict[str, str]:
    """What a row of unfinished training says beside its title: how far it got."""
    said = {}
    for title, entries in result["per_seed"].items():
        done = [_steps(entry) for entry in entries if not entry.get("finished", True)]
        if done:
            total = sum(map(_steps, result["config"][title]["stages"]))
            said[title] = f"{min(done):,} of {total:,} steps"
    return said


def _steps(record: Mapping[str, Any]) -> int:
    return int(record["steps"] if "steps" in record else record["updates"])  # version 0.1's word


def result_table(
    rows: Sequence[dict[str, Any]],
    thesis: Mapping[str, Mapping[str, Cell]],
    bounds: Mapping[str, Sequence[float]],
    unfinished: Mapping[str, str] = {},
) -> Table:
    """Our numbers beside the thesis', the controls, and the blind bounds as last rows.

    unfinished: of `steps_done`.
    """
    rows = [
        {**row, "model": f"{row['model']} ({unfinished[row['model']]})"}
        if row["model"] in unfinished
        else row
        for row in rows
    ]
    blind = [
        {"model": name, **{f"{k}-shot": bound[k] for k in TABLE_SHOTS}}
        for name, bound in bounds.items()
    ]
    # In this order: a result read from JSON has its keys sorted.
    columns = ["model", *(f"{k}-shot" for k in TABLE_SHOTS), *CONTROLS]
    return comparison_table(
        [{name: row.get(name) for name in columns} for row in [*rows, *blind]],
        thesis,
        caption="5-way accuracy in percent on held-out classes: mean and standard deviation over "
        "seeds. 0 shots: the first view of a class, where a learner can only rule out labels that "
        "it has met. Controls: the highest of the 1-, 5- and 8-shot accuracies with that input taken "
        "away. Blind bounds: the best guess that never looks at an image; the second never guesses "
        "a label that has not come yet, as OPN and CPM must.",
    )


def shots_figure(result: Mapping[str, Any]) -> Any:
    """Accuracy against shots, band: standard deviation over seeds."""
    curves = {}
    for title in [
        name for name in plots.LEARNERS if name in result["per_seed"] and name != SCRATCH
    ]:
        over = [
            Measured.over_seeds(values)
            for values in zip(*(e["accuracy"] for e in result["per_seed"][title]), strict=True)
        ]
        low, mean, high = (
            [(m.mean + sign * (m.spread or 0.0)) / 100 for m in over] for sign in (-1, 0, 1)
        )
        curves[title] = mean, low, high
    bound = [b / 100 for b in result["blind_bounds"]["blind bound"]]
    blind = " / ".join(f"{100 * bound[k]:.0f}" for k in SHOTS)
    return plots.shots_figure(
        curves,
        ways=WAYS,
        blind=bound,
        title=f"{_dataset_of(result)}, held-out (blind bound {blind} % at 1 / 5 / 8 shots)",
        zoom=True,
    )


def curves_figure(result: Mapping[str, Any]) -> Any:
    """Training loss and 5-shot validation accuracy of every run over its steps."""
    return plots.learners_figure(
        result["curves"],
        result.get("losses", {}),  # results of before have none
        ways=WAYS,
        title=f"Learning curves, {_dataset_of(result)} (a gap: the next training stage)",
    )


def _dataset_of(result: Mapping[str, Any]) -> str:
    return str(result["data"]).partition(",")[0]
