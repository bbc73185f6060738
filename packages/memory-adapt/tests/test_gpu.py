"""CL+LSTM's training step on a CUDA card."""

import pytest
import torch
from torch import Tensor

from memory_adapt.config import CLLSTMConfig
from memory_adapt.models.cl_lstm import CLLSTM
from priors_shared.testing import assert_same_step


@pytest.mark.gpu
@pytest.mark.parametrize("segment", [None, 3])
def test_training_step_is_the_cpus(cuda: torch.device, segment: int | None) -> None:
    torch.manual_seed(0)
    model = CLLSTM(CLLSTMConfig(width=8, hidden=32, image_size=28))
    model.checkpoint_steps = segment
    images, labels = torch.rand(8, 3, 1, 28, 28), torch.randint(5, (8, 3))
    feedback = torch.cat([torch.full_like(labels[:1], -1), labels[:-1]])

    def loss(module: CLLSTM, device: torch.device) -> Tensor:
        return module.episode_loss(images.to(device), labels.to(device), feedback.to(device))[0]

    assert_same_step(model, cuda, loss)
