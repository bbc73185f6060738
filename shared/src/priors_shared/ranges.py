"""Checks of a configuration's numbers, for `__post_init__`. Imports no torch."""

import math


def require(config: object, least: int | float, *names: str, most: int | float = 2**63 - 1) -> None:
    """Refuse a field outside of its range, both ends included, or not finite; None and missing fields pass.

    Raises:
        ValueError: names the field first, so that a command can show it as an option.
    """
    for name in names:
        value = getattr(config, name, None)
        if value is None or (math.isfinite(value) and least <= value <= most):
            continue
        wanted = f"at least {least}" if most == 2**63 - 1 else f"in {least} .. {most}"
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
