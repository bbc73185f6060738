"""Images read while training: the same for any number of readers, nothing dropped silently."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from hypernet_maml.config import NetworkConfig, StreamLaunchConfig, TrainConfig
from hypernet_maml.data.sources import classification_sources
from hypernet_maml.data.streaming import StreamedImages, streamed_sources
from hypernet_maml.training.supervised import train
from priors_shared.errors import UserError
from priors_shared.runs import Run, read_metrics

pytest.importorskip("torchvision")  # the extra `imagenet`
NETWORK = NetworkConfig(kind="conv4", width=8, image_size=16, sharing="none")
COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "red": (210, 30, 40)}
PER_CLASS = 6


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of plain colours with noise, of several sizes."""
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "val"):
        for name, colour in COLOURS.items():
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for i in range(PER_CLASS):
                size = (24 + 3 * i, 30, 3)
                noise = torch.randint(-20, 21, size, generator=generator)
                pixels = (torch.tensor(colour) + noise).clamp(0, 255).to(torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return tmp_path / "data"


def sources(root: Path, workers: int = 0) -> tuple[StreamedImages, StreamedImages]:
    return streamed_sources(f"stream:{root}", None, NETWORK, workers=workers)


def everything(source: StreamedImages, path: tuple[int, ...], batch: int = 5) -> Tensor:
    order = torch.arange(len(source))
    return torch.cat([images for images, _ in source.epoch(order, batch, path=path, augment=True)])


def test_augmentation_depends_on_seed_epoch_and_image_alone(root: Path) -> None:
    alone, pair = sources(root)[0], sources(root, workers=2)[0]
    first = everything(alone, (0, 0, 0))
    assert first.shape == (18, 3, 16, 16)
    assert torch.equal(first, everything(pair, (0, 0, 0), batch=4))
    assert not torch.equal(first, everything(alone, (0, 1, 0)))
    some = torch.tensor([7, 2])
    ((images, targets),) = alone.epoch(some, 8, path=(0, 0, 0), augment=True)
    assert torch.equal(images, first[some])
    assert targets.tolist() == [1, 0]


def test_drawing_an_image_leaves_the_generator_alone(root: Path) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    everything(sources(root)[0], (0, 0, 0))
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_sees_the_middle_of_every_image_in_order(root: Path) -> None:
    _, val = sources(root)
    batches = list(val.batches(4))
    targets = torch.cat([t for _, t in batches])
    assert targets.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    means = torch.cat([images for images, _ in batches]).float().mean((2, 3))
    wanted = torch.tensor([list(c) for c in COLOURS.values()]).repeat_interleave(6, 0)
    assert (means - wanted).abs().max() < 10
    again = torch.cat([images for images, _ in val.batches(18)])
    assert torch.equal(torch.cat([images for images, _ in batches]), again)


def test_an_unreadable_file_is_reported_and_left_out(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = root / "val" / "green" / "0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with caplog.at_level(logging.WARNING):
        targets = torch.cat([t for _, t in sources(root)[1].batches(4)])
    assert torch.bincount(targets).tolist() == [6, 5, 6]
    assert str(bad) in caplog.text


def test_training_from_folders_learns_and_resumes_exactly(root: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        dataset=f"stream:{root}",
        network=replace(NETWORK, sharing="unshared"),
        epochs=4,
        batch_size=6,
        learning_rate=0.05,
        milestones=(),
    )
    where = StreamLaunchConfig(accelerator="cpu", workers=0, quiet=True)

    def run(epochs: int, name: str, *, resume: bool = False) -> None:
        with Run.create(tmp_path / name, {}, command="test", resume=resume, quiet=True) as out:
            train(replace(config, epochs=epochs), where, out)

    run(4, "straight")
    run(2, "halves")
    run(4, "halves", resume=True)
    assert read_metrics(tmp_path / "halves") == read_metrics(tmp_path / "straight")
    assert read_metrics(tmp_path / "straight")[-1]["val_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("name", "network", "said"),
    [
        ("imagenet", NETWORK, r"imagenet.train is not there"),
        ("stream:{root}/train", NETWORK, r"train.train is not there: put each class' images"),
        ("stream:{root}", replace(NETWORK, channels=1), r"colour images: set channels to 3"),
    ],
)
def test_wrong_roots_and_networks_are_one_clear_error(
    root: Path, name: str, network: NetworkConfig, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        streamed_sources(name.format(root=root), root, network, workers=0)


def test_classes_of_training_and_validation_must_agree(root: Path) -> None:
    (root / "val" / "green").rename(root / "val" / "grass")
    with pytest.raises(UserError, match=r"different classes \(grass, green\)"):
        sources(root)


def test_a_streamed_set_is_taken_as_a_whole(root: Path) -> None:
    with pytest.raises(UserError, match=r"^per_class: .* leave this option out"):
        classification_sources(
            f"stream:{root}", None, NETWORK, per_class=5, generator=torch.Generator()
        )


def test_without_a_data_root_the_message_says_where_imagenet_belongs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PRIORS_DATA", raising=False)
    with pytest.raises(UserError, match=r"ROOT/imagenet/train/CLASS"):
        streamed_sources("imagenet", None, NETWORK, workers=0)
