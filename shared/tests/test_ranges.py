"""Numbers of configurations: ends are in, what is not finite is out, None passes."""

import math
from dataclasses import dataclass

import pytest

from priors_shared.ranges import require, require_positive


@dataclass
class Config:
    steps: float | None = None


@pytest.mark.parametrize("value", [1, 2.5, 7, None])
def test_what_is_in_range_passes(value: float | None) -> None:
    require(Config(value), 1, "steps", "no_such_field", most=7)
    require_positive(Config(value), "steps")


@pytest.mark.parametrize("value", [0, -1, 8, math.nan, math.inf, -math.inf])
def test_what_is_not_is_refused_by_its_name(value: float) -> None:
    with pytest.raises(ValueError, match=r"^steps must be in 1 \.\. 7, got"):
        require(Config(value), 1, "steps", most=7)
    if not 0 < value < math.inf:
        with pytest.raises(ValueError, match=r"^steps must be a positive number, got"):
            require_positive(Config(value), "steps")


def test_without_an_upper_end_there_is_still_one() -> None:
    with pytest.raises(ValueError, match=r"^steps must be at least 0, got"):
        require(Config(2**64), 0, "steps")
