"""What the packages share, on a CUDA card."""

from pathlib import Path

import pytest
import torch
from torch import nn

from priors_shared.checkpoints import load_training_state, save_training_state
from priors_shared.datasets import ImageDataset
from priors_shared.devices import choose_device, launch, peak_memory
from priors_shared.episodes import OnlineEpisodeSampler


@pytest.mark.gpu
def test_the_card_is_what_auto_takes(cuda: torch.device) -> None:
    assert choose_device("auto").type == launch("auto").device.type == cuda.type


@pytest.mark.gpu
def test_streams_are_the_cpus(cuda: torch.device) -> None:
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)
    data = ImageDataset("made", images, torch.arange(40) // 5, tuple("abcdefgh"))
    found = {}
    for device in ("cpu", cuda.type):
        sampler = OnlineEpisodeSampler(data, ways=3, shots=4, device=device)
        streams = sampler.sample(6, torch.Generator().manual_seed(0))
        found[device] = {name: value.cpu() for name, value in vars(streams).items()}
    for name, value in found["cpu"].items():
        # Pixels are divided by 255, which the card rounds its own way.
        assert torch.allclose(value, found[cuda.type][name], rtol=0, atol=1e-6), name


@pytest.mark.gpu
def test_state_of_a_training_on_the_card_is_read_without_it(
    cuda: torch.device, tmp_path: Path
) -> None:
    model = nn.Linear(3, 2).to(cuda)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(4, 3, device=cuda)).sum().backward()
    optimizer.step()
    save_training_state(tmp_path, model=model, optimizer=optimizer, step=1)
    state = load_training_state(tmp_path)
    assert all(value.device.type == "cpu" for value in state.model_state.values())
    assert torch.equal(state.model_state["weight"], model.weight.detach().cpu())
    assert peak_memory() > 0
