"""Omniglot, CIFAR, the container and the registry."""

import io
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
from priors_shared.datasets.base import ImageDataset, subset_per_class, with_rotations
from priors_shared.datasets.cifar import CIFAR_FS_CLASSES, load_cifar100, load_cifar_fs
from priors_shared.datasets.cifar10 import CIFAR10, load_cifar10
from priors_shared.datasets.fc100 import (
    FC100_CLASSES,
    FC100_COARSE,
    FINE_OF_COARSE,
    load_fc100,
)
from priors_shared.datasets.omniglot import load_omniglot
from priors_shared.datasets.packed import read_mosaic, read_rgb
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


def test_a_subset_has_n_distinct_images_of_each_class_with_their_targets():
    dataset = made_dataset(classes=3, each=7)
    subset = subset_per_class(dataset, 4, torch.Generator().manual_seed(1))
    assert torch.bincount(subset.targets).tolist() == [4, 4, 4]
    assert (subset.class_names, subset.split) == (dataset.class_names, dataset.split)
    for target in range(3):
        mine = {image.tobytes() for image in subset.images[subset.items_of(target)].numpy()}
        theirs = {image.tobytes() for image in dataset.images[dataset.items_of(target)].numpy()}
        assert len(mine) == 4
        assert mine < theirs


def test_a_subset_takes_each_image_equally_often_and_the_same_for_the_same_generator():
    numbers = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    dataset = ImageDataset("made", numbers, torch.arange(10) // 5, ("a", "b"))
    generator = torch.Generator().manual_seed(0)
    drawn = [subset_per_class(dataset, 2, generator).images.ravel() for _ in range(2000)]
    taken = torch.bincount(torch.cat(drawn), minlength=10) / 2000
    assert (taken - 2 / 5).abs().max() < 5 * (2 / 5 * 3 / 5 / 2000) ** 0.5
    again = [subset_per_class(dataset, 2, torch.Generator().manual_seed(0)) for _ in range(2)]
    assert all(torch.equal(subset.images.ravel(), drawn[0]) for subset in again)


def test_a_subset_keeps_the_paths_of_its_images():
    dataset = ImageDataset(
        "made",
        torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1),
        torch.tensor([0, 1, 0, 1, 0, 1]),
        ("a", "b"),
        paths=tuple("012345"),
    )
    subset = subset_per_class(dataset, 2, torch.Generator().manual_seed(0))
    assert [int(path) for path in subset.paths] == subset.images.ravel().tolist()


def test_a_subset_of_more_images_than_a_class_has_names_the_class():
    dataset = made_dataset(classes=3, each=4)
    poor = dataset.select_items(torch.arange(len(dataset) - 2))  # a row of all classes less two
    with pytest.raises(UserError, match=r"class 'c1' of made has 3 images, fewer than the 4 per"):
        subset_per_class(poor, 4, torch.Generator())
    with pytest.raises(UserError, match="at least 1 image per class, got 0"):
        subset_per_class(poor, 0, torch.Generator())


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


def test_smaller_images_are_antialiased_and_others_left_as_they_are(tmp_path):
    fine = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # a chessboard of pixels
    Image.fromarray(fine).save(tmp_path / "fine.png")
    grey = read_rgb(tmp_path / "fine.png", 16)
    assert grey.shape == (16, 16, 3)
    assert np.abs(grey[1:-1, 1:-1].astype(int) - 127).max() <= 6
    assert np.array_equal(read_rgb(tmp_path / "fine.png", 64)[..., 0], fine)
    (tmp_path / "broken.png").write_bytes((tmp_path / "fine.png").read_bytes()[:80])
    with pytest.raises(UserError, match=r"cannot read .*broken\.png \(.*\): unpack it again"):
        read_rgb(tmp_path / "broken.png", 16, "unpack it again")


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


@pytest.mark.parametrize("split", ["train", "val", "test", "all"])
def test_fc100_has_the_images_of_its_classes_from_the_original_batches(tmp_path, split):
    write_cifar100(tmp_path)
    few, both = load_fc100(split, tmp_path), load_cifar100("all", tmp_path)
    assert (few.name, few.split) == ("fc100", split)
    assert few.class_names == (both.class_names if split == "all" else FC100_CLASSES[split])
    for target, name in enumerate(few.class_names):
        theirs = both.images[both.items_of(both.class_names.index(name))]
        assert torch.equal(few.images[few.items_of(target)], theirs)
    assert len(few) == 3 * few.classes


def test_fc100_splits_the_coarse_classes_12_4_4_and_the_fine_60_20_20():
    coarse = [name for listed in FC100_COARSE.values() for name in listed]
    fine = [name for listed in FC100_CLASSES.values() for name in listed]
    assert [len(listed) for listed in FC100_COARSE.values()] == [12, 4, 4]
    assert [len(listed) for listed in FC100_CLASSES.values()] == [60, 20, 20]
    assert sorted(coarse) == sorted(FINE_OF_COARSE)
    assert sorted(fine) == sorted(name for split in CIFAR_FS_CLASSES.values() for name in split)


def write_cifar10(root: Path) -> dict[str, np.ndarray]:
    """cifar-10-batches-py with two images of each class in each of its six batches."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    random = np.random.default_rng(0)
    pixels = {}
    for part in (*CIFAR10.train, *CIFAR10.test):
        labels = random.permutation(np.repeat(np.arange(10), 2)).tolist()
        pixels[part] = random.integers(0, 256, (20, 3072), dtype=np.uint8)
        pixels[part][:, 0] = labels  # the image knows its class
        batch = {"data": pixels[part], "labels": labels}
        (folder / part).write_bytes(pickle.dumps(batch, protocol=2))
    names = {"label_names": [f"name{label}" for label in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    return pixels


def test_original_cifar10_batches_are_read_in_order(tmp_path):
    pixels = write_cifar10(tmp_path)
    train, test, both = (load_cifar10(s, tmp_path) for s in ("train", "test", "all"))
    assert (len(train), len(test), len(both)) == (100, 20, 120)
    assert (both.name, both.class_names[7]) == ("cifar10", "name7")
    stacked = np.concatenate([pixels[part] for part in (*CIFAR10.train, *CIFAR10.test)])
    assert np.array_equal(both.images.numpy().reshape(120, -1), stacked)
    assert torch.equal(both.images[:, 0, 0, 0].long(), both.targets)
    assert torch.equal(torch.cat([train.images, test.images]), both.images)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(UserError, match=r"data_batch_3 .*: unpack cifar-10-python\.tar\.gz again"):
        load_cifar10("train", tmp_path)


def write_packed_cifar10(path: Path, *, broken: tuple[int, ...] = ()) -> None:
    """Ten classes in four mosaics each: two of training images, one of one tile, one of test images.

    Tiles are flat: red is 20 x class, green 100 for training images and 200 for test images.
    """
    jpegs, counts, labels, splits = [], [], [], []
    for is_test, sizes in ((0, (4, 3, 1)), (1, (2,))):
        for label in range(10):
            for size in sizes:
                mosaic = np.zeros((64, 64, 3), np.uint8)  # 2 x 2 tiles
                mosaic[:] = (20 * label, 100 + 100 * is_test, 0)
                buffer = io.BytesIO()
                Image.fromarray(mosaic).save(buffer, "JPEG", quality=95, subsampling=0)
                jpegs.append(b"broken" if len(jpegs) in broken else buffer.getvalue())
                counts.append(size)
                labels += [label] * size
                splits += [is_test] * size
    path.parent.mkdir(parents=True)
    np.savez(
        path,
        jpeg_bytes=np.frombuffer(b"".join(jpegs), np.uint8),
        mosaic_offset=np.cumsum([0, *map(len, jpegs)]),
        mosaic_count=counts,
        mosaic_cols=2,
        label=np.array(labels, np.uint8),
        split=np.array(splits, np.uint8),
        class_names=[f"name{label}" for label in range(10)],
    )


def test_packed_cifar10_decodes_the_mosaics_of_its_split_alone(tmp_path):
    write_packed_cifar10(tmp_path / "cifar10" / "cifar10.npz", broken=(30, 35))
    train = load_cifar10("train", tmp_path)
    assert torch.bincount(train.targets).tolist() == [8] * 10
    red, green = train.images[:, 0].float().mean((1, 2)), train.images[:, 1].float().mean((1, 2))
    assert torch.allclose(red, 20.0 * train.targets, atol=4)
    assert torch.allclose(green, torch.tensor(100.0), atol=4)
    for split in ("test", "all"):
        with pytest.raises(UserError, match="cannot read an image of the packed file"):
            load_cifar10(split, tmp_path)


def test_a_packed_file_that_is_broken_or_holds_pickles_is_named(tmp_path):
    path = tmp_path / "cifar10" / "cifar10.npz"
    write_packed_cifar10(path)
    whole = path.read_bytes()
    with np.load(path) as packed:
        arrays = dict(packed)
    for name, change in {
        "cut short": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "not a zip": lambda: path.write_bytes(b"not a zip" * 20),
        "pickled": lambda: np.savez(path, **{**arrays, "class_names": np.array([{}] * 10)}),
        "lacking": lambda: np.savez(path, **{k: v for k, v in arrays.items() if k != "label"}),
    }.items():
        change()
        with pytest.raises(
            UserError, match=r"cannot read .*cifar10\.npz .*: put a whole"
        ) as caught:
            load_cifar10("test", tmp_path)
        assert "\n" not in str(caught.value), name


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
    with pytest.raises(UserError, match=r"no place in CIFAR\): unpack cifar-100-python"):
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


@pytest.mark.reference
def test_fc100_lists_are_those_of_the_packed_file(reference_data):
    with np.load(reference_data / "cifar100" / "cifar100.npz") as packed:
        names, split_of = packed["class_names"], packed["fc100_split"]
        coarse, coarse_of = packed["coarse_names"], packed["coarse_of_fine"]
    for number, split in enumerate(("train", "val", "test")):
        assert FC100_CLASSES[split] == tuple(names[split_of == number])
    assert {name: tuple(names[coarse_of == c]) for c, name in enumerate(coarse)} == FINE_OF_COARSE
    dataset = load_fc100("val", reference_data)
    assert torch.bincount(dataset.targets).tolist() == [600] * 20
    assert dataset.class_names == FC100_CLASSES["val"]


@pytest.mark.reference
def test_packed_cifar10_has_the_published_counts_mean_and_deviation(reference_data):
    train, test = (load_cifar10(split, reference_data) for split in ("train", "test"))
    assert torch.bincount(train.targets).tolist() == [5000] * 10
    assert torch.bincount(test.targets).tolist() == [1000] * 10
    assert train.class_names[0] == "airplane"
    assert train.image_shape == (3, 32, 32)
    counts = sum(
        torch.stack([torch.bincount(part.images[:, c].ravel(), minlength=256) for c in range(3)])
        for part in (train, test)
    )
    share = counts.double() / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64)
    mean = share @ levels
    deviation = (share @ levels**2 - mean**2).sqrt()
    assert torch.allclose(mean, torch.tensor([125.41, 123.07, 114.00]).double(), atol=0.5)
    assert torch.allclose(deviation, torch.tensor([62.97, 62.08, 66.74]).double(), atol=0.5)


# What a user sees


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "glyphs"])
def test_missing_data_says_what_to_get_and_where_to_put_it(name, tmp_path):
    for root in (tmp_path, None):
        with pytest.raises(UserError, match=r"--data-root ROOT") as caught:
            load_dataset(name, "train", root)
        assert "ownload" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unknown_names_splits_and_options_are_refused_with_the_choices(tmp_path):
    with pytest.raises(UserError, match=r"omniglot, glyphs, .*, pacs-sketch, or folder:PATH"):
        load_dataset("mnist")
    for name in DATASETS:
        with pytest.raises(UserError, match=r"unknown split 'dev': choose train"):
            load_dataset(name, "dev", tmp_path)
    for name, choices in {
        "cifar100": "train, test, all",
        "cifar10": "train, test, all",
        "pacs-photo": "train, crossval, all",
    }.items():
        with pytest.raises(UserError, match=f"choose {choices}$"):
            load_dataset(name, "val", tmp_path)
    with pytest.raises(UserError, match="dataset pacs-photo has no option 'domain': it has image_"):
        load_dataset("pacs-photo", "train", tmp_path, domain="sketch")
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
