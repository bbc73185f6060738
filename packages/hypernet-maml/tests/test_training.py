"""The recipe: what decays, what is averaged, what a killed run comes back as."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hypernet_maml.config import NetworkConfig, StreamLaunchConfig, TrainConfig
from hypernet_maml.data.augment import crop_and_flip
from hypernet_maml.data.sources import (
    InMemory,
    classification_sets,
    load_images,
    split_per_class,
)
from hypernet_maml.models.hyperconv import (
    generate_once,
    hyper_layers,
    is_hyper_parameter,
    output_l2,
)
from hypernet_maml.models.layers import BatchNorm2d
from hypernet_maml.models.networks import Classifier, build_network
from hypernet_maml.pretrained import load_network
from hypernet_maml.training import supervised
from hypernet_maml.training.supervised import (
    Objective,
    build_optimizer,
    learning_rate,
    renew_statistics,
    train,
)
from priors_shared.checkpoints import load_training_state
from priors_shared.datasets import ImageDataset
from priors_shared.errors import UserError
from priors_shared.runs import Run, read_metrics
from priors_shared.testing import killed_at_checkpoint

SIDE = 16
NET = NetworkConfig(kind="conv4", width=6, channels=1, image_size=SIDE)
QUIET = StreamLaunchConfig(accelerator="cpu", quiet=True)


def stripes(classes: int = 4, images: int = 20) -> ImageDataset:
    """Each class has stripes at its own angle, in noise."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    made = []
    for c in range(classes):
        angle = torch.tensor(torch.pi * c / classes)
        wave = torch.sin((x * angle.cos() + y * angle.sin()) * 0.9) + 1
        noise = 0.5 * torch.rand(images, 1, SIDE, SIDE, generator=generator)
        made.append(((wave + noise) * 100).to(torch.uint8))
    targets = torch.arange(classes).repeat_interleave(images)
    names = tuple(f"class {c}" for c in range(classes))
    return ImageDataset("stripes", torch.cat(made), targets, names, split="train")


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypernet_maml.data.sources.load_dataset", lambda *_, **__: stripes())


def config(**changes: object) -> TrainConfig:
    values = {
        "dataset": "stripes",
        "network": NET,
        "epochs": 4,
        "batch_size": 8,
        "learning_rate": 0.05,
    }
    return TrainConfig(**{**values, "milestones": (3,), "augment": False, **changes})  # type: ignore[arg-type]


def open_run(config: TrainConfig, out: Path, *, resume: bool = False) -> Run:
    return Run.create(
        out, asdict(config), command="train", resume=resume, tensorboard=False, quiet=True
    )


def run_training(config: TrainConfig, out: Path, *, resume: bool = False) -> Classifier:
    with open_run(config, out, resume=resume) as run:
        return train(config, QUIET, run)


@pytest.mark.parametrize("sharing", ["unshared", "stage"])
def test_no_weight_decay_reaches_an_embedding_or_a_hypernetwork(sharing: str) -> None:
    torch.manual_seed(0)
    net = build_network(replace(NET, sharing=sharing))  # type: ignore[arg-type]
    optimizer = build_optimizer(net, config(weight_decay=0.1))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (not is_hyper_parameter(name) and bool(before[name].any())), name


def test_every_parameter_of_a_plain_network_decays() -> None:
    net = build_network(replace(NET, sharing="none"))
    (group,) = build_optimizer(net, config(weight_decay=0.1)).param_groups
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == len(list(net.parameters()))


def test_the_objective_adds_the_generated_weights_squares() -> None:
    torch.manual_seed(0)
    net = build_network(NET)
    images, labels = torch.rand(6, 1, SIDE, SIDE), torch.arange(6) % 4
    with_penalty, without = (Objective(net, factor)(images, labels) for factor in (0.5, 0.0))
    torch.testing.assert_close(with_penalty - without, 0.5 * output_l2(net), rtol=1e-4, atol=1e-4)
    plain = build_network(replace(NET, sharing="none"))
    objective = Objective(plain, 0.5)
    loss = nn.functional.cross_entropy(plain(images), labels)
    torch.testing.assert_close(objective(images, labels), loss)


def test_weights_are_generated_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    net = build_network(NET)
    calls: list[str] = []
    for name, layer in hyper_layers(net):
        layer.generator.register_forward_hook(lambda *_, name=name: calls.append(name))
    images, labels = torch.rand(6, 1, SIDE, SIDE), torch.arange(6) % 4
    Objective(net, 0.5)(images, labels).backward()
    assert sorted(calls) == sorted(name for name, _ in hyper_layers(net))
    with pytest.raises(RuntimeError), generate_once(net):
        raise RuntimeError  # even then the weights are let go
    assert all(layer._weights is None for _, layer in hyper_layers(net))


def test_the_published_schedule() -> None:
    paper = TrainConfig()
    rates = [learning_rate(paper, epoch) for epoch in (0, 59, 60, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 0.0008, 0.0008])
    averaged = replace(paper, epochs=300, swa_from=160)
    assert [learning_rate(averaged, e) for e in (159, 160, 299)] == pytest.approx(
        [0.004, 0.05, 0.05]
    )


@pytest.mark.parametrize("swa_from", [None, 1])
def test_a_killed_run_ends_as_a_straight_one(tmp_path: Path, swa_from: int | None) -> None:
    settings = config(swa_from=swa_from, augment=True)
    straight = run_training(settings, tmp_path / "straight")
    for number in (1, 0, 2):
        with killed_at_checkpoint(number):
            run_training(settings, tmp_path / "killed", resume=True)
    resumed = run_training(settings, tmp_path / "killed", resume=True)
    expected = straight.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "straight")
    assert [m["step"] for m in read_metrics(tmp_path / "killed")] == [1, 2, 3, 4]


def test_the_average_is_the_mean_of_the_epochs_snapshots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of embeddings and hypernetworks, not of the weights they generate."""
    snapshots: list[dict[str, Tensor]] = []
    evaluate = supervised.evaluate

    def spy(net: Classifier, *rest: object) -> float:
        snapshots.append({n: p.detach().clone() for n, p in net.named_parameters()})
        return evaluate(net, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(supervised, "evaluate", spy)
    found = run_training(config(swa_from=1), tmp_path / "run")
    averaged = snapshots[1:4]  # the last snapshot is of the average itself
    for name, parameter in found.named_parameters():
        mean = torch.stack([s[name] for s in averaged]).mean(0)
        torch.testing.assert_close(parameter.detach(), mean)
        assert not torch.equal(averaged[0][name], averaged[2][name])


def test_renewed_statistics_are_those_of_the_images() -> None:
    torch.manual_seed(0)
    net = build_network(NET)
    net.normalise.fit(stripes().images)
    for module in net.modules():
        if isinstance(module, BatchNorm2d):
            nn.init.constant_(module.running_mean, 7.0)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    first = net.get_submodule("norm1")
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    renew_statistics(net, InMemory(stripes()), 16, torch.device("cpu"))
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(first.running_mean, mean)
    assert first.momentum == 0.1
    assert len(seen) == 5


def test_normalisation_is_that_of_the_training_images() -> None:
    net = build_network(NET)
    dataset = stripes()
    net.normalise.fit(dataset.images)
    normal = net.normalise(dataset.images.float() / 255)
    assert normal.mean().abs() < 1e-5
    assert (normal.std() - 1).abs() < 1e-3


def test_training_learns_and_the_checkpoint_is_the_network(tmp_path: Path) -> None:
    net = run_training(config(epochs=8, milestones=(6,)), tmp_path / "run")
    metrics = read_metrics(tmp_path / "run")
    assert metrics[-1]["val_accuracy"] > 0.9
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    ratios = {key for key in metrics[-1] if key.startswith("ratio/")}
    assert ratios == {f"ratio/{name}" for name, _ in hyper_layers(net)}
    loaded, network, trained = load_network(tmp_path / "run")
    assert network == replace(NET, classes=4)  # outputs as the data has classes
    assert trained["seed"] == 0
    expected = net.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    images = torch.rand(3, 1, SIDE, SIDE)
    # Not to the bit: the trained network's memory is laid out with channels last.
    torch.testing.assert_close(loaded(images), net.eval()(images))


def test_the_last_gradients_make_the_ratio(tmp_path: Path) -> None:
    net = run_training(config(epochs=1), tmp_path / "run")
    (line,) = read_metrics(tmp_path / "run")
    for name, layer in hyper_layers(net):
        assert layer.embedding.grad is not None
        expected = layer.embedding.detach().norm() / layer.embedding.grad.norm()
        assert line[f"ratio/{name}"] == pytest.approx(expected.item())


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    losses = []
    for i, seed in enumerate((0, 0, 1)):
        run_training(config(seed=seed, epochs=1), tmp_path / str(i))
        losses.append(read_metrics(tmp_path / str(i))[0]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_a_checkpoint_holds_what_an_exact_resume_needs(tmp_path: Path) -> None:
    run_training(config(epochs=2, swa_from=0), tmp_path / "run")
    state = load_training_state(tmp_path / "run" / "checkpoints")
    assert state.step == 2
    assert int(state.extra_tensors["average/n_averaged"]) == 2


# --- data ---


def test_crop_and_flip_against_a_loop_over_images() -> None:
    images = torch.randint(1, 255, (50, 2, 9, 7), dtype=torch.uint8)
    moved = crop_and_flip(images, torch.Generator().manual_seed(0))
    found = set()
    for before, after in zip(images, moved, strict=True):
        padded = nn.functional.pad(before, (4, 4, 4, 4))
        matches = [
            (dy, dx, flip)
            for dy in range(9)
            for dx in range(9)
            for flip in (False, True)
            if torch.equal(
                after,
                (lambda c, f: c.flip(2) if f else c)(padded[:, dy : dy + 9, dx : dx + 7], flip),
            )
        ]
        assert len(matches) == 1
        found.add(matches[0])
    assert {flip for *_, flip in found} == {False, True}
    assert len(found) > 30
    assert torch.equal(moved, crop_and_flip(images, torch.Generator().manual_seed(0)))


def test_validation_images_are_not_trained_on_and_classes_are_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    train_set, val_set = classification_sets(
        "stripes", None, NET, per_class=10, generator=generator
    )
    assert torch.bincount(train_set.targets).tolist() == [10] * 4
    assert torch.bincount(val_set.targets).tolist() == [2] * 4
    trained = {bytes(image.numpy().tobytes()) for image in train_set.images}
    assert not any(bytes(image.numpy().tobytes()) in trained for image in val_set.images)
    with pytest.raises(
        UserError, match=r"class 'class 0' of stripes has 18 images, fewer than the 19 per class"
    ):
        classification_sets("stripes", None, NET, per_class=19, generator=generator)


def test_images_per_class_are_drawn_at_random() -> None:
    dataset = stripes()
    chosen, rest = split_per_class(dataset, 5, torch.Generator().manual_seed(0))
    assert len(chosen) == 20
    assert len(rest) == 60
    assert not torch.equal(
        chosen.images[:5], dataset.images[:5]
    )  # stored order has near-duplicates
    again, _ = split_per_class(dataset, 5, torch.Generator().manual_seed(0))
    assert torch.equal(chosen.images, again.images)


def test_images_of_another_shape_are_refused(tmp_path: Path) -> None:
    wrong = config(network=replace(NET, channels=3))
    with pytest.raises(UserError, match=r"stripes has images of 1 x 16 x 16, but .* 3 x 16 x 16"):
        run_training(wrong, tmp_path / "run")


def test_grey_and_smaller_images_can_be_fitted_to_a_network() -> None:
    network = replace(NET, channels=3, image_size=19)
    fitted = load_images("stripes", "train", None, network, adjust=True)
    plain = load_images("stripes", "train", None, NET)
    assert fitted.image_shape == (3, 19, 19)
    for channel in range(3):
        assert torch.equal(fitted.images[:, channel, 1:17, 1:17], plain.images[:, 0])
    assert int(fitted.images.sum()) == 3 * int(plain.images.sum())
    with pytest.raises(UserError, match=r"1 x 16 x 16, but the network is for 1 x 8 x 8"):
        load_images("stripes", "train", None, replace(NET, image_size=8), adjust=True)


# --- layers ---


def test_batch_norm_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    nn.init.uniform_(theirs.weight)
    nn.init.uniform_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        images = torch.randn(4, 3, 5, 5) * 3 + 1
        torch.testing.assert_close(ours(images), theirs(images))
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
    twin = copy.deepcopy(ours)
    twin.statistics = "batch"
    torch.testing.assert_close(twin(images), theirs.train()(images))
    assert torch.equal(twin.running_mean, ours.running_mean)  # type: ignore[arg-type]
