"""Checkpoints to modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from priors_shared.checkpoints import CONFIG, load_state
from priors_shared.errors import UserError, first_line

_Module = TypeVar("_Module", bound=nn.Module)


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
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        if isinstance(error, UserError):
            raise
        detail = f"{first_line(error)}); was it written by another version?"
        raise UserError(f"{source}: its {CONFIG} describes no model ({detail}") from error
    full = {name: v.float() if v.is_floating_point() else v for name, v in weights.items()}
    load_state(module, full, str(source), assign=True)
    return module.eval()
