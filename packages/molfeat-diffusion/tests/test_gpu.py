"""MiDi's training step on a CUDA card."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from molfeat_diffusion.config import LossConfig
from molfeat_diffusion.data.molecules import DenseMolecules
from molfeat_diffusion.models.diffusion import MiDi
from molfeat_diffusion.training.diffusion import Objective
from priors_shared.testing import assert_same_step


@pytest.mark.gpu
def test_training_step_is_the_cpus(
    cuda: torch.device, model: MiDi, molecules: Callable[..., DenseMolecules]
) -> None:
    batch = molecules(9, 7, 9)
    batch = batch._replace(positions=batch.positions.float())

    def loss(module: Objective, device: torch.device) -> Tensor:
        # Of a CPU's generator: the card sees the same noise.
        return module(batch.to(device), torch.Generator().manual_seed(0))[0]

    assert_same_step(Objective(model.float(), LossConfig()), cuda, loss)
