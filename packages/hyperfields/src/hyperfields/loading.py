"""Checkpoints to modules: what kind a folder holds, and a module that takes its weights or one clear error."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from priors_shared.checkpoints import CONFIG
from priors_shared.errors import UserError, first_line

_Module = TypeVar("_Module", bound=nn.Module)


def checkpoint_kind(folder: str | Path) -> str | None:
    """The kind that a checkpoint's record names; None where there is no record to read."""
    try:
        record = json.loads(Path(folder, CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = record.get("kind") if isinstance(record, dict) else None
    return kind if isinstance(kind, str) else None


def load_module(
    source: object, make: Callable[[], _Module], weights: Mapping[str, Tensor]
) -> _Module:
    """The module that a checkpoint's record describes, with its weights, in 32 bits.

    Args:
        source: of the checkpoint, for errors.
        make: builds the module from the record.
        weights: by name.

    Raises:
        UserError: the record describes none, or the weights are another's.
    """
    try:
        # On no device: sizes that a damaged record claims take no memory, and nothing is drawn.
        with torch.device("meta"):
            module = make()
        full = {
            name: value.float() if value.is_floating_point() else value
            for name, value in weights.items()
        }
        module.load_state_dict(full, assign=True)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{source}: the checkpoint's {CONFIG} and weights make no model ({first_line(error)}); was it written "
            "by another version?"
        ) from error
    return module.eval()
