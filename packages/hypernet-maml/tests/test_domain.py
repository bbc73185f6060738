"""Domain generalisation: what is trained on, what is chosen by, what a killed run comes back as."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hypernet_maml.adaptation.rsc import Challenge
from hypernet_maml.cli import main
from hypernet_maml.config import Domain, DomainConfig, LaunchConfig, NetworkConfig
from hypernet_maml.data.augment import crop_and_grey
from hypernet_maml.data.sources import InMemory, domain_sets
from hypernet_maml.models.hyperconv import is_hyper_parameter, output_l2
from hypernet_maml.models.networks import Classifier, build_network
from hypernet_maml.presets import DOMAIN
from hypernet_maml.pretrained import load_network
from hypernet_maml.training import domain
from hypernet_maml.training.domain import DomainObjective, train_domains
from hypernet_maml.training.supervised import build_optimizer, learning_rate
from priors_shared.checkpoints import save_weights
from priors_shared.datasets import ImageDataset
from priors_shared.datasets.pacs import CLASSES, DOMAINS
from priors_shared.errors import UserError
from priors_shared.runs import Run, read_metrics
from priors_shared.testing import killed_at_checkpoint

SIDE = 16
NET = NetworkConfig(kind="resnet18", width=2, image_size=SIDE)
QUIET = LaunchConfig(accelerator="cpu", quiet=True)
PER_CLASS = {"train": 4, "crossval": 2, "all": 6}


def made_domain(name: str, split: str) -> ImageDataset:
    """Each class is a square at its own place; a domain has its own colours; no two images are equal."""
    assert name.startswith("pacs-")
    style = DOMAINS.index(name.removeprefix("pacs-"))  # type: ignore[arg-type]
    count = PER_CLASS[split] * len(CLASSES)
    generator = torch.Generator().manual_seed(10 * style + sorted(PER_CLASS).index(split))
    images = 80 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    targets = torch.arange(len(CLASSES)).repeat_interleave(PER_CLASS[split])
    for image, target in zip(images, targets.tolist(), strict=True):
        row, column = 5 * (target // 3), 5 * (target % 3)
        image[:, row : row + 5, column : column + 5] += 100 + 15 * style
        image[style % 3] += 40
    return ImageDataset(name, images.to(torch.uint8), targets, CLASSES, split=split)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """In place of PACS, made images; which domains and lists were asked for."""
    asked: list[tuple[str, str]] = []

    def load(name: str, split: str, *_: object, **__: object) -> ImageDataset:
        asked.append((name, split))
        return made_domain(name, split)

    monkeypatch.setattr("hypernet_maml.data.sources.load_dataset", load)
    return asked


def config(**changes: Any) -> DomainConfig:
    values: dict[str, Any] = {"network": NET, "epochs": 3, "batch_size": 20, "milestones": (2,)}
    return DomainConfig(**{**values, **changes})


def run_training(
    config: DomainConfig, out: Path, net: Classifier | None = None, *, resume: bool = False
) -> Classifier:
    with Run.create(
        out, asdict(config), command="domain", resume=resume, tensorboard=False, quiet=True
    ) as run:
        return train_domains(config, net, QUIET, run)


def identities(images: Tensor) -> list[bytes]:
    """What tells images apart, whether float in [0, 1] or uint8."""
    if images.is_floating_point():
        images = (images * 255).round().to(torch.uint8)
    return [image.contiguous().numpy().tobytes() for image in images]


# --- what is trained on ---


@pytest.mark.parametrize("held_out", DOMAINS)
def test_only_the_train_lists_of_the_other_domains_are_trained_on(
    held_out: Any, loaded: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    forward = DomainObjective.forward

    def spy(self: Any, images: Tensor, labels: Tensor, challenge: Any = None) -> Tensor:
        seen.append(images.detach().clone())
        half = len(images) // 2
        assert torch.equal(images[half:], images[:half].flip(3))  # each beside its mirror image
        assert torch.equal(labels[half:], labels[:half])
        return forward(self, images, labels, challenge)

    monkeypatch.setattr(DomainObjective, "forward", spy)
    run_training(config(held_out=held_out, epochs=1, augment=False), tmp_path / "run")
    trained = [name for images in seen for name in identities(images[: len(images) // 2])]
    others = [name for name in DOMAINS if name != held_out]
    allowed = {
        name for d in others for name in identities(made_domain(f"pacs-{d}", "train").images)
    }
    total = 3 * PER_CLASS["train"] * len(CLASSES)
    assert len(allowed) == total
    assert set(trained) <= allowed
    assert len(trained) == len(set(trained)) == total - total % 20  # whole batches, no image twice
    assert [len(images) for images in seen] == [40] * (total // 20)
    expected = [(f"pacs-{d}", part) for part in ("train", "crossval") for d in others]
    assert loaded == [*expected, (f"pacs-{held_out}", "all")]


def test_the_domains_are_pacs() -> None:
    assert get_args(Domain) == DOMAINS
    with pytest.raises(ValueError, match="unknown domain 'oil': choose photo, art_painting"):
        DomainConfig.__post_init__(_with_domain("oil"))


def _with_domain(name: str) -> DomainConfig:
    made = object.__new__(DomainConfig)
    object.__setattr__(made, "held_out", name)
    return made


def test_joined_domains_keep_images_beside_their_classes(loaded: list[tuple[str, str]]) -> None:
    train, crossval, test = domain_sets("cartoon", None, NET)
    assert train.class_names == CLASSES
    assert torch.bincount(train.targets).tolist() == [12] * 7
    assert torch.bincount(crossval.targets).tolist() == [6] * 7
    label = dict(zip(identities(train.images), train.targets.tolist(), strict=True))
    for name in ("photo", "art_painting", "sketch"):
        one = made_domain(f"pacs-{name}", "train")
        for image, target in zip(identities(one.images), one.targets.tolist(), strict=True):
            assert label[image] == target
    assert torch.equal(test.images, made_domain("pacs-cartoon", "all").images)


def test_too_few_images_for_a_batch(loaded: list[tuple[str, str]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="84 images make no batch of 85"):
        run_training(config(batch_size=85), tmp_path / "run")


# --- the loss ---


@pytest.mark.parametrize("sharing", ["none", "unshared", "stage"])
def test_the_loss_without_rsc_is_cross_entropy(sharing: Any) -> None:
    torch.manual_seed(0)
    net = build_network(replace(NET, sharing=sharing))
    images, labels = torch.rand(6, 3, SIDE, SIDE), torch.arange(6)
    objective = DomainObjective(net, 0.5)
    expected = F.cross_entropy(net(images), labels)
    penalty = 0.0 if sharing == "none" else 0.5 * output_l2(net)
    torch.testing.assert_close(objective(images, labels), expected + penalty)
    nothing_masked = objective(images, labels, Challenge(True, 0.0))
    torch.testing.assert_close(nothing_masked, expected + penalty)
    # The penalty is far larger than what the challenge changes: compare without it.
    bare = DomainObjective(net, 0.0)
    torch.testing.assert_close(bare(images, labels), expected)
    assert bare(images, labels, Challenge(True, 1.0)) > expected + 1e-4


def test_rsc_is_in_the_training_and_no_rsc_is_not(
    loaded: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Challenge] = []
    challenged = domain.challenged_logits

    def spy(net: Any, images: Any, labels: Any, challenge: Challenge) -> Tensor:
        calls.append(challenge)
        return challenged(net, images, labels, challenge)

    monkeypatch.setattr(domain, "challenged_logits", spy)
    run_training(config(rsc=False), tmp_path / "plain")
    assert not calls
    run_training(config(), tmp_path / "rsc")
    assert len(calls) == 3 * (84 // 20)
    assert {c.share for c in calls} == {0.3}
    assert {c.by_cell for c in calls} == {True, False}


def test_the_published_settings() -> None:
    published = DOMAIN["pacs_hyperresnet18"]()
    assert [learning_rate(published, e) for e in (0, 23, 24, 29)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001]
    )
    assert (published.epochs, published.batch_size) == (30, 64)
    assert (published.network.width, published.network.image_size) == (64, 222)
    for preset in DOMAIN.values():
        assert preset().network.stem == "imagenet"
        assert preset().milestones == (preset().epochs * 4 // 5,)
    net = build_network(NET)
    decays = {
        id(parameter): (group["weight_decay"], group["momentum"], group["nesterov"])
        for group in build_optimizer(net, published).param_groups
        for parameter in group["params"]
    }
    for name, parameter in net.named_parameters():
        assert decays[id(parameter)] == (0.0 if is_hyper_parameter(name) else 5e-4, 0.9, True)


# --- the run ---


def test_a_killed_run_ends_as_a_straight_one(loaded: list[tuple[str, str]], tmp_path: Path) -> None:
    straight = run_training(config(), tmp_path / "straight")
    for number in (1, 0, 1, 1):
        with killed_at_checkpoint(number):
            run_training(config(), tmp_path / "killed", resume=True)
    resumed = run_training(config(), tmp_path / "killed", resume=True)
    expected = straight.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    assert read_metrics(tmp_path / "killed") == read_metrics(tmp_path / "straight")
    assert [m["step"] for m in read_metrics(tmp_path / "killed")] == [1, 2, 3]
    results = [json.loads((tmp_path / r / "test.json").read_text()) for r in ("killed", "straight")]
    assert results[0] == results[1]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    loaded: list[tuple[str, str]], tmp_path: Path
) -> None:
    losses = []
    for i, seed in enumerate((0, 0, 1)):
        run_training(config(seed=seed, epochs=1), tmp_path / str(i))
        losses.append(read_metrics(tmp_path / str(i))[0]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_the_network_kept_is_the_best_in_crossval_and_tested_once(
    loaded: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out accuracy would choose another epoch; it is not even looked at before the end."""
    crossval = iter([0.3, 0.9, 0.9])  # of equals, the first
    snapshots: list[dict[str, Tensor]] = []
    tested: list[int] = []

    def scripted(net: Classifier, source: InMemory, _: object) -> float:
        snapshots.append({name: value.clone() for name, value in net.state_dict().items()})
        if source.dataset.split == "crossval":
            return next(crossval)
        tested.append(len(source))
        return 0.5

    monkeypatch.setattr(domain, "evaluate", scripted)
    run_training(config(), tmp_path / "run")
    assert tested == [PER_CLASS["all"] * len(CLASSES)]
    assert len(snapshots) == 4
    kept, _, trained = load_network(tmp_path / "run")
    for name, value in kept.state_dict().items():
        assert torch.equal(value, snapshots[1][name])
    assert not torch.equal(snapshots[1]["classifier.weight"], snapshots[2]["classifier.weight"])
    assert trained["held_out"] == "sketch"
    found = json.loads((tmp_path / "run" / "test.json").read_text())
    assert found == {"held_out": "sketch", "accuracy": 0.5, "images": 42, "val_accuracy": 0.9}


def test_training_learns_the_classes_of_a_domain_never_seen(
    loaded: list[tuple[str, str]], tmp_path: Path
) -> None:
    wide = replace(NET, width=4)
    quick = config(network=wide, epochs=8, learning_rate=0.1, milestones=(6,), held_out="photo")
    run_training(quick, tmp_path / "run")
    metrics = read_metrics(tmp_path / "run")
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]
    found = json.loads((tmp_path / "run" / "test.json").read_text())
    assert found["accuracy"] > 3 / 7  # chance is 1 / 7


@pytest.mark.parametrize("sharing", ["none", "unshared"])
def test_from_a_checkpoint_all_is_kept_but_the_classifier(
    sharing: Any, loaded: list[tuple[str, str]], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    shape = replace(NET, sharing=sharing, classes=11)
    pretrained = build_network(shape)
    pretrained.normalise.mean.fill_(0.4)
    still = config(network=shape, epochs=1, learning_rate=1e-30)
    net = run_training(still, tmp_path / "run", pretrained)
    parameters = dict(net.named_parameters())
    assert parameters["classifier.weight"].shape[0] == len(CLASSES)
    for name, value in pretrained.named_parameters():
        if not name.startswith("classifier."):
            torch.testing.assert_close(parameters[name], value, rtol=0, atol=1e-20, msg=name)
    assert torch.equal(net.normalise.mean, pretrained.normalise.mean)


def test_from_scratch_normalisation_is_that_of_the_training_domains(
    loaded: list[tuple[str, str]], tmp_path: Path
) -> None:
    net = run_training(config(epochs=1), tmp_path / "run")
    images = torch.cat([made_domain(f"pacs-{d}", "train").images for d in DOMAINS[:3]])
    torch.testing.assert_close(net.normalise.mean, (images / 255.0).mean((0, 2, 3)))


# --- augmentation ---


def test_crops_are_parts_of_the_image_in_its_full_size() -> None:
    """Of two ramps, a crop is two ramps: their slopes are its sides, their middles its place."""
    side, count = 41, 400
    ramp = (torch.arange(side) + 0.5) / side
    image = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])
    cropped = crop_and_grey(image.expand(count, 2, side, side), torch.Generator().manual_seed(0))
    middle = side // 2
    width = (cropped[:, 0, middle, middle + 10] - cropped[:, 0, middle, middle - 10]) * side / 20
    height = (cropped[:, 1, middle + 10, middle] - cropped[:, 1, middle - 10, middle]) * side / 20
    area, ratio = width * height, width / height
    near = 1e-4
    assert float(area.min()) >= 0.8 - near
    assert 0.99 < float(area.max()) <= 1 + near
    assert float(ratio.min()) >= 0.75 - near
    assert float(ratio.max()) <= 4 / 3 + near
    assert float(ratio.min()) < 0.9 < 1.1 < float(ratio.max())
    for sides, centre in ((width, cropped[:, 0]), (height, cropped[:, 1])):
        place = centre[:, middle, middle]
        assert bool((sides <= 1 + near).all())
        assert bool(((place - sides / 2 >= -near) & (place + sides / 2 <= 1 + near)).all())
        assert float(place.std()) > 0.01


def test_one_image_in_ten_is_grey_and_none_is_flipped() -> None:
    ramp = torch.linspace(0, 1, 8).expand(8, 8)
    image = torch.stack([ramp, 0.5 * ramp, torch.zeros(8, 8)])
    images = image.expand(2000, 3, 8, 8)
    made = crop_and_grey(images, torch.Generator().manual_seed(0))
    grey = (made.amax(1) - made.amin(1)).flatten(1).amax(1) < 1e-6
    assert 0.08 < grey.float().mean() < 0.12
    light = made[grey][:, 0] / ramp[-1, -1]
    assert float(light.amax()) <= 0.299 + 0.587 / 2 + 1e-5
    torch.testing.assert_close(made[~grey][:, 1], 0.5 * made[~grey][:, 0])
    assert bool((made[:, 0, :, -1] > made[:, 0, :, 0]).all())
    assert torch.equal(made, crop_and_grey(images, torch.Generator().manual_seed(0)))


# --- the command ---

SMALL = ["--image-size", str(SIDE), "--epochs", "2", "--batch-size", "20", "--quiet"]


def save_checkpoint(folder: Path, shape: NetworkConfig = NET) -> str:
    torch.manual_seed(0)
    net = build_network(shape)
    save_weights(folder, net, kind="hypernet-maml network", config=asdict(shape))
    return str(folder)


def test_the_command_trains_from_a_checkpoint_resumes_and_exports(
    loaded: list[tuple[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    base = save_checkpoint(tmp_path / "base", replace(NET, image_size=32, classes=5))
    argv = ["domain", "pacs_hyperresnet18_cpu", base, "--held-out", "photo", "--no-rsc", *SMALL]
    main(argv)
    out = tmp_path / "runs" / "pacs_hyperresnet18_cpu" / "photo-no-rsc-0"
    printed = capsys.readouterr().out
    found = json.loads((out / "test.json").read_text())
    assert f"photo: {100 * found['accuracy']:.1f} % of its 42 images" in printed
    assert (out / "plots" / "domain.png").is_file()
    record = json.loads((out / "config.json").read_text())
    assert (record["held_out"], record["rsc"], record["batch_size"]) == ("photo", False, 20)
    assert record["network"] == asdict(replace(NET, classes=5))  # the checkpoint's, at this size
    main([*argv, "--resume"])  # a finished run says the same again
    assert capsys.readouterr().out == printed
    main(["export", str(out), "--out", "plain"])
    assert "same logits to the bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["domain"], "domain needs a preset first: choose pacs_hyperresnet18"),
        (["domain", "pacs"], "unknown preset 'pacs'"),
        (["domain", "pacs_hyperresnet18_cpu", "--held-out", "oil"], "oil"),
        (["domain", "pacs_hyperresnet18_cpu", "--held_aut", "photo"], "--held-out"),
        (
            ["domain", "pacs_hyperresnet18_cpu", "--data-root", "nowhere"],
            "PACS not found under nowhere",
        ),
        (["domain", "pacs_hyperresnet18_cpu"], "PACS not found under PRIORS_DATA, which is not"),
        (["domain", "pacs_hyperresnet18_cpu", "missing"], "missing: neither a folder nor"),
        (["domain", "pacs_hyperresnet18_cpu", "OTHER"], "holds a cl-lstm, not a hypernet-maml"),
        (
            ["domain", "pacs_hyperresnet18_cpu", "BASE", "--width", "8"],
            "the network is the checkpoint's",
        ),
        (
            ["domain", "pacs_hyperresnet18_cpu", "--epochs", "0"],
            "--epochs must be at least 1, got 0",
        ),
        (
            ["domain", "pacs_hyperresnet18_cpu", "--checkpoint-every", "0"],
            "--checkpoint-every must be at least 1",
        ),
        (["domain", "pacs_hyperresnet18_cpu", "--compile"], "--compile: this training is not"),
        (["domain", "pacs_hyperresnet18_cpu", "--workers", "2"], "--workers"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "BASE")
    save_weights(tmp_path / "OTHER", torch.nn.Linear(2, 2), kind="cl-lstm", config={})
    before = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == before


def test_images_too_small_for_rsc_are_refused_and_leave_no_run(
    loaded: list[tuple[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["domain", "pacs_hyperresnet18_cpu", "--width", "2", *SMALL])
    assert stop.value.code == 2
    assert "the whole feature map of 1 x 1" in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.json"))
