"""The distillation step on a CUDA card."""

import pytest
import torch
from torch import Tensor

from hyperfields.config import FieldConfig, ModelConfig
from hyperfields.hypernetwork.network import HyperNetwork
from hyperfields.training.distillation import Distillation
from priors_shared.testing import assert_same_step


@pytest.mark.gpu
def test_distillation_step_is_the_cpus(cuda: torch.device) -> None:
    torch.manual_seed(0)
    field = FieldConfig(layers=3, width=16, levels=3, log2_rows=8, finest=16, frequencies=2)
    net = HyperNetwork(ModelConfig(blocks=1, heads=2, head_dim=8, hidden=16, field=field), 24)
    prompts, rays, samples = 2, 32, 8
    inputs = (
        torch.randn(prompts, 5, 24),
        torch.ones(prompts, 5, dtype=torch.bool),
        torch.rand(prompts, rays, samples, 3) * 2 - 1,
        torch.full((prompts, rays, samples), 0.25),
        torch.rand(prompts, rays, 3),
        torch.rand(prompts, rays, 3),
    )

    def loss(module: Distillation, device: torch.device) -> Tensor:
        return module(*(part.to(device) for part in inputs))

    assert_same_step(Distillation(net), cuda, loss)
