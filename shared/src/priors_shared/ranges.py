"""Checks of a configuration's numbers, for `__post_init__`. Imports no torch."""

import math

LARGEST = 2**63 - 1
"""Whatever has no upper end of its own: more is no count that torch or NumPy takes."""


def require(
    config: object, least: int | float, *names: str, most: int | float | None = None
) -> None:
    """Refuse a field outside of its range, both ends included, or not finite; None and missing fields pass.

    Raises:
        ValueError: names the field first, so that a command can show it as an option.
    """
    for name in names:
        value = getattr(config, name, None)
        largest = LARGEST if most is None else most
        if value is None or (math.isfinite(value) and least <= value <= largest):
            continue
        wanted = f"at least {least}" if most is None else f"in {least} .. {most}"
        raise ValueError(f"{name} must be {wanted}, got {value}")


def require_positive(config: object, *names: str) -> None:
    """Refuse a field that is not above zero, or not finite; None passes.

    Raises:
        ValueError: names the field first.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number, got {value}")
