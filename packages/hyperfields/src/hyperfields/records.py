"""Configurations as records: checked when they are made, read from JSON of earlier versions too. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

_RENAMED = {
    "iterations": "steps",
    "batch": "batch_size",
    "warm_up": "warmup_steps",
    "final_rate": "min_lr_ratio",
    "object_share": "object_fraction",
}
"""What keys of configurations were called in version 0.1's first checkpoints."""
_Config = TypeVar("_Config", bound="Config")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A configuration whose numbers are finite and whose choices are among those that there are."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for spec in fields(self):
            value, hint = getattr(self, spec.name), hints[spec.name]
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{spec.name} must be a finite number, got {value}")
            if get_origin(hint) is Literal and value not in get_args(hint):
                choices = ", ".join(map(str, get_args(hint)))
                raise ValueError(f"{spec.name} must be one of {choices}, got {value!r}")
            if spec.name.endswith("learning_rate") and value <= 0:
                raise ValueError(f"{spec.name} must be above 0, got {value}")


def config_from(cls: type[_Config], record: object) -> _Config:
    """A configuration from the JSON of a checkpoint, of earlier versions too.

    Raises:
        ValueError: no such keys, values of other types or out of range.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{cls.__name__} is no object")
    default, values = cls(), {}
    for name, value in with_present_names(record).items():
        if not hasattr(default, name):
            raise ValueError(f"unknown key {name!r}")
        like = getattr(default, name)
        if is_dataclass(like):
            value = config_from(type(like), value)  # type: ignore[type-var]
        elif isinstance(like, tuple) and isinstance(value, list):
            value = tuple(value)
        kinds = (int, float) if isinstance(like, float) else (type(like),)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(like, bool):
            raise ValueError(f"{name} is a {type(value).__name__}")
        values[name] = value
    return cls(**values)


def with_present_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its keys, at all depths, as they are called in this version."""
    return {
        _RENAMED.get(name, name): with_present_names(value) if isinstance(value, Mapping) else value
        for name, value in record.items()
    }
