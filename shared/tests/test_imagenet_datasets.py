"""Tiny-ImageNet and MiniImageNet: splits by class that agree, from the packed file or from folders."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from priors_shared.datasets import load_dataset
from priors_shared.datasets.miniimagenet import MINI_IMAGENET_CLASSES, load_miniimagenet
from priors_shared.datasets.tiny_imagenet import SPLIT_SIZES, load_tiny_imagenet, split_wnids
from priors_shared.errors import UserError

SPLITS = ("train", "val", "test")
# 25 classes of MiniImageNet, as in Tiny-ImageNet, and 175 that are nobody's.
IN_BOTH = {
    "train": MINI_IMAGENET_CLASSES["train"][:14],
    "val": MINI_IMAGENET_CLASSES["val"][:6],
    "test": MINI_IMAGENET_CLASSES["test"][:5],
}
WNIDS = sorted(
    [*(w for listed in IN_BOTH.values() for w in listed), *(f"n9{k:07d}" for k in range(175))]
)


def colour(place: int, part: int) -> tuple[int, int, int]:
    """Flat, and its own for each class; blue tells val from train."""
    return (place % 15) * 17, place // 15 * 17, 200 * part


def as_jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def write_packed(root: Path, *, broken: tuple[str, ...] = (), wnids: list[str] = WNIDS) -> Path:
    """One mosaic a class: two train tiles and one val tile, two tiles wide."""
    jpegs = []
    for place, wnid in enumerate(wnids):
        mosaic = np.zeros((32, 32, 3), np.uint8)
        mosaic[:16] = colour(place, 0)
        mosaic[16:, :16] = colour(place, 1)
        jpegs.append(b"broken" if wnid in broken else as_jpeg(mosaic))
    path = root / "tiny_imagenet" / "tiny_imagenet_64.npz"
    path.parent.mkdir()
    np.savez(
        path,
        jpeg_bytes=np.frombuffer(b"".join(jpegs), np.uint8),
        mosaic_offset=np.cumsum([0, *map(len, jpegs)]),
        mosaic_count=[3] * len(wnids),
        mosaic_cols=2,
        label=np.repeat(np.arange(len(wnids), dtype=np.uint8), 3),
        wnid=wnids,
        class_words=[f"word {wnid}, synonym" for wnid in wnids],
    )
    return path


def write_folders(root: Path) -> Path:
    """tiny-imagenet-200 as unpacked, with two train images and one val image a class."""
    folder = root / "tiny-imagenet-200"
    annotations = []
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    for place, wnid in enumerate(WNIDS):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        for number in range(2):
            flat = np.full((16, 16, 3), colour(place, 0), np.uint8)
            (images / f"{wnid}_{number}.JPEG").write_bytes(as_jpeg(flat))
        name = f"val_{199 - place}.JPEG"
        flat = np.full((16, 16, 3), colour(place, 1), np.uint8)
        (folder / "val" / "images" / name).write_bytes(as_jpeg(flat))
        annotations.append(f"{name}\t{wnid}\t0\t32\t44\t62")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(reversed(annotations)) + "\n")
    words = [f"{wnid}\tword {wnid}, synonym" for wnid in (*WNIDS, "n00001740")]
    (folder / "words.txt").write_text("\n".join(words) + "\n")
    return folder


# Which class is where


def test_our_split_is_128_32_40_whole_and_keeps_miniimagenet_on_its_sides():
    splits = split_wnids(WNIDS)
    assert {split: len(wnids) for split, wnids in splits.items()} == SPLIT_SIZES
    assert sorted(wnid for wnids in splits.values() for wnid in wnids) == WNIDS
    for split in SPLITS:
        assert set(IN_BOTH[split]) <= set(splits[split])


def test_our_split_depends_on_the_wnids_alone():
    splits = split_wnids(WNIDS)
    assert split_wnids(WNIDS[::-1]) == splits
    others = [wnid for wnid in splits["train"] if wnid.startswith("n9")]
    assert others != WNIDS[-175:][: len(others)]  # the hash mixes: not the first in order
    with pytest.raises(UserError, match="199 of the 200 classes"):
        split_wnids(WNIDS[1:])


def test_miniimagenet_lists_are_64_16_20_disjoint():
    names = [wnid for listed in MINI_IMAGENET_CLASSES.values() for wnid in listed]
    assert [len(listed) for listed in MINI_IMAGENET_CLASSES.values()] == [64, 16, 20]
    assert len(set(names)) == 100
    assert all(len(wnid) == 9 for wnid in names)


# Tiny-ImageNet


@pytest.mark.parametrize("write", [write_packed, write_folders])
@pytest.mark.parametrize("split", ["val", "all"])
def test_each_image_of_a_split_comes_with_its_class(tmp_path, write, split):
    write(tmp_path)
    dataset = load_tiny_imagenet(split, tmp_path, image_size=16)
    wnids = WNIDS if split == "all" else split_wnids(WNIDS)[split]
    assert dataset.class_names == tuple(f"{wnid} word {wnid}" for wnid in wnids)
    assert torch.bincount(dataset.targets).tolist() == [3] * len(wnids)
    assert dataset.image_shape == (3, 16, 16)
    for target, wnid in enumerate(wnids):
        found = dataset.images[dataset.items_of(target)].float().mean((2, 3))
        expected = [colour(WNIDS.index(wnid), part) for part in (0, 0, 1)]  # train, then val
        assert torch.allclose(found, torch.tensor(expected).float(), atol=4)


def test_files_of_the_original_folder_are_named(tmp_path):
    write_folders(tmp_path)
    dataset = load_tiny_imagenet("test", tmp_path)
    assert dataset.image_shape == (3, 64, 64)
    for target, wnid in enumerate(split_wnids(WNIDS)["test"]):
        first, _, last = (Path(dataset.paths[i]) for i in dataset.items_of(target).tolist())
        assert first.name == f"{wnid}_0.JPEG"
        assert last.name == f"val_{199 - WNIDS.index(wnid)}.JPEG"


def test_only_the_mosaics_of_the_split_are_decoded(tmp_path):
    splits = split_wnids(WNIDS)
    write_packed(tmp_path, broken=(*splits["train"], *splits["val"]))
    assert len(load_tiny_imagenet("test", tmp_path, image_size=16)) == 3 * 40
    with pytest.raises(UserError, match="cannot read"):
        load_tiny_imagenet("val", tmp_path, image_size=16)


@pytest.mark.parametrize("side", [8, 16, 21])
def test_image_size_is_an_option_of_the_registry(tmp_path, side):
    write_packed(tmp_path)
    dataset = load_dataset("tiny-imagenet", "val", tmp_path, image_size=side)
    assert dataset.image_shape == (3, side, side)
    with pytest.raises(UserError, match="image_size must be at least 1 pixel, got 0"):
        load_dataset("tiny-imagenet", "val", tmp_path, image_size=0)


def test_an_incomplete_tiny_imagenet_is_named_with_the_mend(tmp_path):
    folder = write_folders(tmp_path)
    wnid = split_wnids(WNIDS)["val"][3]
    image = folder / "train" / wnid / "images" / f"{wnid}_1.JPEG"
    image.write_bytes(b"no image")
    load_tiny_imagenet("test", tmp_path)
    mend = r"unpack tiny-imagenet-200\.zip again"
    with pytest.raises(UserError, match=rf"cannot read .*{wnid}_1\.JPEG .*: {mend}"):
        load_tiny_imagenet("val", tmp_path)
    for left in image.parent.iterdir():
        left.unlink()
    with pytest.raises(UserError, match=rf"{wnid}/images holds no image: {mend}"):
        load_tiny_imagenet("val", tmp_path)
    (folder / "val" / "val_annotations.txt").write_text("one column\n")
    with pytest.raises(UserError, match=rf"cannot read .*val_annotations\.txt .*: {mend}"):
        load_tiny_imagenet("test", tmp_path)
    (folder / "train" / wnid).rename(folder / wnid)
    with pytest.raises(UserError, match=rf"199 of the 200 classes .* found: {mend}"):
        load_tiny_imagenet("test", tmp_path)


def test_a_packed_file_of_other_classes_is_refused(tmp_path):
    write_packed(tmp_path, wnids=WNIDS[:10])
    with pytest.raises(UserError, match="10 of the 200 classes"):
        load_tiny_imagenet("all", tmp_path)


@pytest.mark.reference
def test_packed_tiny_imagenet_agrees_with_its_lists_and_counts(reference_data):
    with np.load(reference_data / "tiny_imagenet" / "tiny_imagenet_64.npz") as packed:
        side_of = dict(zip(packed["wnid"].tolist(), packed["mini_imagenet_split"], strict=True))
    whole = load_tiny_imagenet("all", reference_data)
    assert torch.bincount(whole.targets).tolist() == [80] * 200
    assert whole.class_names[0] == "n01443537 goldfish"
    seen: set[str] = set()
    mini = []
    for number, (split, classes) in enumerate(SPLIT_SIZES.items()):
        dataset = load_tiny_imagenet(split, reference_data)
        wnids = {name.partition(" ")[0] for name in dataset.class_names}
        assert len(wnids) == classes
        assert torch.bincount(dataset.targets).tolist() == [80] * classes
        assert dataset.image_shape == (3, 64, 64)
        assert {int(side_of[wnid]) for wnid in wnids} == {number, 255}
        mini.append(sum(side_of[wnid] == number for wnid in wnids))
        assert not wnids & seen
        seen |= wnids
        mine = dataset.images[dataset.items_of(2)]
        theirs = whole.images[whole.items_of(whole.class_names.index(dataset.class_names[2]))]
        assert torch.equal(mine, theirs)
    assert mini == [14, 6, 5]


@pytest.mark.reference
def test_tiny_imagenet_at_32_pixels_is_nearer_an_average_than_a_thinning(reference_data):
    images = load_tiny_imagenet("val", reference_data).images.float()
    small = load_tiny_imagenet("val", reference_data, image_size=32).images.float()
    average = torch.nn.functional.avg_pool2d(images, 2)
    thinned = images[..., ::2, ::2]
    assert (small - average).abs().mean() < 0.5 * (thinned - average).abs().mean()


@pytest.mark.reference
def test_miniimagenet_lists_are_the_published_ones(reference_data):
    import json

    path = reference_data / "tiny_imagenet" / "mini_imagenet_ravi_wnids.json"
    published = json.loads(path.read_text())
    assert {split: tuple(published[split]) for split in SPLITS} == MINI_IMAGENET_CLASSES


# MiniImageNet


def write_miniimagenet(root: Path, classes: dict[str, list[str]]) -> Path:
    folder = root / "miniimagenet"
    for split, names in classes.items():
        for place, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            for number in range(2):
                flat = np.full((20, 20, 3), (30 * place, 100, 50 * number), np.uint8)
                (folder / split / name / f"{number}.jpg").write_bytes(as_jpeg(flat))
    return folder


MADE = {split: list(MINI_IMAGENET_CLASSES[split][:2]) for split in SPLITS}


def test_miniimagenet_folders_are_read_by_split(tmp_path):
    folder = write_miniimagenet(tmp_path, {**MADE, "train": [*MADE["train"], "my own class"]})
    (folder / "val" / MADE["val"][0] / "broken.jpg").write_bytes(b"no image")
    for split in SPLITS:
        dataset = load_miniimagenet(split, tmp_path)
        assert dataset.class_names == tuple(sorted(p.name for p in (folder / split).iterdir()))
        assert dataset.image_shape == (3, 84, 84)
        assert torch.bincount(dataset.targets).tolist() == [2] * dataset.classes
        assert len(dataset.skipped) == (split == "val")
    whole = load_dataset("miniimagenet", "all", tmp_path, image_size=32)
    assert (whole.name, whole.classes, whole.image_shape) == ("miniimagenet", 7, (3, 32, 32))


def test_a_class_on_the_wrong_side_of_the_published_lists_is_refused(tmp_path):
    stray = MINI_IMAGENET_CLASSES["test"][7]
    write_miniimagenet(tmp_path, {**MADE, "train": [*MADE["train"], stray]})
    for split in ("train", "test", "all"):
        with pytest.raises(UserError, match=rf"train/{stray} is a test class .*: move it to test"):
            load_miniimagenet(split, tmp_path)


@pytest.mark.parametrize(
    "made",
    [{"train": ["a"], "val": ["b"]}, {**MADE, "images": ["a"]}, {split: [] for split in SPLITS}],
)
def test_another_layout_of_miniimagenet_is_not_guessed_at(tmp_path, made):
    (tmp_path / "miniimagenet").mkdir()
    for split in made:
        (tmp_path / "miniimagenet" / split).mkdir()
    write_miniimagenet(tmp_path, made)
    with pytest.raises(UserError, match="must hold train, val and test, each with one folder"):
        load_miniimagenet("train", tmp_path)
