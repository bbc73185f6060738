"""What the experiments share: tables beside the thesis', differences of arms, pictures. Verdicts are the ledger's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Protocol, runtime_checkable

from priors_shared.experiments import Experiment, Lab
from priors_shared.files import write_atomically
from priors_shared.reports import (
    Code,
    Curve,
    Figure,
    Measured,
    Section,
    comparison_table,
    line_figure,
    read_result,
)
from priors_shared.statistics import compare_paired

_LEAD = (
    "What is claimed, and the difference that bears on it; the ledger of claims has the verdicts:"
)
PerSeed = dict[int, float]
SeedCurves = dict[int, list[tuple[int, float]]]
"""Points of a curve, by seed."""


@dataclass(frozen=True)
class Claim:
    """The thesis says that `better` beats `worse`.

    Each names a row; with two rows, the first's gain over the second is meant.
    """

    text: str
    better: tuple[str, ...]
    worse: tuple[str, ...]


ARM_TITLES = {"plain": "{}", "unshared": "Hyper{}"}
"""Rows of a network and its hypernetwork, where a table has only these two arms."""


def hyper_beats_plain(network: str, text: str) -> Claim:
    """The claim of a table of these two arms."""
    better, worse = ((ARM_TITLES[arm].format(network),) for arm in ("unshared", "plain"))
    return Claim(f"{network}: {text}", better, worse)


@dataclass(frozen=True)
class Evidence:
    """A table's numbers: by row and column, one per seed."""

    measured: Mapping[str, Mapping[str, PerSeed]]
    thesis: Mapping[str, Mapping[str, float]]
    facts: Mapping[str, Mapping[str, float]]
    """Further cells that have no spread, such as parameter counts, by row and column."""

    def rows(self) -> list[dict[str, Any]]:
        """As `comparison_table` takes them."""
        columns = list(dict.fromkeys(c for row in self.measured.values() for c in row))
        facts = list(dict.fromkeys(c for row in self.facts.values() for c in row))
        return [
            {"model": row}
            | {
                c: Measured.over_seeds(list(found[c].values())) if found.get(c) else None
                for c in columns
            }
            | {c: self.facts.get(row, {}).get(c) for c in facts}
            for row, found in self.measured.items()
        ]

    def comparisons(self, claims: Sequence[Claim]) -> list[dict[str, Any]]:
        """Every claim in every column with two seeds or more, paired by seed."""
        tested = []
        columns = dict.fromkeys(c for row in self.measured.values() for c in row)
        for claim in claims:
            for column in columns:
                better, worse = (self._gain(side, column) for side in (claim.better, claim.worse))
                pairs = sorted(set(better) & set(worse))
                if len(pairs) < 2:
                    continue
                found = compare_paired([better[s] for s in pairs], [worse[s] for s in pairs])
                tested.append({**asdict(claim), "column": column, "seeds": pairs, **asdict(found)})
        return tested

    def _gain(self, rows: tuple[str, ...], column: str) -> PerSeed:
        found = [self.measured.get(row, {}).get(column, {}) for row in rows]
        seeds = set.intersection(*(set(values) for values in found))
        return {s: found[0][s] - sum(values[s] for values in found[1:]) for s in seeds}


@runtime_checkable
class Picture(Protocol):
    """What an experiment plots."""

    by_row: Mapping[str, Any]
    """Its numbers, by row and seed."""

    def save(self, path: Path, *, title: str) -> None:
        """Draw it to a file."""


@dataclass
class Curves:
    """Curves over training, a colour a row."""

    by_row: Mapping[str, SeedCurves]
    x: str
    y: str
    log_y: bool = False

    def save(self, path: Path, *, title: str) -> None:
        """Draw means over seeds with their standard deviation."""
        curves = {}
        for row, seeds in self.by_row.items():
            shared = set.intersection(*({x for x, _ in points} for points in seeds.values()))
            steps = sorted(shared)
            values = [[dict(points)[x] for points in seeds.values()] for x in steps]
            spread = [stdev(at) for at in values] if len(seeds) > 1 else None
            curves[row] = Curve(steps, [fmean(at) for at in values], spread)
        drawn = line_figure(curves, x=self.x, y=self.y, title=title)
        if self.log_y:
            drawn.axes[0].set_yscale("log")
        drawn.savefig(path, dpi=150)


@dataclass
class MovementBars:
    """How far each layer moves, a group of bars per layer, a bar per row (Fig. 3.5)."""

    by_row: Mapping[str, Mapping[int, Mapping[str, float]]]
    """Layer to movement, by row and seed."""

    def save(self, path: Path, *, title: str) -> None:
        """Draw means over seeds."""
        from hypernet_maml.plots import movement_figure

        means = {
            row: {layer: fmean(moved[layer] for moved in seeds.values()) for layer in layers}
            for row, seeds in self.by_row.items()
            for layers in [next(iter(seeds.values()))]
        }
        movement_figure(means, title=title).savefig(path, dpi=150)


class Compared(Experiment):
    """An experiment whose arms are compared, seed by seed."""

    def write_evidence(
        self,
        lab: Lab,
        evidence: Evidence,
        claims: Sequence[Claim],
        *,
        title: str,
        config: Mapping[str, Any],
        data: str,
        note: str,
        picture: Picture | None = None,
        **extra: Any,
    ) -> None:
        """Write the experiment's JSON, Markdown and picture; nothing where there is no run."""
        if not evidence.measured:
            return
        comparisons = evidence.comparisons(claims)
        rows = evidence.rows()
        seeds = {s for row in evidence.measured.values() for found in row.values() for s in found}
        self.write(
            lab,
            rows,
            config=config,
            seeds=sorted(seeds),
            data=data,
            thesis=evidence.thesis,
            title=title,
            note=note,
            per_seed=evidence.measured,
            comparisons=comparisons,
            curves=None if picture is None else picture.by_row,
            **extra,
        )
        caption = f"{title}. Mean and standard deviation over seeds. {note}"
        table = comparison_table(rows, evidence.thesis, caption=caption, digits=2)
        lines = [f"- {_difference(c)}" for c in comparisons]
        text = table.to_markdown() + ("\n".join(["", _LEAD, "", *lines, ""]) if lines else "")
        write_atomically(self.path(lab, suffix="md"), text)
        if picture is not None:
            picture.save(self.path(lab), title=title.split(":")[0])


def evidence_section(path: Path) -> Section:
    """What `write_evidence` wrote to a JSON file, for the report."""
    result = read_result(path)
    # JSON's keys are sorted: what names the row is first again.
    rows = [{"model": row["model"], **row} for row in result["rows"]]
    said = (
        f"{result['title']}. {result['note']} Small-scale runs on a CPU, seeds {result['seeds']}, "
        f"{result['date']}, commit {str(result['commit'])[:10]}."
    )
    parts: list[Any] = [
        said,
        comparison_table(rows, result["thesis"] or {}, digits=2),
        *([_LEAD] if result["comparisons"] else []),
        *map(_difference, result["comparisons"]),
    ]
    picture = path.with_suffix(".png")
    if picture.is_file():
        parts.append(Figure.from_file(picture))
    title = result["experiment"].replace("-", " ").capitalize()
    return Section(f"Stored result: {title}", [*parts, Code(result["command"])], folded=True)


def _difference(comparison: Mapping[str, Any]) -> str:
    found, seeds = comparison["difference"], len(comparison["seeds"])
    return (
        f"{comparison['text']} ({comparison['column']}): difference {found['mean']:+.2f} "
        f"[{found['low']:+.2f}, {found['high']:+.2f}], p = {comparison['p_t']:.2g} (paired t, {seeds} seeds)"
    )
