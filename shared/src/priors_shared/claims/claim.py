"""A claim: whose words, and where in a stored result the numbers are that it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from priors_shared.claims.verdicts import Judgement, judge
from priors_shared.errors import UserError
from priors_shared.reports.tables import Measured

EACH = "*"
"""In a path: every repetition; its key, its `seed` or its number pairs it with others."""


@dataclass(frozen=True)
class Match:
    """In a path: those of a list's records that have these values, each paired by another of its fields."""

    fields: tuple[tuple[str, Any], ...]
    pair_by: str


Path = tuple["str | int | Match", ...]
"""Keys and positions from the root of a result file, such as ("per_seed", "CL+LSTM", EACH, "accuracy", 5)."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is said, by whom, and how the rows of an experiment bear on it.

    The claim is that `better`, with the sum of `plus`, less the sum of `minus` is positive; with `bound`, that it
    lies above that.
    """

    id: str
    """begins with the number of the table, figure or section, such as 3.7-one-shot"""
    section: str
    """of the thesis, with table or figure; for a claim of ours, where it stands"""
    statement: str
    source: Literal["thesis", "ours"] = "thesis"
    experiment: str | None = None
    """whose result file holds the rows; None: none, or a benchmark that only `rows` names"""
    rows: str = ""
    """how the file's name begins, where it is not the experiment's name"""
    better: Path = ()
    plus: tuple[Path, ...] = ()
    """for a gain beside another gain: better - minus[0] against minus[1] - plus[0]"""
    minus: tuple[Path, ...] = ()
    bound: float = 0.0
    margin: float = 0.0
    """what a claim of "no loss" may lose, in `unit`"""
    lower: bool = False
    """whether less is better"""
    unit: str = "points"
    thesis: tuple[float, ...] = ()
    """the thesis' numbers for `better`, `plus` and `minus`, in this order"""
    expected: float | None = None
    """the difference that matters, where the thesis gives no numbers"""
    why_not: str = ""
    """why it was not run, or what the rows can't show"""

    @property
    def stem(self) -> str:
        """How the name of its result file begins; empty where it has none."""
        return self.rows or self.experiment or ""

    @property
    def thesis_difference(self) -> float | None:
        """In the claim's favour where positive."""
        if not self.thesis:
            return self.expected
        added = 1 + len(self.plus)
        difference = sum(self.thesis[:added]) - sum(self.thesis[added:]) - self.bound
        return -difference if self.lower else difference

    def differences(self, result: Mapping[str, Any]) -> dict[str, float]:
        """The claim's difference in each pair, positive in its favour.

        Raises:
            UserError: the result lacks a value, or no pair is whole.
        """
        better = values_at(result, self.better)
        plus = [values_at(result, path) for path in self.plus]
        minus = [values_at(result, path) for path in self.minus]
        pairs = [key for key in better if all(key in other for other in [*plus, *minus])]
        if not pairs:
            others = "; ".join(_shown(path) for path in (*self.plus, *self.minus))
            raise UserError(
                f"{self.id}: the rows have no pair of {_shown(self.better)} and {others}"
            )
        sign = -1 if self.lower else 1
        return {
            key: sign
            * (
                better[key]
                + sum(other[key] for other in plus)
                - sum(other[key] for other in minus)
                - self.bound
            )
            for key in pairs
        }

    def judged(self, result: Mapping[str, Any]) -> Judgement:
        """The verdict on a result's rows."""
        expected = self.thesis_difference
        if expected is not None and expected <= 0:
            expected = None  # the thesis' own numbers are no difference in the claim's favour
        differences = list(self.differences(result).values())
        return judge(differences, expected=expected, margin=self.margin)


@dataclass(frozen=True, kw_only=True)
class Book:
    """A package's claims, registered in the entry-point group `priors.claims`."""

    system: str
    """name of the package and of its program"""
    claims: Sequence[Claim]
    experiments: Callable[[], Mapping[str, Callable[..., None]]]
    """loads what runs each experiment: `run(preset=, out=, runs=, quick=)` by name"""


def values_at(result: Mapping[str, Any], path: Path) -> dict[str, float]:
    """The numbers at a path of a result, by the repetition that each is of; those that are missing are left out.

    Raises:
        UserError: nothing is there, or what is there is no number.
    """
    found: dict[str, Any] = {"": result}
    for part in path:
        steps = [
            ("/".join(filter(None, (outer, inner))), value)
            for outer, tree in found.items()
            for inner, value in _step(tree, part, path)
        ]
        found = dict(steps)
        if len(found) < len(steps):
            raise UserError(f"{_shown(path)}: several records have the same {part.pair_by!r}")  # type: ignore[union-attr]
    if len(found) == 1 and "" in found:
        # Repetitions without a level of their own.
        leaf = found[""]
        if isinstance(leaf, Mapping | list):
            found = dict(_step(leaf, EACH, path))
    found = {k: v.mean if isinstance(v, Measured) else v for k, v in found.items()}
    bad = [key for key, value in found.items() if not isinstance(value, int | float | None)]
    if bad:
        raise UserError(f"{_shown(path)}: {found[bad[0]]!r:.40} is no number")
    numbers = {k: float(v) for k, v in found.items() if v is not None and math.isfinite(v)}
    if not numbers:
        raise UserError(f"{_shown(path)}: the result has no numbers there")
    return numbers


def _step(tree: Any, part: str | int | Match, path: Path) -> list[tuple[str, Any]]:
    if isinstance(part, Match) and isinstance(tree, list):
        kept = [item for item in tree if all(item.get(k) == v for k, v in part.fields)]
        return [(str(item.get(part.pair_by)), item) for item in kept]
    if part == EACH and isinstance(tree, Mapping):
        return [(str(key), value) for key, value in tree.items()]
    if part == EACH and isinstance(tree, list):
        return list(zip(_names(tree), tree, strict=True))
    try:
        return [("", tree[part])]
    except (KeyError, IndexError, TypeError):
        raise UserError(f"{_shown(path)}: the result has no {part!r}") from None


def _names(items: Sequence[Any]) -> list[str]:
    """The records' seeds where these tell them apart, else their positions."""
    seeds = [str(item.get("seed")) for item in items if isinstance(item, Mapping)]
    if len(set(seeds)) == len(items):
        return seeds
    return [str(i) for i in range(len(items))]


def _shown(path: Path) -> str:
    return " > ".join(str(dict(p.fields)) if isinstance(p, Match) else str(p) for p in path)
