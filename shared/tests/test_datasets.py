"""Omniglot, CIFAR, the container and the registry."""

import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from priors_shared.datasets import DATASETS, load_dataset, omniglot
from priors_shared.datasets.base import ImageDataset, with_rotations
from priors_shared.datasets.cifar import (
    CIFAR_FS_CLASSES,
    load_cifar100,
    load_cifar_fs,
    read_mosaic,
)
from priors_shared.datasets.omniglot import load_omniglot
from priors_shared.errors import UserError


def made_dataset(classes: int = 3, each: int = 4, side: int = 6) -> ImageDataset:
    images = torch.randint(
        0, 256, (classes * each, 1, side, side), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)
    targets = torch.arange(classes).repeat(each)
    return ImageDataset("made", images, targets, tuple(f"c{c}" for c in range(classes)))


# The container


def test_items_of_a_class_carry_its_target_and_cover_the_dataset():
    dataset = made_dataset()
    items = [dataset.items_of(c) for c in range(dataset.classes)]
    for c, index in enumerate(items):
        assert (dataset.targets[index] == c).all()
    assert sorted(torch.cat(items).tolist()) == list(range(len(dataset)))


def test_select_classes_renumbers_in_the_order_given():
    dataset = made_dataset()
    chosen = dataset.select_classes([2, 0])
    assert chosen.class_names == ("c2", "c0")
    for new, old in enumerate([2, 0]):
        assert torch.equal(
            chosen.images[chosen.items_of(new)], dataset.images[dataset.items_of(old)]
        )


@pytest.mark.parametrize("targets", [[0, 1, 2], [0, 1, -1]])
def test_targets_without_a_class_name_are_refused(targets):
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"targets must lie in 0 \.\. 1"):
        ImageDataset("bad", images, torch.tensor(targets), ("a", "b"))


def test_rotations_turn_the_images_and_become_classes():
    dataset = made_dataset()
    turned = with_rotations(dataset)
    assert turned.classes == 4 * dataset.classes == len(set(turned.class_names))
    for r in range(4):
        for c in range(dataset.classes):
            expected = np.rot90(dataset.images[dataset.items_of(c)].numpy(), r, axes=(2, 3))
            new = turned.items_of(r * dataset.classes + c)
            assert np.array_equal(turned.images[new].numpy(), expected)
            assert turned.class_names[r * dataset.classes + c] == f"c{c}@{90 * r}"


# Omniglot


def write_omniglot(root: Path, split: str) -> dict[str, np.ndarray]:
    """The folder torchvision leaves behind, with noise for drawings."""
    random = np.random.default_rng(0)
    ink_of = {}
    for part, alphabet, number in omniglot._characters(split):
        folder = root / "omniglot-py" / f"images_{part}" / alphabet / f"character{number:02d}"
        folder.mkdir(parents=True)
        ink = random.random((20, 105, 105)) < 0.1
        for drawer in range(20):
            Image.fromarray(~ink[drawer]).save(folder / f"0001_{drawer + 1:02d}.png")
        ink_of[f"{alphabet}/{number:02d}"] = ink
    return ink_of


def test_original_omniglot_folders_are_read_area_averaged_with_light_ink(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "_characters", lambda split: CHARACTERS[split])
    ink_of = write_omniglot(tmp_path, "val")
    dataset = load_omniglot("val", tmp_path, rotations=False)
    assert dataset.class_names == tuple(ink_of)
    for target, ink in enumerate(ink_of.values()):
        image = dataset.images[dataset.items_of(target)].float() / 255
        # 28 pixels of 3.75 each: the total ink is kept by an area average, within rounding.
        assert torch.allclose(
            image.mean((1, 2, 3)), torch.tensor(ink.mean((1, 2))).float(), atol=2e-3
        )


CHARACTERS = {"val": [("background", "Korean", 1), ("evaluation", "Tengwar", 2)]}


def test_an_incomplete_omniglot_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "_characters", lambda split: CHARACTERS[split])
    write_omniglot(tmp_path, "val")
    lost = tmp_path / "omniglot-py" / "images_evaluation" / "Tengwar" / "character02"
    (lost / "0001_05.png").unlink()
    with pytest.raises(UserError, match=r"character02 holds 19 of its 20"):
        load_omniglot("val", tmp_path)
    (lost / "0001_05.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(UserError, match=r"0001_05\.png"):
        load_omniglot("val", tmp_path)


def test_the_list_of_characters_has_the_published_counts():
    lists = {split: omniglot._characters(split) for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in lists.items()} == {
        "train": 1028, "val": 172, "test": 423,
    }  # fmt: skip
    everything = [character for found in lists.values() for character in found]
    assert len(set(everything)) == 1623
    assert Counter(part for part, _, _ in everything) == {"background": 964, "evaluation": 659}


@pytest.mark.reference
def test_packed_omniglot_agrees_with_the_list_and_counts(reference_data):
    for split, count in {"train": 1028, "val": 172, "test": 423, "all": 1623}.items():
        dataset = load_omniglot(split, reference_data, rotations=False)
        assert dataset.classes == count
        assert len(dataset) == 20 * count
        names = [f"{alphabet}/{n:02d}" for _, alphabet, n in omniglot._characters(split)]
        assert list(dataset.class_names) == names


@pytest.mark.reference
def test_packed_omniglot_rows_are_the_105_pixel_drawings(reference_data, tmp_path):
    """Spot checks against the lossless originals, through the folder loader's reduction."""
    dataset = load_omniglot("all", reference_data, rotations=False)
    with np.load(reference_data / "omniglot" / "omniglot_105_bits.npz") as packed:
        bits = packed["ink_bits"]
    for row, name in {964: "Angelic/01", 1275: "Malayalam/05", 1568: "Tibetan/14"}.items():
        assert dataset.class_names[row] == name
        ink = np.unpackbits(bits[row, 3], count=105 * 105).reshape(105, 105)
        file = tmp_path / f"{row}.png"
        Image.fromarray(ink == 0).save(file)
        stored = dataset.images[dataset.items_of(row)[3], 0].numpy()
        assert np.abs(omniglot._read_drawing(file).astype(int) - stored).max() <= 1


@pytest.mark.reference
def test_omniglot_splits_share_no_class_and_no_picture_in_any_turn(reference_data):
    seen_names: set[str] = set()
    seen_pictures: set[bytes] = set()
    for split in ("train", "val", "test"):
        dataset = load_omniglot(split, reference_data)
        names = {name.partition("@")[0] for name in dataset.class_names}
        pictures = {image.tobytes() for image in dataset.images.numpy()}
        assert dataset.classes == 4 * len(names)
        assert not names & seen_names
        assert not pictures & seen_pictures
        seen_names |= names
        seen_pictures |= pictures


# CIFAR


def test_mosaic_tiles_come_back_in_order(tmp_path):
    tiles = np.repeat(np.arange(5, dtype=np.uint8) * 50, 8 * 8 * 3).reshape(5, 8, 8, 3)
    padded = np.concatenate([tiles, np.zeros((1, 8, 8, 3), np.uint8)])
    mosaic = padded.reshape(2, 3, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(16, 24, 3)
    Image.fromarray(mosaic).save(tmp_path / "m.png")
    assert np.array_equal(read_mosaic((tmp_path / "m.png").read_bytes(), 3, 5), tiles)


def write_cifar100(root: Path) -> dict[str, np.ndarray]:
    """cifar-100-python with every class name, two training and one test image each."""
    folder = root / "cifar-100-python"
    folder.mkdir()
    names = sorted(name for split in CIFAR_FS_CLASSES.values() for name in split)
    random = np.random.default_rng(0)
    pixels = {}
    for part, each in {"train": 2, "test": 1}.items():
        labels = random.permutation(np.repeat(np.arange(100), each)).tolist()
        pixels[part] = random.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        batch = {"data": pixels[part], "fine_labels": labels}
        (folder / part).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, protocol=2))
    return pixels


def test_original_cifar_batches_are_read(tmp_path):
    pixels = write_cifar100(tmp_path)
    train, test, both = (load_cifar100(s, tmp_path) for s in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (200, 100, 300)
    assert np.array_equal(train.images.numpy().reshape(200, -1), pixels["train"])
    few = load_cifar_fs("val", tmp_path)
    assert few.class_names == CIFAR_FS_CLASSES["val"]
    for name in few.class_names:
        mine = few.images[few.items_of(few.class_names.index(name))]
        theirs = both.images[both.items_of(both.class_names.index(name))]
        assert torch.equal(mine, theirs)
        assert len(mine) == 3


def test_a_class_that_is_not_there_is_named(tmp_path):
    write_cifar100(tmp_path)
    with pytest.raises(UserError, match="no class 'unicorn': it has apple"):
        load_cifar100("test", tmp_path, classes=["apple", "unicorn"])


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    write_cifar100(tmp_path)

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    (tmp_path / "cifar-100-python" / "test").write_bytes(pickle.dumps({"data": Evil()}))
    with pytest.raises(UserError, match="no place in CIFAR-100"):
        load_cifar100("test", tmp_path)
    assert not (tmp_path / "touched").exists()


def test_cifar_fs_lists_are_64_16_20_disjoint():
    names = [name for split in CIFAR_FS_CLASSES.values() for name in split]
    assert [len(split) for split in CIFAR_FS_CLASSES.values()] == [64, 16, 20]
    assert len(set(names)) == 100


@pytest.mark.reference
def test_packed_cifar_agrees_with_the_lists_and_counts(reference_data):
    with np.load(reference_data / "cifar100" / "cifar100.npz") as packed:
        names, split_of = packed["class_names"], packed["cifar_fs_split"]
    sums = torch.zeros(3, dtype=torch.float64)
    for number, (split, listed) in enumerate(CIFAR_FS_CLASSES.items()):
        assert listed == tuple(names[split_of == number])
        dataset = load_cifar_fs(split, reference_data)
        assert dataset.image_shape == (3, 32, 32)
        assert torch.bincount(dataset.targets).tolist() == [600] * len(listed)
        sums += dataset.images.sum((0, 2, 3)).double()
    mean = sums / (60_000 * 32 * 32)
    assert torch.allclose(mean, torch.tensor([129.35, 124.10, 112.44]).double(), atol=0.5)
    tested = load_cifar100("test", reference_data, classes=["worm", "apple"])
    assert torch.bincount(tested.targets).tolist() == [100, 100]
    few = load_cifar_fs("test", reference_data)
    last = few.images[few.items_of(few.class_names.index("worm"))[-100:]]
    assert torch.equal(tested.images[tested.items_of(0)], last)  # train images first, then test


# What a user sees


@pytest.mark.parametrize("name", ["omniglot", "cifar-fs", "cifar100"])
def test_missing_data_says_what_to_get_and_where_to_put_it(name, tmp_path):
    for root in (tmp_path, None):
        with pytest.raises(UserError, match=r"--data-root ROOT") as caught:
            load_dataset(name, "train", root)
        assert "ownload" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unknown_names_splits_and_options_are_refused_with_the_choices(tmp_path):
    with pytest.raises(UserError, match="omniglot, glyphs, cifar-fs, cifar100, or folder:PATH"):
        load_dataset("mnist")
    for name in DATASETS:
        with pytest.raises(UserError, match=r"unknown split 'dev': choose train"):
            load_dataset(name, "dev", tmp_path)
    with pytest.raises(UserError, match="choose train, test, all"):
        load_dataset("cifar100", "val", tmp_path)
    with pytest.raises(UserError, match="has no option 'turns': it has rotations"):
        load_dataset("omniglot", "train", tmp_path, turns=True)
    with pytest.raises(UserError, match="it has none"):
        load_dataset("cifar-fs", "train", tmp_path, rotations=True)


def test_registry_loads_a_folder_as_characters(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (40, 40), 255).save(tmp_path / name / "x.png")
    dataset = load_dataset(f"folder:{tmp_path}", "all")
    assert dataset.image_shape == (1, 28, 28)
    assert dataset.images.max() == 0  # white paper became 0: ink would be 255


def test_importing_the_package_imports_no_torch():
    code = "import sys, priors_shared.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
