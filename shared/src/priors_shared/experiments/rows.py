"""Rows of a result: means over repetitions, and differences paired by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from priors_shared.reports import Measured
from priors_shared.statistics import compare_paired

Scores = Mapping[str, float]
"""Values of measures, by their names."""


def rows_over_seeds(scores: Mapping[str, Mapping[Any, Scores]]) -> list[dict[str, Any]]:
    """A row for each name, with each measure's mean and spread over what it was repeated by."""
    return [
        {"model": name}
        | {m: Measured.over_seeds([one[m] for one in repeats.values()]) for m in first_of(repeats)}
        for name, repeats in scores.items()
    ]


def compared(one: Mapping[Any, Scores], other: Mapping[Any, Scores]) -> dict[str, dict[str, Any]]:
    """Each measure of one less the other, paired by seed or scene; empty for fewer than two pairs."""
    shared = [key for key in one if key in other]
    if len(shared) < 2:
        return {}
    return {
        measure: asdict(
            compare_paired([one[k][measure] for k in shared], [other[k][measure] for k in shared])
        )
        for measure in first_of(one)
    }


def first_of(repeats: Mapping[Any, Scores]) -> Scores:
    """The scores of the first repeat."""
    return next(iter(repeats.values()))


def all_seeds(scores: Mapping[str, Mapping[int, Any]]) -> list[int]:
    """The seeds that any row has."""
    return sorted({seed for repeats in scores.values() for seed in repeats})
