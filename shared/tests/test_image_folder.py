"""A user's own images: whatever lies in the folder, the good ones load and the rest is named."""

import itertools
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from priors_shared.datasets.image_folder import SPLIT_BOUNDS, classes_needed, load_image_folder
from priors_shared.errors import UserError


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return path


def grey(path, **options):
    return load_image_folder(path, **{"image_size": 8, "channels": 1, **options})


def test_classes_and_files_come_in_sorted_order(tmp_path):
    for name in ("b", "a", "C"):
        for level in (2, 10, 1):
            save(tmp_path / name / f"{level:02d}.png", np.full((8, 8), level))
    dataset = grey(tmp_path)
    assert dataset.class_names == ("C", "a", "b")
    assert dataset.images[:, 0, 0, 0].tolist() == [1, 2, 10] * 3
    assert dataset.targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert dataset.skipped == ()


def test_bad_files_are_recorded_and_the_rest_loads(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(20, 20))
    good = save(tmp_path / "a" / "good.png", noise)
    (tmp_path / "a" / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "a" / "empty.jpg").write_bytes(b"")
    (tmp_path / "a" / "text.png").write_text("no image")
    (tmp_path / "a" / "notes.txt").write_text("notes")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"hidden files are nobody's images")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "nothing").mkdir()
    dataset = grey(tmp_path)
    assert len(dataset) == 1
    assert dataset.class_names == ("a",)
    assert all(reason for _, reason in dataset.skipped)
    assert {path.rsplit("/", 1)[-1] for path, _ in dataset.skipped} == {
        "cut.png", "empty.jpg", "text.png", "notes.txt", "nothing",
    }  # fmt: skip


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_skipped(tmp_path, side):
    save(tmp_path / "a" / "good.png", np.zeros((8, 8)))
    (tmp_path / "a" / "bomb.png").write_bytes(png_header(side, side))
    dataset = grey(tmp_path)
    assert len(dataset) == 1
    assert "too large" in dataset.skipped[0][1]


def test_aspect_is_kept_and_the_rest_padded_with_the_border(tmp_path):
    wide = np.full((10, 40), 200)
    wide[3:7, 16:24] = 0
    save(tmp_path / "a" / "wide.png", wide)
    image = grey(tmp_path, image_size=40).images[0, 0].numpy()
    assert np.array_equal(image[15:25], wide)
    assert (np.delete(image, np.s_[15:25], axis=0) == 200).all()


def test_images_are_area_averaged(tmp_path):
    checkers = np.indices((16, 16)).sum(0) % 2 * 255
    save(tmp_path / "a" / "x.png", checkers)
    assert ((grey(tmp_path).images.int() - 127).abs() <= 1).all()


def test_channels_are_converted_as_asked(tmp_path):
    save(tmp_path / "a" / "red.png", np.full((8, 8, 3), (255, 0, 0)))
    save(tmp_path / "a" / "grey.png", np.full((8, 8), 90))
    assert grey(tmp_path).images[:, 0, 0, 0].tolist() == [90, 76]  # luma of red: 0.299 * 255
    colour = grey(tmp_path, channels=3)
    assert colour.images[:, :, 0, 0].tolist() == [[90, 90, 90], [255, 0, 0]]


def test_transparency_lies_on_white_and_16_bits_are_reduced(tmp_path):
    clear = np.zeros((8, 8, 4))
    clear[4:, :, 3] = 255  # lower half: opaque black; upper half: transparent black
    save(tmp_path / "a" / "clear.png", clear)
    deep = np.full((8, 8), 0x8000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "a" / "deep.png")
    images = grey(tmp_path).images[:, 0]
    assert (images[0, :4] == 255).all()
    assert (images[0, 4:] == 0).all()
    assert (images[1] == 128).all()


def test_exif_orientation_is_applied(tmp_path):
    top_dark = np.full((8, 8), 255, np.uint8)
    top_dark[:4] = 0
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    Image.fromarray(top_dark).save(tmp_path / "a" / "x.png", exif=exif)
    image = grey(tmp_path).images[0, 0]
    assert (image[:4] == 255).all()
    assert (image[4:] == 0).all()


def test_invert_auto_turns_dark_ink_on_light_paper_and_nothing_else(tmp_path):
    ink = np.full((8, 8), 255)
    ink[2:6, 2:6] = 0
    save(tmp_path / "paper" / "a" / "x.png", ink)
    save(tmp_path / "board" / "a" / "x.png", 255 - ink)
    paper, board = (grey(tmp_path / kind, invert="auto").images for kind in ("paper", "board"))
    assert torch.equal(paper, board)
    assert paper[0, 0, 0, 0] == 0
    assert torch.equal(grey(tmp_path / "board", invert=True).images, 255 - board)
    assert torch.equal(grey(tmp_path / "paper", invert=False).images, 255 - paper)
    colour = grey(tmp_path / "paper", channels=3, invert="auto").images
    assert (colour[0, :, 0, 0] == 255).all()


def test_splits_by_hash_are_disjoint_complete_and_of_the_stated_size(tmp_path):
    for number in range(25):
        save(tmp_path / f"class{number}" / "x.png", np.zeros((8, 8)))
    names = [set(grey(tmp_path, split=split).class_names) for split in ("train", "val", "test")]
    assert [len(found) for found in names] == [16, 4, 5]
    assert set.union(*names) == set(grey(tmp_path).class_names)


def test_folders_named_as_splits_are_splits(tmp_path):
    for name in ("train/a", "train/b", "test/c"):
        save(tmp_path / name / "x.png", np.zeros((8, 8)))
    assert grey(tmp_path, split="train").class_names == ("a", "b")
    assert grey(tmp_path, split="test").class_names == ("c",)
    assert grey(tmp_path).class_names == ("a", "b", "c")
    with pytest.raises(UserError, match="no folder val"):
        grey(tmp_path, split="val")
    save(tmp_path / "test" / "a" / "x.png", np.zeros((8, 8)))
    with pytest.raises(UserError, match=r"class 'a' .* both"):
        grey(tmp_path, split="train")


def test_what_cannot_load_says_why_and_what_to_do(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        grey(tmp_path / "absent")
    file = save(tmp_path / "flat" / "x.png", np.zeros((8, 8)))
    with pytest.raises(UserError, match="is a file"):
        grey(file)
    with pytest.raises(UserError, match="no subfolders: put"):
        grey(tmp_path / "flat")
    save(tmp_path / "broken" / "fine" / "x.png", np.zeros((8, 8)))
    (tmp_path / "broken" / "lost").mkdir()
    (tmp_path / "broken" / "lost" / "x.png").write_text("no image")
    with pytest.raises(UserError, match=r"class folder .*lost has no readable image \(.*x\.png"):
        grey(tmp_path / "broken")
    (tmp_path / "bare" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="no images under"):
        grey(tmp_path / "bare")
    with pytest.raises(UserError, match="2 classes, too few for a test split"):
        grey(tmp_path / "broken", split="test")
    for options in ({"channels": 2}, {"image_size": 0}):
        with pytest.raises(UserError, match=next(iter(options))):
            grey(tmp_path / "broken", **options)


@pytest.mark.parametrize("each", [1, 5, 10])
def test_so_many_classes_or_more_fill_every_split(each):
    def fewest(classes):
        bounds = [round(share * classes) for share in SPLIT_BOUNDS]
        return min(b - a for a, b in itertools.pairwise(bounds))

    needed = classes_needed(each)
    assert fewest(needed - 1) < each
    assert all(fewest(n) >= each for n in range(needed, needed + 100))
